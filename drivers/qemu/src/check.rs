//! What can be refused before anything is made.

use std::{
    fs,
    path::{Path, PathBuf},
};

use machine_driver::{DriverError, HostView};

use crate::{accelerator, address, config::Config, emulator::Emulator, image, reservations::Reservations};

/// A new VM writes about as much in its first minutes.
const ROOM: u64 = 512 << 20;

/// Refuses what cannot work here and now.
pub(crate) async fn check(
    host: &HostView,
    config: &Config,
    cache: &Path,
    folders: &[PathBuf],
) -> Result<(), DriverError> {
    let emulator = Emulator::find(config.binary()).await?;
    let image = image::find(config.wanted_image(folders))?;
    memory(config)?;
    room(&host.folder, ROOM + image.bytes_to_copy(cache))?;
    // A host that is being made already may run on its address.
    let reservations = Reservations::of_loopback(cache);
    let mine = config.address.map(|address| reservations.holder(address)).transpose()?.flatten();
    if mine.is_none_or(|holder| holder != host.id.to_string()) {
        address::choose(&host.id, config.address, &reservations)?;
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
    use super::*;

    #[test]
    fn a_full_disk_is_seen_before_it_is_one() {
        let error = room(Path::new("/nonexistent/folder"), u64::MAX).unwrap_err();
        assert!(error.to_string().contains("MiB free in `/`"), "{error}");
        room(Path::new("/nonexistent/folder"), 1).unwrap();
    }
}
