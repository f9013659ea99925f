//! The data disk: formatted when it is blank, grown when it grew, and the folders that are kept on it.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, mount, mount_bind};

use crate::console;
use crate::disks::{Content, Disk};
use crate::error::{BootError, make_folder, run};
use crate::instance::{HOST_KEY_FOLDER, is_host_key};

/// The label of a data disk that is complete.
pub(crate) const LABEL: &str = "machineos-data";
/// The label while it is being made: power that fails now costs nothing, the next boot starts over.
pub(crate) const UNFINISHED_LABEL: &str = "machineos-new";
const MOUNT_POINT: &str = "/data";
/// What stays. Everything else is memory over the image.
const KEPT: [&str; 7] =
    ["/etc/engine", "/etc/services", "/home", STATE, "/usr/local", "/var/lib/engine", "/var/log"];
/// MachineOS's own memory: the last seed, what was done for it.
pub(crate) const STATE: &str = "/var/lib/machineos";
/// Less is rounding: the file system ends on a block group, the disk anywhere.
const WORTH_GROWING: u64 = 16 * 1024 * 1024;

/// Which disk is to hold the data, of those that are there.
pub(crate) fn choose(disks: &[Disk]) -> Option<&Disk> {
    let labelled = |wanted: &str| {
        disks.iter().find(|disk| matches!(&disk.content, Content::Ext4 { label, .. } if label == wanted))
    };
    labelled(LABEL)
        .or_else(|| labelled(UNFINISHED_LABEL))
        .or_else(|| disks.iter().find(|disk| disk.may_become_data()))
}

/// Whether this disk held data before, so that there is no better one to wait for.
pub(crate) fn is_settled(disk: &Disk) -> bool {
    matches!(&disk.content, Content::Ext4 { label, .. } if label == LABEL)
}

/// Whether a path lies in a folder that outlives the power, or is a host key.
pub(crate) fn is_kept(path: &Path) -> bool {
    let is_key = path.parent() == Some(Path::new(HOST_KEY_FOLDER)) && is_host_key(path);
    is_key || KEPT.iter().any(|kept| path.starts_with(kept))
}

/// Makes the disk ready and puts the kept folders on it.
pub(crate) fn mount_disk(disk: &Disk) -> Result<(), BootError> {
    let node = disk.node.to_string_lossy();
    match &disk.content {
        Content::Ext4 { label, size } if label == LABEL => {
            attach(&node)?;
            if disk.size > size + WORTH_GROWING {
                grow(&node, disk.size);
            }
        }
        _ => {
            console::say(&format!("Formatting `{node}` ({} MiB) as the data disk", disk.size >> 20));
            format(&node)?;
            attach(&node)?;
        }
    }
    keep()
}

/// Without a disk the same folders are memory.
pub(crate) fn mount_memory() -> Result<(), BootError> {
    make_folder(Path::new(MOUNT_POINT))?;
    mount("tmpfs", MOUNT_POINT, "tmpfs", MountFlags::NOATIME, c"mode=0700")
        .map_err(|source| mount_failed("memory", MOUNT_POINT, source))?;
    keep()
}

fn format(node: &str) -> Result<(), BootError> {
    let options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard";
    run("/sbin/mke2fs", &["-q", "-F", "-t", "ext4", "-m", "1", "-L", UNFINISHED_LABEL, "-E", options, node])?;
    run("/sbin/e2label", &[node, LABEL])?;
    Ok(())
}

fn attach(node: &str) -> Result<(), BootError> {
    make_folder(Path::new(MOUNT_POINT))?;
    let flags = MountFlags::NOATIME;
    if mount(node, MOUNT_POINT, "ext4", flags, c"errors=remount-ro").is_ok() {
        return Ok(());
    }
    console::say(&format!("`{node}` cannot be mounted and is being repaired"));
    // 1 means that errors were corrected; what it could not correct shows in the mount below.
    if let Err(failure) = run("/sbin/e2fsck", &["-y", node]) {
        console::report(&failure);
    }
    mount(node, MOUNT_POINT, "ext4", flags, c"errors=remount-ro")
        .map_err(|source| mount_failed(node, MOUNT_POINT, source))
}

/// A disk that stays smaller than it could be is no reason not to start.
fn grow(node: &str, size: u64) {
    match run("/sbin/resize2fs", &[node]) {
        Ok(_) => console::say(&format!("The data disk has grown to {} MiB", size >> 20)),
        Err(failure) => console::report(&failure),
    }
}

fn mount_failed(what: &str, target: &str, source: rustix::io::Errno) -> BootError {
    BootError::Mount { what: format!("`{what}`"), target: target.into(), source: source.into() }
}

fn keep() -> Result<(), BootError> {
    for path in KEPT {
        let kept = PathBuf::from(format!("{MOUNT_POINT}{path}"));
        if !kept.exists() {
            make_folder(Path::new(path))?;
            seed_folder(Path::new(path), &kept)?;
        }
        make_folder(Path::new(path))?;
        mount_bind(&kept, path).map_err(|source| mount_failed(&kept.to_string_lossy(), path, source))?;
    }
    // Without them there are still those of the seed.
    if let Err(failure) = keep_host_keys() {
        console::report(&failure);
    }
    Ok(())
}

/// Keeps what comes to the image's folder of host keys in a layer over it, and of that only the keys: the
/// configuration is always that of the image.
fn keep_host_keys() -> Result<(), BootError> {
    let layer = PathBuf::from(format!("{MOUNT_POINT}{HOST_KEY_FOLDER}"));
    let work = PathBuf::from(format!("{MOUNT_POINT}/work{HOST_KEY_FOLDER}"));
    if !layer.exists() {
        seed_folder(Path::new(HOST_KEY_FOLDER), &layer)?;
    }
    make_folder(&work)?;
    keep_only_host_keys(&layer);
    let options =
        format!("lowerdir={HOST_KEY_FOLDER},upperdir={},workdir={}", layer.display(), work.display());
    let failed = |source| mount_failed(&layer.to_string_lossy(), HOST_KEY_FOLDER, source);
    let options = CString::new(options).map_err(|_| failed(rustix::io::Errno::INVAL))?;
    mount("overlay", HOST_KEY_FOLDER, "overlay", MountFlags::NOATIME, options.as_c_str()).map_err(failed)
}

fn keep_only_host_keys(layer: &Path) {
    for path in crate::devices::entries(layer) {
        let facts = fs::symlink_metadata(&path);
        if facts.as_ref().is_ok_and(fs::Metadata::is_dir) {
            let _ = fs::remove_dir_all(path);
        } else if !is_host_key(&path) || !facts.is_ok_and(|facts| facts.is_file()) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Gives a new kept folder what the image has in its place, folders and modes only: the image has no files there.
fn seed_folder(from: &Path, to: &Path) -> Result<(), BootError> {
    make_folder(to)?;
    let facts = fs::metadata(from).map_err(|source| BootError::Read { path: from.to_owned(), source })?;
    let failed = |source| BootError::Write { path: to.to_owned(), source };
    fs::set_permissions(to, fs::Permissions::from_mode(facts.mode() & 0o7777)).map_err(failed)?;
    for entry in crate::devices::entries(from).into_iter().filter(|entry| entry.is_dir()) {
        if let Some(name) = entry.file_name() {
            seed_folder(&entry, &to.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn disk(name: &str, content: Content) -> Disk {
        let size = 1 << 30;
        Disk { node: Path::new("/dev").join(name), size, is_partition: false, is_writable: true, content }
    }

    fn ext4(label: &str) -> Content {
        Content::Ext4 { label: label.to_owned(), size: 1 << 30 }
    }

    #[test]
    fn the_labelled_disk_wins_then_the_unfinished_then_the_first_blank() {
        let disks = [
            disk("vda", Content::Other),
            disk("vdb", Content::Blank),
            disk("vdc", Content::Blank),
            disk("vdd", ext4(UNFINISHED_LABEL)),
            disk("vde", ext4(LABEL)),
        ];
        assert_eq!(choose(&disks).unwrap().node, Path::new("/dev/vde"));
        assert_eq!(choose(&disks[..4]).unwrap().node, Path::new("/dev/vdd"));
        assert_eq!(choose(&disks[..3]).unwrap().node, Path::new("/dev/vdb"));
        assert!(choose(&disks[..1]).is_none());
    }

    #[test]
    fn what_is_somebodys_is_never_taken() {
        let mut read_only = disk("vda", Content::Blank);
        read_only.is_writable = false;
        let mut partition = disk("vda1", Content::Blank);
        partition.is_partition = true;
        let mut small = disk("vdb", Content::Blank);
        small.size = 1 << 20;
        let others = [
            read_only,
            partition,
            small,
            disk("vdc", ext4("root")),
            disk("vdd", Content::Fat { label: "CIDATA".to_owned() }),
            disk("vde", Content::Iso { label: LABEL.to_owned() }),
        ];
        assert!(choose(&others).is_none());
    }

    #[test]
    fn of_the_layer_over_the_host_keys_only_keys_stay() {
        let folder = tempfile::tempdir().unwrap();
        let layer = folder.path();
        for name in ["ssh_host_ed25519_key", "ssh_host_rsa_key.pub", "sshd_config", "unfinished"] {
            fs::write(layer.join(name), "x").unwrap();
        }
        fs::create_dir_all(layer.join("sshd_config.d/x")).unwrap();
        std::os::unix::fs::symlink("/etc/shadow", layer.join("ssh_host_ecdsa_key.pub")).unwrap();
        keep_only_host_keys(layer);
        let mut left: Vec<_> = crate::devices::entries(layer);
        left.sort();
        assert_eq!(left, ["ssh_host_ed25519_key", "ssh_host_rsa_key.pub"].map(|name| layer.join(name)));
    }

    #[test]
    fn what_is_kept() {
        for path in ["/home/jo/x", "/etc/engine/x", "/etc/ssh/ssh_host_rsa_key"] {
            assert!(is_kept(Path::new(path)), "{path}");
        }
        for path in ["/etc/ssh/sshd_config", "/etc/ssh_host_x", "/etc/ssh/x/ssh_host_y", "/homes"] {
            assert!(!is_kept(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn a_kept_folder_starts_as_the_image_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("local"), folder.path().join("data/local"));
        fs::create_dir_all(from.join("bin")).unwrap();
        fs::set_permissions(&from, fs::Permissions::from_mode(0o751)).unwrap();
        seed_folder(&from, &to).unwrap();
        assert!(to.join("bin").is_dir());
        assert_eq!(fs::metadata(&to).unwrap().mode() & 0o7777, 0o751);
    }
}
