//! A store with a host in it that has been begun, finished or removed, and what has to be true of both.

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use guest::Guest;
use killed::{Store, Watch};
use sha2::{Digest as _, Sha256};

/// What ends by itself does so within this.
const LIMIT: Duration = Duration::from_mins(1);
const MACHINE: &str = env!("CARGO_BIN_EXE_machine");

/// Whose hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    None,
    Generic,
    Qemu,
}

impl Kind {
    /// Says what these tests lack here, if anything.
    pub(crate) fn is_lacking(self) -> bool {
        let lacking = match self {
            Self::None => None,
            Self::Generic | Self::Qemu => guest::lacking(),
        };
        let needs_programs = self != Self::None && programs().is_none();
        if let Some(why) = &lacking {
            skipped::say("guest", why);
        } else if needs_programs {
            skipped::say("guest", "its programs are not built: `cargo test --workspace` does it");
        }
        lacking.is_some() || needs_programs
    }
}

/// The guest, and the stand-in for QEMU.
fn programs() -> Option<(PathBuf, PathBuf)> {
    let machine = Path::new(MACHINE);
    let stand_in = machine.with_file_name("machine-qemu-stand-in");
    Some((guest::program(machine)?, stand_in)).filter(|(_, stand_in)| stand_in.exists())
}

/// A store of its own, with room for one host, `mc1`.
pub(crate) struct Bench {
    kind: Kind,
    folder: tempfile::TempDir,
    address: Ipv4Addr,
    /// The server that `generic` takes over.
    server: Option<Guest>,
}

/// Memory, where there is a file system in it: thousands of small files are written.
fn temporary() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("machine-kills-").tempdir_in(parent).unwrap()
}

/// An authority of a store, made once: making one takes longer than all else.
fn authority() -> &'static tempfile::TempDir {
    static AUTHORITY: OnceLock<tempfile::TempDir> = OnceLock::new();
    AUTHORITY.get_or_init(|| {
        let bench = Bench::without_authority(Kind::None);
        bench.ok(&bench.words());
        let kept = temporary();
        copy(&bench.root().join("certs"), kept.path());
        kept
    })
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

impl Bench {
    /// With the authority that its first host would otherwise make.
    pub(crate) fn new(kind: Kind) -> Self {
        let bench = Self::without_authority(kind);
        fs::create_dir(bench.root()).unwrap();
        copy(authority().path(), &bench.root().join("certs"));
        bench
    }

    /// With no store at all.
    pub(crate) fn without_authority(kind: Kind) -> Self {
        let address = guest::free_address();
        let mut bench = Self { kind, folder: temporary(), address, server: None };
        if kind != Kind::None {
            bench.lay_out();
        }
        if kind == Kind::Generic {
            let disk = bench.path("server");
            fs::create_dir(&disk).unwrap();
            for key in ["login", "host"] {
                let mut make = Command::new("ssh-keygen");
                make.args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(bench.path(key));
                assert!(make.status().unwrap().success());
            }
            let data = format!("#cloud-config\nssh_keys: {{ed25519_private: {:?}}}\n", bench.read("host"));
            fs::write(disk.join(guest::USER_DATA), data).unwrap();
            fs::copy(bench.path("login.pub"), disk.join(guest::AUTHORIZED_KEYS)).unwrap();
            bench.server = Some(bench.boot(&disk));
        }
        bench
    }

    fn boot(&self, disk: &Path) -> Guest {
        let ports = [22, guest::engine::PORT].map(|port| (port, format!("{}:{port}", self.address)));
        let guest = Guest::start(&programs().unwrap().0, disk, "root", &ports).unwrap();
        guest::wait_for_ssh(&format!("{}:22", self.address), LIMIT).unwrap();
        guest
    }

    /// An image that nothing could boot, and an engine that is a script.
    fn lay_out(&self) {
        let image = self.path("images/tiny");
        fs::create_dir_all(&image).unwrap();
        let mut digests = BTreeMap::new();
        for file in ["vmlinuz", "initrd.img"] {
            fs::write(image.join(file), file).unwrap();
            digests.insert(file, format!("{:x}", Sha256::digest(file)));
        }
        let manifest = serde_json::json!({
            "name": "tiny", "version": "1", "cmdline": "quiet", "user": "docker", "sha256": digests,
        });
        fs::write(image.join("manifest.json"), manifest.to_string()).unwrap();
        guest::lay_out_bundle(&self.path("bundle")).unwrap();
        fs::create_dir(self.path("disks")).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.path("store")
    }

    pub(crate) fn host(&self) -> PathBuf {
        self.root().join("machines/mc1")
    }

    pub(crate) fn store(&self) -> Store {
        Store::at(&self.root())
    }

    /// Every write of the store counts; for VMs, of which there are many, those of temporary files do not.
    pub(crate) fn watch(&self) -> Watch {
        if self.kind == Kind::Qemu { Watch::named(&self.root()) } else { Watch::everything(&self.root()) }
    }

    /// The command that makes the host.
    pub(crate) fn words(&self) -> Vec<String> {
        let stand_in = || programs().unwrap().1.display().to_string();
        let words: Vec<String> = match self.kind {
            Kind::None => ["-d", "none", "--url", "tcp://192.0.2.7:2376"].map(str::to_owned).into(),
            Kind::Generic => {
                let key: Vec<String> = self.read("host.pub").split(' ').take(2).map(str::to_owned).collect();
                let login = self.path("login").display().to_string();
                let address = self.address.to_string();
                ["-d", "generic", "--generic-ip-address", &address, "--generic-ssh-user", "root"]
                    .into_iter()
                    .chain(["--generic-ssh-key", &login, "--ssh-host-key", key.join(" ").trim()])
                    .map(str::to_owned)
                    .collect()
            }
            Kind::Qemu => ["-d", "qemu", "--qemu-image", "tiny", "--qemu-accelerator", "tcg"]
                .into_iter()
                .chain(["--qemu-binary", &stand_in()])
                .map(str::to_owned)
                .collect(),
        };
        [vec!["create".to_owned()], words, vec!["mc1".to_owned()]].concat()
    }

    pub(crate) fn command(&self, words: &[impl AsRef<str>]) -> Command {
        let mut command = Command::new(MACHINE);
        command
            .args(words.iter().map(AsRef::as_ref))
            .env_clear()
            .env("HOME", self.folder.path())
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("USER", "tester")
            .env("MACHINE_STORAGE_PATH", self.root())
            .env("MACHINE_IMAGE_PATH", self.path("images"))
            .env("MACHINE_ENGINE_BUNDLE", self.path("bundle"))
            .stdin(Stdio::null());
        if let (Kind::Qemu, Some((guest, _))) = (self.kind, programs()) {
            command.env("MACHINE_STAND_IN_GUEST", guest);
            command.env("MACHINE_STAND_IN_GUEST_DISKS", self.path("disks"));
        }
        command
    }

    pub(crate) fn create(&self) -> Command {
        self.command(&self.words())
    }

    pub(crate) fn run(&self, words: &[impl AsRef<str>]) -> Output {
        self.command(words).output().unwrap()
    }

    /// Runs what has to succeed, and returns what it printed.
    pub(crate) fn ok(&self, words: &[impl AsRef<str>]) -> String {
        let output = self.run(words);
        let line: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
        assert!(output.status.success(), "machine {}: {}", line.join(" "), show(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn phase(&self) -> String {
        let text = fs::read_to_string(self.host().join("config.json")).unwrap_or_default();
        let record: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        record["Phase"].as_str().unwrap_or("none").to_owned()
    }

    /// Makes the host, or goes on making it.
    pub(crate) fn finish(&self, when: &str) {
        if self.phase() == "Ready" {
            return;
        }
        let output = self.create().output().unwrap();
        assert!(output.status.success(), "{when}: {}", show(&output));
    }

    /// Removes the host, if there is one, and all of it.
    pub(crate) fn remove(&self, when: &str) {
        let there = self.host().exists();
        let output = self.run(&["rm", "-y", "mc1"]);
        // That there is no such host any more is an answer, too.
        assert_eq!(output.status.success(), there, "{when}: {}", show(&output));
        self.assert_gone(when);
    }

    /// The host can be used as it is meant to be: what `env` names is one client's, and the engine takes it for its own.
    pub(crate) fn assert_usable(&self, when: &str) {
        let text = self.ok(&["env", "--shell", "bash", "mc1"]);
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("export {name}=")));
            line.unwrap_or_else(|| panic!("{when}: no {name} in {text}")).trim_matches('"').to_owned()
        };
        if self.kind == Kind::None {
            assert_eq!(value("DOCKER_HOST"), "tcp://192.0.2.7:2376", "{when}");
            return;
        }
        assert_eq!(value("DOCKER_TLS_VERIFY"), "1", "{when}");
        assert_eq!(value("DOCKER_CERT_PATH"), self.host().display().to_string(), "{when}");
        self.store().assert_engine_trusts("mc1", &value("DOCKER_HOST"), when);
    }

    /// The host is whole: finished, usable, with certificates that belong together, and one VM if it is one.
    pub(crate) fn assert_whole(&self, when: &str) {
        assert_eq!(self.phase(), "Ready", "{when}");
        self.assert_usable(when);
        self.store().assert_one_authority(when);
        if self.kind != Kind::None {
            self.store().assert_copies("mc1", when);
        }
        if self.kind == Kind::Qemu {
            assert_eq!(self.vms(), 1, "{when}");
        }
        if self.kind == Kind::Generic {
            // It trusts whom its clients trust, and nobody else.
            let trusted = fs::read_to_string(self.path("server/root/run/engine.tls/tlscacert")).unwrap();
            assert_eq!(trusted.matches("BEGIN CERTIFICATE").count(), 1, "{when}");
            assert_eq!(trusted, fs::read_to_string(self.host().join("ca.pem")).unwrap(), "{when}");
        }
        assert_eq!(self.store().leftovers(), Vec::<PathBuf>::new(), "{when}");
    }

    /// Nothing of the host is left.
    pub(crate) fn assert_gone(&self, when: &str) {
        let began = Instant::now();
        // The switch sees by itself that its last VM is gone.
        while self.kind == Kind::Qemu && self.processes(|_| true) > 0 {
            assert!(began.elapsed() < LIMIT, "{when}: processes are left");
            std::thread::sleep(Duration::from_millis(5));
        }
        self.store().assert_nothing_left(when);
        for folder in ["addresses", "inside"] {
            let entries = fs::read_dir(self.root().join("cache/qemu").join(folder));
            let left: Vec<_> =
                entries.into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
            assert!(left.is_empty(), "{when}: left in {folder}: {left:?}");
        }
        let network = fs::read_dir(self.root().join("cache/qemu/network")).into_iter().flatten().flatten();
        let ports: Vec<_> = network
            .map(|entry| entry.file_name().into_string().unwrap())
            .filter(|name| !["lock", "starting", "log"].contains(&name.as_str()))
            .collect();
        assert!(ports.is_empty(), "{when}: left in the network: {ports:?}");
    }

    /// The VMs of the store: by what they are, and by the folder that they run in.
    fn vms(&self) -> usize {
        let stand_in = programs().unwrap().1.canonicalize().unwrap();
        self.processes(|process| fs::read_link(process.join("exe")).is_ok_and(|exe| exe == stand_in))
    }

    fn processes(&self, is_one: impl Fn(&Path) -> bool) -> usize {
        let root = self.root();
        let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
        processes
            .filter(|process| fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(&root)))
            .filter(|process| is_one(process))
            .count()
    }
}

impl Drop for Bench {
    /// No VM outlives a test that failed.
    fn drop(&mut self) {
        if self.host().exists() {
            let _ = self.run(&["rm", "-f", "mc1"]);
        }
    }
}

pub(crate) fn show(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
