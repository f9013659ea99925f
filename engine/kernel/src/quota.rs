//! Quotas of projects: how much room a tree of files may take, on file systems that count that (xfs mounted with `pquota`, ext4
//! with `prjquota`). The kernel knows a project by its number, which what is made in a directory takes over.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

/// For projects; `PRJQUOTA`.
const PROJECTS: u32 = 2;
/// `Q_XGETQUOTA` and `Q_XSETQLIM` of `linux/dqblk_xfs.h`, which all file systems understand that have quotas.
const GET: u32 = 0x5803;
const SET: u32 = 0x5804;
/// The kernel counts blocks of so many bytes.
const BLOCK: u64 = 512;
/// What is made in the directory belongs to its project, too; `FS_XFLAG_PROJINHERIT`.
const INHERITED: u32 = 0x200;

/// `struct fsxattr`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_extent_size: u32,
    padding: [u8; 8],
}

/// `struct fs_disk_quota`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Quota {
    version: i8,
    flags: i8,
    fields: u16,
    id: u32,
    hard_blocks: u64,
    soft_blocks: u64,
    hard_files: u64,
    soft_files: u64,
    blocks: u64,
    files: u64,
    timers: [i32; 2],
    warnings: [u16; 2],
    more_timers: [i8; 4],
    realtime: [u64; 3],
    realtime_timer: i32,
    realtime_warnings: u16,
    padding: [u8; 10],
}

/// Gives a directory, which should be empty, to a project.
pub fn set_project(directory: impl AsFd, project: u32) -> io::Result<()> {
    let mut attributes = attributes(&directory)?;
    attributes.project = project;
    attributes.flags |= INHERITED;
    write_attributes(&directory, &attributes)
}

/// The project that a file belongs to; 0 is none.
pub fn project(file: impl AsFd) -> io::Result<u32> {
    Ok(attributes(&file)?.project)
}

#[expect(unsafe_code, reason = "there is no safe form of this ioctl")]
fn attributes(file: &impl AsFd) -> io::Result<Attributes> {
    /// `FS_IOC_FSGETXATTR`
    const CALL: libc::Ioctl = 0x801c_581f_u32 as libc::Ioctl;
    let mut attributes = Attributes::default();
    // SAFETY: the descriptor is open, and the structure, which the kernel fills, lives through the call.
    let result = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), CALL, &raw mut attributes) };
    if result == 0 { Ok(attributes) } else { Err(io::Error::last_os_error()) }
}

#[expect(unsafe_code, reason = "there is no safe form of this ioctl")]
fn write_attributes(file: &impl AsFd, attributes: &Attributes) -> io::Result<()> {
    /// `FS_IOC_FSSETXATTR`
    const CALL: libc::Ioctl = 0x401c_5820;
    // SAFETY: the descriptor is open, and the structure lives through the call.
    let result = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), CALL, std::ptr::from_ref(attributes)) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether anything belongs to a project on the file system of this file.
pub fn is_used(file: impl AsFd, project: u32) -> io::Result<bool> {
    let mut quota = Quota::default();
    match call(&file, GET, project, &mut quota) {
        Ok(()) => Ok(quota.blocks > 0 || quota.files > 0),
        // As xfs says of a project that it has never heard of.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// How many bytes a project may take on the file system of this file; 0 is any number.
pub fn limit(file: impl AsFd, project: u32, bytes: u64) -> io::Result<()> {
    /// `FS_DQ_BSOFT` and `FS_DQ_BHARD`
    const BLOCKS: u16 = 0b1100;
    /// `FS_PROJ_QUOTA`
    const OF_PROJECT: i8 = 2;
    let blocks = bytes.div_ceil(BLOCK);
    let mut quota = Quota {
        version: 1,
        flags: OF_PROJECT,
        fields: BLOCKS,
        id: project,
        hard_blocks: blocks,
        soft_blocks: blocks,
        ..Quota::default()
    };
    call(&file, SET, project, &mut quota)
}

#[expect(unsafe_code, reason = "there is no safe form of quotactl_fd")]
fn call(file: &impl AsFd, command: u32, project: u32, quota: &mut Quota) -> io::Result<()> {
    let command = (command << 8) | PROJECTS;
    let file = file.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open, and the structure, which the kernel reads or fills, lives through the call.
    let result =
        unsafe { libc::syscall(libc::SYS_quotactl_fd, file, command, project, std::ptr::from_mut(quota)) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether an error means that there are no quotas of projects here, rather than that something went wrong with them.
pub fn are_lacking(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS | Errno::SRCH | Errno::INVAL | Errno::NOTBLK)
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs::File;

    use super::*;

    #[test]
    fn structures_are_as_long_as_the_kernels() {
        assert_eq!((size_of::<Attributes>(), size_of::<Quota>()), (28, 112));
        assert_eq!(std::mem::offset_of!(Quota, realtime), 72);
    }

    #[test]
    fn where_there_are_no_quotas_that_is_told() {
        let memory = File::open("/proc").unwrap();
        for refused in [limit(&memory, 7, 1), is_used(&memory, 7).map(drop), set_project(&memory, 7)] {
            let error = refused.unwrap_err();
            assert!(are_lacking(&error) || error.kind() == io::ErrorKind::PermissionDenied, "{error}");
        }
    }
}
