//! What has to happen in the container's root file system before the container is made.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use engine_kernel::confine::{self, Root};
use engine_kernel::ids::IdMap;
use engine_kernel::overlay;
use libcontainer::oci_spec::runtime::LinuxCapabilities;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::mount::MountPropagationFlags;
use serde_json::{Value, json};

use super::capabilities;
use super::mapped::{self, Joining};
use super::mounts;
use super::protocol::{self, ContainerTask, ShimConfig, VolumeFill};
use crate::users::{self, User};

#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    #[error("Could not get at a namespace")]
    Namespace { source: io::Error },
    #[error("Could not leave the mount namespace of the engine")]
    Leave { source: io::Error },
    #[error("Could not mount the root file system")]
    Mount { source: io::Error },
    #[error(transparent)]
    User(#[from] users::UserError),
    #[error("mkdir {}: {}", path.display(), reason(source))]
    WorkingDirectory { path: PathBuf, source: io::Error },
    #[error("chdir to cwd ({path:?}) set in config.json failed: {}", missing(source))]
    Directory { path: PathBuf, source: io::Error },
    #[error("Could not copy the image's `{}` into the volume", destination.display())]
    Volume { destination: PathBuf, source: io::Error },
    #[error("Could not get at the other container's shared memory")]
    SharedMemory { source: io::Error },
    #[error("{source}")]
    Part { source: io::Error },
    #[error("Could not prepare the mounts")]
    Mounts { source: io::Error },
    #[error("Could not raise the limits of processes")]
    Limits { source: io::Error },
    #[error("Could not describe the process")]
    Process { source: io::Error },
    #[error("Could not use `{}`", path.display())]
    Configuration { path: PathBuf, source: io::Error },
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => "not a directory".to_owned(),
        _ => error.to_string(),
    }
}

fn missing(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotADirectory => "not a directory",
        _ => "no such file or directory",
    }
}

/// What the process is made with besides its configuration.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// What its user is called on the host.
    pub owner: u32,
    /// As [`capabilities::keep_for_filter`] answers.
    pub capabilities: Option<LinuxCapabilities>,
    /// What has to stay open until it is made.
    pub namespaces: Vec<File>,
}

/// Mounts the root file system in a namespace of this process's own, so that nothing stays mounted whatever happens,
/// and completes the OCI configuration with what only the root file system tells.
pub(crate) fn container(
    directory: &Path,
    config: &ShimConfig,
    task: &ContainerTask,
) -> Result<Prepared, PrepareError> {
    private_mounts().map_err(|source| PrepareError::Leave { source })?;
    let rootfs = directory.join(protocol::ROOTFS);
    overlay::mount(&task.overlay, task.owners.as_ref(), &rootfs, directory)
        .map_err(|source| PrepareError::Mount { source })?;
    let root = Root::open(&rootfs).map_err(|source| PrepareError::Mount { source })?;
    if let Some(namespace) = &task.shared_memory {
        mounts::bring(namespace, "/dev/shm", &directory.join(protocol::SHARED_MEMORY))
            .map_err(|source| PrepareError::SharedMemory { source })?;
    }
    mounts::stage(&task.parts, &directory.join(protocol::PARTS))
        .map_err(|source| PrepareError::Part { source })?;

    let path = directory.join(protocol::BUNDLE);
    let failed = |source| PrepareError::Configuration { path: path.clone(), source };
    let content = std::fs::read(&path).map_err(failed)?;
    let mut spec: Value = serde_json::from_slice(&content).map_err(|error| failed(error.into()))?;
    let user = users::resolve(&root, &config.user, &config.groups)?;
    complete_process(&mut spec["process"], &user);
    let ids = task.owners.as_ref().map(|owners| &owners.ids);
    let owner = user.outside(ids)?;
    let capabilities =
        capabilities::keep_for_filter(config, &mut spec["process"]).map_err(|error| failed(error.into()))?;
    // What is made in there belongs to its root.
    let acting = ids.map(IdMap::act).transpose().map_err(|source| PrepareError::Mounts { source })?;
    let working_directory = PathBuf::from(spec["process"]["cwd"].as_str().unwrap_or("/"));
    root.end_of_links(&working_directory)
        .and_then(|end| root.create_directories(&end))
        .map_err(|source| PrepareError::WorkingDirectory { path: working_directory, source })?;
    if let Some(mounts) = spec["mounts"].as_array_mut() {
        mounts::complete(&root, mounts, ids).map_err(|source| PrepareError::Mounts { source })?;
    }
    drop(acting);
    let mut namespaces = Vec::new();
    if let Some(owners) = &task.owners {
        let mounts = spec["mounts"].as_array_mut().map(Vec::as_mut_slice).unwrap_or_default();
        mapped::bring_near(mounts, owners, &directory.join(protocol::NEAR))
            .map_err(|source| PrepareError::Mounts { source })?;
        mapped::make_room(&spec["process"]).map_err(|source| PrepareError::Limits { source })?;
        namespaces =
            mapped::open_namespaces(&mut spec).map_err(|source| PrepareError::Namespace { source })?;
    }
    mounts::put_off_devices(&root, &mut spec, directory).map_err(|source| PrepareError::Mounts { source })?;
    for volume in &task.volumes {
        fill(&root, volume)
            .map_err(|source| PrepareError::Volume { destination: volume.destination.clone(), source })?;
    }
    let content = serde_json::to_vec(&spec).map_err(|error| failed(error.into()))?;
    std::fs::write(&path, content).map_err(failed)?;
    Ok(Prepared { owner, capabilities, namespaces })
}

/// What a process that joins a container is made with besides its configuration.
#[derive(Debug)]
pub(crate) struct Joined {
    /// What its user is called on the host.
    pub owner: u32,
    /// As [`capabilities::keep_for_filter`] answers.
    pub capabilities: Option<LinuxCapabilities>,
    /// How it gets among the container's users, if these are not the host's.
    pub joining: Option<Joining>,
}

/// Completes the OCI `process` of a process that joins the container whose first process is `init_pid`.
pub(crate) fn exec(config: &ShimConfig, process: &mut Value, init_pid: i32) -> Result<Joined, PrepareError> {
    let path = PathBuf::from(format!("/proc/{init_pid}/root"));
    let root = Root::open(&path).map_err(|source| PrepareError::Configuration { path, source })?;
    let directory = PathBuf::from(process["cwd"].as_str().unwrap_or("/"));
    // What is in there is another's in there.
    if !directory.starts_with("/proc")
        && let Err(source) = root.get(&directory, OFlags::PATH | OFlags::DIRECTORY)
        && matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
    {
        return Err(PrepareError::Directory { path: directory, source });
    }
    let user = users::resolve(&root, &config.user, &config.groups)?;
    complete_process(process, &user);
    let folder = PathBuf::from(format!("/proc/{init_pid}"));
    let ids = engine_kernel::process::ids_of(&folder).map_err(|source| PrepareError::Namespace { source })?;
    let owner = user.outside(ids.as_ref())?;
    let failed = |error: serde_json::Error| PrepareError::Process { source: error.into() };
    if ids.is_none() {
        let capabilities = capabilities::keep_for_filter(config, process).map_err(failed)?;
        return Ok(Joined { owner, capabilities, joining: None });
    }
    let joining = Joining::new(&folder, user).map_err(|source| PrepareError::Namespace { source })?;
    let capabilities = Joining::put_off(process).map_err(failed)?;
    Ok(Joined { owner, capabilities: Some(capabilities), joining: Some(joining) })
}

fn complete_process(process: &mut Value, user: &User) {
    process["user"] = json!({ "uid": user.uid, "gid": user.gid, "additionalGids": user.additional_gids });
    if let Some(environment) = process["env"].as_array_mut()
        && !environment.iter().any(|entry| entry.as_str().is_some_and(|entry| entry.starts_with("HOME=")))
    {
        environment.push(format!("HOME={}", user.home).into());
    }
}

#[expect(unsafe_code, reason = "rustix marks unshare as unsafe for the sake of programs with threads")]
fn private_mounts() -> io::Result<()> {
    // SAFETY: this process has one thread and no open descriptor table is unshared.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }?;
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", flags)?;
    Ok(())
}

/// Copies what the image has at the destination, if the volume is still empty.
fn fill(root: &Root, volume: &VolumeFill) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let from = match root.get(&volume.destination, flags) {
        Ok(from) => from,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let to = rustix::fs::openat(CWD, &volume.source, flags, Mode::empty())?;
    if !is_empty(&to)? {
        return Ok(());
    }
    confine::copy_tree(&from, &to)?;
    let stat = rustix::fs::fstat(&from)?;
    let (owner, group) = (rustix::fs::Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(&to, "", Some(owner), Some(group), AtFlags::EMPTY_PATH)?;
    rustix::fs::fchmod(&to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    Ok(())
}

fn is_empty(directory: &OwnedFd) -> io::Result<bool> {
    for entry in rustix::fs::Dir::read_from(directory.as_fd())? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}
