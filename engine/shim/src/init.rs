//! The small first process of a container that was made with `--init`: runs the program, passes signals on to it and
//! collects what others leave behind.
//!
//! It is not a program of its own in the container: this process stays what it is, without any open file of the host.

use std::io;

use rustix::process::WaitOptions;

/// Runs `become_program` in a child and tends it until it ends; answers with the exit code. Call it with one thread.
pub(super) fn tend(become_program: impl FnOnce() -> i32) -> io::Result<i32> {
    forget_host()?;
    let _ = rustix::thread::set_name(c"docker-init");
    // Blocked here, so that they wait to be asked for; the program gets none of this.
    let signals = Signals::block()?;
    let child = Signals::fork(become_program)?;
    loop {
        let signal = signals.next()?;
        if signal != libc::SIGCHLD {
            Signals::pass_on(child, signal);
            continue;
        }
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid.as_raw_nonzero().get() == child {
                let signal = status.terminating_signal().map(|signal| 128 + signal);
                return Ok(status.exit_status().or(signal).unwrap_or(255));
            }
        }
    }
}

/// Closes everything but the three standard streams.
#[expect(unsafe_code, reason = "closing descriptors that others own")]
fn forget_host() -> io::Result<()> {
    // SAFETY: nothing that owns a descriptor is used or dropped in this process from here on.
    if unsafe { libc::close_range(3, libc::c_uint::MAX, 0) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// All signals but those that mean a mistake of this very process.
struct Signals(libc::sigset_t);

#[expect(unsafe_code, reason = "the C library's calls about signals and processes")]
impl Signals {
    fn block() -> io::Result<Self> {
        // SAFETY: the set is filled before it is used, and the process has one thread.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigfillset(&raw mut set);
            for fatal in
                [libc::SIGFPE, libc::SIGILL, libc::SIGSEGV, libc::SIGBUS, libc::SIGABRT, libc::SIGTRAP]
            {
                libc::sigdelset(&raw mut set, fatal);
            }
            if libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Self(set))
        }
    }

    fn fork(become_program: impl FnOnce() -> i32) -> io::Result<i32> {
        // SAFETY: the process has one thread, so the child may do anything; it never returns from here.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                // What is typed is for the program alone. This fails where there is no terminal.
                libc::setpgid(0, 0);
                libc::tcsetpgrp(0, libc::getpgrp());
                let mut none = std::mem::zeroed();
                libc::sigemptyset(&raw mut none);
                libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
                libc::_exit(become_program());
            }
            if child > 0 { Ok(child) } else { Err(io::Error::last_os_error()) }
        }
    }

    fn next(&self) -> io::Result<i32> {
        loop {
            // SAFETY: the set is valid; nothing is asked for but the number.
            let signal = unsafe { libc::sigwaitinfo(&raw const self.0, std::ptr::null_mut()) };
            if signal > 0 {
                return Ok(signal);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    fn pass_on(child: i32, signal: i32) {
        // SAFETY: a call without pointers; the child has not been waited for, so the number is its.
        unsafe {
            libc::kill(child, signal);
        }
    }
}

/// Ends this process at once, without any of the clean-up that belongs to the one it was copied from.
#[expect(unsafe_code, reason = "std's exit would run it")]
pub(super) fn end(code: i32) -> ! {
    // SAFETY: the call does not return.
    unsafe { libc::_exit(code) }
}
