//! Instructions as data: each with its arguments understood, but for the variables in them.

use super::flags::{Flags, Mount};
use super::source::{Heredoc, ParseError, Raw, json_list, read_one, split_command};
use super::words::raw_words;

/// An instruction, where it stands and how it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) line: usize,
    pub(crate) last_line: usize,
    pub(crate) text: String,
    pub(crate) instruction: Instruction,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Instruction {
    From(From),
    /// Names, and values where they are given.
    Arg(Vec<(String, Option<String>)>),
    Run(Box<Run>),
    Copy(Box<Copy>),
    Cmd(Command),
    Entrypoint(Command),
    Shell(Vec<String>),
    Env(Vec<(String, String)>),
    Label(Vec<(String, String)>),
    Maintainer(String),
    Expose(String),
    Volume(Vec<String>),
    User(String),
    Workdir(String),
    Onbuild(String),
    StopSignal(String),
    Healthcheck(Healthcheck),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct From {
    pub(crate) base: String,
    /// In small letters.
    pub(crate) name: Option<String>,
    pub(crate) platform: Option<String>,
}

/// A command as a list, or as text for a shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Exec(Vec<String>),
    Shell(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) command: Command,
    pub(crate) heredocs: Vec<Heredoc>,
    pub(crate) mounts: Vec<Mount>,
    /// `none` or `host`, if it is not the build's.
    pub(crate) network: Option<String>,
}

/// `COPY` and `ADD`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Copy {
    /// Archives are unpacked and addresses fetched.
    pub(crate) is_add: bool,
    pub(crate) sources: Vec<String>,
    pub(crate) target: String,
    pub(crate) heredocs: Vec<Heredoc>,
    pub(crate) from: Option<String>,
    pub(crate) owner: Option<String>,
    pub(crate) mode: Option<String>,
    pub(crate) checksum: Option<String>,
    pub(crate) exclude: Vec<String>,
    pub(crate) parents: bool,
    pub(crate) link: bool,
    pub(crate) unpack: Option<bool>,
    pub(crate) keep_git_dir: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Healthcheck {
    None,
    /// Times in nanoseconds.
    Check {
        command: Command,
        interval: i64,
        timeout: i64,
        start_period: i64,
        start_interval: i64,
        retries: i64,
    },
}

const NAMES: [&str; 18] = [
    "FROM",
    "ARG",
    "RUN",
    "COPY",
    "ADD",
    "CMD",
    "ENTRYPOINT",
    "SHELL",
    "ENV",
    "LABEL",
    "MAINTAINER",
    "EXPOSE",
    "VOLUME",
    "USER",
    "WORKDIR",
    "ONBUILD",
    "STOPSIGNAL",
    "HEALTHCHECK",
];

/// Understands one instruction.
pub(crate) fn understand(raw: &Raw, escape: char) -> Result<Step, ParseError> {
    let (name, rest) = split_command(&raw.text);
    let name = name.to_ascii_uppercase();
    let failed = |message: String| ParseError::new(raw.line, message);
    if !NAMES.contains(&name.as_str()) {
        let near = NAMES.iter().min_by_key(|known| distance(known, &name));
        let near = near.filter(|known| distance(known, &name) <= 2);
        let hint = near.map_or_else(String::new, |known| format!(" (did you mean {known}?)"));
        return Err(failed(format!(
            "unknown instruction: {}{hint}",
            raw.text.split_whitespace().next().unwrap_or_default()
        )));
    }
    let (mut flags, rest) = Flags::split(rest, escape).map_err(failed)?;
    let words = Words { name: &name, rest, escape };
    let instruction = words.instruction(&mut flags, &raw.heredocs).map_err(failed)?;
    flags.all_read().map_err(failed)?;
    Ok(Step { line: raw.line, last_line: raw.last_line, text: raw.text.clone(), instruction })
}

/// A change of an image's configuration, as `docker commit --change` takes it, or a trigger.
pub(crate) fn understand_one(text: &str) -> Result<(Step, char), ParseError> {
    let (raw, escape) = read_one(text)?;
    Ok((understand(&raw, escape)?, escape))
}

/// The arguments of one instruction.
struct Words<'a> {
    name: &'a str,
    rest: &'a str,
    escape: char,
}

impl Words<'_> {
    fn instruction(&self, flags: &mut Flags, heredocs: &[Heredoc]) -> Result<Instruction, String> {
        Ok(match self.name {
            "FROM" => Instruction::From(self.from(flags)?),
            "ARG" => Instruction::Arg(self.arguments()?),
            "RUN" => self.run(flags, heredocs)?,
            "COPY" | "ADD" => Instruction::Copy(Box::new(self.copy(flags, heredocs)?)),
            "CMD" => Instruction::Cmd(self.command()?),
            "ENTRYPOINT" => Instruction::Entrypoint(self.command()?),
            "SHELL" => match json_list(self.rest) {
                Some(list) => match list? {
                    list if list.is_empty() => return Err("SHELL requires at least one argument".to_owned()),
                    list => Instruction::Shell(list),
                },
                None => {
                    return Err(format!("SHELL requires the arguments to be in JSON form: {}", self.rest));
                }
            },
            "ENV" => Instruction::Env(self.pairs()?),
            "LABEL" => Instruction::Label(self.pairs()?),
            "MAINTAINER" => Instruction::Maintainer(self.one()?),
            "EXPOSE" => {
                self.some()?;
                Instruction::Expose(self.rest.to_owned())
            }
            "VOLUME" => {
                let paths = self.list()?;
                if paths.is_empty() {
                    return Err("VOLUME requires at least one argument".to_owned());
                }
                Instruction::Volume(paths)
            }
            "USER" => Instruction::User(self.one()?),
            "WORKDIR" => Instruction::Workdir(self.one()?),
            "STOPSIGNAL" => Instruction::StopSignal(self.one()?),
            "ONBUILD" => Instruction::Onbuild(self.trigger()?),
            _ => Instruction::Healthcheck(self.healthcheck(flags)?),
        })
    }

    fn some(&self) -> Result<(), String> {
        if self.rest.is_empty() {
            Err(format!("{} requires at least one argument", self.name))
        } else {
            Ok(())
        }
    }

    /// Everything as one.
    fn one(&self) -> Result<String, String> {
        if self.rest.is_empty() {
            return Err(format!("{} requires exactly one argument", self.name));
        }
        Ok(self.rest.to_owned())
    }

    fn command(&self) -> Result<Command, String> {
        match json_list(self.rest) {
            Some(list) => Ok(Command::Exec(list?)),
            None => Ok(Command::Shell(self.rest.to_owned())),
        }
    }

    /// Paths in JSON, or parted by spaces.
    fn list(&self) -> Result<Vec<String>, String> {
        match json_list(self.rest) {
            Some(list) => Ok(list?),
            None => Ok(self.rest.split_whitespace().map(str::to_owned).collect()),
        }
    }

    fn from(&self, flags: &mut Flags) -> Result<From, String> {
        let words: Vec<&str> = self.rest.split_whitespace().collect();
        let (base, name) = match words[..] {
            [base] => (base, None),
            [base, r#as, name] if r#as.eq_ignore_ascii_case("as") => (base, Some(name)),
            _ => return Err("FROM requires either one or three arguments".to_owned()),
        };
        let name = name.map(str::to_ascii_lowercase);
        if let Some(name) = &name {
            let fits = name.starts_with(|first: char| first.is_ascii_lowercase())
                && name.chars().all(|one| one.is_ascii_alphanumeric() || matches!(one, '-' | '_' | '.'));
            if !fits {
                return Err(format!(
                    "invalid name for build stage: \"{name}\", name can't start with a number or contain symbols"
                ));
            }
            if matches!(name.as_str(), "scratch" | "context") {
                return Err(format!("invalid name for build stage: \"{name}\", name is reserved"));
            }
        }
        Ok(From { base: base.to_owned(), name, platform: flags.text("platform")? })
    }

    fn arguments(&self) -> Result<Vec<(String, Option<String>)>, String> {
        self.some()?;
        let mut arguments = Vec::new();
        for word in raw_words(self.rest, self.escape).map_err(|error| error.to_string())? {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (word.as_str(), None),
            };
            if name.is_empty() {
                return Err("ARG names can not be blank".to_owned());
            }
            arguments.push((name.to_owned(), value));
        }
        Ok(arguments)
    }

    /// `NAME=value NAME=value`, or the old `NAME all the rest`.
    fn pairs(&self) -> Result<Vec<(String, String)>, String> {
        self.some()?;
        let blank = || format!("{} names can not be blank", self.name);
        let words = raw_words(self.rest, self.escape).map_err(|error| error.to_string())?;
        if words.first().is_none_or(|word| !word.contains('=')) {
            let (name, value) = split_command(self.rest);
            if value.is_empty() {
                return Err(format!("{} must have two arguments", self.name));
            }
            return Ok(vec![(name.to_owned(), value.to_owned())]);
        }
        let pair = |word: &String| match word.split_once('=') {
            Some(("" | "\"\"" | "''", _)) => Err(blank()),
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => Err(format!("Syntax error - can't find = in {word:?}. Must be of the form: name=value")),
        };
        words.iter().map(pair).collect()
    }

    fn run(&self, flags: &mut Flags, heredocs: &[Heredoc]) -> Result<Instruction, String> {
        self.some()?;
        if flags.text("security")?.is_some_and(|mode| mode != "sandbox") {
            return Err("`RUN --security` is not supported by this engine: a build gets no more than other containers".to_owned());
        }
        let network = flags.text("network")?;
        if let Some(other) = network.as_deref().filter(|mode| !matches!(*mode, "default" | "none" | "host")) {
            return Err(format!("invalid network mode: {other}"));
        }
        let mounts =
            flags.texts("mount").iter().map(|text| Mount::parse(text)).collect::<Result<Vec<_>, _>>()?;
        if flags.text("device")?.is_some() {
            return Err("`RUN --device` is not supported by this engine".to_owned());
        }
        Ok(Instruction::Run(Box::new(Run {
            command: self.command()?,
            heredocs: heredocs.to_vec(),
            mounts,
            network: network.filter(|mode| mode != "default"),
        })))
    }

    fn copy(&self, flags: &mut Flags, heredocs: &[Heredoc]) -> Result<Copy, String> {
        let is_add = self.name == "ADD";
        let mut sources = self.list()?;
        let Some(target) = sources.pop() else {
            return Err(format!("{} requires at least two arguments", self.name));
        };
        if sources.is_empty() {
            return Err(format!(
                "{} requires at least two arguments, but only one was provided. Destination could not be determined",
                self.name
            ));
        }
        let mut copy = Copy {
            is_add,
            sources,
            target,
            heredocs: heredocs.to_vec(),
            owner: flags.text("chown")?,
            mode: flags.text("chmod")?,
            exclude: flags.texts("exclude"),
            link: flags.boolean("link")?,
            ..Copy::default()
        };
        if is_add {
            copy.checksum = flags.text("checksum")?;
            copy.unpack = flags.optional("unpack")?;
            copy.keep_git_dir = flags.boolean("keep-git-dir")?;
        } else {
            copy.from = flags.text("from")?;
            copy.parents = flags.boolean("parents")?;
        }
        Ok(copy)
    }

    fn trigger(&self) -> Result<String, String> {
        self.some()?;
        match split_command(self.rest).0.to_ascii_uppercase().as_str() {
            "ONBUILD" => Err("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".to_owned()),
            name @ ("MAINTAINER" | "FROM") => Err(format!("{name} isn't allowed as an ONBUILD trigger")),
            _ => Ok(self.rest.to_owned()),
        }
    }

    fn healthcheck(&self, flags: &mut Flags) -> Result<Healthcheck, String> {
        self.some()?;
        let (kind, rest) = split_command(self.rest);
        match kind.to_ascii_uppercase().as_str() {
            "NONE" if !rest.is_empty() => Err("HEALTHCHECK NONE takes no arguments".to_owned()),
            "NONE" => Ok(Healthcheck::None),
            "CMD" => {
                let command = Words { rest, ..*self }.command()?;
                if matches!(&command, Command::Exec(list) if list.is_empty()) || rest.is_empty() {
                    return Err("Missing command after HEALTHCHECK CMD".to_owned());
                }
                let retries = match flags.text("retries")? {
                    None => 0,
                    Some(text) => match text.parse::<i64>() {
                        Ok(count) if count >= 0 => count,
                        Ok(count) => return Err(format!("--retries cannot be negative ({count})")),
                        Err(_) => return Err(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")),
                    },
                };
                Ok(Healthcheck::Check {
                    command,
                    interval: flags.duration("interval")?,
                    timeout: flags.duration("timeout")?,
                    start_period: flags.duration("start-period")?,
                    start_interval: flags.duration("start-interval")?,
                    retries,
                })
            }
            other => Err(format!("Unknown type {other:?} in HEALTHCHECK (try CMD)")),
        }
    }
}

/// How many letters make the difference.
fn distance(one: &str, other: &str) -> usize {
    if one.len().abs_diff(other.len()) > 2 {
        return usize::MAX;
    }
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, letter) in one.chars().enumerate() {
        let mut before = row[0];
        row[0] = index + 1;
        for (column, wanted) in other.iter().enumerate() {
            let next =
                (before + usize::from(letter != *wanted)).min(row[column] + 1).min(row[column + 1] + 1);
            before = std::mem::replace(&mut row[column + 1], next);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn one(text: &str) -> Result<Instruction, String> {
        understand_one(text).map(|(step, _)| step.instruction).map_err(|error| error.message)
    }

    #[test]
    fn every_instruction_is_understood() {
        let shell = |text: &str| Command::Shell(text.to_owned());
        assert_eq!(
            one("cmd [\"a\", \"b\"]").unwrap(),
            Instruction::Cmd(Command::Exec(vec!["a".into(), "b".into()]))
        );
        assert_eq!(one("CMD [a, b]").unwrap(), Instruction::Cmd(shell("[a, b]")));
        assert_eq!(
            one("ENV A=b C=\"d e\"").unwrap(),
            Instruction::Env(vec![("A".into(), "b".into()), ("C".into(), "\"d e\"".into())])
        );
        assert_eq!(one("ENV A b  c").unwrap(), Instruction::Env(vec![("A".into(), "b  c".into())]));
        assert_eq!(
            one("ARG A B=c").unwrap(),
            Instruction::Arg(vec![("A".into(), None), ("B".into(), Some("c".into()))])
        );
        let Instruction::Copy(copy) = one("COPY --from=x --chown=1:2 --link a b /c/").unwrap() else {
            panic!()
        };
        assert_eq!(
            (copy.sources.len(), copy.target.as_str(), copy.from.as_deref(), copy.link),
            (2, "/c/", Some("x"), true)
        );
        let Instruction::Run(run) = one("RUN --mount=type=cache,target=/x --network=none make").unwrap()
        else {
            panic!()
        };
        assert_eq!((run.mounts.len(), run.network.as_deref(), run.command), (1, Some("none"), shell("make")));
        let Instruction::Healthcheck(Healthcheck::Check { interval, retries, .. }) =
            one("HEALTHCHECK --interval=1m30s --retries=2 CMD true").unwrap()
        else {
            panic!()
        };
        assert_eq!((interval, retries), (90_000_000_000, 2));
        assert_eq!(one("HEALTHCHECK NONE").unwrap(), Instruction::Healthcheck(Healthcheck::None));
    }

    #[test]
    fn what_is_wrong_is_told_in_dockers_words() {
        for (text, message) in [
            ("FRMO x", "unknown instruction: FRMO (did you mean FROM?)"),
            ("banana", "unknown instruction: banana"),
            ("FROM a b", "FROM requires either one or three arguments"),
            (
                "FROM a AS 1x",
                "invalid name for build stage: \"1x\", name can't start with a number or contain symbols",
            ),
            ("ENV A", "ENV must have two arguments"),
            ("ENV A=b c", "Syntax error - can't find = in \"c\". Must be of the form: name=value"),
            (
                "COPY a",
                "COPY requires at least two arguments, but only one was provided. Destination could not be determined",
            ),
            ("COPY --form=x a b", "unknown flag: --form"),
            ("USER", "USER requires exactly one argument"),
            ("SHELL sh", "SHELL requires the arguments to be in JSON form: sh"),
            ("CMD [1]", "when using JSON array syntax, arrays must be comprised of strings only"),
            ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
            ("ONBUILD ONBUILD RUN x", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
            ("HEALTHCHECK PING", "Unknown type \"PING\" in HEALTHCHECK (try CMD)"),
            ("EXPOSE", "EXPOSE requires at least one argument"),
        ] {
            let found = one(text).unwrap_err();
            assert_eq!(found, message, "{text}");
        }
    }
}
