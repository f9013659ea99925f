//! Which capabilities a container's processes have.

use std::collections::HashSet;
use std::fs;

use libcontainer::oci_spec::runtime::Capability;

/// What a container has unless something else is asked for.
const DEFAULT: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// Every capability by its number in the kernel.
const ALL: [(&str, Capability); 41] = [
    ("CAP_CHOWN", Capability::Chown),
    ("CAP_DAC_OVERRIDE", Capability::DacOverride),
    ("CAP_DAC_READ_SEARCH", Capability::DacReadSearch),
    ("CAP_FOWNER", Capability::Fowner),
    ("CAP_FSETID", Capability::Fsetid),
    ("CAP_KILL", Capability::Kill),
    ("CAP_SETGID", Capability::Setgid),
    ("CAP_SETUID", Capability::Setuid),
    ("CAP_SETPCAP", Capability::Setpcap),
    ("CAP_LINUX_IMMUTABLE", Capability::LinuxImmutable),
    ("CAP_NET_BIND_SERVICE", Capability::NetBindService),
    ("CAP_NET_BROADCAST", Capability::NetBroadcast),
    ("CAP_NET_ADMIN", Capability::NetAdmin),
    ("CAP_NET_RAW", Capability::NetRaw),
    ("CAP_IPC_LOCK", Capability::IpcLock),
    ("CAP_IPC_OWNER", Capability::IpcOwner),
    ("CAP_SYS_MODULE", Capability::SysModule),
    ("CAP_SYS_RAWIO", Capability::SysRawio),
    ("CAP_SYS_CHROOT", Capability::SysChroot),
    ("CAP_SYS_PTRACE", Capability::SysPtrace),
    ("CAP_SYS_PACCT", Capability::SysPacct),
    ("CAP_SYS_ADMIN", Capability::SysAdmin),
    ("CAP_SYS_BOOT", Capability::SysBoot),
    ("CAP_SYS_NICE", Capability::SysNice),
    ("CAP_SYS_RESOURCE", Capability::SysResource),
    ("CAP_SYS_TIME", Capability::SysTime),
    ("CAP_SYS_TTY_CONFIG", Capability::SysTtyConfig),
    ("CAP_MKNOD", Capability::Mknod),
    ("CAP_LEASE", Capability::Lease),
    ("CAP_AUDIT_WRITE", Capability::AuditWrite),
    ("CAP_AUDIT_CONTROL", Capability::AuditControl),
    ("CAP_SETFCAP", Capability::Setfcap),
    ("CAP_MAC_OVERRIDE", Capability::MacOverride),
    ("CAP_MAC_ADMIN", Capability::MacAdmin),
    ("CAP_SYSLOG", Capability::Syslog),
    ("CAP_WAKE_ALARM", Capability::WakeAlarm),
    ("CAP_BLOCK_SUSPEND", Capability::BlockSuspend),
    ("CAP_AUDIT_READ", Capability::AuditRead),
    ("CAP_PERFMON", Capability::Perfmon),
    ("CAP_BPF", Capability::Bpf),
    ("CAP_CHECKPOINT_RESTORE", Capability::CheckpointRestore),
];

/// Why a set of capabilities cannot be given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CapabilityError {
    #[error("invalid {option}: unknown capability: \"{name}\"")]
    Unknown { option: &'static str, name: String },
    #[error(
        "invalid CapAdd: capability not supported by your kernel or not available in the current environment: \"{name}\""
    )]
    Unavailable { name: String },
}

/// The capabilities of a container, out of what this process could hand on.
///
/// `ALL` and names with or without `CAP_`, in any case, are understood. What is added wins over what is dropped by name.
pub fn resolve(
    add: &[String],
    drop: &[String],
    privileged: bool,
) -> Result<HashSet<Capability>, CapabilityError> {
    resolve_within(add, drop, privileged, &available())
}

/// The name the kernel's documentation uses, with `CAP_`.
pub fn name(capability: Capability) -> &'static str {
    ALL.iter().find(|(_, known)| *known == capability).map_or("", |(name, _)| name)
}

/// The capability of this name, which may lack `CAP_`.
pub fn parse(name: &str) -> Option<Capability> {
    let name = name.trim().to_ascii_uppercase();
    let bare = name.strip_prefix("CAP_").unwrap_or(&name);
    ALL.iter().find(|(known, _)| known.strip_prefix("CAP_") == Some(bare)).map(|(_, capability)| *capability)
}

enum Wish {
    All,
    Some(HashSet<Capability>),
}

fn wish(option: &'static str, names: &[String]) -> Result<Wish, CapabilityError> {
    let mut wanted = HashSet::new();
    let mut all = false;
    for name in names {
        if name.eq_ignore_ascii_case("all") {
            all = true;
            continue;
        }
        let Some(capability) = parse(name) else {
            let upper = name.to_ascii_uppercase();
            let name = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
            return Err(CapabilityError::Unknown { option, name });
        };
        wanted.insert(capability);
    }
    Ok(if all { Wish::All } else { Wish::Some(wanted) })
}

fn resolve_within(
    add: &[String],
    drop: &[String],
    privileged: bool,
    available: &HashSet<Capability>,
) -> Result<HashSet<Capability>, CapabilityError> {
    let add = wish("CapAdd", add)?;
    let drop = wish("CapDrop", drop)?;
    if let Wish::Some(names) = &add
        && let Some(missing) = names.iter().find(|capability| !available.contains(*capability))
        && !privileged
    {
        return Err(CapabilityError::Unavailable { name: name(*missing).to_owned() });
    }
    if privileged {
        return Ok(available.clone());
    }
    let default = || DEFAULT.into_iter().filter(|capability| available.contains(capability));
    Ok(match (add, drop) {
        (Wish::All, Wish::All) => available.clone(),
        (Wish::All, Wish::Some(dropped)) => available.difference(&dropped).copied().collect(),
        (Wish::Some(added), Wish::All) => added,
        (Wish::Some(added), Wish::Some(dropped)) => {
            default().filter(|capability| !dropped.contains(capability)).chain(added).collect()
        }
    })
}

/// What this process may hand on: its bounding set, as the kernel shows it.
fn available() -> HashSet<Capability> {
    let bits = fs::read_to_string("/proc/self/status").ok().and_then(|status| bounding_set(&status));
    from_bits(bits.unwrap_or(u64::MAX))
}

fn bounding_set(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn from_bits(bits: u64) -> HashSet<Capability> {
    ALL.iter()
        .enumerate()
        .filter(|(number, _)| bits & (1 << number) != 0)
        .map(|(_, (_, capability))| *capability)
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn everything() -> HashSet<Capability> {
        from_bits(u64::MAX)
    }

    fn resolved(add: &[&str], drop: &[&str]) -> HashSet<Capability> {
        resolve_within(&names(add), &names(drop), false, &everything()).unwrap()
    }

    #[test]
    fn a_container_has_fourteen_capabilities_by_default() {
        let set = resolved(&[], &[]);
        assert_eq!(set.len(), 14);
        assert!(set.contains(&Capability::NetBindService));
        assert!(!set.contains(&Capability::SysAdmin));
        assert!(!set.contains(&Capability::NetAdmin));
    }

    #[test]
    fn names_come_with_and_without_prefix_and_in_any_case() {
        for name in ["NET_ADMIN", "CAP_NET_ADMIN", "net_admin", "cap_net_admin"] {
            let set = resolved(&[name], &[]);
            assert!(set.contains(&Capability::NetAdmin), "{name}");
            assert_eq!(set.len(), 15, "{name}");
        }
        assert_eq!(resolved(&[], &["chown"]).len(), 13);
    }

    #[test]
    fn all_works_on_both_sides() {
        assert_eq!(resolved(&["ALL"], &[]).len(), 41);
        assert_eq!(resolved(&["all"], &["SYS_ADMIN"]).len(), 40);
        assert_eq!(resolved(&[], &["ALL"]).len(), 0);
        assert_eq!(resolved(&["CHOWN"], &["ALL"]), HashSet::from([Capability::Chown]));
    }

    #[test]
    fn what_is_added_wins_over_what_is_dropped() {
        assert!(resolved(&["CHOWN"], &["CHOWN"]).contains(&Capability::Chown));
    }

    #[test]
    fn an_unknown_name_is_told() {
        let error = resolve_within(&names(&["nonsense"]), &[], false, &everything()).unwrap_err();
        assert_eq!(error.to_string(), r#"invalid CapAdd: unknown capability: "CAP_NONSENSE""#);
        let error = resolve_within(&[], &names(&["CAP_X"]), true, &everything()).unwrap_err();
        assert_eq!(error.to_string(), r#"invalid CapDrop: unknown capability: "CAP_X""#);
    }

    #[test]
    fn what_the_engine_lacks_is_left_out_of_all_and_refused_by_name() {
        let mut available = everything();
        available.remove(&Capability::SysResource);
        available.remove(&Capability::Mknod);
        let all = resolve_within(&names(&["ALL"]), &[], false, &available).unwrap();
        assert_eq!(all, available);
        assert_eq!(resolve_within(&[], &[], true, &available).unwrap(), available);
        assert!(!resolve_within(&[], &[], false, &available).unwrap().contains(&Capability::Mknod));
        let error = resolve_within(&names(&["sys_resource"]), &[], false, &available).unwrap_err();
        assert_eq!(error, CapabilityError::Unavailable { name: "CAP_SYS_RESOURCE".to_owned() });
    }

    #[test]
    fn the_bounding_set_is_read_from_the_status_file() {
        let bits = bounding_set("Name:\tx\nCapBnd:\t0000000000000003\n").unwrap();
        assert_eq!(from_bits(bits), HashSet::from([Capability::Chown, Capability::DacOverride]));
        assert!(!available().is_empty());
    }
}
