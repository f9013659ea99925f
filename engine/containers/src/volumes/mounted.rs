//! Volumes that are mounted: from their first user to their last, by whichever daemon.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use engine_kernel::fstab;
use engine_model::Kind;

use super::Volume;
use super::source::Source;
use crate::mounts::volume_directory;
use crate::record::{MountKind, MountPoint};
use crate::{ContainerError, Containers};

/// Who uses a volume that is mounted, by whatever names; held while it is mounted or unmounted.
type Users = Arc<Mutex<BTreeSet<String>>>;

/// The users of volumes with options, by the volumes' names.
#[derive(Debug, Default)]
pub(crate) struct Mounted(Mutex<HashMap<String, Users>>);

impl Mounted {
    fn all(&self) -> MutexGuard<'_, HashMap<String, Users>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn users(&self, volume: &str) -> Users {
        Arc::clone(self.all().entry(volume.to_owned()).or_default())
    }
}

fn lock(users: &Users) -> MutexGuard<'_, BTreeSet<String>> {
    users.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The volumes among mount points.
fn volumes(points: &[MountPoint]) -> BTreeSet<&str> {
    let volumes = points.iter().filter(|point| point.kind == MountKind::Volume);
    volumes.filter_map(|point| point.name.as_deref()).collect()
}

/// Whether nothing is in a directory.
fn is_empty(directory: &Path) -> Result<bool, ContainerError> {
    let failed = |source| ContainerError::Read { path: directory.to_owned(), source };
    Ok(fs::read_dir(directory).map_err(failed)?.next().is_none())
}

impl Containers {
    /// Mounts those volumes that have to be, if nobody has done so. They stay until this user lets go of them.
    pub(crate) fn hold_volumes(&self, user: &str, points: &[MountPoint]) -> Result<(), ContainerError> {
        for volume in volumes(points) {
            if let Err(error) = self.hold_volume(user, volume) {
                self.let_go_of_volumes(user);
                return Err(error);
            }
        }
        Ok(())
    }

    fn hold_volume(&self, user: &str, name: &str) -> Result<(), ContainerError> {
        let volume = match self.volume(name) {
            // Whoever needs it will miss it.
            Err(error) if error.kind() == Kind::NotFound => return Ok(()),
            volume => volume?,
        };
        let source = Source::of(&volume.options)?;
        if source.is_none() && !volume.is_damaged {
            return Ok(());
        }
        let directory = volume_directory(&self.0.config.data_root, name);
        let users = self.0.mounted.users(name);
        let mut users = lock(&users);
        let failed = |source| ContainerError::Read { path: directory.clone(), source };
        if !fstab::is_mounted(&directory).map_err(failed)? {
            match source {
                Some(source) => source.mount(&directory)?,
                // What is mounted elsewhere has nothing in its own directory.
                None if !is_empty(&directory)? => return Ok(()),
                None => {
                    return Err(ContainerError::Refused(format!(
                        "the record of the volume {name} cannot be read, and what it is made of is not known; \
                         `docker volume create {name}`, with its options if it had any, describes it anew"
                    )));
                }
            }
        }
        users.insert(user.to_owned());
        Ok(())
    }

    /// Unmounts what nobody else uses.
    pub(crate) fn let_go_of_volumes(&self, user: &str) {
        let all: Vec<_> =
            self.0.mounted.all().iter().map(|(name, users)| (name.clone(), Arc::clone(users))).collect();
        for (name, users) in all {
            let mut users = lock(&users);
            if users.remove(user) && users.is_empty() {
                self.unmount_volume(&name).unwrap_or_else(|error| {
                    let error = engine_model::chain(&error);
                    tracing::error!(volume = name, error, "Could not unmount the volume");
                });
            }
        }
    }

    fn unmount_volume(&self, name: &str) -> Result<(), ContainerError> {
        let path = volume_directory(&self.0.config.data_root, name);
        fstab::unmount_all(&path).map_err(|source| ContainerError::Unmount { path, source })
    }

    /// Does something with a volume that must not be mounted and is not meanwhile.
    pub(super) fn with_unmounted<T>(
        &self,
        name: &str,
        work: impl FnOnce() -> Result<T, ContainerError>,
    ) -> Result<T, ContainerError> {
        let users = self.0.mounted.users(name);
        let held = lock(&users);
        if let Some(user) = held.first() {
            return Err(ContainerError::Conflict(format!("remove {name}: volume is in use - [{user}]")));
        }
        self.unmount_volume(name)?;
        let done = work();
        drop(held);
        // Nobody but this one and the map has it, unless somebody waits for it.
        self.0.mounted.all().retain(|known, users| known != name || Arc::strong_count(users) > 2);
        done
    }

    /// Finds out who uses what a daemon before this one has mounted, and unmounts the rest.
    pub(crate) fn restore_mounted(&self) {
        for container in self.all().into_iter().filter(|container| container.status().is_alive()) {
            for name in volumes(&container.identity().mounts) {
                if self.volume(name).is_ok_and(|volume| volume.may_be_elsewhere()) {
                    lock(&self.0.mounted.users(name)).insert(container.id.clone());
                }
            }
        }
        // Those may use any.
        if self.are_some_unknown() {
            return;
        }
        for volume in self.volumes().into_iter().filter(Volume::may_be_elsewhere) {
            let users = self.0.mounted.users(&volume.name);
            let users = lock(&users);
            if users.is_empty()
                && let Err(error) = self.unmount_volume(&volume.name)
            {
                let error = engine_model::chain(&error);
                tracing::error!(volume = volume.name, error, "Could not unmount the volume");
            }
        }
    }
}
