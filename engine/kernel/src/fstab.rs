//! Mounts described as mount(8) and fstab(5) do: a kind of file system, a device, and words for how.

use std::ffi::CString;
use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

/// More mounts on one place are a mistake of somebody's.
const MOST_STACKED: usize = 64;

/// What is to be mounted.
#[derive(Clone, Copy, Debug)]
pub struct Description<'a> {
    /// `nfs`, `tmpfs`, …; a bind mount has none of its own.
    pub kind: &'a str,
    pub device: &'a str,
    /// With commas between them. What mount(8) does not know is for the file system.
    pub words: &'a str,
}

/// What the words say.
#[derive(Debug, PartialEq, Eq)]
struct Words {
    flags: MountFlags,
    /// All below it, too.
    is_recursive: bool,
    is_bind: bool,
    propagation: Option<MountPropagationFlags>,
    /// For the file system.
    data: String,
}

impl Words {
    fn read(text: &str) -> Self {
        let mut words = Self {
            flags: MountFlags::empty(),
            is_recursive: false,
            is_bind: false,
            propagation: None,
            data: String::new(),
        };
        for word in text.split(',').filter(|word| !word.is_empty()) {
            if !words.understand(word) {
                if !words.data.is_empty() {
                    words.data.push(',');
                }
                words.data.push_str(word);
            }
        }
        words
    }

    /// Whether a word is one of mount(8)'s own.
    fn understand(&mut self, word: &str) -> bool {
        let (set, flag) = match word {
            "defaults" => return true,
            "bind" | "rbind" => {
                (self.is_bind, self.is_recursive) = (true, word == "rbind");
                return true;
            }
            "ro" => (true, MountFlags::RDONLY),
            "rw" => (false, MountFlags::RDONLY),
            "nosuid" => (true, MountFlags::NOSUID),
            "suid" => (false, MountFlags::NOSUID),
            "nodev" => (true, MountFlags::NODEV),
            "dev" => (false, MountFlags::NODEV),
            "noexec" => (true, MountFlags::NOEXEC),
            "exec" => (false, MountFlags::NOEXEC),
            "sync" => (true, MountFlags::SYNCHRONOUS),
            "async" => (false, MountFlags::SYNCHRONOUS),
            "dirsync" => (true, MountFlags::DIRSYNC),
            "noatime" => (true, MountFlags::NOATIME),
            "atime" => (false, MountFlags::NOATIME),
            "nodiratime" => (true, MountFlags::NODIRATIME),
            "diratime" => (false, MountFlags::NODIRATIME),
            "relatime" => (true, MountFlags::RELATIME),
            "norelatime" => (false, MountFlags::RELATIME),
            "strictatime" => (true, MountFlags::STRICTATIME),
            "nostrictatime" => (false, MountFlags::STRICTATIME),
            other => {
                let (others, whole) = match other.strip_prefix('r') {
                    Some(rest) => (rest, MountPropagationFlags::REC),
                    None => (other, MountPropagationFlags::empty()),
                };
                let propagation = match others {
                    "private" => MountPropagationFlags::PRIVATE,
                    "shared" => MountPropagationFlags::SHARED,
                    "slave" => MountPropagationFlags::DOWNSTREAM,
                    "unbindable" => MountPropagationFlags::UNBINDABLE,
                    _ => return false,
                };
                self.propagation = Some(propagation | whole);
                return true;
            }
        };
        self.flags.set(flag, set);
        true
    }
}

/// Mounts it on a directory. If not all that the words say can be done, nothing is mounted.
pub fn mount(description: &Description<'_>, target: &Path) -> io::Result<()> {
    let words = Words::read(description.words);
    let data = CString::new(words.data.as_str())?;
    let device = description.device;
    if !words.is_bind {
        rustix::mount::mount(device, target, description.kind, words.flags, Some(data.as_c_str()))?;
    } else if words.is_recursive {
        rustix::mount::mount_bind_recursive(device, target)?;
    } else {
        rustix::mount::mount_bind(device, target)?;
    }
    let finish = || -> io::Result<()> {
        if words.is_bind {
            // What is unmounted here stays mounted where it comes from.
            rustix::mount::mount_change(
                target,
                MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
            )?;
        }
        if words.is_bind && !words.flags.is_empty() {
            rustix::mount::mount_remount(target, words.flags | MountFlags::BIND, c"")?;
        }
        if let Some(propagation) = words.propagation {
            rustix::mount::mount_change(target, propagation)?;
        }
        Ok(())
    };
    finish().inspect_err(|_| {
        let _ = unmount_all(target);
    })
}

/// Whether something is mounted on this very place. That there is no such place is fine.
pub fn is_mounted(path: &Path) -> io::Result<bool> {
    let flags = AtFlags::NO_AUTOMOUNT | AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC;
    match rustix::fs::statx(CWD, path, flags, StatxFlags::empty()) {
        Ok(found) => Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Unmounts all that is mounted on a place. What is still used there goes when it is not any more. That nothing is mounted is fine.
pub fn unmount_all(path: &Path) -> io::Result<()> {
    for _ in 0..MOST_STACKED {
        // With what is mounted below it: an unmount is passed on to where a tree was bound from, and takes that away there.
        match rustix::mount::mount_change(path, MountPropagationFlags::PRIVATE | MountPropagationFlags::REC) {
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Err(Errno::BUSY.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_mount_are_told_from_those_of_file_systems() {
        let words = Words::read("defaults,ro,size=1m,noexec,,uid=5,rshared,rw,nosuid");
        assert_eq!(words.flags, MountFlags::NOEXEC | MountFlags::NOSUID);
        assert_eq!(words.data, "size=1m,uid=5");
        assert_eq!(words.propagation, Some(MountPropagationFlags::SHARED | MountPropagationFlags::REC));
        assert!(!words.is_bind);
        let words = Words::read("rbind,ro,relatime");
        assert!(words.is_bind && words.is_recursive && words.data.is_empty() && words.propagation.is_none());
        assert_eq!(words.flags, MountFlags::RDONLY | MountFlags::RELATIME);
        assert_eq!(Words::read("ram,retry=1").data, "ram,retry=1");
    }
}
