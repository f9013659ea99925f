//! Kills `machine` with -9 exactly at a write of a host's record, as a power cut would, with whatever driver.
//!
//! strace does it: a record is written by renaming, and the sync of the host's folder comes right after.

use std::{
    io::Read as _,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

/// More writes than any command has.
const MANY: u32 = 100;

/// Where a command is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// Right before a write, when what it records has been done.
    BeforeWrite(u32),
    /// Right after a write, before whatever it announces is done.
    AfterWrite(u32),
}

impl At {
    /// strace's words for it: the path that is watched and the system calls. The number counts these calls.
    fn trap(self, folder: &Path) -> (std::path::PathBuf, &'static str, u32) {
        match self {
            Self::BeforeWrite(number) => (folder.join("config.json"), "rename,renameat,renameat2", number),
            Self::AfterWrite(number) => (folder.to_owned(), "fsync", number),
        }
    }
}

/// What became of a command with a trap in it.
#[derive(Debug)]
pub(crate) enum End {
    Killed,
    /// It ended before it came to the trap.
    Exited(ExitStatus),
    /// It came as far as was wanted without the trap, and was killed then.
    FarEnough,
}

/// Runs a command of `machine` about the host with this folder, with a trap, until `far_enough` says so.
pub(crate) fn run(command: &Command, folder: &Path, at: At, mut far_enough: impl FnMut() -> bool) -> End {
    let (path, calls, number) = at.trap(folder);
    let mut traced = Command::new("strace");
    traced
        .args(["-f", "-qq", "-o", "/dev/null", "-P"])
        .arg(path)
        .args(["-e", &format!("trace={calls}"), "-e", &format!("inject={calls}:signal=KILL:when={number}")])
        .arg(command.get_program())
        .args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => traced.env(key, value),
            None => traced.env_remove(key),
        };
    }
    let mut child = traced
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let said = std::thread::spawn(move || {
        let mut said = String::new();
        let _ = stderr.read_to_string(&mut said);
        said
    });
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if far_enough() {
            kill_group(&mut child);
            return End::FarEnough;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    if status.signal() == Some(9) || status.code() == Some(128 + 9) {
        return End::Killed;
    }
    if !status.success() {
        eprintln!("{}", said.join().unwrap_or_default());
    }
    End::Exited(status)
}

/// A command and the strace around it.
fn kill_group(child: &mut Child) {
    let group = format!("-{}", child.id());
    assert!(Command::new("kill").args(["-9", "--", &group]).status().unwrap().success());
    child.wait().unwrap();
}

/// Calls `round` with one place after another, until the command is not killed there any more; how many there were.
pub(crate) fn at_each(place: impl Fn(u32) -> At, mut round: impl FnMut(At) -> End) -> u32 {
    for number in 1..MANY {
        match round(place(number)) {
            End::Killed => {}
            End::FarEnough => return number - 1,
            End::Exited(status) => {
                assert!(status.success(), "at {:?}: {status}", place(number));
                return number - 1;
            }
        }
    }
    panic!("more than {MANY} writes");
}

/// Some of the numbers from 1 to `most`, the same for the same seed.
pub(crate) fn chosen(seed: u64, count: usize, most: u32) -> Vec<u32> {
    let mut state = seed;
    let mut numbers: Vec<u32> = Vec::new();
    while numbers.len() < count.min(most as usize) {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let number = u32::try_from((word ^ (word >> 31)) % u64::from(most)).unwrap() + 1;
        if !numbers.contains(&number) {
            numbers.push(number);
        }
    }
    numbers
}
