//! What a VM is made of: its image, what its first boot is told, its disks and the VM itself.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use machine_driver::{DriverError, HostView, Progress};
use serde::{Deserialize, Serialize};
use tokio::{task::spawn_blocking, time::sleep};

use crate::{
    config::Config,
    first_boot, image,
    image::Image,
    machine::{Hypervisor, Named, folder, name, path},
    scripts::Operation,
    state::Book,
};

/// Kinds in the journal.
pub(crate) const FILE: &str = "file";
pub(crate) const VM: &str = "vm";
/// Files in a host's folder.
pub(crate) const DISK: &str = "disk.vhdx";
pub(crate) const DATA: &str = "data.vhdx";
pub(crate) const SEED: &str = "seed.iso";
const MIB: u64 = 1 << 20;
/// What a guest is left with when the machine is short of memory: enough for its own needs.
const LEAST_DYNAMIC: u64 = 512 * MIB;
/// Windows lets go of a VM's files some time after the VM is gone.
const RELEASE: (u32, Duration) = (40, Duration::from_millis(250));

/// What all hosts of the store share.
pub(crate) fn cache(host: &HostView) -> PathBuf {
    let cache = host.cache.join("hyperv");
    std::path::absolute(&cache).unwrap_or(cache)
}

/// Work that blocks, away from the runtime's threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DriverError> + Send + 'static,
) -> Result<T, DriverError> {
    spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(DriverError::failed("The work was interrupted").with_source(error)))
}

/// The image: chosen once, then kept.
pub(crate) async fn take_image(
    host: &HostView,
    config: &Config,
    folders: &[PathBuf],
    book: &mut Book<'_>,
    progress: &dyn Progress,
) -> Result<Image, DriverError> {
    let cache = cache(host);
    if let Some(image) = &book.made.image {
        provide(image.clone(), config, cache, folders).await?;
        return Ok(image.clone());
    }
    let found = image::find(&config.image, folders)?;
    if !found.is_cached(&cache) {
        progress.step("Copying the image");
    }
    let image = blocking(move || found.adopt(&cache)).await?;
    book.made.image = Some(image.clone());
    book.save().await?;
    Ok(image)
}

/// Sees to it that the base of a recorded image is there.
pub(crate) async fn provide(
    image: Image,
    config: &Config,
    cache: PathBuf,
    folders: &[PathBuf],
) -> Result<(), DriverError> {
    let (named, folders) = (config.image.clone(), folders.to_vec());
    blocking(move || image.provide(&cache, &named, &folders)).await
}

/// What the script is told of a VM to be made.
#[derive(Debug, Serialize)]
struct Wanted<'a> {
    turn: String,
    patience: u128,
    machine: &'a Named,
    /// Says that the VM is whole: written last.
    notes: String,
    network: Option<&'a str>,
    disks: Vec<Disk>,
    folder: &'a str,
    /// Bytes.
    memory: u64,
    dynamic: bool,
    least: u64,
    processors: u32,
    seed: String,
    /// The pipe that leads to the serial port.
    console: String,
    mac: Option<&'a str>,
    vlan: Option<u16>,
}

#[derive(Debug, Serialize)]
struct Disk {
    path: String,
    parent: Option<String>,
    /// Bytes; `None`: as its parent.
    size: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Created {
    id: String,
}

/// The VM, made whole or found whole, and not started.
pub(crate) async fn make(
    hypervisor: &Hypervisor,
    host: &HostView,
    config: &Config,
    image: &Image,
    book: &mut Book<'_>,
    progress: &dyn Progress,
) -> Result<(), DriverError> {
    let seed = first_boot::seed(host, config, image)?;
    book.intend(FILE, SEED).await?;
    seed.write(&host.folder.join(SEED)).map_err(|error| {
        DriverError::failed("Could not write what the VM is told at its first boot").with_source(error)
    })?;
    book.made(FILE, SEED, None).await?;
    let files: &[&str] = if image.data_apart { &[DISK, DATA] } else { &[DISK] };
    for file in files {
        book.intend(FILE, file).await?;
    }
    let machine = Named { id: None, name: name(host), within: None };
    // Its name in Hyper-V follows from the host's name and this id.
    let entry = host.id.to_string();
    book.intend(VM, &entry).await?;
    progress.step("Creating the VM");
    let folder = folder(host)?;
    let wanted = Wanted {
        turn: host.id.to_string(),
        patience: hypervisor.patience.turn.as_millis(),
        notes: notes(host),
        network: config.switch.as_deref(),
        disks: disks(host, config, image, &folder, progress)?,
        folder: path(&folder)?,
        // Hyper-V gives memory in pieces of two megabytes.
        memory: config.memory.next_multiple_of(2) * MIB,
        dynamic: !config.static_memory,
        least: LEAST_DYNAMIC.min(config.memory.next_multiple_of(2) * MIB),
        processors: config.cpu_count,
        seed: path(&folder.join(SEED))?.to_owned(),
        console: format!(r"\\.\pipe\machine-{}", host.id),
        mac: config.mac.as_deref(),
        vlan: config.vlan,
        machine: &machine,
    };
    let created: Created = hypervisor.shell.run(Operation::Create, &wanted).await?;
    book.made.vm = Some(created.id.clone());
    book.made(VM, &entry, Some(&created.id)).await?;
    for file in files {
        book.made(FILE, file, None).await?;
    }
    Ok(())
}

fn notes(host: &HostView) -> String {
    format!("Made by machine for the host {} ({}) of the store {}", host.name, host.id, host.owner)
}

fn disks(
    host: &HostView,
    config: &Config,
    image: &Image,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<Vec<Disk>, DriverError> {
    let wanted = config.disk_size * MIB;
    let base = image.base(&cache(host));
    let parent = Some(path(&base)?.to_owned());
    let disk = path(&folder.join(DISK))?.to_owned();
    if image.data_apart {
        let data = Disk { path: path(&folder.join(DATA))?.to_owned(), parent: None, size: Some(wanted) };
        return Ok(vec![Disk { path: disk, parent, size: None }, data]);
    }
    // A disk is never smaller than the image; what a VHDX of the user's has is for Hyper-V to find out.
    let size = match image.size {
        Some(size) if size > wanted => {
            progress.note(&format!("The disk has {} MiB, as the image has", size / MIB));
            None
        }
        Some(_) => Some(wanted),
        None => {
            progress.note("The disk is as large as the image, whatever `--hyperv-disk-size` says");
            None
        }
    };
    Ok(vec![Disk { path: disk, parent, size }])
}

/// Removes what the VM left in the host's folder.
pub(crate) async fn remove_files(host: &HostView) -> Result<(), DriverError> {
    let partial = |name: &str| format!("{name}.partial");
    for file in [DISK.into(), DATA.into(), SEED.into(), partial(SEED), name(host)] {
        let path = host.folder.join(&file);
        let mut tries = RELEASE.0;
        while let Err(error) = remove_if_there(&path) {
            tries -= 1;
            if tries == 0 {
                let message = format!("Could not remove `{file}` of the VM");
                return Err(DriverError::failed(message).with_source(error));
            }
            sleep(RELEASE.1).await;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
