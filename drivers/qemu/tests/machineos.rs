//! The driver with real VMs: QEMU and the images in `target/images` have to be there. `cargo xtask test`, which makes
//! them, runs [`keeps_the_contract_with_real_vms`]; the others take longer and are run by hand:
//! `cargo test -p machine-driver-qemu --test machineos -- --ignored --test-threads 1`.

#![allow(clippy::unwrap_used)]
#![allow(clippy::print_stderr, reason = "the figures that are measured are shown")]

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use machine_driver::{
    Driver, Endpoint, HostId, HostKey, HostName, HostView, Journal, LoginKey, MemoryJournal, Options, Silent,
    conformance::{AfterStart, Crashes, Suite},
};
use machine_driver_qemu::Qemu;
use tempfile::TempDir;

mod support;

use support::{Everything, STAND_IN};

fn driver() -> Qemu {
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/images");
    Qemu::new().with_images(vec![images]).with_helper(STAND_IN.into())
}

/// A key pair of OpenSSH's, and where its private half is.
fn key_pair(folder: &Path, name: &str) -> (PathBuf, String, String) {
    let path = folder.join(name);
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&path).status();
    assert!(made.unwrap().success());
    let private = std::fs::read_to_string(&path).unwrap();
    let public = std::fs::read_to_string(path.with_extension("pub")).unwrap();
    let public = public.split_ascii_whitespace().take(2).collect::<Vec<_>>().join(" ");
    (path, private, public)
}

/// Waits for the SSH server of a VM that was started.
#[derive(Debug, Default)]
struct Banner {
    seconds: Mutex<Vec<f32>>,
}

#[async_trait]
impl AfterStart for Banner {
    async fn look(&self, endpoint: &Endpoint) -> Result<(), String> {
        let began = Instant::now();
        let ssh = endpoint.ssh.clone().ok_or("no SSH")?;
        while began.elapsed() < Duration::from_mins(3) {
            if banner(&ssh.host, ssh.port).is_ok_and(|banner| banner.starts_with(b"SSH-2.0-")) {
                self.seconds.lock().unwrap().push(began.elapsed().as_secs_f32());
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(format!("its SSH server does not speak; the end of its console:\n{}", console(&ssh.host)))
    }
}

/// The end of what the VM with this address has written to its console. Its folder is where QEMU works.
fn console(address: &str) -> String {
    let mut found = String::new();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        if !String::from_utf8_lossy(&line).contains(address) {
            continue;
        }
        for file in ["console.log", "qemu.log", "ports.log"] {
            let text = std::fs::read(process.path().join("cwd").join(file)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            found += &format!("-- {file}\n{}\n", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
    found
}

fn banner(host: &str, port: u16) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect((host, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut bytes = vec![0; 64];
    let count = stream.read(&mut bytes)?;
    bytes.truncate(count);
    Ok(bytes)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "boots real VMs"]
async fn keeps_the_contract_with_real_vms() {
    let (driver, keys, look) = (driver(), tempfile::tempdir().unwrap(), Banner::default());
    let (_, _, login) = key_pair(keys.path(), "login");
    let (_, private, public) = key_pair(keys.path(), "host");
    let report = Suite::new(&driver, &Everything)
        .option("qemu-memory", "512")
        .option("qemu-disk-size", "1000")
        .keys(LoginKey { public: login }, HostKey { public, private })
        .after_start(&look)
        .side_by_side(false)
        .crashes(Crashes::Seeded { seed: 7, points: 3 })
        .run()
        .await;
    eprintln!("seconds to the banner of SSH: {:?}", look.seconds.lock().unwrap());
    assert_eq!(report.unwrap().crashes, 3);
}

struct Vm {
    root: TempDir,
    driver: Qemu,
    name: HostName,
    id: HostId,
    config: serde_json::Value,
    login: LoginKey,
    host_key: HostKey,
}

impl Drop for Vm {
    fn drop(&mut self) {
        support::kill_all(&self.id);
    }
}

impl Vm {
    async fn new(options: &[(&str, &str)]) -> Self {
        let (driver, root) = (driver(), tempfile::tempdir().unwrap());
        let given =
            options.iter().map(|(name, value)| ((*name).to_owned(), vec![(*value).to_owned()])).collect();
        let config = driver.configure(&Options::resolve(&driver.flags(), &given).unwrap()).await.unwrap();
        std::fs::create_dir(root.path().join("mc1")).unwrap();
        let (_, _, login) = key_pair(root.path(), "login");
        let (_, private, public) = key_pair(root.path(), "host");
        Self {
            driver,
            name: "mc1".parse().unwrap(),
            id: HostId::random(),
            config,
            login: LoginKey { public: login },
            host_key: HostKey { public, private },
            root,
        }
    }

    fn view(&self, folder: &Path, cache: &Path) -> HostView {
        HostView {
            name: self.name.clone(),
            id: self.id,
            owner: String::new(),
            folder: folder.to_owned(),
            cache: cache.to_owned(),
            config: self.config.clone(),
            place: None,
            login: Some(self.login.clone()),
            host_key: Some(self.host_key.clone()),
        }
    }

    /// Logs in, accepting nothing but the delivered host key.
    fn ssh(&self, endpoint: &Endpoint, command: &str) -> String {
        let ssh = endpoint.ssh.as_ref().unwrap();
        let known = self.root.path().join("known_hosts");
        let name = if ssh.port == 22 { ssh.host.clone() } else { format!("[{}]:{}", ssh.host, ssh.port) };
        std::fs::write(&known, format!("{name} {}\n", self.host_key.public)).unwrap();
        // A connection that is stuck is a failure; nothing is sent meanwhile that could bring it back.
        let output = Command::new("timeout")
            .args(["120", "ssh", "-F", "/dev/null", "-o", "BatchMode=yes"])
            .args(["-o", "StrictHostKeyChecking=yes", "-o"])
            .arg(format!("UserKnownHostsFile={}", known.display()))
            .arg("-i")
            .arg(self.root.path().join("login"))
            .args(["-p", &ssh.port.to_string(), "-l", &ssh.user, &ssh.host, command])
            .output()
            .unwrap();
        assert!(output.status.success(), "`{command}`: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_mins(1), "never: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn first_boot_and_ports(vm: &Vm, listen: &str) {
    let (folder, cache) = (vm.root.path().join("mc1"), vm.root.path().join("cache"));
    let (host, mut journal) = (vm.view(&folder, &cache), MemoryJournal::default());
    vm.driver.check(&host).await.unwrap();
    let began = Instant::now();
    vm.driver.create(&host, &mut journal, &Silent).await.unwrap();
    let created = began.elapsed();
    let endpoint = vm.driver.endpoint(&host, &journal.state()).await.unwrap();
    if let Err(error) = Banner::default().look(&endpoint).await {
        let console = vm.driver.console(&host, &journal.state(), 60).await;
        panic!("{error}\n{}", console.unwrap_or_default());
    }
    eprintln!("created after {created:?}, SSH speaks after {:?}", began.elapsed());

    assert_eq!(vm.ssh(&endpoint, "hostname"), "mc1");
    assert_eq!(vm.ssh(&endpoint, "sudo -n id -u"), "0");
    vm.ssh(&endpoint, "echo kept > kept");

    let address = endpoint.address.as_str();
    assert!(TcpStream::connect((address, 8080)).is_err());
    vm.ssh(&endpoint, listen);
    let began = Instant::now();
    eventually("port 8080 leads to the VM", || {
        let answer = TcpStream::connect((address, 8080)).and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text).map(|_| text)
        });
        answer.is_ok_and(|text| text.contains("hello"))
    })
    .await;
    eprintln!("a published port is reachable after {:?}", began.elapsed());
    let forwarder = support::processes("__qemu-ports", &vm.id);
    let status = std::fs::read_to_string(format!("/proc/{}/status", forwarder[0])).unwrap();
    let memory: Vec<&str> =
        status.lines().filter(|line| line.starts_with("VmRSS") || line.starts_with("Rss")).collect();
    eprintln!("the forwarder's memory: {memory:?}");

    vm.driver.stop(&host, &mut journal, &Silent).await.unwrap();
    assert!(TcpStream::connect((address, 8080)).is_err());
    vm.driver.start(&host, &mut journal, &Silent).await.unwrap();
    assert_eq!(vm.driver.endpoint(&host, &journal.state()).await.unwrap(), endpoint);
    Banner::default().look(&endpoint).await.unwrap();
    assert_eq!(vm.ssh(&endpoint, "cat kept"), "kept");
    vm.driver.remove(&host, &mut journal, &Silent).await.unwrap();
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
}

/// Something that runs on a VM: what a container is to the network, without an engine.
const CONTAINER: &str = "sudo sh -e -c '
    ip netns add box; ip link add c0 type veth peer name c1; ip link set c1 netns box
    ip address add 192.168.77.1/24 dev c0; ip link set c0 up
    ip netns exec box ip address add 192.168.77.2/24 dev c1; ip netns exec box ip link set c1 up
    ip netns exec box ip route add default via 192.168.77.1
    nft add table ip t; nft add chain ip t p \"{ type nat hook postrouting priority 100; }\"
    nft add rule ip t p ip saddr 192.168.77.0/24 masquerade'";

/// Two hosts of one store, one of which may reach this machine's loopback.
async fn neighbours(image: &str) {
    let first = Vm::new(&[("qemu-image", image)]).await;
    let second = Vm::new(&[("qemu-image", image), ("qemu-host-loopback", "true")]).await;
    let cache = first.root.path().join("cache");
    let host = |vm: &Vm| vm.view(&vm.root.path().join("mc1"), &cache);
    let (one, other) = (host(&first), host(&second));
    let (mut journal, mut other_journal) = (MemoryJournal::default(), MemoryJournal::default());
    first.driver.create(&one, &mut journal, &Silent).await.unwrap();
    second.driver.create(&other, &mut other_journal, &Silent).await.unwrap();
    let endpoint = first.driver.endpoint(&one, &journal.state()).await.unwrap();
    let other_endpoint = second.driver.endpoint(&other, &other_journal.state()).await.unwrap();
    for endpoint in [&endpoint, &other_endpoint] {
        Banner::default().look(endpoint).await.unwrap();
    }
    let inside = |endpoint: &Endpoint| endpoint.inside.clone().unwrap();
    assert_eq!(inside(&endpoint).network, inside(&other_endpoint).network);
    let (mine, others) = (inside(&endpoint).address, inside(&other_endpoint).address);
    // The SSH server of the other one, by TCP.
    let reaches = |vm: &Vm, endpoint: &Endpoint, address: std::net::IpAddr| {
        let question = format!("timeout 60 bash -c 'exec 3<>/dev/tcp/{address}/22 && head -n 1 <&3'");
        let banner = vm.ssh(endpoint, &question);
        assert!(banner.starts_with("SSH-2.0"), "{banner}");
    };
    reaches(&first, &endpoint, others);
    reaches(&second, &other_endpoint, mine);
    if image == "machineos" {
        first.ssh(&endpoint, &format!("sudo ping -c 1 -w 60 {others}"));
    }

    // A switch that was killed is there again, and so is the way.
    support::kill_switch(&cache);
    reaches(&first, &endpoint, others);

    if image == "machineos" {
        loopback(&first, &endpoint, false);
        loopback(&second, &other_endpoint, true);
    }
    // After another boot both are as they were.
    first.driver.stop(&one, &mut journal, &Silent).await.unwrap();
    first.driver.start(&one, &mut journal, &Silent).await.unwrap();
    Banner::default().look(&endpoint).await.unwrap();
    reaches(&second, &other_endpoint, mine);
    if image == "machineos" {
        loopback(&first, &endpoint, false);
    }
    first.driver.remove(&one, &mut journal, &Silent).await.unwrap();
    second.driver.remove(&other, &mut other_journal, &Silent).await.unwrap();
}

/// Whether a service on this machine's loopback is reached, from the VM and from a container on it.
fn loopback(vm: &Vm, endpoint: &Endpoint, expected: bool) {
    let service = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = service.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut client in service.incoming().flatten() {
            let _ = client.write_all(b"secret\n");
        }
    });
    // Of a connection that is not known any more, or not yet, the next packet may come from inside: it goes on all the
    // same.
    let remember = "sudo sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_established";
    vm.ssh(endpoint, &format!("{remember}=1"));
    assert_eq!(vm.ssh(endpoint, "echo first; sleep 5; echo alive"), "first\nalive");
    vm.ssh(endpoint, &format!("{remember}=432000"));
    vm.ssh(endpoint, CONTAINER);
    for prefix in ["", "sudo ip netns exec box "] {
        let heard = vm.ssh(endpoint, &format!("{prefix}nc -w 5 10.0.2.2 {port} </dev/null 2>&1 || true"));
        assert_eq!(heard.contains("secret"), expected, "{prefix}: {heard}");
        // The name server's port stays open to all: what refuses is not the VM.
        let asked = vm.ssh(endpoint, &format!("{prefix}nc -w 2 10.0.2.3 53 </dev/null 2>&1 || true"));
        assert!(!asked.contains("route") && !asked.contains("unreachable"), "{prefix}: {asked}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "boots real VMs"]
async fn neighbours_reach_each_other_and_not_the_loopback() {
    neighbours("machineos").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "boots real VMs"]
async fn debian_neighbours_reach_each_other() {
    neighbours("debian-12").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "boots real VMs"]
async fn machineos_boots_with_its_seed_and_its_ports_are_reachable() {
    let listen = "(while :; do echo hello | nc -l -p 8080; done) </dev/null >/dev/null 2>&1 &";
    first_boot_and_ports(&Vm::new(&[]).await, listen).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "boots real VMs"]
async fn debian_boots_with_its_seed_and_its_ports_are_reachable() {
    let listen = "perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(LocalPort => 8080, Listen => 1, \
                  ReuseAddr => 1); while ($c = $s->accept) { print $c \"hello\\n\"; close $c }' </dev/null >/dev/null 2>&1 &";
    first_boot_and_ports(&Vm::new(&[("qemu-image", "debian-12")]).await, listen).await;
}
