//! Decides whether the server is the host that it should be, and remembers why not.

use russh::keys::ssh_key::HashAlg;
use russh::keys::{Algorithm, EcdsaCurve, PublicKey};

use super::{HostKeyPolicy, SshError};

/// The host key that a server showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferedKey {
    /// The key as a line `ssh-ed25519 AAAA…`, ready to be pinned.
    pub line: String,
    /// `SHA256:…`, as other tools print it.
    pub fingerprint: String,
}

impl OfferedKey {
    pub(super) fn new(key: &PublicKey) -> Self {
        // Only a key of an unknown kind could fail to be written, and those are not negotiated.
        let bare = PublicKey::new(key.key_data().clone(), "");
        Self { line: bare.to_openssh().unwrap_or_default(), fingerprint: fingerprint(key) }
    }
}

/// How errors name a key: its kind and its fingerprint.
pub(super) fn describe(key: &PublicKey) -> String {
    format!("{} {}", key.algorithm().as_str(), fingerprint(key))
}

fn fingerprint(key: &PublicKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

/// A policy whose lines have been read.
#[derive(Debug, Clone)]
pub(super) enum Expected {
    Keys(Vec<PublicKey>),
    Ask(HostKeyPolicy),
}

impl Expected {
    /// Reads the pinned lines, so that a spoiled record is noticed before anybody connects.
    pub(super) fn new(policy: &HostKeyPolicy) -> Result<Self, SshError> {
        let HostKeyPolicy::Pinned(lines) = policy else { return Ok(Self::Ask(policy.clone())) };
        let parse = |line: &String| {
            PublicKey::from_openssh(line.trim())
                .map_err(|_| SshError::HostKeyRecord { line: super::error::printable(line) })
        };
        Ok(Self::Keys(lines.iter().map(parse).collect::<Result<_, _>>()?))
    }

    /// The kinds of host keys to ask the server for, those that are pinned first: a server has several keys and shows the
    /// one of the first kind that it has.
    pub(super) fn algorithms(&self) -> Vec<Algorithm> {
        let mut algorithms = known_algorithms();
        if let Self::Keys(keys) = self {
            let pinned =
                |algorithm: &Algorithm| keys.iter().any(|key| same_kind(&key.algorithm(), algorithm));
            algorithms.sort_by_key(|algorithm| !pinned(algorithm));
        }
        algorithms
    }

    /// Whether the key is the right one. A person may be asked, so this can take its time.
    pub(super) fn check(&self, host: &str, key: &PublicKey) -> Result<(), SshError> {
        let host = host.to_owned();
        match self {
            Self::Keys(keys) if keys.iter().any(|pinned| pinned.key_data() == key.key_data()) => Ok(()),
            Self::Keys(keys) if keys.is_empty() => {
                Err(SshError::HostKeyUnknown { host, offered: describe(key) })
            }
            Self::Keys(keys) => Err(SshError::HostKeyChanged {
                host,
                offered: describe(key),
                expected: keys.iter().map(describe).collect(),
            }),
            Self::Ask(HostKeyPolicy::Ask(ask)) if ask(&OfferedKey::new(key)) => Ok(()),
            Self::Ask(_) => Err(SshError::HostKeyUnknown { host, offered: describe(key) }),
        }
    }
}

/// Without SHA-1 signatures.
fn known_algorithms() -> Vec<Algorithm> {
    vec![
        Algorithm::Ed25519,
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
        Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
        Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
    ]
}

fn same_kind(key: &Algorithm, offered: &Algorithm) -> bool {
    key == offered || matches!((key, offered), (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use super::*;

    const ED25519: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ root@host";
    const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIK2pr+Bfus1hvPof4Wb/plZCzSbqadHH0u+/f4ODtKnE";
    const ECDSA: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBJxW6suHxbFpV53Xv8HdtMMl62cJTP4T7/ht5ptn1bWOaI2t20FrwsXsNs4IbEEzPVrvrs4o7VsFq25GNwEu5ew=";

    fn pinned(lines: &[&str]) -> Expected {
        Expected::new(&HostKeyPolicy::Pinned(lines.iter().map(|line| (*line).to_owned()).collect())).unwrap()
    }

    fn key(line: &str) -> PublicKey {
        PublicKey::from_openssh(line).unwrap()
    }

    #[test]
    fn any_pinned_key_is_accepted_whatever_its_comment() {
        let expected = pinned(&[OTHER, ED25519]);
        expected.check("h", &key(ED25519.strip_suffix(" root@host").unwrap())).unwrap();
        expected.check("h", &key(OTHER)).unwrap();
    }

    #[test]
    fn another_key_is_refused_with_both_fingerprints() {
        let error = pinned(&[ED25519]).check("mc1", &key(OTHER)).unwrap_err();
        assert_eq!(error.layer(), "host key");
        let text = error.to_string();
        assert!(
            text.starts_with("The host key of `mc1` has changed: recorded is ssh-ed25519 SHA256:"),
            "{text}"
        );
        assert_eq!(text.matches("SHA256:").count(), 2, "{text}");
        assert!(error.hint().unwrap().contains("record"));
    }

    #[test]
    fn nothing_pinned_accepts_nothing() {
        let error = pinned(&[]).check("mc1", &key(OTHER)).unwrap_err();
        assert!(matches!(error, SshError::HostKeyUnknown { .. }), "{error}");
    }

    #[test]
    fn the_kind_that_is_pinned_is_asked_for_first() {
        assert_eq!(pinned(&[ECDSA]).algorithms()[0].as_str(), "ecdsa-sha2-nistp256");
        assert_eq!(pinned(&[ED25519]).algorithms()[0].as_str(), "ssh-ed25519");
        assert_eq!(pinned(&[ECDSA]).algorithms().len(), 6);
    }

    #[test]
    fn the_asked_one_sees_a_line_that_can_be_pinned() {
        let ask = |answer: bool| {
            Expected::new(&HostKeyPolicy::Ask(Arc::new(move |offered| {
                assert!(ED25519.starts_with(&offered.line), "{offered:?}");
                assert!(offered.fingerprint.starts_with("SHA256:"));
                answer
            })))
            .unwrap()
        };
        ask(true).check("h", &key(ED25519)).unwrap();
        assert!(matches!(ask(false).check("h", &key(ED25519)), Err(SshError::HostKeyUnknown { .. })));
    }

    #[test]
    fn spoiled_records_are_noticed() {
        for line in ["", "ssh-ed25519", "ssh-ed25519 AAAA", "AAAAC3NzaC1lZDI1NTE5", "\x1b[2J"] {
            let error = Expected::new(&HostKeyPolicy::Pinned(vec![line.to_owned()])).unwrap_err();
            assert!(matches!(error, SshError::HostKeyRecord { .. }), "{error}");
            assert!(!error.to_string().contains('\x1b'));
        }
    }
}
