//! Programs that a build needs: run with their words in the error, taken from packages rather than from the host.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::packages::Repository;

/// Runs a command to its end and gives what it printed.
pub(super) fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("Could not run `{program}`; is it installed?"))?;
    if !output.status.success() {
        bail!("`{program}` failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The SHA-256 of a file, in hexadecimal.
pub(super) fn digest_file(path: &Path) -> Result<String> {
    let line = output(Command::new("sha256sum").arg("-b").arg(path))?;
    Ok(line.trim_start_matches('\\').split_whitespace().next().unwrap_or_default().to_owned())
}

/// The SHA-256 of some text, in hexadecimal.
pub(super) fn digest_text(text: &str) -> Result<String> {
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("Could not run `sha256sum`")?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(text.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    Ok(String::from_utf8_lossy(&output.stdout).split_whitespace().next().unwrap_or_default().to_owned())
}

/// All files below a folder, in the order of their names.
pub(super) fn list_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("Could not read `{}`", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files.extend(list_files(&entry.path())?);
        } else {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// A line with name and digest for each of some files; names are given from `folder` on.
pub(super) fn digest_lines(folder: &Path, files: &[PathBuf]) -> Result<String> {
    let line =
        |file: &PathBuf| Ok(format!("{} {}\n", file.strip_prefix(folder)?.display(), digest_file(file)?));
    files.iter().map(line).collect()
}

/// Removes a folder if it is there.
pub(super) fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(failure) if failure.kind() != std::io::ErrorKind::NotFound => {
            Err(failure).with_context(|| format!("Could not remove `{}`", path.display()))
        }
        _ => Ok(()),
    }
}

/// Creates a folder and its parents.
pub(super) fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("Could not create `{}`", path.display()))
}

/// Programs of the image's own release, unpacked in a folder and run there: nothing is installed on the host, and the
/// same tools give the same bytes on every host.
pub(super) struct Toolbox {
    folder: PathBuf,
}

/// The packages of the toolbox: programs and the libraries that they need.
const PACKAGES: [&str; 17] = [
    "squashfs-tools",
    "dosfstools",
    "kmod",
    "e2fsprogs",
    "libblkid1",
    "libc6",
    "libcom-err2",
    "libext2fs2",
    "liblz4-1",
    "liblzma5",
    "liblzo2-2",
    "libssl3",
    "libuuid1",
    "libzstd1",
    "mtools",
    "xz-utils",
    "zlib1g",
];

impl Toolbox {
    /// Fetches and unpacks the tools.
    pub(super) fn unpack(repository: &Repository) -> Result<Toolbox> {
        let packages = repository.resolve(&PACKAGES)?;
        let listing: String = packages.iter().map(|package| package.line.clone() + "\n").collect();
        let folder = super::cache().join("tools");
        let mark = folder.join("packages");
        if fs::read_to_string(&mark).is_ok_and(|before| before == listing) {
            return Ok(Toolbox { folder });
        }
        remove_folder(&folder)?;
        make_folder(&folder)?;
        for file in repository.fetch(&packages)? {
            output(Command::new("dpkg-deb").arg("-x").arg(file).arg(&folder))?;
        }
        fs::write(mark, listing)?;
        Ok(Toolbox { folder })
    }

    /// A command that runs the program at `path` under the name `called`.
    pub(super) fn command(&self, path: &str, called: &str) -> Command {
        let libraries = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"]
            .map(|folder| self.folder.join(folder).into_os_string())
            .join(OsStr::new(":"));
        let mut command = Command::new(self.folder.join("lib64/ld-linux-x86-64.so.2"));
        command.arg("--argv0").arg(called).arg("--library-path").arg(libraries).arg(self.folder.join(path));
        command
    }

    /// The configuration file that comes with a package.
    pub(super) fn file(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }
}
