//! What a VM is made of: its addresses, its image, its disk and what its first boot is told.

use std::path::PathBuf;

use machine_driver::{DriverError, HostView, Progress};

use crate::{
    address::{self, Place},
    command::{DISK, SEED},
    config::Config,
    disk, first_boot,
    image::{self, Image},
    inside, paths,
    reservations::Reservations,
    state::{Book, Made},
    vm::blocking,
};

/// Kinds in the journal.
pub(crate) const ADDRESS: &str = "address";
pub(crate) const INSIDE: &str = "inside";
pub(crate) const FILE: &str = "file";

/// What all hosts of the store share.
pub(crate) fn cache(host: &HostView) -> PathBuf {
    let cache = host.cache.join("qemu");
    std::path::absolute(&cache).unwrap_or(cache)
}

pub(crate) fn place(made: &Made) -> Option<Place> {
    Some(Place { address: made.address?, ssh_port: made.ssh_port? })
}

/// The address: chosen once, then kept.
pub(crate) async fn take_address(
    host: &HostView,
    config: &Config,
    book: &mut Book<'_>,
) -> Result<Place, DriverError> {
    let reservations = Reservations::of_loopback(&cache(host));
    if let Some(place) = place(&book.made) {
        // Made by an earlier run; the reservation is written again if the cache was cleared.
        reservations.reserve(place.address, &host.id)?;
        return Ok(place);
    }
    // What a run that was killed intended is given back; it may be chosen again.
    for name in book.named(ADDRESS) {
        reservations.release(&name, &host.id)?;
        book.gone(ADDRESS, &name).await?;
    }
    loop {
        let place = address::choose(&host.id, config.address, &reservations)?;
        let name = place.address.to_string();
        book.intend(ADDRESS, &name).await?;
        if reservations.reserve(place.address, &host.id)? {
            book.made.address = Some(place.address);
            book.made.ssh_port = Some(place.ssh_port);
            book.made(ADDRESS, &name, None).await?;
            return Ok(place);
        }
        // Another host was faster.
        book.gone(ADDRESS, &name).await?;
    }
}

/// The address on the network inside the store, the same way.
pub(crate) async fn take_inside(host: &HostView, book: &mut Book<'_>) -> Result<(), DriverError> {
    let reservations = Reservations::inside(&cache(host));
    if let Some(inside) = book.made.inside {
        return reservations.reserve(inside.address, &host.id).map(drop);
    }
    for name in book.named(INSIDE) {
        reservations.release(&name, &host.id)?;
        book.gone(INSIDE, &name).await?;
    }
    loop {
        let inside = inside::choose(&host.owner, &host.id, &reservations)?;
        let name = inside.address.to_string();
        book.intend(INSIDE, &name).await?;
        if reservations.reserve(inside.address, &host.id)? {
            book.made.inside = Some(inside);
            return book.made(INSIDE, &name, None).await;
        }
        book.gone(INSIDE, &name).await?;
    }
}

pub(crate) async fn take_image(
    host: &HostView,
    config: &Config,
    folders: &[PathBuf],
    book: &mut Book<'_>,
    progress: &dyn Progress,
) -> Result<Image, DriverError> {
    let cache = cache(host);
    if let Some(image) = &book.made.image {
        return provide(image.clone(), config, cache, folders).await;
    }
    let found = image::find(config.wanted_image(folders))?;
    if found.bytes_to_copy(&cache) > 0 {
        progress.step("Copying the image");
    }
    let place = cache.clone();
    let image = blocking(move || found.adopt(&place)).await?;
    book.made.image = Some(image.clone());
    book.save().await?;
    Ok(image.in_cache(&cache))
}

/// The recorded image with its files where they are now.
pub(crate) async fn provide(
    image: Image,
    config: &Config,
    cache: PathBuf,
    folders: &[PathBuf],
) -> Result<Image, DriverError> {
    let (config, folders) = (config.clone(), folders.to_vec());
    blocking(move || image.provide(&cache, config.wanted_image(&folders))).await
}

/// The VM's disk: an overlay over the image's, or an empty one. One that is there is never written again.
pub(crate) async fn make_disk(
    host: &HostView,
    config: &Config,
    image: &Image,
    book: &mut Book<'_>,
    progress: &dyn Progress,
) -> Result<(), DriverError> {
    let path = host.folder.join(DISK);
    book.intend(FILE, DISK).await?;
    if !path.exists() {
        progress.step("Creating the disk");
        let wanted = config.disk_size << 20;
        let base = image.base.as_ref();
        let size = base.map_or(wanted, |base| base.size.max(wanted));
        if size > wanted {
            progress.note(&format!("The disk has {} MiB, as the image has", size >> 20));
        }
        // For those who look at the disk with QEMU's tools, also after the store has moved.
        let named = base.map(|base| {
            (paths::relative(&host.folder, &base.path).unwrap_or_else(|| base.path.clone()), base.format)
        });
        disk::create(&path, size, named.as_ref().map(|(path, format)| (path.as_path(), *format)))
            .map_err(|error| DriverError::failed("Could not create the disk").with_source(error))?;
    }
    book.made(FILE, DISK, None).await
}

pub(crate) async fn make_seed(
    host: &HostView,
    config: &Config,
    image: &Image,
    book: &mut Book<'_>,
) -> Result<(), DriverError> {
    let seed = first_boot::seed(host, config, image, book.made.inside)?;
    book.intend(FILE, SEED).await?;
    seed.write(&host.folder.join(SEED)).map_err(|error| {
        DriverError::failed("Could not write what the VM is told at its first boot").with_source(error)
    })?;
    book.made(FILE, SEED, None).await
}
