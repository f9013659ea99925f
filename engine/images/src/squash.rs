//! One layer instead of several: what they change together on top of a base.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine_model::{Changes, ImageId};
use jiff::Timestamp;
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, fgetxattr,
    flistxattr, fsetxattr, linkat, mkdirat, mknodat, openat, statat, unlinkat,
};
use rustix::io::Errno;
use serde_json::{Value, json};

use super::configuration::Incoming;
use super::error::ImageError;
use super::intake::Intake;
use super::layer::Unpacked;
use super::layout::LayerFile;
use super::making::{empty_layer, from_changes};
use super::state::chain_ids;
use super::{Inner, not_found};

/// Deeper trees are refused: each level holds an open directory.
const DEEPEST: usize = 200;
const OVERLAY: &[u8] = b"trusted.overlay.";
const OVERLAY_OPAQUE: &str = "trusted.overlay.opaque";
const LARGEST_ATTRIBUTE: usize = 64 << 10;

/// Makes an image of the base's layers and one more, as docker does: its history is that of the image, of which nothing
/// after the base has a layer any more, and an entry that says what was done.
pub(super) fn squash(
    store: &Arc<Inner>,
    id: &ImageId,
    base: Option<&ImageId>,
) -> Result<ImageId, ImageError> {
    let mut intake = Intake::begin(store, "squash-")?;
    let (diff_ids, base_diff_ids, base_history) = {
        let state = store.lock();
        let find = |id: &ImageId| {
            let found = state.images.get(id).ok_or_else(|| not_found(id.as_str()))?;
            Ok::<_, ImageError>((found.config.rootfs.diff_ids.clone(), found.config.history.len()))
        };
        let (below, history) = base.map(find).transpose()?.unwrap_or_default();
        (find(id)?.0, below, history)
    };
    if !diff_ids.starts_with(&base_diff_ids) {
        let base = base.map_or("", ImageId::as_str);
        return Err(ImageError::invalid(format!("the image {id} is not made of {base}")));
    }
    let chains = chain_ids(&diff_ids);
    // From here on nobody takes the layers away.
    if !chains.iter().all(|chain| intake.has(chain)) {
        return Err(not_found(id.as_str()));
    }
    let folders: Vec<PathBuf> = chains.iter().map(|chain| store.paths.layer(chain).join("diff")).collect();
    let (below, above) = folders.split_at(base_diff_ids.len());
    let merged = intake.directory().join("merged");
    merge(below, above, &merged)
        .map_err(|source| ImageError::ReadChanges { path: merged.clone(), source })?;
    let lower = below.iter().rev().cloned().collect();
    let place = intake.directory().join("layer");
    let unpacked = from_changes(&Changes { upper: merged, lower, mount_points: Vec::new() }, &place)?;
    let is_empty = unpacked.diff_id == empty_layer();
    let mut diff_ids = base_diff_ids;
    if !is_empty {
        let Unpacked { diff_id, size, tar_size, .. } = unpacked;
        diff_ids.push(diff_id.clone());
        let chain = chain_ids(&diff_ids).pop().unwrap_or_default();
        if !intake.has(&chain) {
            intake.add(chain, place, LayerFile { diff_id, size, tar_size, link: 0 });
        }
    }
    let path = store.paths.config(id);
    let bytes = std::fs::read(&path).map_err(ImageError::store(&path))?;
    let damaged = |source| ImageError::Damaged { path: path.clone(), source };
    let mut config: Value = serde_json::from_slice(&bytes).map_err(damaged)?;
    let comment = match base {
        Some(base) => format!("merge {id} to {base}"),
        None => format!("create new from {id}"),
    };
    describe(&mut config, &diff_ids, base_history, is_empty, &comment);
    let image = Incoming::read(serde_json::to_vec(&config).map_err(damaged)?, Vec::new())?;
    let id = image.id.clone();
    intake.publish(&[image])?;
    Ok(id)
}

fn describe(config: &mut Value, diff_ids: &[String], of_base: usize, is_empty: bool, comment: &str) {
    let now = Timestamp::now();
    config["created"] = json!(now);
    config["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
    let mut history = config["history"].as_array().cloned().unwrap_or_default();
    for entry in history.iter_mut().skip(of_base) {
        entry["empty_layer"] = json!(true);
    }
    let mut last = json!({ "created": now, "comment": comment });
    if is_empty {
        last["empty_layer"] = json!(true);
    }
    history.push(last);
    config["history"] = json!(history);
}

/// Makes a folder of what the layers `above` change of those `below`, lowest first, with overlayfs's own marks.
fn merge(below: &[PathBuf], above: &[PathBuf], into: &Path) -> io::Result<()> {
    std::fs::create_dir(into)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |path: &PathBuf| rustix::fs::open(path, flags, Mode::empty());
    let to = open(&into.to_owned())?;
    for layer in above {
        let below = below.iter().rev().map(open).collect::<Result<Vec<_>, _>>()?;
        merge_level(&open(layer)?, &to, &below, 0)?;
    }
    Ok(())
}

/// One directory of a layer into that of what was merged so far. `below` is what lies under it, topmost first.
fn merge_level(from: &OwnedFd, to: &OwnedFd, below: &[OwnedFd], depth: usize) -> io::Result<()> {
    if depth > DEEPEST {
        return Err(io::Error::other(format!("The directories are more than {DEEPEST} deep")));
    }
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        let name = OsString::from_vec(entry.file_name().to_bytes().to_vec());
        let stat = statat(from, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        let under = Under::of(below, &name)?;
        if kind(&stat) != FileType::Directory {
            remove(to, &name)?;
            if !is_whiteout(&stat) {
                // The same file: nothing is written into either.
                linkat(from, &name, to, &name, AtFlags::empty())?;
            } else if under.is_there {
                mknodat(to, &name, FileType::CharacterDevice, Mode::empty(), 0)?;
            }
            continue;
        }
        let inner_from = directory(from, &name)?;
        let inner_to = match statat(to, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if kind(&found) == FileType::Directory => {
                let inner = directory(to, &name)?;
                if is_opaque(&inner_from)? {
                    empty(&inner)?;
                    mark(&inner, &under)?;
                }
                inner
            }
            Ok(_) => {
                // What hid the lower one is hidden no more.
                remove(to, &name)?;
                mkdirat(to, &name, Mode::from_raw_mode(0o700))?;
                let inner = directory(to, &name)?;
                mark(&inner, &under)?;
                inner
            }
            Err(Errno::NOENT) => {
                mkdirat(to, &name, Mode::from_raw_mode(0o700))?;
                let inner = directory(to, &name)?;
                if is_opaque(&inner_from)? {
                    mark(&inner, &under)?;
                }
                inner
            }
            Err(error) => return Err(error.into()),
        };
        let below = if is_opaque(&inner_to)? { &[][..] } else { &under.directories };
        merge_level(&inner_from, &inner_to, below, depth + 1)?;
        attributes(&inner_from, &inner_to, &stat)?;
    }
    Ok(())
}

/// What of the base a name stands for, in one directory.
struct Under {
    is_there: bool,
    /// Those that are merged, topmost first.
    directories: Vec<OwnedFd>,
}

impl Under {
    fn of(below: &[OwnedFd], name: &OsStr) -> io::Result<Self> {
        let mut under = Self { is_there: false, directories: Vec::new() };
        for layer in below {
            let stat = match statat(layer, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            };
            if kind(&stat) != FileType::Directory {
                under.is_there |= !is_whiteout(&stat);
                break;
            }
            under.is_there = true;
            let inner = directory(layer, name)?;
            let is_last = is_opaque(&inner)?;
            under.directories.push(inner);
            if is_last {
                break;
            }
        }
        Ok(under)
    }
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn is_whiteout(stat: &Stat) -> bool {
    kind(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn directory(parent: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(parent, name, flags, Mode::empty())?)
}

fn is_opaque(directory: &OwnedFd) -> io::Result<bool> {
    let mut value = [0; 8];
    match fgetxattr(directory, OVERLAY_OPAQUE, &mut value[..]) {
        Ok(length) => Ok(&value[..length] == b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Hides what lies under a directory, if anything does.
fn mark(directory: &OwnedFd, under: &Under) -> io::Result<()> {
    if under.directories.is_empty() {
        return Ok(());
    }
    Ok(fsetxattr(directory, OVERLAY_OPAQUE, b"y", XattrFlags::empty())?)
}

fn remove(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(found) if kind(&found) == FileType::Directory => {
            let path = Path::new("/proc/self/fd").join(parent.as_raw_fd().to_string()).join(name);
            std::fs::remove_dir_all(path)
        }
        Ok(_) => Ok(unlinkat(parent, name, AtFlags::empty())?),
    }
}

fn empty(directory: &OwnedFd) -> io::Result<()> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            remove(directory, OsStr::from_bytes(entry.file_name().to_bytes()))?;
        }
    }
    Ok(())
}

/// Owner, mode, times and attributes of a directory, but for overlayfs's own.
fn attributes(from: &OwnedFd, to: &OwnedFd, stat: &Stat) -> io::Result<()> {
    let mut names = vec![0; LARGEST_ATTRIBUTE];
    let length = match flistxattr(from, &mut names[..]) {
        Err(Errno::OPNOTSUPP) => 0,
        length => length?,
    };
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(OVERLAY) {
            continue;
        }
        let (name, mut value) = (OsStr::from_bytes(name), vec![0; LARGEST_ATTRIBUTE]);
        let length = fgetxattr(from, name, &mut value[..])?;
        fsetxattr(to, name, &value[..length], XattrFlags::empty())?;
    }
    let owner = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(to, Some(owner.0), Some(owner.1))?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let time =
        |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: i64::try_from(nanoseconds).unwrap_or(0) };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    Ok(rustix::fs::futimens(to, &times)?)
}
