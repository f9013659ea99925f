//! The locks of a store, which name their owner: one for each host, and one for what all hosts share.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use machine_driver::HostName;

use super::{StoreError, files, text::printable};

/// The right to change one host, held until dropped; the kernel gives it back when the process dies.
#[derive(Debug)]
pub struct HostLock {
    name: HostName,
    lock: LockFile,
}

impl HostLock {
    pub(super) fn take(folder: &Path, name: &HostName) -> Result<Self, StoreError> {
        match LockFile::take(&folder.join(name.as_str()))? {
            Taken::Ours(lock) => Ok(Self { name: name.clone(), lock }),
            Taken::Held(owner) => Err(StoreError::Locked { name: name.clone(), owner }),
        }
    }

    /// The lock of one host is no licence to change another.
    pub(super) fn assert_for(&self, name: &HostName) {
        assert_eq!(&self.name, name, "the lock of another host was used");
    }

    /// Gives the lock back and takes its file away, when the host is gone or was never made.
    pub fn abandon(self) {
        self.forget();
        drop(self.lock);
    }

    /// Takes the lock's file away while it is still held, because there is no such host.
    pub fn forget(&self) {
        let _ = fs::remove_file(&self.lock.path);
    }
}

/// The right to change what all hosts of a store share: its authorities and its identity. Held for moments only.
#[derive(Debug)]
pub struct StoreLock {
    _lock: LockFile,
}

/// Nobody holds the store's lock for longer than it takes to make some keys, unless it was stopped in the middle.
const WAIT_AT_MOST: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(5);

impl StoreLock {
    /// Waits for it, within a bound.
    pub(super) fn take(path: &Path) -> Result<Self, StoreError> {
        let deadline = Instant::now() + WAIT_AT_MOST;
        loop {
            match LockFile::take(path)? {
                Taken::Ours(lock) => return Ok(Self { _lock: lock }),
                Taken::Held(owner) if Instant::now() > deadline => {
                    return Err(StoreError::StoreLocked { path: path.to_owned(), owner });
                }
                Taken::Held(_) => std::thread::sleep(LOOK_EVERY),
            }
        }
    }
}

#[derive(Debug)]
struct LockFile {
    path: PathBuf,
    #[expect(dead_code, reason = "the lock is held as long as the file is open")]
    file: File,
}

enum Taken {
    Ours(LockFile),
    /// By whom, as far as the file says.
    Held(String),
}

impl LockFile {
    fn take(path: &Path) -> Result<Taken, StoreError> {
        let failed = |source| StoreError::Write { path: path.to_owned(), source };
        loop {
            let mut file = files::lock_file().open(path).map_err(failed)?;
            match files::try_lock(&file) {
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => return Ok(Taken::Held(owner(&mut file))),
                Err(fs::TryLockError::Error(source)) => return Err(failed(source)),
            }
            // Whoever removed the host took the file away between our open and our lock.
            if is_still_there(files::is_at(&file, path)).map_err(failed)? {
                file.set_len(0).map_err(failed)?;
                let command: Vec<String> = std::env::args_os()
                    .take(4)
                    .map(|word| word.to_string_lossy().chars().take(80).collect())
                    .collect();
                write!(file, "process {} (`{}`)", std::process::id(), command.join(" ")).map_err(failed)?;
                return Ok(Taken::Ours(Self { path: path.to_owned(), file }));
            }
        }
    }
}

/// Gone is no failure; what cannot be looked at would be opened and looked at for ever.
fn is_still_there(is_at: io::Result<bool>) -> io::Result<bool> {
    match is_at {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        known => known,
    }
}

fn owner(file: &mut File) -> String {
    let mut text = Vec::new();
    let _ = file.rewind();
    let _ = io::Read::by_ref(file).take(400).read_to_end(&mut text);
    let text = printable(String::from_utf8_lossy(&text).trim());
    if text.is_empty() { "another process".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_cannot_be_looked_at_is_a_failure_and_one_that_is_gone_is_none() {
        let outcome = |kind: io::ErrorKind| is_still_there(Err(kind.into()));
        assert!(matches!(outcome(io::ErrorKind::NotFound), Ok(false)));
        for kind in [io::ErrorKind::PermissionDenied, io::ErrorKind::Unsupported] {
            assert_eq!(outcome(kind).map_err(|error| error.kind()), Err(kind));
        }
    }
}
