//! Copying files into and out of containers, as tar archives.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use engine_kernel::confine::Root;
use engine_kernel::ids::IdMap;
use engine_kernel::mount::{leave_mounts_of_others, set_attributes};
use engine_kernel::overlay;
use engine_kernel::overlay::Overlay;
use engine_kernel::part::{self, Tree};
use engine_kernel::process::OpenNamespace;
use engine_model::life::Life;
use engine_model::task::apart;
use engine_shim::client::{self, Claim};
use engine_shim::protocol;
use jiff::Timestamp;
use rustix::fs::{AtFlags, CWD, FileType, OFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::pack::{Archive, pack, pack_root, write_archive};
use super::place::{base_name, locate, missing};
use super::record::{MountKind, MountPoint};
use super::tree::{Channel, unpack};
use super::{Container, ContainerError, Containers};
use crate::users::Mapping;

/// What an archive call says about the path it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathStat {
    pub name: String,
    pub size: u64,
    mode: u32,
    modified: Timestamp,
    pub link_target: String,
}

impl PathStat {
    /// In the form of the `X-Docker-Container-Path-Stat` header, before base64.
    pub fn describe(&self) -> Value {
        json!({
            "name": self.name,
            "size": self.size,
            "mode": go_mode(self.mode),
            "mtime": self.modified.to_string(),
            "linkTarget": self.link_target,
        })
    }
}

/// Go's `os.FileMode`.
fn go_mode(mode: u32) -> u32 {
    let kind = match FileType::from_raw_mode(mode) {
        FileType::Directory => 1 << 31,
        FileType::Symlink => 1 << 27,
        FileType::BlockDevice => 1 << 26,
        FileType::CharacterDevice => (1 << 26) | (1 << 21),
        FileType::Fifo => 1 << 25,
        FileType::Socket => 1 << 24,
        _ => 0,
    };
    let bits = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let special: u32 = bits.iter().filter(|(bit, _)| mode & bit != 0).map(|(_, go)| go).sum();
    kind | special | (mode & 0o777)
}

impl Containers {
    /// What is at a path; a link is not followed.
    pub async fn path_stat(
        &self,
        container: &Arc<Container>,
        path: PathBuf,
    ) -> Result<PathStat, ContainerError> {
        self.in_root(container, move |root, _| stat(root, &path)).await
    }

    /// The tree at a path as a tar archive, which `sender` takes.
    pub async fn pack(
        &self,
        container: &Arc<Container>,
        path: PathBuf,
        sender: mpsc::Sender<io::Result<Bytes>>,
    ) -> Result<(), ContainerError> {
        self.pack_for(container, sender, move |root, archive| pack(root, &path, archive)).await
    }

    /// The whole root file system as a tar archive, without what is mounted in it.
    pub async fn export(
        &self,
        container: &Arc<Container>,
        sender: mpsc::Sender<io::Result<Bytes>>,
    ) -> Result<(), ContainerError> {
        self.pack_for(container, sender, pack_root).await
    }

    /// Packs for a client that may take its time: by way of a file where nobody may start the container while it is packed.
    async fn pack_for(
        &self,
        container: &Arc<Container>,
        sender: mpsc::Sender<io::Result<Bytes>>,
        pack: impl FnOnce(&Root, &mut Archive<'_>) -> io::Result<()> + Send + 'static,
    ) -> Result<(), ContainerError> {
        let mut output = Channel::new(sender);
        if let Some(running) = running_root(container).await? {
            let pass_on = move || {
                let packed =
                    write_archive(&mut output, running.ids.as_ref(), |archive| pack(&running.root, archive));
                if let Err(error) = packed {
                    output.break_off(error);
                }
            };
            return Ok(apart(pass_on).await?);
        }
        let mut spool = self.spool()?;
        let packed = self.in_root(container, move |root, ids| {
            let write = || {
                let mut buffered = BufWriter::new(&mut spool);
                write_archive(&mut buffered, ids, |archive| pack(root, archive))?;
                drop(buffered);
                spool.rewind()
            };
            let written = write();
            Ok((spool, written))
        });
        let (mut spool, written) = packed.await?;
        let pass_on = move || {
            let sent = io::copy(&mut spool, &mut output).and_then(|_| output.flush());
            // As much as there is, as from a container that runs.
            if let Err(error) = written.and(sent) {
                output.break_off(error);
            }
        };
        Ok(apart(pass_on).await?)
    }

    /// Unpacks an archive in a directory.
    pub async fn unpack(
        &self,
        container: &Arc<Container>,
        path: PathBuf,
        mut archive: impl Read + Send + 'static,
        keep_kinds: bool,
    ) -> Result<(), ContainerError> {
        let identity = container.identity();
        let read_only_root = container.spec()?.confinement.read_only_root;
        let work = move |root: &Root, ids: Option<&IdMap>, archive: &mut dyn Read| {
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            root.get(&path, flags).map_err(|error| missing(&path, &error))?;
            let place = root.end_of_links(&path).map_err(|error| missing(&path, &error))?;
            check_writable(&place, &identity.mounts, read_only_root)?;
            let unpacked = unpack(root, &path, &mut *archive, keep_kinds, ids);
            // A client that cannot send all it has does not listen to the answer.
            let _ = io::copy(archive, &mut io::sink());
            unpacked.map_err(|source| ContainerError::Unpack { path: path.clone(), source })
        };
        if let Some(running) = running_root(container).await? {
            return apart(move || work(&running.root, running.ids.as_ref(), &mut archive)).await?;
        }
        // Nobody waits for the client while the container is kept from being started.
        let mut spool = self.spool()?;
        let mut spool = apart(move || {
            io::copy(&mut archive, &mut spool)?;
            spool.rewind()?;
            Ok(spool)
        })
        .await?
        .map_err(|source| ContainerError::Spool { source })?;
        self.in_root(container, move |root, ids| work(root, ids, &mut spool)).await
    }

    /// A file without a name, on the disk that the containers are on.
    fn spool(&self) -> Result<File, ContainerError> {
        tempfile::tempfile_in(&self.0.config.data_root).map_err(|source| ContainerError::Spool { source })
    }

    /// Works in the container's root file system: that of the running process, or one mounted for this alone. With it come the
    /// numbers that the container's users have on the host, if they are not the same.
    async fn in_root<T: Send + 'static>(
        &self,
        container: &Arc<Container>,
        work: impl FnOnce(&Root, Option<&IdMap>) -> Result<T, ContainerError> + Send + 'static,
    ) -> Result<T, ContainerError> {
        let containers = self.clone();
        let container = Arc::clone(container);
        let operation = loop {
            if let Some(running) = running_root(&container).await? {
                let work = move || work(&running.root, running.ids.as_ref());
                return tokio::task::spawn_blocking(work).await?;
            }
            // Nobody may start it while its layers are mounted here.
            let operation = container.operation.lock().await;
            if !container.status().is_alive() {
                break operation;
            }
        };
        let target = Arc::clone(&container);
        let result = tokio::task::spawn_blocking(move || {
            // In the engine's mount namespace, where containers find them. There is one such work at a time.
            let user = format!("{}:files", target.id);
            containers.hold_volumes(&user, &target.identity().mounts)?;
            // A thread of its own, for the sake of its mount namespace.
            let result = std::thread::scope(|scope| {
                let worker = scope.spawn(|| {
                    let spec = target.spec()?;
                    let mapping = containers.mapping_of(&spec);
                    let (root, _claim) = containers.mounted_root(&target, mapping)?;
                    work(&root, mapping.map(Mapping::ids))
                });
                worker.join().unwrap_or_else(|_| {
                    Err(ContainerError::Refused("The work on the files was cut short".to_owned()))
                })
            });
            containers.let_go_of_volumes(&user);
            result
        })
        .await?;
        drop(operation);
        result
    }

    /// Mounts a stopped container's layers and volumes in a new mount namespace of this thread. Nobody runs the container
    /// as long as the claim is held.
    fn mounted_root(
        &self,
        container: &Container,
        mapping: Option<&Mapping>,
    ) -> Result<(Root, Claim), ContainerError> {
        let lower = self.0.images.lower_dirs(&container.identity().image_id)?;
        let claim = client::claim(&container.directory)?;
        client::prepare(&container.runtime_directory, None)?;
        let path = container.runtime_directory.join(protocol::ROOTFS);
        let overlay = Overlay {
            lower,
            upper: container.directory.join("upper"),
            work: container.directory.join("work"),
        };
        let mount = || -> io::Result<Root> {
            leave_mounts_of_others()?;
            let owners = mapping.map(Mapping::owners);
            overlay::mount(&overlay, owners.as_ref(), &path, &container.runtime_directory)?;
            let root = Root::open(&path)?;
            // What is made to mount on is the container's.
            let _acting = mapping.map(|mapping| mapping.ids().act()).transpose()?;
            for (number, point) in container.identity().mounts.iter().enumerate() {
                if point.is_part() {
                    let part = self.part(point, mapping).map_err(io::Error::other)?;
                    let scratch = container.runtime_directory.join(protocol::PARTS).join(number.to_string());
                    attach(&root, &part.open(&scratch)?, point)?;
                } else if point.kind != MountKind::Tmpfs {
                    bind(&root, point)?;
                }
            }
            // Opened anew, so that what was just mounted is seen.
            Root::open(&path)
        };
        let root = mount().map_err(|source| ContainerError::Read { path: path.clone(), source })?;
        Ok((root, claim))
    }
}

/// The root of a container that runs.
struct Running {
    root: Root,
    /// The numbers that its users have on the host, if they are not the same.
    ids: Option<IdMap>,
    /// What is mounted below the root stays there as long as this is held, whatever becomes of the container.
    _mounts: OpenNamespace,
}

/// The root of a container that runs; nothing of one that does not. If it is just ending, that is not answered before its record
/// says so.
async fn running_root(container: &Container) -> Result<Option<Running>, ContainerError> {
    let exits = container.life().borrow().exits;
    if !container.status().is_alive() {
        return Ok(None);
    }
    let open = || {
        let mounts = container.namespace("mnt")?;
        Ok(Running { root: container.visible_root()?, ids: container.ids()?, _mounts: mounts })
    };
    match open() {
        Err(ContainerError::Ended(_)) if container.process().is_some() || !container.status().is_alive() => {
            let is_over = |life: &Life| life.exits > exits || life.removed || !container.status().is_alive();
            container.wait_until(is_over).await;
            Ok(None)
        }
        found => found.map(Some),
    }
}

/// Refuses to write where the container itself could not. `place` is free of links.
fn check_writable(place: &Path, mounts: &[MountPoint], read_only_root: bool) -> Result<(), ContainerError> {
    let around = mounts.iter().filter(|point| place.starts_with(&point.destination));
    let refused = match around.max_by_key(|point| point.destination.components().count()) {
        Some(point) if point.read_only => "mounted volume is marked read-only",
        None if read_only_root => "container rootfs is marked read-only",
        _ => return Ok(()),
    };
    Err(ContainerError::Invalid(refused.to_owned()))
}

fn bind(root: &Root, point: &MountPoint) -> io::Result<()> {
    let source = &point.source;
    let Ok(metadata) = source.metadata() else { return Ok(()) };
    if !metadata.is_dir() {
        return Ok(());
    }
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = Tree { tree: rustix::mount::open_tree(CWD, source, flags)?, is_directory: true };
    attach(root, &tree, point)
}

fn attach(root: &Root, Tree { tree, is_directory }: &Tree, point: &MountPoint) -> io::Result<()> {
    // Whatever way an entry of an archive finds there, it writes nothing that the container could not.
    if point.read_only {
        set_attributes(tree, &["rro"])?;
    }
    let target = part::place(root, &root.end_of_links(&point.destination)?, *is_directory)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(tree, "", &target, "", flags)?)
}

fn stat(root: &Root, path: &Path) -> Result<PathStat, ContainerError> {
    let (parent, name) = locate(root, path)?;
    let stat = rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| missing(path, &error.into()))?;
    let link_target = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(&parent, &name, Vec::new());
            let target = target.map_err(|error| missing(path, &error.into()))?;
            let target = PathBuf::from(std::ffi::OsStr::from_bytes(target.to_bytes()));
            let base = path.parent().unwrap_or_else(|| Path::new("/"));
            engine_kernel::confine::clean(&base.join(target)).to_string_lossy().into_owned()
        }
        _ => String::new(),
    };
    Ok(PathStat {
        name: base_name(path),
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mode: stat.st_mode,
        modified: Timestamp::from_second(stat.st_mtime).unwrap_or_default(),
        link_target,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_gos() {
        assert_eq!(go_mode(0o40755), (1 << 31) | 0o755);
        assert_eq!(go_mode(0o104_755), (1 << 23) | 0o755);
        assert_eq!(go_mode(0o120_777), (1 << 27) | 0o777);
    }
}
