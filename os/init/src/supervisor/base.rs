//! What every Linux system has before anything else runs: kernel file systems, device links, limits, settings.

use std::ffi::CStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::console;

/// File descriptors that a service may ask for; the soft limit stays low for programs that use select.
const FILES_HARD: u64 = 1_048_576;
const FILES_SOFT: u64 = 65_536;

/// Kernel settings, the ones that container hosts need.
const SETTINGS: [(&str, &str); 7] = [
    ("fs/inotify/max_user_instances", "1024"),
    ("fs/inotify/max_user_watches", "524288"),
    ("kernel/panic", "10"),
    ("kernel/pid_max", "4194304"),
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv4/conf/all/rp_filter", "2"),
    ("vm/max_map_count", "262144"),
];

/// Each step may fail alone: a system that lacks one of them still serves to find out why.
pub(super) fn prepare() {
    let base = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
    let loose = MountFlags::NOSUID.union(MountFlags::NODEV);
    attach("proc", "/proc", base, c"");
    attach("sysfs", "/sys", base, c"");
    attach(
        "devpts",
        "/dev/pts",
        MountFlags::NOSUID.union(MountFlags::NOEXEC),
        c"gid=5,mode=0620,ptmxmode=0666",
    );
    attach("tmpfs", "/dev/shm", loose, c"mode=1777");
    attach("mqueue", "/dev/mqueue", base, c"");
    attach("tmpfs", "/run", loose, c"mode=0755");
    attach("tmpfs", "/tmp", loose, c"mode=1777");
    attach("cgroup2", "/sys/fs/cgroup", base, c"nsdelegate,memory_recursiveprot");
    attach("bpf", "/sys/fs/bpf", base, c"mode=0700");
    attach("securityfs", "/sys/kernel/security", base, c"");
    // As everywhere: mounts made in one namespace reach the others unless those decline.
    let _ = mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC);
    for (link, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
        ("core", "/proc/kcore"),
    ] {
        let _ = symlink(target, Path::new("/dev").join(link));
    }
    for (folder, mode) in [("/run/lock", 0o1777), ("/run/services", 0o755), ("/run/sshd", 0o755)] {
        let _ = fs::create_dir_all(folder);
        let _ = fs::set_permissions(folder, fs::Permissions::from_mode(mode));
    }
    delegate_controllers();
    // Ctrl-Alt-Del would restart at once, disks or not.
    let _ = rustix::system::reboot(rustix::system::RebootCommand::CadOff);
    for (setting, value) in SETTINGS {
        let _ = fs::write(Path::new("/proc/sys").join(setting), value);
    }
    let files = Rlimit { current: Some(FILES_SOFT), maximum: Some(FILES_HARD) };
    let _ = setrlimit(Resource::Nofile, files);
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: None });
}

fn attach(kind: &str, target: &str, flags: MountFlags, data: &CStr) {
    let _ = fs::create_dir_all(target);
    if let Err(failure) = mount(kind, target, kind, flags, data) {
        console::say(&format!("Could not mount {kind} on `{target}`: {failure}"));
    }
}

/// Hands every controller down to the groups which the engine will make.
fn delegate_controllers() {
    let group = Path::new("/sys/fs/cgroup");
    for controller in
        fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default().split_whitespace()
    {
        let _ = fs::write(group.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}
