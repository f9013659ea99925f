//! The SSH host keys: the seed's, or our own that are made once and kept.

use std::fs;
use std::path::Path;

use super::InstanceError;
use crate::console;
use crate::data::STATE;
use crate::error::{BootError, make_folder, replace_file, run};
use crate::seed::Table;

/// Where sshd looks for its keys.
pub(crate) const HOST_KEY_FOLDER: &str = "/etc/ssh";
const TYPES: [&str; 3] = ["ed25519", "ecdsa", "rsa"];

/// Puts host keys where sshd looks for them.
pub(crate) fn provide(seeded: &Table<String>) -> Vec<InstanceError> {
    let mut complaints = Vec::new();
    let mut private = 0;
    for (name, content) in seeded {
        match target(name) {
            Ok((file, mode)) => {
                let content = format!("{}\n", content.trim_end());
                let path = Path::new(HOST_KEY_FOLDER).join(file);
                match replace_file(&path, content.as_bytes(), mode, None) {
                    Ok(()) => private += usize::from(name.ends_with("_private")),
                    Err(failure) => complaints.push(failure.into()),
                }
            }
            Err(failure) => complaints.push(failure),
        }
    }
    if private == 0
        && let Err(failure) = use_own()
    {
        complaints.push(failure.into());
    }
    complaints
}

/// The file for a key of the seed, and who may read it.
fn target(name: &str) -> Result<(String, u32), InstanceError> {
    let unknown = || InstanceError::KeyType(name.to_owned());
    let (kind, part) = name.rsplit_once('_').ok_or_else(unknown)?;
    if !TYPES.contains(&kind) {
        return Err(unknown());
    }
    match part {
        "private" => Ok((format!("ssh_host_{kind}_key"), 0o600)),
        "public" => Ok((format!("ssh_host_{kind}_key.pub"), 0o644)),
        "certificate" => Ok((format!("ssh_host_{kind}_key-cert.pub"), 0o644)),
        _ => Err(unknown()),
    }
}

/// A key of our own, told on the console: whoever can read that knows whom they connect to.
fn use_own() -> Result<(), BootError> {
    let kept = Path::new(STATE).join("ssh");
    let name = "ssh_host_ed25519_key";
    let key = kept.join(name);
    make_folder(&kept)?;
    if !key.exists() {
        let unfinished = kept.join("new");
        let _ = fs::remove_file(&unfinished);
        let path = unfinished.to_string_lossy();
        run("/usr/bin/ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", "", "-f", &path])?;
        let failed = |source| BootError::Write { path: key.clone(), source };
        fs::rename(kept.join("new.pub"), kept.join(format!("{name}.pub"))).map_err(failed)?;
        fs::rename(&unfinished, &key).map_err(failed)?;
    }
    let read =
        |path: &Path| fs::read(path).map_err(|source| BootError::Read { path: path.to_owned(), source });
    let public = read(&kept.join(format!("{name}.pub")))?;
    let folder = Path::new(HOST_KEY_FOLDER);
    replace_file(&folder.join(format!("{name}.pub")), &public, 0o644, None)?;
    replace_file(&folder.join(name), &read(&key)?, 0o600, None)?;
    // The form in which cloud-init says it, for those who look for that.
    console::answer("-----BEGIN SSH HOST KEY KEYS-----");
    console::answer(String::from_utf8_lossy(&public).trim_end());
    console::answer("-----END SSH HOST KEY KEYS-----");
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_keys_have_a_place() {
        assert_eq!(target("ed25519_private").unwrap(), ("ssh_host_ed25519_key".to_owned(), 0o600));
        assert_eq!(target("rsa_public").unwrap(), ("ssh_host_rsa_key.pub".to_owned(), 0o644));
        for name in ["", "private", "dsa_private", "../x_private", "ed25519_secret", "ed25519"] {
            assert!(target(name).is_err(), "{name}");
        }
    }
}
