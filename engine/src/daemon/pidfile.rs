//! The pid file, which also keeps a second daemon from starting.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// A pid file that could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum PidFileError {
    #[error("The daemon runs already, as process {process} (`{}`)", path.display())]
    Running { process: String, path: PathBuf },
    #[error("Could not write the pid file `{}`", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// Locked as long as the daemon lives: the kernel lets go of the lock even if the daemon is killed, so what a dead one
/// left behind is never mistaken for a living one.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    _file: File,
}

impl PidFile {
    pub fn take(path: &Path) -> Result<Self, PidFileError> {
        let failed = |source| PidFileError::Write { path: path.to_owned(), source };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut process = String::new();
                // Only for the message.
                let _ = file.take(32).read_to_string(&mut process);
                return Err(PidFileError::Running {
                    process: process.trim().to_owned(),
                    path: path.to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { path: path.to_owned(), _file: file })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "Could not remove the pid file");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn one_daemon_at_a_time_and_a_dead_one_does_not_count() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sub/engine.pid");
        let first = PidFile::take(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        let error = PidFile::take(&path).unwrap_err();
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        drop(first);
        assert!(!path.exists());
        // As kill -9 leaves it, with the number of a process that lives.
        fs::write(&path, "1\n1234567890").unwrap();
        let _second = PidFile::take(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
    }
}
