//! Another supervising process, which begins as a copy of this one: what it supervises is a further process of the same
//! container. A copy is made in a fraction of the time that the program takes to begin.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use rustix::process::{Pid, PidfdFlags};

use super::init;

/// Copies this process, which must have one thread. The copy has the connection and the container's first process, does what
/// it is given with them, and ends; all else that is open here is closed there. The answer is a pidfd of it, if one can be had.
#[expect(unsafe_code, reason = "there is no safe form of fork")]
pub(crate) fn fork(
    connection: BorrowedFd<'_>,
    container: BorrowedFd<'_>,
    run: impl FnOnce(UnixStream, OwnedFd),
) -> io::Result<Option<OwnedFd>> {
    let kept = [connection.as_raw_fd(), container.as_raw_fd()];
    // SAFETY: the process has one thread, so the copy may do anything; it never returns from here.
    let child = unsafe { libc::fork() };
    match child {
        0 => {
            if close_all_but(kept).is_err() {
                // What is still open may be what others wait for.
                init::end(1);
            }
            // SAFETY: both are open, and what owns them is a copy that is never dropped here.
            let (connection, container) =
                unsafe { (UnixStream::from_raw_fd(kept[0]), OwnedFd::from_raw_fd(kept[1])) };
            run(connection, container);
            init::end(0)
        }
        -1 => Err(io::Error::last_os_error()),
        // Not waited for yet, so the number is its own.
        child => {
            Ok(Pid::from_raw(child)
                .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()))
        }
    }
}

/// Closes everything else but the three standard streams.
#[expect(unsafe_code, reason = "closing descriptors that others own")]
fn close_all_but(mut kept: [RawFd; 2]) -> io::Result<()> {
    let close = |first: u32, last: u32| {
        // SAFETY: nothing that owns one of these is used or dropped in the copy of the process.
        if unsafe { libc::close_range(first, last, 0) } == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    kept.sort_unstable();
    let mut first = 3;
    for kept in kept.map(RawFd::unsigned_abs) {
        if first < kept {
            close(first, kept - 1)?;
        }
        first = kept + 1;
    }
    close(first, u32::MAX)
}

/// What this process says of itself goes there from now on.
pub(crate) fn redirect_messages(messages: File) -> io::Result<()> {
    rustix::stdio::dup2_stderr(&messages)?;
    super::set_messages(messages);
    Ok(())
}
