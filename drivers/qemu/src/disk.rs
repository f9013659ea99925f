//! Writing a disk image: an empty one or an overlay.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use machine_driver::local::disk::{DiskError, Format};

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

    use machine_driver::local::disk::{Facts, inspect};

    use super::*;

    const MIB: u64 = 1 << 20;

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
}
