//! Child processes that do not outlive the bench.

use std::io;

use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};
use tokio::process::Command;

/// The kernel kills the child when the thread that starts it ends, so it has to be one that lives as long as the
/// bench: a worker of the runtime, not a thread for blocking work.
pub(crate) fn die_with_bench(command: &mut Command) {
    let bench: Pid = getpid();
    let before_exec = move || -> io::Result<()> {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        if getppid() == Some(bench) {
            return Ok(());
        }
        Err(io::ErrorKind::BrokenPipe.into())
    };
    #[expect(unsafe_code, reason = "there is no other way to be killed with the parent")]
    // SAFETY: between fork and exec only the system calls `prctl` and `getppid` are made; both are safe after a fork
    // of a process with several threads, and nothing is allocated.
    unsafe {
        command.pre_exec(before_exec);
    }
}
