//! Completes a container's mounts with what only its root file system tells, before the OCI runtime makes them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use engine_kernel::confine::Root;
use engine_kernel::ids::IdMap;
use engine_kernel::part::{self, Part, Tree};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};

use super::protocol;

/// `statfs`'s word for it.
const TMPFS: libc::__fsword_t = libc::TMPFS_MAGIC;

/// Completes the `mounts` of an OCI configuration; parents stand before what is mounted in them. `ids` are of a container whose
/// users have other numbers here.
pub(crate) fn complete(root: &Root, mounts: &mut [Value], ids: Option<&IdMap>) -> io::Result<()> {
    for at in 0..mounts.len() {
        let (before, rest) = mounts.split_at_mut(at);
        let Some(mount) = rest.first_mut() else { continue };
        let destination = path(mount, "destination");
        let below = before.iter().rev().find(|other| is_below(&destination, &path(other, "destination")));
        if kind(mount) == "tmpfs" {
            as_what_it_covers(root, below, mount, ids)?;
        }
        // What is not of the image is there when its turn comes, and not yet.
        if below.is_none() && matches!(kind(mount), "bind" | "tmpfs") {
            let is_directory = kind(mount) == "tmpfs" || path(mount, "source").is_dir();
            follow_to_its_end(root, &destination, is_directory)?;
        }
    }
    Ok(())
}

fn path(mount: &Value, key: &str) -> PathBuf {
    PathBuf::from(mount[key].as_str().unwrap_or_default())
}

fn kind(mount: &Value) -> &str {
    mount["type"].as_str().unwrap_or_default()
}

fn is_below(path: &Path, parent: &Path) -> bool {
    path != parent && path.starts_with(parent)
}

/// A tmpfs has the mode and the owner of the directory that it covers, where its options do not say otherwise.
fn as_what_it_covers(
    root: &Root,
    below: Option<&Value>,
    mount: &mut Value,
    ids: Option<&IdMap>,
) -> io::Result<()> {
    let destination = path(mount, "destination");
    // The engine's own is root's, whatever the image says.
    if destination == Path::new("/dev") {
        return Ok(());
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let covered = match below {
        None => root.get(&destination, flags),
        Some(below) if kind(below) == "bind" => {
            let (source, base) = (path(below, "source"), path(below, "destination"));
            let inner = destination.strip_prefix(base).unwrap_or(&destination).to_owned();
            Root::open(&source).and_then(|root| root.get(&inner, flags))
        }
        Some(_) => return Ok(()),
    };
    let covered = match covered {
        Ok(covered) => covered,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let stat = rustix::fs::fstat(&covered)?;
    let Some(options) = mount["options"].as_array_mut() else { return Ok(()) };
    // The options are read inside.
    let user = ids.map_or(stat.st_uid, |ids| ids.user_inside(stat.st_uid));
    let group = ids.map_or(stat.st_gid, |ids| ids.group_inside(stat.st_gid));
    for (name, value) in [
        ("mode", format!("{:o}", stat.st_mode & 0o7777)),
        ("uid", user.to_string()),
        ("gid", group.to_string()),
    ] {
        let is_named = |option: &Value| {
            option.as_str().and_then(|option| option.split_once('=')).is_some_and(|(key, _)| key == name)
        };
        if !options.iter().any(is_named) {
            options.push(format!("{name}={value}").into());
        }
    }
    Ok(())
}

/// Makes what is mounted on where a link of the image leads to nothing: the runtime takes the link for a file in its way.
fn follow_to_its_end(root: &Root, destination: &Path, is_directory: bool) -> io::Result<()> {
    let end = root.end_of_links(destination)?;
    if end == destination {
        return Ok(());
    }
    match root.get(&end, OFlags::PATH) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other.map(drop),
    }
    if is_directory {
        return root.create_directories(&end).map(drop);
    }
    root.create_directories(end.parent().unwrap_or_else(|| Path::new("/")))?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
    root.create(&end, flags, Mode::from_raw_mode(0o644)).map(drop)
}

/// A copy of the tmpfs that is mounted on `path`, which may be a hostile container's: another thing there, or a link, is none.
fn memory_mounted_on(path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let found = rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
    if rustix::fs::fstatfs(&found)?.f_type != TMPFS {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("there is no tmpfs on {path}")));
    }
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(rustix::mount::open_tree(&found, "", flags)?)
}

/// Mounts on `target` the tmpfs that is mounted on `path` in another mount namespace. The one of this process, which has one thread, has
/// to be its own; its working directory is the root afterwards.
pub(crate) fn bring(namespace: &Path, path: &str, target: &Path) -> io::Result<()> {
    let mount_namespace = Some(LinkNameSpaceType::Mount);
    let (own, other) = (File::open("/proc/self/ns/mnt")?, File::open(namespace)?);
    let root = rustix::fs::openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    move_into_link_name_space(other.as_fd(), mount_namespace)?;
    let tree = memory_mounted_on(path);
    move_into_link_name_space(own.as_fd(), mount_namespace)?;
    rustix::process::fchdir(&root)?;
    rustix::process::chroot(".")?;
    std::fs::create_dir(target)?;
    Ok(rustix::mount::move_mount(&tree?, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// Mounts parts by their numbers in a folder that is made for them.
pub(crate) fn stage(parts: &[Part], folder: &Path) -> io::Result<()> {
    if parts.is_empty() {
        return Ok(());
    }
    std::fs::create_dir(folder)?;
    for (number, part) in parts.iter().enumerate() {
        let Tree { tree, is_directory } = part.open(&folder.join(format!("{number}.layers")))?;
        let target = folder.join(number.to_string());
        if is_directory {
            std::fs::create_dir(&target)?;
        } else {
            drop(File::create_new(&target)?);
        }
        rustix::mount::move_mount(&tree, "", CWD, &target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    }
    Ok(())
}

/// Takes a `/dev` of the container's maker, and what comes below it, out of the mounts: the runtime makes devices and links in
/// whatever lies on `/dev`, and these may be the host's. It gets a `/dev` to do so, over which a hook mounts the one that was
/// wished for.
pub(crate) fn put_off_devices(root: &Root, spec: &mut Value, directory: &Path) -> io::Result<()> {
    let devices = Path::new("/dev");
    let Some(mounts) = spec["mounts"].as_array_mut() else { return Ok(()) };
    // Links of the image lead there as well.
    for mount in mounts.iter_mut() {
        let end = root.end_of_links(&path(mount, "destination"))?;
        if end.starts_with(devices) {
            mount["destination"] = end.to_string_lossy().into();
        }
    }
    let wished = |mount: &Value| kind(mount) == "bind" && path(mount, "destination") == devices;
    let Some(first) = mounts.iter().position(wished) else { return Ok(()) };
    let (late, early): (Vec<_>, Vec<_>) = mounts
        .split_off(first)
        .into_iter()
        .partition(|mount| path(mount, "destination").starts_with(devices));
    mounts.extend(early);
    let list = directory.join(protocol::LATE_MOUNTS);
    std::fs::write(list, serde_json::to_vec(&late)?)?;
    // The program of this very process, whatever its name is by now.
    let hook = json!({ "path": "/proc/self/exe", "args": ["engine", "late-mounts", directory] });
    spec["hooks"] = json!({ "createContainer": [hook] });
    Ok(())
}

/// Mounts what was put off; called in the container's mount namespace, whose root is still the host's.
pub(crate) fn mount_late(directory: &Path) -> io::Result<()> {
    let mounts: Vec<Value> = serde_json::from_slice(&std::fs::read(directory.join(protocol::LATE_MOUNTS))?)?;
    for mount in mounts {
        // Opened anew each time, to see what was mounted before.
        let root = Root::open(&directory.join(protocol::ROOTFS))?;
        mount_one(&root, &mount).map_err(|error| {
            let destination = path(&mount, "destination");
            io::Error::new(error.kind(), format!("could not mount on {}: {error}", destination.display()))
        })?;
    }
    Ok(())
}

fn mount_one(root: &Root, mount: &Value) -> io::Result<()> {
    use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
    let options: Vec<&str> =
        mount["options"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let (destination, source) = (path(mount, "destination"), path(mount, "source"));
    let tree = if kind(mount) == "bind" {
        drop(part::place(root, &destination, source.is_dir())?);
        let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        flags.set(OpenTreeFlags::AT_RECURSIVE, options.contains(&"rbind"));
        rustix::mount::open_tree(CWD, &source, flags)?
    } else {
        root.create_directories(&destination)?;
        let file_system = rustix::mount::fsopen(kind(mount), FsOpenFlags::FSOPEN_CLOEXEC)?;
        for option in &options {
            if let Some((key, value)) = option.split_once('=') {
                rustix::mount::fsconfig_set_string(file_system.as_fd(), key, value)?;
            }
        }
        rustix::mount::fsconfig_create(file_system.as_fd())?;
        let flags = FsMountFlags::FSMOUNT_CLOEXEC;
        rustix::mount::fsmount(file_system.as_fd(), flags, MountAttrFlags::empty())?
    };
    engine_kernel::mount::set_attributes(&tree, &options)?;
    let target = root.get(&destination, OFlags::PATH)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(&tree, "", &target, "", flags)?)
}
