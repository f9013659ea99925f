//! What it takes besides to make a container whose users have other numbers on the host: it is made by its own root, who is
//! nobody in particular out here.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use engine_kernel::userns::Owners;
use libcontainer::oci_spec::runtime::LinuxCapabilities;
use rustix::fs::{AtFlags, CWD, FileType};
use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::LinkNameSpaceType;
use serde_json::{Value, json};

use super::capabilities;
use super::users::User;

/// In the options of a mount: its files have the container's owners on the disk.
pub const OWN_FILES: &str = "idmap";

/// Mounts what comes from elsewhere in `folder`, which the container's root can get to, and has it mounted from there. What lies
/// around that already stays where it is.
pub(crate) fn bring_near(mounts: &mut [Value], owners: &Owners, folder: &Path) -> io::Result<()> {
    let around = folder.parent().unwrap_or(folder);
    std::fs::create_dir(folder)?;
    for (number, mount) in mounts.iter_mut().enumerate() {
        let source = PathBuf::from(mount["source"].as_str().unwrap_or_default());
        if mount["type"] != "bind" || source.starts_with(around) {
            continue;
        }
        let target = folder.join(number.to_string());
        bring(mount, &source, owners, &target).map_err(|error| {
            io::Error::new(error.kind(), format!("could not bring {} near: {error}", source.display()))
        })?;
    }
    Ok(())
}

fn bring(mount: &mut Value, source: &Path, owners: &Owners, target: &Path) -> io::Result<()> {
    let Some(options) = mount["options"].as_array_mut() else { return Ok(()) };
    let is_recursive = options.iter().any(|option| option == "rbind");
    let has_own_files = options.iter().any(|option| option == OWN_FILES);
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, is_recursive);
    let tree = rustix::mount::open_tree(CWD, source, flags)?;
    let stat = rustix::fs::fstat(&tree)?;
    let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    if has_own_files && let Err(error) = owners.give(&tree, is_recursive) {
        // A tmpfs, before Linux 6.3: a single file, which is there for this container alone, is given to whom it is for.
        if is_directory || Errno::from_io_error(&error) != Some(Errno::INVAL) {
            return Err(error);
        }
        let (user, group) = (owners.ids.user_outside(stat.st_uid), owners.ids.group_outside(stat.st_gid));
        let (user, group) = (user.map(Uid::from_raw), group.map(Gid::from_raw));
        rustix::fs::chownat(&tree, "", user, group, AtFlags::EMPTY_PATH)?;
    }
    if is_directory {
        std::fs::create_dir(target)?;
    } else {
        drop(File::create_new(target)?);
    }
    rustix::mount::move_mount(&tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    // What there is of it is mounted with it.
    options.retain(|option| option != "bind" && option != OWN_FILES && option != "rbind");
    options.push("rbind".into());
    mount["source"] = target.to_string_lossy().into();
    Ok(())
}

/// Opens the namespaces that are there already, and has the runtime find them by the numbers that they have in this process and in
/// those that it makes of it.
pub(crate) fn open_namespaces(spec: &mut Value) -> io::Result<Vec<File>> {
    let mut open = Vec::new();
    for namespace in spec["linux"]["namespaces"].as_array_mut().into_iter().flatten() {
        if let Some(path) = namespace["path"].as_str() {
            let file = File::open(path)?;
            namespace["path"] = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
            open.push(file);
        }
    }
    Ok(open)
}

/// How a further process gets among the users of a container. The runtime leaves that out when it has a process join all other
/// namespaces, so the process does it itself, as the last of them.
#[derive(Debug)]
pub(crate) struct Joining {
    users: File,
    user: User,
}

impl Joining {
    /// Of the container of this process, by its folder in `/proc`.
    pub(crate) fn new(folder: &Path, user: User) -> io::Result<Self> {
        Ok(Self { users: File::open(folder.join("ns/user"))?, user })
    }

    /// Has the runtime leave the process what it takes, and the host's root; answers with what it is to be left with.
    pub(crate) fn put_off(process: &mut Value) -> serde_json::Result<LinuxCapabilities> {
        let wanted = serde_json::from_value(process["capabilities"].clone())?;
        capabilities::add(process, &["CAP_SYS_ADMIN", "CAP_SETPCAP"]);
        process["user"] = json!({ "uid": 0, "gid": 0 });
        Ok(wanted)
    }

    /// Becomes the user that the process is to be.
    pub(crate) fn join(&self) -> io::Result<()> {
        rustix::thread::move_into_link_name_space(self.users.as_fd(), Some(LinkNameSpaceType::User))?;
        let groups: Vec<Gid> = self.user.additional_gids.iter().map(|&group| Gid::from_raw(group)).collect();
        let (user, group) = (Uid::from_raw(self.user.uid), Gid::from_raw(self.user.gid));
        rustix::thread::set_thread_groups(&groups)?;
        rustix::thread::set_thread_res_gid(group, group, group)?;
        rustix::thread::set_keep_capabilities(true)?;
        Ok(rustix::thread::set_thread_res_uid(user, user, user)?)
    }
}

/// Raises what this process may have at most to what the process that it makes is to have: in there nobody may do so.
pub(crate) fn make_room(process: &Value) -> io::Result<()> {
    for limit in process["rlimits"].as_array().into_iter().flatten() {
        let Some(resource) = limit["type"].as_str().and_then(resource) else { continue };
        let wanted = limit["hard"].as_u64().filter(|hard| *hard != u64::MAX);
        let own = getrlimit(resource);
        let is_enough = match (own.maximum, wanted) {
            (None, _) => true,
            (Some(own), Some(wanted)) => own >= wanted,
            (Some(_), None) => false,
        };
        if !is_enough {
            setrlimit(resource, Rlimit { current: own.current, maximum: wanted })?;
        }
    }
    Ok(())
}

fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "RLIMIT_AS" => Resource::As,
        "RLIMIT_CORE" => Resource::Core,
        "RLIMIT_CPU" => Resource::Cpu,
        "RLIMIT_DATA" => Resource::Data,
        "RLIMIT_FSIZE" => Resource::Fsize,
        "RLIMIT_LOCKS" => Resource::Locks,
        "RLIMIT_MEMLOCK" => Resource::Memlock,
        "RLIMIT_MSGQUEUE" => Resource::Msgqueue,
        "RLIMIT_NICE" => Resource::Nice,
        "RLIMIT_NOFILE" => Resource::Nofile,
        "RLIMIT_NPROC" => Resource::Nproc,
        "RLIMIT_RSS" => Resource::Rss,
        "RLIMIT_RTPRIO" => Resource::Rtprio,
        "RLIMIT_RTTIME" => Resource::Rttime,
        "RLIMIT_SIGPENDING" => Resource::Sigpending,
        "RLIMIT_STACK" => Resource::Stack,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::{MetadataExt, chown};

    use engine_kernel::ids::IdMap;
    use engine_kernel::mount::leave_mounts_of_others;
    use engine_kernel::userns;
    use rustix::mount::MountFlags;

    use super::*;

    #[test]
    fn what_is_the_engines_own_has_the_containers_owners() {
        let folder = tempfile::tempdir().unwrap();
        let ids = IdMap::of_ranges(&[(100_000, 10)], &[(200_000, 10)]).unwrap();
        let Ok(users) = userns::new(&ids) else {
            return skipped::say("root", "user namespaces with maps take privileges");
        };
        let owners = Owners { ids, users: format!("/proc/self/fd/{}", users.as_raw_fd()).into() };
        // In a mount namespace of its own.
        std::thread::scope(|scope| scope.spawn(|| see_owners(folder.path(), &owners)).join().unwrap());
    }

    fn see_owners(folder: &Path, owners: &Owners) {
        leave_mounts_of_others().unwrap();
        // One of these cannot be mounted with other owners, as a tmpfs of older kernels.
        for (number, kind) in ["tmpfs", "ramfs"].into_iter().enumerate() {
            let place = folder.join(kind);
            std::fs::create_dir(&place).unwrap();
            rustix::mount::mount(kind, &place, kind, MountFlags::empty(), None).unwrap();
            std::fs::create_dir(place.join("folder")).unwrap();
            std::fs::write(place.join("file"), "secret").unwrap();
            chown(place.join("file"), Some(3), Some(4)).unwrap();
            let near = folder.join(format!("near-{number}")).join("all");
            std::fs::create_dir(near.parent().unwrap()).unwrap();
            let mount = |name: &str| json!({ "type": "bind", "source": place.join(name), "options": ["bind", "ro", OWN_FILES] });
            let mut mounts = [mount("file"), json!({ "type": "proc" })];
            bring_near(&mut mounts, owners, &near).unwrap();
            assert_eq!(mounts[0]["options"], json!(["ro", "rbind"]));
            let seen = std::fs::metadata(mounts[0]["source"].as_str().unwrap()).unwrap();
            assert_eq!((seen.uid(), seen.gid()), (100_003, 200_004), "{kind}");
            let brought = bring_near(&mut [mount("folder")], owners, &near.with_file_name("more"));
            assert_eq!(brought.is_ok(), kind == "tmpfs", "{kind}: {brought:?}");
        }
    }
}
