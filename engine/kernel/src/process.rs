//! One process, held by a descriptor: its number may be another's by the time that it is used.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, PidfdFlags};

use crate::confine::Root;
use crate::ids::IdMap;

/// A process that stays the one that it is.
#[derive(Debug)]
pub struct Process {
    handle: OwnedFd,
}

impl Process {
    /// By a pidfd, as another process may have handed it over. Anything else is refused.
    pub fn of(handle: OwnedFd) -> io::Result<Self> {
        let process = Self { handle };
        process.number().map(|_| process)
    }

    /// By its number, which is to be that of a child of `parent`.
    pub fn child(number: i32, parent: i32) -> io::Result<Self> {
        let pid = Pid::from_raw(number).ok_or(io::ErrorKind::InvalidInput)?;
        let process = Self { handle: rustix::process::pidfd_open(pid, PidfdFlags::empty())? };
        // Of the one that is held, if the number is its own still.
        let status = fs::read_to_string(format!("/proc/{number}/status"))?;
        process.signal(0)?;
        let found = status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse::<i32>().ok());
        if found == Some(parent) {
            Ok(process)
        } else {
            Err(io::Error::new(io::ErrorKind::NotFound, format!("{number} is no child of process {parent}")))
        }
    }

    /// Its number, while it has one.
    pub fn number(&self) -> io::Result<i32> {
        let told = fs::read_to_string(format!("/proc/self/fdinfo/{}", self.handle.as_raw_fd()))?;
        let number = told.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse::<i32>().ok());
        match number {
            Some(number) if number > 0 => Ok(number),
            Some(_) => Err(io::Error::from_raw_os_error(libc::ESRCH)),
            None => Err(io::Error::new(io::ErrorKind::InvalidInput, "the descriptor is of no process")),
        }
    }

    /// Sends a signal; 0 only asks whether it is there.
    #[expect(unsafe_code, reason = "rustix has no numbers for real-time signals")]
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let (handle, nothing) = (self.handle.as_raw_fd(), std::ptr::null::<libc::siginfo_t>());
        // SAFETY: the descriptor is open, and without a pointer the kernel fills in what kill(2) would.
        if unsafe { libc::syscall(libc::SYS_pidfd_send_signal, handle, signal, nothing, 0) } == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Opens one of its namespaces: `net`, `ipc`, ….
    pub fn namespace(&self, kind: &str) -> io::Result<OpenNamespace> {
        self.by_number(|folder| File::open(folder.join("ns").join(kind))).map(OpenNamespace)
    }

    /// Opens its root directory, as it sees it.
    pub fn root(&self) -> io::Result<Root> {
        self.by_number(|folder| Root::open(&folder.join("root")))
    }

    /// What the kernel tells of it in a file: `status`, `net/dev`, ….
    pub fn told(&self, file: &str) -> io::Result<String> {
        self.by_number(|folder| fs::read_to_string(folder.join(file)))
    }

    /// The numbers that its users and groups have here, if it is in another user namespace than this process.
    pub fn ids(&self) -> io::Result<Option<IdMap>> {
        self.by_number(ids_of)
    }

    /// Whether it has ended, or is about to and has given back what it had. Nobody need have asked for its exit status yet.
    pub fn has_ended(&self) -> bool {
        // The first thread may have ended while others go on.
        let gives_back = |number| {
            let folder = PathBuf::from(format!("/proc/{number}"));
            fs::read_link(folder.join("root")).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
                && fs::read_dir(folder.join("task")).is_ok_and(|threads| threads.count() == 1)
        };
        // The first process of a namespace waits for all others between the two.
        self.is_over() || self.number().is_ok_and(gives_back)
    }

    fn is_over(&self) -> bool {
        let mut asked = [rustix::event::PollFd::new(&self.handle, rustix::event::PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(rustix::event::poll(&mut asked, Some(&now)), Ok(1..))
    }

    /// Does something with its folder in `/proc`. Whatever fails there once it has ended fails for that (`ESRCH`).
    fn by_number<T>(&self, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
        let done = act(Path::new(&format!("/proc/{}", self.number()?)));
        // The number was its own all the while if it is not over.
        let ended = if done.is_ok() { self.is_over() } else { self.has_ended() };
        if ended { Err(io::Error::from_raw_os_error(libc::ESRCH)) } else { done }
    }
}

/// As [`Process::ids`], of a process by its folder in `/proc`.
pub fn ids_of(folder: &Path) -> io::Result<Option<IdMap>> {
    if OpenNamespace(File::open(folder.join("ns/user"))?).is_own()? {
        return Ok(None);
    }
    let read = |file: &str| fs::read_to_string(folder.join(file));
    Ok(IdMap::read(&read("uid_map")?, &read("gid_map")?))
}

/// A namespace that stays as long as this is there.
#[derive(Debug)]
pub struct OpenNamespace(File);

impl OpenNamespace {
    /// One that is pinned to this file. A file on which nothing is mounted is refused.
    pub fn pinned(path: &Path) -> io::Result<Self> {
        Self::of(File::open(path)?)
    }

    /// A file that is one. Any other is refused.
    pub fn of(file: File) -> io::Result<Self> {
        if rustix::fs::fstatfs(&file)?.f_type == libc::NSFS_MAGIC {
            Ok(Self(file))
        } else {
            Err(io::ErrorKind::InvalidInput.into())
        }
    }

    /// The user namespace that it belongs to.
    #[expect(unsafe_code, reason = "there is no safe form of this ioctl")]
    pub fn owner(&self) -> io::Result<Self> {
        /// `NS_GET_USERNS`: `_IO(0xb7, 1)`.
        const OWNER: libc::Ioctl = 0xb701;
        // SAFETY: the call has no argument; what it answers with is a descriptor that nobody else owns.
        let owner = unsafe { libc::ioctl(self.0.as_raw_fd(), OWNER) };
        if owner < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as above.
        let owner = File::from(unsafe { OwnedFd::from_raw_fd(owner) });
        rustix::io::fcntl_setfd(&owner, rustix::io::FdFlags::CLOEXEC)?;
        Ok(Self(owner))
    }

    /// Whether this process is in it, if it is one of users.
    fn is_own(&self) -> io::Result<bool> {
        self.is_same(&Self(File::open("/proc/self/ns/user")?))
    }

    /// Whether both are one and the same.
    pub fn is_same(&self, other: &Self) -> io::Result<bool> {
        let (one, other) = (self.0.metadata()?, other.0.metadata()?);
        Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
    }

    /// A path by which it can be opened, here and in processes that this one has started, as long as this is there.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }
}

impl AsFd for OpenNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap()
    }

    fn number(child: &Child) -> i32 {
        i32::try_from(child.id()).unwrap()
    }

    #[test]
    fn a_process_is_held_until_it_is_gone() {
        let mut child = sleeper();
        let own = i32::try_from(std::process::id()).unwrap();
        let process = Process::of(Process::child(number(&child), own).unwrap().handle).unwrap();
        assert_eq!(process.number().unwrap(), number(&child));
        let namespace = process.namespace("net").unwrap();
        let root = process.root().unwrap();
        root.get(&std::env::current_dir().unwrap(), rustix::fs::OFlags::PATH).unwrap();
        assert!(process.told("status").unwrap().contains("sleep"));
        assert!(!process.has_ended());
        process.signal(libc::SIGTERM).unwrap();
        while !process.has_ended() {
            std::thread::yield_now();
        }
        // It has its number still, and nothing else.
        assert_eq!(process.number().unwrap(), number(&child));
        for gone in [process.root().map(drop), process.namespace("net").map(drop)] {
            assert_eq!(gone.unwrap_err().raw_os_error(), Some(libc::ESRCH));
        }
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
        File::open(namespace.path()).unwrap();
        for gone in [
            process.signal(0),
            process.namespace("net").map(drop),
            process.root().map(drop),
            process.told("status").map(drop),
            process.number().map(drop),
        ] {
            assert_eq!(gone.unwrap_err().raw_os_error(), Some(libc::ESRCH));
        }
    }

    #[test]
    fn nobody_elses_process_is_taken() {
        let mut child = sleeper();
        assert!(Process::child(number(&child), 1).is_err());
        assert!(Process::child(0, 1).is_err());
        assert!(Process::of(File::open("/dev/null").unwrap().into()).is_err());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
