//! The QEMU on this machine: where it is, and what it can do.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use machine_driver::DriverError;
use tokio::{process::Command, time::timeout};

/// The first with everything that is needed.
const OLDEST: (u32, u32) = (5, 0);
/// The first that sends frames as datagrams over unix sockets.
const DATAGRAMS: (u32, u32) = (7, 2);
const ANSWER: Duration = Duration::from_secs(20);
const INSTALL_HINT: &str = "Install QEMU (`apt-get install qemu-system-x86`, `dnf install qemu-system-x86-core`, \
                            `apk add qemu-system-x86_64`), or name it with `--qemu-binary`";
/// The system calls that a VM's QEMU has no use for.
pub(crate) const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";
/// What a QEMU says that was built without seccomp, after its own name.
const WITHOUT_SANDBOX: &str = ": -sandbox support is not enabled in this QEMU binary";

/// A QEMU that runs.
#[derive(Debug)]
pub(crate) struct Emulator {
    pub(crate) path: PathBuf,
    pub(crate) version: String,
    /// It can give up system calls. `false` only where it was built without that.
    pub(crate) can_be_sandboxed: bool,
    /// It can send frames as datagrams over unix sockets.
    pub(crate) has_datagrams: bool,
}

impl Emulator {
    /// Finds it and asks what it is.
    pub(crate) async fn find(binary: &str) -> Result<Self, DriverError> {
        let path = locate(binary)?;
        let refused = |reason: &str| {
            DriverError::refused(format!("`{}` is no usable QEMU: {reason}", path.display()))
                .with_hint(INSTALL_HINT)
        };
        let ask = async |arguments: &[&str]| {
            timeout(ANSWER, ask(&path, arguments))
                .await
                .map_err(|_| refused("it does not say its version"))?
                .map_err(|error| refused("it cannot be run").with_source(error))
        };
        // The options are read in their order, and the version ends it.
        let mut answer = ask(&["-sandbox", SANDBOX, "--version"]).await?;
        let mut can_be_sandboxed = true;
        if !answer.status.success() {
            can_be_sandboxed =
                !String::from_utf8_lossy(&answer.stderr).lines().any(|line| line.ends_with(WITHOUT_SANDBOX));
            answer = ask(&["--version"]).await?;
        }
        let text = String::from_utf8_lossy(&answer.stdout);
        let version = text
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("QEMU emulator version "))
            .ok_or_else(|| refused("it does not say its version"))?;
        let number = number(version);
        if number < OLDEST {
            let (major, minor) = OLDEST;
            return Err(refused(&format!("version {version} is too old, {major}.{minor} is needed")));
        }
        let has_datagrams = number >= DATAGRAMS;
        let version = version.chars().filter(|c| !c.is_control()).take(100).collect();
        Ok(Self { path, version, can_be_sandboxed, has_datagrams })
    }
}

async fn ask(path: &Path, arguments: &[&str]) -> std::io::Result<Output> {
    Command::new(path).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output().await
}

/// `7.2.22 (Debian …)` is 7.2; what is no number is 0.
fn number(version: &str) -> (u32, u32) {
    let mut parts = version.split(['.', ' ']).map(|part| part.parse().unwrap_or_default());
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

/// A program by its path or its name, as an absolute path.
fn locate(binary: &str) -> Result<PathBuf, DriverError> {
    let missing = |text: String| DriverError::refused(text).with_hint(INSTALL_HINT);
    if binary.contains('/') {
        return fs::canonicalize(binary)
            .map_err(|error| missing(format!("There is no `{binary}`")).with_source(error));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(binary))
        .find(|path| path.is_file())
        .ok_or_else(|| missing(format!("There is no `{binary}` on this machine")))
}

/// A program for tests. It is written by another process: a file that this one has open for writing could not be run by
/// a thread beside it.
#[cfg(test)]
pub(crate) fn write_program(path: &Path, script: &str) -> PathBuf {
    let write = "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$0\" && chmod 755 \"$0\"";
    let status = std::process::Command::new("sh").args(["-c", write]).arg(path).arg(script).status();
    assert!(status.is_ok_and(|status| status.success()), "`{}` is not written", path.display());
    path.to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn program(folder: &Path, script: &str) -> String {
        write_program(&folder.join("program"), script).to_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn what_is_no_qemu_is_refused_with_a_hint() {
        let folder = tempfile::tempdir().unwrap();
        for (script, reason) in [
            ("echo hello", "it does not say its version"),
            ("echo QEMU emulator version 4.2.1", "version 4.2.1 is too old, 5.0 is needed"),
        ] {
            let path = program(folder.path(), script);
            let error = Emulator::find(&path).await.unwrap_err();
            assert_eq!(error.to_string(), format!("`{path}` is no usable QEMU: {reason}"));
        }
        let path = folder.path().join("program");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        for binary in [path.to_str().unwrap(), "./missing", "qemu-system-missing"] {
            let error = Emulator::find(binary).await.unwrap_err();
            assert!(error.hint().is_some_and(|hint| hint.contains("Install QEMU")), "{error}");
        }
    }

    /// Only a QEMU that says so is run without a sandbox: not one that fails for another reason with that word in it.
    #[tokio::test]
    async fn only_a_qemu_that_was_built_without_it_goes_without_a_sandbox() {
        let folder = tempfile::tempdir().unwrap();
        let version = "echo 'QEMU emulator version 7.2.22 (Debian 1:7.2)'";
        let refuses = |complaint: &str| {
            format!("[ $# = 1 ] || {{ echo 'qemu-system-x86_64: {complaint}' >&2; exit 1; }}; {version}")
        };
        for (script, can) in [
            (version.to_owned(), true),
            (refuses("-sandbox support is not enabled in this QEMU binary"), false),
            (refuses("failed to install seccomp syscall filter in the sandbox: Out of memory"), true),
            (refuses("-sandbox on: Could not open /tmp/sandbox/disk"), true),
            (refuses("-sandbox support is not enabled in this QEMU binary, or so it seems"), true),
        ] {
            let found = Emulator::find(&program(folder.path(), &script)).await.unwrap();
            assert_eq!(found.can_be_sandboxed, can, "{script}");
        }
    }

    #[tokio::test]
    async fn the_version_says_whether_there_are_datagrams() {
        let folder = tempfile::tempdir().unwrap();
        for (version, has) in [
            ("5.0.0", false),
            ("7.1.0", false),
            ("7.2.22 (Debian 1:7.2)", true),
            ("8.0 (x)", true),
            ("10.0.2", true),
        ] {
            let script = format!("echo 'QEMU emulator version {version}'");
            let found = Emulator::find(&program(folder.path(), &script)).await.unwrap();
            assert_eq!(found.has_datagrams, has, "{version}");
        }
    }
}
