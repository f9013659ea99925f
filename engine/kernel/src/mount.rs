//! Attributes of a mount that is not in its place yet.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Sets what the words of an OCI configuration say: `ro`, `rro`, `nosuid`, `nodev`, `noexec`, and how mounts and unmounts are
/// passed on. Words that say nothing about attributes are passed over.
pub fn set_attributes(tree: impl AsFd, options: &[&str]) -> io::Result<()> {
    for (word, attribute, propagation, is_recursive) in [
        ("ro", libc::MOUNT_ATTR_RDONLY, 0, false),
        ("rro", libc::MOUNT_ATTR_RDONLY, 0, true),
        ("nosuid", libc::MOUNT_ATTR_NOSUID, 0, false),
        ("nodev", libc::MOUNT_ATTR_NODEV, 0, false),
        ("noexec", libc::MOUNT_ATTR_NOEXEC, 0, false),
        ("private", 0, libc::MS_PRIVATE, false),
        ("rprivate", 0, libc::MS_PRIVATE, true),
        ("slave", 0, libc::MS_SLAVE, false),
        ("rslave", 0, libc::MS_SLAVE, true),
        ("shared", 0, libc::MS_SHARED, false),
        ("rshared", 0, libc::MS_SHARED, true),
    ] {
        if options.contains(&word) {
            set(&tree, attribute, propagation, is_recursive)?;
        }
    }
    Ok(())
}

/// Has files shown with the owners that a user namespace says.
pub(crate) fn map_owners(tree: impl AsFd, users: impl AsFd, is_recursive: bool) -> io::Result<()> {
    let userns_fd = u64::try_from(users.as_fd().as_raw_fd()).map_err(io::Error::other)?;
    let wanted =
        libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd };
    change(&tree, &wanted, is_recursive)
}

fn set(tree: &impl AsFd, attribute: u64, propagation: u64, is_recursive: bool) -> io::Result<()> {
    let wanted = libc::mount_attr { attr_set: attribute, attr_clr: 0, propagation, userns_fd: 0 };
    change(tree, &wanted, is_recursive)
}

#[expect(unsafe_code, reason = "there is no safe form of mount_setattr")]
fn change(tree: &impl AsFd, wanted: &libc::mount_attr, is_recursive: bool) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if is_recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the descriptor is open, the path is an empty string that ends with a null byte, and the structure lives through
    // the call, which is told its size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(wanted),
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives this thread mounts and a working directory of its own: what it mounts nobody else sees, and it is gone with the thread.
#[expect(unsafe_code, reason = "rustix marks unshare as unsafe for the sake of shared descriptor tables")]
pub fn leave_mounts_of_others() -> io::Result<()> {
    use rustix::mount::MountPropagationFlags;
    use rustix::thread::UnshareFlags;
    // SAFETY: descriptors stay shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }?;
    Ok(rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?)
}
