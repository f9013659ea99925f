//! Faults: which call goes wrong, and how. The same seed and the same calls give the same faults.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{call::Call, iam::Policy};

/// What is to go wrong. Sent as JSON; what is not named does not go wrong.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Faults {
    seed: u64,
    /// The fraction of calls that are answered `RequestLimitExceeded`.
    throttle: f64,
    /// How many of the next calls of an action are answered so.
    throttle_next: BTreeMap<String, u32>,
    /// The fraction of calls whose reply is lost.
    lose: f64,
    /// How many of the next replies to an action are lost; rehearsals are not counted.
    lose_next: BTreeMap<String, u32>,
    /// How many of the next lists that an action answers with are empty: they are older than what they would show.
    blank_next: BTreeMap<String, u32>,
    /// How many of the next lists of security groups show the rules that the list before them showed.
    stale_next: BTreeMap<String, u32>,
    /// Every call takes this much longer. Milliseconds.
    pub(crate) delay_ms: u64,
    /// How long a new instance, security group or key pair is not found. Milliseconds.
    pub(crate) not_found: u64,
    /// How long an instance is shown in the state before the one that it is in. Milliseconds.
    pub(crate) stale: u64,
    errors: BTreeMap<String, Vec<Planned>>,
    /// A policy of IAM: what it does not allow is denied.
    pub(crate) policy: Option<Policy>,
    #[serde(skip)]
    counts: BTreeMap<String, u64>,
}

/// An error that was asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Planned {
    code: String,
    #[serde(default)]
    message: Option<String>,
    #[serde(default = "bad_request")]
    status: u16,
    /// For how many calls; for all when absent.
    #[serde(default)]
    times: Option<u32>,
    /// How many such calls go well first.
    #[serde(default)]
    after: u32,
    #[serde(default)]
    when: When,
}

fn bad_request() -> u16 {
    400
}

/// Which calls an error is for.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct When {
    /// `spot` or `on-demand`.
    market: Option<String>,
    subnet: Option<String>,
    zone: Option<String>,
    region: Option<String>,
    instance_type: Option<String>,
    /// Whether it is a rehearsal: those know nothing of quotas and capacity.
    dry_run: Option<bool>,
}

/// An error as the API tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: u16,
    pub(crate) code: String,
    pub(crate) message: String,
}

impl ApiError {
    pub(crate) fn new(code: &str, message: impl Into<String>) -> Self {
        Self { status: 400, code: code.to_owned(), message: message.into() }
    }
}

/// What becomes of a call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The answer, in place of the emulator's.
    pub(crate) error: Option<ApiError>,
    pub(crate) lose: bool,
    /// What becomes of a list.
    pub(crate) list: ListFault,
}

/// How a list is older than what it would show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum ListFault {
    #[default]
    None,
    /// It is empty.
    Blank,
    /// Security groups have the rules that the list before showed.
    Stale,
}

impl Faults {
    /// Decides about the next call. `zone` is that of its subnet; `denied`: the policy does not allow it.
    pub(crate) fn judge(&mut self, call: &Call, zone: Option<&str>, denied: Option<ApiError>) -> Verdict {
        let count = self.counts.entry(call.action.clone()).or_default();
        *count += 1;
        let draw =
            |purpose: u64| fraction(self.seed ^ purpose ^ digest(&call.action).wrapping_add(*count << 8));
        let (throttle, lose) = (draw(1) < self.throttle, draw(2) < self.lose);
        let is_real = !call.form.is_true("DryRun");
        let lose = is_real && use_up(&mut self.lose_next, &call.action) || lose;
        let error = denied.or_else(|| self.planned(call, zone)).or_else(|| {
            (use_up(&mut self.throttle_next, &call.action) || throttle).then(|| ApiError {
                status: 503,
                code: "RequestLimitExceeded".to_owned(),
                message: "Request limit exceeded.".to_owned(),
            })
        });
        let list = if error.is_some() {
            ListFault::None
        } else if use_up(&mut self.blank_next, &call.action) {
            ListFault::Blank
        } else if use_up(&mut self.stale_next, &call.action) {
            ListFault::Stale
        } else {
            ListFault::None
        };
        Verdict { error, lose, list }
    }

    fn planned(&mut self, call: &Call, zone: Option<&str>) -> Option<ApiError> {
        let list = self.errors.get_mut(&call.action)?;
        let planned = list
            .iter_mut()
            .find(|planned| planned.times.is_none_or(|times| times > 0) && planned.when.holds(call, zone))?;
        if planned.after > 0 {
            planned.after -= 1;
            return None;
        }
        if let Some(times) = &mut planned.times {
            *times -= 1;
        }
        Some(ApiError {
            status: planned.status,
            code: planned.code.clone(),
            message: planned
                .message
                .clone()
                .unwrap_or_else(|| format!("{} was asked for by the test.", planned.code)),
        })
    }
}

impl When {
    fn holds(&self, call: &Call, zone: Option<&str>) -> bool {
        let market = if call.is_spot() { "spot" } else { "on-demand" };
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| found == Some(wanted))
        };
        is(&self.market, Some(market))
            && is(&self.subnet, call.subnet())
            && is(&self.zone, call.form.get("Placement.AvailabilityZone").or(zone))
            && is(&self.region, Some(&call.region))
            && is(&self.instance_type, call.form.get("InstanceType"))
            && self.dry_run.is_none_or(|wanted| wanted == call.form.is_true("DryRun"))
    }
}

fn use_up(counts: &mut BTreeMap<String, u32>, action: &str) -> bool {
    match counts.get_mut(action) {
        Some(count) if *count > 0 => {
            *count -= 1;
            true
        }
        _ => false,
    }
}

/// FNV-1a.
fn digest(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |digest, byte| (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// SplitMix64, as a number from 0 to below 1.
fn fraction(seed: u64) -> f64 {
    let mut number = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^= number >> 31;
    f64::from(u32::try_from(number >> 32).unwrap_or_default()) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::form::Form;

    fn call(action: &str, form: &[(&str, &str)]) -> Call {
        Call {
            service: "ec2".to_owned(),
            region: "eu-west-1".to_owned(),
            action: action.to_owned(),
            form: Form::of(form),
            json: Value::Null,
        }
    }

    fn faults(value: Value) -> Faults {
        serde_json::from_value(value).unwrap()
    }

    fn code(verdict: &Verdict) -> Option<&str> {
        verdict.error.as_ref().map(|error| error.code.as_str())
    }

    #[test]
    fn the_same_seed_gives_the_same_faults() {
        let run = |seed: u64| {
            let mut faults = faults(json!({"seed": seed, "throttle": 0.3, "lose": 0.3}));
            (0..200).map(|_| faults.judge(&call("DescribeInstances", &[]), None, None)).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        let throttled = run(1).iter().filter(|verdict| verdict.error.is_some()).count();
        assert!((30..90).contains(&throttled), "{throttled} of 200");
    }

    #[test]
    fn errors_are_used_up_and_only_for_what_they_are_for() {
        let mut faults = faults(json!({"errors": {"RunInstances": [
            {"code": "SpotMaxPriceTooLow", "times": 1, "when": {"market": "spot"}},
            {"code": "InsufficientInstanceCapacity", "status": 500, "when": {"zone": "eu-west-1a"}},
        ]}}));
        let spot = call("RunInstances", &[("InstanceMarketOptions.MarketType", "spot")]);
        assert_eq!(code(&faults.judge(&spot, None, None)), Some("SpotMaxPriceTooLow"));
        assert_eq!(code(&faults.judge(&spot, None, None)), None);
        let plain = call("RunInstances", &[("SubnetId", "subnet-1")]);
        assert_eq!(
            code(&faults.judge(&plain, Some("eu-west-1a"), None)),
            Some("InsufficientInstanceCapacity")
        );
        assert_eq!(code(&faults.judge(&plain, Some("eu-west-1b"), None)), None);
    }

    #[test]
    fn the_next_replies_are_lost() {
        let mut faults = faults(json!({"lose_next": {"RunInstances": 1}}));
        let run = call("RunInstances", &[]);
        assert!(!faults.judge(&call("StopInstances", &[]), None, None).lose);
        assert!(faults.judge(&run, None, None).lose);
        assert!(!faults.judge(&run, None, None).lose);
    }

    #[test]
    fn an_error_can_come_after_calls_that_went_well() {
        let mut faults = faults(json!({"errors": {"RunInstances": [
            {"code": "ExpiredToken", "after": 1, "when": {"dry_run": false}},
        ]}}));
        let run = call("RunInstances", &[]);
        let rehearsal = call("RunInstances", &[("DryRun", "true")]);
        assert_eq!(code(&faults.judge(&rehearsal, None, None)), None);
        assert_eq!(code(&faults.judge(&run, None, None)), None);
        assert_eq!(code(&faults.judge(&run, None, None)), Some("ExpiredToken"));
    }

    #[test]
    fn rehearsals_are_not_lost() {
        let mut faults = faults(json!({"lose_next": {"RunInstances": 1}}));
        assert!(!faults.judge(&call("RunInstances", &[("DryRun", "true")]), None, None).lose);
        assert!(faults.judge(&call("RunInstances", &[]), None, None).lose);
    }

    #[test]
    fn a_fault_that_does_not_exist_is_refused() {
        assert!(serde_json::from_value::<Faults>(json!({"thorttle": 1})).is_err());
    }
}
