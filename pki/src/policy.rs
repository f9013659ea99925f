//! The issuance policy: whom certificates name, how long they last, and when they are renewed.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::{Authority, Issued, PkiError, Usage, inspect, verify_issued};

const DAY: Duration = Duration::from_hours(24);
/// Ten years.
pub(crate) const AUTHORITY_LIFETIME: Duration = DAY.saturating_mul(3652);
/// Three years, as docker-machine's; never longer than the authority's own.
pub(crate) const LEAF_LIFETIME: Duration = DAY.saturating_mul(1080);
/// Certificates begin in the past, because the clocks of hosts are seldom right to the second.
pub(crate) const BACK_DATING: Duration = Duration::from_mins(5);
/// The upper bound of an organization in X.520.
pub(crate) const MAXIMUM_ORGANIZATION: usize = 64;
/// What was issued is renewed when less than a month is left of it.
const RENEW_BEFORE: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Issues certificates in the name of one user.
#[derive(Debug, Clone)]
pub struct Policy {
    user: String,
}

impl Policy {
    /// The policy for what this user issues; an empty name is `unknown`, as with docker-machine.
    pub fn for_user(user: &str) -> Self {
        Self { user: if user.is_empty() { "unknown".to_owned() } else { user.to_owned() } }
    }

    /// A new authority, named after the user.
    pub fn new_authority(&self) -> Result<Authority, PkiError> {
        Authority::generate(&self.user)
    }

    /// The certificate that the clients of a store share.
    pub fn issue_client(&self, authority: &Authority) -> Result<Issued, PkiError> {
        authority.issue_client(&format!("{}.<bootstrap>", self.user))
    }

    /// The certificate of a host's engine, which is reached by `names`.
    pub fn issue_server(
        &self,
        authority: &Authority,
        host: &str,
        names: &[String],
    ) -> Result<Issued, PkiError> {
        authority.issue_server(&format!("{}.{host}", self.user), names)
    }
}

/// Whether a server's certificate can be kept: of this authority, for exactly these names, with a month to go or as
/// long as its authority has.
pub fn server_is_good(authority_pem: &str, issued: &Issued, names: &[String]) -> bool {
    let Ok(facts) = inspect(&issued.certificate_pem) else { return false };
    let mut wanted: Vec<&String> = names.iter().collect();
    let mut found: Vec<&String> = facts.names.iter().collect();
    wanted.sort();
    wanted.dedup();
    found.sort();
    wanted == found && lasts(authority_pem, issued, Usage::Server)
}

/// Whether a client's certificate can be kept: of this authority, with a month to go or as long as its authority has.
pub fn client_is_good(authority_pem: &str, issued: &Issued) -> bool {
    lasts(authority_pem, issued, Usage::Client)
}

fn lasts(authority_pem: &str, issued: &Issued, usage: Usage) -> bool {
    let now = Timestamp::now();
    let at = |time| verify_issued(authority_pem, &issued.certificate_pem, &issued.key_pem, usage, time);
    // In its authority's last month a new certificate would end no later than the old one.
    let ends_with_its_authority = || match (inspect(authority_pem), inspect(&issued.certificate_pem)) {
        (Ok(authority), Ok(leaf)) => leaf.not_after >= authority.not_after,
        _ => false,
    };
    at(now + RENEW_BEFORE).is_ok() || (at(now).is_ok() && ends_with_its_authority())
}
