//! A stock Debian with systemd and cloud-init, and the same host through `generic`.

use std::{fs, time::Duration};

use crate::{
    bench::{Bench, until},
    machineos::http,
};

#[test]
#[ignore = "boots VMs; `cargo xtask test` runs it"]
fn debian_and_the_same_host_through_generic() {
    let bench = Bench::new();
    bench.machine(&["create", "-d", "qemu", "--qemu-image", "debian-12", "deb"]);
    everyday(&bench, "deb");
    let unit = bench.machine(&["ssh", "deb", "systemctl is-enabled engine; systemctl is-active engine"]);
    assert_eq!(unit, "enabled\nactive\n");
    bench.machine(&["stop", "deb"]);
    bench.machine(&["start", "deb"]);
    let kept = ["run", "--rm", "-v", "kept:/kept", "busybox", "cat", "/kept/answer"];
    assert_eq!(bench.docker("deb", &kept), "42\n");
    assert!(bench.machine(&["provision", "deb"]).contains("Nothing to change"));

    // Another store, another authority: it takes the host over by SSH alone.
    let generic = Bench::new();
    let part = |template: &str| bench.machine(&["inspect", "-f", template, "deb"]).trim().to_owned();
    let (address, port, user) =
        (part("{{.Driver.IPAddress}}"), part("{{.Driver.SSHPort}}"), part("{{.Driver.SSHUser}}"));
    let (key, host_key) = (part("{{.Driver.SSHKeyPath}}"), part("{{index .SSHHostKeys 0}}"));
    let create = [
        "create",
        "-d",
        "generic",
        "--generic-ip-address",
        &address,
        "--generic-ssh-port",
        &port,
        "--generic-ssh-user",
        &user,
        "--generic-ssh-key",
        &key,
    ];
    let unknown = generic.try_machine(&[&create[..], &["adopted"]].concat());
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(!unknown.status.success() && said.contains("--ssh-host-key"), "{said}");
    generic.machine(&["rm", "-f", "adopted"]);
    generic.machine(&[&create[..], &["--ssh-host-key", &host_key, "adopted"]].concat());
    assert_eq!(generic.docker("adopted", &["run", "--rm", "busybox", "echo", "taken over"]), "taken over\n");
    // It changes nothing that it was not told to.
    assert_eq!(generic.machine(&["ssh", "adopted", "hostname"]), "deb\n");
    generic.machine(&["rm", "-y", "adopted"]);
    generic.assert_nothing_left();
    bench.machine(&["rm", "-y", "deb"]);
    bench.assert_nothing_left();
}

fn everyday(bench: &Bench, host: &str) {
    bench.load_image(host);
    assert_eq!(bench.docker(host, &["run", "--rm", "busybox", "echo", "hello"]), "hello\n");
    bench.docker(
        host,
        &["run", "-d", "--name", "web", "-p", "8080:80", "busybox", "httpd", "-f", "-h", "/www"],
    );
    let address = bench.machine(&["ip", host]);
    let page = until("the published port answers", Duration::from_secs(60), || http(address.trim(), 8080));
    assert!(page.contains("hello from a container"), "{page}");
    assert!(bench.machine(&["ssh", host, "docker ps"]).contains("web"));
    assert!(bench.machine(&["ssh", host, "swarm --help"]).contains("init"));
    bench.docker(
        host,
        &["run", "--name", "data", "-v", "kept:/kept", "busybox", "sh", "-c", "echo 42 >/kept/answer"],
    );
    let file = bench.folder().join("file");
    fs::write(&file, "copied").unwrap();
    bench.machine(&["scp", &file.display().to_string(), &format!("{host}:/tmp/file")]);
    assert_eq!(bench.machine(&["ssh", host, "cat /tmp/file"]), "copied");
}
