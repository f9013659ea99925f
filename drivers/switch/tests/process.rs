//! The process with sockets in place of VMs.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    net::IpAddr,
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    path::Path,
    time::{Duration, Instant},
};

use machine_switch::{MacAddress, Network, Settings};
use tempfile::TempDir;

const STAND_IN: &str = env!("CARGO_BIN_EXE_machine-switch-stand-in");
const LIMIT: Duration = Duration::from_secs(20);

fn mac(number: u8) -> MacAddress {
    MacAddress([0x52, 0x54, 0, 0, 0, number])
}

fn settings(number: u8) -> Settings {
    Settings {
        mac: Some(mac(number)),
        addresses: vec![IpAddr::from([10, 0, 0, number])],
        ..Settings::default()
    }
}

/// A frame that an address sends to another, or to all.
fn frame(from: u8, to: MacAddress) -> Vec<u8> {
    let mut frame = [to.0, mac(from).0].concat();
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend(mac(from).0);
    frame.extend([10, 0, 0, from]);
    frame.extend([0; 10]);
    frame
}

/// What QEMU does with `-netdev dgram`.
struct Vm {
    socket: UnixDatagram,
    switch: std::path::PathBuf,
}

impl Vm {
    fn new(network: &Network, name: &str) -> Self {
        let path = network.folder().join(Network::port_socket(name));
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        Self { socket, switch: network.folder().join(Network::switch_socket()) }
    }

    fn send(&self, frame: &[u8]) {
        // Without a switch it is lost.
        let _ = self.socket.send_to(frame, &self.switch);
    }

    fn hear(&self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 2000];
        let length = self.socket.recv(&mut bytes).ok()?;
        bytes.truncate(length);
        Some(bytes)
    }
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < LIMIT, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

struct Fixture {
    _root: TempDir,
    network: Network,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if let Some(pid) = pid(self.network.folder()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

fn pid(folder: &Path) -> Option<rustix::process::Pid> {
    Network::existing(folder).filter(Network::is_served)?;
    rustix::process::Pid::from_raw(fs::read_to_string(folder.join("lock")).ok()?.trim().parse().ok()?)
}

fn network() -> Fixture {
    let root = tempfile::tempdir().unwrap();
    // Longer than the address of a socket may be.
    let folder = root.path().join("x".repeat(120)).join("network");
    let network = Network::open(&folder).unwrap();
    Fixture { _root: root, network }
}

/// The sockets of the tests' own need short paths.
fn short_network() -> Fixture {
    let root = tempfile::tempdir().unwrap();
    let network = Network::open(&root.path().join("network")).unwrap();
    Fixture { _root: root, network }
}

fn serve(network: &Network) {
    network.serve(Path::new(STAND_IN)).unwrap();
}

#[test]
fn vms_reach_each_other_also_after_the_switch_was_killed() {
    let fixture = short_network();
    let network = &fixture.network;
    network.plug("a", &settings(1)).unwrap();
    network.plug("b", &settings(2)).unwrap();
    let (a, b) = (Vm::new(network, "a"), Vm::new(network, "b"));
    serve(network);
    a.send(&frame(1, mac(2)));
    assert_eq!(b.hear(), Some(frame(1, mac(2))));
    // Spoofed, and then honest: only the second comes out.
    a.send(&frame(2, mac(2)));
    a.send(&frame(1, MacAddress([0xff; 6])));
    assert_eq!(b.hear(), Some(frame(1, MacAddress([0xff; 6]))));

    let before = pid(network.folder()).unwrap();
    rustix::process::kill_process(before, rustix::process::Signal::KILL).unwrap();
    eventually("the switch is dead", || !network.is_served());
    a.send(&frame(1, mac(2)));
    serve(network);
    assert_ne!(pid(network.folder()), Some(before));
    b.send(&frame(2, mac(1)));
    assert_eq!(a.hear(), Some(frame(2, mac(1))));

    // A VM that comes later, and one whose port is taken away.
    network.plug("c", &settings(3)).unwrap();
    let c = Vm::new(network, "c");
    c.send(&frame(3, mac(1)));
    assert_eq!(a.hear(), Some(frame(3, mac(1))));
    // What was unplugged is not heard; what another one sends after it is. The switch takes up the change before that.
    network.unplug("c").unwrap();
    c.send(&frame(3, mac(1)));
    b.send(&frame(2, mac(1)));
    assert_eq!(a.hear(), Some(frame(2, mac(1))));
}

#[test]
fn only_its_user_gets_at_the_network() {
    let fixture = network();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(fixture.network.folder()), 0o700);
    fs::set_permissions(fixture.network.folder(), fs::Permissions::from_mode(0o755)).unwrap();
    Network::open(fixture.network.folder()).unwrap();
    assert_eq!(mode(fixture.network.folder()), 0o700);
    for name in ["", "../x", "a/b", "switch", "a.b"] {
        assert!(fixture.network.plug(name, &settings(1)).is_err(), "{name}");
    }
}

#[test]
fn many_at_once_start_one_switch() {
    let fixture = network();
    let network = &fixture.network;
    let _starting = network.starting().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| serve(network));
        }
    });
    let first = pid(network.folder()).unwrap();
    serve(network);
    assert_eq!(pid(network.folder()), Some(first));
}

#[test]
fn the_switch_ends_with_the_last_vm_and_not_while_one_is_started() {
    let fixture = short_network();
    let network = &fixture.network;
    let starting = network.starting().unwrap();
    network.plug("a", &settings(1)).unwrap();
    serve(network);
    // Asked to look around while no VM is there, and then given a frame by one that is gone by then.
    let switch = pid(network.folder()).unwrap();
    rustix::process::kill_process(switch, rustix::process::Signal::STOP).unwrap();
    network.poke();
    let vm = Vm::new(network, "a");
    vm.send(b"malformed");
    drop(vm);
    rustix::process::kill_process(switch, rustix::process::Signal::CONT).unwrap();
    let log = network.folder().join("log");
    eventually("it went on after looking around", || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("dropped from a: Malformed"))
    });

    network.plug("b", &settings(2)).unwrap();
    let (vm, other) = (Vm::new(network, "a"), Vm::new(network, "b"));
    drop(starting);
    network.poke();
    other.send(&frame(2, mac(1)));
    assert!(vm.hear().is_some());
    drop(other);
    drop(vm);
    network.poke();
    eventually("the switch has ended", || !network.is_served());
    assert!(!network.folder().join(Network::switch_socket()).exists());
    // And it comes again.
    let _starting = network.starting().unwrap();
    serve(network);
    assert!(network.is_served());
}

#[test]
fn settings_that_cannot_be_read_let_nothing_through() {
    let fixture = short_network();
    let network = &fixture.network;
    network.plug("a", &settings(1)).unwrap();
    network.plug("b", &settings(2)).unwrap();
    let (a, b) = (Vm::new(network, "a"), Vm::new(network, "b"));
    fs::write(network.folder().join("a.json"), "{\"mac\": \"no\"}").unwrap();
    serve(network);
    a.send(&frame(1, mac(2)));
    a.send(&[]);
    a.send(&vec![0; 20_000]);
    network.plug("c", &settings(3)).unwrap();
    let c = Vm::new(network, "c");
    c.send(&frame(3, MacAddress([0xff; 6])));
    assert_eq!(b.hear(), Some(frame(3, MacAddress([0xff; 6]))), "nothing of what came before");
    network.plug("a", &settings(1)).unwrap();
    a.send(&frame(1, mac(2)));
    assert_eq!(b.hear(), Some(frame(1, mac(2))));
}
