//! The options of each log driver, as dockerd names and checks them.
//!
//! See the "Configure logging drivers" pages of Docker's manual.

use std::collections::BTreeMap;

use engine_model::size;
use engine_model::spec::{Delivery, FileLimits, LogSpec};
use jiff::SignedDuration;
use regex_lite::Regex;

use crate::connection::Address;
use crate::driver::{boolean, option};
use crate::{awslogs, multiline, syslog};

/// All that there are, in the order of `docker info`.
pub const DRIVERS: [&str; 8] =
    ["awslogs", "fluentd", "gelf", "journald", "json-file", "local", "none", "syslog"];

/// What dockerd's driver `local` keeps unless it is told otherwise; also what is kept of a log that goes elsewhere, so that
/// `docker logs` can show it.
const LOCAL: FileLimits = FileLimits { max_size: Some(20 * 1024 * 1024), max_files: 5, compress: false };

/// What is held back in non-blocking mode, in bytes, unless one says otherwise.
const BUFFER: u64 = 1_000_000;

/// Those that most drivers have.
const ATTRIBUTES: [&str; 5] = ["labels", "labels-regex", "env", "env-regex", "tag"];
/// Those of what is kept for `docker logs`.
const CACHE: [&str; 4] = ["cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"];

/// Why options are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    #[error("{0}")]
    Invalid(String),
    /// This engine does not follow it.
    #[error("the log option `{0}` is not supported by this engine")]
    Unsupported(String),
}

type Options = BTreeMap<String, String>;

/// The options that a driver has, beside `mode` and `max-buffer-size`, which all have.
fn known(driver: &str) -> Vec<&'static str> {
    let own: &[&str] = match driver {
        "json-file" => &["max-size", "max-file", "compress"],
        "local" => return vec!["max-size", "max-file", "compress"],
        "syslog" => &[
            "syslog-address",
            "syslog-facility",
            "syslog-tls-ca-cert",
            "syslog-tls-cert",
            "syslog-tls-key",
            "syslog-tls-skip-verify",
            "syslog-format",
        ],
        "gelf" => &[
            "gelf-address",
            "gelf-compression-type",
            "gelf-compression-level",
            "gelf-tcp-max-reconnect",
            "gelf-tcp-reconnect-delay",
        ],
        "fluentd" => &[
            "fluentd-address",
            "fluentd-async",
            "fluentd-async-reconnect-interval",
            "fluentd-buffer-limit",
            "fluentd-max-retries",
            "fluentd-request-ack",
            "fluentd-retry-wait",
            "fluentd-sub-second-precision",
            "fluentd-write-timeout",
        ],
        "awslogs" => {
            let mut own = awslogs::OPTIONS.to_vec();
            own.push("tag");
            own.extend(CACHE);
            return own;
        }
        _ => &[],
    };
    let cache: &[&str] = if driver == "json-file" { &[] } else { &CACHE };
    [own, &ATTRIBUTES, cache].concat()
}

/// What becomes of output by a driver and its options, as far as they can be told without the network. What a record on disk
/// says is understood without [`check`], which is for what is new.
pub fn understand(driver: &str, options: &Options) -> Result<LogSpec, OptionError> {
    if driver == "none" {
        return Ok(LogSpec::Nowhere);
    }
    if !DRIVERS.contains(&driver) {
        return Err(OptionError::Invalid(format!("logger: no log driver named '{driver}' is registered")));
    }
    let known = known(driver);
    for name in options.keys().map(String::as_str) {
        if !known.contains(&name) && name != "mode" && name != "max-buffer-size" {
            return invalid(match driver {
                "json-file" => format!("unknown log opt '{name}' for json-file log driver"),
                _ => format!("unknown log opt '{name}' for {driver} log driver"),
            });
        }
    }
    // Earlier versions took for granted what they did not follow.
    let delivery = delivery(options).unwrap_or(Delivery::Blocking);
    match driver {
        "json-file" => {
            let unlimited = FileLimits { max_size: None, max_files: 1, compress: false };
            let mut limits = limits(options, ["max-size", "max-file"], unlimited)?;
            limits.compress = flag(options, "compress")?.unwrap_or(false);
            if limits.compress && (limits.max_files == 1 || limits.max_size.is_none()) {
                return invalid(
                    "compress cannot be true when max-file is less than 2 or max-size is not set",
                );
            }
            Ok(LogSpec::File { limits, delivery })
        }
        "local" => {
            // Its files are nobody's to read, so that whether they are compressed makes no difference to anyone.
            flag(options, "compress")?;
            Ok(LogSpec::File { limits: limits(options, ["max-size", "max-file"], LOCAL)?, delivery })
        }
        _ => {
            flag(options, "cache-compress")?;
            let kept = if flag(options, "cache-disabled")?.unwrap_or(false) {
                None
            } else {
                Some(limits(options, ["cache-max-size", "cache-max-file"], LOCAL)?)
            };
            Ok(LogSpec::Elsewhere { driver: driver.to_owned(), kept, delivery })
        }
    }
}

/// Refuses what makes no sense, or what this engine does not follow, in full.
pub fn check(driver: &str, options: &Options) -> Result<(), OptionError> {
    understand(driver, options)?;
    delivery(options)?;
    for name in ["labels-regex", "env-regex"] {
        if let Some(pattern) = option(options, name) {
            regex(name, pattern)?;
        }
    }
    if let Some(template) = option(options, "tag")
        && let Err(error) = gotemplate::parse(template)
    {
        return invalid(format!("invalid value for 'tag': {error}"));
    }
    match driver {
        "syslog" => check_syslog(options),
        "gelf" => check_gelf(options),
        "fluentd" => check_fluentd(options),
        "awslogs" => check_awslogs(options),
        _ => Ok(()),
    }
}

fn invalid<T>(message: impl Into<String>) -> Result<T, OptionError> {
    Err(OptionError::Invalid(message.into()))
}

fn delivery(options: &Options) -> Result<Delivery, OptionError> {
    let is_free = match options.get("mode").map_or("", String::as_str) {
        "" | "blocking" => false,
        "non-blocking" => true,
        mode => return invalid(format!("logger: logging mode is not supported: `mode={mode}`")),
    };
    match (is_free, options.get("max-buffer-size")) {
        (false, None) => Ok(Delivery::Blocking),
        (false, Some(_)) => invalid("logger: `max-buffer-size` is only supported with `mode=non-blocking`"),
        (true, None) => Ok(Delivery::NonBlocking { buffer: BUFFER }),
        (true, Some(text)) => match size(text) {
            Some(buffer) if buffer > 0 => Ok(Delivery::NonBlocking { buffer }),
            _ => invalid(format!("logger: error parsing option `max-buffer-size`: invalid size: '{text}'")),
        },
    }
}

fn limits(options: &Options, names: [&str; 2], usual: FileLimits) -> Result<FileLimits, OptionError> {
    let mut limits = usual;
    let [max_size, max_files] = names;
    match options.get(max_size).map(String::as_str) {
        None => {}
        Some("-1") if usual.max_size.is_none() => {}
        Some(text) => match size(text).filter(|&size| size > 0) {
            Some(bytes) => limits.max_size = Some(bytes),
            None => return invalid(format!("invalid value for '{max_size}': {text}")),
        },
    }
    if let Some(text) = options.get(max_files) {
        match text.parse().ok().filter(|number| (1..=1000).contains(number)) {
            Some(number) => limits.max_files = number,
            None => return invalid(format!("invalid value for '{max_files}': {text}")),
        }
    }
    Ok(limits)
}

fn flag(options: &Options, name: &str) -> Result<Option<bool>, OptionError> {
    let Some(text) = option(options, name) else { return Ok(None) };
    match boolean(text) {
        Some(value) => Ok(Some(value)),
        None => invalid(format!("invalid value for '{name}': {text}")),
    }
}

fn number(options: &Options, name: &str, range: std::ops::RangeInclusive<i64>) -> Result<(), OptionError> {
    let Some(text) = option(options, name) else { return Ok(()) };
    match text.parse::<i64>() {
        Ok(number) if range.contains(&number) => Ok(()),
        _ => invalid(format!("invalid value for '{name}': {text}")),
    }
}

fn duration(options: &Options, name: &str) -> Result<(), OptionError> {
    let Some(text) = option(options, name) else { return Ok(()) };
    match text.parse::<SignedDuration>() {
        Ok(duration) if !duration.is_negative() => Ok(()),
        _ => invalid(format!("invalid value for '{name}': {text}")),
    }
}

fn address(options: &Options, name: &str, port: u16, schemes: &[&str]) -> Result<(), OptionError> {
    let Some(text) = option(options, name) else { return Ok(()) };
    match Address::parse(text, port, schemes) {
        Ok(_) => Ok(()),
        Err(reason) => invalid(format!("invalid value for '{name}': {text}: {reason}")),
    }
}

fn regex(name: &str, pattern: &str) -> Result<(), OptionError> {
    match Regex::new(pattern) {
        Ok(_) => Ok(()),
        Err(error) => invalid(format!("invalid value for '{name}': {error}")),
    }
}

fn one_of(options: &Options, name: &str, known: &[&str]) -> Result<(), OptionError> {
    match option(options, name) {
        Some(value) if !known.contains(&value) => {
            invalid(format!("invalid value for '{name}': {value} is none of {}", known.join(", ")))
        }
        _ => Ok(()),
    }
}

fn check_syslog(options: &Options) -> Result<(), OptionError> {
    address(options, "syslog-address", syslog::PORT, &syslog::SCHEMES)?;
    one_of(options, "syslog-format", &syslog::FORMATS)?;
    flag(options, "syslog-tls-skip-verify")?;
    if let Some(facility) = option(options, "syslog-facility")
        && syslog::facility(facility).is_none()
    {
        return invalid(format!("invalid syslog facility: {facility}"));
    }
    if option(options, "syslog-tls-cert").is_some() != option(options, "syslog-tls-key").is_some() {
        return invalid("syslog-tls-cert and syslog-tls-key go together, and only one of them is given");
    }
    Ok(())
}

fn check_gelf(options: &Options) -> Result<(), OptionError> {
    let Some(text) = option(options, "gelf-address") else {
        return invalid("gelf-address is a required parameter");
    };
    address(options, "gelf-address", 0, &["udp", "tcp"])?;
    number(options, "gelf-compression-level", -1..=9)?;
    one_of(options, "gelf-compression-type", &["gzip", "zlib", "none"])?;
    number(options, "gelf-tcp-max-reconnect", 0..=i64::from(i32::MAX))?;
    number(options, "gelf-tcp-reconnect-delay", 0..=3600)?;
    let (is_udp, other): (bool, &[&str]) = if text.starts_with("udp://") {
        (true, &["gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay"])
    } else {
        (false, &["gelf-compression-type", "gelf-compression-level"])
    };
    match other.iter().find(|name| options.contains_key(**name)) {
        Some(name) if is_udp => invalid(format!("{name} only works with TCP, and gelf-address is for UDP")),
        Some(name) => invalid(format!("{name} only works with UDP, and gelf-address is for TCP")),
        None => Ok(()),
    }
}

fn check_fluentd(options: &Options) -> Result<(), OptionError> {
    let schemes = ["tcp", "tls", "unix"];
    if let Some(text) = option(options, "fluentd-address") {
        // The scheme may be left out.
        let whole = if text.contains("://") { text.to_owned() } else { format!("tcp://{text}") };
        if let Err(reason) = Address::parse(&whole, crate::fluentd::PORT, &schemes) {
            return invalid(format!("invalid fluentd-address {text}: {reason}"));
        }
    }
    for name in ["fluentd-async", "fluentd-request-ack", "fluentd-sub-second-precision"] {
        flag(options, name)?;
    }
    for name in ["fluentd-retry-wait", "fluentd-async-reconnect-interval", "fluentd-write-timeout"] {
        duration(options, name)?;
    }
    number(options, "fluentd-max-retries", 0..=i64::from(u32::MAX))?;
    match option(options, "fluentd-buffer-limit") {
        Some(text) if size(text).is_none() => {
            invalid(format!("invalid value for 'fluentd-buffer-limit': {text}"))
        }
        _ => Ok(()),
    }
}

fn check_awslogs(options: &Options) -> Result<(), OptionError> {
    if option(options, "awslogs-group").is_none() {
        return invalid("must specify a value for log opt 'awslogs-group'");
    }
    if let Some(text) = option(options, "awslogs-endpoint")
        && !reqwest::Url::parse(text).is_ok_and(|url| url.path() == "/" && url.query().is_none())
    {
        return invalid(format!(
            "invalid value for 'awslogs-endpoint': {text}: it has to be SCHEME://HOST[:PORT]"
        ));
    }
    for name in ["awslogs-create-group", "awslogs-create-stream"] {
        flag(options, name)?;
    }
    number(options, "awslogs-force-flush-interval-seconds", 1..=3600)?;
    number(options, "awslogs-max-buffered-events", 1..=i64::from(u16::MAX))?;
    one_of(options, "awslogs-format", &["json/emf"])?;
    let patterns = (option(options, "awslogs-datetime-format"), option(options, "awslogs-multiline-pattern"));
    match patterns {
        (Some(_), Some(_)) => {
            return invalid(
                "you cannot configure log opt 'awslogs-datetime-format' and 'awslogs-multiline-pattern' at the same time",
            );
        }
        (Some(format), None) => regex("awslogs-datetime-format", &multiline::of_dates(format))?,
        (None, Some(pattern)) => regex("awslogs-multiline-pattern", pattern)?,
        (None, None) => {}
    }
    let is_emf = option(options, "awslogs-format").is_some();
    if is_emf && patterns != (None, None) {
        return invalid(
            "you cannot configure log opt 'awslogs-datetime-format' or 'awslogs-multiline-pattern' when log opt 'awslogs-format' is set to 'json/emf'",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn options(pairs: Pairs<'_>) -> Options {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn limits_and_delivery_of_files() {
        let file = |pairs: &[(&str, &str)]| match check("json-file", &options(pairs))
            .and_then(|()| understand("json-file", &options(pairs)))
        {
            Ok(LogSpec::File { limits, delivery }) => Ok((limits.max_size, limits.max_files, delivery)),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        };
        assert_eq!(
            file(&[("max-size", "10m"), ("max-file", "3")]),
            Ok((Some(10 << 20), 3, Delivery::Blocking))
        );
        assert_eq!(file(&[("max-size", "-1")]), Ok((None, 1, Delivery::Blocking)));
        assert_eq!(
            file(&[("max-file", "3")]),
            Ok((None, 3, Delivery::Blocking)),
            "without effect, as in dockerd"
        );
        assert_eq!(
            file(&[("mode", "non-blocking")]),
            Ok((None, 1, Delivery::NonBlocking { buffer: BUFFER }))
        );
        assert_eq!(
            file(&[("mode", "non-blocking"), ("max-buffer-size", "4m")]),
            Ok((None, 1, Delivery::NonBlocking { buffer: 4 << 20 }))
        );
        for wrong in [
            &[("max-size", "x")][..],
            &[("max-file", "0"), ("max-size", "1k")],
            &[("color", "red")],
            &[("mode", "sometimes")],
            &[("max-buffer-size", "4m")],
            &[("mode", "non-blocking"), ("max-buffer-size", "much")],
            &[("cache-disabled", "true")],
        ] {
            assert!(file(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_goes_elsewhere_is_kept_as_well_unless_one_does_not_want_it() {
        let kept = |pairs: &[(&str, &str)]| match understand("syslog", &options(pairs)) {
            Ok(LogSpec::Elsewhere { kept, .. }) => kept,
            other => panic!("{other:?}"),
        };
        assert_eq!(kept(&[]), Some(LOCAL));
        assert_eq!(
            kept(&[("cache-max-size", "1m")]),
            Some(FileLimits { max_size: Some(1 << 20), max_files: 5, compress: false })
        );
        assert_eq!(kept(&[("cache-disabled", "true")]), None);
    }

    #[test]
    fn each_driver_knows_its_own_options() {
        let good: &[(&str, &[(&str, &str)])] = &[
            (
                "syslog",
                &[("syslog-address", "tcp+tls://logs.example:6514"), ("syslog-format", "rfc5424micro")],
            ),
            ("syslog", &[("syslog-address", "unixgram:///dev/log"), ("syslog-facility", "local3")]),
            ("syslog", &[("syslog-address", "udp://[::1]"), ("tag", "{{.Name}}/{{.ID}}")]),
            ("gelf", &[("gelf-address", "udp://127.0.0.1:12201"), ("gelf-compression-type", "none")]),
            ("fluentd", &[("fluentd-address", "host:24225"), ("fluentd-retry-wait", "500ms")]),
            ("fluentd", &[("fluentd-address", "unix:///run/fluent.sock")]),
            ("awslogs", &[("awslogs-group", "web"), ("awslogs-datetime-format", "%Y-%m-%d")]),
            ("journald", &[("labels", "a,b"), ("cache-disabled", "1")]),
            ("local", &[("compress", "false"), ("mode", "non-blocking")]),
            ("none", &[]),
        ];
        for (driver, pairs) in good {
            assert_eq!(check(driver, &options(pairs)), Ok(()), "{driver} {pairs:?}");
        }
        let bad: &[(&str, Pairs<'_>, &str)] = &[
            (
                "syslog",
                &[("gelf-address", "udp://a:1")],
                "unknown log opt 'gelf-address' for syslog log driver",
            ),
            ("syslog", &[("syslog-address", "http://a")], "syslog-address"),
            ("syslog", &[("syslog-address", "tcp://a:99999")], "syslog-address"),
            ("syslog", &[("syslog-facility", "kitchen")], "invalid syslog facility: kitchen"),
            ("syslog", &[("syslog-format", "rfc1")], "syslog-format"),
            ("syslog", &[("syslog-tls-cert", "/a")], "only one of them"),
            ("syslog", &[("tag", "{{")], "'tag'"),
            ("gelf", &[], "required"),
            ("gelf", &[("gelf-address", "udp://a")], "gelf-address"),
            ("gelf", &[("gelf-address", "tcp://a:1"), ("gelf-compression-type", "gzip")], "UDP"),
            ("fluentd", &[("fluentd-max-retries", "-1")], "fluentd-max-retries"),
            ("fluentd", &[("fluentd-async", "perhaps")], "fluentd-async"),
            ("awslogs", &[], "awslogs-group"),
            ("awslogs", &[("awslogs-group", "a"), ("awslogs-endpoint", "http://a/b")], "awslogs-endpoint"),
            ("awslogs", &[("awslogs-group", "a"), ("labels", "b")], "unknown log opt 'labels'"),
            ("awslogs", &[("awslogs-group", "a"), ("awslogs-multiline-pattern", "(")], "multiline"),
            ("journald", &[("max-size", "1m")], "unknown log opt 'max-size'"),
            ("splunk", &[], "no log driver named 'splunk' is registered"),
        ];
        for (driver, pairs, expected) in bad {
            let error = check(driver, &options(pairs)).unwrap_err().to_string();
            assert!(error.contains(expected), "{driver} {pairs:?}: {error}");
        }
    }

    #[test]
    fn what_an_earlier_version_has_taken_is_understood() {
        let old = options(&[("max-buffer-size", "4m"), ("mode", "x")]);
        assert!(matches!(
            understand("json-file", &old),
            Ok(LogSpec::File { delivery: Delivery::Blocking, .. })
        ));
        assert!(check("json-file", &old).is_err());
    }
}
