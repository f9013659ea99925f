//! What can go wrong while the system comes up, and the small file and process calls that say so.

use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    #[error("Could not mount {what} on `{}`", target.display())]
    Mount { what: String, target: PathBuf, source: io::Error },
    #[error("Could not read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("Could not write `{}`", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("Could not load the kernel module `{module}`")]
    Module { module: String, source: io::Error },
    #[error("Could not attach `{}` to a loop device", image.display())]
    Loop { image: PathBuf, source: io::Error },
    #[error("Could not run `{program}`")]
    Spawn { program: String, source: io::Error },
    #[error("`{program}` failed ({status}): {output}")]
    Failed { program: String, status: String, output: String },
    #[error("Could not ask the supervisor")]
    Supervisor { source: io::Error },
    #[error("Could not set the host name `{name}`")]
    HostName { name: String, source: io::Error },
    #[error("Could not switch to the root file system")]
    SwitchRoot { source: io::Error },
}

/// Runs a program to its end and gives what it printed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String, BootError> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| BootError::Spawn { program: program.to_owned(), source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().replace('\n', "; ");
    Err(BootError::Failed { program: program.to_owned(), status: output.status.to_string(), output: said })
}

/// Creates a folder and its parents.
pub(crate) fn make_folder(path: &Path) -> Result<(), BootError> {
    fs::create_dir_all(path).map_err(|source| BootError::Write { path: path.to_owned(), source })
}

/// Reads a text file.
pub(crate) fn read_text(path: &Path) -> Result<String, BootError> {
    fs::read_to_string(path).map_err(|source| BootError::Read { path: path.to_owned(), source })
}

/// Replaces a file at once: never half written, never through a link, never readable by more than `mode` allows.
pub(crate) fn replace_file(
    path: &Path,
    content: &[u8],
    mode: u32,
    owner: Option<(u32, u32)>,
) -> Result<(), BootError> {
    use std::io::Write as _;
    let failed = |source| BootError::Write { path: path.to_owned(), source };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    let _ = fs::remove_file(&temporary);
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).map_err(failed)?;
    file.write_all(content).map_err(failed)?;
    if let Some((user, group)) = owner {
        std::os::unix::fs::fchown(&file, Some(user), Some(group)).map_err(failed)?;
    }
    file.set_permissions(fs::Permissions::from_mode(mode)).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)
}
