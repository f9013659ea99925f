//! The profile of containers that ask for nothing else.
//!
//! What is listed is allowed; what is known to reach the host answers `EPERM`; everything else, above all system calls newer
//! than this list, answers `ENOSYS`, so that programs fall back to the older way instead of failing.

use std::collections::HashSet;

use libcontainer::oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompBuilder, LinuxSeccompOperator,
};

use super::{call, condition};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// Every flag of clone(2) that makes a namespace.
const NAMESPACE_FLAGS: [u64; 7] =
    [0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000];

/// Families of socket that reach past the container: the kernel's crypto interface, and the hypervisor's sockets.
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;

/// Personalities without effect on security: Linux, its 32-bit form, each with the 2.6 name, and the question which one it is.
const PERSONALITIES: [u64; 5] = [0x0, 0x0008, 0x0002_0000, 0x0002_0008, 0xffff_ffff];

const FILES: &str = "
    _llseek _newselect access arm_fadvise64_64 arm_sync_file_range cachestat chdir chmod chown
    chown32 close close_range copy_file_range creat dup dup2 dup3 epoll_create epoll_create1
    epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2
    faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat
    fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr file_getattr file_setattr
    flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync
    ftruncate ftruncate64 futimesat getcwd getdents getdents64 getxattr getxattrat inotify_add_watch
    inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents
    io_pgetevents_time64 io_setup io_submit ioctl landlock_add_rule landlock_create_ruleset
    landlock_restrict_self lchown lchown32 lgetxattr link linkat listxattr listxattrat llistxattr
    lremovexattr lseek lsetxattr lstat lstat64 memfd_create memfd_secret mkdir mkdirat mknod mknodat
    name_to_handle_at newfstatat open openat openat2 pipe pipe2 poll ppoll ppoll_time64 pread64
    preadv preadv2 pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink
    readlinkat readv removexattr removexattrat rename renameat renameat2 rmdir select sendfile
    sendfile64 setxattr setxattrat splice stat stat64 statfs statfs64 statx symlink symlinkat sync
    sync_file_range sync_file_range2 syncfs tee truncate truncate64 umask unlink unlinkat utime
    utimensat utimensat_time64 utimes vmsplice write writev
";

const MEMORY: &str = "
    brk madvise map_shadow_stack membarrier mincore mlock mlock2 mlockall mmap mmap2 mprotect mremap
    mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect remap_file_pages
";

const PROCESSES: &str = "
    arch_prctl breakpoint cacheflush capget capset execve execveat exit exit_group fork futex
    futex_requeue futex_time64 futex_wait futex_waitv futex_wake get_robust_list get_thread_area
    getcpu getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getpgid getpgrp
    getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit
    getrusage getsid gettid getuid getuid32 ioprio_get ioprio_set kill modify_ldt nice pause
    pidfd_open pidfd_send_signal prctl prlimit64 process_mrelease process_vm_readv process_vm_writev
    ptrace restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
    rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo
    sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
    sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity
    sched_setattr sched_setparam sched_setscheduler sched_yield seccomp set_robust_list
    set_thread_area set_tid_address set_tls setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32
    setgroups setgroups32 setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid
    setresuid32 setreuid setreuid32 setrlimit setsid setuid setuid32 sigaction sigaltstack signal
    signalfd signalfd4 sigpending sigprocmask sigreturn sigsuspend sysinfo tgkill times tkill
    ugetrlimit uname uretprobe vfork wait4 waitid waitpid
";

/// The kernel itself asks for `CAP_SYS_TIME` where the adjusting ones would change something.
const TIME: &str = "
    adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime
    clock_gettime64 clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep
    setitimer time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64
    timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime
    timerfd_settime64
";

const COMMUNICATION: &str = "
    accept accept4 bind connect getpeername getsockname getsockopt ipc listen mq_getsetattr
    mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64
    mq_unlink msgctl msgget msgrcv msgsnd recv recvfrom recvmmsg recvmmsg_time64 recvmsg semctl
    semget semop semtimedop semtimedop_time64 send sendmmsg sendmsg sendto setsockopt shmat shmctl
    shmdt shmget shutdown socketpair
";

/// What a capability opens besides.
const UNLOCKED: &[(Capability, &str)] = &[
    (Capability::DacReadSearch, "open_by_handle_at"),
    (
        Capability::SysAdmin,
        "bpf fanotify_init fsconfig fsmount fsopen fspick listmount lookup_dcookie mount mount_setattr \
         move_mount open_tree open_tree_attr perf_event_open quotactl quotactl_fd setdomainname \
         sethostname setns statmount syslog umount umount2 unshare",
    ),
    (Capability::SysBoot, "reboot"),
    (Capability::SysChroot, "chroot"),
    (Capability::SysModule, "delete_module finit_module init_module"),
    (Capability::SysPacct, "acct"),
    (Capability::SysPtrace, "kcmp pidfd_getfd process_madvise"),
    (Capability::SysRawio, "ioperm iopl"),
    (Capability::SysTime, "clock_settime clock_settime64 settimeofday stime"),
    (Capability::SysTtyConfig, "vhangup"),
    (
        Capability::SysNice,
        "get_mempolicy mbind migrate_pages move_pages set_mempolicy set_mempolicy_home_node",
    ),
    (Capability::Syslog, "syslog"),
    (Capability::Bpf, "bpf"),
    (Capability::Perfmon, "perf_event_open"),
];

/// What no capability opens: keyrings (not separated by namespaces), new kernels, swap, things long out of use, and
/// `socketcall`, by which 32-bit programs would make sockets of the families below: its arguments are in memory, where no filter
/// sees them. musl takes `socket` itself since Linux 4.3; the 32-bit glibc of most distributions does not, and its programs
/// need a profile of their own (`--security-opt seccomp=FILE`) to reach a network.
const NEVER: &str = "
    _sysctl add_key create_module get_kernel_syms io_uring_enter io_uring_register io_uring_setup
    kexec_file_load kexec_load keyctl nfsservctl pivot_root query_module request_key socketcall swapoff swapon
    sysfs uselib userfaultfd ustat vm86 vm86old
";

fn words(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.split_ascii_whitespace()
}

/// The default profile for a container with these capabilities.
#[expect(clippy::implicit_hasher, reason = "sets of capabilities are made in one place")]
pub fn default_profile(capabilities: &HashSet<Capability>) -> LinuxSeccomp {
    let allow = LinuxSeccompAction::ScmpActAllow;
    let refuse = LinuxSeccompAction::ScmpActErrno;
    let equal = LinuxSeccompOperator::ScmpCmpEq;
    let masked = LinuxSeccompOperator::ScmpCmpMaskedEq;

    let mut calls: Vec<_> = [FILES, MEMORY, PROCESSES, TIME, COMMUNICATION]
        .into_iter()
        .map(|names| call(&words(names).collect::<Vec<_>>(), allow, None, Vec::new()))
        .collect();

    let (opened, closed): (Vec<_>, Vec<_>) =
        UNLOCKED.iter().partition(|(capability, _)| capabilities.contains(capability));
    let opened: HashSet<&str> = opened.iter().flat_map(|(_, names)| words(names)).collect();
    let mut closed: Vec<&str> = closed
        .iter()
        .flat_map(|(_, names)| words(names))
        .filter(|name| !opened.contains(name))
        .chain(words(NEVER))
        .collect();
    let mut opened: Vec<&str> = opened.into_iter().collect();
    opened.sort_unstable();
    closed.sort_unstable();
    closed.dedup();

    if capabilities.contains(&Capability::SysAdmin) {
        opened.extend(["clone", "clone3"]);
    } else {
        // clone3 has its flags in memory, where no filter can see them: ENOSYS makes the C libraries take clone.
        let every_flag = NAMESPACE_FLAGS.iter().sum();
        calls.push(call(&["clone"], allow, None, vec![condition(0, masked, every_flag, 0)]));
        for flag in NAMESPACE_FLAGS {
            calls.push(call(&["clone"], refuse, Some(EPERM), vec![condition(0, masked, flag, flag)]));
        }
    }
    if !opened.is_empty() {
        calls.push(call(&opened, allow, None, Vec::new()));
    }
    calls.push(call(&closed, refuse, Some(EPERM), Vec::new()));

    for personality in PERSONALITIES {
        calls.push(call(&["personality"], allow, None, vec![condition(0, equal, personality, 0)]));
    }
    let family = |operator, family| vec![condition(0, operator, family, 0)];
    calls.push(call(&["socket"], allow, None, family(LinuxSeccompOperator::ScmpCmpLt, AF_ALG)));
    calls.push(call(&["socket"], refuse, Some(EPERM), family(equal, AF_ALG)));
    calls.push(call(&["socket"], allow, None, family(equal, AF_ALG + 1)));
    calls.push(call(&["socket"], refuse, Some(EPERM), family(equal, AF_VSOCK)));
    calls.push(call(&["socket"], allow, None, family(LinuxSeccompOperator::ScmpCmpGt, AF_VSOCK)));

    let architectures = match std::env::consts::ARCH {
        "x86_64" => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
        "aarch64" => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        _ => vec![Arch::ScmpArchNative],
    };
    LinuxSeccompBuilder::default()
        .default_action(refuse)
        .default_errno_ret(ENOSYS)
        .architectures(architectures)
        .syscalls(calls)
        .build()
        .unwrap_or_default()
}
