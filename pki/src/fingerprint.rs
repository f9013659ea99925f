//! The name of a certificate that nobody can choose: the SHA-256 of its DER form.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{PkiError, pem};

/// The SHA-256 of a certificate, as `openssl x509 -fingerprint -sha256` computes it, written `sha256:` and 64 digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint([u8; 32]);

/// A text that is no fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("A fingerprint is `sha256:` and 64 hexadecimal digits")]
pub struct InvalidFingerprint;

const PREFIX: &str = "sha256:";

impl Fingerprint {
    /// The fingerprint of the first certificate in the text.
    pub fn of(certificate_pem: &str) -> Result<Self, PkiError> {
        let der = pem::certificate(certificate_pem)?;
        pem::parse(&der)?;
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der);
        let mut bytes = [0; 32];
        // SHA-256 has 32 octets.
        bytes.copy_from_slice(digest.as_ref());
        Ok(Self(bytes))
    }

    /// The digits alone: a name for a folder.
    pub fn digits(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{PREFIX}{}", self.digits())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for Fingerprint {
    type Err = InvalidFingerprint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix(PREFIX).ok_or(InvalidFingerprint)?.as_bytes();
        if digits.len() != 64 {
            return Err(InvalidFingerprint);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            let digit = |digit: u8| char::from(digit).to_digit(16).ok_or(InvalidFingerprint);
            *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).map_err(|_| InvalidFingerprint)?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = InvalidFingerprint;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_fingerprint_comes_back_as_it_was_written() {
        let authority = crate::Authority::generate("tester").unwrap();
        let fingerprint = Fingerprint::of(authority.certificate_pem()).unwrap();
        assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
        let other = crate::Authority::generate("tester").unwrap();
        assert_ne!(Fingerprint::of(other.certificate_pem()).unwrap(), fingerprint);
    }

    #[test]
    fn other_texts_are_refused() {
        let digits = "0".repeat(64);
        for text in
            ["", "sha256:", &digits, &format!("sha256:{digits}0"), &format!("sha256:{}g", &digits[1..])]
        {
            assert_eq!(text.parse::<Fingerprint>(), Err(InvalidFingerprint), "{text}");
        }
    }
}
