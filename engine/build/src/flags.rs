//! What stands between an instruction and its arguments: `--from=base`, `--mount=type=cache,target=/x`.

use super::words::unquoted;

/// How a flag was given.
enum Value {
    Absent,
    Bare,
    Text(String),
}

/// Flags that were given, and which of them somebody has read.
pub(crate) struct Flags {
    given: Vec<(String, Option<String>, bool)>,
}

impl Flags {
    /// Takes the flags off the beginning of the arguments.
    pub(crate) fn split(rest: &str, escape: char) -> Result<(Self, &str), String> {
        let (mut given, mut rest) = (Vec::new(), rest.trim_start());
        while let Some(after) = rest.strip_prefix("--") {
            let end = end_of_word(rest, escape);
            let word = &rest[..end];
            rest = rest[end..].trim_start();
            // `--` ends them.
            if after.starts_with(char::is_whitespace) || after.is_empty() {
                break;
            }
            let word = unquoted(&word[2..], escape).map_err(|error| error.to_string())?;
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (word, None),
            };
            given.push((name, value, false));
        }
        Ok((Self { given }, rest))
    }

    fn take(&mut self, name: &str) -> Result<Value, String> {
        let mut found = Value::Absent;
        for (given, value, is_read) in &mut self.given {
            if given == name {
                if !matches!(found, Value::Absent) {
                    return Err(format!("duplicate flag specified: {name}"));
                }
                *is_read = true;
                found = value.clone().map_or(Value::Bare, Value::Text);
            }
        }
        Ok(found)
    }

    /// The value of a flag that has one.
    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, String> {
        match self.take(name)? {
            Value::Absent => Ok(None),
            Value::Bare => Err(format!("missing a value on flag: {name}")),
            Value::Text(value) => Ok(Some(value)),
        }
    }

    /// The values of a flag that may be given several times.
    pub(crate) fn texts(&mut self, name: &str) -> Vec<String> {
        let mut values = Vec::new();
        for (given, value, is_read) in &mut self.given {
            if given == name {
                *is_read = true;
                values.push(value.clone().unwrap_or_default());
            }
        }
        values
    }

    pub(crate) fn optional(&mut self, name: &str) -> Result<Option<bool>, String> {
        match self.take(name)? {
            Value::Absent => Ok(None),
            Value::Bare => Ok(Some(true)),
            Value::Text(value) => match value.to_ascii_lowercase().as_str() {
                "true" => Ok(Some(true)),
                "false" => Ok(Some(false)),
                _ => Err(format!("expecting boolean value for flag {name}, not: {value}")),
            },
        }
    }

    pub(crate) fn boolean(&mut self, name: &str) -> Result<bool, String> {
        Ok(self.optional(name)?.unwrap_or(false))
    }

    /// In nanoseconds; 0 if it is not given.
    pub(crate) fn duration(&mut self, name: &str) -> Result<i64, String> {
        let Some(text) = self.text(name)? else { return Ok(0) };
        let nanoseconds = duration(&text).ok_or_else(|| format!("time: invalid duration {text:?}"))?;
        // As short as the kernel's clock ticks.
        if nanoseconds < 1_000_000 && nanoseconds != 0 {
            return Err(format!("interval {name:?} cannot be less than 1ms"));
        }
        Ok(nanoseconds)
    }

    /// Refuses what nobody has read.
    pub(crate) fn all_read(&self) -> Result<(), String> {
        match self.given.iter().find(|(_, _, is_read)| !is_read) {
            Some((name, ..)) => Err(format!("unknown flag: --{name}")),
            None => Ok(()),
        }
    }
}

/// Where the first word ends, quotes and escapes respected.
fn end_of_word(text: &str, escape: char) -> usize {
    let (mut quote, mut characters) = (None, text.char_indices());
    while let Some((at, one)) = characters.next() {
        match quote {
            None if one.is_whitespace() => return at,
            None if matches!(one, '\'' | '"') => quote = Some(one),
            Some(open) if open == one => quote = None,
            _ => {}
        }
        if one == escape && quote != Some('\'') {
            characters.next();
        }
    }
    text.len()
}

/// As Go writes them: `1h2m3.5s`, in nanoseconds.
pub(crate) fn duration(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut sum = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|one: char| !(one.is_ascii_digit() || one == '.'))?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|one: char| one.is_ascii_digit() || one == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        sum += number * unit;
        rest = &rest[end..];
    }
    #[expect(clippy::cast_possible_truncation, reason = "it is checked to fit")]
    let whole = (sum < 9.2e18).then_some((sign * sum) as i64);
    whole
}

/// What a mount of `RUN` is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum MountKind {
    #[default]
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

/// Who may use a cache at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sharing {
    #[default]
    Shared,
    /// Another run gets another cache.
    Private,
    /// Another run waits.
    Locked,
}

/// `RUN --mount=…`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) kind: MountKind,
    pub(crate) from: Option<String>,
    pub(crate) source: Option<String>,
    pub(crate) target: Option<String>,
    pub(crate) id: Option<String>,
    pub(crate) env: Option<String>,
    pub(crate) read_only: Option<bool>,
    pub(crate) required: bool,
    pub(crate) sharing: Sharing,
    /// In bytes.
    pub(crate) size: Option<u64>,
    pub(crate) mode: Option<u32>,
    pub(crate) user: Option<u32>,
    pub(crate) group: Option<u32>,
}

impl Mount {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut mount = Self::default();
        let fields: Vec<(String, Option<String>)> = text
            .split(',')
            .map(|field| match field.split_once('=') {
                Some((key, value)) => {
                    (key.trim().to_ascii_lowercase(), Some(value.trim_matches('"').to_owned()))
                }
                None => (field.trim().to_ascii_lowercase(), None),
            })
            .collect();
        let kind = fields.iter().find(|(key, _)| key == "type").and_then(|(_, value)| value.clone());
        mount.kind = match kind.as_deref() {
            None | Some("bind") => MountKind::Bind,
            Some("cache") => MountKind::Cache,
            Some("tmpfs") => MountKind::Tmpfs,
            Some("secret") => MountKind::Secret,
            Some("ssh") => MountKind::Ssh,
            Some(other) => return Err(format!("unsupported mount type {other:?}")),
        };
        for (key, value) in &fields {
            mount.field(key, value.as_deref())?;
        }
        mount.check()?;
        Ok(mount)
    }

    fn field(&mut self, key: &str, value: Option<&str>) -> Result<(), String> {
        let boolean = |value: Option<&str>| match value {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => Err(format!("invalid value for {key}: {other}")),
        };
        match (key, value) {
            ("readonly" | "ro", value) => self.read_only = Some(boolean(value)?),
            ("readwrite" | "rw", value) => self.read_only = Some(!boolean(value)?),
            ("required", value) => self.required = boolean(value)?,
            (_, None) => return Err(format!("invalid field '{key}' must be a key=value pair")),
            ("type", _) => {}
            // Which stages are built is decided before there are values.
            ("from", Some(value)) if value.trim_end_matches('$').contains('$') => {
                return Err(
                    "'from' doesn't support variable expansion, define alias stage instead".to_owned()
                );
            }
            ("from", Some(value)) => self.from = Some(value.to_owned()),
            ("source" | "src", Some(value)) => self.source = Some(value.to_owned()),
            ("target" | "dst" | "destination", Some(value)) => self.target = Some(value.to_owned()),
            ("id", Some(value)) => self.id = Some(value.to_owned()),
            ("env", Some(value)) => self.env = Some(value.to_owned()),
            ("sharing", Some(value)) => {
                self.sharing = match value {
                    "shared" => Sharing::Shared,
                    "private" => Sharing::Private,
                    "locked" => Sharing::Locked,
                    other => return Err(format!("unsupported sharing value {other:?}")),
                }
            }
            ("size", Some(value)) => {
                let size = engine_model::size(value);
                self.size = Some(size.ok_or_else(|| format!("invalid value for size: {value}"))?);
            }
            ("mode", Some(value)) => self.mode = Some(number(key, value, 8)?),
            ("uid", Some(value)) => self.user = Some(number(key, value, 10)?),
            ("gid", Some(value)) => self.group = Some(number(key, value, 10)?),
            _ => return Err(format!("unexpected key '{key}' in '{key}={}'", value.unwrap_or_default())),
        }
        Ok(())
    }

    /// Refuses what would say nothing of this kind of mount.
    fn check(&self) -> Result<(), String> {
        use MountKind::{Bind, Cache, Secret, Ssh, Tmpfs};
        for (field, is_given, kinds) in [
            ("from", self.from.is_some(), &[Bind, Cache][..]),
            ("source", self.source.is_some(), &[Bind, Cache]),
            ("id", self.id.is_some(), &[Cache, Secret, Ssh]),
            ("env", self.env.is_some(), &[Secret]),
            ("sharing", self.sharing != Sharing::Shared, &[Cache]),
            ("size", self.size.is_some(), &[Tmpfs]),
            ("required", self.required, &[Secret, Ssh]),
            ("mode", self.mode.is_some(), &[Cache, Secret, Ssh]),
            ("uid", self.user.is_some(), &[Cache, Secret, Ssh]),
            ("gid", self.group.is_some(), &[Cache, Secret, Ssh]),
            ("readonly", self.read_only.is_some(), &[Bind, Cache]),
        ] {
            if is_given && !kinds.contains(&self.kind) {
                let kind = format!("{:?}", self.kind).to_ascii_lowercase();
                return Err(format!("mount type {kind:?} does not take `{field}`"));
            }
        }
        if self.target.is_none() && !matches!(self.kind, Secret | Ssh) {
            let kind = format!("{:?}", self.kind).to_ascii_lowercase();
            return Err(format!("mount type {kind:?} requires a `target`"));
        }
        Ok(())
    }
}

fn number(key: &str, text: &str, radix: u32) -> Result<u32, String> {
    u32::from_str_radix(text, radix).map_err(|_| format!("invalid value for {key}: {text}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn flags_end_with_the_first_word_that_is_none() {
        let (mut flags, rest) = Flags::split("--a=1 --b --c=\"x y\"  word --d", '\\').unwrap();
        assert_eq!((flags.text("a"), flags.boolean("b"), rest), (Ok(Some("1".into())), Ok(true), "word --d"));
        assert_eq!(flags.all_read().unwrap_err(), "unknown flag: --c");
        assert_eq!(flags.text("c").unwrap().unwrap(), "x y");
        assert!(flags.all_read().is_ok());
        let (_, rest) = Flags::split("-- --a", '\\').unwrap();
        assert_eq!(rest, "--a");
        let (mut flags, _) = Flags::split("--a=1 --a=2 --b=maybe", '\\').unwrap();
        assert!(flags.text("a").is_err() && flags.boolean("b").is_err());
    }

    #[test]
    fn durations_are_gos() {
        for (text, nanoseconds) in [
            ("1.5s", Some(1_500_000_000)),
            ("1h2m", Some(3_720_000_000_000)),
            ("0", Some(0)),
            ("5", None),
            ("", None),
            ("s", None),
            ("-1s", Some(-1_000_000_000)),
        ] {
            assert_eq!(duration(text), nanoseconds, "{text}");
        }
    }

    #[test]
    fn mounts_say_what_they_are_of() {
        let mount = Mount::parse("type=cache,target=/x,id=a,sharing=locked,uid=5,mode=0700").unwrap();
        assert_eq!(
            (mount.kind, mount.sharing, mount.user, mount.mode),
            (MountKind::Cache, Sharing::Locked, Some(5), Some(0o700))
        );
        let mount = Mount::parse("target=/x,from=base,source=/y,rw").unwrap();
        assert_eq!((mount.kind, mount.read_only), (MountKind::Bind, Some(false)));
        for bad in [
            "type=x,target=/a",
            "type=cache",
            "type=tmpfs,target=/x,from=y",
            "target=/x,colour=red",
            "target=/x,from=$S",
            "target=/x,from=a${S}",
            "target",
        ] {
            assert!(Mount::parse(bad).is_err(), "{bad}");
        }
    }
}
