//! The scripts, and how they come to PowerShell.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};

const COMMON: &str = include_str!("../../../templates/hyperv/common.ps1");
const RUN: &str = include_str!("../../../templates/hyperv/run.ps1");

/// One thing that PowerShell is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Check,
    Create,
    Start,
    Stop,
    Kill,
    Remove,
    Describe,
}

impl Operation {
    /// The attempt, as an error is named after it.
    pub(crate) fn attempt(self) -> &'static str {
        match self {
            Self::Check => "Could not find out whether Hyper-V works here",
            Self::Create => "Could not create the VM",
            Self::Start => "Could not start the VM",
            Self::Stop => "Could not shut the VM down",
            Self::Kill => "Could not turn the VM off",
            Self::Remove => "Could not remove the VM",
            Self::Describe => "Could not ask Hyper-V for its VMs",
        }
    }

    /// Whether something may have been changed by a run of which nobody knows how it ended.
    pub(crate) fn changes(self) -> bool {
        !matches!(self, Self::Check | Self::Describe)
    }

    /// How long a run may take: PowerShell alone takes seconds on a busy machine, and Hyper-V waits for guests.
    pub(crate) fn limit(self) -> Duration {
        match self {
            Self::Check | Self::Describe => Duration::from_mins(1),
            Self::Create | Self::Start | Self::Kill | Self::Remove => Duration::from_mins(3),
            // Below five minutes, after which `Stop-VM -Force` no longer asks.
            Self::Stop => Duration::from_mins(4),
        }
    }

    fn body(self) -> &'static str {
        match self {
            Self::Check => include_str!("../../../templates/hyperv/check.ps1"),
            Self::Create => include_str!("../../../templates/hyperv/create.ps1"),
            Self::Start => include_str!("../../../templates/hyperv/start.ps1"),
            Self::Stop | Self::Kill => include_str!("../../../templates/hyperv/stop.ps1"),
            Self::Remove => include_str!("../../../templates/hyperv/remove.ps1"),
            Self::Describe => include_str!("../../../templates/hyperv/describe.ps1"),
        }
    }

    /// The whole script: always the same text, whatever it is about.
    pub(crate) fn script(self) -> String {
        [COMMON, self.body(), RUN].concat()
    }
}

/// The arguments with which PowerShell, of any version, runs a script and hands it what comes in as `$input`.
///
/// The script is an argument and no file: a file would have to lie where nobody else can write, and would not run at all
/// where the machine's policy asks for signatures. An argument of this kind has no quotes that could go wrong.
/// `-OutputFormat Text` keeps Windows PowerShell from writing what goes to standard error as XML.
pub(crate) fn arguments(script: &str) -> Vec<String> {
    let bytes: Vec<u8> = script.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let words = [
        "-NoLogo",
        "-NoProfile",
        "-NonInteractive",
        "-InputFormat",
        "Text",
        "-OutputFormat",
        "Text",
        "-EncodedCommand",
    ];
    words.into_iter().map(str::to_owned).chain([STANDARD.encode(bytes)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_fits_a_command_line_of_windows() {
        // CreateProcess takes 32,767 characters; the program's path and what it may be quoted by come on top.
        use Operation::{Check, Create, Describe, Kill, Remove, Start, Stop};
        for operation in [Check, Create, Start, Stop, Kill, Remove, Describe] {
            let length: usize = arguments(&operation.script()).iter().map(|word| word.len() + 1).sum();
            assert!(length < 30_000, "{operation:?} has {length} characters");
        }
    }

    #[test]
    fn scripts_are_ascii() {
        // Windows PowerShell reads a script without a mark in the machine's code page.
        assert!(Operation::Create.script().is_ascii());
    }
}
