//! Decides whether the server is the host that it should be, and remembers why not.

use std::str::FromStr as _;

use russh::keys::ssh_key::{Fingerprint, HashAlg};
use russh::keys::{Algorithm, EcdsaCurve, PublicKey};

use super::error::printable;
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
        Self { line: line_of(key), fingerprint: fingerprint(key) }
    }

    /// The kind of the key, such as `ssh-ed25519`.
    pub fn kind(&self) -> &str {
        self.line.split(' ').next().unwrap_or_default()
    }
}

/// Reads a host key that somebody expects, in any form in which tools show one: a line of a `.pub` file or of `known_hosts`,
/// a fingerprint, or a line of `ssh-keygen -l`. Returns what is to be recorded: `ssh-ed25519 AAAA…` or `SHA256:…`.
pub fn expected_key(text: &str) -> Result<String, SshError> {
    let unreadable = || SshError::HostKeyInvalid { text: printable(text) };
    let begins_key = |word: &&str| is_fingerprint(word) || word.starts_with("MD5:") || is_kind(word);
    // `@cert-authority` and `@revoked` say something else than which key it is, and two keys are not one.
    if text.trim_start().starts_with('@') || text.split_whitespace().filter(begins_key).count() != 1 {
        return Err(unreadable());
    }
    let mut words = text.split_whitespace().skip_while(|word| !begins_key(word));
    let first = words.next().unwrap_or_default();
    let key = if is_kind(first) {
        format!("{first} {}", words.next().unwrap_or_default())
    } else {
        first.to_owned()
    };
    Pin::parse(&key).map(|pin| pin.recorded()).ok_or_else(unreadable)
}

/// Whether a recorded key is known by its fingerprint alone.
pub fn is_fingerprint(recorded: &str) -> bool {
    recorded.starts_with("SHA256:")
}

/// Whether a recorded key, be it a line or a fingerprint, is this one.
pub fn same_key(recorded: &str, key: &OfferedKey) -> bool {
    match (Pin::parse(recorded), PublicKey::from_openssh(&key.line)) {
        (Some(pin), Ok(key)) => pin.is(&key),
        _ => false,
    }
}

/// The fingerprint of a recorded key.
pub fn fingerprint_of(recorded: &str) -> Option<String> {
    match Pin::parse(recorded)? {
        Pin::Key(key) => Some(fingerprint(&key)),
        Pin::Fingerprint(fingerprint) => Some(fingerprint.to_string()),
    }
}

/// How errors name a key: its kind and its fingerprint.
pub(super) fn describe(key: &PublicKey) -> String {
    format!("{} {}", key.algorithm().as_str(), fingerprint(key))
}

fn fingerprint(key: &PublicKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

fn line_of(key: &PublicKey) -> String {
    // Only a key of an unknown kind could fail to be written, and those are neither negotiated nor recorded.
    PublicKey::new(key.key_data().clone(), "").to_openssh().unwrap_or_default()
}

fn is_kind(word: &str) -> bool {
    Algorithm::from_str(word).is_ok_and(|kind| known_algorithms().iter().any(|known| same_kind(&kind, known)))
}

/// A key as it is recorded.
#[derive(Debug, Clone)]
pub(super) enum Pin {
    Key(PublicKey),
    Fingerprint(Fingerprint),
}

impl Pin {
    fn parse(recorded: &str) -> Option<Self> {
        let recorded = recorded.trim();
        if is_fingerprint(recorded) {
            return Fingerprint::from_str(recorded).ok().map(Self::Fingerprint);
        }
        let key = PublicKey::from_openssh(recorded).ok()?;
        is_kind(key.algorithm().as_str()).then_some(Self::Key(key))
    }

    fn is(&self, key: &PublicKey) -> bool {
        match self {
            Self::Key(pinned) => pinned.key_data() == key.key_data(),
            Self::Fingerprint(fingerprint) => *fingerprint == key.fingerprint(HashAlg::Sha256),
        }
    }

    fn recorded(&self) -> String {
        match self {
            Self::Key(key) => line_of(key),
            Self::Fingerprint(fingerprint) => fingerprint.to_string(),
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Key(key) => describe(key),
            Self::Fingerprint(fingerprint) => fingerprint.to_string(),
        }
    }
}

/// A policy whose lines have been read.
#[derive(Debug, Clone)]
pub(super) enum Expected {
    Keys(Vec<Pin>),
    Ask(HostKeyPolicy),
}

impl Expected {
    /// Reads what is pinned, so that a spoiled record is noticed before anybody connects.
    pub(super) fn new(policy: &HostKeyPolicy) -> Result<Self, SshError> {
        let HostKeyPolicy::Pinned(recorded) = policy else { return Ok(Self::Ask(policy.clone())) };
        let parse =
            |line: &String| Pin::parse(line).ok_or_else(|| SshError::HostKeyRecord { line: printable(line) });
        Ok(Self::Keys(recorded.iter().map(parse).collect::<Result<_, _>>()?))
    }

    /// The kinds of host keys to ask the server for, those that are pinned first: a server has several keys and shows the
    /// one of the first kind that it has.
    pub(super) fn algorithms(&self) -> Vec<Algorithm> {
        let mut algorithms = known_algorithms();
        if let Self::Keys(pins) = self {
            let pinned = |algorithm: &Algorithm| {
                pins.iter().any(|pin| matches!(pin, Pin::Key(key) if same_kind(&key.algorithm(), algorithm)))
            };
            algorithms.sort_by_key(|algorithm| !pinned(algorithm));
        }
        algorithms
    }

    /// The kinds to ask for one after the other when another key than the expected one was shown: which kind of key a
    /// fingerprint is of cannot be seen. None where it is known.
    pub(super) fn other_kinds(&self) -> Vec<Vec<Algorithm>> {
        match self {
            Self::Keys(pins) if pins.iter().any(|pin| matches!(pin, Pin::Fingerprint(_))) => {
                let all = known_algorithms();
                [0..1, 1..4, 4..6].map(|range| all[range].to_vec()).to_vec()
            }
            _ => Vec::new(),
        }
    }

    /// Whether the key is the right one. A person may be asked, so this can take its time.
    pub(super) fn check(&self, host: &str, key: &PublicKey) -> Result<(), SshError> {
        let host = host.to_owned();
        match self {
            Self::Keys(pins) if pins.iter().any(|pin| pin.is(key)) => Ok(()),
            Self::Keys(pins) if pins.is_empty() => {
                Err(SshError::HostKeyUnknown { host, offered: describe(key) })
            }
            Self::Keys(pins) => Err(SshError::HostKeyChanged {
                host,
                offered: describe(key),
                expected: pins.iter().map(Pin::describe).collect(),
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
            text.starts_with(
                "The host key of `mc1` is not the expected one: expected is ssh-ed25519 SHA256:"
            ),
            "{text}"
        );
        assert_eq!(text.matches("SHA256:").count(), 2, "{text}");
        assert!(error.hint().unwrap().contains("machine host-key pin"));
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
    fn a_fingerprint_is_as_good_as_the_key() {
        let right = key(ED25519).fingerprint(HashAlg::Sha256).to_string();
        pinned(&[&right]).check("h", &key(ED25519)).unwrap();
        pinned(&[OTHER, &right]).check("h", &key(ED25519)).unwrap();
        let error = pinned(&[&right]).check("h", &key(OTHER)).unwrap_err();
        assert!(
            matches!(&error, SshError::HostKeyChanged { expected, .. } if *expected == [right]),
            "{error}"
        );
    }

    #[test]
    fn expected_keys_are_read_in_every_form_that_tools_show() {
        let bare = ED25519.strip_suffix(" root@host").unwrap();
        let right = key(ED25519).fingerprint(HashAlg::Sha256).to_string();
        for text in
            [ED25519, bare, &format!("  web1,203.0.113.7 {bare} x y\n"), &format!("|1|abc=|def= {bare}")]
        {
            assert_eq!(expected_key(text).unwrap(), bare, "{text}");
        }
        for text in [right.clone(), format!("256 {right} root@host (ED25519)")] {
            assert_eq!(expected_key(&text).unwrap(), right, "{text}");
        }
        let wrong = bare.replace("IJdD", "IJd\u{e9}");
        for text in [
            "",
            "ssh-ed25519",
            &wrong,
            &bare[..bare.len() - 4],
            "SHA256:abc",
            "MD5:16:27:ac:a5:76:28:2d:36:63:1b:56:4d:eb:df:a6:48",
            &format!("@revoked * {bare}"),
            "ssh-dss AAAAB3NzaC1kc3MAAAAA",
            &bare.replace("ssh-ed25519 ", "ecdsa-sha2-nistp256 "),
            "\x1b[2J",
            &format!("{right} SHA256:mistyped"),
            &format!("{bare} {right}"),
            &format!("{bare} {bare}"),
        ] {
            let error = expected_key(text).unwrap_err();
            assert!(matches!(error, SshError::HostKeyInvalid { .. }), "{text}: {error}");
            assert!(error.hint().unwrap().contains("SHA256:") && !error.to_string().contains('\x1b'));
        }
    }

    #[test]
    fn a_recorded_key_is_known_again() {
        let offered = OfferedKey::new(&key(ED25519));
        assert!(same_key(ED25519, &offered) && same_key(&offered.fingerprint, &offered));
        assert!(!same_key(OTHER, &offered) && !same_key("nonsense", &offered));
        assert_eq!(fingerprint_of(ED25519).as_ref(), Some(&offered.fingerprint));
        assert_eq!(offered.kind(), "ssh-ed25519");
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
