//! What tells one computer from another on Windows, and one folder on it.

use std::{io, path::Path};

use winapi_util::{
    Handle,
    file::information,
    sysinfo::{ComputerNameKind, get_computer_name},
};
use windows_registry::LOCAL_MACHINE;

/// The number that the system's installation has.
pub(super) fn computer() -> String {
    let key = LOCAL_MACHINE.open(r"SOFTWARE\Microsoft\Cryptography");
    key.and_then(|key| key.get_string("MachineGuid")).unwrap_or_default()
}

/// What the computer is called.
pub(super) fn name() -> String {
    let name = get_computer_name(ComputerNameKind::PhysicalDnsHostname).unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The number of a folder, which renaming does not change.
pub(super) fn number(folder: &Path) -> io::Result<u64> {
    information(Handle::from_path_any(folder)?).map(|folder| folder.file_index())
}
