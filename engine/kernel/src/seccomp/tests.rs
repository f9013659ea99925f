#![allow(clippy::unwrap_used)]

use std::process::Command;

use serde_json::json;

use super::*;

/// Set for a process of ours that is to load a profile and then make system calls.
const PROBE: &str = "ENGINE_SECCOMP_PROBE";

fn action(profile: &LinuxSeccomp, name: &str) -> LinuxSeccompAction {
    profile
        .syscalls()
        .iter()
        .flatten()
        .find(|call| call.args().is_none() && call.names().iter().any(|known| known == name))
        .map_or_else(|| profile.default_action(), LinuxSyscall::action)
}

#[test]
fn capabilities_open_their_system_calls() {
    let none = default_profile(&HashSet::new());
    for name in ["mount", "bpf", "reboot", "chroot", "keyctl", "setns", "io_uring_setup"] {
        assert_eq!(action(&none, name), LinuxSeccompAction::ScmpActErrno, "{name}");
    }
    for name in ["read", "openat", "execve", "ptrace", "connect"] {
        assert_eq!(action(&none, name), LinuxSeccompAction::ScmpActAllow, "{name}");
    }
    let administrator = default_profile(&HashSet::from([Capability::SysAdmin]));
    for name in ["mount", "bpf", "setns", "clone", "clone3", "unshare"] {
        assert_eq!(action(&administrator, name), LinuxSeccompAction::ScmpActAllow, "{name}");
    }
    for name in ["keyctl", "reboot", "chroot"] {
        assert_eq!(action(&administrator, name), LinuxSeccompAction::ScmpActErrno, "{name}");
    }
    let bpf = default_profile(&HashSet::from([Capability::Bpf]));
    assert_eq!(action(&bpf, "bpf"), LinuxSeccompAction::ScmpActAllow);
    assert_eq!(action(&bpf, "mount"), LinuxSeccompAction::ScmpActErrno);
}

#[test]
fn no_name_is_both_allowed_and_refused() {
    for capabilities in [HashSet::new(), HashSet::from([Capability::SysAdmin, Capability::Syslog])] {
        let profile = default_profile(&capabilities);
        let mut seen = HashSet::new();
        for call in profile.syscalls().iter().flatten().filter(|call| call.args().is_none()) {
            for name in call.names() {
                assert!(seen.insert(name.clone()), "{name} is there twice");
                assert!(is_call_name(name));
            }
        }
        assert!(seen.len() > 350);
    }
}

/// Makes system calls under the default profile, loaded as containers load it, and says what they answered.
#[expect(unsafe_code, reason = "these calls must not go through wrappers that fall back to others")]
fn probe() {
    fn outcome(result: libc::c_long) -> i32 {
        if result < 0 { std::io::Error::last_os_error().raw_os_error().unwrap() } else { 0 }
    }
    let profile = default_profile(&HashSet::new());
    Filter::compile(&profile).unwrap().load().unwrap();
    let clone_with = |flags: libc::c_long| {
        // SAFETY: without CLONE_VM this is a fork, whose child leaves at once.
        unsafe {
            let child = libc::syscall(libc::SYS_clone, flags | libc::c_long::from(libc::SIGCHLD), 0, 0, 0, 0);
            if child == 0 {
                libc::_exit(0);
            }
            let answer = outcome(child);
            if child > 0 {
                libc::waitpid(i32::try_from(child).unwrap(), std::ptr::null_mut(), 0);
            }
            answer
        }
    };
    let flag = |flag: i32| libc::c_long::from(flag);
    let nothing = std::ptr::null::<u8>();
    // SAFETY: each call gets numbers or null pointers only.
    let answers = unsafe {
        [
            ("getpid", outcome(libc::syscall(libc::SYS_getpid))),
            ("clone", clone_with(0)),
            ("clone-user", clone_with(flag(libc::CLONE_NEWUSER))),
            ("clone-net", clone_with(flag(libc::CLONE_NEWNET))),
            ("clone-mount", clone_with(flag(libc::CLONE_NEWNS) | flag(libc::CLONE_NEWPID))),
            ("clone3", outcome(libc::syscall(libc::SYS_clone3, nothing, 0))),
            ("unshare", outcome(libc::syscall(libc::SYS_unshare, libc::CLONE_NEWUTS))),
            ("mount", outcome(libc::syscall(libc::SYS_mount, nothing, nothing, nothing, 0, nothing))),
            ("keyctl", outcome(libc::syscall(libc::SYS_keyctl, 0, 0, 0, 0, 0))),
            ("unknown", outcome(libc::syscall(9999))),
            ("personality", outcome(libc::syscall(libc::SYS_personality, 0xffff_ffff_u32))),
            ("personality-odd", outcome(libc::syscall(libc::SYS_personality, 0x0004_0000))),
            ("unix", outcome(libc::syscall(libc::SYS_socket, libc::AF_UNIX, libc::SOCK_STREAM, 0))),
            ("netlink", outcome(libc::syscall(libc::SYS_socket, libc::AF_NETLINK, libc::SOCK_RAW, 0))),
            ("alg", outcome(libc::syscall(libc::SYS_socket, 38, libc::SOCK_SEQPACKET, 0))),
            ("vsock", outcome(libc::syscall(libc::SYS_socket, 40, libc::SOCK_STREAM, 0))),
        ]
    };
    let mut answers = answers.to_vec();
    answers.extend(probe_32());
    let text: Vec<String> = answers.iter().map(|(name, errno)| format!("{name}={errno}")).collect();
    std::fs::write(std::env::var_os(PROBE).unwrap(), text.join("\n")).unwrap();
}

/// A system call as 32-bit programs make it.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "there is no other way to it")]
fn call_32(number: u32, arguments: [u32; 3]) -> i32 {
    let answer: i32;
    // SAFETY: the calls get numbers and null pointers only; rbx, which the compiler keeps to itself, is put back.
    unsafe {
        std::arch::asm!(
            "xchg rbx, {first}", "int 0x80", "xchg rbx, {first}",
            first = inout(reg) u64::from(arguments[0]) => _,
            inlateout("eax") number => answer,
            in("ecx") arguments[1], in("edx") arguments[2],
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _,
        );
    }
    answer.min(0).abs()
}

/// The same for 32-bit programs, where the kernel runs them.
fn probe_32() -> Vec<(&'static str, i32)> {
    #[cfg(target_arch = "x86_64")]
    if std::path::Path::new("/proc/sys/abi/vsyscall32").exists() {
        let (stream, seqpacket) = (1, 5);
        return vec![
            ("getpid-32", call_32(20, [0; 3])),
            ("unix-32", call_32(359, [1, stream, 0])),
            ("alg-32", call_32(359, [38, seqpacket, 0])),
            ("vsock-32", call_32(359, [40, stream, 0])),
            // Without arguments it fails if it is reached.
            ("socketcall", call_32(102, [1, 0, 0])),
        ];
    }
    vec![("getpid-32", 0), ("unix-32", 0), ("alg-32", 1), ("vsock-32", 1), ("socketcall", 1)]
}

/// In a process of its own, since a filter stays for ever.
#[test]
fn the_kernel_applies_the_default_profile() {
    if std::env::var_os(PROBE).is_some() {
        return probe();
    }
    let folder = tempfile::tempdir().unwrap();
    let answers = folder.path().join("answers");
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--test-threads=1", "seccomp::tests::the_kernel_applies_the_default_profile"])
        .env(PROBE, &answers)
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    let answers =
        std::fs::read_to_string(&answers).unwrap_or_else(|_| panic!("the probe ended with {status}"));
    let expected = [
        ("getpid", 0),
        ("clone", 0),
        ("clone-user", libc::EPERM),
        ("clone-net", libc::EPERM),
        ("clone-mount", libc::EPERM),
        ("clone3", libc::ENOSYS),
        ("unshare", libc::EPERM),
        ("mount", libc::EPERM),
        ("keyctl", libc::EPERM),
        ("unknown", libc::ENOSYS),
        ("personality", 0),
        ("personality-odd", libc::ENOSYS),
        ("unix", 0),
        ("netlink", 0),
        ("alg", libc::EPERM),
        ("vsock", libc::EPERM),
        ("getpid-32", 0),
        ("unix-32", 0),
        ("alg-32", libc::EPERM),
        ("vsock-32", libc::EPERM),
        ("socketcall", libc::EPERM),
    ];
    let expected: Vec<String> = expected.iter().map(|(name, errno)| format!("{name}={errno}")).collect();
    assert_eq!(answers.lines().collect::<Vec<_>>(), expected);
}

fn host(capabilities: &HashSet<Capability>) -> Host<'_> {
    Host { capabilities, architecture: "amd64", native: Arch::ScmpArchX86_64, kernel: (6, 1) }
}

fn parsed(profile: &serde_json::Value, capabilities: &[Capability]) -> Result<LinuxSeccomp, SeccompError> {
    let capabilities = capabilities.iter().copied().collect();
    resolve(serde_json::from_value(profile.clone()).unwrap(), &host(&capabilities))
}

#[test]
fn a_profile_is_read_with_its_conditions() {
    let profile = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "archMap": [
            { "architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"] },
            { "architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"] },
        ],
        "syscalls": [
            { "names": ["read", "write"], "action": "SCMP_ACT_ALLOW", "comment": "x" },
            { "names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": { "minKernel": "4.8" } },
            { "names": ["newer"], "action": "SCMP_ACT_ALLOW", "includes": { "minKernel": "6.2" } },
            { "names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": { "caps": ["CAP_SYS_ADMIN"] } },
            { "names": ["modify_ldt"], "action": "SCMP_ACT_ALLOW", "includes": { "arches": ["amd64", "x32"] } },
            { "names": ["set_tls"], "action": "SCMP_ACT_ALLOW", "includes": { "arches": ["arm"] } },
            { "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "excludes": { "caps": ["CAP_SYS_ADMIN"] } },
            { "names": ["clone"], "action": "SCMP_ACT_ALLOW",
              "args": [{ "index": 0, "value": 2_114_060_288_u64, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" }] },
        ],
    });
    let names = |profile: &LinuxSeccomp| -> Vec<String> {
        profile.syscalls().iter().flatten().flat_map(|call| call.names().clone()).collect()
    };
    let plain = parsed(&profile, &[]).unwrap();
    assert_eq!(names(&plain), ["read", "write", "ptrace", "modify_ldt", "clone3", "clone"]);
    assert_eq!(plain.default_errno_ret(), Some(1));
    assert_eq!(plain.architectures(), &Some(vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86]));
    let arguments = plain.syscalls().as_ref().unwrap().last().unwrap().args().clone().unwrap();
    assert_eq!((arguments[0].value(), arguments[0].value_two()), (2_114_060_288, Some(0)));
    let administrator = parsed(&profile, &[Capability::SysAdmin]).unwrap();
    assert_eq!(names(&administrator), ["read", "write", "ptrace", "mount", "modify_ldt", "clone"]);
}

#[test]
fn what_is_no_profile_is_refused() {
    let refused = |profile: serde_json::Value| parsed(&profile, &[]).unwrap_err().to_string();
    let rule = |rule: serde_json::Value| json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] });
    assert!(refused(rule(json!({ "action": "SCMP_ACT_ERRNO" }))).contains("names no system call"));
    assert!(
        refused(rule(json!({ "name": "a", "names": ["b"], "action": "SCMP_ACT_ERRNO" })))
            .contains("either 'name'")
    );
    assert!(refused(rule(json!({ "name": "a\nb", "action": "SCMP_ACT_ERRNO" }))).contains("not the name"));
    let argument = json!({ "name": "a", "action": "SCMP_ACT_ERRNO", "args": [{ "index": 6, "value": 0, "op": "SCMP_CMP_EQ" }] });
    assert!(refused(rule(argument)).contains("no argument number 6"));
    assert!(refused(rule(json!({ "name": "a", "action": "SCMP_ACT_NOTIFY" }))).contains("SCMP_ACT_NOTIFY"));
    assert!(
        refused(rule(json!({ "name": "a", "action": "SCMP_ACT_ERRNO", "errnoRet": 5000 }))).contains("5000")
    );
    let both = json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"],
        "archMap": [{ "architecture": "SCMP_ARCH_X86" }] });
    assert!(refused(both).contains("archMap"));
    let many = vec![json!({ "name": "a", "action": "SCMP_ACT_ERRNO" }); MOST_RULES + 1];
    assert!(refused(json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": many })).contains("more than"));

    let none = HashSet::new();
    assert!(matches!(parse_profile(&" ".repeat(LARGEST_PROFILE + 1), &none), Err(SeccompError::TooLarge)));
    assert!(matches!(parse_profile("{}", &none), Err(SeccompError::Json { .. })));
    assert!(matches!(parse_profile(r#"{"defaultAction":"NO"}"#, &none), Err(SeccompError::Json { .. })));
}

#[test]
fn a_profile_is_compiled_once() {
    let filters = Filters::default();
    let none = filters.get(&default_profile(&HashSet::new())).unwrap();
    let again = filters.get(&default_profile(&HashSet::new())).unwrap();
    assert!(std::sync::Arc::ptr_eq(&none, &again));
    let other = filters.get(&default_profile(&HashSet::from([Capability::SysAdmin]))).unwrap();
    assert_ne!(none, other);
    let text = serde_json::to_string(&*none).unwrap();
    assert_eq!(serde_json::from_str::<Filter>(&text).unwrap(), *none);
}
