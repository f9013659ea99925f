//! The eBPF program of type `CGROUP_DEVICE`: written by hand, handed to the kernel by bpf(2).
//!
//! The kernel runs it for every open and mknod of a device by a process of the cgroup. It keeps the kinds of access that are
//! still undecided in a register and walks the rules from the last to the first: an allowing rule decides its kinds, a denying
//! rule ends it. So the last rule counts for each kind of access, whatever combination is asked for.

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use super::{Access, DeviceError, DeviceKind, DeviceRule, MOST_RULES};

const MAKE: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;
const EVERY_ACCESS: i32 = MAKE | READ | WRITE;

const KIND_BLOCK: i32 = 1;
const KIND_CHARACTER: i32 = 2;

/// The answer; also scratch.
const ANSWER: u8 = 0;
/// The kernel's description of the access: {kind | access << 16, major, minor}, 32 bits each.
const CONTEXT: u8 = 1;
/// Kinds of access not decided yet.
const UNDECIDED: u8 = 2;
const KIND: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb7;
const MOVE_REGISTER_32: u8 = 0xbc;
const AND_32: u8 = 0x54;
const SHIFT_RIGHT_32: u8 = 0x74;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_IF_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

/// One instruction as the kernel reads it (`struct bpf_insn`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u8,
    /// Destination in the lower half, source in the upper.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: destination | source << 4, offset, immediate }
}

fn bits(access: Access) -> i32 {
    [(access.make, MAKE), (access.read, READ), (access.write, WRITE)]
        .into_iter()
        .filter_map(|(set, bit)| set.then_some(bit))
        .sum()
}

/// The instructions for these rules. What no rule speaks of is denied.
fn compile(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut program = vec![
        instruction(LOAD_WORD, UNDECIDED, CONTEXT, 0, 0),
        instruction(MOVE_REGISTER_32, KIND, UNDECIDED, 0, 0),
        instruction(AND_32, KIND, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT_32, UNDECIDED, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let access = bits(rule.access);
        if access == 0 {
            continue;
        }
        let first = program.len();
        let mut unless_equal = |register, value: i32| {
            program.push(instruction(JUMP_IF_NOT_EQUAL, register, 0, 0, value));
        };
        match rule.kind {
            DeviceKind::All => {}
            DeviceKind::Block => unless_equal(KIND, KIND_BLOCK),
            DeviceKind::Character => unless_equal(KIND, KIND_CHARACTER),
        }
        if let Some(major) = rule.major {
            unless_equal(MAJOR, major.cast_signed());
        }
        if let Some(minor) = rule.minor {
            unless_equal(MINOR, minor.cast_signed());
        }
        if access != EVERY_ACCESS {
            if rule.allow {
                program.push(instruction(AND_32, UNDECIDED, 0, 0, EVERY_ACCESS & !access));
                program.push(instruction(JUMP_IF_NOT_EQUAL, UNDECIDED, 0, 0, 0));
            } else {
                program.push(instruction(MOVE_REGISTER_32, ANSWER, UNDECIDED, 0, 0));
                program.push(instruction(AND_32, ANSWER, 0, 0, access));
                program.push(instruction(JUMP_IF_EQUAL, ANSWER, 0, 0, 0));
            }
        }
        program.push(instruction(MOVE, ANSWER, 0, 0, i32::from(rule.allow)));
        program.push(instruction(EXIT, 0, 0, 0, 0));
        let next = program.len();
        let mut conditional = false;
        for (index, instruction) in program.iter_mut().enumerate().skip(first) {
            if instruction.code == JUMP_IF_EQUAL || instruction.code == JUMP_IF_NOT_EQUAL {
                // A rule is at most eight instructions long.
                instruction.offset = i16::try_from(next - index - 1).unwrap_or(i16::MAX);
                conditional = true;
            }
        }
        if !conditional {
            // Nothing behind this can be reached, and the kernel refuses such programs.
            return program;
        }
    }
    program.push(instruction(MOVE, ANSWER, 0, 0, 0));
    program.push(instruction(EXIT, 0, 0, 0, 0));
    program
}

const PROGRAM_LOAD: i32 = 5;
const PROGRAM_ATTACH: i32 = 8;
const PROGRAM_DETACH: i32 = 9;
const PROGRAM_BY_ID: i32 = 13;
const PROGRAM_QUERY: i32 = 16;

const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// Programs of outer and inner cgroups run as well, and all have to agree.
const ALLOW_MULTIPLE: u32 = 2;

#[repr(C)]
#[derive(Default)]
struct LoadAttributes {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach_type: u32,
}

#[repr(C)]
#[derive(Default)]
struct AttachAttributes {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
    replaced_program: u32,
}

#[repr(C)]
#[derive(Default)]
struct QueryAttributes {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    identifiers: u64,
    count: u32,
}

#[repr(C)]
#[derive(Default)]
struct ByIdAttributes {
    identifier: u32,
    next: u32,
    flags: u32,
}

/// # Safety
/// Every address in `attributes` must point to live memory of the length that goes with it.
#[expect(unsafe_code, reason = "bpf(2) has no safe wrapper among our crates")]
unsafe fn bpf<T>(command: i32, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: the kernel reads and writes at most `size_of::<T>()` bytes of `attributes`; the caller vouches for what it points to.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), mem::size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}

#[expect(unsafe_code, reason = "the attributes carry addresses")]
fn load(instructions: &[Instruction]) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0";
    let mut attributes = LoadAttributes {
        kind: TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(instructions.len()).map_err(io::Error::other)?,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        name: *b"engine_devices\0\0",
        expected_attach_type: ATTACH_CGROUP_DEVICE,
        ..LoadAttributes::default()
    };
    // SAFETY: `instructions` and `license` outlive the call, and the count is that of the slice.
    let descriptor = unsafe { bpf(PROGRAM_LOAD, &mut attributes) }?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn number(descriptor: &impl AsRawFd) -> u32 {
    descriptor.as_raw_fd().cast_unsigned()
}

/// Device programs that are attached to this very cgroup already.
#[expect(unsafe_code, reason = "the attributes carry addresses")]
fn attached(cgroup: &File) -> Vec<u32> {
    let mut identifiers = [0_u32; 64];
    let mut attributes = QueryAttributes {
        target: number(cgroup),
        attach_type: ATTACH_CGROUP_DEVICE,
        identifiers: identifiers.as_mut_ptr() as u64,
        count: 64,
        ..QueryAttributes::default()
    };
    // SAFETY: `identifiers` outlives the call and has room for `count` numbers.
    match unsafe { bpf(PROGRAM_QUERY, &mut attributes) } {
        Ok(_) => identifiers[..usize::try_from(attributes.count).unwrap_or(0).min(64)].to_vec(),
        Err(_) => Vec::new(),
    }
}

#[expect(unsafe_code, reason = "bpf(2) has no safe wrapper among our crates")]
fn detach(cgroup: &File, identifier: u32) -> io::Result<()> {
    let mut by_id = ByIdAttributes { identifier, ..ByIdAttributes::default() };
    // SAFETY: these attributes hold numbers only.
    let descriptor = unsafe { bpf(PROGRAM_BY_ID, &mut by_id) }?;
    // SAFETY: the kernel has just made this descriptor for us.
    let program = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let mut attributes = AttachAttributes {
        target: number(cgroup),
        program: number(&program),
        attach_type: ATTACH_CGROUP_DEVICE,
        ..AttachAttributes::default()
    };
    // SAFETY: these attributes hold numbers only.
    unsafe { bpf(PROGRAM_DETACH, &mut attributes) }.map(drop)
}

/// Makes the kernel apply these rules to all processes of a cgroup (v2), in place of those applied before.
#[expect(unsafe_code, reason = "bpf(2) has no safe wrapper among our crates")]
pub fn attach_device_program(cgroup: &Path, rules: &[DeviceRule]) -> Result<(), DeviceError> {
    if rules.len() > MOST_RULES {
        return Err(DeviceError::TooManyRules { count: rules.len() });
    }
    let path = || cgroup.to_owned();
    let folder = File::open(cgroup).map_err(|source| DeviceError::OpenCgroup { path: path(), source })?;
    let program = load(&compile(rules)).map_err(|source| DeviceError::Load { path: path(), source })?;
    let before = attached(&folder);
    let mut attributes = AttachAttributes {
        target: number(&folder),
        program: number(&program),
        attach_type: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTIPLE,
        ..AttachAttributes::default()
    };
    // SAFETY: these attributes hold numbers only, and both descriptors are open.
    unsafe { bpf(PROGRAM_ATTACH, &mut attributes) }
        .map_err(|source| DeviceError::Attach { path: path(), source })?;
    for identifier in before {
        detach(&folder, identifier).map_err(|source| DeviceError::Attach { path: path(), source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::default_rules;
    use super::*;

    /// Runs the instructions as the kernel would, on one access.
    fn allows(program: &[Instruction], kind: i32, major: u32, minor: u32, access: i32) -> bool {
        let context = [(kind | access << 16).cast_unsigned(), major, minor];
        let mut registers = [0_u64; 6];
        let mut at = 0;
        for _ in 0..10_000 {
            let Instruction { code, registers: both, offset, immediate } = program[at];
            let (to, from) = (usize::from(both & 0xf), usize::from(both >> 4));
            at += 1;
            let jump = |at: usize| at.checked_add_signed(isize::from(offset)).unwrap();
            let wide = i64::from(immediate).cast_unsigned();
            let narrow = u64::from(immediate.cast_unsigned());
            match code {
                LOAD_WORD => registers[to] = u64::from(context[usize::try_from(offset).unwrap() / 4]),
                MOVE => registers[to] = wide,
                MOVE_REGISTER_32 => registers[to] = registers[from] & 0xffff_ffff,
                AND_32 => registers[to] &= narrow,
                SHIFT_RIGHT_32 => registers[to] = (registers[to] & 0xffff_ffff) >> immediate,
                JUMP_IF_EQUAL if registers[to] == wide => at = jump(at),
                JUMP_IF_NOT_EQUAL if registers[to] != wide => at = jump(at),
                JUMP_IF_EQUAL | JUMP_IF_NOT_EQUAL => {}
                EXIT => return registers[0] == 1,
                other => panic!("instruction {other:#x}"),
            }
        }
        panic!("the program does not end");
    }

    /// The rules' meaning, spelled out: the last matching rule counts for each kind of access.
    fn meant(rules: &[DeviceRule], kind: i32, major: u32, minor: u32, access: i32) -> bool {
        [MAKE, READ, WRITE].into_iter().filter(|bit| access & bit != 0).all(|bit| {
            rules
                .iter()
                .rev()
                .find(|rule| {
                    bits(rule.access) & bit != 0
                        && rule.major.is_none_or(|number| number == major)
                        && rule.minor.is_none_or(|number| number == minor)
                        && match rule.kind {
                            DeviceKind::All => true,
                            DeviceKind::Block => kind == KIND_BLOCK,
                            DeviceKind::Character => kind == KIND_CHARACTER,
                        }
                })
                .is_some_and(|rule| rule.allow)
        })
    }

    fn agree(rules: &[DeviceRule]) {
        let program = compile(rules);
        for kind in [KIND_BLOCK, KIND_CHARACTER] {
            for major in [0, 1, 5, 8, 10, 136, 0xfff] {
                for minor in [0, 1, 2, 3, 5, 8, 200, 0xf_ffff] {
                    for access in 1..=EVERY_ACCESS {
                        assert_eq!(
                            allows(&program, kind, major, minor, access),
                            meant(rules, kind, major, minor, access),
                            "{kind} {major}:{minor} {access} by {rules:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_default_rules_allow_what_a_container_needs_and_nothing_else() {
        let program = compile(&default_rules());
        for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, 7)] {
            assert!(allows(&program, KIND_CHARACTER, major, minor, READ | WRITE), "{major}:{minor}");
        }
        assert!(allows(&program, KIND_BLOCK, 8, 0, MAKE));
        assert!(!allows(&program, KIND_BLOCK, 8, 0, READ));
        assert!(!allows(&program, KIND_BLOCK, 8, 0, READ | MAKE));
        assert!(!allows(&program, KIND_BLOCK, 1, 3, READ));
        assert!(!allows(&program, KIND_CHARACTER, 1, 1, READ));
        assert!(!allows(&program, KIND_CHARACTER, 1, 11, WRITE));
        assert!(!allows(&program, KIND_CHARACTER, 10, 200, READ | WRITE));
    }

    #[test]
    fn the_program_means_what_the_rules_mean() {
        let rule = |text: &str| text.parse::<DeviceRule>().unwrap();
        let deny = |text: &str| DeviceRule { allow: false, ..rule(text) };
        agree(&default_rules());
        agree(&[]);
        agree(&[DeviceRule::ALLOW_ALL]);
        agree(&[DeviceRule::DENY_ALL]);
        agree(&[DeviceRule::ALLOW_ALL, deny("b *:* w")]);
        agree(&[DeviceRule::ALLOW_ALL, deny("b 8:* rw"), rule("b 8:0 r"), rule("c 1:* m")]);
        agree(&[rule("c 1:3 r"), rule("c 1:3 w"), rule("b *:5 m")]);
        agree(&[rule("c 1:3 rwm"), DeviceRule::DENY_ALL, rule("a *:8 rm")]);
        agree(&[deny("a *:* m"), DeviceRule::ALLOW_ALL, deny("c *:* r"), deny("a 10:200 w")]);
    }

    #[test]
    fn nothing_unreachable_is_emitted() {
        let program = compile(&[DeviceRule::DENY_ALL, "c 1:3 r".parse().unwrap(), DeviceRule::ALLOW_ALL]);
        assert_eq!(program.len(), 8);
        assert_eq!(program.last().unwrap().code, EXIT);
    }

    /// Where cgroup v2 is, if it is: alone, or beside v1.
    fn unified() -> Option<&'static Path> {
        ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
            .into_iter()
            .map(Path::new)
            .find(|path| path.join("cgroup.procs").exists() && path.join("cgroup.controllers").exists())
    }

    /// Removed when the test ends, however it ends.
    struct Cgroup(std::path::PathBuf);

    impl Drop for Cgroup {
        fn drop(&mut self) {
            for _ in 0..100 {
                if std::fs::remove_dir(&self.0).is_ok() {
                    return;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
    }

    fn opens(cgroup: &Path, path: &str) -> bool {
        let script = format!("echo 0 > {}/cgroup.procs && exec 3< {path}", cgroup.display());
        std::process::Command::new("sh")
            .args(["-c", &script])
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap()
            .success()
    }

    #[test]
    fn the_kernel_applies_the_program() {
        let Some(root) = unified() else {
            return skipped::say("cgroup2", "the program about devices is not loaded into a kernel");
        };
        let cgroup = Cgroup(root.join(format!("engine-test-{}", std::process::id())));
        std::fs::create_dir(&cgroup.0).unwrap();
        assert!(opens(&cgroup.0, "/dev/zero"));
        assert!(opens(&cgroup.0, "/dev/kmsg"));
        attach_device_program(&cgroup.0, &default_rules()).unwrap();
        assert!(opens(&cgroup.0, "/dev/zero"));
        assert!(!opens(&cgroup.0, "/dev/kmsg"));
        // The second program takes the place of the first.
        let mut rules = default_rules();
        rules.push("c 1:11 r".parse().unwrap());
        attach_device_program(&cgroup.0, &rules).unwrap();
        assert!(opens(&cgroup.0, "/dev/kmsg"));
        let folder = File::open(&cgroup.0).unwrap();
        assert_eq!(attached(&folder).len(), 1);
    }
}
