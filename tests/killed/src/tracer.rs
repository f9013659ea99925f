//! Runs a program under ptrace, and stops at each of its system calls; its children are left alone.

#![expect(unsafe_code, reason = "there is no safe way to ptrace(2)")]

use std::{
    collections::BTreeSet,
    io, mem,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Command, ExitStatus},
    ptr,
    sync::mpsc,
    thread,
    time::Duration,
};

use libc::{c_int, c_void, pid_t};

/// A thread of the program is about to make a system call, or has made one.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stop {
    Enter { thread: pid_t, call: i64, arguments: [u64; 6] },
    Leave { thread: pid_t },
}

/// What a stop at a system call adds to SIGTRAP.
const SYSTEM_CALL: c_int = 0x80;

/// Runs a command to its end, killing it with -9 as soon as `see` says so, or after `longest`.
///
/// On a thread of its own: ptrace belongs to a thread, and nobody else's child is waited for then.
pub(crate) fn run(
    command: &mut Command,
    longest: Duration,
    mut see: impl FnMut(Stop) -> bool + Send,
) -> io::Result<ExitStatus> {
    thread::scope(|scope| {
        let traced = scope.spawn(|| Traced::start(command)?.finish(longest, &mut see));
        traced.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

struct Traced {
    leader: pid_t,
    /// Threads that have been seen; a new one stops once by itself.
    known: BTreeSet<pid_t>,
}

impl Traced {
    fn start(command: &mut Command) -> io::Result<Self> {
        let traced = || request(libc::PTRACE_TRACEME, 0, 0, ptr::null_mut()).map(drop);
        // SAFETY: between fork and exec, one system call is made, and nothing is allocated.
        unsafe { command.pre_exec(traced) };
        let child = command.spawn()?;
        let leader = pid_t::try_from(child.id()).map_err(io::Error::other)?;
        let this = Self { leader, known: BTreeSet::from([leader]) };
        // It stops when it has become the program.
        wait_for(leader)?;
        let options = libc::PTRACE_O_TRACESYSGOOD
            | libc::PTRACE_O_TRACECLONE
            | libc::PTRACE_O_TRACEEXEC
            | libc::PTRACE_O_EXITKILL;
        request(libc::PTRACE_SETOPTIONS, leader, 0, number(options))?;
        request(libc::PTRACE_SYSCALL, leader, 0, ptr::null_mut())?;
        Ok(this)
    }

    fn finish(mut self, longest: Duration, see: &mut dyn FnMut(Stop) -> bool) -> io::Result<ExitStatus> {
        let leader = self.leader;
        let (ended, end) = mpsc::channel::<()>();
        let watchdog = thread::spawn(move || {
            if end.recv_timeout(longest) == Err(mpsc::RecvTimeoutError::Timeout) {
                kill(leader);
            }
        });
        let status = loop {
            let (thread, status) = wait_for(-1)?;
            if libc::WIFSTOPPED(status) {
                self.stopped(thread, status, see)?;
            } else if thread == leader {
                break status;
            }
        };
        drop(ended);
        let _ = watchdog.join();
        Ok(ExitStatus::from_raw(status))
    }

    fn stopped(&mut self, thread: pid_t, status: c_int, see: &mut dyn FnMut(Stop) -> bool) -> io::Result<()> {
        let signal = libc::WSTOPSIG(status);
        let is_new = self.known.insert(thread);
        let mut deliver = 0;
        if signal == libc::SIGTRAP | SYSTEM_CALL {
            if let Some(stop) = stop(thread)?
                && see(stop)
            {
                kill(self.leader);
            }
        } else if status >> 16 == 0 && !(is_new && signal == libc::SIGSTOP) {
            deliver = signal;
        }
        match request(libc::PTRACE_SYSCALL, thread, 0, number(deliver)) {
            // It has been killed meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            other => other.map(drop),
        }
    }
}

/// What a thread that stopped at a system call is doing; `None` if it has been killed meanwhile.
fn stop(thread: pid_t) -> io::Result<Option<Stop>> {
    // SAFETY: the structure consists of numbers, for which zeros are good.
    let mut info: libc::ptrace_syscall_info = unsafe { mem::zeroed() };
    let size = mem::size_of_val(&info);
    match request(libc::PTRACE_GET_SYSCALL_INFO, thread, size, ptr::from_mut(&mut info).cast()) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        other => other?,
    };
    Ok(match info.op {
        libc::PTRACE_SYSCALL_INFO_ENTRY => {
            // SAFETY: the kernel says that this member is the one it has filled in.
            let entry = unsafe { info.u.entry };
            Some(Stop::Enter { thread, call: entry.nr.cast_signed(), arguments: entry.args })
        }
        libc::PTRACE_SYSCALL_INFO_EXIT => Some(Stop::Leave { thread }),
        _ => None,
    })
}

/// `address` and `data` as ptrace(2) has them for each request.
fn request(request: libc::c_uint, pid: pid_t, address: usize, data: *mut c_void) -> io::Result<libc::c_long> {
    // SAFETY: `data` is a number, or points to a structure of `address` bytes that outlives the call.
    let answer = unsafe { libc::ptrace(request, pid, address as *mut c_void, data) };
    if answer == -1 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// A number in the place of a pointer.
fn number(value: c_int) -> *mut c_void {
    ptr::without_provenance_mut(usize::try_from(value).unwrap_or_default())
}

/// Waits for a child of this thread, or for any of them (-1).
fn wait_for(pid: pid_t) -> io::Result<(pid_t, c_int)> {
    let mut status = 0;
    loop {
        // SAFETY: `status` outlives the call.
        let found = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
        if found > 0 {
            return Ok((found, status));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn kill(pid: pid_t) {
    // SAFETY: no memory is involved. The number is the child's until it has been waited for, which happens after this.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}
