//! User namespaces: made with the numbers of a map, each with a network namespace of its own; and mounts whose files have the
//! owners that a map says.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags};
use serde::{Deserialize, Serialize};

use crate::ids::IdMap;
use crate::mount;

/// Whose user namespace a network namespace belongs to.
#[derive(Clone, Copy, Debug)]
pub enum Users<'a> {
    /// A new one.
    New(&'a IdMap),
    /// One that is there.
    Of(BorrowedFd<'a>),
}

/// Makes a network namespace that belongs to a user namespace.
pub(crate) fn network(users: Users<'_>) -> io::Result<File> {
    let existing = match users {
        Users::New(_) => None,
        Users::Of(users) => Some(users.as_raw_fd()),
    };
    held(existing, |folder| {
        if let Users::New(map) = users {
            write_map(folder, map)?;
        }
        File::open(folder.join("ns/net"))
    })
}

/// Makes a user namespace.
pub fn new(map: &IdMap) -> io::Result<File> {
    held(None, |folder| {
        write_map(folder, map)?;
        File::open(folder.join("ns/user"))
    })
}

fn write_map(folder: &Path, map: &IdMap) -> io::Result<()> {
    let (users, groups) = map.to_files();
    fs::write(folder.join("uid_map"), users)?;
    fs::write(folder.join("gid_map"), groups)
}

/// Does something with the folder in `/proc` of a process that is in new namespaces, or in a new network namespace of an existing
/// user namespace, and does nothing there. Only a process with one thread can enter such a namespace, which this one is not.
#[expect(unsafe_code, reason = "there is no safe form of fork")]
fn held<T>(existing: Option<RawFd>, work: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let (mut told, tell) = io::pipe()?;
    let tell = std::os::fd::OwnedFd::from(tell);
    // SAFETY: the copy has one thread and makes system calls alone, until it ends.
    let child = unsafe { libc::fork() };
    match child {
        0 => keep_namespaces(existing, tell.as_raw_fd()),
        -1 => return Err(io::Error::last_os_error()),
        _ => {}
    }
    drop(tell);
    let mut answer = [0; 4];
    let done = told.read_exact(&mut answer).and_then(|()| match i32::from_ne_bytes(answer) {
        0 => work(Path::new(&format!("/proc/{child}"))),
        error => Err(io::Error::from_raw_os_error(error)),
    });
    // SAFETY: calls without memory of ours; the process is a child that nobody else waits for, so the number is its own.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        while libc::waitpid(child, std::ptr::null_mut(), 0) == -1
            && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
        {}
    }
    done
}

/// The life of the process that holds namespaces: it says how its making went, and waits for its end.
#[expect(unsafe_code, reason = "nothing but system calls is allowed in a copy of a process that has threads")]
fn keep_namespaces(existing: Option<RawFd>, tell: RawFd) -> ! {
    // SAFETY: the descriptors are open in this copy, the only memory is on its stack, and the calls are safe after fork.
    unsafe {
        let made = match existing {
            None => libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET),
            Some(users) if libc::setns(users, libc::CLONE_NEWUSER) == 0 => libc::unshare(libc::CLONE_NEWNET),
            Some(_) => -1,
        };
        let error = if made == 0 { 0 } else { *libc::__errno_location() };
        // Not longer than the thread that waits.
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        let answer = error.to_ne_bytes();
        if libc::write(tell, answer.as_ptr().cast(), answer.len()) == 4 {
            libc::pause();
        }
        libc::_exit(0)
    }
}

/// Files as a container has them: on the disk with the numbers that they have inside, and mounted with those that they have
/// outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owners {
    pub ids: IdMap,
    /// Where a user namespace of that map is to be found.
    pub users: PathBuf,
}

impl Owners {
    /// Changes the owners that a tree which is mounted nowhere yet shows. Kernels and file systems that cannot do that refuse.
    pub fn give(&self, tree: impl AsFd, is_recursive: bool) -> io::Result<()> {
        mount::map_owners(tree, File::open(&self.users)?, is_recursive)
    }

    /// Mounts the folders that these paths lie in below `scratch`, with other owners, and answers with the paths there. The mount
    /// namespace should be this process's or thread's alone.
    pub fn given(&self, paths: &[PathBuf], scratch: &Path) -> io::Result<Vec<PathBuf>> {
        let mut folders: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
        let mut given = Vec::with_capacity(paths.len());
        for path in paths {
            // Links would lead to the tree as it is.
            let path = fs::canonicalize(path)?;
            let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("{} lies in nothing", path.display()),
                ));
            };
            let number = folders.len();
            let place = if let Some(place) = folders.get(folder) {
                place.clone()
            } else {
                let place = scratch.join(format!("owners-{number}"));
                self.mount(folder, &place)?;
                folders.insert(folder.to_owned(), place.clone());
                place
            };
            given.push(place.join(name));
        }
        Ok(given)
    }

    fn mount(&self, folder: &Path, place: &Path) -> io::Result<()> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = rustix::mount::open_tree(CWD, folder, flags)?;
        self.give(&tree, false)?;
        fs::create_dir_all(place)?;
        Ok(rustix::mount::move_mount(&tree, "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::process::OpenNamespace;

    #[test]
    fn namespaces_belong_to_one_another() {
        let map = IdMap::of_ranges(&[(100_000, 10)], &[(200_000, 10)]).unwrap();
        let network = match network(Users::New(&map)) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return skipped::say("root", "user namespaces with maps take privileges");
            }
            made => OpenNamespace::of(made.unwrap()).unwrap(),
        };
        let users = network.owner().unwrap();
        let own = fs::metadata("/proc/self/ns/user").unwrap().ino();
        let number = |namespace: &OpenNamespace| fs::metadata(namespace.path()).unwrap().ino();
        assert_ne!(number(&users), own);
        let file = File::open(users.path()).unwrap();
        let second = OpenNamespace::of(self::network(Users::Of(file.as_fd())).unwrap()).unwrap();
        assert_ne!(number(&second), number(&network));
        assert!(second.owner().unwrap().is_same(&users).unwrap());
        assert!(!OpenNamespace::of(new(&map).unwrap()).unwrap().is_same(&users).unwrap());
    }
}
