//! One lock for each host, which names its owner.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use machine_driver::HostName;

use super::StoreError;

/// The right to change one host, held until dropped; the kernel gives it back when the process dies.
#[derive(Debug)]
pub struct HostLock {
    name: HostName,
    path: PathBuf,
    file: File,
}

impl HostLock {
    pub(super) fn take(folder: &Path, name: &HostName) -> Result<Self, StoreError> {
        let path = folder.join(name.as_str());
        let failed = |source| StoreError::Write { path: path.clone(), source };
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => {
                    return Err(StoreError::Locked { name: name.clone(), owner: owner(&mut file) });
                }
                Err(fs::TryLockError::Error(source)) => return Err(failed(source)),
            }
            // Whoever removed the host took the file away between our open and our lock.
            let ours = file.metadata().map_err(failed)?;
            if fs::metadata(&path).is_ok_and(|now| now.ino() == ours.ino() && now.dev() == ours.dev()) {
                file.set_len(0).map_err(failed)?;
                // Words need not be UTF-8, and may be long.
                let command: Vec<String> = std::env::args_os()
                    .take(4)
                    .map(|word| word.to_string_lossy().chars().take(80).collect())
                    .collect();
                write!(file, "process {} (`{}`)", std::process::id(), command.join(" ")).map_err(failed)?;
                return Ok(Self { name: name.clone(), path, file });
            }
        }
    }

    /// The lock of one host is no licence to change another.
    pub(super) fn assert_for(&self, name: &HostName) {
        assert_eq!(&self.name, name, "the lock of another host was used");
    }

    /// Gives the lock back and takes its file away, when the host is gone or was never made.
    pub fn abandon(self) {
        self.forget();
        drop(self.file);
    }

    /// Takes the lock's file away while it is still held, because there is no such host.
    pub fn forget(&self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn owner(file: &mut File) -> String {
    let mut text = String::new();
    let _ = file.rewind();
    let _ = std::io::Read::by_ref(file).take(400).read_to_string(&mut text);
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    if text.is_empty() { "another process".to_owned() } else { text }
}
