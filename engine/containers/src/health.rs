//! Whether a container is well: what was asked for, what the checks have said, and what that means.

use std::collections::VecDeque;
use std::time::Duration;

use engine_model::spec::HealthSpec;
use engine_model::wire::{Config, HealthConfig, ImageConfig};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::ContainerError;

/// What dockerd chooses where nothing is said.
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;
/// Less than this is refused; zero says nothing.
const SHORTEST: Duration = Duration::from_millis(1);
/// How many checks are remembered.
const REMEMBERED: usize = 5;

/// How a container is, by its checks.
///
/// ```text
/// Starting ──success──▶ Healthy ◀──success── Unhealthy
///    │                     │                     ▲
///    └── failures in a row, after the start ─────┤
///              the run is over, or a pause ──────┘
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    #[default]
    Starting,
    Healthy,
    Unhealthy,
}

impl HealthStatus {
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// One check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Checked {
    pub start: Timestamp,
    pub end: Timestamp,
    /// -1 if it came to no end of its own.
    pub exit_code: i32,
    pub output: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    pub status: HealthStatus,
    /// Failures in a row.
    pub failing_streak: u32,
    /// The last ones, the newest last.
    pub log: VecDeque<Checked>,
}

impl Health {
    /// As it is when a run begins. What earlier runs have said is still told.
    pub fn at_start(earlier: Option<&Self>) -> Self {
        Self { log: earlier.map(|health| health.log.clone()).unwrap_or_default(), ..Self::default() }
    }

    /// What a check means, of a container that runs since `started`. Says whether more has changed than the log.
    pub fn learn(&mut self, checked: Checked, spec: &HealthSpec, started: Timestamp) -> bool {
        let before = (self.status, self.failing_streak);
        let is_early =
            self.status == HealthStatus::Starting && passed(started, checked.start) < spec.start_period;
        if checked.exit_code == 0 {
            self.status = HealthStatus::Healthy;
            self.failing_streak = 0;
        } else if !is_early {
            self.failing_streak = self.failing_streak.saturating_add(1);
            if self.failing_streak >= spec.retries {
                self.status = HealthStatus::Unhealthy;
            }
        }
        self.log.push_back(checked);
        while self.log.len() > REMEMBERED {
            self.log.pop_front();
        }
        before != (self.status, self.failing_streak)
    }

    /// How long nothing is asked now, of a container that runs since `started`.
    pub fn pause(&self, spec: &HealthSpec, started: Timestamp, now: Timestamp) -> Duration {
        let starts = self.status == HealthStatus::Starting && passed(started, now) < spec.start_period;
        if starts { spec.start_interval } else { spec.interval }
    }

    /// What of that pause is left, of one that begins with the end of the last check since `started`.
    pub fn rest_of_pause(&self, spec: &HealthSpec, started: Timestamp, now: Timestamp) -> Duration {
        let last = self.log.back().map_or(started, |checked| checked.end.max(started));
        self.pause(spec, started, now).saturating_sub(passed(last, now))
    }

    /// As inspect shows it.
    pub fn describe(&self) -> Value {
        let log = self.log.iter().map(|checked| {
            json!({
                "Start": checked.start.to_string(),
                "End": checked.end.to_string(),
                "ExitCode": checked.exit_code,
                "Output": checked.output,
            })
        });
        json!({
            "Status": self.status.word(),
            "FailingStreak": self.failing_streak,
            "Log": log.collect::<Vec<_>>(),
        })
    }
}

/// From one time to another; nothing if a clock was set back.
fn passed(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// Refuses what a client says of checks that makes no sense.
pub(super) fn check(config: &HealthConfig) -> Result<(), ContainerError> {
    let invalid = |text: String| Err(ContainerError::Invalid(text));
    let shortest = i64::try_from(SHORTEST.as_nanos()).unwrap_or(i64::MAX);
    for (name, value) in [
        ("Interval", config.interval),
        ("Timeout", config.timeout),
        ("StartPeriod", config.start_period),
        ("StartInterval", config.start_interval),
    ] {
        if value != 0 && value < shortest {
            return invalid(format!("{name} in Healthcheck cannot be less than 1ms"));
        }
    }
    if config.retries < 0 {
        return invalid("Retries in Healthcheck cannot be negative".to_owned());
    }
    match config.test.first().map(String::as_str) {
        Some("CMD" | "CMD-SHELL") if config.test.get(1).is_none_or(String::is_empty) => {
            invalid("Test in Healthcheck names no command".to_owned())
        }
        Some("CMD" | "CMD-SHELL") if config.test.iter().any(|word| word.contains('\0')) => {
            invalid("Test in Healthcheck cannot contain a null byte".to_owned())
        }
        None | Some("NONE" | "CMD" | "CMD-SHELL") => Ok(()),
        Some(kind) => {
            invalid(format!("Unknown healthcheck type '{kind}' (expected 'CMD', 'CMD-SHELL' or 'NONE')"))
        }
    }
}

/// What the image says holds where the client says nothing. An image's check that makes no sense is worth a warning.
pub(super) fn merge_image(config: &mut Config, image: &ImageConfig, warnings: &mut Vec<String>) {
    let Some(check_of_image) = &image.healthcheck else { return };
    let understood = serde_json::from_value::<Option<HealthConfig>>(check_of_image.clone())
        .map_err(|error| error.to_string())
        .and_then(|found| {
            let found = found.unwrap_or_default();
            check(&found).map_err(|error| error.to_string())?;
            Ok(found)
        });
    match understood {
        Ok(found) if found == HealthConfig::default() => {}
        Ok(found) => config.healthcheck.get_or_insert_default().or(found),
        Err(why) => warnings.push(format!("The image's health check is ignored: {why}")),
    }
}

/// How a container is to be asked, by a configuration whose gaps are filled.
pub(super) fn understand(config: &Config) -> Option<HealthSpec> {
    let wanted = config.healthcheck.as_ref()?;
    let (kind, words) = wanted.test.split_first()?;
    let mut command = Vec::new();
    match kind.as_str() {
        "CMD" => {}
        "CMD-SHELL" => match config.shell.as_deref() {
            Some(shell @ [_, ..]) => command.extend_from_slice(shell),
            _ => command.extend(["/bin/sh", "-c"].map(str::to_owned)),
        },
        _ => return None,
    }
    command.extend_from_slice(words);
    let or = |nanoseconds: i64, default: Duration| match u64::try_from(nanoseconds) {
        Ok(nanoseconds @ 1..) => Duration::from_nanos(nanoseconds).max(SHORTEST),
        _ => default,
    };
    Some(HealthSpec {
        command,
        interval: or(wanted.interval, INTERVAL),
        timeout: or(wanted.timeout, TIMEOUT),
        start_period: or(wanted.start_period, Duration::ZERO),
        start_interval: or(wanted.start_interval, START_INTERVAL),
        retries: match u32::try_from(wanted.retries) {
            Ok(0) => RETRIES,
            Ok(retries) => retries,
            Err(_) if wanted.retries < 0 => RETRIES,
            Err(_) => u32::MAX,
        },
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn checked(start: i64, exit_code: i32) -> Checked {
        Checked { start: second(start), end: second(start + 1), exit_code, output: start.to_string() }
    }

    fn spec(config: Value) -> Option<HealthSpec> {
        understand(&serde_json::from_value(config).unwrap())
    }

    #[test]
    fn what_is_not_said_is_as_dockerd_has_it() {
        let said = spec(json!({ "Healthcheck": { "Test": ["CMD", "a", "b"] } })).unwrap();
        assert_eq!(said.command, ["a", "b"]);
        assert_eq!((said.interval, said.timeout, said.retries), (INTERVAL, TIMEOUT, 3));
        assert_eq!((said.start_period, said.start_interval), (Duration::ZERO, START_INTERVAL));
        let shell = |config| spec(config).unwrap().command;
        assert_eq!(
            shell(json!({ "Healthcheck": { "Test": ["CMD-SHELL", "x y"] } })),
            ["/bin/sh", "-c", "x y"]
        );
        let own = json!({ "Shell": ["/ash", "-e"], "Healthcheck": { "Test": ["CMD-SHELL", "x"] } });
        assert_eq!(shell(own), ["/ash", "-e", "x"]);
        for none in [json!({}), json!({ "Healthcheck": {} }), json!({ "Healthcheck": { "Test": ["NONE"] } })]
        {
            assert_eq!(spec(none), None);
        }
    }

    #[test]
    fn a_client_fills_only_some_of_an_images_fields() {
        let image: ImageConfig = serde_json::from_value(json!({ "Healthcheck":
            { "Test": ["CMD", "image"], "Interval": 1_000_000_000, "Timeout": 2_000_000_000, "Retries": 4 } }))
        .unwrap();
        let merged = |config: Value| {
            let (mut config, mut warnings): (Config, _) =
                (serde_json::from_value(config).unwrap(), Vec::new());
            merge_image(&mut config, &image, &mut warnings);
            assert_eq!(warnings, Vec::<String>::new());
            config.healthcheck.unwrap()
        };
        assert_eq!(json!(merged(json!({}))), image.healthcheck.clone().unwrap());
        let own = merged(json!({ "Healthcheck": { "Timeout": 7_000_000, "StartPeriod": 5_000_000 } }));
        assert_eq!(own.test, ["CMD", "image"]);
        assert_eq!(
            (own.interval, own.timeout, own.start_period, own.retries),
            (1_000_000_000, 7_000_000, 5_000_000, 4)
        );
        assert_eq!(merged(json!({ "Healthcheck": { "Test": ["NONE"] } })).test, ["NONE"]);
        for strange in
            [json!("x"), json!({ "Test": "x" }), json!({ "Test": ["SOMETIMES"] }), json!({ "Interval": 5 })]
        {
            let image = ImageConfig { healthcheck: Some(strange), ..ImageConfig::default() };
            let (mut config, mut warnings) = (Config::default(), Vec::new());
            merge_image(&mut config, &image, &mut warnings);
            assert_eq!((config.healthcheck, warnings.len()), (None, 1), "{image:?}");
        }
    }

    #[test]
    fn nonsense_is_refused_in_dockerds_words() {
        let refusal =
            |config: Value| check(&serde_json::from_value(config).unwrap()).unwrap_err().to_string();
        for field in ["Interval", "Timeout", "StartPeriod", "StartInterval"] {
            for value in [-1, 1, 999_999] {
                let expected = format!("{field} in Healthcheck cannot be less than 1ms");
                assert_eq!(refusal(json!({ field: value })), expected);
            }
        }
        assert_eq!(refusal(json!({ "Retries": -1 })), "Retries in Healthcheck cannot be negative");
        assert!(refusal(json!({ "Test": ["cmd", "x"] })).contains("Unknown healthcheck type 'cmd'"));
        assert!(refusal(json!({ "Test": ["CMD"] })).contains("names no command"));
        assert!(refusal(json!({ "Test": ["CMD", "a\0"] })).contains("null byte"));
        for fine in [json!({}), json!({ "Interval": 1_000_000 }), json!({ "Test": [] })] {
            check(&serde_json::from_value(fine).unwrap()).unwrap();
        }
    }

    #[test]
    fn failures_count_once_it_has_started() {
        let config = json!({ "Healthcheck": { "Test": ["CMD", "x"], "Retries": 2,
            "StartPeriod": 10_000_000_000_i64, "StartInterval": 1_000_000_000, "Interval": 20_000_000_000_i64 } });
        let (spec, started) = (spec(config).unwrap(), second(0));
        let mut health = Health::default();
        assert_eq!(health.pause(&spec, started, second(9)), Duration::from_secs(1));
        assert_eq!(health.pause(&spec, started, second(10)), Duration::from_secs(20));
        assert!(!health.learn(checked(9, 1), &spec, started));
        assert_eq!((health.status, health.failing_streak), (HealthStatus::Starting, 0));
        assert!(health.learn(checked(10, 1), &spec, started));
        assert_eq!((health.status, health.failing_streak), (HealthStatus::Starting, 1));
        assert!(health.learn(checked(12, -1), &spec, started));
        assert_eq!((health.status, health.failing_streak), (HealthStatus::Unhealthy, 2));
        assert!(health.learn(checked(14, 0), &spec, started));
        assert_eq!((health.status, health.failing_streak), (HealthStatus::Healthy, 0));
        assert!(!health.learn(checked(16, 0), &spec, started));
        // Once it was well, it is not starting any more.
        let mut early = Health::default();
        early.learn(checked(1, 0), &spec, started);
        assert_eq!(early.pause(&spec, started, second(2)), Duration::from_secs(20));
        early.learn(checked(2, 3), &spec, started);
        assert_eq!((early.status, early.failing_streak), (HealthStatus::Healthy, 1));
    }

    #[test]
    fn the_last_ones_are_told_and_carried_over() {
        let spec = spec(json!({ "Healthcheck": { "Test": ["CMD", "x"] } })).unwrap();
        let mut health = Health::default();
        for number in 0..8 {
            health.learn(checked(number, 0), &spec, second(0));
        }
        let told: Vec<_> = health.log.iter().map(|checked| checked.output.as_str()).collect();
        assert_eq!(told, ["3", "4", "5", "6", "7"]);
        let next = Health::at_start(Some(&health));
        assert_eq!((next.status, next.log.len()), (HealthStatus::Starting, 5));
        // The end of the last one was in second 8.
        assert_eq!(health.rest_of_pause(&spec, second(0), second(18)), Duration::from_secs(20));
        assert_eq!(health.rest_of_pause(&spec, second(0), second(100)), Duration::ZERO);
        assert_eq!(health.rest_of_pause(&spec, second(20), second(30)), Duration::from_secs(20));
    }
}
