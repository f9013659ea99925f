//! The programs of the system (ssh, sshfs, rsync), run with a host's key and its pinned host key.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use machine_driver::{Endpoint, SshEndpoint, SshKey};

use crate::{
    store::{Record, Store, write_atomically},
    ui::{Failure, Hinted},
};

/// What the system's ssh needs to know to log in to a host.
#[derive(Debug)]
pub(super) struct Login {
    pub(super) ssh: SshEndpoint,
    pub(super) options: Vec<String>,
}

/// `ssh` with options of the user's own.
pub(super) fn ssh(store: &Store, record: &Record, rest: &[&str]) -> Result<u8, Failure> {
    let login = login(store, record)?;
    // Options come before the destination, the command after it; ssh itself tells them apart.
    let mut command = Command::new("ssh");
    command.args(login.arguments()).arg(format!("{}@{}", login.ssh.user, login.ssh.host)).args(rest);
    run(command, "ssh", "use ssh's own options")
}

impl Login {
    /// The arguments that all programs take: options, key and port.
    pub(super) fn arguments(&self) -> Vec<String> {
        let mut arguments: Vec<String> =
            self.options.iter().flat_map(|option| ["-o".to_owned(), option.clone()]).collect();
        arguments.extend(["-p".to_owned(), self.ssh.port.to_string()]);
        arguments
    }

    /// The whole `ssh …` command as one text, for `rsync -e`.
    pub(super) fn command_text(&self) -> String {
        std::iter::once("ssh".to_owned())
            .chain(self.arguments().iter().map(|word| quoted(word)))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// The login of a host; its pinned host keys are written beside its record.
pub(super) fn login(store: &Store, record: &Record) -> Result<Login, Failure> {
    let Some(Endpoint { ssh: Some(ssh), .. }) = &record.endpoint else {
        return Err(anyhow::anyhow!("`{}` has no SSH that is known", record.name).into());
    };
    let folder = store.folder(&record.name);
    let known_hosts = folder.join("known_hosts");
    let at = if ssh.port == 22 { ssh.host.clone() } else { format!("[{}]:{}", ssh.host, ssh.port) };
    let lines: String = record.ssh_host_keys.iter().map(|key| format!("{at} {key}\n")).collect();
    write_atomically(&known_hosts, lines.as_bytes(), 0o600)?;
    let mut options = vec![
        format!("UserKnownHostsFile={}", config_word(&known_hosts)),
        "StrictHostKeyChecking=yes".to_owned(),
        "ConnectTimeout=10".to_owned(),
        "ServerAliveInterval=15".to_owned(),
        "LogLevel=ERROR".to_owned(),
    ];
    let key: Option<PathBuf> = match &ssh.key {
        SshKey::Generated => Some(folder.join("id_ed25519")),
        SshKey::File(path) => Some(path.clone()),
        SshKey::Agent => None,
    };
    if let Some(key) = key {
        options.push("IdentitiesOnly=yes".to_owned());
        options.push(format!("IdentityFile={}", config_word(&key)));
    }
    Ok(Login { ssh: ssh.clone(), options })
}

/// Runs a program of the system in our place, as far as its terminal and exit status go.
pub(super) fn run(mut command: Command, program: &str, feature: &str) -> Result<u8, Failure> {
    match command.status() {
        Ok(status) => Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Failure::new(Hinted {
            message: format!("You must have a copy of the {program} binary locally to {feature}"),
            hint: format!("Install {program}, for example with your system's packages"),
        })),
        Err(error) => Err(anyhow::Error::new(error).context(format!("Could not run `{program}`")).into()),
    }
}

/// A path as a word of ssh's configuration language.
fn config_word(path: &Path) -> String {
    let text = path.display().to_string();
    if text.contains([' ', '"', '\\']) {
        format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
    } else {
        text
    }
}

/// A word quoted for a shell.
fn quoted(word: &str) -> String {
    if word.chars().all(|c| c.is_ascii_alphanumeric() || "-_=/.:@,+".contains(c)) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}
