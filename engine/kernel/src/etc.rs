//! The contents of a container's `/etc/hosts` and `/etc/resolv.conf`.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

mod hosts;
mod resolver;

pub use hosts::{HostsError, extra_hosts, hosts, own_names, with_line, without_line, without_neighbours};
pub use resolver::{DnsRequest, EMBEDDED, Embedded, Server, embedded, is_untouched, resolv_conf};

/// Longer files of the host are cut off; nobody has one.
const LARGEST_FILE: u64 = 1024 * 1024;
/// A file of a container that has grown beyond this inside is left alone.
const LARGEST: u64 = 4 * 1024 * 1024;

/// A word that can stand in one of the files without meaning anything else there.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 255 && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
}

/// A file of the host, or nothing.
fn read(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = fs::File::open(path) {
        let _ = file.take(LARGEST_FILE).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Changes a container's file. It is written in place, as the container has this very file mounted. That it is gone with its
/// container is fine.
pub fn change(path: &Path, renew: impl FnOnce(&str) -> String) -> io::Result<()> {
    let mut file = match OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result?,
    };
    if file.metadata()?.len() > LARGEST {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut bytes = Vec::new();
    (&mut file).take(LARGEST).read_to_end(&mut bytes)?;
    let current = String::from_utf8_lossy(&bytes);
    let renewed = renew(&current);
    if renewed.as_bytes() != bytes {
        file.rewind()?;
        file.write_all(renewed.as_bytes())?;
        file.set_len(u64::try_from(renewed.len()).unwrap_or(u64::MAX))?;
    }
    Ok(())
}
