//! The overlay mount that is a container's root file system.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::mount::MountFlags;

use serde::{Deserialize, Serialize};

use crate::userns::Owners;

/// The kernel takes one page of mount options.
const LONGEST_OPTIONS: usize = 4000;
/// And refuses more layers than this.
const MOST_LAYERS: usize = 500;

/// The parts of an overlay mount.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Overlay {
    /// Top layer first.
    pub lower: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
}

/// Mounts `overlay` on `target`, with the owners of a container's files if it has such. Changes the working directory of the
/// process, which must have one thread. `scratch` is a directory for short names of the layers, used when the long ones do not
/// fit, and for layers with other owners: its mounts should be seen by this process alone.
pub fn mount(overlay: &Overlay, owners: Option<&Owners>, target: &Path, scratch: &Path) -> io::Result<()> {
    let Some(owners) = owners else { return mount_all(overlay, target, scratch) };
    let paths: Vec<PathBuf> = overlay.lower.iter().chain([&overlay.upper, &overlay.work]).cloned().collect();
    let mut lower = owners.given(&paths, scratch)?;
    let (Some(work), Some(upper)) = (lower.pop(), lower.pop()) else { return Ok(()) };
    // What the kernel makes on its own account in there belongs to who has mounted it.
    let _acting = owners.ids.act()?;
    mount_all(&Overlay { lower, upper, work }, target, scratch)
}

fn mount_all(overlay: &Overlay, target: &Path, scratch: &Path) -> io::Result<()> {
    let mut rest = OsString::from(",upperdir=");
    rest.push(escaped(overlay.upper.as_os_str(), b"\\,"));
    rest.push(",workdir=");
    rest.push(escaped(overlay.work.as_os_str(), b"\\,"));
    mount_layers(&overlay.lower, &rest, target, scratch)
}

/// Mounts layers, top layer first, on `target` for reading alone; otherwise like [`mount`].
pub fn view(lower: &[PathBuf], owners: Option<&Owners>, target: &Path, scratch: &Path) -> io::Result<()> {
    let given = owners.map(|owners| owners.given(lower, scratch)).transpose()?;
    match given.as_deref().unwrap_or(lower) {
        [] => Ok(()),
        // The kernel puts together no fewer than two.
        [only] => {
            rustix::mount::mount_bind(only, target)?;
            Ok(rustix::mount::mount_remount(target, MountFlags::BIND | MountFlags::RDONLY, c"")?)
        }
        lower => mount_layers(lower, OsStr::new(""), target, scratch),
    }
}

fn mount_layers(lower: &[PathBuf], rest: &OsStr, target: &Path, scratch: &Path) -> io::Result<()> {
    if lower.len() > MOST_LAYERS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("more than {MOST_LAYERS} layers")));
    }
    let mut options = options(lower, rest);
    if options.len() > LONGEST_OPTIONS {
        let folder = scratch.join("l");
        std::fs::create_dir_all(&folder)?;
        let mut short = Vec::with_capacity(lower.len());
        for (number, layer) in lower.iter().enumerate() {
            let name = number.to_string();
            let link = folder.join(&name);
            match std::fs::remove_file(&link) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => std::os::unix::fs::symlink(layer, &link)?,
            }
            short.push(PathBuf::from(name));
        }
        std::env::set_current_dir(&folder)?;
        options = self::options(&short, rest);
    }
    let options = CString::new(options.into_encoded_bytes())?;
    rustix::mount::mount("overlay", target, "overlay", MountFlags::empty(), Some(options.as_c_str()))?;
    Ok(())
}

fn options(lower: &[PathBuf], rest: &OsStr) -> OsString {
    let mut text = OsString::from("lowerdir=");
    for (number, layer) in lower.iter().enumerate() {
        if number > 0 {
            text.push(":");
        }
        text.push(escaped(layer.as_os_str(), b"\\:,"));
    }
    text.push(rest);
    text
}

/// Colons part the layers and commas the options, so both are written with a backslash.
fn escaped(path: &OsStr, special: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(path.len());
    for &byte in path.as_bytes() {
        if special.contains(&byte) {
            bytes.push(b'\\');
        }
        bytes.push(byte);
    }
    OsString::from(OsStr::from_bytes(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_letters_are_escaped() {
        let lower = ["/a:b".into(), "/c,d".into()];
        assert_eq!(options(&lower, OsStr::new(",x")), r"lowerdir=/a\:b:/c\,d,x");
        assert_eq!(escaped(OsStr::new("/u:v,w"), b"\\,"), r"/u:v\,w");
    }
}
