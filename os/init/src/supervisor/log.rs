//! A service's output in a file that never outgrows its bound: at the bound it becomes `NAME.log.1`.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Where logs are kept.
pub(crate) const FOLDER: &str = "/var/log";
/// Two files of this size for each service: a day of a chatty daemon, a small part of the smallest disk.
const BOUND: u64 = 2 * 1024 * 1024;

#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    bound: u64,
    open: Option<(fs::File, u64)>,
    is_closed: bool,
}

impl Log {
    pub(crate) fn of(service: &str) -> Log {
        Log::at(Path::new(FOLDER).join(format!("{service}.log")), BOUND)
    }

    fn at(path: PathBuf, bound: u64) -> Log {
        Log { path, bound, open: None, is_closed: false }
    }

    /// Lets go of the file for good, so that its disk can be unmounted.
    pub(crate) fn close(&mut self) {
        self.open = None;
        self.is_closed = true;
    }

    /// Appends. A full disk loses the output rather than the service.
    pub(crate) fn append(&mut self, text: &[u8]) {
        if !self.is_closed && self.write(text).is_err() {
            self.open = None;
        }
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        let length = text.len() as u64;
        if self.open.as_ref().is_some_and(|(_, size)| *size > 0 && size + length > self.bound) {
            self.open = None;
            fs::rename(&self.path, self.path.with_extension("log.1"))?;
        }
        if self.open.is_none() {
            let file = fs::OpenOptions::new().append(true).create(true).open(&self.path)?;
            let size = file.metadata()?.len();
            self.open = Some((file, size));
        }
        if let Some((file, size)) = &mut self.open {
            file.write_all(text)?;
            *size += length;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_log_never_outgrows_its_bound() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        let mut log = Log::at(path.clone(), 100);
        for _ in 0..50 {
            log.append(b"twelve bytes");
        }
        assert!(fs::metadata(&path).unwrap().len() <= 100);
        assert!(fs::metadata(folder.path().join("x.log.1")).unwrap().len() <= 100);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_closed_log_stays_closed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        let mut log = Log::at(path.clone(), 100);
        log.append(b"one");
        log.close();
        log.append(b"two");
        assert!(log.open.is_none());
        assert_eq!(fs::read_to_string(path).unwrap(), "one");
    }

    #[test]
    fn a_log_goes_on_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        Log::at(path.clone(), 100).append(b"one ");
        Log::at(path.clone(), 100).append(b"two");
        assert_eq!(fs::read_to_string(path).unwrap(), "one two");
    }
}
