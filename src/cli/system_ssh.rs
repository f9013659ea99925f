//! The programs of the system (ssh, sshfs, rsync), run with a host's key and its pinned host key.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

pub(super) use system::needs_unix;

use machine_driver::{Endpoint, SshEndpoint, SshKey};

use crate::{
    lifecycle::{Context, LoginError},
    ssh::is_fingerprint,
    store::{Record, write_atomically},
    ui::{Failure, Ui},
};

/// What the system's ssh needs to know to log in to a host.
#[derive(Debug)]
pub(super) struct Login {
    pub(super) ssh: SshEndpoint,
    pub(super) options: Vec<String>,
}

/// Options of ssh that decide which host keys are accepted, in lower case. They are ours.
const OURS: [&str; 12] = [
    "checkhostip",
    "controlpath",
    "globalknownhostsfile",
    "hostkeyalgorithms",
    "hostkeyalias",
    "knownhostscommand",
    "nohostauthenticationforlocalhost",
    "revokedhostkeys",
    "stricthostkeychecking",
    "updatehostkeys",
    "userknownhostsfile",
    "verifyhostkeydns",
];

/// The letters of ssh's options that take a value.
const WITH_VALUE: &str = "BbcDEeFIiJLlmOopQRSWw";

/// `ssh` with options of the user's own.
pub(super) fn ssh(context: &Context, ui: &Ui, record: &Record, rest: &[&str]) -> Result<u8, Failure> {
    refuse_host_key_options(rest)?;
    let login = login(context, ui, record).map_err(|failure| match failure.status() {
        super::INTERRUPTED => failure,
        _ => failure.with_status(super::ssh::NO_CONNECTION),
    })?;
    // Options come before the destination, the command after it; ssh itself tells them apart.
    let mut command = Command::new("ssh");
    command.args(login.arguments()).arg(format!("{}@{}", login.ssh.user, login.ssh.host)).args(rest);
    run(command, "ssh", "use ssh's own options")
}

/// What comes first counts with ssh, and ours come first: the user's would be dropped in silence.
fn refuse_host_key_options(rest: &[&str]) -> Result<(), Failure> {
    for setting in settings(rest) {
        let key = setting.split(['=', ' ', '\t']).next().unwrap_or_default();
        if OURS.contains(&key.to_ascii_lowercase().as_str()) {
            return Err(Failure::text(format!(
                "`{key}` cannot be given: `machine` decides which host keys are accepted"
            ))
            .with_hint("`machine host-key` shows, records and forgets them"));
        }
    }
    Ok(())
}

/// The values of `-o` among the options that come first.
fn settings<'a>(rest: &[&'a str]) -> Vec<&'a str> {
    let mut found = Vec::new();
    let mut words = rest.iter().copied();
    while let Some(word) = words.next() {
        let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty() && *letters != "-")
        else {
            break;
        };
        let Some(place) = letters.find(|letter| WITH_VALUE.contains(letter)) else { continue };
        let attached = &letters[place + 1..];
        let value = if attached.is_empty() { words.next() } else { Some(attached) };
        match letters[place..].chars().next() {
            Some('o') => found.extend(value.map(str::trim_start)),
            // What it is called otherwise.
            Some('S') => found.push("ControlPath"),
            _ => {}
        }
    }
    found
}

impl Login {
    /// The arguments that all programs take: options, key and port.
    pub(super) fn arguments(&self) -> Vec<String> {
        let mut arguments: Vec<String> =
            self.options.iter().flat_map(|option| ["-o".to_owned(), option.clone()]).collect();
        arguments.extend(["-p".to_owned(), self.ssh.port.to_string()]);
        arguments
    }

    /// The options as a configuration file, with what the user's own files say after them.
    pub(super) fn write_configuration(&self, folder: &Path) -> Result<PathBuf, Failure> {
        let path = folder.join("ssh_config");
        let mut text = String::new();
        for option in &self.options {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            text.push_str(&format!("{key} {value}\n"));
        }
        text.push_str(&format!(
            "Port {}\nInclude ~/.ssh/config\nInclude /etc/ssh/ssh_config\n",
            self.ssh.port
        ));
        write_atomically(&path, text.as_bytes(), 0o600)?;
        Ok(path)
    }

    /// The whole `ssh …` command as one text, for `rsync -e`.
    pub(super) fn command_text(&self) -> String {
        std::iter::once("ssh".to_owned())
            .chain(self.arguments().iter().map(|word| quoted(word)))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// The login of a host; its pinned host keys are written beside its record, and nothing else is accepted.
pub(super) fn login(context: &Context, ui: &Ui, record: &Record) -> Result<Login, Failure> {
    let Some(Endpoint { ssh: Some(ssh), .. }) = &record.endpoint else {
        return Err(Failure::text(format!("`{}` has no SSH that is known", record.name)));
    };
    let folder = context.store.folder(&record.name);
    let known_hosts = folder.join("known_hosts");
    // The name, which does not change: addresses and ports do, and may have belonged to another host before.
    let alias = &record.name;
    let lines: String =
        host_keys(context, ui, record)?.iter().map(|key| format!("{alias} {key}\n")).collect();
    write_atomically(&known_hosts, lines.as_bytes(), 0o600)?;
    let mut options = vec![
        format!("UserKnownHostsFile={}", config_word(&known_hosts)?),
        format!("HostKeyAlias={alias}"),
        "GlobalKnownHostsFile=/dev/null".to_owned(),
        "StrictHostKeyChecking=yes".to_owned(),
        "CheckHostIP=no".to_owned(),
        "NoHostAuthenticationForLocalhost=no".to_owned(),
        "UpdateHostKeys=no".to_owned(),
        "VerifyHostKeyDNS=no".to_owned(),
        // Programs before OpenSSH 8.5 do not know it.
        "IgnoreUnknown=KnownHostsCommand".to_owned(),
        "KnownHostsCommand=none".to_owned(),
        // A connection that is open already was made to whoever was there then.
        "ControlPath=none".to_owned(),
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
        options.push(format!("IdentityFile={}", config_word(&key)?));
    }
    Ok(Login { ssh: ssh.clone(), options })
}

/// The recorded host keys, in full. A host that none is recorded of, or a fingerprint alone, is logged in to first.
fn host_keys(context: &Context, ui: &Ui, record: &Record) -> Result<Vec<String>, Failure> {
    let recorded = &record.ssh_host_keys;
    if !recorded.is_empty() && !recorded.iter().any(|key| is_fingerprint(key)) {
        return Ok(recorded.clone());
    }
    let shown = super::block_on(async {
        let session = super::ssh::log_in(context, ui, record).await?;
        let key = session.host_key().line.clone();
        session.close().await;
        Ok::<_, LoginError>(key)
    })?;
    match shown {
        Some(key) => Ok(vec![key?]),
        None => Err(Failure::text("Interrupted").with_status(super::INTERRUPTED)),
    }
}

/// Runs a program of the system in our place, as far as its terminal and exit status go.
pub(super) fn run(mut command: Command, program: &str, feature: &str) -> Result<u8, Failure> {
    match command.status() {
        Ok(status) => Ok(system::status_of(status)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Failure::text(format!("You must have a copy of the {program} binary locally to {feature}"))
                .with_hint(format!("Install {program}, for example with your system's packages")))
        }
        Err(error) => Err(Failure::because(format!("Could not run `{program}`"), &error)),
    }
}

/// A path as a word of ssh's configuration language, in which it means itself.
fn config_word(path: &Path) -> Result<String, Failure> {
    let text = path
        .to_str()
        .filter(|text| !text.contains("${") && !text.contains(char::is_control))
        .ok_or_else(|| {
            Failure::text(format!("The system's ssh cannot be told of `{}`", path.display()))
                .with_hint("Use a store whose path has no control characters and no `${`")
        })?;
    Ok(format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%")))
}

/// A word of the command that `rsync -e` takes: quotes are doubled there, and nothing else means anything between them.
fn quoted(word: &str) -> String {
    if word.chars().all(|c| c.is_ascii_alphanumeric() || "-_=/.:@,+".contains(c)) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "''"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_settings_of_a_command_line_are_found() {
        for (words, expected) in [
            (
                &["-A", "-o", "A=b", "-oC=d", "-p", "-oX=y", "command", "-o", "not ours"][..],
                &["A=b", "C=d"][..],
            ),
            (&["-AvoKey value", "-Lx:1:y:2", "--", "-o", "x"], &["Key value"]),
            (&["-L", "-o", "-o", " E = f"], &["E = f"]),
            (&["-o"], &[]),
            (&[], &[]),
        ] {
            assert_eq!(settings(words), expected, "{words:?}");
        }
    }

    #[test]
    fn paths_mean_themselves_to_the_programs_of_the_system() {
        let word = |text: &str| config_word(Path::new(text));
        for (path, expected) in [
            ("/tmp/it's here", "\"/tmp/it's here\""),
            ("/tmp/a%d/x", "\"/tmp/a%%d/x\""),
            ("/tmp/q\"b\\", "\"/tmp/q\\\"b\\\\\""),
        ] {
            assert_eq!(word(path).unwrap(), expected);
        }
        assert!(word("/tmp/${HOME}").is_err() && word("/tmp/a\nb").is_err());
        assert_eq!(quoted("A=\"it's\""), "'A=\"it''s\"'");
        assert_eq!(quoted("UpdateHostKeys=no"), "UpdateHostKeys=no");
    }

    #[test]
    fn nobody_can_loosen_the_check_of_the_host_key() {
        for words in [
            &["-o", "StrictHostKeyChecking=no"][..],
            &["-A", "-ostricthostkeychecking no"],
            &["-oUserKnownHostsFile=/dev/null", "true"],
            &["-v", "-o", "HostKeyAlias=x"],
            &["-S", "/tmp/socket"],
            &["-AS/tmp/socket", "true"],
        ] {
            assert!(refuse_host_key_options(words).is_err(), "{words:?}");
        }
        refuse_host_key_options(&["-o", "ForwardAgent=yes", "echo", "-o", "StrictHostKeyChecking=no"])
            .unwrap();
    }
}
