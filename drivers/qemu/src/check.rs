//! What can be refused before anything is made.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use machine_driver::{DriverError, HostView};
use tokio::{process::Command, time::timeout};

use crate::{accelerator, address, config::Config, image};

/// The first with everything that is used here.
const OLDEST: u32 = 5;
const ANSWER: Duration = Duration::from_secs(20);
const INSTALL_HINT: &str = "Install QEMU (`apt-get install qemu-system-x86`, `dnf install qemu-system-x86-core`, \
                            `apk add qemu-system-x86_64`), or name it with `--qemu-binary`";
/// A new VM writes about as much in its first minutes.
const ROOM: u64 = 512 << 20;

/// A QEMU that runs.
#[derive(Debug)]
pub(crate) struct Emulator {
    pub(crate) path: PathBuf,
    pub(crate) version: String,
}

impl Emulator {
    /// Finds it and asks for its version.
    pub(crate) async fn find(binary: &str) -> Result<Self, DriverError> {
        let path = locate(binary)?;
        let refused = |reason: &str| {
            DriverError::refused(format!("`{}` is no usable QEMU: {reason}", path.display()))
                .with_hint(INSTALL_HINT)
        };
        let mut command = Command::new(&path);
        command.arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let output = timeout(ANSWER, command.output())
            .await
            .map_err(|_| refused("it does not say its version"))?
            .map_err(|error| refused("it cannot be run").with_source(error))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("QEMU emulator version "))
            .ok_or_else(|| refused("it does not say its version"))?;
        let major: u32 = version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or_default();
        if major < OLDEST {
            return Err(refused(&format!("version {version} is too old, {OLDEST}.0 is needed")));
        }
        let version = version.chars().filter(|c| !c.is_control()).take(100).collect();
        Ok(Self { path, version })
    }
}

/// A program by its path or its name, as an absolute path.
fn locate(binary: &str) -> Result<PathBuf, DriverError> {
    let missing = |text: String| DriverError::refused(text).with_hint(INSTALL_HINT);
    if binary.contains('/') {
        return fs::canonicalize(binary)
            .map_err(|error| missing(format!("There is no `{binary}`")).with_source(error));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(binary))
        .find(|path| path.is_file())
        .ok_or_else(|| missing(format!("There is no `{binary}` on this machine")))
}

/// Refuses what cannot work here and now.
pub(crate) async fn check(
    host: &HostView,
    config: &Config,
    cache: &Path,
    folders: &[PathBuf],
) -> Result<(), DriverError> {
    let emulator = Emulator::find(config.binary()).await?;
    let image = image::find(&config.image, folders)?;
    memory(config)?;
    room(&host.folder, ROOM + image.bytes_to_copy(cache))?;
    // A host that is being made already may run on its address.
    let mine = config.address.and_then(|address| address::holder(cache, address));
    if mine.is_none_or(|holder| holder != host.id.to_string()) {
        address::choose(&host.id, config.address, cache)?;
    }
    accelerator::choose(config.accelerator, &emulator.path, &emulator.version, cache).await?;
    Ok(())
}

/// Refuses a VM that is larger than the machine.
fn memory(config: &Config) -> Result<(), DriverError> {
    let table = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let present = table
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        .map(|kilobytes| kilobytes / 1024);
    match present {
        Some(present) if config.memory > present => Err(DriverError::refused(format!(
            "The VM is to have {} MiB of memory, and this machine has {present}",
            config.memory
        ))
        .with_hint("Choose less with `--qemu-memory`")),
        _ => Ok(()),
    }
}

/// Refuses a file system that is about to be full. The folder itself need not exist yet.
fn room(folder: &Path, needed: u64) -> Result<(), DriverError> {
    let Some(existing) = folder.ancestors().find(|path| path.is_dir()) else { return Ok(()) };
    let Ok(facts) = rustix::fs::statvfs(existing) else { return Ok(()) };
    let free = facts.f_bavail.saturating_mul(facts.f_frsize);
    if free >= needed {
        return Ok(());
    }
    Err(DriverError::refused(format!(
        "There are {} MiB free in `{}`, and the VM needs {} to begin with",
        free >> 20,
        existing.display(),
        needed >> 20
    )))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn what_is_no_qemu_is_refused_with_a_hint() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        for (script, reason) in [
            ("echo hello", "it does not say its version"),
            ("echo QEMU emulator version 4.2.1", "version 4.2.1 is too old, 5.0 is needed"),
        ] {
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            let error = Emulator::find(path.to_str().unwrap()).await.unwrap_err();
            assert_eq!(error.to_string(), format!("`{}` is no usable QEMU: {reason}", path.display()));
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        for binary in [path.to_str().unwrap(), "./missing", "qemu-system-missing"] {
            let error = Emulator::find(binary).await.unwrap_err();
            assert!(error.hint().is_some_and(|hint| hint.contains("Install QEMU")), "{error}");
        }
    }

    #[test]
    fn a_full_disk_is_seen_before_it_is_one() {
        let error = room(Path::new("/nonexistent/folder"), u64::MAX).unwrap_err();
        assert!(error.to_string().contains("MiB free in `/`"), "{error}");
        room(Path::new("/nonexistent/folder"), 1).unwrap();
    }
}
