//! Joins the two ends of a connection to the metadata service: QEMU's, which is stdin and stdout, and the socket's.

use std::{
    fs::File,
    io::{self, Write as _},
    net::Shutdown,
    os::{fd::AsFd as _, unix::net::UnixStream},
    path::Path,
    thread,
};

/// Returns when the service has said all. Prints nothing: stderr leads into the guest's connection, too.
pub(crate) fn run(socket: &Path) -> io::Result<()> {
    let mut service = UnixStream::connect(socket)?;
    let mut to_service = service.try_clone()?;
    // Files, because the standard streams keep bytes back until a line ends.
    let mut from_guest = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut to_guest = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    thread::spawn(move || {
        let _ = io::copy(&mut from_guest, &mut to_service);
        let _ = to_service.shutdown(Shutdown::Write);
    });
    io::copy(&mut service, &mut to_guest)?;
    to_guest.flush()
}
