//! Trust is what the record says: a store that was moved, and certificates that are missing, foreign or too old, never
//! lead to plain HTTP.

use std::{fs, io::Read as _, net::TcpListener, process::Command, thread};

use serde_json::json;

use crate::home::{Home, show};

fn env(home: &Home) -> String {
    home.ok(&["env", "old"])
}

fn assert_tls(text: &str, home: &Home) {
    assert!(text.contains("export DOCKER_TLS_VERIFY=\"1\""), "{text}");
    let folder = home.host("old").display().to_string();
    assert!(text.contains(&format!("export DOCKER_CERT_PATH=\"{folder}\"")), "{text}");
}

#[test]
fn a_moved_store_works_where_it_is() {
    let home = Home::new();
    home.write_tls_host("old", "192.0.2.9", 2376);
    assert_tls(&env(&home), &home);
    let home = home.moved("else where");
    assert_tls(&env(&home), &home);
    let config = home.ok(&["config", "old"]);
    assert!(
        config.contains("--tlsverify") && config.contains("else where/machines/old/cert.pem"),
        "{config}"
    );
    let inspected = home.ok(&["inspect", "old"]);
    let stale = home.path().join("store/");
    assert!(!inspected.contains(&stale.display().to_string()), "a path into the old store:\n{inspected}");
    assert!(inspected.contains("else where/machines/old/id_rsa"), "{inspected}");
}

#[test]
fn a_record_of_ours_is_pinned_when_it_is_written_and_moves_as_well() {
    let home = Home::new();
    home.write_tls_host("old", "192.0.2.9", 2376);
    // What this program would have written in its place, with and without the field.
    let mut record: serde_json::Value = serde_json::from_str(&home.ok(&["inspect", "old"])).unwrap();
    assert_eq!(record["ConfigVersion"], 4);
    let pinned = record["Transport"]["MutualTls"]["Authority"].as_str().unwrap().to_owned();
    assert!(pinned.starts_with("sha256:"), "{record}");
    home.write_record("old", &record);
    let home = home.moved("elsewhere");
    assert_tls(&env(&home), &home);
    record.as_object_mut().unwrap().remove("Transport");
    home.write_record("old", &record);
    assert_tls(&env(&home), &home);
}

#[test]
fn a_copied_store_works_beside_the_first() {
    let home = Home::new();
    home.write_tls_host("old", "192.0.2.9", 2376);
    let copy = home.path().join("copy");
    assert!(Command::new("cp").arg("-a").args([home.store(), &copy]).status().unwrap().success());
    let copy_text = copy.display().to_string();
    let text = home.ok(&["-s", &copy_text, "env", "old"]);
    assert!(text.contains("DOCKER_TLS_VERIFY=\"1\"") && text.contains("copy/machines/old\""), "{text}");
    assert_tls(&env(&home), &home);
}

/// An authority below another one, as companies have it: its chain, and what signs with its key.
fn below_another() -> (String, machine_pki::Authority) {
    let authority = |name: &str| {
        let mut parameters = rcgen::CertificateParams::default();
        parameters.distinguished_name.push(rcgen::DnType::OrganizationName, name);
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        (parameters, rcgen::KeyPair::generate().unwrap())
    };
    let ((root, root_key), (below, below_key)) = (authority("root"), authority("below"));
    let root_pem = root.self_signed(&root_key).unwrap().pem();
    let below_pem = below.signed_by(&below_key, &rcgen::Issuer::new(root, root_key)).unwrap().pem();
    let signer = machine_pki::Authority::load(&below_pem, &below_key.serialize_pem()).unwrap();
    (format!("{below_pem}{root_pem}"), signer)
}

#[test]
fn a_host_whose_authority_stands_in_a_chain_is_not_foreign() {
    let home = Home::new();
    home.write_tls_host("old", "192.0.2.9", 2376);
    let other = fs::read_to_string(home.host("old").join("ca.pem")).unwrap();
    let (chain, signer) = below_another();
    let client = signer.issue_client("somebody").unwrap();
    for (file, text) in
        [("ca.pem", &chain), ("cert.pem", &client.certificate_pem), ("key.pem", &client.key_pem)]
    {
        fs::write(home.host("old").join(file), text).unwrap();
    }
    // The docker client believes all that it finds in the folder that is named to it: that is the one that signs, alone.
    let believed =
        || machine_pki::certificates(&fs::read_to_string(home.host("old").join("ca.pem")).unwrap()).unwrap();
    let lock = fs::File::create(home.store().join("locks/old")).unwrap();
    lock.lock().unwrap();
    let said = home.refused(&["env", "old"]);
    assert!(said.contains("`old` is in use by"), "{said}");
    drop(lock);
    home.ok(&["url", "old"]);
    assert_eq!(believed().len(), 2, "who only reads changes nothing");
    for command in ["config", "env"] {
        fs::write(home.host("old").join("ca.pem"), &chain).unwrap();
        home.ok(&[command, "old"]);
        assert_eq!(believed(), machine_pki::certificates(signer.certificate_pem()).unwrap(), "{command}");
    }
    // Pinned to the one that signs, by the first reading and by what is written then.
    fs::write(home.host("old").join("ca.pem"), &chain).unwrap();
    assert_tls(&env(&home), &home);
    let record: serde_json::Value = serde_json::from_str(&home.ok(&["inspect", "old"])).unwrap();
    let pinned = machine_pki::Fingerprint::of(signer.certificate_pem()).unwrap().to_string();
    assert_eq!(record["Transport"]["MutualTls"]["Authority"], pinned);
    home.write_record("old", &record);
    fs::write(home.host("old").join("ca.pem"), &chain).unwrap();
    assert_tls(&env(&home), &home);
    // One that has nothing to do with it is foreign, whatever stands beside it.
    fs::write(home.host("old").join("ca.pem"), format!("{chain}{other}")).unwrap();
    let said = home.refused(&["env", "old"]);
    assert!(said.contains("of another authority"), "{said}");
}

#[test]
fn missing_unreadable_foreign_and_expired_certificates_are_errors_with_a_way_out() {
    let refused = |name: &str, change: &dyn Fn(&Home), expected: &[&str]| {
        let home = Home::new();
        home.write_tls_host("old", "192.0.2.9", 2376);
        // Pinned, as this program writes it.
        let record: serde_json::Value = serde_json::from_str(&home.ok(&["inspect", "old"])).unwrap();
        home.write_record("old", &record);
        change(&home);
        for command in
            [&["env", "old"][..], &["config", "old"], &["env", "--check", "old"], &["version", "old"]]
        {
            let output = home.machine(command);
            let said = show(&output);
            assert_eq!(output.status.code(), Some(1), "{name}, {command:?}: {said}");
            assert!(output.stdout.is_empty(), "{name}, {command:?}: {said}");
            assert!(expected.iter().all(|text| said.contains(text)), "{name}, {command:?}: {said}");
        }
    };
    let remove =
        |file: &'static str| move |home: &Home| fs::remove_file(home.host("old").join(file)).unwrap();
    for file in ["ca.pem", "cert.pem", "key.pem"] {
        refused(file, &remove(file), &[file, "is missing", "regenerate-certs old"]);
    }
    refused(
        "all",
        &|home| ["ca.pem", "cert.pem", "key.pem"].iter().for_each(|file| remove(file)(home)),
        &["is missing", "regenerate-certs old"],
    );
    let garble = |home: &Home| fs::write(home.host("old").join("cert.pem"), "nonsense").unwrap();
    refused("garbled", &garble, &["The certificates of `old` are no good", "regenerate-certs old"]);
    let foreign = |home: &Home| {
        let other = Home::new();
        other.write_tls_host("old", "192.0.2.9", 2376);
        for file in ["ca.pem", "cert.pem", "key.pem"] {
            fs::copy(other.host("old").join(file), home.host("old").join(file)).unwrap();
        }
    };
    refused("foreign", &foreign, &["of another authority", "regenerate-certs old"]);
    let mixed = |home: &Home| {
        let other = Home::new();
        other.write_tls_host("old", "192.0.2.9", 2376);
        fs::copy(other.host("old").join("key.pem"), home.host("old").join("key.pem")).unwrap();
    };
    refused("mixed", &mixed, &["does not belong", "regenerate-certs old"]);
    let expired = |home: &Home| {
        let read = |name: &str| fs::read_to_string(home.store().join("certs").join(name)).unwrap();
        let key = rcgen::KeyPair::from_pem(&read("ca-key.pem")).unwrap();
        let issuer = rcgen::Issuer::from_ca_cert_pem(&read("ca.pem"), key).unwrap();
        let mut parameters = rcgen::CertificateParams::default();
        parameters.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        parameters.not_before = rcgen::date_time_ymd(2019, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2022, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &issuer).unwrap();
        fs::write(home.host("old").join("cert.pem"), certificate.pem()).unwrap();
        fs::write(home.host("old").join("key.pem"), key.serialize_pem()).unwrap();
    };
    refused("expired", &expired, &["expired at 2022", "regenerate-certs old"]);
}

#[test]
fn an_engine_is_never_asked_in_the_clear_because_a_file_is_missing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // Whatever is said to it is remembered; the last connection is our own.
    let heard = thread::spawn(move || {
        let mut all = Vec::new();
        loop {
            let (mut connection, _) = listener.accept().unwrap();
            let mut bytes = [0; 64];
            let length = connection.read(&mut bytes).unwrap_or(0);
            if bytes.starts_with(b"the end") {
                return all;
            }
            all.extend_from_slice(&bytes[..length]);
        }
    });
    let home = Home::new();
    home.write_tls_host("old", "127.0.0.1", port);
    for file in ["ca.pem", "cert.pem", "key.pem"] {
        fs::remove_file(home.host("old").join(file)).unwrap();
    }
    home.machine(&["version", "old"]);
    home.machine(&["env", "--check", "old"]);
    let listed = home.ok(&["ls", "-t", "2", "--filter", "name=old"]);
    assert!(!listed.contains("v1"), "{listed}");
    std::io::Write::write_all(&mut std::net::TcpStream::connect(("127.0.0.1", port)).unwrap(), b"the end")
        .unwrap();
    let heard = heard.join().unwrap();
    assert!(!heard.windows(3).any(|bytes| bytes == b"GET"), "{}", String::from_utf8_lossy(&heard));
}

#[test]
fn records_of_docker_machine_are_plain_only_where_tls_never_was() {
    let record = |url: &str, verify: bool| {
        json!({
            "ConfigVersion": 3, "DriverName": "none", "Name": "old",
            "Driver": { "IPAddress": "h", "URL": url },
            "HostOptions": { "EngineOptions": { "TlsVerify": verify }, "AuthOptions": {} },
        })
    };
    for (url, verify, plain) in [
        ("unix:///var/run/docker.sock", true, true),
        ("http://h:1", true, true),
        ("ssh://me@h", true, true),
        ("tcp://h:2375", true, true),
        ("tcp://h:2376", false, true),
        ("tcp://h:2376", true, false),
        ("tcp://h", true, false),
        ("https://h:8443", true, false),
        ("", true, false),
    ] {
        let home = Home::new();
        home.write_record("old", &record(url, verify));
        let output = home.machine(&["env", "old"]);
        let said = show(&output);
        assert_eq!(said.contains("unset DOCKER_TLS_VERIFY"), plain, "{url}, {verify}: {said}");
        assert_eq!(output.status.success(), plain, "{url}, {verify}: {said}");
    }
    // docker-machine's client for such a host was the store's own.
    let home = Home::new();
    home.write_tls_host("other", "192.0.2.9", 2376);
    home.write_record("old", &record("tcp://h:2376", true));
    let said = home.refused(&["env", "old"]);
    assert!(said.contains("is missing"), "{said}");
    for file in ["ca.pem", "cert.pem", "key.pem"] {
        fs::copy(home.host("other").join(file), home.host("old").join(file)).unwrap();
    }
    assert_tls(&env(&home), &home);
}

#[test]
fn an_authority_of_another_home_is_not_taken_for_ours() {
    let home = Home::new();
    home.write_tls_host("old", "192.0.2.9", 2376);
    let path = home.host("old").join("config.json");
    let other = home.path().join("other-home").display().to_string();
    let text = fs::read_to_string(&path).unwrap().replace(&home.store().display().to_string(), &other);
    // Its own folder says who signed for it, whatever home it names.
    fs::write(&path, &text).unwrap();
    assert_tls(&env(&home), &home);
    // Without that: the `certs/ca.pem` of the home that it was written in is the one of this store, which it lies in now.
    fs::remove_file(home.host("old").join("ca.pem")).unwrap();
    assert!(home.refused(&["env", "old"]).contains("ca.pem` is missing"));
    // A third one is not.
    fs::write(&path, text.replace(&format!("{other}/certs/ca.pem"), "/corp/ca.pem")).unwrap();
    let said = home.refused(&["regenerate-certs", "-f", "old"]);
    assert!(said.contains("which authority signed") && said.contains("--authority old"), "{said}");
    let said = home.refused(&["env", "old"]);
    assert!(said.contains("ca.pem") && said.contains("regenerate-certs"), "{said}");
}
