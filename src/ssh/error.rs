//! How far a connection came, and what stopped it there.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A cause whose type nobody needs to know.
pub type Cause = Box<dyn Error + Send + Sync>;

/// Why there is no connection, no login, no channel, or no answer; one variant for each layer and cause.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SshError {
    /// The name has no address.
    #[error("The address `{host}` does not resolve")]
    Address { host: String, source: io::Error },
    /// Nobody listens, or the way there is closed.
    #[error("Could not connect to port {port} of `{host}`")]
    Connect { host: String, port: u16, source: io::Error },
    /// Nobody answered at all.
    #[error("Port {port} of `{host}` did not answer within {}", seconds(*after))]
    ConnectTimeout { host: String, port: u16, after: Duration },
    /// The connection is there, and the server says nothing.
    #[error(
        "Port {port} of `{host}` accepts connections, but no server introduced itself there within {}",
        seconds(*after)
    )]
    BannerTimeout { host: String, port: u16, after: Duration },
    /// The connection was closed before the server said anything.
    #[error(
        "Port {port} of `{host}` accepted the connection and closed it before a server introduced itself"
    )]
    BannerClosed { host: String, port: u16, source: io::Error },
    /// The server speaks, but another protocol.
    #[error("Port {port} of `{host}` does not speak SSH, it says `{said}`")]
    NotSsh { host: String, port: u16, said: String },
    /// No agreement on keys in time.
    #[error("`{host}` did not finish the key exchange within {}", seconds(*after))]
    KeyExchangeTimeout { host: String, after: Duration },
    /// No agreement on keys.
    #[error("The key exchange with `{host}` failed")]
    KeyExchange { host: String, source: Cause },
    /// The person or rule that was asked did not accept the key.
    #[error("The host key of `{host}` is unknown and was not accepted: it is {offered}")]
    HostKeyUnknown { host: String, offered: String },
    /// The host has another key than the recorded one.
    #[error("The host key of `{host}` is not the expected one: expected is {}, the server shows {offered}", expected.join(" or "))]
    HostKeyChanged { host: String, offered: String, expected: Vec<String> },
    /// The record of the host key is unreadable.
    #[error("The recorded host key `{line}` cannot be read")]
    HostKeyRecord { line: String },
    /// What somebody gave as a host key is none.
    #[error("`{text}` is neither a host key nor the fingerprint of one")]
    HostKeyInvalid { text: String },
    /// There is no key file.
    #[error("The key file `{}` does not exist", path.display())]
    KeyMissing { path: PathBuf },
    /// The key file cannot be read.
    #[error("Could not read the key file `{}`", path.display())]
    KeyUnreadable { path: PathBuf, source: io::Error },
    /// Others than the owner can use the key file. Scripts know this message from elsewhere.
    #[error("permissions {} for '{}' are too open", exposure.permissions(), path.display())]
    KeyTooOpen { path: PathBuf, exposure: private_files::Exposure },
    /// The key file is encrypted, and nobody gave the passphrase.
    #[error("The key file `{}` is encrypted with a passphrase", path.display())]
    KeyEncrypted { path: PathBuf },
    /// The passphrase is not that of the key file.
    #[error("The passphrase does not open the key file `{}`", path.display())]
    KeyPassphrase { path: PathBuf },
    /// The file holds something else.
    #[error("`{}` is not a private key that can be used: {reason}", path.display())]
    KeyInvalid { path: PathBuf, reason: String },
    /// A key pair could not be made.
    #[error("Could not make a key pair")]
    KeyGeneration { source: Cause },
    /// There is neither an agent nor a key in the usual places.
    #[error("There is no key to log in to `{host}` with: {reason}")]
    NoKey { host: String, reason: String },
    /// The login took too long.
    #[error("`{host}` did not finish the login of `{user}` within {}", seconds(*after))]
    AuthenticationTimeout { host: String, user: String, after: Duration },
    /// The server does not want the key.
    #[error("`{host}` refused the login of `{user}` with {tried}; it offers {}", offered_methods(methods))]
    Authentication { host: String, user: String, tried: String, methods: Vec<String> },
    /// The server took the key and wants a password or the like on top.
    #[error("`{host}` accepted {tried} of `{user}`, but wants {} as well", methods.join(" or "))]
    AuthenticationPartial { host: String, user: String, tried: String, methods: Vec<String> },
    /// The server ended the connection instead of answering.
    #[error("`{host}` broke off the login of `{user}`: {reason}")]
    AuthenticationBroken { host: String, user: String, reason: String },
    /// A channel could not be opened.
    #[error("`{host}` did not open a channel for {what}")]
    Channel { host: String, what: String, source: Cause },
    /// The server did not say whether it opened the channel.
    #[error("`{host}` did not open a channel for {what} within {}", seconds(*after))]
    ChannelTimeout { host: String, what: String, after: Duration },
    /// The connection broke.
    #[error("The connection to `{host}` was lost while running {what}: {reason}")]
    Lost { host: String, what: String, reason: String },
    /// The command wrote more than anybody wants to keep.
    #[error("{what} on `{host}` wrote more than {limit} bytes")]
    TooMuchOutput { host: String, what: String, limit: usize },
    /// A port of ours.
    #[error("Could not listen on {address}")]
    Listen { address: String, source: io::Error },
    /// Our own standard input, output, error or terminal.
    #[error("Could not use the {what}")]
    OwnStream { what: &'static str, source: io::Error },
}

fn seconds(duration: Duration) -> String {
    if duration < Duration::from_secs(2) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{} s", duration.as_secs())
    }
}

fn offered_methods(methods: &[String]) -> String {
    if methods.is_empty() { "nothing that is known here".to_owned() } else { methods.join(", ") }
}

impl SshError {
    /// How far the connection came: `address`, `port`, `banner`, `key exchange`, `host key`, `key file`,
    /// `authentication`, `channel`, `connection` or, when it is about our own side, `terminal` or `own port`.
    pub fn layer(&self) -> &'static str {
        match self {
            Self::Address { .. } => "address",
            Self::Connect { .. } | Self::ConnectTimeout { .. } => "port",
            Self::BannerTimeout { .. } | Self::BannerClosed { .. } | Self::NotSsh { .. } => "banner",
            Self::KeyExchangeTimeout { .. } | Self::KeyExchange { .. } => "key exchange",
            Self::HostKeyUnknown { .. }
            | Self::HostKeyChanged { .. }
            | Self::HostKeyRecord { .. }
            | Self::HostKeyInvalid { .. } => "host key",
            Self::KeyMissing { .. }
            | Self::KeyUnreadable { .. }
            | Self::KeyTooOpen { .. }
            | Self::KeyEncrypted { .. }
            | Self::KeyPassphrase { .. }
            | Self::KeyInvalid { .. }
            | Self::KeyGeneration { .. } => "key file",
            Self::NoKey { .. }
            | Self::AuthenticationTimeout { .. }
            | Self::Authentication { .. }
            | Self::AuthenticationPartial { .. }
            | Self::AuthenticationBroken { .. } => "authentication",
            Self::Channel { .. } | Self::ChannelTimeout { .. } | Self::TooMuchOutput { .. } => "channel",
            Self::Lost { .. } => "connection",
            Self::OwnStream { .. } => "terminal",
            Self::Listen { .. } => "own port",
        }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Address { host, .. } => format!("Is `{host}` spelled right, and does the DNS of this machine work?"),
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused => {
                "Nothing listens there: is the SSH server running, and is the port right?".to_owned()
            }
            Self::Connect { .. } | Self::ConnectTimeout { .. } => {
                "Is the host running, and do the firewalls between here and there let the port through?".to_owned()
            }
            Self::BannerTimeout { .. } | Self::BannerClosed { .. } => {
                "The host may still be starting, or its SSH server has too many connections".to_owned()
            }
            Self::NotSsh { port, .. } => format!("Is {port} the port of the SSH server?"),
            Self::HostKeyUnknown { .. } => {
                "Compare the fingerprint with what `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` says on the host"
                    .to_owned()
            }
            Self::HostKeyChanged { .. } => "Somebody may be reading along. If the host was installed anew, `machine \
                 host-key pin` records its new key; if the expected key was mistyped, give the right one"
                .to_owned(),
            Self::HostKeyRecord { .. } => "`machine host-key pin` records the right one".to_owned(),
            Self::HostKeyInvalid { .. } => {
                "Give a line such as `ssh-ed25519 AAAA…`, or a fingerprint such as `SHA256:…`".to_owned()
            }
            Self::KeyTooOpen { path, exposure } => format!("Run `{}`", exposure.remedy(path)),
            Self::KeyEncrypted { path } | Self::KeyPassphrase { path } => encrypted_hint(path),
            Self::KeyInvalid { path, .. } if path.extension().is_some_and(|extension| extension == "pub") => {
                format!("Give the private key, probably `{}`", path.with_extension("").display())
            }
            Self::NoKey { .. } => format!("Name a key file, or start an agent with `{}`", super::agent::START),
            Self::Authentication { user, methods, .. } if methods.iter().any(|method| method == "publickey") => {
                format!(
                    "Is the public key in `~/.ssh/authorized_keys` of `{user}` on the host, and is `{user}` the right name?"
                )
            }
            Self::Listen { source, .. } => match source.kind() {
                io::ErrorKind::AddrInUse => "Another program has that port: choose another one, or 0 for any free one".to_owned(),
                io::ErrorKind::PermissionDenied => "Choose a port above 1023".to_owned(),
                _ => return None,
            },
            Self::Authentication { .. } => "The server would have to allow logins with a key".to_owned(),
            Self::AuthenticationBroken { reason, .. } if reason.contains("Too many authentication failures") => {
                "The agent holds more keys than the server lets anybody try: name the file of the right one".to_owned()
            }
            _ => return None,
        })
    }
}

fn encrypted_hint(path: &Path) -> String {
    format!(
        "Load it into an agent with `ssh-add {}`, or run this in a terminal, where you are asked",
        path.display()
    )
}

/// Makes what a server says fit to be shown: one line of bounded length, without control characters.
pub(super) fn printable(text: &str) -> String {
    const LIMIT: usize = 200;
    let mut shown: String =
        text.trim().chars().take(LIMIT).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.trim().chars().nth(LIMIT).is_some() {
        shown.push('…');
    }
    shown
}

/// How errors name a command: its first line, shortened.
pub(super) fn abbreviated(command: &str) -> String {
    const LIMIT: usize = 60;
    let first = command.trim().lines().next().unwrap_or_default();
    let mut shown: String = first.chars().take(LIMIT).filter(|c| !c.is_control()).collect();
    if shown.len() < command.trim().len() {
        shown.push('…');
    }
    format!("`{shown}`")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_servers_say_cannot_play_with_the_terminal() {
        assert_eq!(printable("\x1b[31mHTTP/1.1 400\r\n"), "\u{fffd}[31mHTTP/1.1 400");
        assert_eq!(printable(&"é".repeat(300)).chars().count(), 201);
    }

    #[test]
    fn commands_are_named_by_their_beginning() {
        assert_eq!(abbreviated("true"), "`true`");
        assert_eq!(abbreviated("set -e\nrm x\n"), "`set -e…`");
        assert_eq!(abbreviated(&"x".repeat(100)), format!("`{}…`", "x".repeat(60)));
    }

    #[test]
    fn too_open_keys_are_reported_as_scripts_expect() {
        let file = tempfile::tempfile().unwrap();
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        let exposure = private_files::exposure(&file).unwrap().unwrap();
        let error = SshError::KeyTooOpen { path: "K".into(), exposure };
        assert_eq!(error.to_string(), "permissions 0644 for 'K' are too open");
        assert_eq!(error.hint().as_deref(), Some("Run `chmod 600 K`"));
    }
}
