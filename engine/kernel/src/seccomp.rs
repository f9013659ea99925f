//! System calls that a container may make: the default profile, and profiles in Docker's JSON format.

use std::collections::HashSet;

use libcontainer::oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};
use serde::Deserialize;

use super::capabilities;

mod default;
mod filter;

pub use default::default_profile;
pub use filter::{Filter, Filters};

/// Docker's own profile is 13 KiB; this leaves room for every system call there is, one rule each, commented.
const LARGEST_PROFILE: usize = 1024 * 1024;
const MOST_RULES: usize = 4096;
const MOST_NAMES: usize = 16 * 1024;
/// A system call has no more arguments than this.
const ARGUMENTS: usize = 6;

/// Why a seccomp profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    #[error("Decoding seccomp profile failed: it is larger than {LARGEST_PROFILE} bytes")]
    TooLarge,
    #[error("Decoding seccomp profile failed")]
    Json { source: serde_json::Error },
    #[error("Decoding seccomp profile failed: it has more than {MOST_RULES} rules or {MOST_NAMES} names")]
    TooManyRules,
    #[error("Decoding seccomp profile failed: {what}")]
    Invalid { what: String },
    #[error("Compiling seccomp profile failed")]
    Compile { source: libseccomp::error::SeccompError },
    #[error("Compiling seccomp profile failed: no filter came out")]
    Export { source: std::io::Error },
    #[error("SCMP_ACT_NOTIFY needs an agent on the host, which this engine does not talk to")]
    Notify,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<Arch>>,
    arch_map: Option<Vec<ArchitectureMap>>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    listener_path: Option<String>,
    syscalls: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchitectureMap {
    architecture: Arch,
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    name: Option<String>,
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    args: Option<Vec<Argument>>,
    includes: Option<Conditions>,
    excludes: Option<Conditions>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: usize,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: LinuxSeccompOperator,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Conditions {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// What the conditions of a profile are held against.
struct Host<'a> {
    capabilities: &'a HashSet<Capability>,
    /// As Docker's profiles name it: `amd64`.
    architecture: &'static str,
    native: Arch,
    kernel: (u32, u32),
}

impl<'a> Host<'a> {
    fn this(capabilities: &'a HashSet<Capability>) -> Self {
        let (architecture, native) = match std::env::consts::ARCH {
            "aarch64" => ("arm64", Arch::ScmpArchAarch64),
            "riscv64" => ("riscv64", Arch::ScmpArchRiscv64),
            "s390x" => ("s390x", Arch::ScmpArchS390x),
            "powerpc64" => ("ppc64le", Arch::ScmpArchPpc64le),
            _ => ("amd64", Arch::ScmpArchX86_64),
        };
        let release = rustix::system::uname();
        let kernel = version(&release.release().to_string_lossy()).unwrap_or((0, 0));
        Self { capabilities, architecture, native, kernel }
    }

    fn has(&self, name: &str) -> bool {
        capabilities::parse(name).is_some_and(|capability| self.capabilities.contains(&capability))
    }

    /// Whether every condition is met.
    fn includes(&self, filter: &Conditions) -> Result<bool, SeccompError> {
        let capabilities = filter.caps.iter().flatten().all(|name| self.has(name));
        let architecture = filter
            .arches
            .as_ref()
            .is_none_or(|names| names.is_empty() || names.iter().any(|name| name == self.architecture));
        let kernel = match &filter.min_kernel {
            None => true,
            Some(text) => {
                let least = version(text).ok_or_else(|| SeccompError::Invalid {
                    what: format!("`{}` is not a kernel version", text.chars().take(50).collect::<String>()),
                })?;
                self.kernel >= least
            }
        };
        Ok(capabilities && architecture && kernel)
    }

    /// Whether any condition is met.
    fn excludes(&self, filter: &Conditions) -> bool {
        filter.caps.iter().flatten().any(|name| self.has(name))
            || filter.arches.iter().flatten().any(|name| name == self.architecture)
    }
}

/// The first two numbers of a kernel's release.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(['.', '-', '+']);
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?.parse().ok()?;
    Some((major, minor))
}

/// The profile in this JSON, as it applies to a container with these capabilities on this host.
#[expect(clippy::implicit_hasher, reason = "sets of capabilities are made in one place")]
pub fn parse_profile(json: &str, capabilities: &HashSet<Capability>) -> Result<LinuxSeccomp, SeccompError> {
    if json.len() > LARGEST_PROFILE {
        return Err(SeccompError::TooLarge);
    }
    let profile = serde_json::from_str(json).map_err(|source| SeccompError::Json { source })?;
    resolve(profile, &Host::this(capabilities))
}

fn resolve(profile: Profile, host: &Host<'_>) -> Result<LinuxSeccomp, SeccompError> {
    let invalid = |what: String| SeccompError::Invalid { what };
    let rules = profile.syscalls.unwrap_or_default();
    let count: usize = rules.iter().map(|rule| rule.names.as_ref().map_or(1, Vec::len)).sum();
    if rules.len() > MOST_RULES || count > MOST_NAMES {
        return Err(SeccompError::TooManyRules);
    }
    if profile.listener_path.is_some_and(|path| !path.is_empty())
        || profile.default_action == LinuxSeccompAction::ScmpActNotify
        || rules.iter().any(|rule| rule.action == LinuxSeccompAction::ScmpActNotify)
    {
        return Err(SeccompError::Notify);
    }
    let mut builder = LinuxSeccompBuilder::default().default_action(profile.default_action);
    if let Some(errno) = profile.default_errno_ret {
        builder = builder.default_errno_ret(checked_errno(errno)?);
    }
    if let Some(flags) = profile.flags
        && !flags.is_empty()
    {
        builder = builder.flags(flags);
    }
    let listed = profile.architectures.filter(|list| !list.is_empty());
    let mapped = profile.arch_map.filter(|list| !list.is_empty());
    if listed.is_some() && mapped.is_some() {
        return Err(invalid("use either 'architectures' or 'archMap'".to_owned()));
    }
    let architectures = listed.or_else(|| {
        let entry = mapped?.into_iter().find(|entry| entry.architecture == host.native)?;
        Some([vec![entry.architecture], entry.sub_architectures.unwrap_or_default()].concat())
    });
    if let Some(architectures) = architectures {
        builder = builder.architectures(architectures);
    }
    let nothing = Conditions::default();
    let mut calls = Vec::with_capacity(rules.len());
    for rule in rules {
        let named =
            match (rule.name.filter(|name| !name.is_empty()), rule.names.filter(|names| !names.is_empty())) {
                (Some(_), Some(_)) => {
                    return Err(invalid("use either 'name' or 'names'".to_owned()));
                }
                (Some(name), None) => vec![name],
                (None, Some(names)) => names,
                (None, None) => return Err(invalid("a rule names no system call".to_owned())),
            };
        if let Some(odd) = named.iter().find(|name| !is_call_name(name)) {
            return Err(invalid(format!("{odd:.50?} is not the name of a system call")));
        }
        if rule.excludes.as_ref().is_some_and(|filter| host.excludes(filter))
            || !host.includes(rule.includes.as_ref().unwrap_or(&nothing))?
        {
            continue;
        }
        let errno = rule.errno_ret.map(checked_errno).transpose()?;
        let arguments = rule
            .args
            .unwrap_or_default()
            .into_iter()
            .map(|argument| match argument.index {
                index if index < ARGUMENTS => {
                    Ok(condition(index, argument.op, argument.value, argument.value_two))
                }
                index => Err(invalid(format!("a system call has no argument number {index}"))),
            })
            .collect::<Result<Vec<_>, _>>()?;
        calls.push(call(&named, rule.action, errno, arguments));
    }
    Ok(builder.syscalls(calls).build().unwrap_or_default())
}

fn is_call_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The kernel cuts anything larger to 4095.
fn checked_errno(errno: u32) -> Result<u32, SeccompError> {
    if errno <= 4095 {
        return Ok(errno);
    }
    Err(SeccompError::Invalid { what: format!("{errno} is not an error number") })
}

fn call<S: AsRef<str>>(
    names: &[S],
    action: LinuxSeccompAction,
    errno: Option<u32>,
    arguments: Vec<LinuxSeccompArg>,
) -> LinuxSyscall {
    let names: Vec<String> = names.iter().map(|name| name.as_ref().to_owned()).collect();
    let mut builder = LinuxSyscallBuilder::default().names(names).action(action);
    if let Some(errno) = errno {
        builder = builder.errno_ret(errno);
    }
    if !arguments.is_empty() {
        builder = builder.args(arguments);
    }
    builder.build().unwrap_or_default()
}

/// A condition on an argument. `second` matters where `value` is a mask.
fn condition(index: usize, operator: LinuxSeccompOperator, value: u64, second: u64) -> LinuxSeccompArg {
    let builder = LinuxSeccompArgBuilder::default().index(index).op(operator).value(value);
    let builder =
        if operator == LinuxSeccompOperator::ScmpCmpMaskedEq { builder.value_two(second) } else { builder };
    builder.build().unwrap_or_default()
}

#[cfg(test)]
mod tests;
