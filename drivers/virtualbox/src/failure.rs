//! What VBoxManage says when it fails: its codes, and what they mean to a user.

use std::{io, path::PathBuf};

use machine_driver::DriverError;

/// Bounds what is kept of a complaint.
const LONGEST: usize = 400;

/// Why a call gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("`{}` cannot be run", program.display())]
    Run { program: PathBuf, source: io::Error },
    #[error("`VBoxManage {command}` did not come back within {seconds} s")]
    Silent { command: String, seconds: u64 },
    #[error("Another call of VBoxManage by this user does not end")]
    Lock { source: io::Error },
    #[error("{0}")]
    Refused(Refusal),
}

/// What VBoxManage refused, and its codes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    command: String,
    text: String,
    /// `VBOX_E_OBJECT_NOT_FOUND`, `E_ACCESSDENIED`, `NS_ERROR_FAILURE`, …
    code: Option<String>,
    /// The same as a number, which is the same on all systems.
    number: Option<u32>,
    /// `VERR_ALREADY_EXISTS`, … in their order.
    causes: Vec<String>,
    /// It failed and said nothing at all.
    is_silent: bool,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "`VBoxManage {}` failed: {}", self.command, self.text)
    }
}

const NOT_FOUND: u32 = 0x80bb_0001;
const VM_ERROR: u32 = 0x80bb_0003;
const INVALID_OBJECT_STATE: u32 = 0x80bb_0007;
const OBJECT_IN_USE: u32 = 0x80bb_000c;
const ACCESS_DENIED: u32 = 0x8007_0005;
/// The service ends right now, or has just ended: RPC's word on Windows, XPCOM's elsewhere.
const SERVICE_GONE: [u32; 3] = [0x8007_06ba, 0x8007_06be, 0x8004_0006];

impl Refusal {
    pub(crate) fn parse(command: &str, complaint: &str) -> Self {
        let lines: Vec<&str> =
            complaint.lines().filter_map(|line| line.trim().strip_prefix("VBoxManage: error: ")).collect();
        let (details, said): (Vec<&str>, Vec<&str>) = lines
            .into_iter()
            .partition(|line| line.starts_with("Details: ") || line.starts_with("Context: "));
        let code_line = details
            .iter()
            .chain(&said)
            .find_map(|line| line.split_once("code ").or_else(|| line.split_once("Code ")));
        let (mut code, mut number) = (None, None);
        if let Some((_, rest)) = code_line {
            let word = rest.split([' ', ',']).next().unwrap_or_default();
            code = Some(word.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect());
            number = rest
                .split_once("(0x")
                .and_then(|(_, digits)| u32::from_str_radix(digits.split(')').next()?, 16).ok());
        }
        let causes = complaint
            .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .filter(|word| word.starts_with("VERR_"))
            .map(str::to_owned)
            .collect();
        let text = if said.is_empty() {
            complaint
                .lines()
                .rfind(|line| !line.trim().is_empty())
                .unwrap_or("it does not say why")
                .to_owned()
        } else {
            said.join(" ")
        };
        let text = text.chars().filter(|c| !c.is_control()).take(LONGEST).collect();
        let is_silent = complaint.trim().is_empty();
        Self { command: command.to_owned(), text, code, number, causes, is_silent }
    }

    /// There is no such VM or medium.
    pub(crate) fn is_not_found(&self) -> bool {
        self.number == Some(NOT_FOUND)
    }

    /// The VM is registered, and its settings cannot be read.
    pub(crate) fn is_inaccessible(&self) -> bool {
        self.number == Some(ACCESS_DENIED) && self.text.contains("functionality is limited")
    }

    /// Whether a controller, a rule or a medium of that name is there already, or is used by a VM.
    pub(crate) fn is_in_use(&self) -> bool {
        self.number == Some(OBJECT_IN_USE)
    }

    /// `controlvm` of a VM that is off.
    pub(crate) fn is_not_running(&self) -> bool {
        self.text.contains("is not currently running")
    }

    fn has(&self, cause: &str) -> bool {
        self.causes.iter().any(|known| known == cause)
    }

    /// Whether it is about to pass: the VM or its session is between two states, or the service is.
    pub(crate) fn is_passing(&self) -> bool {
        let is_not_ready = self.number == Some(ACCESS_DENIED) && self.text.contains("not ready");
        let is_between = self.number == Some(INVALID_OBJECT_STATE)
            && ["locked", "being", "busy", "pending"].iter().any(|word| self.text.contains(word));
        let is_without_service = self.number.is_some_and(|number| SERVICE_GONE.contains(&number))
            || self.text.contains("Failed to create the VirtualBox object");
        // Two that look at one VM at once, of which the other may be the user's; and once in a while without a word.
        let is_disturbed = self.number == Some(VM_ERROR) && self.text.contains("E_ACCESSDENIED")
            || self.is_silent && self.command == "showvminfo";
        is_not_ready || is_between || is_without_service || is_disturbed
    }

    /// What the user can do about it, by the code.
    fn hint(&self) -> Option<&'static str> {
        let of_cause = [
            ("VERR_DISK_FULL", "Make room on the disk, and run the same command again"),
            (
                "VERR_NOT_SUPPORTED",
                "VirtualBox cannot read this image: `qemu-img convert -O vdi IMAGE IMAGE.vdi` makes one that it can",
            ),
            ("VERR_VM_DRIVER_NOT_INSTALLED", "Load VirtualBox's kernel module: `sudo modprobe vboxdrv`"),
            (
                "VERR_VM_DRIVER_VERSION_MISMATCH",
                "Restart this machine: the loaded kernel module is another version's",
            ),
            ("VERR_SUPDRV_NOT_INSTALLED", "Load VirtualBox's kernel module: `sudo modprobe vboxdrv`"),
            (
                "VERR_VMX_NO_VMX",
                "This processor has no VT-x, or this machine is a VM itself without nested virtualisation",
            ),
            (
                "VERR_SVM_NO_SVM",
                "This processor has no AMD-V, or this machine is a VM itself without nested virtualisation",
            ),
            ("VERR_VMX_MSR_ALL_VMX_DISABLED", "Switch VT-x on in this machine's firmware settings"),
            ("VERR_VMX_MSR_VMX_DISABLED", "Switch VT-x on in this machine's firmware settings"),
            ("VERR_SVM_DISABLED", "Switch AMD-V on in this machine's firmware settings"),
            (
                "VERR_VMX_IN_VMX_ROOT_MODE",
                "Another hypervisor (KVM, Hyper-V) has the processor: stop its VMs",
            ),
            ("VERR_SVM_IN_USE", "Another hypervisor (KVM, Hyper-V) has the processor: stop its VMs"),
            (
                "VERR_NEM_NOT_AVAILABLE",
                "Switch off Hyper-V, or switch on Windows' feature `HypervisorPlatform`, and restart",
            ),
            ("VERR_NO_MEMORY", "Stop another VM, or choose less with `--virtualbox-memory`"),
            ("VERR_ACCESS_DENIED", "See to it that the files belong to the user that runs this command"),
        ];
        if let Some((_, hint)) = of_cause.iter().find(|(cause, _)| self.has(cause)) {
            return Some(hint);
        }
        match self.number {
            Some(INVALID_OBJECT_STATE) => Some(
                "Another program works with the VM or its disk: close it there, and run the same command again",
            ),
            Some(OBJECT_IN_USE) => {
                Some("Another VM or program uses it: `VBoxManage list hdds --long` shows which")
            }
            Some(0x8000_4005) if self.command == "startvm" => Some(
                "See the end of the VM's log in `Logs/VBox.log` below the host's folder; most often the kernel module `vboxdrv` is not loaded, or another hypervisor has the processor",
            ),
            _ => None,
        }
    }
}

impl CallError {
    /// What VBoxManage refused, if it answered.
    pub(crate) fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// The error of an attempt, which failed for this reason.
    pub(crate) fn into_error(self, attempt: impl Into<String>) -> DriverError {
        let hint = match &self {
            Self::Refused(refusal) => refusal.hint(),
            Self::Silent { .. } => {
                Some("VirtualBox's service hangs: end `VBoxSVC`, and run the same command again")
            }
            Self::Lock { .. } => Some("End the VBoxManage that hangs, and run the same command again"),
            Self::Run { .. } => None,
        };
        // A call that did not come back may have done it or not.
        let error = match &self {
            Self::Silent { .. } => DriverError::unknown(attempt),
            _ => DriverError::failed(attempt),
        };
        let error = error.with_source(self);
        match hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn recorded(name: &str) -> Refusal {
        let text = match name {
            "exists" => include_str!("../recorded/7.2/createmedium-exists.txt"),
            "missing" => include_str!("../recorded/7.2/showvminfo-missing.txt"),
            "limited" => include_str!("../recorded/7.2/showvminfo-inaccessible.txt"),
            "startvm" => include_str!("../recorded/7.2/startvm-without-module.txt"),
            "qcow" => include_str!("../recorded/7.2/clonemedium-qcow2.txt"),
            "off" => include_str!("../recorded/7.2/controlvm-off.txt"),
            "rule" => include_str!("../recorded/7.2/natpf-no-such-rule.txt"),
            other => panic!("{other}"),
        };
        Refusal::parse("x", text)
    }

    #[test]
    fn codes_are_read_from_what_version_7_2_says() {
        assert!(recorded("missing").is_not_found());
        assert!(recorded("limited").is_inaccessible() && !recorded("limited").is_passing());
        assert!(recorded("off").is_not_running());
        let exists = recorded("exists");
        assert_eq!((exists.code.as_deref(), exists.number), (Some("VBOX_E_FILE_ERROR"), Some(0x80bb_0004)));
        assert_eq!(exists.causes, ["VERR_ALREADY_EXISTS"]);
        assert_eq!(recorded("rule").code.as_deref(), Some("NS_ERROR_INVALID_ARG"));
        assert!(recorded("qcow").hint().unwrap().contains("qemu-img convert"));
        let started = Refusal::parse("startvm", include_str!("../recorded/7.2/startvm-without-module.txt"));
        assert!(started.hint().unwrap().contains("vboxdrv"));
        assert!(
            started.to_string().ends_with("terminated unexpectedly during startup with exit code 1 (0x1)")
        );
    }

    #[test]
    fn what_passes_is_known_by_its_code() {
        let refusal = |text: &str| Refusal::parse("x", text);
        for text in [
            "VBoxManage: error: The object is not ready\nVBoxManage: error: Details: code E_ACCESSDENIED (0x80070005), component SessionMachine",
            "VBoxManage: error: The machine 'x' is already locked by a session (or being locked or unlocked)\nVBoxManage: error: Details: code VBOX_E_INVALID_OBJECT_STATE (0x80bb0007), component MachineWrap",
            "VBoxManage: error: Failed to assign the machine to the session (E_ACCESSDENIED)\nVBoxManage: error: Details: code VBOX_E_VM_ERROR (0x80bb0003), component MachineWrap",
            "VBoxManage: error: The machine 'r' already has a lock request pending\nVBoxManage: error: Details: code VBOX_E_INVALID_OBJECT_STATE (0x80bb0007), component MachineWrap",
            "VBoxManage: error: Failed to create the VirtualBox object!\nVBoxManage: error: Code NS_ERROR_ABORT (0x80004004)",
        ] {
            assert!(refusal(text).is_passing(), "{text}");
        }
        for text in [
            "VBoxManage: error: The object is not ready",
            "VBoxManage: error: Access denied\nVBoxManage: error: Details: code E_ACCESSDENIED (0x80070005), component x",
            "",
        ] {
            assert!(!refusal(text).is_passing(), "{text}");
        }
    }

    #[test]
    fn a_hostile_complaint_is_cut_and_plain() {
        let refusal = Refusal::parse("x", &format!("VBoxManage: error: \u{1b}[2J{}", "y".repeat(10_000)));
        assert!(refusal.text.len() <= LONGEST && !refusal.text.contains('\u{1b}'));
        assert_eq!(Refusal::parse("x", "").to_string(), "`VBoxManage x` failed: it does not say why");
        assert_eq!(Refusal::parse("x", "Code (0xzz)").number, None);
    }

    #[test]
    fn a_full_disk_and_a_locked_medium_say_what_to_do() {
        let full = Refusal::parse("createmedium", "VBoxManage: error: x (VERR_DISK_FULL)");
        assert!(CallError::Refused(full).into_error("Could not").hint().unwrap().starts_with("Make room"));
        let locked = "VBoxManage: error: Medium '/x' is locked for writing by another task\nVBoxManage: error: Details: code VBOX_E_INVALID_OBJECT_STATE (0x80bb0007), component MediumWrap";
        let error = CallError::Refused(Refusal::parse("startvm", locked)).into_error("Could not");
        assert!(error.hint().unwrap().starts_with("Another program"));
        let silent = CallError::Silent { command: "x".into(), seconds: 1 }.into_error("Could not");
        assert_eq!(*silent.kind(), machine_driver::ErrorKind::Unknown);
    }
}
