//! Kills a program with -9 at a write of its choice, by strace: right before the call is made.

#![allow(dead_code, reason = "each test crate that includes this uses a part of it")]

use std::{
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Command, ExitStatus},
};

/// What changes a folder so that it outlives the process, one system call each. strace counts each for itself.
pub(crate) const WRITES: [&str; 12] = [
    "mkdir",
    "mkdirat",
    "rename",
    "renameat",
    "renameat2",
    "linkat",
    "unlink",
    "unlinkat",
    "rmdir",
    "ftruncate",
    "fsync",
    "fdatasync",
];

/// The same command, killed when one of its threads is about to make one of `calls` (separated by commas) for the
/// `number`th time, on `path` if one is given.
pub(crate) fn at(template: &Command, calls: &str, path: Option<&Path>, number: u32) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null"]);
    if let Some(path) = path {
        command.arg("-P").arg(path);
    }
    command
        .args(["-e", &format!("trace={calls}"), "-e", &format!("inject={calls}:signal=KILL:when={number}")])
        .arg(template.get_program())
        .args(template.get_args());
    for (key, value) in template.get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    command
}

/// Whether it was killed; `false` if it came to its end before.
pub(crate) fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(9) || status.code() == Some(128 + 9)
}

/// Calls `round` with every write that a command makes, by its call and number, until each has been the one at which it
/// is killed. `round` makes the command, says whether it was killed, and looks at what became of it. Returns how many
/// writes there were.
pub(crate) fn at_every_write(mut round: impl FnMut(&'static str, u32) -> bool) -> u32 {
    let mut kills = 0;
    for call in WRITES {
        let mut number = 1;
        while round(call, number) {
            kills += 1;
            number += 1;
            assert!(number < 500, "{call} is called without end");
        }
    }
    kills
}
