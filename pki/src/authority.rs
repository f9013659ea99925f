//! An authority: made here or brought along, it signs the certificates of engines and clients.

use std::fmt;
use std::time::SystemTime;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};

use crate::inspect::{check_authority, check_dates, printable, subject, timestamp};
use crate::policy::{AUTHORITY_LIFETIME, BACK_DATING, LEAF_LIFETIME, MAXIMUM_ORGANIZATION};
use crate::{PkiError, Usage, names, pem};

/// A certificate with the key that belongs to it, both as PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate.
    pub certificate_pem: String,
    /// The private key, PKCS#8.
    pub key_pem: String,
}

impl fmt::Debug for Issued {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Issued")
            .field("certificate_pem", &self.certificate_pem)
            .finish_non_exhaustive()
    }
}

/// A certificate authority that was found fit to sign.
pub struct Authority {
    certificate_pem: String,
    key_pem: String,
    issuer: Issuer<'static, KeyPair>,
    not_after: SystemTime,
}

impl fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Authority")
            .field("certificate_pem", &self.certificate_pem)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes a new one, valid for ten years.
    pub fn generate(organization: &str) -> Result<Self, PkiError> {
        let not_before = SystemTime::now() - BACK_DATING;
        let not_after = not_before + AUTHORITY_LIFETIME;
        let mut params = params(organization, not_before, not_after)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = generate_key()?;
        let certificate = params.self_signed(&key).map_err(failed("certificate of the authority"))?;
        Ok(Self {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            issuer: Issuer::new(params, key),
            not_after,
        })
    }

    /// Takes an existing one, after checking that it can sign: the key is that of the certificate, the certificate is
    /// that of an authority, and its time has come and has not gone.
    pub fn load(certificate_pem: &str, key_pem: &str) -> Result<Self, PkiError> {
        Self::load_at(certificate_pem, key_pem, Timestamp::now())
    }

    fn load_at(certificate_pem: &str, key_pem: &str, now: Timestamp) -> Result<Self, PkiError> {
        let der = pem::certificate(certificate_pem)?;
        let certificate = pem::parse(&der)?;
        let key = pem::key(key_pem)?;
        check_authority(&certificate)?;
        check_dates(&certificate, now)?;
        if *certificate.public_key().subject_public_key.data != *key.public_key_raw() {
            return Err(PkiError::KeyMismatch { subject: subject(&certificate) });
        }
        let not_after = timestamp(certificate.validity().not_after)?.into();
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(failed("issuer"))?;
        let authority = Self {
            // Alone, also where it stands before others in a chain: hosts and clients trust it, not those above it.
            certificate_pem: pem::certificates(certificate_pem)?.swap_remove(0),
            key_pem: key_pem.to_owned(),
            issuer,
            not_after,
        };
        authority.check_name(certificate.subject().as_raw())?;
        Ok(authority)
    }

    /// Not every name survives the way through our writer of certificates, and what is signed under another name than
    /// that of the authority is accepted by nobody. So one certificate is made and thrown away.
    fn check_name(&self, name: &[u8]) -> Result<(), PkiError> {
        let probe = params("probe", SystemTime::now(), self.not_after)?
            .signed_by(self.issuer.key(), &self.issuer)
            .map_err(failed("certificate"))?;
        let probe = pem::parse(probe.der())?;
        if probe.issuer().as_raw() == name {
            Ok(())
        } else {
            Err(PkiError::UnusualName { subject: printable(&probe.issuer().to_string()) })
        }
    }

    /// Issues the certificate of an engine that is reached by the names, each a DNS name or an IP address.
    pub fn issue_server(&self, organization: &str, names: &[String]) -> Result<Issued, PkiError> {
        self.issue(organization, names::parse(names)?, Usage::Server)
    }

    /// Issues the certificate of a client.
    pub fn issue_client(&self, organization: &str) -> Result<Issued, PkiError> {
        self.issue(organization, Vec::new(), Usage::Client)
    }

    fn issue(&self, organization: &str, names: Vec<SanType>, usage: Usage) -> Result<Issued, PkiError> {
        let not_before = SystemTime::now() - BACK_DATING;
        let not_after = self.not_after.min(not_before + LEAF_LIFETIME);
        let mut params = params(organization, not_before, not_after)?;
        params.subject_alt_names = names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match usage {
            Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        params.use_authority_key_identifier_extension = true;
        let key = generate_key()?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed("certificate"))?;
        Ok(Issued { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// The certificate, as it was given.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The private key, as it was given.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }
}

/// What all certificates have in common: the subject is an organization and nothing else, the serial number random.
fn params(
    organization: &str,
    not_before: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, PkiError> {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, organization.chars().take(MAXIMUM_ORGANIZATION).collect::<String>());
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.not_before = not_before.into();
    params.not_after = not_after.into();
    params.serial_number = Some(random_serial()?);
    Ok(params)
}

/// 127 random bits: positive, and never of more octets than others expect.
fn random_serial() -> Result<SerialNumber, PkiError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| PkiError::Generate { what: "serial number", source: rcgen::Error::RingUnspecified })?;
    bytes[0] &= 0x7f;
    Ok(SerialNumber::from_slice(&bytes))
}

fn generate_key() -> Result<KeyPair, PkiError> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed("key"))
}

fn failed(what: &'static str) -> impl Fn(rcgen::Error) -> PkiError {
    move |source| PkiError::Generate { what, source }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    #[test]
    fn of_a_chain_the_first_one_signs_and_is_trusted_alone() {
        let (signer, above) = (Authority::generate("signer").unwrap(), Authority::generate("above").unwrap());
        let chain = format!("{}{}", signer.certificate_pem(), above.certificate_pem());
        let loaded = Authority::load(&chain, signer.key_pem()).unwrap();
        assert_eq!(loaded.certificate_pem().matches("BEGIN CERTIFICATE").count(), 1);
        assert_eq!(loaded.certificate_pem().trim(), signer.certificate_pem().trim());
    }

    #[test]
    fn an_authority_is_taken_only_in_its_time() {
        let made = Authority::generate("tester").unwrap();
        let load_at = |now| Authority::load_at(made.certificate_pem(), made.key_pem(), now);
        let now = Timestamp::now();
        load_at(now).unwrap();
        let early = load_at(now - Duration::from_mins(6)).unwrap_err();
        assert!(matches!(early, PkiError::NotYetValid { .. }), "{early}");
        assert!(early.hint().unwrap().contains("clock"));
        let late = load_at(now + DAY * 3653).unwrap_err();
        assert!(matches!(late, PkiError::Expired { .. }), "{late}");
        assert!(late.to_string().contains("O=tester"), "{late}");
    }

    #[test]
    fn serial_numbers_are_random_and_positive() {
        let serials: Vec<_> = (0..64).map(|_| random_serial().unwrap().to_bytes()).collect();
        assert!(serials.iter().all(|serial| serial[0] < 0x80));
        assert!(serials.iter().all(|serial| serials.iter().filter(|other| *other == serial).count() == 1));
    }

    #[test]
    fn leaves_do_not_outlive_their_authority() {
        let mut authority = Authority::generate("tester").unwrap();
        authority.not_after = SystemTime::now() + DAY * 30;
        let leaf = authority.issue_client("tester").unwrap();
        let facts = crate::inspect(&leaf.certificate_pem).unwrap();
        assert!(facts.not_after <= Timestamp::now() + DAY * 30);
        assert!(facts.not_after > Timestamp::now() + DAY * 29);
    }

    #[test]
    fn debugging_shows_no_key() {
        let authority = Authority::generate("tester").unwrap();
        let leaf = authority.issue_client("tester").unwrap();
        assert!(!format!("{authority:?}{leaf:?}").contains("PRIVATE KEY"));
    }
}
