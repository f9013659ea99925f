//! What instructions that touch no files make of an image's configuration.

use std::path::Path;

use engine_kernel::confine::clean;
use engine_model::wire::ImageConfig;
use serde_json::json;

use super::instruction::{Command, Healthcheck, Instruction, understand_one};
use super::source::ParseError;
use super::words::{Variables, expand, expand_words};

/// Where commands run that do not say their shell.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];
/// A port range is no reason to write down more.
const MOST_PORTS: usize = 65_536;

/// The configuration of an image that is being made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Draft {
    pub(crate) config: ImageConfig,
    pub(crate) author: String,
    /// A `CMD` of this very Dockerfile stays when an `ENTRYPOINT` comes.
    pub(crate) has_own_cmd: bool,
}

/// What an instruction could not do.
pub(crate) type Refused = String;

impl Draft {
    pub(crate) fn shell(&self) -> Vec<String> {
        match &self.config.shell {
            Some(shell) if !shell.is_empty() => shell.clone(),
            _ => SHELL.map(str::to_owned).to_vec(),
        }
    }

    /// The words that a command is run with.
    pub(crate) fn words(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(words) => words.clone(),
            Command::Shell(text) => {
                let mut words = self.shell();
                words.push(text.clone());
                words
            }
        }
    }

    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        self.config.env.iter().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
    }

    /// Follows an instruction that touches no files, and says it again as the history shows it. `None` if it is another one.
    pub(crate) fn follow(
        &mut self,
        instruction: &Instruction,
        escape: char,
        variables: &dyn Variables,
    ) -> Result<Option<String>, Refused> {
        let put_in = |text: &str| expand(text, escape, variables).map_err(|error| error.to_string());
        let shown = match instruction {
            Instruction::Cmd(command) => {
                let words = self.words(command);
                let shown = format!("CMD {}", list(&words));
                self.config.cmd = Some(words).filter(|words| !words.is_empty());
                self.has_own_cmd = true;
                shown
            }
            Instruction::Entrypoint(command) => {
                let words = self.words(command);
                let shown = format!("ENTRYPOINT {}", list(&words));
                self.config.entrypoint = Some(words).filter(|words| !words.is_empty());
                if !self.has_own_cmd {
                    self.config.cmd = None;
                }
                shown
            }
            Instruction::Shell(words) => {
                self.config.shell = Some(words.clone());
                format!("SHELL {}", list(words))
            }
            Instruction::Env(pairs) => {
                let mut shown = "ENV".to_owned();
                let mut values = Vec::new();
                for (name, value) in pairs {
                    values.push((put_in(name)?, put_in(value)?));
                }
                for (name, value) in values {
                    if name.is_empty() {
                        return Err("ENV names can not be blank".to_owned());
                    }
                    let entry = format!("{name}={value}");
                    shown = format!("{shown} {entry}");
                    let start = format!("{name}=");
                    match self.config.env.iter_mut().find(|known| known.starts_with(&start)) {
                        Some(known) => *known = entry,
                        None => self.config.env.push(entry),
                    }
                }
                shown
            }
            Instruction::Label(pairs) => {
                let mut shown = "LABEL".to_owned();
                for (name, value) in pairs {
                    let (name, value) = (put_in(name)?, put_in(value)?);
                    if name.is_empty() {
                        return Err("LABEL names can not be blank".to_owned());
                    }
                    shown = format!("{shown} {name}={value}");
                    self.config.labels.insert(name, value);
                }
                shown
            }
            Instruction::Maintainer(name) => {
                self.author = put_in(name)?;
                format!("MAINTAINER {}", self.author)
            }
            Instruction::Expose(text) => {
                let words = expand_words(text, escape, variables).map_err(|error| error.to_string())?;
                for word in &words {
                    for port in ports(word)? {
                        self.config.exposed_ports.insert(port);
                    }
                }
                format!("EXPOSE {}", words.join(" "))
            }
            Instruction::Volume(paths) => {
                let paths = paths.iter().map(|path| put_in(path)).collect::<Result<Vec<_>, _>>()?;
                for path in &paths {
                    if path.trim().is_empty() {
                        return Err("VOLUME specified can not be an empty string".to_owned());
                    }
                    self.config.volumes.insert(path.clone());
                }
                format!("VOLUME {}", list(&paths))
            }
            Instruction::User(name) => {
                self.config.user = put_in(name)?;
                format!("USER {}", self.config.user)
            }
            Instruction::Workdir(path) => {
                let path = put_in(path)?;
                if path.is_empty() {
                    return Err("cannot normalize nothing".to_owned());
                }
                self.config.working_dir = absolute(&self.config.working_dir, &path);
                format!("WORKDIR {}", self.config.working_dir)
            }
            Instruction::StopSignal(text) => {
                let signal = put_in(text)?;
                if !is_signal(&signal) {
                    return Err(format!("invalid signal: {signal}"));
                }
                self.config.stop_signal = Some(signal.clone());
                format!("STOPSIGNAL {signal}")
            }
            Instruction::Onbuild(trigger) => {
                self.config.on_build.get_or_insert_default().push(trigger.clone());
                format!("ONBUILD {trigger}")
            }
            Instruction::Healthcheck(check) => {
                let check = health(check, &self.shell());
                let shown = format!("HEALTHCHECK {check}");
                self.config.healthcheck = Some(check);
                shown
            }
            Instruction::From(_) | Instruction::Arg(_) | Instruction::Run(_) | Instruction::Copy(_) => {
                return Ok(None);
            }
        };
        Ok(Some(shown))
    }
}

fn list(words: &[String]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| json!(word).to_string()).collect();
    format!("[{}]", quoted.join(" "))
}

/// A path from a working directory on.
pub(crate) fn absolute(folder: &str, path: &str) -> String {
    clean(&Path::new("/").join(folder).join(path)).to_string_lossy().into_owned()
}

/// `80`, `80/udp`, `8000-8010/tcp`, as the configuration writes them.
fn ports(word: &str) -> Result<Vec<String>, Refused> {
    let invalid = || format!("invalid containerPort: {word}");
    let (range, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    // `docker run` knows more than a port here; who exposes one does not.
    let range = range.rsplit(':').next().unwrap_or(range);
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("invalid proto: {protocol}"));
    }
    let (from, to) = range.split_once('-').unwrap_or((range, range));
    let number = |text: &str| text.parse::<u16>().ok().ok_or_else(invalid);
    let (from, to) = (number(from)?, number(to)?);
    if from > to || usize::from(to - from) > MOST_PORTS {
        return Err(invalid());
    }
    Ok((from..=to).map(|port| format!("{port}/{protocol}")).collect())
}

fn health(check: &Healthcheck, shell: &[String]) -> serde_json::Value {
    let Healthcheck::Check { command, interval, timeout, start_period, start_interval, retries } = check
    else {
        return json!({ "Test": ["NONE"] });
    };
    let test: Vec<String> = match command {
        Command::Exec(words) => std::iter::once("CMD".to_owned()).chain(words.iter().cloned()).collect(),
        // The container's shell is asked, which is the image's.
        Command::Shell(text) if shell == SHELL => vec!["CMD-SHELL".to_owned(), text.clone()],
        Command::Shell(text) => {
            let words = std::iter::once("CMD").chain(shell.iter().map(String::as_str)).chain([text.as_str()]);
            words.map(str::to_owned).collect()
        }
    };
    let mut shown = json!({ "Test": test });
    for (name, value) in [
        ("Interval", interval),
        ("Timeout", timeout),
        ("StartPeriod", start_period),
        ("StartInterval", start_interval),
        ("Retries", retries),
    ] {
        if *value != 0 {
            shown[name] = json!(value);
        }
    }
    shown
}

const SIGNALS: &str = "ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT STOP SYS TERM \
                       TRAP TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ";

fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<u8>() {
        return (1..=64).contains(&number);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let is_real_time = |start: &str| {
        name.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.parse::<u8>().is_ok())
    };
    SIGNALS.split_whitespace().any(|known| known == name)
        || is_real_time("RTMIN+")
        || is_real_time("RTMAX-")
        || matches!(name, "RTMIN" | "RTMAX")
}

/// Changes a configuration as `docker commit --change` and `docker import --change` do.
pub fn change(config: &mut ImageConfig, changes: &[String]) -> Result<(), ParseError> {
    let mut draft = Draft { config: std::mem::take(config), ..Draft::default() };
    for text in changes {
        let (step, escape) = understand_one(text)?;
        let environment = draft.config.env.clone();
        let variables = move |name: &str| {
            let found = environment.iter().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='));
            found.map(str::to_owned)
        };
        let refused = |message: String| ParseError::new(step.line, message);
        let not_here = match step.instruction {
            Instruction::Maintainer(_) | Instruction::Shell(_) => true,
            _ => draft.follow(&step.instruction, escape, &variables).map_err(refused)?.is_none(),
        };
        if not_here {
            let name = step.text.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
            return Err(refused(format!("{name} is not a valid change command")));
        }
    }
    *config = draft.config;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn changed(changes: &[&str]) -> Result<ImageConfig, String> {
        let mut config = ImageConfig {
            env: vec!["PATH=/bin".to_owned()],
            cmd: Some(vec!["sh".to_owned()]),
            ..ImageConfig::default()
        };
        let changes: Vec<String> = changes.iter().map(|text| (*text).to_owned()).collect();
        change(&mut config, &changes).map_err(|error| error.message)?;
        Ok(config)
    }

    #[test]
    fn changes_are_followed() {
        let config = changed(&[
            "ENV PATH=$PATH:/x A='b c'",
            "WORKDIR /srv",
            "WORKDIR sub/../app",
            "EXPOSE 80 90-91/UDP",
            "VOLUME [\"/data\", \"/more\"]",
            "LABEL a=\"$A\"",
            "USER web",
            "STOPSIGNAL SIGQUIT",
            "ONBUILD RUN true",
            "HEALTHCHECK --retries=3 CMD curl localhost",
            "ENTRYPOINT [\"/app\"]",
        ])
        .unwrap();
        assert_eq!(config.env, ["PATH=/bin:/x", "A=b c"]);
        assert_eq!(config.working_dir, "/srv/app");
        assert_eq!(config.exposed_ports.into_iter().collect::<Vec<_>>(), ["80/tcp", "90/udp", "91/udp"]);
        assert_eq!(config.volumes.len(), 2);
        assert_eq!(config.labels["a"], "b c");
        assert_eq!((config.user.as_str(), config.stop_signal.as_deref()), ("web", Some("SIGQUIT")));
        assert_eq!(config.on_build.unwrap(), ["RUN true"]);
        assert_eq!(
            config.healthcheck.unwrap(),
            json!({ "Test": ["CMD-SHELL", "curl localhost"], "Retries": 3 })
        );
        // A new entry point does not go with an old command.
        assert_eq!((config.entrypoint.unwrap(), config.cmd), (vec!["/app".to_owned()], None));
        let config = changed(&["CMD echo hi", "ENTRYPOINT [\"/app\"]"]).unwrap();
        assert_eq!(config.cmd.unwrap(), ["/bin/sh", "-c", "echo hi"]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (change, message) in [
            ("RUN true", "RUN is not a valid change command"),
            ("COPY a b", "COPY is not a valid change command"),
            ("EXPOSE x", "invalid containerPort: x"),
            ("EXPOSE 80/icmp", "invalid proto: icmp"),
            ("STOPSIGNAL SIGFOO", "invalid signal: SIGFOO"),
            ("VOLUME [\"\"]", "VOLUME specified can not be an empty string"),
        ] {
            assert_eq!(changed(&[change]).unwrap_err(), message);
        }
    }
}
