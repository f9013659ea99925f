//! What can be refused is refused before anything is made, by the layer that fails.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt as _};

use crate::bench::Bench;

fn nothing_recorded(bench: &Bench) {
    assert!(!bench.host_folder("mc").exists(), "something was recorded");
    assert!(bench.processes().is_empty());
}

#[test]
#[ignore = "needs the program that `cargo xtask test` builds"]
fn refused_by_the_qemu_driver() {
    let bench = Bench::new();
    let text = bench.folder().join("not-an-image");
    fs::write(&text, "hello, I am no disk image").unwrap();
    let said = bench.machine_fails(3, &["create", "--qemu-image", &text.display().to_string(), "mc"]);
    assert!(said.contains("not-an-image"), "{said}");
    nothing_recorded(&bench);
    bench.machine_fails(3, &["create", "--qemu-image", "no-such-image", "mc"]);
    nothing_recorded(&bench);
    let listener = TcpListener::bind("127.77.1.9:2376").unwrap();
    let said = bench.machine_fails(3, &["create", "--qemu-address", "127.77.1.9", "mc"]);
    assert!(said.contains("2376") && said.contains("127.77.1.9"), "{said}");
    drop(listener);
    nothing_recorded(&bench);
    bench.machine_fails(3, &["create", "--qemu-binary", "/nowhere/qemu", "mc"]);
    nothing_recorded(&bench);
}

#[test]
#[ignore = "needs the program that `cargo xtask test` builds"]
fn refused_by_the_generic_driver() {
    let bench = Bench::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port().to_string();
    let generic = |more: &[&str]| {
        let base =
            ["create", "-d", "generic", "--generic-ip-address", "127.0.0.1", "--generic-ssh-port", &port];
        bench.machine_fails(3, &[&base[..], more, &["mc"]].concat())
    };
    let said = generic(&[]);
    assert!(said.to_lowercase().contains("ssh"), "{said}");
    nothing_recorded(&bench);
    let said = generic(&["--generic-ssh-key", "/nowhere/key"]);
    assert!(said.contains("/nowhere/key"), "{said}");
    let key = bench.folder().join("key");
    fs::write(&key, "x").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let said = generic(&["--generic-ssh-key", &key.display().to_string()]);
    assert!(said.contains("too open"), "{said}");
    nothing_recorded(&bench);
}
