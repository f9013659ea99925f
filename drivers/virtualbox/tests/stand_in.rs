//! The driver against a program that behaves like VBoxManage as far as the driver can see.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::{
    error::Error,
    fs,
    net::{TcpListener, UdpSocket},
    path::PathBuf,
    time::{Duration, Instant},
};

use machine_driver::{
    Driver, DriverError, ErrorKind, HostId, HostKey, HostName, HostView, Journal as _, LoginKey,
    MemoryJournal, Options, Silent, State,
    conformance::{Crashes, Suite},
};
use machine_driver_virtualbox::VirtualBox;
use serde_json::Value;
use tempfile::TempDir;

mod support;

use support::{Bench, Everything, files, files_below};

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract_at_every_crash() {
    let bench = Bench::new();
    let driver = bench.driver();
    let report = Suite::new(&driver, &Everything(&bench))
        .option("virtualbox-image", "tiny")
        .refuses("virtualbox-memory", "1")
        .refuses("virtualbox-memory", "-1024")
        .refuses("virtualbox-cpu-count", "33")
        .refuses("virtualbox-disk-size", "0")
        .refuses("virtualbox-image", "..")
        .refuses("virtualbox-image", "-x")
        .refuses("virtualbox-image", "/a\nb")
        .refuses("virtualbox-nat-nictype", "fast")
        .refuses("virtualbox-ui-type", "$(x)")
        .refuses("virtualbox-address", "192.0.2.1")
        .refuses("virtualbox-address", "127.255.255.255")
        .refuses("virtualbox-ssh-user", "Root!")
        .refuses("virtualbox-boot2docker-url", "https://example.org/x.iso")
        .crashes(Crashes::Everywhere)
        .limit(Duration::from_mins(1))
        .run()
        .await
        .unwrap();
    assert!(report.crashes > 50, "{report:?}");
}

/// One host, outside the suite.
struct Fixture {
    bench: Bench,
    root: TempDir,
    driver: VirtualBox,
    name: HostName,
    id: HostId,
    config: Value,
    journal: MemoryJournal,
}

impl Fixture {
    async fn new(given: &[(&str, &str)]) -> Self {
        let bench = Bench::new();
        let driver = bench.driver();
        let given = [("virtualbox-image", "tiny")]
            .iter()
            .chain(given)
            .map(|(name, value)| ((*name).to_owned(), vec![(*value).to_owned()]))
            .collect();
        let config = driver.configure(&Options::resolve(&driver.flags(), &given).unwrap()).await.unwrap();
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("mc1")).unwrap();
        Self {
            bench,
            root,
            driver,
            name: "mc1".parse().unwrap(),
            id: HostId::random(),
            config,
            journal: MemoryJournal::default(),
        }
    }

    fn folder(&self) -> PathBuf {
        self.root.path().join("mc1")
    }

    fn view(&self) -> HostView {
        HostView {
            name: self.name.clone(),
            id: self.id,
            owner: "6f0e7c1a-5d2b-4f6e-9c3a-2b8d4e1f0a57".into(),
            folder: self.folder(),
            cache: self.root.path().join("cache"),
            config: self.config.clone(),
            place: None,
            login: Some(LoginKey { public: "ssh-ed25519 AAAA login".into() }),
            host_key: Some(HostKey { public: "ssh-ed25519 AAAA".into(), private: "PRIVATE\n".into() }),
        }
    }

    async fn check(&self) -> Result<(), DriverError> {
        self.driver.check(&self.view()).await.map(drop)
    }

    async fn create(&mut self) -> Result<(), DriverError> {
        self.driver.create(&self.view(), &mut self.journal, &Silent).await
    }

    async fn start(&mut self) -> Result<(), DriverError> {
        self.driver.start(&self.view(), &mut self.journal, &Silent).await
    }

    async fn stop(&mut self) -> Result<(), DriverError> {
        self.driver.stop(&self.view(), &mut self.journal, &Silent).await
    }

    async fn kill(&mut self) -> Result<(), DriverError> {
        self.driver.kill(&self.view(), &mut self.journal, &Silent).await
    }

    async fn remove(&mut self) -> Result<(), DriverError> {
        self.driver.remove(&self.view(), &mut self.journal, &Silent).await
    }

    async fn state(&self) -> State {
        self.driver.state(&self.view(), &self.journal.state()).await.unwrap()
    }

    async fn address(&self) -> String {
        self.driver.endpoint(&self.view(), &self.journal.state()).await.unwrap().address
    }

    /// The stand-in, called as by somebody else.
    fn by_hand(&self, words: &[&str]) {
        let home = self.bench.home.path();
        let done =
            std::process::Command::new(support::STAND_IN).args(words).env("VBOX_USER_HOME", home).output();
        let done = done.unwrap();
        assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    async fn nothing_is_left(&mut self) {
        self.remove().await.unwrap();
        assert_eq!(files(&self.folder()), [""; 0]);
        assert_eq!(self.bench.registry()["vms"].as_object().map_or(0, serde_json::Map::len), 0);
        assert_eq!(
            self.bench.registry()["media"].as_array().map_or(0, Vec::len),
            0,
            "{}",
            self.bench.registry()
        );
        assert!(self.journal.entries().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_of_docker_machine_is_started_stopped_and_removed() {
    let mut host = Fixture::new(&[]).await;
    let folder = host.folder();
    let (base, console) = (folder.to_str().unwrap(), folder.join("console"));
    let id = HostId::random().to_string();
    host.by_hand(&[
        "createvm",
        "--name",
        "mc1",
        "--uuid",
        &id,
        "--basefolder",
        base,
        "--ostype",
        "Linux26_64",
        "--register",
    ]);
    host.by_hand(&[
        "modifyvm",
        &id,
        "--uart1",
        "0x3F8",
        "4",
        "--uartmode1",
        "file",
        console.to_str().unwrap(),
    ]);
    host.config = serde_json::json!({
        "VBoxManager": {}, "HostOnlyCIDR": "192.168.99.1/24", "MachineName": "mc1", "IPAddress": "192.168.99.100",
        "SSHUser": "docker", "SSHPort": 41999, "SSHKeyPath": "/s/id_rsa", "UIType": "",
    });
    assert_eq!(host.state().await, State::Stopped);
    assert_eq!(host.address().await, "192.168.99.100");
    let taken = TcpListener::bind("127.0.0.1:41999").unwrap();
    assert_eq!(host.start().await.unwrap_err().to_string(), "Port 41999 is taken on 127.0.0.1");
    drop(taken);
    host.start().await.unwrap();
    host.start().await.unwrap();
    assert_eq!(host.state().await, State::Running);
    host.stop().await.unwrap();
    assert_eq!(host.state().await, State::Stopped);
    host.start().await.unwrap();
    host.kill().await.unwrap();
    fs::remove_file(&console).unwrap();
    host.nothing_is_left().await;
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

/// The error and its causes.
fn chain(error: &DriverError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn published_ports_come_and_go_on_the_vms_address() {
    let mut host = Fixture::new(&[]).await;
    host.create().await.unwrap();
    let (address, said) = (host.address().await, host.folder().join("guest-ports"));
    let elsewhere = TcpListener::bind((address.as_str(), 18082)).unwrap();
    fs::write(&said, " tcp:18080 tcp:18081 udp:18080 tcp:18082 tcp:22 tcp:2376\n").unwrap();
    eventually("18080 and 18081 are forwarded", || taken(&address, 18080) && taken(&address, 18081));
    eventually("and 18080 of UDP", || UdpSocket::bind((address.as_str(), 18080)).is_err());
    fs::write(&said, " tcp:18081\n").unwrap();
    eventually("18080 is free again", || !taken(&address, 18080));
    assert!(taken(&address, 18081) && taken(&address, 2376));
    let log = fs::read_to_string(host.folder().join("ports.log")).unwrap();
    assert!(
        log.contains("+ tcp-18080\n") && log.contains(&format!("! tcp-18082 is taken on {address}\n")),
        "{log}"
    );
    drop(elsewhere);
    // What the last run forwarded is no part of the next one.
    host.kill().await.unwrap();
    assert!(!host.folder().join("ports.lock").exists());
    fs::remove_file(&said).unwrap();
    host.start().await.unwrap();
    assert!(!taken(&address, 18081) && taken(&address, 2376));
    host.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_refused_before_anything_is_made() {
    let mut host = Fixture::new(&[("virtualbox-address", "127.8.78.3")]).await;
    let _taken = TcpListener::bind("127.8.78.3:2376").unwrap();
    for error in [host.check().await.unwrap_err(), host.create().await.unwrap_err()] {
        assert_eq!(*error.kind(), ErrorKind::Refused);
        assert_eq!(error.to_string(), "Port 2376 is taken on 127.8.78.3");
    }
    host.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_a_port_taken_meanwhile_says_so() {
    let mut host = Fixture::new(&[]).await;
    host.create().await.unwrap();
    let address = host.address().await;
    host.kill().await.unwrap();
    let taken = TcpListener::bind((address.as_str(), 2376)).unwrap();
    let error = host.start().await.unwrap_err();
    assert_eq!(error.to_string(), format!("Port 2376 is taken on {address}"));
    drop(taken);
    host.start().await.unwrap();
    assert_eq!(host.state().await, State::Running);
    host.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_virtualbox_could_not_bind_is_found() {
    let mut host = Fixture::new(&[]).await;
    let steer = host.folder().join("bind-nothing");
    fs::write(&steer, "").unwrap();
    for _ in 0..2 {
        let error = host.create().await.unwrap_err();
        assert!(
            error.to_string().contains("does not lead to it: VirtualBox could not take that port"),
            "{error}"
        );
    }
    host.kill().await.unwrap();
    fs::remove_file(&steer).unwrap();
    host.create().await.unwrap();
    host.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_there_is_127_0_0_1_only_ports_are_free_ones() {
    let mut host = Fixture::new(&[("virtualbox-address", "127.0.0.1")]).await;
    host.create().await.unwrap();
    let endpoint = host.driver.endpoint(&host.view(), &host.journal.state()).await.unwrap();
    let ssh = endpoint.ssh.clone().unwrap();
    assert!(endpoint.engine_port > 1023 && ssh.port > 1023 && ssh.port != endpoint.engine_port);
    assert_eq!(endpoint.url(), format!("tcp://127.0.0.1:{}", endpoint.engine_port));
    assert!(taken("127.0.0.1", ssh.port));
    host.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_ignores_its_power_button_can_be_killed() {
    let mut host = Fixture::new(&[]).await;
    host.create().await.unwrap();
    fs::write(host.folder().join("ignore-power-button"), "").unwrap();
    let stop = tokio::time::timeout(Duration::from_secs(1), host.stop()).await;
    assert!(stop.is_err(), "it stopped all the same");
    assert_eq!(host.state().await, State::Running);
    host.kill().await.unwrap();
    assert_eq!(host.state().await, State::Stopped);
    fs::remove_file(host.folder().join("ignore-power-button")).unwrap();
    host.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_and_saved_vms_are_told_from_others_and_go_on() {
    let mut host = Fixture::new(&[]).await;
    host.create().await.unwrap();
    let id = host.id.to_string();
    host.by_hand(&["controlvm", &id, "pause"]);
    assert_eq!(host.state().await, State::Paused);
    host.start().await.unwrap();
    assert_eq!(host.state().await, State::Running);
    host.by_hand(&["controlvm", &id, "pause"]);
    host.stop().await.unwrap();
    host.start().await.unwrap();
    host.by_hand(&["controlvm", &id, "savestate"]);
    eventually("it is saved", || {
        fs::read_to_string(host.bench.home.path().join(format!("vm-{id}.state"))).unwrap() == "saved"
    });
    assert_eq!(host.state().await, State::Saved);
    // What it did is not thrown away.
    host.stop().await.unwrap();
    assert_eq!(host.state().await, State::Saved);
    host.start().await.unwrap();
    assert_eq!(host.state().await, State::Running);
    host.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_removed_behind_our_back_is_gone() {
    let mut host = Fixture::new(&[]).await;
    host.create().await.unwrap();
    host.kill().await.unwrap();
    host.by_hand(&["unregistervm", &host.id.to_string(), "--delete"]);
    assert_eq!(host.state().await, State::None);
    for error in
        [host.start().await.unwrap_err(), host.stop().await.unwrap_err(), host.kill().await.unwrap_err()]
    {
        assert!(error.is_gone(), "{error}");
        assert_eq!(
            error.hint().unwrap(),
            "If it was removed there, remove the host as well: `machine rm mc1`"
        );
    }
    host.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_whose_settings_are_lost_does_not_work_and_can_be_removed() {
    let mut host = Fixture::new(&[]).await;
    host.create().await.unwrap();
    host.kill().await.unwrap();
    let settings = files_below(&host.folder())
        .into_iter()
        .find(|path| path.extension().is_some_and(|end| end == "vbox"));
    fs::remove_file(settings.unwrap()).unwrap();
    assert_eq!(host.state().await, State::Error);
    let error = host.start().await.unwrap_err();
    assert!(error.to_string().contains("cannot read the settings"), "{error}");
    host.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_of_that_id_in_another_folder_is_left_alone() {
    let mut host = Fixture::new(&[]).await;
    let (id, elsewhere) = (host.id.to_string(), tempfile::tempdir().unwrap());
    let base = elsewhere.path().to_str().unwrap();
    host.by_hand(&[
        "createvm",
        "--name",
        "theirs",
        "--uuid",
        &id,
        "--basefolder",
        base,
        "--ostype",
        "Linux26_64",
        "--register",
    ]);
    for error in [host.check().await.unwrap_err(), host.create().await.unwrap_err()] {
        assert!(error.to_string().starts_with("The VM of `mc1` belongs to another folder"), "{error}");
    }
    host.remove().await.unwrap();
    host.driver.salvage(&host.view(), &mut host.journal, &Silent).await.unwrap();
    assert!(elsewhere.path().join("theirs/theirs.vbox").exists());
    assert!(!host.bench.registry()["vms"][&id].is_null());
    assert_eq!(files(&host.folder()), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_was_left_over_is_no_obstacle() {
    let mut host = Fixture::new(&[]).await;
    let name = format!("mc1-{}", host.id);
    fs::create_dir(host.folder().join(&name)).unwrap();
    fs::write(host.folder().join(&name).join(format!("{name}.vbox")), "half").unwrap();
    fs::write(host.folder().join(&name).join("disk.vdi"), "half").unwrap();
    host.create().await.unwrap();
    assert_eq!(host.state().await, State::Running);
    host.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn salvage_finds_everything_without_a_journal() {
    let mut host = Fixture::new(&[]).await;
    host.create().await.unwrap();
    host.journal = MemoryJournal::default();
    host.driver.salvage(&host.view(), &mut host.journal, &Silent).await.unwrap();
    assert_eq!(files(&host.folder()), [""; 0]);
    assert_eq!(host.bench.registry()["vms"], serde_json::json!({}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_moved_has_its_vm_registered_again() {
    let mut host = Fixture::new(&[]).await;
    host.create().await.unwrap();
    host.kill().await.unwrap();
    let moved = tempfile::tempdir().unwrap();
    for name in ["mc1", "cache"] {
        fs::rename(host.root.path().join(name), moved.path().join(name)).unwrap();
    }
    host.root = moved;
    host.start().await.unwrap();
    assert_eq!(host.state().await, State::Running);
    host.remove().await.unwrap();
    assert_eq!(files(&host.folder()), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_with_quotes_and_words_of_a_shell_are_paths() {
    let mut host = Fixture::new(&[]).await;
    let odd = host.root.path().join("a, b\"c\\d$(x)'é;");
    fs::create_dir_all(odd.join("mc1")).unwrap();
    let plain = std::mem::replace(&mut host.root, tempfile::tempdir().unwrap());
    let mut view = host.view();
    (view.folder, view.cache) = (odd.join("mc1"), odd.join("cache"));
    host.driver.create(&view, &mut host.journal, &Silent).await.unwrap();
    assert_eq!(host.driver.state(&view, &host.journal.state()).await.unwrap(), State::Running);
    host.driver.stop(&view, &mut host.journal, &Silent).await.unwrap();
    host.driver.remove(&view, &mut host.journal, &Silent).await.unwrap();
    assert_eq!(files(&view.folder), [""; 0]);
    drop(plain);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_virtualbox_lacks_is_said_before_anything_is_made() {
    let mut host = Fixture::new(&[]).await;
    let version = host.bench.home.path().join("version");
    let without_module =
        "WARNING: The character device /dev/vboxdrv does not exist.\n\t Please install it\n\n7.2.22r175245\n";
    for (says, expected, hint) in [
        ("6.0.24r139119\n", "version 6.0.24r139119 is too old, 6.1 is needed", "Install VirtualBox 6.1"),
        ("hello\n", "it does not say its version", "Install VirtualBox 6.1"),
        (without_module, "its kernel module `vboxdrv` is not loaded", "modprobe vboxdrv"),
    ] {
        fs::write(&version, says).unwrap();
        for error in [host.check().await.unwrap_err(), host.create().await.unwrap_err()] {
            assert_eq!(*error.kind(), ErrorKind::Refused);
            assert!(error.to_string().ends_with(expected), "{error}");
            assert!(error.hint().unwrap().contains(hint), "{error:?}");
        }
    }
    fs::remove_file(version).unwrap();
    let missing = host.bench.driver().with_program("/nonexistent/VBoxManage".into());
    let error = missing.check(&host.view()).await.unwrap_err();
    assert_eq!(error.to_string(), "There is no `/nonexistent/VBoxManage`");
    // Nothing was made, so it needs no VBoxManage to be removed.
    missing.remove(&host.view(), &mut host.journal, &Silent).await.unwrap();
    host.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_said_once_with_what_to_do_and_leaves_nothing() {
    let locked = "The machine 'x' is already locked by a session (or being locked or unlocked)\nDetails: code VBOX_E_INVALID_OBJECT_STATE (0x80bb0007), component MachineWrap";
    for (command, complaint, said, hint) in [
        (
            "createmedium",
            "VDI: cannot create image (VERR_DISK_FULL)",
            "Could not create the VM of `mc1`",
            "Make room on the disk",
        ),
        (
            "storageattach",
            "Medium is locked for reading\nDetails: code VBOX_E_OBJECT_IN_USE (0x80bb000c), component x",
            "Could not create the VM of `mc1`",
            "Another VM or program uses it",
        ),
        (
            "startvm",
            "VT-x is not available (VERR_VMX_NO_VMX)\nDetails: code NS_ERROR_FAILURE (0x80004005), component x",
            "Could not start the VM of `mc1`",
            "nested virtualisation",
        ),
        (
            "startvm",
            "VT-x is being used by another hypervisor (VERR_VMX_IN_VMX_ROOT_MODE)",
            "Could not start the VM of `mc1`",
            "Another hypervisor",
        ),
        (
            "startvm",
            "The virtual machine 'x' has terminated unexpectedly during startup with exit code 1 (0x1)\nDetails: code NS_ERROR_FAILURE (0x80004005), component MachineWrap, interface IMachine",
            "Could not start the VM of `mc1`",
            "kernel module",
        ),
    ] {
        let mut host = Fixture::new(&[]).await;
        host.bench.fail(command, 1, complaint);
        let error = host.create().await.unwrap_err();
        assert_eq!(error.to_string(), said, "{}", chain(&error));
        assert!(error.hint().unwrap().contains(hint), "{error:?}");
        host.nothing_is_left().await;
        // What passes by itself is waited for.
        host.bench.fail(command, 3, locked);
        host.create().await.unwrap();
        host.nothing_is_left().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_and_a_disc_of_the_users_are_booted() {
    let mut host = Fixture::new(&[]).await;
    let own = tempfile::tempdir().unwrap();
    let (disk, disc) = (own.path().join("a disk.vdi"), own.path().join("live.iso"));
    let mut vdi = b"<<< Oracle VM VirtualBox Disk Image >>>\n".to_vec();
    vdi.resize(64, 0);
    vdi.extend([0x7f, 0x10, 0xda, 0xbe]);
    fs::write(&disk, vdi).unwrap();
    let mut iso = vec![0; 20 * 2048];
    iso[16 * 2048 + 1..16 * 2048 + 6].copy_from_slice(b"CD001");
    fs::write(&disc, iso).unwrap();
    for (path, folder) in [(&disk, "bases"), (&disc, "boot")] {
        host.config["image"] = path.to_str().unwrap().into();
        host.create().await.unwrap();
        assert_eq!(host.state().await, State::Running);
        let kept = files(&host.root.path().join("cache/virtualbox").join(folder));
        assert!(kept.iter().any(|file| file.starts_with("own-")), "{kept:?}");
        host.remove().await.unwrap();
        assert_eq!(files(&host.folder()), [""; 0]);
    }
    assert!(disk.exists() && disc.exists());
    let media = host.bench.registry()["media"].to_string();
    assert!(!media.contains("a disk.vdi"), "{media}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_seed_is_private_and_its_secrets_are_nowhere_else() {
    use std::os::unix::fs::PermissionsExt as _;
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
    host.nothing_is_left().await;
}
