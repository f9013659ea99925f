//! The network inside a store, between programs that behave like QEMU as far as the driver can see.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    time::{Duration, Instant},
};

use machine_driver::{
    Driver, HostId, HostKey, HostName, HostView, Journal, LoginKey, MemoryJournal, Options, Silent, State,
};
use machine_driver_qemu::Qemu;
use machine_switch::Network;
use serde_json::Value;
use tempfile::TempDir;

mod support;

use support::{STAND_IN, fake_images};

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(30), "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A store with its hosts.
struct Store {
    root: TempDir,
    _images: TempDir,
    driver: Qemu,
    owner: HostId,
    login: LoginKey,
    host_key: HostKey,
    hosts: Vec<Host>,
}

struct Host {
    name: HostName,
    id: HostId,
    config: Value,
    journal: MemoryJournal,
}

impl Drop for Store {
    /// Also when a test fails, nothing is left running.
    fn drop(&mut self) {
        for host in &self.hosts {
            support::kill_all(&host.id);
        }
        support::kill_switch(&self.cache());
    }
}

impl Store {
    fn new() -> Self {
        let images = fake_images();
        Self {
            root: tempfile::tempdir().unwrap(),
            owner: HostId::random(),
            driver: Qemu::new().with_images(vec![images.path().to_owned()]).with_helper(STAND_IN.into()),
            _images: images,
            login: LoginKey { public: "ssh-ed25519 AAAA login".into() },
            host_key: HostKey { public: "ssh-ed25519 AAAA".into(), private: "PRIVATE\n".into() },
            hosts: Vec::new(),
        }
    }

    async fn with(hosts: usize) -> Self {
        let mut store = Self::new();
        for _ in 0..hosts {
            store.create(STAND_IN).await;
        }
        store
    }

    /// Makes another host, and returns its number.
    async fn create(&mut self, binary: &str) -> usize {
        let given = [("qemu-binary", binary), ("qemu-accelerator", "tcg"), ("qemu-image", "tiny")]
            .map(|(name, value)| (name.to_owned(), vec![value.to_owned()]));
        let options = Options::resolve(&self.driver.flags(), &given.into()).unwrap();
        let number = self.hosts.len();
        self.hosts.push(Host {
            name: format!("mc{number}").parse().unwrap(),
            id: HostId::random(),
            config: self.driver.configure(&options).await.unwrap(),
            journal: MemoryJournal::default(),
        });
        fs::create_dir(self.folder(number)).unwrap();
        let mut journal = std::mem::take(&mut self.hosts[number].journal);
        self.driver.create(&self.view(number), &mut journal, &Silent).await.unwrap();
        self.hosts[number].journal = journal;
        number
    }

    fn folder(&self, host: usize) -> PathBuf {
        self.root.path().join(format!("mc{host}"))
    }

    fn cache(&self) -> PathBuf {
        self.root.path().join("cache")
    }

    fn network(&self) -> Network {
        Network::existing(&self.cache().join("qemu/network")).unwrap()
    }

    fn view(&self, host: usize) -> HostView {
        let Host { name, id, config, .. } = &self.hosts[host];
        HostView {
            name: name.clone(),
            id: *id,
            owner: self.owner.to_string(),
            folder: self.folder(host),
            cache: self.cache(),
            config: config.clone(),
            place: None,
            login: Some(self.login.clone()),
            host_key: Some(self.host_key.clone()),
        }
    }

    async fn start(&mut self, host: usize) {
        let mut journal = std::mem::take(&mut self.hosts[host].journal);
        self.driver.start(&self.view(host), &mut journal, &Silent).await.unwrap();
        self.hosts[host].journal = journal;
    }

    async fn stop(&mut self, host: usize) {
        let mut journal = std::mem::take(&mut self.hosts[host].journal);
        self.driver.stop(&self.view(host), &mut journal, &Silent).await.unwrap();
        self.hosts[host].journal = journal;
    }

    async fn remove(&mut self, host: usize) {
        let mut journal = std::mem::take(&mut self.hosts[host].journal);
        self.driver.remove(&self.view(host), &mut journal, &Silent).await.unwrap();
        self.hosts[host].journal = journal;
    }

    /// The address and the hardware address of a host on the network inside.
    fn inside(&self, host: usize) -> (Ipv4Addr, [u8; 6]) {
        let state = self.hosts[host].journal.state();
        let address: Ipv4Addr = state["inside"]["address"].as_str().unwrap().parse().unwrap();
        let [first, second, third, fourth] = address.octets();
        (address, [0x52, 0x54, first, second, third, fourth])
    }

    /// A question for all from one host, in which it calls itself what another one is.
    fn question(&self, as_host: usize) -> Vec<u8> {
        let (address, mac) = self.inside(as_host);
        let mut frame = [[0xff; 6], mac].concat();
        frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
        frame.extend(mac);
        frame.extend(address.octets());
        frame.extend([0; 10]);
        frame
    }

    fn send(&self, from: usize, frame: &[u8]) {
        let (partial, whole) = (self.folder(from).join("partial"), self.folder(from).join("frame"));
        fs::write(&partial, frame).unwrap();
        fs::rename(&partial, &whole).unwrap();
        eventually("the VM has sent it", || !whole.exists());
    }

    fn has_heard(&self, host: usize, frame: &[u8]) -> bool {
        let heard = fs::read(self.folder(host).join("frames")).unwrap_or_default();
        heard.windows(frame.len()).any(|part| part == frame)
    }

    /// Sends until it comes over, as TCP does.
    fn reaches(&self, from: usize, to: usize) {
        let frame = self.question(from);
        eventually("one host reaches the other", || {
            self.send(from, &frame);
            self.has_heard(to, &frame)
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_of_a_store_reach_each_other_and_nobody_else_does() {
    let mut store = Store::with(3).await;
    let other_store = Store::with(1).await;
    let mode = fs::metadata(store.network().folder()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    store.reaches(0, 1);
    store.reaches(1, 0);
    // What another host says in its name is not passed on; what comes after it is.
    fs::remove_file(store.folder(2).join("frames")).unwrap();
    store.send(0, &store.question(1));
    store.reaches(0, 2);
    assert!(!store.has_heard(2, &store.question(1)));
    assert!(!other_store.folder(0).join("frames").exists());

    // The addresses stay when a host is off, and are given back when it is gone.
    let before = store.inside(1);
    store.stop(1).await;
    store.start(1).await;
    assert_eq!(store.inside(1), before);
    store.reaches(0, 1);
    let network = store.network();
    for host in 0..3 {
        assert!(network.is_served());
        store.remove(host).await;
    }
    eventually("the switch has ended with the last VM", || !network.is_served());
    assert_eq!(fs::read_dir(store.cache().join("qemu/inside")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_that_was_killed_comes_again_by_itself() {
    let store = Store::with(2).await;
    store.reaches(0, 1);
    support::kill_switch(&store.cache());
    eventually("there is a new one", || store.network().is_served());
    fs::remove_file(store.folder(1).join("frames")).unwrap();
    store.reaches(0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_inside_is_told_and_is_in_the_seed() {
    let store = Store::with(1).await;
    let (address, mac) = store.inside(0);
    let seed = fs::read(store.folder(0).join("seed.iso")).unwrap();
    let has = |text: &str| seed.windows(text.len()).any(|part| part == text.as_bytes());
    let mac: Vec<String> = mac.iter().map(|octet| format!("{octet:02x}")).collect();
    assert!(has("ethernets") && has(&format!("{address}/20")) && has(&mac.join(":")));
    let state = store.hosts[0].journal.state();
    let inside = store.driver.endpoint(&store.view(0), &state).await.unwrap().inside.unwrap();
    assert_eq!(inside.address, address);
    assert!(inside.network.contains(&store.owner.to_string()), "{inside:?}");
}

/// A VM of an older version has no second interface, and its record says nothing of one.
#[tokio::test(flavor = "multi_thread")]
async fn a_vm_without_the_network_still_starts() {
    let mut store = Store::with(2).await;
    store.stop(0).await;
    let mut state = store.hosts[0].journal.state();
    state.as_object_mut().unwrap().remove("inside");
    store.hosts[0].journal.set_state(state).await.unwrap();
    store.start(0).await;
    let pid = support::processes("-uuid", &store.hosts[0].id)[0];
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(!line.contains("dgram"), "{line}");
    store.remove(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_qemu_runs_vms_without_the_network() {
    let mut store = Store::new();
    let old = store.root.path().join("old-qemu");
    let script = format!(
        "#!/bin/sh\ncase \" $* \" in *--version*) echo 'QEMU emulator version 6.2.0'; exit;; esac\nexec {STAND_IN} \"$@\"\n"
    );
    fs::write(&old, script).unwrap();
    fs::set_permissions(&old, fs::Permissions::from_mode(0o755)).unwrap();
    let host = store.create(old.to_str().unwrap()).await;
    assert_eq!(store.hosts[host].journal.state().get("inside"), None::<&Value>);
    let state = store.hosts[host].journal.state();
    let view = store.view(host);
    assert_eq!(store.driver.state(&view, &state).await.unwrap(), State::Running);
    assert_eq!(store.driver.endpoint(&view, &state).await.unwrap().inside, None);
    store.remove(host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_cannot_be_used_keeps_no_vm_from_running() {
    let mut store = Store::new();
    fs::create_dir_all(store.cache().join("qemu")).unwrap();
    fs::write(store.cache().join("qemu/network"), "no folder").unwrap();
    let host = store.create(STAND_IN).await;
    let state = store.hosts[host].journal.state();
    assert_eq!(store.driver.state(&store.view(host), &state).await.unwrap(), State::Running);
    store.remove(host).await;
}
