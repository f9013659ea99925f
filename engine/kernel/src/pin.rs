//! Network namespaces that are there without a process: each is mounted on a file, and stays as long as that.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::thread::UnshareFlags;

use crate::process::OpenNamespace;
use crate::userns::{self, Users};
use crate::{loopback, namespace};

/// Makes a network namespace with a `lo` that is up, and pins it to this file, in place of what was pinned to it before.
pub fn pin(path: &Path) -> io::Result<()> {
    make_room(path)?;
    unless_pinned(path, || {
        namespace::apart(|| {
            new_namespace()?;
            loopback::set_up()?;
            Ok(rustix::mount::mount_bind("/proc/thread-self/ns/net", path)?)
        })
    })
}

/// As [`pin`], but the network namespace belongs to a user namespace, which stays as long as it.
pub fn pin_for(path: &Path, users: Users<'_>) -> io::Result<OpenNamespace> {
    make_room(path)?;
    let network = userns::network(users)?;
    unless_pinned(path, || {
        namespace::inside(&network, loopback::set_up)?;
        Ok(rustix::mount::mount_bind(format!("/proc/self/fd/{}", network.as_raw_fd()), path)?)
    })?;
    OpenNamespace::of(network)?.owner()
}

/// Makes the file that something is pinned to.
fn make_room(path: &Path) -> io::Result<()> {
    unpin(path)?;
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    File::options().write(true).create(true).truncate(false).mode(0o600).open(path).map(drop)
}

/// Removes the file again if nothing is pinned to it.
fn unless_pinned(path: &Path, pin: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    pin().inspect_err(|_| {
        let _ = unpin(path);
    })
}

/// Makes the folder for pins a mount of its own that no other mount namespace is told of. Those that are made later have copies of
/// it, and of all that is mounted in it, which [`drop_copies`] lets go of at once. Where there are pins already, it stays as it is.
pub fn prepare(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    if is_mount(folder)? || folder.read_dir()?.next().is_some() {
        return Ok(());
    }
    rustix::mount::mount_bind(folder, folder)?;
    Ok(rustix::mount::mount_change(folder, MountPropagationFlags::PRIVATE)?)
}

/// Lets go of the copies of all pins in this folder that the mount namespace of this process, which is its own, has. Whoever
/// has entered one of them stays in it.
pub fn drop_copies(folder: &Path) -> io::Result<()> {
    if is_mount(folder)? {
        rustix::mount::unmount(folder, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    }
    Ok(())
}

fn is_mount(folder: &Path) -> io::Result<bool> {
    let found = rustix::fs::statx(CWD, folder, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty())?;
    Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Lets go of what is pinned to a file, and removes that. That there is nothing is fine.
pub fn unpin(path: &Path) -> io::Result<()> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // The second: nothing is mounted on it.
        Ok(()) | Err(Errno::NOENT | Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    // Other mount namespaces may have a copy, those of other containers' supervising processes for instance. With the file, the
    // kernel takes these away, too.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Somebody has mounted what is around it in another place of this mount namespace. The file is of no more use here.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            tracing::warn!(path = %path.display(), "A network namespace stays as long as it is mounted elsewhere");
            Ok(())
        }
        removed => removed,
    }
}

#[expect(unsafe_code, reason = "rustix marks unshare as unsafe for the sake of shared descriptor tables")]
fn new_namespace() -> io::Result<()> {
    // SAFETY: descriptors stay shared.
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::ids::IdMap;

    /// In a mount namespace of its own, so that nothing stays mounted.
    fn in_own_mounts(test: impl FnOnce(&Path) + Send) {
        let folder = tempfile::tempdir().unwrap();
        let tried = namespace::apart(|| {
            private_mounts()?;
            test(folder.path());
            Ok(())
        });
        match tried {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                skipped::say("root", "namespaces take privileges");
            }
            tried => tried.unwrap(),
        }
    }

    #[expect(unsafe_code, reason = "rustix marks unshare as unsafe for the sake of shared descriptor tables")]
    fn private_mounts() -> io::Result<()> {
        // SAFETY: descriptors stay shared.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }?;
        Ok(rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?)
    }

    fn own() -> u64 {
        fs::metadata("/proc/thread-self/ns/net").unwrap().ino()
    }

    #[test]
    fn a_namespace_stays_until_it_is_unpinned() {
        in_own_mounts(|root| {
            let (before, folder) = (own(), root.join("netns"));
            let (one, two) = (folder.join("one"), folder.join("two"));
            for path in [&one, &two] {
                pin(path).unwrap();
            }
            assert_eq!(own(), before, "this thread has stayed where it was");
            let number = |path: &Path| fs::metadata(path).unwrap().ino();
            assert!(number(&one) != before && number(&one) != number(&two));
            // Only a `lo` that is up has the address.
            let file = File::open(&one).unwrap();
            namespace::inside(&file, || std::net::TcpListener::bind("127.0.0.1:0")).unwrap();
            OpenNamespace::pinned(&one).unwrap();
            // Another one in its place.
            let first = number(&one);
            pin(&one).unwrap();
            assert_ne!(number(&one), first);
            for _ in 0..2 {
                unpin(&one).unwrap();
            }
            assert!(!one.exists() && two.exists());
            assert!(OpenNamespace::pinned(&one).is_err());
        });
    }

    #[test]
    fn a_namespace_of_other_users_is_pinned_as_well() {
        in_own_mounts(|root| {
            let map = IdMap::of_ranges(&[(100_000, 10)], &[(100_000, 10)]).unwrap();
            let (one, two) = (root.join("netns/one"), root.join("netns/two"));
            let users = pin_for(&one, Users::New(&map)).unwrap();
            let same = pin_for(&two, Users::Of(users.as_fd())).unwrap();
            assert!(users.is_same(&same).unwrap());
            assert!(OpenNamespace::pinned(&two).unwrap().owner().unwrap().is_same(&users).unwrap());
            let file = File::open(&one).unwrap();
            namespace::inside(&file, || std::net::TcpListener::bind("127.0.0.1:0")).unwrap();
            unpin(&one).unwrap();
            unpin(&two).unwrap();
        });
    }

    #[test]
    fn copies_in_other_mount_namespaces_go_at_once() {
        in_own_mounts(|root| {
            let folder = root.join("netns");
            let paths = ["one", "two"].map(|name| folder.join(name));
            for _ in 0..2 {
                prepare(&folder).unwrap();
            }
            for path in &paths {
                pin(path).unwrap();
            }
            // With pins in it, it stays as it is.
            prepare(&folder).unwrap();
            let mounted = || {
                let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
                mounts.lines().filter(|mount| mount.contains(folder.to_str().unwrap())).count()
            };
            assert_eq!(mounted(), 3);
            namespace::apart(|| {
                private_mounts()?;
                assert_eq!(mounted(), 3);
                drop_copies(&folder)?;
                drop_copies(&folder)?;
                assert_eq!(mounted(), 0);
                assert!(paths.iter().all(|path| path.is_file()));
                Ok(())
            })
            .unwrap();
            assert_eq!(mounted(), 3);
            for path in &paths {
                OpenNamespace::pinned(path).unwrap();
                unpin(path).unwrap();
            }
            assert_eq!(mounted(), 1);
        });
    }

    #[test]
    fn what_is_left_of_a_pin_that_was_not_finished_goes() {
        in_own_mounts(|root| {
            let path = root.join("netns/half");
            fs::create_dir(root.join("netns")).unwrap();
            fs::write(&path, "").unwrap();
            assert!(OpenNamespace::pinned(&path).is_err(), "a file is no namespace");
            pin(&path).unwrap();
            OpenNamespace::pinned(&path).unwrap();
            unpin(&path).unwrap();
            fs::write(&path, "").unwrap();
            unpin(&path).unwrap();
            assert!(!path.exists());
            // What is something else is left alone.
            fs::create_dir(&path).unwrap();
            assert!(unpin(&path).is_err() && pin(&path).is_err());
            assert!(path.is_dir());
        });
    }

    #[test]
    fn who_mounts_what_is_around_it_elsewhere_keeps_nobody_from_anything() {
        in_own_mounts(|root| {
            let (path, elsewhere) = (root.join("netns/one"), root.join("elsewhere"));
            pin(&path).unwrap();
            fs::create_dir(&elsewhere).unwrap();
            rustix::mount::mount_bind_recursive(root, &elsewhere).unwrap();
            let number = |path: &Path| fs::metadata(path).unwrap().ino();
            let first = number(&path);
            unpin(&path).unwrap();
            assert!(OpenNamespace::pinned(&path).is_err());
            pin(&path).unwrap();
            assert_eq!(number(&elsewhere.join("netns/one")), first);
            assert_ne!(number(&path), first);
            rustix::mount::unmount(&elsewhere, UnmountFlags::DETACH).unwrap();
            unpin(&path).unwrap();
            assert!(!path.exists());
        });
    }

    /// As in the supervising process of another container, which has begun meanwhile.
    #[test]
    fn a_copy_in_another_mount_namespace_holds_nothing() {
        in_own_mounts(|root| {
            let path = root.join("netns/one");
            pin(&path).unwrap();
            let (ready, is_ready) = std::sync::mpsc::channel();
            let (gone, is_gone) = std::sync::mpsc::channel::<()>();
            std::thread::scope(|scope| {
                let path = &path;
                let other = scope.spawn(move || {
                    private_mounts().unwrap();
                    let is_copied = OpenNamespace::pinned(path).is_ok();
                    ready.send(is_copied).unwrap();
                    is_gone.recv().unwrap();
                    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
                    assert!(!mounts.contains("netns/one"), "{mounts}");
                });
                assert!(is_ready.recv().unwrap());
                unpin(path).unwrap();
                gone.send(()).unwrap();
                other.join().unwrap();
            });
        });
    }
}
