//! Which children of this process have ended, and how.

use rustix::process::Pid;

/// A child that has ended, which stays to be collected, and its exit code.
#[expect(unsafe_code, reason = "rustix does not say whose status it is")]
pub(crate) fn ended() -> Option<(Pid, i32)> {
    let mut told = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the pointer is valid for the call; zeros are a valid value, and what it stays if no child has ended.
    let (pid, code, status) = unsafe {
        if libc::waitid(libc::P_ALL, 0, told.as_mut_ptr(), flags) != 0 {
            return None;
        }
        let told = told.assume_init();
        (told.si_pid(), told.si_code, told.si_status())
    };
    Some((Pid::from_raw(pid)?, if code == libc::CLD_EXITED { status } else { 128 + status }))
}
