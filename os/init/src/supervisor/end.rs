//! The end of the system: services first, then everybody, then the disks.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};
use rustix::process::{Pid, Signal, kill_process};
use rustix::system::RebootCommand;

use super::service::Service;
use super::{End, Event};
use crate::console;

/// What services get to stop in order; as long as a container may take by default.
const SERVICES_DEADLINE: Duration = Duration::from_secs(10);
/// What all other processes get between SIGTERM and SIGKILL.
const PROCESSES_DEADLINE: Duration = Duration::from_secs(10);
const KILLED_DEADLINE: Duration = Duration::from_secs(2);

/// Ends everything; comes back only if the kernel refuses.
pub(super) fn finish(end: End, services: &mut BTreeMap<String, Service>, events: &Receiver<Event>) {
    console::say(match end {
        End::PowerOff => "Powering off",
        End::Reboot => "Rebooting",
    });
    for service in services.values_mut() {
        service.stop();
    }
    await_end(events, SERVICES_DEADLINE, services, |services| {
        services.values().all(|service| !service.is_running())
    });
    signal_all(Signal::TERM);
    if !await_end(events, PROCESSES_DEADLINE, services, |_| false) {
        signal_all(Signal::KILL);
        await_end(events, KILLED_DEADLINE, services, |_| false);
    }
    services.values().for_each(Service::close_log);
    rustix::fs::sync();
    release_disks();
    rustix::fs::sync();
    let command = match end {
        End::PowerOff => RebootCommand::PowerOff,
        End::Reboot => RebootCommand::Restart,
    };
    if let Err(failure) = rustix::system::reboot(command) {
        console::say(&format!("The kernel refused: {failure}"));
    }
}

/// Waits until `done` says so or no child is left; tells whether that came before the deadline.
fn await_end(
    events: &Receiver<Event>,
    deadline: Duration,
    services: &mut BTreeMap<String, Service>,
    done: impl Fn(&BTreeMap<String, Service>) -> bool,
) -> bool {
    let until = Instant::now() + deadline;
    loop {
        if done(services) {
            return true;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        match events.recv_timeout(left) {
            Ok(Event::Exited(pid, how)) => {
                for service in services.values_mut() {
                    service.exited(pid, &how);
                }
            }
            Ok(Event::Childless) => return true,
            _ => {}
        }
    }
}

/// Signals every process of user space but this one.
fn signal_all(signal: Signal) {
    for entry in crate::devices::entries("/proc") {
        let Some(pid) = entry.file_name().and_then(|name| name.to_str()?.parse::<i32>().ok()) else {
            continue;
        };
        if let Some(pid) = Pid::from_raw(pid).filter(|pid| *pid != Pid::INIT) {
            let _ = kill_process(pid, signal);
        }
    }
}

/// Unmounts what lies on disks, the last mounted first; what is still in use is at least made read-only.
fn release_disks() {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let targets: Vec<(String, String)> = mounts.lines().filter_map(parse_mount).collect();
    for (_, target) in targets.iter().rev().filter(|(_, target)| !is_base(target)) {
        let _ = unmount(Path::new(target), UnmountFlags::empty());
    }
    let left = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for (source, target) in
        left.lines().filter_map(parse_mount).filter(|(source, _)| source.starts_with("/dev/"))
    {
        if source.starts_with("/dev/loop") || is_base(&target) {
            continue;
        }
        if mount_remount(Path::new(&target), MountFlags::RDONLY, "").is_err() {
            console::say(&format!("`{target}` could not be unmounted"));
        }
    }
}

fn is_base(target: &str) -> bool {
    target == "/"
        || ["/proc", "/sys", "/dev", "/run", "/tmp"].iter().any(|base| Path::new(target).starts_with(base))
}

/// Source and target of a line of /proc/mounts, blanks and backslashes decoded.
fn parse_mount(line: &str) -> Option<(String, String)> {
    let mut words = line.split(' ');
    Some((words.next()?.to_owned(), decode(words.next()?)))
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'\\'
            && let Some(code) = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok())
            && let Ok(byte) = u8::from_str_radix(code, 8)
        {
            bytes.push(byte);
            rest = &tail[3..];
            continue;
        }
        bytes.push(*first);
        rest = tail;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_as_the_kernel_writes_them() {
        let line = r"/dev/vda /data/a\040b\134c ext4 rw,noatime 0 0";
        assert_eq!(parse_mount(line), Some(("/dev/vda".to_owned(), r"/data/a b\c".to_owned())));
        assert_eq!(parse_mount(""), None);
    }

    #[test]
    fn the_base_stays() {
        assert!(is_base("/"));
        assert!(is_base("/sys/fs/cgroup"));
        assert!(!is_base("/developer"));
        assert!(!is_base("/var/lib/engine/overlay2/x/merged"));
    }
}
