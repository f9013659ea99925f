//! What servers have said of files, so that they are asked for anew only when they may be others.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};

use super::outside::Validators;

/// More files than that are forgotten all at once: nothing but a download is lost.
const MOST: usize = 1024;
/// A file may change twice in the second that its server tells. One that was changed so long ago does not
/// (RFC 9110, 8.8.2.2).
const SETTLED: SignedDuration = SignedDuration::from_secs(60);

/// A file as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) validators: Validators,
    /// `sha256:…` of the content.
    pub(crate) digest: String,
    pub(crate) name: Option<String>,
}

/// By address. A daemon begins with nothing.
#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<BTreeMap<String, Seen>>);

impl Known {
    pub(crate) fn get(&self, address: &str) -> Option<Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(address).cloned()
    }

    /// Notes what can be asked again by what its server has said.
    pub(crate) fn note(&self, address: &str, mut seen: Seen) {
        let changed = time(&seen.validators.modified);
        if changed.is_none_or(|changed| Timestamp::now().duration_since(changed) < SETTLED) {
            seen.validators.modified.clear();
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.validators == Validators::default() {
            known.remove(address);
            return;
        }
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(address.to_owned(), seen);
    }
}

/// As HTTP writes times: `Wed, 21 Oct 2015 07:28:00 GMT`.
pub(crate) fn time(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn seen(tag: &str, modified: &str) -> Seen {
        let validators = Validators { tag: tag.to_owned(), modified: modified.to_owned() };
        Seen { validators, digest: "sha256:x".to_owned(), name: None }
    }

    #[test]
    fn only_what_can_be_asked_again_is_known() {
        let known = Known::default();
        let old = "Wed, 21 Oct 2015 07:28:00 GMT";
        assert_eq!(time(old).unwrap().as_second(), 1_445_412_480);
        known.note("a", seen("\"x\"", ""));
        known.note("b", seen("", old));
        known.note("c", seen("", "yesterday"));
        let now = jiff::fmt::rfc2822::to_string(&Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC)).unwrap();
        known.note("d", seen("", &now));
        let is_known = ["a", "b", "c", "d"].map(|address| known.get(address).is_some());
        assert_eq!(is_known, [true, true, false, false]);
        known.note("a", seen("", ""));
        assert!(known.get("a").is_none());
        for number in 0..=MOST {
            known.note(&number.to_string(), seen("x", ""));
        }
        assert!(known.get("b").is_none() && known.get(&MOST.to_string()).is_some());
    }
}
