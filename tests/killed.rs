//! `machine` is killed with -9 before and after each write of a record, in `create` and in `rm`, with VMs that do not
//! boot: the same `create` goes on to one VM, and `rm` leaves nothing.
//!
//! strace kills it exactly there: a record is written by renaming, and the sync of the host's folder comes right after.
//! Needs strace, and the stand-in for QEMU, which `cargo test --workspace` builds.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};

#[path = "killed/changes.rs"]
mod changes;

/// More writes than a command has.
const MANY: u32 = 60;
const LIMIT: Duration = Duration::from_mins(1);

/// Where a command is killed.
#[derive(Debug, Clone, Copy)]
enum Trap {
    /// Right before a write, when what it records has been done.
    Before(u32),
    /// Right after a write, before whatever it announces is done.
    After(u32),
}

/// How a command that was to be killed ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Killed,
    /// It came to its end, or to where a VM would have to boot.
    Beyond,
}

/// A store whose VMs are stood in for.
struct Store {
    folder: tempfile::TempDir,
    stand_in: PathBuf,
}

impl Store {
    /// `None`: something is missing here.
    fn new() -> Option<Self> {
        let stand_in = Path::new(env!("CARGO_BIN_EXE_machine")).with_file_name("machine-qemu-stand-in");
        if !stand_in.exists() {
            skipped::say(
                "qemu-stand-in",
                "`machine-qemu-stand-in` is not built: `cargo test --workspace` does it",
            );
            return None;
        }
        if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
            skipped::say("strace", "commands are not killed at each of their writes without it");
            return None;
        }
        let store =
            Self { folder: tempfile::Builder::new().prefix("machine-killed-").tempdir().unwrap(), stand_in };
        store.lay_out();
        Some(store)
    }

    /// An image that nothing could boot, and an engine that is none.
    fn lay_out(&self) {
        let image = self.folder.path().join("images/tiny");
        fs::create_dir_all(&image).unwrap();
        let mut digests = BTreeMap::new();
        for file in ["vmlinuz", "initrd.img"] {
            fs::write(image.join(file), file).unwrap();
            digests.insert(file, format!("{:x}", Sha256::digest(file)));
        }
        let manifest =
            serde_json::json!({"name": "tiny", "version": "1", "cmdline": "quiet", "sha256": digests});
        fs::write(image.join("manifest.json"), manifest.to_string()).unwrap();
        let bundle = self.folder.path().join("bundle");
        fs::create_dir(&bundle).unwrap();
        let packed = fs::File::create(bundle.join("engine-x86_64.gz")).unwrap();
        let mut packed = flate2::write::GzEncoder::new(packed, flate2::Compression::default());
        packed.write_all(b"engine").unwrap();
        packed.finish().unwrap();
        fs::write(bundle.join("engine-x86_64.sha256"), format!("{:x}", Sha256::digest("engine"))).unwrap();
        fs::write(bundle.join("engine-x86_64.version"), "0.1.0").unwrap();
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn host(&self) -> PathBuf {
        self.root().join("machines/mc1")
    }

    /// The command that makes the host.
    fn create(&self) -> Vec<&str> {
        let mut words = vec!["create", "-d", "qemu", "--qemu-image", "tiny", "--qemu-accelerator", "tcg"];
        words.extend(["--qemu-binary", self.stand_in.to_str().unwrap(), "mc1"]);
        words
    }

    fn settings(&self, command: &mut Command) {
        command
            .env("MACHINE_STORAGE_PATH", self.root())
            .env("MACHINE_IMAGE_PATH", self.folder.path().join("images"))
            .env("MACHINE_ENGINE_BUNDLE", self.folder.path().join("bundle"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
    }

    fn start(&self, words: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_machine"));
        self.settings(&mut command);
        command.args(words).spawn().unwrap()
    }

    /// Runs a command up to the trap. The tracer is not the child, so that it may outlive it with the VM.
    fn run_into(&self, trap: Trap, words: &[&str]) -> End {
        let (path, calls, number) = match trap {
            Trap::After(number) => (self.host(), "fsync", number),
            Trap::Before(number) => (self.host().join("config.json"), "rename,renameat,renameat2", number),
        };
        let mut command = Command::new("strace");
        self.settings(&mut command);
        command
            .args(["-D", "-f", "-qq", "-o", "/dev/null", "-P"])
            .arg(&path)
            .args(["-e", &format!("trace={calls}")])
            .args(["-e", &format!("inject={calls}:signal=KILL:when={number}")])
            .arg(env!("CARGO_BIN_EXE_machine"))
            .args(words);
        self.end(command.spawn().unwrap(), words)
    }

    /// Waits for the end of a command; a creation is ended where it waits for the VM to boot.
    fn end(&self, mut child: Child, words: &[&str]) -> End {
        let began = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                if status.signal() == Some(9) {
                    return End::Killed;
                }
                assert!(status.success(), "{status}");
                return End::Beyond;
            }
            if words[0] == "create" && self.phase() == "Booting" {
                child.kill().unwrap();
                child.wait().unwrap();
                return End::Beyond;
            }
            assert!(began.elapsed() < LIMIT, "it neither ends nor gets to its VM");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn phase(&self) -> String {
        let text = fs::read_to_string(self.host().join("config.json")).unwrap_or_default();
        let record: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        record["Phase"].as_str().unwrap_or("none").to_owned()
    }

    /// The VMs of the store: by what they are, and by the folder that they run in.
    fn vms(&self) -> usize {
        let stand_in = self.stand_in.canonicalize().unwrap();
        self.processes(|process| fs::read_link(process.join("exe")).is_ok_and(|exe| exe == stand_in))
    }

    fn processes(&self, mut is_one: impl FnMut(&Path) -> bool) -> usize {
        let root = self.folder.path();
        let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
        processes
            .filter(|process| fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(root)))
            .filter(|process| is_one(process))
            .count()
    }

    fn remove(&self) {
        if self.host().exists() {
            let mut child = self.start(&["rm", "-y", "mc1"]);
            assert!(child.wait().unwrap().success(), "rm failed in the phase {}", self.phase());
        }
    }

    fn assert_nothing_left(&self, when: &str) {
        let began = Instant::now();
        // The switch sees by itself that its last VM is gone.
        while self.processes(|_| true) > 0 {
            assert!(began.elapsed() < LIMIT, "{when}: processes are left");
            std::thread::sleep(Duration::from_millis(20));
        }
        for folder in ["machines", "locks", "cache/qemu/addresses", "cache/qemu/inside"] {
            let Ok(entries) = fs::read_dir(self.root().join(folder)) else { continue };
            let left: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
            assert!(left.is_empty(), "{when}: left in {folder}: {left:?}");
        }
        let network = fs::read_dir(self.root().join("cache/qemu/network")).into_iter().flatten().flatten();
        let ports: Vec<_> = network
            .map(|entry| entry.file_name().into_string().unwrap())
            .filter(|name| !["lock", "starting", "log"].contains(&name.as_str()))
            .collect();
        assert!(ports.is_empty(), "{when}: left in the network: {ports:?}");
    }

    fn create_to_its_vm(&self, when: &str) {
        let words = self.create();
        assert_eq!(self.end(self.start(&words), &words), End::Beyond);
        assert_eq!((self.phase().as_str(), self.vms()), ("Booting", 1), "{when}");
    }
}

impl Drop for Store {
    /// No VM outlives a test that failed.
    fn drop(&mut self) {
        if self.host().exists() {
            let _ = self.start(&["rm", "-f", "mc1"]).wait();
        }
    }
}

/// Every trap that a command runs into, until it comes to its end without one. Returns how many there were.
fn every_trap(kind: fn(u32) -> Trap, mut run_into: impl FnMut(Trap) -> End) -> u32 {
    for number in 1..MANY {
        if run_into(kind(number)) == End::Beyond {
            return number - 1;
        }
    }
    panic!("a command writes for ever");
}

#[test]
fn a_create_that_was_killed_at_any_write_goes_on_to_one_vm() {
    let Some(store) = Store::new() else { return };
    for kind in [Trap::Before, Trap::After] {
        let traps = every_trap(kind, |trap| {
            let end = store.run_into(trap, &store.create());
            let when = format!("{trap:?}");
            if end == End::Killed {
                store.create_to_its_vm(&when);
            }
            store.remove();
            store.assert_nothing_left(&when);
            end
        });
        assert!(traps > 12, "only {traps} writes: the trap does not work");
    }
}

#[test]
fn a_create_that_was_killed_at_any_write_is_undone() {
    let Some(store) = Store::new() else { return };
    for kind in [Trap::Before, Trap::After] {
        let traps = every_trap(kind, |trap| {
            let end = store.run_into(trap, &store.create());
            store.remove();
            store.assert_nothing_left(&format!("{trap:?}"));
            end
        });
        assert!(traps > 12, "only {traps} writes: the trap does not work");
    }
}

#[test]
fn an_rm_that_was_killed_at_any_write_is_finished_by_another() {
    let Some(store) = Store::new() else { return };
    for kind in [Trap::Before, Trap::After] {
        let traps = every_trap(kind, |trap| {
            let when = format!("{trap:?} of rm");
            store.create_to_its_vm(&when);
            let end = store.run_into(trap, &["rm", "-y", "mc1"]);
            if matches!(trap, Trap::After(_)) && store.host().exists() {
                assert_eq!(store.phase(), "Removing", "{when}");
            }
            store.remove();
            store.assert_nothing_left(&when);
            end
        });
        assert!(traps > 5, "only {traps} writes: the trap does not work");
    }
}
