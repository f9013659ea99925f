//! Which accelerator works: found out by really running a guest.
//!
//! `/dev/kvm` being there says little: under nested virtualisation a guest may abort, or never get past its
//! first instructions. So a boot sector is run which does what a kernel does first, and says when it is done.

use std::{
    fs::{self, File},
    io::{Seek, Write},
    os::unix::fs::MetadataExt,
    path::Path,
    process::Stdio,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use machine_driver::DriverError;
use serde::{Deserialize, Serialize};
use tokio::{process::Command, time::timeout};

use crate::config::WantedAccelerator;

/// A guest that works needs a tenth of a second.
const PROBE: Duration = Duration::from_secs(2);
/// Trouble is believed for as long: the machine may have been busy, or another program may have had KVM.
const TROUBLE_LASTS: Duration = Duration::from_hours(1);
/// What the boot sector writes to the exit port, as QEMU's exit code: twice the value and one.
const DONE: i32 = 0x10 << 1 | 1;
const KVM: &str = "/dev/kvm";

/// From real mode to 64-bit mode with paging, then a thousand `cpuid`s, each of which leaves the guest, then an
/// instruction that every kernel allocates memory with and some hypervisors cannot emulate, then the exit port:
///
/// ```text
///         cli; xor ax, ax; mov ds, ax; mov es, ax; mov ss, ax; mov sp, 0x7c00
///         mov di, 0x1000; mov cx, 0x1800; cld; rep stosw                    three empty tables
///         mov word [0x1000], 0x2003; mov word [0x2000], 0x3003; mov word [0x3000], 0x0083
///         lgdt [gdtr]
///         mov eax, cr4; or eax, 0x20; mov cr4, eax                          PAE
///         mov eax, 0x1000; mov cr3, eax
///         mov ecx, 0xc0000080; rdmsr; or eax, 0x100; wrmsr                  long mode
///         mov eax, cr0; or eax, 0x80000001; mov cr0, eax                    paging, protection
///         jmp 8:long
/// long:   mov ecx, 1000
/// again:  xor eax, eax; push rcx; cpuid; pop rcx; loop again
///         lock cmpxchg16b [0x600]
///         mov al, 0x10; out 0xf4, al
/// halt:   hlt; jmp halt
/// ```
#[rustfmt::skip]
const CODE: &[u8] = &[
    0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, 0xbc, 0x00, 0x7c, 0xbf, 0x00, 0x10, 0xb9,
    0x00, 0x18, 0xfc, 0xf3, 0xab, 0xc7, 0x06, 0x00, 0x10, 0x03, 0x20, 0xc7, 0x06, 0x00, 0x20, 0x03,
    0x30, 0xc7, 0x06, 0x00, 0x30, 0x83, 0x00, 0x66, 0x0f, 0x01, 0x16, 0xa0, 0x7c, 0x0f, 0x20, 0xe0,
    0x66, 0x83, 0xc8, 0x20, 0x0f, 0x22, 0xe0, 0x66, 0xb8, 0x00, 0x10, 0x00, 0x00, 0x0f, 0x22, 0xd8,
    0x66, 0xb9, 0x80, 0x00, 0x00, 0xc0, 0x0f, 0x32, 0x66, 0x0d, 0x00, 0x01, 0x00, 0x00, 0x0f, 0x30,
    0x0f, 0x20, 0xc0, 0x66, 0x0d, 0x01, 0x00, 0x00, 0x80, 0x0f, 0x22, 0xc0, 0xea, 0x61, 0x7c, 0x08,
    0x00, 0xb9, 0xe8, 0x03, 0x00, 0x00, 0x31, 0xc0, 0x51, 0x0f, 0xa2, 0x59, 0xe2, 0xf8, 0xf0, 0x48,
    0x0f, 0xc7, 0x0c, 0x25, 0x00, 0x06, 0x00, 0x00, 0xb0, 0x10, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd,
];
/// An empty descriptor and one for 64-bit code, then their size and place: at 0x7c90 and 0x7ca0.
const DESCRIPTORS: [u8; 22] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x9a, 0x20, 0, 15, 0, 0x90, 0x7c, 0, 0];
const DESCRIPTORS_AT: usize = 0x90;

/// What VMs are run with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accelerator {
    Kvm,
    Tcg,
}

/// The accelerator, and why it is not the faster one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) accelerator: Accelerator,
    pub(crate) note: Option<String>,
}

/// What a probe found, and for which machine that holds.
#[derive(Debug, Serialize, Deserialize)]
struct Finding {
    key: String,
    /// Why KVM does not work; `None` where it does.
    trouble: Option<String>,
    /// When that was, in seconds since 1970.
    #[serde(default)]
    at: u64,
}

impl Finding {
    /// Whether it still holds. That KVM works does for good, that it does not only for a while.
    fn holds(&self, key: &str, now: SystemTime) -> bool {
        let age = now.duration_since(UNIX_EPOCH + Duration::from_secs(self.at));
        self.key == key && (self.trouble.is_none() || age.is_ok_and(|age| age < TROUBLE_LASTS))
    }
}

/// Decides, running a guest unless that was done before on this machine.
pub(crate) async fn choose(
    wanted: WantedAccelerator,
    binary: &Path,
    version: &str,
    cache: &Path,
) -> Result<Choice, DriverError> {
    if wanted == WantedAccelerator::Tcg {
        return Ok(Choice { accelerator: Accelerator::Tcg, note: None });
    }
    // Who insists on KVM is not told what was found out earlier.
    let insists = wanted == WantedAccelerator::Kvm;
    let Some(trouble) = trouble(KVM, binary, version, cache, insists, SystemTime::now()).await else {
        return Ok(Choice { accelerator: Accelerator::Kvm, note: None });
    };
    if insists {
        return Err(DriverError::refused(format!("KVM does not work here: {trouble}"))
            .with_hint("`--qemu-accelerator tcg` runs the VM in software, which is slower"));
    }
    let note = format!("The VM is emulated in software, which is slower: {trouble}");
    Ok(Choice { accelerator: Accelerator::Tcg, note: Some(note) })
}

/// Why KVM cannot be used. `anew`: trouble of earlier is looked at again.
async fn trouble(
    device: &str,
    binary: &Path,
    version: &str,
    cache: &Path,
    anew: bool,
    now: SystemTime,
) -> Option<String> {
    let Ok(metadata) = fs::metadata(device) else { return Some(format!("there is no {device}")) };
    if let Err(error) = File::options().read(true).write(true).open(device) {
        return Some(format!("{device} cannot be opened ({error}); members of the group `kvm` usually may"));
    }
    let kernel = rustix::system::uname();
    // The size of the code tells this probe from earlier ones, which asked for less.
    let key = format!(
        "{} {version} {} {} {} {}:{}",
        CODE.len(),
        binary.display(),
        kernel.release().to_string_lossy(),
        kernel.version().to_string_lossy(),
        metadata.dev(),
        metadata.rdev()
    );
    let file = cache.join("accelerator.json");
    let known = fs::read(&file).ok().and_then(|text| serde_json::from_slice::<Finding>(&text).ok());
    if let Some(finding) = known
        && finding.holds(&key, now)
        && !(anew && finding.trouble.is_some())
    {
        return finding.trouble;
    }
    let trouble = probe(binary, &["-accel", "kvm", "-cpu", "host"], PROBE).await.err();
    let at = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let finding = Finding { key, trouble, at };
    if let Err(error) = remember(cache, &file, &finding) {
        tracing::debug!(%error, "the accelerator is found out again next time");
    }
    finding.trouble
}

fn remember(cache: &Path, path: &Path, finding: &Finding) -> std::io::Result<()> {
    fs::create_dir_all(cache)?;
    // Half of one is no finding, so that it need not be whole: nothing is left by whoever is killed here.
    fs::write(path, serde_json::to_vec(finding)?)
}

/// Runs the guest. `Err` says how it failed.
async fn probe(binary: &Path, accelerator: &[&str], limit: Duration) -> Result<(), String> {
    let mut sector = [0; 512];
    sector[..CODE.len()].copy_from_slice(CODE);
    sector[DESCRIPTORS_AT..][..DESCRIPTORS.len()].copy_from_slice(&DESCRIPTORS);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    // The file has no name; the child finds it as its standard input.
    let image = tempfile::tempfile()
        .and_then(|mut file| {
            file.write_all(&sector)?;
            file.rewind()?;
            Ok(file)
        })
        .map_err(|error| format!("the test could not be prepared ({error})"))?;
    let mut command = Command::new(binary);
    command
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-machine", "pc", "-m", "16"])
        .args(accelerator)
        .args(["-drive", "file=/proc/self/fd/0,format=raw,if=floppy,readonly=on"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-no-reboot"])
        .stdin(Stdio::from(image))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let output = match timeout(limit, command.output()).await {
        Err(_) => return Err(format!("a test guest did not get anywhere within {} s", limit.as_secs())),
        Ok(Err(error)) => return Err(format!("a test guest could not be started ({error})")),
        Ok(Ok(output)) => output,
    };
    if output.status.code() == Some(DONE) {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let reason = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no reason given");
    let reason: String = reason.chars().filter(|c| !c.is_control()).take(200).collect();
    Err(format!("a test guest failed ({reason})"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// In software and on a busy machine it takes longer than anybody would wait for KVM.
    const PATIENCE: Duration = Duration::from_mins(2);

    fn qemu() -> Option<&'static Path> {
        let path = Path::new("/usr/bin/qemu-system-x86_64");
        if !path.exists() {
            skipped::say("qemu", "the guest that finds out about KVM is not run");
            return None;
        }
        Some(path)
    }

    /// Software emulation always works, so the guest that finds out about KVM is tried with it.
    #[tokio::test]
    async fn the_test_guest_runs_to_its_end() {
        let Some(qemu) = qemu() else { return };
        assert_eq!(probe(qemu, &["-accel", "tcg", "-cpu", "max"], PATIENCE).await, Ok(()));
    }

    #[tokio::test]
    async fn a_cpu_without_long_mode_does_not_pass() {
        let Some(qemu) = qemu() else { return };
        let found = probe(qemu, &["-accel", "tcg", "-cpu", "qemu32"], PATIENCE).await;
        assert_eq!(found, Err("a test guest failed (no reason given)".into()));
    }

    fn script(folder: &Path, text: &str) -> std::path::PathBuf {
        crate::emulator::write_program(&folder.join("qemu"), text)
    }

    #[tokio::test]
    async fn a_guest_that_fails_or_hangs_is_told_from_one_that_works() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(probe(&script(folder.path(), "exit 33"), &[], PATIENCE).await, Ok(()));
        let failed =
            probe(&script(folder.path(), "echo 'Assertion failed' >&2; exit 134"), &[], PATIENCE).await;
        assert_eq!(failed, Err("a test guest failed (Assertion failed)".into()));
        let hung = probe(&script(folder.path(), "exec sleep 600"), &[], Duration::from_secs(1)).await;
        assert_eq!(hung, Err("a test guest did not get anywhere within 1 s".into()));
    }

    /// A device that can be opened everywhere; the programs of the tests do not ask it anything.
    const DEVICE: &str = "/dev/null";

    /// A program that counts how often it is run.
    fn counting(folder: &Path, text: &str) -> (std::path::PathBuf, impl Fn() -> usize) {
        let runs = folder.join("runs");
        let binary = script(folder, &format!("echo x >> {}; {text}", runs.display()));
        (binary, move || fs::read_to_string(&runs).unwrap_or_default().lines().count())
    }

    #[tokio::test]
    async fn that_it_works_is_kept_for_this_machine_and_program() {
        let (folder, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (binary, runs) = counting(folder.path(), "exit 33");
        let much_later = SystemTime::now() + Duration::from_hours(1000);
        for (version, now) in [("1.0", SystemTime::now()), ("1.0", much_later), ("2.0", much_later)] {
            assert_eq!(trouble(DEVICE, &binary, version, cache.path(), false, now).await, None);
        }
        assert_eq!(runs(), 2);
    }

    #[tokio::test]
    async fn trouble_is_not_believed_for_good() {
        let (folder, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (binary, runs) = counting(folder.path(), "exit 1");
        let began = SystemTime::now();
        let look = async |minutes, anew| {
            let now = began + Duration::from_mins(minutes);
            trouble(DEVICE, &binary, "1.0", cache.path(), anew, now).await
        };
        assert!(look(0, false).await.is_some() && look(59, false).await.is_some());
        assert_eq!(runs(), 1);
        // Later, or for who insists, it is looked at again; and a clock that was put back is no reason to wait.
        assert!(look(61, false).await.is_some() && look(62, true).await.is_some());
        assert_eq!(runs(), 3);
        assert!(look(30, false).await.is_some());
        assert_eq!(runs(), 4);
        script(folder.path(), "exit 33");
        assert_eq!(look(100, false).await, None);
    }

    #[tokio::test]
    async fn software_needs_no_test_and_kvm_is_not_replaced_in_silence() {
        let (folder, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let binary = script(folder.path(), "exit 1");
        let choice = choose(WantedAccelerator::Tcg, &binary, "1", cache.path()).await.unwrap();
        assert_eq!(choice, Choice { accelerator: Accelerator::Tcg, note: None });
        let choice = choose(WantedAccelerator::Auto, &binary, "1", cache.path()).await.unwrap();
        assert!(choice.accelerator == Accelerator::Tcg && choice.note.is_some());
        assert!(choose(WantedAccelerator::Kvm, &binary, "1", cache.path()).await.is_err());
    }
}
