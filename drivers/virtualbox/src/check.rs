//! What can be refused before anything is made.

use machine_driver::{DriverError, HostView, local::reservations::Reservations};

use crate::{
    config::Config,
    files::{self, cache},
    image, info,
    making::{foreign, is_ours},
    place,
    program::VBoxManage,
};
use std::path::PathBuf;

/// Refuses what cannot work here and now.
pub(crate) async fn check(
    manage: &VBoxManage,
    host: &HostView,
    config: &Config,
    folders: &[PathBuf],
) -> Result<(), DriverError> {
    manage.has_to_start()?;
    image::text(&files::folder(host)?)?;
    image::text(&cache(host))?;
    let (owned, images) = (config.clone(), folders.to_vec());
    crate::work::blocking(move || image::check(&owned, &images)).await?;
    if let Some(vm) = info::look_up(manage, &host.id.to_string()).await?
        && !is_ours(&vm, &host.folder)
    {
        return Err(foreign(&vm, host));
    }
    // A host that is being made already may run on its address.
    let reservations = Reservations::of_loopback(&cache(host));
    let mine = config.address.map(|address| reservations.holder(address)).transpose()?.flatten();
    if mine.is_none_or(|holder| holder != host.id.to_string()) {
        place::choose(&host.id, config.address, &reservations)?;
    }
    Ok(())
}
