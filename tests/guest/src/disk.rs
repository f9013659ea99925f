//! A guest's disk: the files of a Debian as far as provisioning looks at them, and what its first boot has put there.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{AUTHORIZED_KEYS, USER_DATA};

/// Where the SSH server's key is, on the guest.
pub const HOST_KEY: &str = "etc/ssh/ssh_host_ed25519_key";

/// The part of the user data that a guest follows.
#[derive(Debug, Default, Deserialize)]
struct UserData {
    ssh_keys: Option<HostKeys>,
    #[serde(default)]
    users: Vec<User>,
}

#[derive(Debug, Deserialize)]
struct HostKeys {
    ed25519_private: String,
}

#[derive(Debug, Deserialize)]
struct User {
    #[serde(default)]
    ssh_authorized_keys: Vec<String>,
}

/// A folder that is a disk.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// The disk in this folder, furnished and told its user data if this is its first boot.
    pub fn boot(folder: &Path, user: &str) -> io::Result<Self> {
        let disk = Self { folder: folder.to_owned() };
        let root = disk.root();
        if !root.exists() {
            let new = folder.join("new-root");
            let _ = fs::remove_dir_all(&new);
            furnish(&new, user)?;
            disk.first_boot(&new)?;
            fs::rename(new, &root)?;
        }
        // Nothing there outlives a boot.
        let run = root.join("run");
        fs::remove_dir_all(&run)?;
        fs::create_dir_all(run.join("systemd/system"))?;
        Ok(disk)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its root.
    pub fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    /// The public keys that log in, one a line.
    pub fn logins(&self) -> PathBuf {
        self.folder.join("logins")
    }

    fn first_boot(&self, root: &Path) -> io::Result<()> {
        let data = fs::read(self.folder.join(USER_DATA))?;
        let data = parse(&data)?;
        let mut logins = fs::read_to_string(self.folder.join(AUTHORIZED_KEYS)).unwrap_or_default();
        for key in data.users.iter().flat_map(|user| &user.ssh_authorized_keys) {
            logins.push_str(&format!("\n{key}\n"));
        }
        fs::write(self.logins(), logins)?;
        let key = root.join(HOST_KEY);
        if let Some(keys) = data.ssh_keys {
            return write(&key, &keys.ed25519_private, 0o600);
        }
        let mut make = std::process::Command::new("ssh-keygen");
        let made = make.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status()?;
        if made.success() { Ok(()) } else { Err(io::Error::other("There is no host key")) }
    }
}

/// The cloud-config in a text, or in an image, where files are followed by zeros.
fn parse(data: &[u8]) -> io::Result<UserData> {
    const BEGINNING: &[u8] = b"#cloud-config\n";
    let Some(start) = data.windows(BEGINNING.len()).position(|window| window == BEGINNING) else {
        return Ok(UserData::default());
    };
    let text = data[start..].split(|byte| *byte == 0).next().unwrap_or_default();
    let text = std::str::from_utf8(text).map_err(io::Error::other)?;
    serde_yaml::from_str(text).map_err(io::Error::other)
}

fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// A root whose programs are this computer's, but for those that provisioning uses to act on more than files.
fn furnish(root: &Path, user: &str) -> io::Result<()> {
    for folder in ["proc", "dev", "run", "root", "usr", "var/log", "var/lib", "etc/ssh", "etc/systemd/system"]
    {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::create_dir_all(root.join("tmp"))?;
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    for module in ["bridge", "veth", "nf_tables", "overlay"] {
        fs::create_dir_all(root.join("sys/module").join(module))?;
    }
    for folder in ["bin", "sbin", "lib", "lib64"] {
        if fs::symlink_metadata(Path::new("/").join(folder)).is_ok() {
            symlink(format!("usr/{folder}"), root.join(folder))?;
        }
    }
    let file = |path: &str, text: &str| write(&root.join(path), text, 0o644);
    file("sys/fs/cgroup/cgroup.controllers", "cpu memory pids\n")?;
    // Whoever logs in is root, so that there need be no `sudo`.
    file("etc/passwd", &format!("{user}:x:0:0:{user}:/root:/bin/sh\nroot:x:0:0:root:/root:/bin/sh\n"))?;
    file("etc/group", "root:x:0:\n")?;
    file("etc/shadow", "root:*:19000:0:99999:7:::\n")?;
    file("etc/hosts", "127.0.0.1 localhost\n")?;
    file("etc/hostname", "localhost\n")?;
    file("etc/os-release", "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_ID=\"12\"\n")?;
    // What is below `/usr/local` lies here, and is mounted there.
    fs::create_dir_all(root.join("local/bin"))?;
    let program = |name: &str, text: &str| write(&root.join("local/sbin").join(name), text, 0o755);
    program("systemctl", include_str!("../../provision/stand_ins/systemctl"))?;
    program("journalctl", "#!/bin/sh\ntail -n 20 /var/log/engine.log\n")?;
    program("hostnamectl", "#!/bin/sh\necho \"$2\" >/etc/hostname\nhostname \"$2\"\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn user_data_is_found_in_text_and_in_an_image() {
        let text = "#cloud-config\nssh_keys:\n  ed25519_private: |\n    SECRET\n  ed25519_public: ssh-ed25519 AAAA\n\
                    users:\n- name: docker\n  ssh_authorized_keys: [ssh-ed25519 BBBB]\n";
        let image = [&[0; 2048], text.as_bytes(), &[0; 500], b"meta-data"].concat();
        for data in [text.as_bytes(), &image] {
            let parsed = parse(data).unwrap();
            assert_eq!(parsed.ssh_keys.unwrap().ed25519_private, "SECRET\n");
            assert_eq!(parsed.users[0].ssh_authorized_keys, ["ssh-ed25519 BBBB"]);
        }
        assert!(parse(b"#!/bin/sh\n").unwrap().ssh_keys.is_none());
    }
}
