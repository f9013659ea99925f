//! The store's authority is made once, whole, by whoever comes first.

use std::{fs, process::Output};

use crate::home::{Home, show};

/// One round is eight processes; a hundred are run by hand with `MACHINE_TEST_ROUNDS=100`.
fn rounds() -> u32 {
    std::env::var("MACHINE_TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20)
}

#[test]
fn eight_creates_at_once_in_a_new_store_end_in_one_authority() {
    for round in 0..rounds() {
        let home = Home::new();
        let running: Vec<_> =
            (0..8).map(|number| home.create_none(&format!("m{number}")).spawn().unwrap()).collect();
        let outputs: Vec<Output> =
            running.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
        for output in &outputs {
            assert!(output.status.success(), "round {round}: {}", show(output));
        }
        let making = outputs.iter().filter(|output| show(output).contains("Creating CA")).count();
        assert_eq!(making, 1, "round {round}: one makes it, the others wait");
        home.assert_one_authority();
    }
}

#[test]
fn half_a_pair_of_the_users_is_an_error_and_stays() {
    for missing in ["ca.pem", "ca-key.pem"] {
        let home = Home::new();
        assert!(home.create_none("mc1").output().unwrap().status.success());
        let certs = home.store().join("certs");
        fs::remove_file(certs.join(missing)).unwrap();
        let said = home.refused(&["create", "-d", "none", "--url", "tcp://h:1", "mc2"]);
        assert!(said.contains("is there, but") && said.contains("Put the missing file back"), "{said}");
        assert!(!certs.join(missing).exists(), "{missing} was made anew");
    }
}

#[test]
fn an_authority_that_is_named_and_not_there_is_not_made() {
    let home = Home::new();
    let (certificate, key) = (home.path().join("corp.pem"), home.path().join("corp-key.pem"));
    let (certificate_text, key_text) = (certificate.display().to_string(), key.display().to_string());
    let named = ["--tls-ca-cert", &certificate_text, "--tls-ca-key", &key_text];
    let create = ["create", "-d", "none", "--url", "tcp://h:1", "mc1"];
    let said = home.refused(&[named.as_slice(), create.as_slice()].concat());
    assert!(said.contains("corp.pem") && said.contains("--tls-ca-cert"), "{said}");
    assert!(!certificate.exists() && !key.exists());
}

#[test]
fn what_killed_processes_left_is_swept_and_what_others_write_is_not() {
    let home = Home::new();
    assert!(home.create_none("mc1").output().unwrap().status.success());
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    let leave = |path: std::path::PathBuf, folder: bool| {
        if folder {
            fs::create_dir(&path).unwrap();
            fs::write(path.join("ca-key.pem"), "secret").unwrap();
        } else {
            fs::write(&path, "secret").unwrap();
        }
        fs::File::open(&path).unwrap().set_modified(long_ago).unwrap();
        path
    };
    let (certs, machines) = (home.store().join("certs"), home.store().join("machines"));
    let dead = [
        leave(certs.join(".tmp-dead"), false),
        leave(certs.join(".new-dead"), true),
        leave(machines.join(".new-dead"), true),
        leave(machines.join("mc1/.tmp-dead"), false),
    ];
    let living = leave(certs.join(".new-alive"), true);
    let held = fs::File::open(&living).unwrap();
    held.lock().unwrap();
    let young = certs.join(".tmp-young");
    fs::write(&young, "").unwrap();

    assert!(home.create_none("mc2").output().unwrap().status.success());
    // Whatever takes the lock of a host looks after its folder.
    home.refused(&["start", "mc1"]);
    for path in dead {
        assert!(!path.exists(), "{} was left", path.display());
    }
    assert!(living.exists() && young.exists());
}
