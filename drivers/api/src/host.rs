//! Who a host is, and where and how it is reached.

use std::{fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A host's name: letters, digits, `.` and `-`, beginning with a letter or digit, at most 128 characters, so
/// that it is always one path component and never climbs. On Windows, where a host's folder could not have them, names of
/// devices and those that end in a dot are none; elsewhere there may be hosts that are called so.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

/// A text that is no host name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Invalid hostname specified. Allowed hostname chars are: 0-9a-zA-Z . -")]
pub struct InvalidHostName {
    pub text: String,
}

impl HostName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for HostName {
    type Error = InvalidHostName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let good = text.len() <= 128
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.')
            && (cfg!(not(windows)) || is_folder_on_windows(&text));
        if good { Ok(Self(text)) } else { Err(InvalidHostName { text }) }
    }
}

fn is_folder_on_windows(name: &str) -> bool {
    !name.ends_with('.') && !is_device_on_windows(name)
}

/// Whether Windows takes this name for a device's, in whatever folder: `NUL`, `con.txt`, `COM1`.
pub fn is_device_on_windows(name: &str) -> bool {
    let stem = name.split(['.', ':']).next().unwrap_or_default().trim_end().to_ascii_uppercase();
    let numbered = ["COM", "LPT"].into_iter().find_map(|prefix| stem.strip_prefix(prefix));
    // The superscripts are digits as well.
    let is_digit = |text: &str| "0123456789\u{b9}\u{b2}\u{b3}".contains(text) && text.chars().count() == 1;
    matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$")
        || numbered.is_some_and(is_digit)
}

impl FromStr for HostName {
    type Err = InvalidHostName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::try_from(text.to_owned())
    }
}

impl From<HostName> for String {
    fn from(name: HostName) -> Self {
        name.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A host's identity, which outlives its name: it is on every resource at the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HostId(uuid::Uuid);

impl HostId {
    /// A new random one.
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4())
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// What a driver is told of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostView {
    pub name: HostName,
    pub id: HostId,
    /// The random id of the store that the host belongs to. It is put on every resource at the provider, so that the
    /// hosts of other stores are never taken for left-overs of this one.
    pub owner: String,
    /// The host's own folder in the store, 0700, which exists during all calls but `check`. Drivers keep disks
    /// and logs here.
    pub folder: PathBuf,
    /// A folder shared by all hosts of the store, for base images; made on demand. Drivers lock what they write.
    pub cache: PathBuf,
    /// What [`crate::Driver::configure`] returned.
    pub config: Value,
    /// Which of [`crate::Driver::places`] the host is to be made in; `None` leaves it to the driver.
    #[serde(default)]
    pub place: Option<String>,
    /// The login that the host must accept; `None` for drivers whose login is the user's own.
    #[serde(default)]
    pub login: Option<LoginKey>,
    /// The SSH host key that the host must show; `None` for drivers that deliver none.
    #[serde(default)]
    pub host_key: Option<HostKey>,
}

/// The public half of the key pair that `machine` logs in with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginKey {
    /// One line as in `authorized_keys`.
    pub public: String,
}

/// An SSH host key pair to be delivered to a host with its first boot.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostKey {
    /// One line: `ssh-ed25519 AAAA…`.
    pub public: String,
    /// OpenSSH PEM. Goes into the first-boot configuration only.
    pub private: String,
}

impl fmt::Debug for HostKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("HostKey").field("public", &self.public).finish_non_exhaustive()
    }
}

/// Where a host is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// An IP address or a DNS name, without port: what `machine ip` prints.
    pub address: String,
    /// TCP port of the engine, 2376 unless told otherwise.
    pub engine_port: u16,
    /// The engine's URL where it is not `tcp://address:engine_port`.
    pub url: Option<String>,
    /// `None` where there is no SSH.
    pub ssh: Option<SshEndpoint>,
    /// Where its neighbours reach it, if that is somewhere else: members of a cluster talk over it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inside: Option<Inside>,
}

/// A host's address on a network that it shares with its neighbours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inside {
    pub address: std::net::IpAddr,
    /// What names the network: hosts that give the same name here reach each other on it.
    pub network: String,
}

impl Endpoint {
    /// The engine's URL.
    pub fn url(&self) -> String {
        match &self.url {
            Some(url) => url.clone(),
            None if self.address.contains(':') => format!("tcp://[{}]:{}", self.address, self.engine_port),
            None => format!("tcp://{}:{}", self.address, self.engine_port),
        }
    }
}

/// How to log in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshEndpoint {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub key: SshKey,
}

/// The key to log in with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SshKey {
    /// The pair that `machine` made for this host.
    Generated,
    /// A key file of the user's.
    File(PathBuf),
    /// Whatever the user's agent and default key files offer.
    Agent,
}

/// The state of a host, in the words that `machine status` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    Running,
    Paused,
    Saved,
    Stopped,
    Stopping,
    Starting,
    Error,
    /// Nothing there, or nothing known. Printed as an empty word.
    None,
}

impl fmt::Display for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Running => "Running",
            Self::Paused => "Paused",
            Self::Saved => "Saved",
            Self::Stopped => "Stopped",
            Self::Stopping => "Stopping",
            Self::Starting => "Starting",
            Self::Error => "Error",
            Self::None => "",
        })
    }
}

/// A word that names no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no state of a host")]
pub struct InvalidState(String);

impl FromStr for State {
    type Err = InvalidState;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        [Self::Running, Self::Paused, Self::Saved, Self::Stopped, Self::Stopping, Self::Starting, Self::Error]
            .into_iter()
            .find(|state| state.to_string().eq_ignore_ascii_case(word))
            .ok_or_else(|| InvalidState(word.to_owned()))
    }
}

/// Something at a provider that carries our marks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leftover {
    /// In the provider's words: `instance`, `volume`, …
    pub kind: String,
    /// The provider's id.
    pub id: String,
    /// The region, or whatever the provider calls it.
    pub place: String,
    /// The host that it was made for; `None` for what several hosts share.
    pub host_id: Option<String>,
    pub host_name: String,
    /// The id of the store that made it ([`HostView::owner`]).
    pub owner: String,
}

/// One row of [`crate::Driver::describe_many`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    pub state: State,
    pub endpoint: Option<Endpoint>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_that_climb_or_are_empty_are_refused() {
        for text in ["", ".", "..", "../x", "a/b", "-a", ".a", "a b", "a\n", "ä", &"a".repeat(129)] {
            assert!(text.parse::<HostName>().is_err(), "{text:?}");
        }
        for text in ["a", "mc1", "a.b-c", "0", "A..b"] {
            assert!(text.parse::<HostName>().is_ok(), "{text:?}");
        }
    }

    #[test]
    fn names_that_windows_has_no_folders_of_are_known() {
        for text in ["con", "NUL", "aux.example", "com1", "Lpt9.x", "a.", "a.."] {
            assert!(!is_folder_on_windows(text), "{text:?}");
            assert_eq!(text.parse::<HostName>().is_ok(), cfg!(not(windows)), "{text:?}");
        }
        for text in ["console", "com", "com10", "null", "a.con", "mc1"] {
            assert!(is_folder_on_windows(text), "{text:?}");
        }
    }

    #[test]
    fn an_ipv6_address_is_bracketed_in_the_url() {
        let endpoint =
            Endpoint { address: "fe80::1".into(), engine_port: 2376, url: None, ssh: None, inside: None };
        assert_eq!(endpoint.url(), "tcp://[fe80::1]:2376");
    }
}
