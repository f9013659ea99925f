//! Files and folders that are one user's alone: made so, and looked at.
//!
//! On unix that is a matter of modes, on Windows of access lists, which files have from the folder that they lie in. So
//! what is private there is the folder, and a private key is looked at as OpenSSH for Windows does it.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

use std::{fs::File, io, path::Path};

/// How others than the owner of a file can use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exposure {
    permissions: String,
}

impl Exposure {
    /// The permissions that are too much, to stand after that word: `0644`, or on Windows `of BUILTIN\Users`.
    pub fn permissions(&self) -> &str {
        &self.permissions
    }

    /// The command that takes them away.
    pub fn remedy(&self, path: &Path) -> String {
        system::remedy(path)
    }
}

/// How others than the owner of an open file can use it; `None`: not at all. The system's administrators do not count.
pub fn exposure(file: &File) -> io::Result<Option<Exposure>> {
    Ok(system::exposure(file)?.map(|permissions| Exposure { permissions }))
}

/// Makes a folder with its parents, each for the user alone. One that is there is left as it is.
pub fn make_folder(path: &Path) -> io::Result<()> {
    system::make_folder(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_is_made_in_a_private_folder_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        make_folder(&inner).unwrap();
        make_folder(&inner).unwrap();
        // On unix a file has permissions of its own.
        let file = tempfile::NamedTempFile::new_in(&inner).unwrap();
        assert_eq!(exposure(file.as_file()).unwrap(), None);
        assert!(make_folder(&file.path().join("x")).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn what_others_can_use_is_told_by_its_mode() {
        use std::{fs::Permissions, os::unix::fs::PermissionsExt as _};
        let file = tempfile::NamedTempFile::new().unwrap();
        for (mode, expected) in [
            (0o600, None),
            (0o400, None),
            (0o644, Some("0644")),
            (0o601, Some("0601")),
            (0o620, Some("0620")),
        ] {
            file.as_file().set_permissions(Permissions::from_mode(mode)).unwrap();
            let exposure = exposure(file.as_file()).unwrap();
            assert_eq!(exposure.as_ref().map(Exposure::permissions), expected);
        }
        let folder = tempfile::tempdir().unwrap();
        make_folder(&folder.path().join("a/b")).unwrap();
        for name in ["a", "a/b"] {
            let mode = folder.path().join(name).metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{name}");
        }
    }
}
