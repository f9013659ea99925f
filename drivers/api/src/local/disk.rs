//! Disk images: what one is.

use std::{
    fs::OpenOptions,
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

const MIB: u64 = 1 << 20;
/// Bit of a qcow2 header which says that the content is in another file.
const EXTERNAL_DATA: u64 = 1 << 2;

/// The formats that are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Qcow2,
    Raw,
}

impl Format {
    pub fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// A disk image that was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    pub format: Format,
    /// As the guest sees it, in bytes.
    pub size: u64,
}

/// Why a file cannot be used as a disk, or none be written.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("Could not read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("`{}` is no disk image: it is neither qcow2 nor does it begin with a boot sector", path.display())]
    NotAnImage { path: PathBuf },
    #[error("`{}` is no usable disk image: {reason}", path.display())]
    Unusable { path: PathBuf, reason: &'static str },
    #[error("Could not write the disk `{}`", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// Looks at the first bytes of a file; nothing in it is followed anywhere.
pub fn inspect(path: &Path) -> Result<Facts, DiskError> {
    let read = |source| DiskError::Read { path: path.to_owned(), source };
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        // Without O_NONBLOCK, opening a named pipe would wait for ever.
        let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, nonblock);
    }
    let file = options.open(path).map_err(read)?;
    let metadata = file.metadata().map_err(read)?;
    let unusable = |reason| Err(DiskError::Unusable { path: path.to_owned(), reason });
    if !metadata.is_file() {
        return unusable("it is no regular file");
    }
    let mut head = Vec::with_capacity(512);
    file.take(512).read_to_end(&mut head).map_err(read)?;
    if head.starts_with(b"QFI\xfb") && head.len() >= 72 {
        let number =
            |at: usize| head[at..at + 4].iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
        let long = |at: usize| u64::from(number(at)) << 32 | u64::from(number(at + 4));
        let (version, size) = (number(4), long(24));
        if !(2..=3).contains(&version) {
            return unusable("its version of qcow2 is not known");
        }
        if long(8) != 0 {
            return unusable("it is based on another file");
        }
        if number(32) != 0 {
            return unusable("it is encrypted");
        }
        if version == 3 && (head.len() < 104 || long(72) & EXTERNAL_DATA != 0) {
            return unusable("its content is in another file");
        }
        if !(MIB..=64 << 40).contains(&size) {
            return unusable("its size makes no sense");
        }
        return Ok(Facts { format: Format::Qcow2, size });
    }
    if head.len() == 512 && head.ends_with(&[0x55, 0xaa]) && metadata.len() >= MIB {
        return Ok(Facts { format: Format::Raw, size: metadata.len() });
    }
    Err(DiskError::NotAnImage { path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;

    #[test]
    fn what_is_no_image_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let contents: [&[u8]; 5] = [b"", b"hello", b"QFI\xfb", &[0; 4096], &[0x55; 511]];
        for content in contents {
            fs::write(&path, content).unwrap();
            assert!(matches!(inspect(&path), Err(DiskError::NotAnImage { .. })), "{content:?}");
        }
        assert!(matches!(inspect(folder.path()), Err(DiskError::Unusable { .. })));
        assert!(matches!(inspect(&folder.path().join("missing")), Err(DiskError::Read { .. })));
        let pipe = folder.path().join("pipe");
        #[cfg(unix)]
        std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        #[cfg(unix)]
        assert!(matches!(inspect(&pipe), Err(DiskError::Unusable { .. })));
    }

    #[test]
    fn a_raw_disk_begins_with_a_boot_sector() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.raw");
        let mut content = vec![0; 2 << 20];
        content[510..512].copy_from_slice(&[0x55, 0xaa]);
        fs::write(&path, &content).unwrap();
        assert_eq!(inspect(&path).unwrap(), Facts { format: Format::Raw, size: 2 << 20 });
    }
}
