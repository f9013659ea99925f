//! What `showvminfo --machinereadable` says of a VM, as far as it matters here.

use std::{collections::BTreeMap, net::Ipv4Addr, path::PathBuf};

use machine_driver::{DriverError, State};

use crate::{failure::CallError, program::VBoxManage};

/// More lines than any VM has.
const MOST_LINES: usize = 20_000;

/// A registered VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Vm {
    pub(crate) uuid: String,
    pub(crate) state: State,
    /// Where its settings are. `None`: it cannot be read.
    pub(crate) settings: Option<PathBuf>,
    pub(crate) forwards: Vec<Forward>,
}

/// A rule of its first interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Forward {
    pub(crate) name: String,
    pub(crate) protocol: String,
    pub(crate) address: Option<Ipv4Addr>,
    pub(crate) port: u16,
    pub(crate) guest_port: u16,
}

impl Forward {
    pub(crate) fn tcp(name: &str, address: Ipv4Addr, port: u16, guest_port: u16) -> Self {
        Self { name: name.to_owned(), protocol: "tcp".into(), address: Some(address), port, guest_port }
    }

    /// As it is written and told: `ssh,tcp,127.1.2.3,22,,22`.
    pub(crate) fn rule(&self) -> String {
        let Self { name, protocol, address, port, guest_port } = self;
        let address = address.map(|address| address.to_string()).unwrap_or_default();
        format!("{name},{protocol},{address},{port},,{guest_port}")
    }

    fn parse(rule: &str) -> Option<Self> {
        let parts: Vec<&str> = rule.split(',').collect();
        let [name, protocol, address, port, _, guest_port] = parts[..] else { return None };
        let address = match address {
            "" => None,
            address => Some(address.parse().ok()?),
        };
        Some(Self {
            name: name.to_owned(),
            protocol: protocol.to_owned(),
            address,
            port: port.parse().ok()?,
            guest_port: guest_port.parse().ok()?,
        })
    }
}

/// The VM with this name or id; `None`: VirtualBox says that there is none.
pub(crate) async fn look_up(manage: &VBoxManage, name: &str) -> Result<Option<Vm>, DriverError> {
    let attempt = || format!("Could not ask VirtualBox for the VM `{name}`");
    match manage.call(&["showvminfo", name, "--machinereadable"]).await {
        Ok(answer) => parse(&answer).map(Some).map_err(|reason| {
            DriverError::unknown(attempt()).with_source(format!("Its answer is not understood: {reason}"))
        }),
        Err(CallError::Refused(refusal)) if refusal.is_not_found() => Ok(None),
        Err(CallError::Refused(refusal)) if refusal.is_inaccessible() => {
            Ok(Some(Vm { uuid: name.to_owned(), state: State::Error, settings: None, forwards: Vec::new() }))
        }
        Err(error) => Err(error.into_error(attempt())),
    }
}

fn parse(answer: &str) -> Result<Vm, String> {
    let values: BTreeMap<String, String> = answer.lines().take(MOST_LINES).filter_map(line).collect();
    let uuid = values.get("UUID").ok_or("it names no UUID")?.clone();
    let word = values.get("VMState").ok_or("it names no state")?;
    let state = state(word).ok_or_else(|| format!("its state is `{}`", word.escape_debug()))?;
    let forwards = values
        .iter()
        .filter(|(key, _)| key.starts_with("Forwarding("))
        .map(|(_, rule)| Forward::parse(rule).ok_or_else(|| format!("a rule is `{}`", rule.escape_debug())))
        .collect::<Result<_, _>>()?;
    let settings = values.get("CfgFile").filter(|_| word != "inaccessible").map(PathBuf::from);
    Ok(Vm { uuid, state, settings, forwards })
}

/// `key="value"`, `"key"="value"` or `key=value`. Other lines are no facts.
fn line(text: &str) -> Option<(String, String)> {
    let text = text.trim_end_matches('\r');
    let (key, value) = match text.strip_prefix('"') {
        Some(rest) => rest.split_once("\"=")?,
        None => text.split_once('=')?,
    };
    let is_key = !key.is_empty() && !key.contains(char::is_whitespace) || text.starts_with('"');
    if !is_key {
        return None;
    }
    let value = match value.strip_prefix('"') {
        Some(rest) => unescaped(rest.strip_suffix('"')?),
        None => value.to_owned(),
    };
    Some((key.to_owned(), value))
}

/// Quotes and backslashes are escaped by most values, by some they are not.
fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let escaped =
            (character == '\\').then(|| characters.next_if(|next| matches!(next, '"' | '\\'))).flatten();
        plain.push(escaped.unwrap_or(character));
    }
    plain
}

/// VirtualBox's words for the states of a VM.
fn state(word: &str) -> Option<State> {
    Some(match word {
        "running" | "livesnapshotting" | "onlinesnapshotting" | "deletingsnapshotlive" | "teleporting" => {
            State::Running
        }
        "paused" | "deletingsnapshotlivepaused" | "teleportingpausedvm" => State::Paused,
        "saved" | "aborted-saved" => State::Saved,
        "poweroff" | "aborted" | "teleported" | "restoringsnapshot" | "deletingsnapshot" | "snapshotting" => {
            State::Stopped
        }
        "starting" | "restoring" | "settingup" => State::Starting,
        "stopping" | "saving" => State::Stopping,
        "gurumeditation" | "inaccessible" => State::Error,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_vm_of_version_7_2_is_read() {
        let vm = parse(include_str!("../recorded/7.2/showvminfo.txt")).unwrap();
        assert_eq!(vm.uuid, "6f0e7c1a-5d2b-4f6e-9c3a-2b8d4e1f0a57");
        assert_eq!(vm.state, State::Stopped);
        let rules: Vec<String> = vm.forwards.iter().map(Forward::rule).collect();
        assert_eq!(rules, ["engine,tcp,127.45.6.7,2376,,2376", "ssh,tcp,127.45.6.7,2222,,22"]);
        assert!(vm.settings.unwrap().ends_with(format!("mc1-{0}/mc1-{0}.vbox", vm.uuid)));
    }

    #[test]
    fn values_with_quotes_are_read_whether_they_are_escaped_or_not() {
        let of = |text: &str| line(text).unwrap();
        assert_eq!(of(r#"CfgFile="/a, b\"c\\d$(x)'é/x.vbox""#).1, r#"/a, b"c\d$(x)'é/x.vbox"#);
        assert_eq!(
            of(r#"uartmode1="file,/a, b"c\d$(x)/console.log""#).1,
            r#"file,/a, b"c\d$(x)/console.log"#
        );
        assert_eq!(of(r#""SATA-0-0"="none""#), ("SATA-0-0".into(), "none".into()));
        assert_eq!(of("memory=1024\r"), ("memory".into(), "1024".into()));
        for text in ["", " rec_screen0", "\t Please install = x", "x=\"open", "=", "WARNING: a=b"] {
            assert_eq!(line(text), None, "{text}");
        }
    }

    #[test]
    fn an_answer_that_lacks_something_is_not_guessed() {
        for (answer, reason) in [
            ("", "it names no UUID"),
            ("UUID=\"x\"", "it names no state"),
            ("UUID=\"x\"\nVMState=\"dancing\"", "its state is `dancing`"),
            ("UUID=\"x\"\nVMState=\"running\"\nForwarding(0)=\"ssh,tcp\"", "a rule is `ssh,tcp`"),
            (
                "UUID=\"x\"\nVMState=\"running\"\nForwarding(0)=\"ssh,tcp,1.2.3.4,99999,,22\"",
                "a rule is `ssh,tcp,1.2.3.4,99999,,22`",
            ),
        ] {
            assert_eq!(parse(answer).unwrap_err(), reason);
        }
        let old =
            parse("name=\"<inaccessible>\"\nUUID=\"x\"\nCfgFile=\"/x\"\nVMState=\"inaccessible\"").unwrap();
        assert_eq!((old.state, old.settings), (State::Error, None));
    }

    #[test]
    fn every_state_has_a_word() {
        for (word, expected) in [
            ("running", State::Running),
            ("paused", State::Paused),
            ("saved", State::Saved),
            ("aborted-saved", State::Saved),
            ("aborted", State::Stopped),
            ("poweroff", State::Stopped),
            ("restoring", State::Starting),
            ("saving", State::Stopping),
            ("gurumeditation", State::Error),
        ] {
            assert_eq!(state(word), Some(expected));
        }
    }
}
