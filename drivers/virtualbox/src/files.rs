//! What is in a host's folder, and where.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use machine_driver::{DriverError, HostId, HostView};

/// The VM's disk, in the VM's own folder.
pub(crate) const DISK: &str = "disk.vdi";
pub(crate) const SEED: &str = "seed.iso";
pub(crate) const CONSOLE: &str = "console.log";
pub(crate) const PREVIOUS_CONSOLE: &str = "console.log.1";
pub(crate) const PORTS_LOG: &str = "ports.log";
/// Held by the port forwarder as long as it works.
pub(crate) const PORTS_LOCK: &str = "ports.lock";
/// Tells the port forwarder to end.
pub(crate) const PORTS_END: &str = "ports.end";
const PORTS_SOCKET: &str = "ports.sock";
/// What an address of a unix socket has room for, on all systems.
const LONGEST_SOCKET: usize = 100;

/// What all hosts of the store share.
pub(crate) fn cache(host: &HostView) -> PathBuf {
    let cache = host.cache.join("virtualbox");
    std::path::absolute(&cache).unwrap_or(cache)
}

/// The host's folder, in full.
pub(crate) fn folder(host: &HostView) -> Result<PathBuf, DriverError> {
    std::path::absolute(&host.folder)
        .map_err(|error| DriverError::failed("Could not find the host's folder").with_source(error))
}

/// The VM's name: two stores may each have a host of one name.
pub(crate) fn vm_name(host: &HostView) -> String {
    format!("{}-{}", host.name, host.id)
}

/// The folder that VirtualBox makes for the VM.
pub(crate) fn vm_folder(host: &HostView) -> PathBuf {
    host.folder.join(vm_name(host))
}

/// The VM's second serial port. `None`: its address would be too long.
pub(crate) fn ports_socket(folder: &Path, id: &HostId) -> Option<PathBuf> {
    if cfg!(windows) {
        return Some(format!(r"\\.\pipe\machine-{id}").into());
    }
    let path = folder.join(PORTS_SOCKET);
    (path.as_os_str().len() <= LONGEST_SOCKET).then_some(path)
}

pub(crate) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub(crate) fn remove_folder_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The files of one run of the VM.
pub(crate) fn clear_runtime_files(folder: &Path) -> io::Result<()> {
    [PORTS_LOCK, PORTS_END, PORTS_SOCKET].iter().try_for_each(|file| remove_if_there(&folder.join(file)))
}
