//! The everyday life of hosts on MachineOS.

use std::{fs, process::Command, time::Duration};

use sha2::{Digest as _, Sha256};

use crate::{
    bench::{Bench, show, until, variable},
    stock_clients::{MIRROR, stock_clients},
};

/// How long a published port may take to be reachable from outside the VM.
const PORT_AT_MOST: Duration = Duration::from_secs(30);

pub(crate) fn http(address: &str, port: u16) -> Option<String> {
    let url = format!("http://{address}:{port}/");
    let output = Command::new("curl").args(["-sS", "-m", "5", "--noproxy", "*", &url]).output().unwrap();
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
#[ignore = "boots VMs; `cargo xtask test` runs it"]
fn two_hosts_from_creation_to_removal() {
    let bench = Bench::new();
    bench.machine(&["create", "--engine-registry-mirror", MIRROR, "mc1", "mc2"]);
    let list =
        bench.machine(&["ls", "-f", "{{.Name}} {{.State}} {{.DriverName}} {{.DockerVersion}} {{.Error}}"]);
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(list, format!("mc1 Running qemu v{version} \nmc2 Running qemu v{version} \n"));
    assert_ne!(bench.machine(&["ip", "mc1"]), bench.machine(&["ip", "mc2"]));

    one_login_and_nothing_changed_again(&bench);
    the_engine_is_the_one_that_was_built(&bench);
    containers(&bench);
    stock_clients(&bench, "mc1");
    other_authorities_are_refused(&bench);
    commands_and_copies(&bench);
    neighbours_reach_each_other(&bench);
    this_machines_loopback_is_out_of_reach(&bench);
    renewal_leaves_containers_running(&bench);
    stop_and_start(&bench);
    a_changed_host_key_is_refused(&bench);

    bench.machine(&["rm", "-y", "mc1", "mc2"]);
    bench.assert_nothing_left();
}

fn one_login_and_nothing_changed_again(bench: &Bench) {
    // This command is a login itself.
    let logins =
        bench.machine(&["ssh", "mc2", "sudo -n cat /var/log/sshd.log | grep -c 'Accepted publickey'"]);
    assert_eq!(logins.trim(), "2", "create logged in more than once");
    let said = bench.machine(&["provision", "mc2"]);
    assert!(said.contains("Nothing to change"), "{said}");
}

/// `machine` carries the engine that was built with it, and that is what a host gets.
fn the_engine_is_the_one_that_was_built(bench: &Bench) {
    let built = Sha256::digest(fs::read(variable("MACHINE_ENGINE")).unwrap());
    let digest = bench.machine(&["ssh", "mc1", "sha256sum /usr/local/bin/engine"]);
    assert_eq!(digest.split_whitespace().next(), Some(format!("{built:x}").as_str()));
}

fn containers(bench: &Bench) {
    bench.load_image("mc1");
    assert_eq!(bench.docker("mc1", &["run", "--rm", "busybox", "echo", "hello"]), "hello\n");
    bench.docker(
        "mc1",
        &[
            "run",
            "-d",
            "--name",
            "web",
            "--restart",
            "always",
            "-p",
            "8080:80",
            "busybox",
            "httpd",
            "-f",
            "-h",
            "/www",
        ],
    );
    let address = bench.machine(&["ip", "mc1"]);
    let page = until("the published port answers", PORT_AT_MOST, || http(address.trim(), 8080));
    assert!(page.contains("hello from a container"), "{page}");
    let inside = bench.machine(&["ssh", "mc1", "docker ps --format '{{.Names}} {{.Image}}'"]);
    assert_eq!(inside, "web busybox\n");
    bench.docker(
        "mc1",
        &["run", "--name", "data", "-v", "kept:/kept", "busybox", "sh", "-c", "echo 42 >/kept/answer"],
    );
    let status = bench.try_docker("mc1", &["run", "--rm", "busybox", "sh", "-c", "exit 7"]);
    assert_eq!(status.status.code(), Some(7), "{}", show(&status));
    // Defaults that people forget.
    let log = bench.docker("mc1", &["inspect", "-f", "{{json .HostConfig.LogConfig}}", "web"]);
    assert!(log.contains("max-size") && log.contains("max-file"), "{log}");
    let seccomp = bench.docker("mc1", &["run", "--rm", "busybox", "grep", "Seccomp:", "/proc/self/status"]);
    assert!(seccomp.trim().ends_with('2'), "{seccomp}");
    // The default capabilities let a container make the node of a disk; its control group does not let it open it.
    bench.docker("mc1", &["run", "--rm", "busybox", "mknod", "/tmp/disk", "b", "254", "0"]);
    let opened = bench.try_docker(
        "mc1",
        &["run", "--rm", "busybox", "sh", "-c", "mknod /tmp/disk b 254 0 && head -c 1 /tmp/disk"],
    );
    assert_eq!(opened.status.code(), Some(1), "a disk of the host opens in a container: {}", show(&opened));
    assert!(show(&opened).contains("Operation not permitted"), "{}", show(&opened));
}

fn other_authorities_are_refused(bench: &Bench) {
    let other = Bench::new();
    let made = other.try_machine(&["create", "-d", "none", "--url", "tcp://192.0.2.1:2376", "other"]);
    assert!(made.status.success());
    let url = bench.machine(&["url", "mc1"]);
    let file = |store: &Bench, name: &str| store.store().join("certs").join(name).display().to_string();
    let docker = |ca: String, cert: String, key: String| {
        Command::new("docker")
            .args([
                "--tlsverify",
                "--tlscacert",
                &ca,
                "--tlscert",
                &cert,
                "--tlskey",
                &key,
                "-H",
                url.trim(),
                "version",
            ])
            .env("DOCKER_CONFIG", bench.folder())
            .output()
            .unwrap()
    };
    let ours = docker(file(bench, "ca.pem"), file(bench, "cert.pem"), file(bench, "key.pem"));
    assert!(ours.status.success(), "{}", show(&ours));
    let theirs = docker(file(bench, "ca.pem"), file(&other, "cert.pem"), file(&other, "key.pem"));
    assert!(!theirs.status.success() && !show(&theirs).contains("Server:"), "{}", show(&theirs));
    let distrusted = docker(file(&other, "ca.pem"), file(bench, "cert.pem"), file(bench, "key.pem"));
    assert!(!distrusted.status.success(), "{}", show(&distrusted));
    let plain = Command::new("curl")
        .args([
            "-sSk",
            "-m",
            "10",
            "--noproxy",
            "*",
            &url.trim().replace("tcp", "https"),
            "-w",
            "%{http_code}",
        ])
        .output()
        .unwrap();
    assert!(!plain.status.success(), "a client without a certificate was answered: {}", show(&plain));
}

fn commands_and_copies(bench: &Bench) {
    assert_eq!(bench.try_machine(&["ssh", "mc1", "exit 23"]).status.code(), Some(23));
    assert!(bench.machine(&["ssh", "mc1", "swarm --help"]).contains("init"));
    assert_eq!(bench.machine(&["ssh", "mc1", "--", "hostname"]), "mc1\n");
    let tree = bench.folder().join("tree");
    fs::create_dir_all(tree.join("a b")).unwrap();
    fs::write(tree.join("a b/-x"), vec![7_u8; 3 << 20]).unwrap();
    bench.machine(&["scp", "-r", &tree.display().to_string(), "mc1:"]);
    bench.machine(&["scp", "-r", "mc1:tree", "mc2:/tmp/there"]);
    let back = bench.folder().join("back");
    bench.machine(&["scp", "-r", "mc2:/tmp/there", &back.display().to_string()]);
    assert_eq!(fs::read(back.join("a b/-x")).unwrap(), vec![7_u8; 3 << 20]);
}

/// The address of a host on the network inside the store.
fn inside(bench: &Bench, name: &str) -> String {
    bench.machine(&["inspect", "-f", "{{.Endpoint.inside.address}}", name]).trim().to_owned()
}

fn neighbours_reach_each_other(bench: &Bench) {
    for (from, to) in [("mc1", "mc2"), ("mc2", "mc1")] {
        bench.machine(&["ssh", from, &format!("sudo -n ping -c 1 -w 30 {}", inside(bench, to))]);
    }
    // A published port of a container, by TCP.
    let page = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 20 {} 8080", inside(bench, "mc1"));
    assert!(bench.machine(&["ssh", "mc2", &page]).contains("hello from a container"));
    // Another user's programs do not get in, and other stores have networks of their own.
    let folder = fs::metadata(bench.store().join("cache/qemu/network")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&folder.permissions()) & 0o777, 0o700);
}

/// From the VM itself, from a container, and from one with the host's own network. Names are still resolved: the port of
/// the name server is let through.
fn this_machines_loopback_is_out_of_reach(bench: &Bench) {
    let service = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = service.local_addr().unwrap().port().to_string();
    std::thread::spawn(move || {
        for mut client in service.incoming().flatten() {
            let _ = std::io::Write::write_all(&mut client, b"secret\n");
        }
    });
    let ask = format!("nc -w 5 10.0.2.2 {port} </dev/null 2>&1; true");
    let said = [
        bench.machine(&["ssh", "mc1", &ask]),
        bench.docker("mc1", &["run", "--rm", "busybox", "sh", "-c", &ask]),
        bench.docker("mc1", &["run", "--rm", "--network", "host", "busybox", "sh", "-c", &ask]),
    ];
    for said in said {
        assert!(said.contains("No route to host") && !said.contains("secret"), "{said}");
    }
}

fn renewal_leaves_containers_running(bench: &Bench) {
    let started = || bench.docker("mc1", &["inspect", "-f", "{{.State.StartedAt}} {{.State.Pid}}", "web"]);
    let (before, certificate) = (started(), fs::read(bench.host_folder("mc1").join("server.pem")).unwrap());
    bench.machine(&["regenerate-certs", "-f", "mc1"]);
    assert_ne!(fs::read(bench.host_folder("mc1").join("server.pem")).unwrap(), certificate);
    assert_eq!(started(), before);
    // Nor does the end of the daemon touch them: it is started again, and finds them.
    bench.machine(&["ssh", "mc1", "sudo -n kill -9 $(cat /run/engine.pid)"]);
    let again = until("the engine is back", Duration::from_secs(60), || {
        let output =
            bench.try_docker("mc1", &["inspect", "-f", "{{.State.StartedAt}} {{.State.Pid}}", "web"]);
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    });
    assert_eq!(again, before);
}

fn stop_and_start(bench: &Bench) {
    bench.machine(&["stop", "mc1"]);
    assert_eq!(bench.machine(&["status", "mc1"]), "Stopped\n");
    assert!(bench.machine_fails(1, &["url", "mc1"]).contains("Host is not running"));
    assert!(bench.machine(&["stop", "mc1"]).contains("already stopped"));
    let address = bench.machine(&["inspect", "-f", "{{.Driver.IPAddress}}", "mc1"]);
    bench.machine(&["start", "mc1"]);
    assert!(bench.machine(&["start", "mc1"]).contains("already running"));
    assert_eq!(bench.machine(&["ip", "mc1"]), address);
    assert_eq!(
        bench.docker("mc1", &["run", "--rm", "-v", "kept:/kept", "busybox", "cat", "/kept/answer"]),
        "42\n"
    );
    let page = until("the restarted container answers", PORT_AT_MOST, || http(address.trim(), 8080));
    assert!(page.contains("hello from a container"), "{page}");
    bench.machine(&["kill", "mc1"]);
    assert_eq!(bench.machine(&["status", "mc1"]), "Stopped\n");
    bench.machine(&["restart", "mc1"]);
    assert_eq!(bench.docker("mc1", &["run", "--rm", "busybox", "echo", "again"]), "again\n");
}

fn a_changed_host_key_is_refused(bench: &Bench) {
    let config = bench.host_folder("mc2").join("config.json");
    let good = fs::read_to_string(&config).unwrap();
    let keys = fs::read_to_string(bench.host_folder("mc1").join("config.json")).unwrap();
    let key = |text: &str| {
        let record: serde_json::Value = serde_json::from_str(text).unwrap();
        record["SSHHostKeys"][0].as_str().unwrap().to_owned()
    };
    fs::write(&config, good.replace(&key(&good), &key(&keys))).unwrap();
    let said = bench.machine_fails(255, &["ssh", "mc2", "true"]);
    assert!(said.contains("host key") && said.contains("SHA256:"), "{said}");
    fs::write(&config, good).unwrap();
    bench.machine(&["ssh", "mc2", "true"]);
}

#[test]
#[ignore = "boots VMs; `cargo xtask test` runs it"]
fn engine_options_arrive_and_change() {
    let bench = Bench::new();
    bench.machine(&[
        "create",
        "--engine-label",
        "tier=a b",
        "--engine-env",
        "GREETING=it's \"$HOME\" `x`",
        "--engine-opt",
        "log-opt=max-size=3m",
        "--engine-insecure-registry",
        "registry.test:5000",
        "--engine-registry-mirror",
        "http://mirror.test",
        "--tls-san",
        "engine.test",
        "opt",
    ]);
    let info: serde_json::Value =
        serde_json::from_str(&bench.docker("opt", &["info", "-f", "{{json .}}"])).unwrap();
    let labels = info["Labels"].to_string();
    assert!(labels.contains("tier=a b") && labels.contains("provider=qemu"), "{labels}");
    assert!(info["RegistryConfig"].to_string().contains("registry.test:5000"), "{info}");
    assert!(info["RegistryConfig"].to_string().contains("mirror.test"), "{info}");
    let environment =
        bench.machine(&["ssh", "opt", "sudo -n cat /proc/$(cat /run/engine.pid)/environ | tr '\\0' '\\n'"]);
    assert!(environment.lines().any(|line| line == "GREETING=it's \"$HOME\" `x`"), "{environment}");
    let certificate = Command::new("openssl")
        .args(["x509", "-noout", "-ext", "subjectAltName,extendedKeyUsage", "-in"])
        .arg(bench.host_folder("opt").join("server.pem"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&certificate.stdout).into_owned();
    assert!(
        text.contains("engine.test") && text.contains("Server Authentication") && !text.contains("Client"),
        "{text}"
    );
    // A new label is taken up without touching containers; one that is nonsense changes nothing.
    let config = bench.host_folder("opt").join("config.json");
    let record = fs::read_to_string(&config).unwrap();
    fs::write(&config, record.replace("tier=a b", "tier=c")).unwrap();
    bench.machine(&["provision", "opt"]);
    assert!(bench.docker("opt", &["info", "-f", "{{json .Labels}}"]).contains("tier=c"));
    fs::write(&config, record.replace("max-size=3m", "max-sighs=3m")).unwrap();
    let said = bench.machine_fails(1, &["provision", "opt"]);
    assert!(said.contains("max-sighs"), "{said}");
    assert!(bench.docker("opt", &["info", "-f", "{{json .Labels}}"]).contains("tier=c"));
    bench.machine(&["rm", "-y", "opt"]);
    bench.assert_nothing_left();
}
