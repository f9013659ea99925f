//! The SSH host keys: the seed's or our own, put in place once for each instance and told on the console.

use std::fs;
use std::path::Path;

use super::InstanceError;
use crate::console;
use crate::devices::entries;
use crate::error::{BootError, replace_file, run};
use crate::seed::Table;

/// Where sshd looks for its keys.
pub(crate) const HOST_KEY_FOLDER: &str = "/etc/ssh";
/// What the names of host keys start with; only such files outlive the power in their folder.
pub(crate) const HOST_KEY_PREFIX: &str = "ssh_host_";
const TYPES: [&str; 3] = ["ed25519", "ecdsa", "rsa"];
/// Memory: a key that is half made is never found where keys belong.
const UNFINISHED: &str = "/run/host-key";
/// What cloud-init lets through as well; a line of a 16384-bit RSA key has 2.8 KB.
const LONGEST_LINE: usize = 4096;

/// Puts host keys where sshd looks for them, if the instance is new or has none: a key that was replaced since stays.
pub(crate) fn provide(seeded: &Table<String>, is_new: bool, host_name: &str) -> Vec<InstanceError> {
    provide_in(Path::new(HOST_KEY_FOLDER), seeded, is_new, |folder| make_own(folder, host_name))
}

fn provide_in(
    folder: &Path,
    seeded: &Table<String>,
    is_new: bool,
    make_own: impl FnOnce(&Path) -> Result<(), BootError>,
) -> Vec<InstanceError> {
    if !is_new && has_private_key(folder) {
        return Vec::new();
    }
    // A key of another instance, of which this disk is a copy, is not this one's.
    for file in entries(folder).into_iter().filter(|path| is_host_key(path)) {
        let _ = fs::remove_file(file);
    }
    let mut complaints = Vec::new();
    for (name, content) in seeded {
        match target(name) {
            Ok((file, mode)) => {
                let content = format!("{}\n", content.trim_end());
                if let Err(failure) = replace_file(&folder.join(file), content.as_bytes(), mode, None) {
                    complaints.push(failure.into());
                }
            }
            Err(failure) => complaints.push(failure),
        }
    }
    if !has_private_key(folder)
        && let Err(failure) = make_own(folder)
    {
        complaints.push(failure.into());
    }
    complaints
}

/// Whether a file is a host key or belongs to one.
pub(crate) fn is_host_key(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(HOST_KEY_PREFIX))
}

/// One of those that sshd looks for. An empty file is what a power cut leaves of a key that was not written to disk.
fn has_private_key(folder: &Path) -> bool {
    TYPES.iter().any(|kind| {
        fs::metadata(folder.join(format!("{HOST_KEY_PREFIX}{kind}_key"))).is_ok_and(|facts| facts.len() > 0)
    })
}

/// The file for a key of the seed, and who may read it.
fn target(name: &str) -> Result<(String, u32), InstanceError> {
    let unknown = || InstanceError::KeyType(name.to_owned());
    let (kind, part) = name.rsplit_once('_').ok_or_else(unknown)?;
    if !TYPES.contains(&kind) {
        return Err(unknown());
    }
    match part {
        "private" => Ok((format!("{HOST_KEY_PREFIX}{kind}_key"), 0o600)),
        "public" => Ok((format!("{HOST_KEY_PREFIX}{kind}_key.pub"), 0o644)),
        "certificate" => Ok((format!("{HOST_KEY_PREFIX}{kind}_key-cert.pub"), 0o644)),
        _ => Err(unknown()),
    }
}

fn make_own(folder: &Path, host_name: &str) -> Result<(), BootError> {
    let (private, public) = (UNFINISHED.to_owned(), format!("{UNFINISHED}.pub"));
    let clear = || [&private, &public].map(fs::remove_file);
    let _ = clear();
    let comment = format!("root@{host_name}");
    run("/usr/bin/ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", &comment, "-f", &private])?;
    let place = |from: &str, to: &str, mode| {
        let content = fs::read(from).map_err(|source| BootError::Read { path: from.into(), source })?;
        replace_file(&folder.join(to), &content, mode, None)
    };
    place(&public, "ssh_host_ed25519_key.pub", 0o644)?;
    place(&private, "ssh_host_ed25519_key", 0o600)?;
    let _ = clear();
    Ok(())
}

/// Tells the public keys in the form in which cloud-init does: whoever can read the console knows whom they connect to.
pub(crate) fn tell() {
    console::answer(&block(Path::new(HOST_KEY_FOLDER)));
}

fn block(folder: &Path) -> String {
    let mut lines = vec!["-----BEGIN SSH HOST KEY KEYS-----".to_owned()];
    let mut files: Vec<_> = entries(folder)
        .into_iter()
        .filter(|path| is_host_key(path) && path.to_string_lossy().ends_with("_key.pub"))
        .collect();
    files.sort();
    // They may be the seed's, and what is on the console must not look like something else.
    let is_plain = |line: &str| line.len() <= LONGEST_LINE && !line.chars().any(char::is_control);
    lines.extend(
        files
            .iter()
            .filter_map(|path| {
                fs::read_to_string(path).ok()?.lines().next().map(|line| line.trim().to_owned())
            })
            .filter(|line| !line.is_empty() && is_plain(line)),
    );
    lines.push("-----END SSH HOST KEY KEYS-----".to_owned());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const KEY: &str = "ssh_host_ed25519_key";

    fn seeded() -> Table<String> {
        [("ed25519_private", "seeded\n\n"), ("ed25519_public", "ssh-ed25519 AAAA seeded")]
            .map(|(name, content)| (name.to_owned(), content.to_owned()))
            .into()
    }

    fn own(folder: &Path) -> Result<(), BootError> {
        replace_file(&folder.join(KEY), b"own\n", 0o600, None)
    }

    fn key(folder: &Path) -> String {
        fs::read_to_string(folder.join(KEY)).unwrap()
    }

    #[test]
    fn only_keys_have_a_place() {
        assert_eq!(target("ed25519_private").unwrap(), ("ssh_host_ed25519_key".to_owned(), 0o600));
        assert_eq!(target("rsa_public").unwrap(), ("ssh_host_rsa_key.pub".to_owned(), 0o644));
        for name in ["", "private", "dsa_private", "../x_private", "ed25519_secret", "ed25519"] {
            assert!(target(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_key_that_was_replaced_stays_until_the_instance_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let never = |_: &Path| panic!("There is a key");
        assert!(provide_in(folder, &seeded(), true, never).is_empty());
        assert_eq!(key(folder), "seeded\n");
        fs::write(folder.join(KEY), "replaced\n").unwrap();
        fs::write(folder.join("ssh_host_rsa_key"), "added\n").unwrap();
        fs::write(folder.join("sshd_config"), "").unwrap();
        assert!(provide_in(folder, &seeded(), false, never).is_empty());
        assert_eq!(key(folder), "replaced\n");
        assert!(provide_in(folder, &seeded(), true, never).is_empty());
        assert_eq!(key(folder), "seeded\n");
        assert!(!folder.join("ssh_host_rsa_key").exists());
        assert!(folder.join("sshd_config").exists());
    }

    #[test]
    fn a_host_never_stays_without_a_key() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        assert!(provide_in(folder, &Table::new(), true, own).is_empty());
        assert_eq!(key(folder), "own\n");
        fs::write(folder.join(KEY), "").unwrap();
        assert!(provide_in(folder, &Table::new(), false, own).is_empty());
        assert_eq!(key(folder), "own\n");
        let strange: Table<String> = [("dsa_private".to_owned(), "x".to_owned())].into();
        assert_eq!(provide_in(folder, &strange, true, own).len(), 1);
        assert_eq!(key(folder), "own\n");
    }

    #[test]
    fn the_console_is_told_plain_lines_only() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        for (name, content) in [
            ("ssh_host_rsa_key.pub", "ssh-rsa AAAA b\nsecond line\n"),
            ("ssh_host_ed25519_key.pub", "ssh-ed25519 AAAA a\n"),
            ("ssh_host_ed25519_key-cert.pub", "ssh-ed25519-cert-v01@openssh.com AAAA\n"),
            ("ssh_host_ecdsa_key.pub", "\x1b[2J\n"),
            (KEY, "private\n"),
        ] {
            fs::write(folder.join(name), content).unwrap();
        }
        assert_eq!(
            block(folder),
            "-----BEGIN SSH HOST KEY KEYS-----\nssh-ed25519 AAAA a\nssh-rsa AAAA b\n-----END SSH HOST KEY KEYS-----"
        );
    }
}
