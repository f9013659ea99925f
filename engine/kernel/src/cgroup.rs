//! A container's cgroup, from the outside: both the unified hierarchy and the older one with a tree for each controller.

mod usage;
pub mod weights;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use libcgroups::common::{
    AnyCgroupManager, CgroupConfig, CgroupManager, CgroupSetup, ControllerOpt, FreezerState,
    create_cgroup_manager, get_cgroup_setup,
};
use libcontainer::oci_spec::runtime::LinuxResources;
use serde_json::Value;

use super::devices::{Access, DeviceKind, DeviceRule, attach_device_program};

/// Where the hierarchies are mounted.
const MOUNT: &str = "/sys/fs/cgroup";

/// Whether there is one hierarchy for all controllers.
pub fn is_unified() -> bool {
    matches!(get_cgroup_setup(), Ok(CgroupSetup::Unified))
}

fn manager(cgroup: &Path) -> io::Result<AnyCgroupManager> {
    let config =
        CgroupConfig { cgroup_path: cgroup.to_owned(), systemd_cgroup: false, container_name: String::new() };
    create_cgroup_manager(config).map_err(io::Error::other)
}

/// Stops or continues everything in the cgroup.
pub fn freeze(cgroup: &Path, frozen: bool) -> io::Result<()> {
    let state = if frozen { FreezerState::Frozen } else { FreezerState::Thawed };
    manager(cgroup)?.freeze(state).map_err(io::Error::other)
}

/// Whether everything in the cgroup is stopped.
pub fn is_frozen(cgroup: &Path) -> bool {
    let file = if is_unified() { "cgroup.freeze" } else { "freezer.state" };
    let state = std::fs::read_to_string(directory("freezer", cgroup).join(file)).unwrap_or_default();
    matches!(state.trim(), "1" | "FROZEN" | "FREEZING")
}

/// Changes limits while the container runs.
pub fn update(cgroup: &Path, resources: &LinuxResources) -> io::Result<()> {
    let options =
        ControllerOpt { resources, disable_oom_killer: false, oom_score_adj: None, freezer_state: None };
    manager(cgroup)?.apply(&options).map_err(io::Error::other)
}

/// What the container has used.
pub fn stats(cgroup: &Path) -> io::Result<libcgroups::stats::Stats> {
    if is_unified() {
        return usage::read(&directory("", cgroup));
    }
    let mut stats = manager(cgroup)?.stats().map_err(io::Error::other)?;
    // The first version counts these two in ticks (cpuacct.stat), and everything else in nanoseconds.
    let tick = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
    for ticks in [&mut stats.cpu.usage.usage_user, &mut stats.cpu.usage.usage_kernel] {
        *ticks = ticks.saturating_mul(tick);
    }
    Ok(stats)
}

/// All processes of the container.
pub fn processes(cgroup: &Path) -> io::Result<Vec<i32>> {
    let pids = manager(cgroup)?.get_all_pids().map_err(io::Error::other)?;
    let mut numbers = Vec::with_capacity(pids.len());
    for pid in pids {
        numbers.push(pid.as_raw());
    }
    Ok(numbers)
}

/// The cgroup's directory in the hierarchy of a controller.
fn directory(controller: &str, cgroup: &Path) -> PathBuf {
    let relative = cgroup.strip_prefix("/").unwrap_or(cgroup);
    if is_unified() {
        Path::new(MOUNT).join(relative)
    } else {
        Path::new(MOUNT).join(controller).join(relative)
    }
}

/// Whether the kernel killed a process of the container for want of memory.
pub fn ran_out_of_memory(cgroup: &Path) -> bool {
    let file = if is_unified() { "memory.events" } else { "memory.oom_control" };
    let content = std::fs::read_to_string(directory("memory", cgroup).join(file)).unwrap_or_default();
    content.lines().any(|line| {
        line.strip_prefix("oom_kill ")
            .is_some_and(|count| count.trim().parse::<u64>().is_ok_and(|count| count > 0))
    })
}

/// Kills everything in the cgroup.
pub fn kill_all(cgroup: &Path) {
    for _ in 0..20 {
        let Ok(pids) = processes(cgroup) else { return };
        if pids.is_empty() {
            return;
        }
        // A frozen process of the older hierarchy does not die.
        let _ = freeze(cgroup, false);
        // All at once, where the kernel can do that.
        if !is_unified() || std::fs::write(directory("", cgroup).join("cgroup.kill"), "1").is_err() {
            kill_each(cgroup, &pids);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Kills those of these processes that are in the cgroup. The number of one that has ended may be another's already, and is
/// believed only if, with the process in hand, it is in there still.
fn kill_each(cgroup: &Path, pids: &[i32]) {
    let in_hand: Vec<_> = pids
        .iter()
        .filter_map(|&pid| {
            let flags = rustix::process::PidfdFlags::empty();
            Some((pid, rustix::process::pidfd_open(rustix::process::Pid::from_raw(pid)?, flags).ok()?))
        })
        .collect();
    let Ok(inside) = processes(cgroup) else { return };
    for (_, handle) in in_hand.iter().filter(|(pid, _)| inside.contains(pid)) {
        // It may have ended meanwhile.
        let _ = rustix::process::pidfd_send_signal(handle, rustix::process::Signal::KILL);
    }
}

/// Lets somebody divide the cgroup among their own processes, without changing its limits. Only where there is one hierarchy.
pub fn give(cgroup: &Path, user: u32, group: u32) -> io::Result<()> {
    let place = directory("", cgroup);
    let told = std::fs::read_to_string("/sys/kernel/cgroup/delegate");
    let files = told.unwrap_or_else(|_| "cgroup.procs\ncgroup.subtree_control\ncgroup.threads".to_owned());
    std::os::unix::fs::chown(&place, Some(user), Some(group))?;
    for file in files.lines() {
        match std::os::unix::fs::chown(place.join(file), Some(user), Some(group)) {
            // The kernel may have files that this group has not.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Removes the groups that whoever may divide the cgroup has made in it, once nobody is in there any more.
pub fn remove_divisions(cgroup: &Path) {
    fn below(place: &Path) {
        for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                below(&entry.path());
                let _ = std::fs::remove_dir(entry.path());
            }
        }
    }
    if is_unified() {
        below(&directory("", cgroup));
    }
}

/// Removes the cgroup, if it is there, with everything in it.
pub fn remove(cgroup: &Path) {
    kill_all(cgroup);
    if let Err(error) = manager(cgroup).and_then(|manager| manager.remove().map_err(io::Error::other)) {
        tracing::debug!(%error, cgroup = %cgroup.display(), "Could not remove a cgroup");
    }
}

/// Removes a cgroup that holds only others, if it holds none any more.
pub fn remove_parent(cgroup: &Path) {
    let relative = cgroup.strip_prefix("/").unwrap_or(cgroup);
    if is_unified() {
        let _ = std::fs::remove_dir(Path::new(MOUNT).join(relative));
        return;
    }
    for hierarchy in std::fs::read_dir(MOUNT).into_iter().flatten().flatten() {
        let _ = std::fs::remove_dir(hierarchy.path().join(relative));
    }
}

/// Loads the device rules (in the OCI form) where libcontainer does not: on the unified hierarchy.
pub fn apply_devices(cgroup: &Path, rules: &Value) -> io::Result<()> {
    if !is_unified() {
        return Ok(());
    }
    let number = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
    let rules: Vec<DeviceRule> = rules
        .as_array()
        .into_iter()
        .flatten()
        .map(|rule| {
            let access = rule["access"].as_str().unwrap_or("rwm");
            DeviceRule {
                allow: rule["allow"] == true,
                kind: match rule["type"].as_str() {
                    Some("b") => DeviceKind::Block,
                    Some("c" | "u") => DeviceKind::Character,
                    _ => DeviceKind::All,
                },
                major: number(&rule["major"]),
                minor: number(&rule["minor"]),
                access: Access {
                    read: access.contains('r'),
                    write: access.contains('w'),
                    make: access.contains('m'),
                },
            }
        })
        .collect();
    attach_device_program(&directory("devices", cgroup), &rules).map_err(io::Error::other)
}
