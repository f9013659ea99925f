//! The driver against a program that behaves like QEMU as far as the driver can see.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use machine_driver::{
    Driver, ErrorKind, HostId, HostKey, HostName, HostView, Journal, LoginKey, MemoryJournal, Options,
    Silent, State,
    conformance::{Crashes, Suite},
};
use machine_driver_qemu::Qemu;
use serde_json::Value;
use tempfile::TempDir;

mod support;

use support::{Everything, STAND_IN, fake_images};

fn driver(images: &TempDir) -> Qemu {
    Qemu::new().with_images(vec![images.path().to_owned()]).with_helper(STAND_IN.into())
}

#[tokio::test]
async fn keeps_the_contract_at_every_crash() {
    let images = fake_images();
    let driver = driver(&images);
    let report = Suite::new(&driver, &Everything)
        .option("qemu-binary", STAND_IN)
        .option("qemu-accelerator", "tcg")
        .option("qemu-image", "tiny")
        .refuses("qemu-memory", "1")
        .refuses("qemu-memory", "-1024")
        .refuses("qemu-cpu-count", "0")
        .refuses("qemu-disk-size", "0")
        .refuses("qemu-image", "..")
        .refuses("qemu-image", "-x")
        .refuses("qemu-accelerator", "fast")
        .refuses("qemu-address", "192.0.2.1")
        .refuses("qemu-address", "127.255.255.255")
        .refuses("qemu-ssh-user", "Root!")
        .crashes(Crashes::Everywhere)
        .limit(Duration::from_mins(1))
        .run()
        .await
        .unwrap();
    assert!(report.crashes > 50, "{report:?}");
}

/// One host, outside the suite.
struct Fixture {
    _images: TempDir,
    root: TempDir,
    driver: Qemu,
    name: HostName,
    id: HostId,
    config: Value,
    login: LoginKey,
    host_key: HostKey,
    journal: MemoryJournal,
}

impl Drop for Fixture {
    /// Also when a test fails, nothing is left running.
    fn drop(&mut self) {
        support::kill_all(&self.id);
    }
}

impl Fixture {
    async fn new(given: &[(&str, &str)]) -> Self {
        let images = fake_images();
        let driver = driver(&images);
        let usual = [("qemu-binary", STAND_IN), ("qemu-accelerator", "tcg"), ("qemu-image", "tiny")];
        let given = usual
            .iter()
            .chain(given)
            .map(|(name, value)| ((*name).to_owned(), vec![(*value).to_owned()]))
            .collect();
        let config = driver.configure(&Options::resolve(&driver.flags(), &given).unwrap()).await.unwrap();
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("mc1")).unwrap();
        Self {
            _images: images,
            root,
            driver,
            name: "mc1".parse().unwrap(),
            id: HostId::random(),
            config,
            login: LoginKey { public: "ssh-ed25519 AAAA login".into() },
            host_key: HostKey { public: "ssh-ed25519 AAAA".into(), private: "PRIVATE\n".into() },
            journal: MemoryJournal::default(),
        }
    }

    fn folder(&self) -> PathBuf {
        self.root.path().join("mc1")
    }

    /// The view, and what the calls need besides, so that they can be borrowed at once.
    fn parts<'a>(&'a mut self, paths: &'a (PathBuf, PathBuf)) -> (HostView, &'a Qemu, &'a mut MemoryJournal) {
        let view = HostView {
            name: self.name.clone(),
            id: self.id,
            owner: String::new(),
            folder: paths.0.clone(),
            cache: paths.1.clone(),
            config: self.config.clone(),
            place: None,
            login: Some(self.login.clone()),
            host_key: Some(self.host_key.clone()),
        };
        (view, &self.driver, &mut self.journal)
    }

    fn paths(&self) -> (PathBuf, PathBuf) {
        (self.folder(), self.root.path().join("cache"))
    }

    async fn create(&mut self) -> Result<(), machine_driver::DriverError> {
        let paths = self.paths();
        let (view, driver, journal) = self.parts(&paths);
        driver.create(&view, journal, &Silent).await
    }

    async fn check(&mut self) -> Result<machine_driver::Forecast, machine_driver::DriverError> {
        let paths = self.paths();
        let (view, driver, _) = self.parts(&paths);
        driver.check(&view).await
    }

    async fn remove(&mut self) {
        let paths = self.paths();
        let (view, driver, journal) = self.parts(&paths);
        driver.remove(&view, journal, &Silent).await.unwrap();
    }

    async fn address(&mut self) -> String {
        let paths = self.paths();
        let (view, driver, journal) = self.parts(&paths);
        driver.endpoint(&view, &journal.state()).await.unwrap().address
    }
}

/// Waits for something that has to become true.
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_mins(1), "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn taken(address: &str, port: u16) -> bool {
    TcpListener::bind((address, port)).is_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn published_ports_come_and_go_on_the_vms_address() {
    let mut host = Fixture::new(&[]).await;
    host.create().await.unwrap();
    let (address, said) = (host.address().await, host.folder().join("guest-ports"));
    fs::write(&said, " tcp:18080 tcp:18081 tcp:22 tcp:2376\n").unwrap();
    eventually("18080 and 18081 are forwarded", || taken(&address, 18080) && taken(&address, 18081));
    fs::write(&said, " tcp:18081\n").unwrap();
    eventually("18080 is free again", || !taken(&address, 18080));
    assert!(taken(&address, 18081) && taken(&address, 2376));

    // A forwarder that was killed is replaced by the next call, and the new one knows what there is.
    let forwarder = support::processes("__qemu-ports", &host.id);
    assert_eq!(forwarder.len(), 1);
    support::kill(forwarder[0]);
    eventually("the forwarder is gone", || support::processes("__qemu-ports", &host.id).is_empty());
    host.create().await.unwrap();
    assert_eq!(support::processes("__qemu-ports", &host.id).len(), 1);
    fs::write(&said, "\n").unwrap();
    eventually("18081 is free again", || !taken(&address, 18081));
    host.remove().await;
    assert!(support::processes("__qemu-ports", &host.id).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_refused_before_anything_is_made() {
    let mut host = Fixture::new(&[("qemu-address", "127.8.77.3")]).await;
    let _taken = TcpListener::bind("127.8.77.3:2376").unwrap();
    for error in [host.check().await.unwrap_err(), host.create().await.unwrap_err()] {
        assert_eq!(*error.kind(), ErrorKind::Refused);
        assert_eq!(error.to_string(), "Port 2376 is taken on 127.8.77.3");
    }
    assert_eq!(fs::read_dir(host.folder()).unwrap().count(), 0);
    assert!(host.journal.entries().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_is_not_given_to_two_hosts() {
    let mut first = Fixture::new(&[("qemu-address", "127.8.77.4")]).await;
    first.create().await.unwrap();
    let mut second = Fixture::new(&[("qemu-address", "127.8.77.4")]).await;
    // Of the same store, so with the same cache; the first one is off.
    let paths = (second.folder(), first.root.path().join("cache"));
    let first_paths = first.paths();
    let (view, driver, journal) = first.parts(&first_paths);
    driver.kill(&view, journal, &Silent).await.unwrap();
    let (view, driver, journal) = second.parts(&paths);
    let error = driver.create(&view, journal, &Silent).await.unwrap_err();
    assert_eq!(error.to_string(), "The address 127.8.77.4 belongs to another host");
    assert!(driver.check(&view).await.is_err());
    first.remove().await;
    let (view, driver, journal) = second.parts(&paths);
    driver.create(&view, journal, &Silent).await.unwrap();
    driver.remove(&view, journal, &Silent).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_a_port_taken_meanwhile_says_so() {
    let mut host = Fixture::new(&[]).await;
    host.create().await.unwrap();
    let address = host.address().await;
    let paths = host.paths();
    let (view, driver, journal) = host.parts(&paths);
    driver.kill(&view, journal, &Silent).await.unwrap();
    let taken = TcpListener::bind((address.as_str(), 2376)).unwrap();
    let error = driver.start(&view, journal, &Silent).await.unwrap_err();
    assert_eq!(error.to_string(), format!("Port 2376 is taken on {address}"));
    drop(taken);
    driver.start(&view, journal, &Silent).await.unwrap();
    assert_eq!(driver.state(&view, &journal.state()).await.unwrap(), State::Running);
    host.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_ignores_its_power_button_can_be_killed() {
    let mut host = Fixture::new(&[]).await;
    host.create().await.unwrap();
    fs::write(host.folder().join("ignore-power-button"), "").unwrap();
    let paths = host.paths();
    let (view, driver, journal) = host.parts(&paths);
    let stop = tokio::time::timeout(Duration::from_secs(1), driver.stop(&view, journal, &Silent)).await;
    assert!(stop.is_err(), "it stopped all the same");
    assert_eq!(driver.state(&view, &journal.state()).await.unwrap(), State::Running);
    driver.kill(&view, journal, &Silent).await.unwrap();
    assert_eq!(driver.state(&view, &journal.state()).await.unwrap(), State::Stopped);
    host.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_killed_from_outside_is_stopped_and_starts_again() {
    let mut host = Fixture::new(&[]).await;
    host.create().await.unwrap();
    support::processes("-uuid", &host.id).into_iter().for_each(support::kill);
    eventually("QEMU is gone", || support::processes("-uuid", &host.id).is_empty());
    let paths = host.paths();
    let (view, driver, journal) = host.parts(&paths);
    assert_eq!(driver.state(&view, &journal.state()).await.unwrap(), State::Stopped);
    driver.start(&view, journal, &Silent).await.unwrap();
    assert_eq!(driver.state(&view, &journal.state()).await.unwrap(), State::Running);
    assert_eq!(driver.console(&view, &Value::Null, 9).await.unwrap(), "the stand-in booted");
    assert!(view.folder.join("console.log.1").exists());
    host.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_disk_is_told_and_not_replaced_by_an_empty_one() {
    let mut host = Fixture::new(&[]).await;
    host.create().await.unwrap();
    let paths = host.paths();
    let (view, driver, journal) = host.parts(&paths);
    driver.kill(&view, journal, &Silent).await.unwrap();
    fs::remove_file(view.folder.join("disk.qcow2")).unwrap();
    let error = driver.start(&view, journal, &Silent).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Gone);
    assert!(!view.folder.join("disk.qcow2").exists());
    host.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_qemu_complains_about_is_passed_on() {
    let mut host = Fixture::new(&[]).await;
    let script = host.root.path().join("broken-qemu");
    let text = "#!/bin/sh\n[ \"$1\" = --version ] && echo QEMU emulator version 9.0.0 && exit\necho 'qemu: no such machine' >&2; exit 1\n";
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    host.config["binary"] = script.to_str().unwrap().into();
    let error = host.create().await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.ends_with("does not run the VM: qemu: no such machine"), "{cause}");
    host.remove().await;
    assert_eq!(fs::read_dir(host.folder()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_whose_path_is_too_long_for_sockets_works() {
    let mut host = Fixture::new(&[]).await;
    let long = host.root.path().join("a, b\"c".repeat(15)).join("x".repeat(100));
    fs::create_dir_all(&long).unwrap();
    let paths = (long, host.root.path().join("cache"));
    let (view, driver, journal) = host.parts(&paths);
    driver.create(&view, journal, &Silent).await.unwrap();
    assert_eq!(driver.state(&view, &journal.state()).await.unwrap(), State::Running);
    driver.stop(&view, journal, &Silent).await.unwrap();
    driver.remove(&view, journal, &Silent).await.unwrap();
    assert_eq!(fs::read_dir(view.folder).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_seed_is_private_and_its_secrets_are_nowhere_else() {
    let mut host = Fixture::new(&[]).await;
    host.create().await.unwrap();
    let seed = host.folder().join("seed.iso");
    assert_eq!(fs::metadata(&seed).unwrap().permissions().mode() & 0o777, 0o600);
    let with_secret: Vec<PathBuf> = files_below(host.root.path())
        .into_iter()
        .filter(|path| fs::read(path).is_ok_and(|text| text.windows(7).any(|part| part == b"PRIVATE")))
        .collect();
    assert_eq!(with_secret, [seed]);
    assert!(!host.journal.state().to_string().contains("PRIVATE"));
    host.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_remembered_of_an_image_holds_after_the_store_was_moved() {
    let mut host = Fixture::new(&[]).await;
    host.create().await.unwrap();
    let old = host.paths();
    let (view, driver, journal) = host.parts(&old);
    driver.stop(&view, journal, &Silent).await.unwrap();
    assert!(!journal.state()["image"].to_string().contains(old.1.to_str().unwrap()), "{}", journal.state());
    let moved = host.root.path().join("moved");
    fs::create_dir(&moved).unwrap();
    let new = (moved.join("mc1"), moved.join("cache"));
    fs::rename(&old.0, &new.0).unwrap();
    fs::rename(&old.1, &new.1).unwrap();
    let (view, driver, journal) = host.parts(&new);
    driver.start(&view, journal, &Silent).await.unwrap();
    driver.remove(&view, journal, &Silent).await.unwrap();
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            files.extend(files_below(&entry.path()));
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    files
}
