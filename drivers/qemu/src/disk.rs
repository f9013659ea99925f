//! Disk images: what one is, and writing an empty one or an overlay.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

const MIB: u64 = 1 << 20;
/// QEMU's own default: 64 KiB.
const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// One entry of the first table stands for a cluster full of eight-byte entries.
const BYTES_PER_ENTRY: u64 = CLUSTER * (CLUSTER / 8);
const REFCOUNT_TABLE: u64 = CLUSTER;
const REFCOUNT_BLOCK: u64 = 2 * CLUSTER;
const FIRST_TABLE: u64 = 3 * CLUSTER;
const HEADER_LENGTH: u32 = 104;
const BACKING_FORMAT_EXTENSION: u32 = 0xe279_2aca;
/// What the format allows.
const LONGEST_BACKING_NAME: usize = 1023;
/// Bit of a qcow2 header which says that the content is in another file.
const EXTERNAL_DATA: u64 = 1 << 2;

/// The formats that are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    Qcow2,
    Raw,
}

impl Format {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// A disk image that was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) format: Format,
    /// As the guest sees it, in bytes.
    pub(crate) size: u64,
}

/// Why a file cannot be used as a disk, or none be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
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
pub(crate) fn inspect(path: &Path) -> Result<Facts, DiskError> {
    let read = |source| DiskError::Read { path: path.to_owned(), source };
    // Without O_NONBLOCK, opening a named pipe would wait for ever.
    let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(nonblock).open(path).map_err(read)?;
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

/// Writes an empty disk of `size` bytes, all of which come from `base` until they are written.
/// Sparse: it takes a few kilobytes. All of it or nothing is there afterwards.
pub(crate) fn create(path: &Path, size: u64, base: Option<(&Path, Format)>) -> Result<(), DiskError> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let write = |source| DiskError::Write { path: path.to_owned(), source };
    let entries = size.div_ceil(BYTES_PER_ENTRY).max(1);
    let header = header(size, entries, base).ok_or_else(|| DiskError::Unusable {
        path: path.to_owned(),
        reason: "the path of the image below it is too long, or not UTF-8",
    })?;
    let table_clusters = (entries * 8).div_ceil(CLUSTER);
    let lay_out = || -> io::Result<()> {
        match fs::remove_file(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
        file.write_all(&header)?;
        file.write_all_at(&REFCOUNT_BLOCK.to_be_bytes(), REFCOUNT_TABLE)?;
        for cluster in 0..FIRST_TABLE / CLUSTER + table_clusters {
            file.write_all_at(&1_u16.to_be_bytes(), REFCOUNT_BLOCK + cluster * 2)?;
        }
        file.set_len(FIRST_TABLE + table_clusters * CLUSTER)?;
        file.sync_all()?;
        fs::rename(&partial, path)
    };
    lay_out().map_err(write)
}

/// Version 3, no features. `None`: the base's path does not fit.
fn header(size: u64, entries: u64, base: Option<(&Path, Format)>) -> Option<Vec<u8>> {
    let (name, format) = match base {
        None => ("", None),
        Some((path, format)) => {
            (path.to_str().filter(|name| name.len() <= LONGEST_BACKING_NAME)?, Some(format))
        }
    };
    let mut extensions = Vec::new();
    if let Some(format) = format {
        let format = format.name().as_bytes();
        extensions.extend(BACKING_FORMAT_EXTENSION.to_be_bytes());
        extensions.extend(u32::try_from(format.len()).ok()?.to_be_bytes());
        extensions.extend(format);
        extensions.resize(extensions.len().next_multiple_of(8), 0);
    }
    extensions.extend([0; 8]);
    let name_offset = if format.is_some() { u64::from(HEADER_LENGTH) + extensions.len() as u64 } else { 0 };

    let mut bytes = b"QFI\xfb".to_vec();
    bytes.extend(3_u32.to_be_bytes());
    bytes.extend(name_offset.to_be_bytes());
    bytes.extend(u32::try_from(name.len()).ok()?.to_be_bytes());
    bytes.extend(CLUSTER_BITS.to_be_bytes());
    bytes.extend(size.to_be_bytes());
    bytes.extend(0_u32.to_be_bytes());
    bytes.extend(u32::try_from(entries).ok()?.to_be_bytes());
    bytes.extend(FIRST_TABLE.to_be_bytes());
    bytes.extend(REFCOUNT_TABLE.to_be_bytes());
    bytes.extend(1_u32.to_be_bytes());
    // Snapshots; then incompatible, compatible and automatically cleared features.
    bytes.extend(0_u32.to_be_bytes());
    bytes.extend([0; 8 * 4]);
    // A refcount has 2^4 bits.
    bytes.extend(4_u32.to_be_bytes());
    bytes.extend(HEADER_LENGTH.to_be_bytes());
    bytes.extend(extensions);
    bytes.extend(name.as_bytes());
    Some(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::process::Command;

    use super::*;

    fn qemu_img(arguments: &[&str]) -> Option<serde_json::Value> {
        let output = Command::new("qemu-img").args(arguments).output().ok()?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(serde_json::from_slice(&output.stdout).unwrap())
    }

    #[test]
    fn an_empty_disk_is_one_to_us_and_to_qemu() {
        let folder = tempfile::tempdir().unwrap();
        for (name, size) in [("small", 256 * MIB), ("usual", 20_000 * MIB), ("large", 16 << 40)] {
            let path = folder.path().join(name);
            create(&path, size, None).unwrap();
            assert_eq!(inspect(&path).unwrap(), Facts { format: Format::Qcow2, size });
            let on_disk = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&path).unwrap()) * 512;
            assert!(on_disk <= 8 * CLUSTER, "{on_disk} bytes are taken");
            let path = path.to_str().unwrap();
            let Some(check) = qemu_img(&["check", "--output=json", "-f", "qcow2", path]) else { continue };
            assert_eq!(check["check-errors"], 0, "{check}");
            assert!(check.get("leaks").is_none() && check.get("corruptions").is_none(), "{check}");
            let info = qemu_img(&["info", "--output=json", "-f", "qcow2", path]).unwrap();
            assert_eq!(info["virtual-size"], size);
        }
    }

    #[test]
    fn an_overlay_names_its_base_and_is_refused_as_an_image() {
        let folder = tempfile::tempdir().unwrap();
        let (base, overlay) = (folder.path().join("base, with comma"), folder.path().join("overlay"));
        create(&base, 300 * MIB, None).unwrap();
        create(&overlay, 500 * MIB, Some((&base, Format::Qcow2))).unwrap();
        assert!(matches!(inspect(&overlay), Err(DiskError::Unusable { .. })));
        let arguments = ["info", "--output=json", "-f", "qcow2", overlay.to_str().unwrap()];
        let Some(info) = qemu_img(&arguments) else { return };
        assert_eq!(info["full-backing-filename"], base.to_str().unwrap());
        assert_eq!(info["backing-filename-format"], "qcow2");
        assert_eq!(info["virtual-size"], 500 * MIB);
    }

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
        Command::new("mkfifo").arg(&pipe).status().unwrap();
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
