//! Sizes, durations and times as the docker command line reads and prints them.

use jiff::{SignedDuration, Timestamp};

const DECIMAL: [&str; 9] = ["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"];
const BINARY: [&str; 9] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"];

#[expect(clippy::cast_precision_loss, reason = "A size for people has four digits at most")]
fn scaled(size: i64, base: f64, units: &[&str], digits: usize) -> String {
    let mut value = size as f64;
    let mut unit = 0;
    while value >= base && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    format!("{}{}", gotemplate::float_general(value, Some(digits)), units[unit])
}

/// `4.26MB`.
pub(crate) fn short_size(size: i64) -> String {
    scaled(size, 1000.0, &DECIMAL, 3)
}

/// `4.262MB`.
pub(crate) fn size(size: i64) -> String {
    scaled(size, 1000.0, &DECIMAL, 4)
}

/// `3.84GiB`.
pub(crate) fn binary_size(size: i64) -> String {
    scaled(size, 1024.0, &BINARY, 4)
}

/// Reads `512`, `64m`, `1.5GiB`, `1kb`; the units are powers of 1024.
pub(crate) fn parse_size(text: &str) -> Result<i64, String> {
    let invalid = || format!("invalid size: '{text}'");
    let end =
        text.rfind(|character: char| character.is_ascii_digit() || character == '.').ok_or_else(invalid)?;
    let (number, suffix) = text.split_at(end + 1);
    let (number, space) = (number.trim_end(), suffix.starts_with(' '));
    let suffix = if space { &suffix[1..] } else { suffix };
    let value: f64 = number.parse().map_err(|_| invalid())?;
    if value < 0.0 || !value.is_finite() {
        return Err(invalid());
    }
    let lower = suffix.to_ascii_lowercase();
    let power = match lower.as_str() {
        "" | "b" => 0,
        _ => {
            let (unit, rest) = lower.split_at(lower.chars().next().map_or(0, char::len_utf8));
            if !matches!(rest, "" | "b" | "ib") {
                return Err(format!("invalid suffix: '{suffix}'"));
            }
            match unit {
                "k" => 1,
                "m" => 2,
                "g" => 3,
                "t" => 4,
                "p" => 5,
                _ => return Err(format!("invalid suffix: '{suffix}'")),
            }
        }
    };
    let bytes = value * 1024_f64.powi(power);
    if bytes > 9.2e18 {
        return Err(invalid());
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "The range was checked above; fractions of a byte go"
    )]
    Ok(bytes as i64)
}

/// Reads a number of processors into billionths of one.
pub(crate) fn parse_cpus(text: &str) -> Result<i64, String> {
    let invalid = || format!("failed to parse {text} as a rational number");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if (whole.is_empty() && fraction.is_empty())
        || !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit())
    {
        return Err(invalid());
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > 9 {
        return Err("value is too precise".to_owned());
    }
    let billionths = format!("{whole}{fraction:0<9}");
    billionths.parse().map_err(|_| invalid())
}

/// Reads a Go duration like `1m30s` or `500ms` into nanoseconds.
pub(crate) fn parse_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0.0_f64;
    while !rest.is_empty() {
        let end = rest
            .find(|character: char| !character.is_ascii_digit() && character != '.')
            .unwrap_or(rest.len());
        let value: f64 = rest[..end].parse().map_err(|_| invalid())?;
        rest = &rest[end..];
        let end =
            rest.find(|character: char| character.is_ascii_digit() || character == '.').unwrap_or(rest.len());
        let factor = match &rest[..end] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            "" => return Err(format!("time: missing unit in duration {text:?}")),
            unit => return Err(format!("time: unknown unit {unit:?} in duration {text:?}")),
        };
        total += value * factor;
        rest = &rest[end..];
    }
    if total > 9.2e18 {
        return Err(invalid());
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "The range was checked above; fractions of a nanosecond go"
    )]
    let nanoseconds = total as i64;
    Ok(if negative { -nanoseconds } else { nanoseconds })
}

/// `2 hours`, `About a minute`.
pub(crate) fn human_duration(seconds: i64) -> String {
    let minutes = seconds / 60;
    // Rounded to the nearest hour.
    let hours = (seconds + 1800) / 3600;
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// `2 hours ago`, for a time in seconds since 1970.
pub(crate) fn ago(created: i64, now: Timestamp) -> String {
    format!("{} ago", human_duration(now.as_second() - created))
}

/// `2026-11-21 01:11:54 +0000 UTC`, in the zone of this machine.
pub(crate) fn local_time(seconds: i64) -> String {
    let Ok(timestamp) = Timestamp::from_second(seconds) else { return String::new() };
    let zone = jiff::tz::TimeZone::system();
    timestamp.to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()
}

/// What `--since` and `--until` take: a time, or how long ago; as the API wants it.
pub(crate) fn parse_since(text: &str, now: Timestamp) -> Result<String, String> {
    if let Ok(nanoseconds) = parse_duration(text)
        && let Ok(time) = now.checked_sub(SignedDuration::from_nanos(nanoseconds))
    {
        return Ok(format!("{}.{:09}", time.as_second(), time.subsec_nanosecond()));
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if !seconds.is_empty()
        && [seconds, fraction].iter().all(|part| part.bytes().all(|byte| byte.is_ascii_digit()))
    {
        return Ok(text.to_owned());
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(format!("{}.{:09}", time.as_second(), time.subsec_nanosecond()));
    }
    let civil = text
        .parse::<jiff::civil::DateTime>()
        .or_else(|_| text.parse::<jiff::civil::Date>().map(|date| date.at(0, 0, 0, 0)));
    match civil.map(|civil| civil.to_zoned(jiff::tz::TimeZone::system())) {
        Ok(Ok(zoned)) => {
            Ok(format!("{}.{:09}", zoned.timestamp().as_second(), zoned.timestamp().subsec_nanosecond()))
        }
        _ => Err(format!("failed to parse value as time or duration: {text:?}")),
    }
}

/// The order of names for people: `m9` before `m10`.
pub(crate) fn natural_order(first: &str, second: &str) -> std::cmp::Ordering {
    let (mut first, mut second) = (first, second);
    loop {
        let digits = |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (numbers_one, numbers_two) = (digits(first), digits(second));
        if numbers_one > 0 && numbers_two > 0 {
            let (one, two) = (&first[..numbers_one], &second[..numbers_two]);
            let (bare_one, bare_two) = (one.trim_start_matches('0'), two.trim_start_matches('0'));
            let order =
                bare_one.len().cmp(&bare_two.len()).then_with(|| bare_one.cmp(bare_two)).then(one.cmp(two));
            if order.is_ne() {
                return order;
            }
            (first, second) = (&first[numbers_one..], &second[numbers_two..]);
            continue;
        }
        match (first.chars().next(), second.chars().next()) {
            (Some(one), Some(two)) if one == two => {
                (first, second) = (&first[one.len_utf8()..], &second[two.len_utf8()..]);
            }
            (one, two) => return one.cmp(&two),
        }
    }
}

/// The first `length` characters, the last of them an ellipsis if something is cut.
pub(crate) fn ellipsis(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    let kept: String = text.chars().take(length.saturating_sub(1)).collect();
    format!("{kept}…")
}

/// The twelve characters of an identifier that people see.
pub(crate) fn short_id(id: &str) -> String {
    let bare = id.split_once(':').map_or(id, |(_, bare)| bare);
    bare.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_printed_as_the_stock_client_does() {
        for (bytes, short, long, binary) in [
            (0, "0B", "0B", "0B"),
            (123, "123B", "123B", "123B"),
            (4_261_550, "4.26MB", "4.262MB", "4.064MiB"),
            (1_234_567, "1.23MB", "1.235MB", "1.177MiB"),
            (4_123_456_789, "4.12GB", "4.123GB", "3.84GiB"),
            (1000, "1kB", "1kB", "1000B"),
            (999_999, "1e+03kB", "1000kB", "976.6KiB"),
        ] {
            assert_eq!(
                (short_size(bytes).as_str(), size(bytes).as_str(), binary_size(bytes).as_str()),
                (short, long, binary)
            );
        }
    }

    #[test]
    fn sizes_are_read_in_powers_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("512b", 512),
            ("64m", 64 << 20),
            ("64M", 64 << 20),
            ("64mb", 64 << 20),
            ("1.5g", 3 << 29),
            ("1KiB", 1024),
            ("2 k", 2048),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        assert_eq!(parse_size("1x"), Err("invalid suffix: 'x'".to_owned()));
        assert_eq!(parse_size("m"), Err("invalid size: 'm'".to_owned()));
        assert_eq!(parse_size(""), Err("invalid size: ''".to_owned()));
        assert_eq!(parse_size("-1"), Err("invalid size: '-1'".to_owned()));
        assert!(parse_size("99999999p").is_err());
        assert!(parse_size("1mé").is_err());
    }

    #[test]
    fn processors_are_read_in_billionths() {
        assert_eq!(parse_cpus("1.5"), Ok(1_500_000_000));
        assert_eq!(parse_cpus(".25"), Ok(250_000_000));
        assert_eq!(parse_cpus("2"), Ok(2_000_000_000));
        for text in ["", ".", "x", "-1", "1e3", "0.1234567891"] {
            assert!(parse_cpus(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_gos() {
        assert_eq!(parse_duration("1m30s"), Ok(90_000_000_000));
        assert_eq!(parse_duration("1.5h"), Ok(5_400_000_000_000));
        assert_eq!(parse_duration("250ms"), Ok(250_000_000));
        assert_eq!(parse_duration("0"), Ok(0));
        assert_eq!(parse_duration("-1s"), Ok(-1_000_000_000));
        assert_eq!(parse_duration("10"), Err("time: missing unit in duration \"10\"".to_owned()));
        assert_eq!(parse_duration("1d"), Err("time: unknown unit \"d\" in duration \"1d\"".to_owned()));
        assert!(parse_duration("").is_err());
    }

    #[test]
    fn people_read_durations() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (150, "2 minutes"),
            (3600, "About an hour"),
            (7300, "2 hours"),
            (86_400 * 3, "3 days"),
            (90_000 * 30, "4 weeks"),
            (86_400 * 400, "13 months"),
            (86_400 * 365 * 3, "3 years"),
        ] {
            assert_eq!(human_duration(seconds), text);
        }
    }

    #[test]
    fn since_takes_times_and_ages() {
        let now: Timestamp = Timestamp::from_second(1_000_000).unwrap_or_default();
        assert_eq!(parse_since("1h", now), Ok("996400.000000000".to_owned()));
        assert_eq!(parse_since("1700000000", now), Ok("1700000000".to_owned()));
        assert_eq!(parse_since("1970-01-01T00:00:01.5Z", now), Ok("1.500000000".to_owned()));
        assert!(parse_since("yesterday", now).is_err());
    }

    #[test]
    fn numbers_in_names_count_as_numbers() {
        let mut names = ["m10", "m9", "m", "a", "m9b", "m010", "b2"];
        names.sort_by(|one, two| natural_order(one, two));
        assert_eq!(names, ["a", "b2", "m", "m9", "m9b", "m010", "m10"]);
    }

    #[test]
    fn cutting_counts_characters() {
        assert_eq!(ellipsis("sh -c 'while true; do'", 20), "sh -c 'while true; …");
        assert_eq!(ellipsis("éé", 2), "éé");
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
    }
}
