//! Extended attributes of files that go where the files go: what users and programs have noted, access lists, capabilities.

pub mod numbers;

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// The kernel's own bounds.
const LONGEST_LIST: usize = 64 * 1024;
const LONGEST_VALUE: usize = 64 * 1024;

/// Whether an attribute is one that is carried along. Others are the file system's, or say who may be trusted here.
pub fn is_carried(name: &str) -> bool {
    let is_carried = name.starts_with("user.")
        || matches!(name, "security.capability" | "system.posix_acl_access" | "system.posix_acl_default");
    is_carried && !name.contains('\0')
}

/// Whether an attribute goes with a file to other hosts as well: access lists name users of this one.
pub fn travels(name: &str) -> bool {
    is_carried(name) && !name.starts_with("system.") && !name.starts_with("user.overlay.")
}

/// By way of the descriptor, which may be open as a place only: no name is looked up.
fn path(file: &impl AsFd) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}

/// Those of an opened file that are carried along; none where the file system has no such thing.
pub fn read(file: &impl AsFd) -> io::Result<Vec<(String, Vec<u8>)>> {
    let path = path(file);
    let mut names = vec![0; 1024];
    let length = loop {
        match rustix::fs::listxattr(&path, names.as_mut_slice()) {
            Ok(length) => break length,
            Err(Errno::RANGE) if names.len() < LONGEST_LIST => names.resize(LONGEST_LIST, 0),
            Err(Errno::NOTSUP) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
    };
    names.truncate(length);
    let mut found = Vec::new();
    let names = names.split(|byte| *byte == 0).filter_map(|name| std::str::from_utf8(name).ok());
    for name in names.filter(|name| is_carried(name)) {
        let mut value = vec![0; LONGEST_VALUE];
        match rustix::fs::getxattr(&path, name, value.as_mut_slice()) {
            Ok(length) => {
                value.truncate(length);
                found.push((name.to_owned(), value));
            }
            // It has gone meanwhile.
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

/// Gives an opened file an attribute. A file system that has no such thing goes without.
pub fn write(file: &impl AsFd, name: &str, value: &[u8]) -> io::Result<()> {
    match rustix::fs::setxattr(path(file), name, value, XattrFlags::empty()) {
        Ok(()) | Err(Errno::NOTSUP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs::File;

    use super::*;

    #[test]
    fn what_users_noted_is_carried_and_trust_is_not() {
        for name in ["user.a", "security.capability", "system.posix_acl_access"] {
            assert!(is_carried(name), "{name}");
        }
        for name in ["trusted.overlay.opaque", "security.selinux", "user.a\0b", ""] {
            assert!(!is_carried(name), "{name}");
        }
        assert!(travels("user.a") && travels("security.capability"));
        for name in ["system.posix_acl_access", "user.overlay.opaque", "security.selinux"] {
            assert!(!travels(name), "{name}");
        }
        let folder = tempfile::tempdir_in(".").unwrap();
        let file = File::create(folder.path().join("file")).unwrap();
        write(&file, "user.colour", b"red").unwrap();
        let found = read(&file).unwrap();
        // Not every file system has them.
        assert!(found.is_empty() || found == [("user.colour".to_owned(), b"red".to_vec())], "{found:?}");
    }
}
