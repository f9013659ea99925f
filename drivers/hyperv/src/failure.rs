//! What an operation says when it could not be done, and what that means to the caller.

use std::{io, path::Path};

use machine_driver::{DriverError, ErrorKind};
use serde::Deserialize;

use crate::scripts::Operation;

/// HRESULTs, as signed numbers ([MS-ERREF] 2.1.1).
const ACCESS_DENIED: i64 = -2_147_024_891;
const SHARING_VIOLATION: i64 = -2_147_024_864;
const DISK_FULL: [i64; 2] = [-2_147_024_784, -2_147_024_857];
const OUT_OF_MEMORY: i64 = -2_147_024_882;

const TURN_ON: &str = "In a PowerShell of an administrator, `Enable-WindowsOptionalFeature -Online -FeatureName Microsoft-Hyper-V -All` turns it on; then restart Windows";
const JOIN: &str = "In a PowerShell of an administrator, `Add-LocalGroupMember -SID S-1-5-32-578 -Member $env:USERNAME` makes you one of the Hyper-V Administrators; then sign out and in again";
/// Names that are shown in a hint.
const NAMES: usize = 20;

/// The one document that comes out of a run.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Answer<T> {
    Answer(T),
    Error(Failure),
}

/// Why an operation was not done.
#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(crate) enum Failure {
    /// Hyper-V's module for PowerShell is not installed.
    Module,
    /// Hyper-V is not installed.
    Feature,
    /// Its service does not run.
    Service,
    /// The hypervisor was not started with Windows.
    Hypervisor,
    /// The user is no administrator of Hyper-V.
    Rights,
    /// Another process is at work on the same host.
    Busy,
    /// There is no such virtual switch; these are there.
    Network {
        #[serde(default)]
        names: Vec<String>,
    },
    /// PowerShell or Hyper-V said so.
    Failed {
        #[serde(default)]
        id: Option<String>,
        #[serde(default)]
        category: Option<String>,
        #[serde(default)]
        code: Option<i64>,
        #[serde(default)]
        text: Option<String>,
    },
}

pub(crate) fn not_windows() -> DriverError {
    DriverError::refused("Hyper-V is a part of Windows, and this is none")
        .with_hint("`machine create -d qemu` makes VMs on Linux")
}

pub(crate) fn no_powershell(program: &Path, error: io::Error) -> DriverError {
    DriverError::refused(format!("Could not run PowerShell as `{}`", program.display()))
        .with_source(error)
        .with_hint("Hyper-V is told what to do through PowerShell, which comes with Windows")
}

/// The failure as the caller reads it.
pub(crate) fn told(operation: Operation, failure: Failure) -> DriverError {
    match failure {
        Failure::Module => DriverError::refused("Hyper-V's module for PowerShell is not installed").with_hint(TURN_ON),
        Failure::Feature => DriverError::refused("Hyper-V is not turned on").with_hint(TURN_ON),
        Failure::Service => DriverError::refused("The service of Hyper-V, `vmms`, does not run")
            .with_hint("In a PowerShell of an administrator, `Start-Service vmms` starts it"),
        Failure::Hypervisor => DriverError::refused("The hypervisor of Hyper-V does not run").with_hint(
            "Turn on virtualization in the firmware, or nested virtualization where this is a VM itself; then `bcdedit /set hypervisorlaunchtype auto` as an administrator, and restart Windows",
        ),
        Failure::Rights => rights(),
        Failure::Busy => DriverError::not_ready("Another command is at work on this VM"),
        Failure::Network { names } => network(&names),
        Failure::Failed { id, category, code, text } => {
            let id = id.unwrap_or_default();
            failed(operation, &id, &category.unwrap_or_default(), code.unwrap_or_default(), text.as_deref())
        }
    }
}

fn rights() -> DriverError {
    DriverError::new(
        ErrorKind::NeedsElevation { how: JOIN.to_owned() },
        "Hyper-V serves its administrators only, and you are none of them",
    )
}

fn network(names: &[String]) -> DriverError {
    let error = DriverError::refused("There is no such virtual switch");
    if names.is_empty() {
        return error.with_hint(
            "This machine has none; as an administrator, `New-VMSwitch -Name machine -NetAdapterName Ethernet` makes one of a network adapter",
        );
    }
    let quote = |name: &String| format!("`{}`", plain(name));
    let listed: Vec<String> = names.iter().take(NAMES).map(quote).collect();
    error.with_hint(format!("Name one of these with `--hyperv-virtual-switch`: {}", listed.join(", ")))
}

/// By identifier, category and code; the text is in the system's language and only shown.
fn failed(operation: Operation, id: &str, category: &str, code: i64, text: Option<&str>) -> DriverError {
    let identifier = id.split(',').next().unwrap_or_default();
    let attempt = operation.attempt();
    let error = match (identifier, category) {
        ("CommandNotFoundException" | "CouldNotAutoLoadModule", _) => {
            DriverError::refused("Hyper-V's module for PowerShell is not installed").with_hint(TURN_ON)
        }
        ("AccessDenied" | "UnauthorizedAccess", _) | (_, "PermissionDenied") => {
            DriverError::new(ErrorKind::NeedsElevation { how: JOIN.to_owned() }, attempt)
        }
        _ if code == ACCESS_DENIED => {
            DriverError::new(ErrorKind::NeedsElevation { how: JOIN.to_owned() }, attempt)
        }
        ("OutOfMemory", _) => no_memory(attempt),
        _ if code == OUT_OF_MEMORY => no_memory(attempt),
        _ if DISK_FULL.contains(&code) => DriverError::new(ErrorKind::NoCapacity, attempt).with_hint(
            "The disk is full: make room where the store is, or name another place with `--storage-path`",
        ),
        ("InvalidState", _) => DriverError::not_ready(attempt)
            .with_hint("The VM is between two states: try again, or look at it in the Hyper-V Manager"),
        _ if code == SHARING_VIOLATION => DriverError::failed(attempt).with_hint(
            "Another program holds one of the VM's files open, such as a backup or a virus scanner",
        ),
        _ => DriverError::failed(attempt),
    };
    let code = u32::from_ne_bytes(i32::try_from(code).unwrap_or_default().to_ne_bytes());
    let facts = format!("{} (0x{code:08x})", if id.is_empty() { category } else { id });
    match text.map(plain).filter(|text| !text.is_empty()) {
        Some(text) => error.with_causes(vec![text, plain(&facts)]),
        None => error.with_causes(vec![plain(&facts)]),
    }
}

fn no_memory(attempt: &str) -> DriverError {
    DriverError::new(ErrorKind::NoCapacity, attempt).with_hint(
        "There is not enough free memory: stop other VMs or programs, or make the host with less by `--hyperv-memory`",
    )
}

/// On one line and of a bounded length.
fn plain(text: &str) -> String {
    let line: String = text
        .chars()
        .map(|character| if character.is_control() { ' ' } else { character })
        .take(500)
        .collect();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(text: &str) -> DriverError {
        match serde_json::from_str::<Answer<()>>(text).unwrap() {
            Answer::Error(failure) => told(Operation::Start, failure),
            Answer::Answer(()) => panic!("{text}"),
        }
    }

    #[test]
    fn what_a_failure_is_does_not_hang_on_its_text() {
        let denied = read(
            r#"{"error":{"kind":"failed","id":"AccessDenied,Microsoft.HyperV.PowerShell.Commands.StartVM","category":"PermissionDenied","code":-2146233088,"text":"Sie verfügen nicht über\r\ndie erforderliche Berechtigung."}}"#,
        );
        assert!(matches!(denied.kind(), ErrorKind::NeedsElevation { .. }));
        let cause = std::error::Error::source(&denied).unwrap().to_string();
        assert_eq!(cause, "Sie verfügen nicht über die erforderliche Berechtigung.");
        let by_code = read(r#"{"error":{"kind":"failed","code":-2147024891,"text":"拒否"}}"#);
        assert!(matches!(by_code.kind(), ErrorKind::NeedsElevation { .. }));
        let full = read(r#"{"error":{"kind":"failed","id":"x","code":-2147024784}}"#);
        assert_eq!(*full.kind(), ErrorKind::NoCapacity);
        let memory = read(r#"{"error":{"kind":"failed","id":"OutOfMemory,x"}}"#);
        assert_eq!(*memory.kind(), ErrorKind::NoCapacity);
        let between = read(r#"{"error":{"kind":"failed","id":"InvalidState,x","text":null}}"#);
        assert_eq!(*between.kind(), ErrorKind::NotReady);
    }

    #[test]
    fn a_switch_that_is_missing_comes_with_those_that_are_there() {
        let error = read(r#"{"error":{"kind":"network","names":["Default Switch","lab\u001b[1m"]}}"#);
        assert_eq!(
            error.hint(),
            Some("Name one of these with `--hyperv-virtual-switch`: `Default Switch`, `lab [1m`")
        );
    }
}
