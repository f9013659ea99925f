//! A profile as the kernel takes it: compiled once, loaded as often as a process begins.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use libcontainer::oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
    LinuxSyscall,
};
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use rustix::fs::MemfdFlags;
use serde::{Deserialize, Serialize};

use super::SeccompError;

/// What a rule answers with that names no error.
const EPERM: u32 = 1;
/// Profiles that differ in more than the capabilities of their containers are few.
const MOST_REMEMBERED: usize = 64;

/// A program for the kernel's packet filter, which decides on every system call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// `SECCOMP_FILTER_FLAG_…` of seccomp(2).
    flags: libc::c_ulong,
    /// Instructions as they lie in memory.
    #[serde(serialize_with = "to_text", deserialize_with = "from_text")]
    program: Vec<u8>,
}

fn to_text<S: serde::Serializer>(program: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&BASE64_STANDARD.encode(program))
}

fn from_text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    BASE64_STANDARD.decode(text).map_err(serde::de::Error::custom)
}

impl Filter {
    /// Compiles a profile. A name that this architecture does not know is left out, as runc does.
    ///
    /// # Errors
    ///
    /// When the profile says what cannot be compiled.
    pub fn compile(profile: &LinuxSeccomp) -> Result<Self, SeccompError> {
        let failed = |source| SeccompError::Compile { source };
        let default = action(profile.default_action(), profile.default_errno_ret());
        let mut context = ScmpFilterContext::new(default).map_err(failed)?;
        for &architecture in profile.architectures().iter().flatten() {
            context.add_arch(translated(architecture)).map_err(failed)?;
        }
        for call in profile.syscalls().iter().flatten() {
            let action = action(call.action(), call.errno_ret());
            // libseccomp takes no rule that changes nothing.
            if action != default {
                add(&mut context, action, call).map_err(failed)?;
            }
        }
        let export = || {
            let mut file = File::from(rustix::fs::memfd_create("seccomp", MemfdFlags::CLOEXEC)?);
            context.export_bpf(&file).map_err(io::Error::other)?;
            file.rewind()?;
            let mut program = Vec::new();
            file.read_to_end(&mut program)?;
            io::Result::Ok(program)
        };
        let program = export().map_err(|source| SeccompError::Export { source })?;
        let flags = profile.flags().iter().flatten().copied().map(flag).fold(0, |all, flag| all | flag);
        Ok(Self { flags, program })
    }

    /// Confines the calling thread and all that comes from it, for good. It takes `CAP_SYS_ADMIN` or `no_new_privs`.
    ///
    /// # Errors
    ///
    /// What seccomp(2) answers.
    pub fn load(&self) -> io::Result<()> {
        let instructions: Vec<libc::sock_filter> = self
            .program
            .chunks_exact(size_of::<libc::sock_filter>())
            .map(|bytes| libc::sock_filter {
                code: u16::from_ne_bytes([bytes[0], bytes[1]]),
                jt: bytes[2],
                jf: bytes[3],
                k: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
            })
            .collect();
        set_filter(self.flags, instructions)
    }
}

#[expect(unsafe_code, reason = "there is no safe form of seccomp")]
fn set_filter(flags: libc::c_ulong, mut instructions: Vec<libc::sock_filter>) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(instructions.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: instructions.as_mut_ptr(),
    };
    // SAFETY: the kernel copies the instructions, whose number goes with them, and changes nothing.
    let answer =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    match answer {
        0 => Ok(()),
        -1 => Err(io::Error::last_os_error()),
        thread => Err(io::Error::other(format!("thread {thread} has a filter of its own"))),
    }
}

/// What was compiled before.
#[derive(Debug, Default)]
pub struct Filters(Mutex<HashMap<String, Arc<Filter>>>);

impl Filters {
    /// The filter of this profile, compiled if it is new.
    ///
    /// # Errors
    ///
    /// As [`Filter::compile`].
    pub fn get(&self, profile: &LinuxSeccomp) -> Result<Arc<Filter>, SeccompError> {
        let key = serde_json::to_string(profile).map_err(|source| SeccompError::Json { source })?;
        // Held while one is compiled: who starts many containers at once waits for one filter, and makes not many.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(filter) = known.get(&key) {
            return Ok(Arc::clone(filter));
        }
        let filter = Arc::new(Filter::compile(profile)?);
        if known.len() >= MOST_REMEMBERED {
            known.clear();
        }
        known.insert(key, Arc::clone(&filter));
        Ok(filter)
    }
}

fn add(
    context: &mut ScmpFilterContext,
    action: ScmpAction,
    call: &LinuxSyscall,
) -> Result<(), libseccomp::error::SeccompError> {
    let conditions: Vec<ScmpArgCompare> = call.args().iter().flatten().map(comparison).collect();
    let arguments: HashSet<usize> = call.args().iter().flatten().map(LinuxSeccompArg::index).collect();
    for name in call.names() {
        let Ok(number) = ScmpSyscall::from_name(name) else { continue };
        if conditions.is_empty() {
            context.add_rule(action, number)?;
        } else if arguments.len() == conditions.len() {
            context.add_rule_conditional(action, number, &conditions)?;
        } else {
            // In one rule libseccomp compares an argument once only: several are alternatives, as with runc.
            for condition in &conditions {
                context.add_rule_conditional(action, number, &[*condition])?;
            }
        }
    }
    Ok(())
}

/// With a mask, `value` is the mask and `valueTwo` what is left under it (OCI runtime specification, "Seccomp").
fn comparison(argument: &LinuxSeccompArg) -> ScmpArgCompare {
    let value = argument.value();
    let (operator, datum) = match argument.op() {
        LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, value),
        LinuxSeccompOperator::ScmpCmpLt => (ScmpCompareOp::Less, value),
        LinuxSeccompOperator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, value),
        LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, value),
        LinuxSeccompOperator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, value),
        LinuxSeccompOperator::ScmpCmpGt => (ScmpCompareOp::Greater, value),
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            (ScmpCompareOp::MaskedEqual(value), argument.value_two().unwrap_or(0))
        }
    };
    // What is read has been checked: there are six arguments.
    ScmpArgCompare::new(u32::try_from(argument.index()).unwrap_or(u32::MAX), operator, datum)
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> ScmpAction {
    let number = errno.unwrap_or(EPERM);
    match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => ScmpAction::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(i32::try_from(number).unwrap_or(i32::MAX)),
        LinuxSeccompAction::ScmpActTrace => ScmpAction::Trace(u16::try_from(number).unwrap_or(u16::MAX)),
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActNotify => ScmpAction::Notify,
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
    }
}

fn flag(flag: LinuxSeccompFilterFlag) -> libc::c_ulong {
    match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => libc::SECCOMP_FILTER_FLAG_TSYNC,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        // It is about an agent that is asked, and a profile that wants one is refused.
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
    }
}

fn translated(architecture: Arch) -> ScmpArch {
    match architecture {
        Arch::ScmpArchNative => ScmpArch::Native,
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchMips => ScmpArch::Mips,
        Arch::ScmpArchMips64 => ScmpArch::Mips64,
        Arch::ScmpArchMips64n32 => ScmpArch::Mips64N32,
        Arch::ScmpArchMipsel => ScmpArch::Mipsel,
        Arch::ScmpArchMipsel64 => ScmpArch::Mipsel64,
        Arch::ScmpArchMipsel64n32 => ScmpArch::Mipsel64N32,
        Arch::ScmpArchPpc => ScmpArch::Ppc,
        Arch::ScmpArchPpc64 => ScmpArch::Ppc64,
        Arch::ScmpArchPpc64le => ScmpArch::Ppc64Le,
        Arch::ScmpArchS390 => ScmpArch::S390,
        Arch::ScmpArchS390x => ScmpArch::S390X,
        Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        Arch::ScmpArchParisc => ScmpArch::Parisc,
        Arch::ScmpArchParisc64 => ScmpArch::Parisc64,
        Arch::ScmpArchLoongarch64 => ScmpArch::Loongarch64,
        Arch::ScmpArchM68k => ScmpArch::M68k,
        Arch::ScmpArchSh => ScmpArch::Sh,
        Arch::ScmpArchSheb => ScmpArch::Sheb,
    }
}
