//! Where drivers that are programs are found.

use std::{collections::BTreeSet, path::PathBuf};

use crate::check::is_word;

/// What the programs' names begin with.
const PREFIX: &str = "machine-driver-";

/// The folders of the PATH; relative ones are passed over, so that what lies in the current folder is never run.
fn folders() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).filter(|folder| folder.is_absolute()).collect()
}

/// The program of a driver.
pub fn find(name: &str) -> Option<PathBuf> {
    if !is_word(name) {
        return None;
    }
    let file = format!("{PREFIX}{name}{}", std::env::consts::EXE_SUFFIX);
    folders().into_iter().map(|folder| folder.join(&file)).find(|path| is_program(path))
}

/// The names of all drivers that are programs on the PATH, sorted.
pub fn installed() -> Vec<String> {
    let mut names = BTreeSet::new();
    for folder in folders() {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        for entry in entries.flatten() {
            let file = entry.file_name();
            let name = file.to_str().and_then(|file| file.strip_prefix(PREFIX));
            let Some(name) = name.map(|name| name.trim_end_matches(std::env::consts::EXE_SUFFIX)) else {
                continue;
            };
            if is_word(name) && is_program(&entry.path()) {
                names.insert(name.to_owned());
            }
        }
    }
    names.into_iter().collect()
}

#[cfg(unix)]
fn is_program(path: &std::path::Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_program(path: &std::path::Path) -> bool {
    path.is_file()
}
