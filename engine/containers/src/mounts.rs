//! From `-v`, `--mount`, `--tmpfs` and an image's volumes to mount points.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use engine_kernel::confine::clean;
use engine_kernel::part;
use engine_model::id::random_id;
use engine_model::wire::{
    BindOptions, DriverConfig, HostConfig, ImageOptions, Mount, TmpfsOptions, VolumeOptions,
};

use super::names;
use super::record::{MountKind, MountPoint};

#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("invalid volume specification: '{0}'")]
    Specification(String),
    #[error(
        "invalid volume specification: '{0}': invalid mount config for type \"{1}\": destination can't be '/'"
    )]
    Root(String, &'static str),
    #[error(
        "invalid mount config for type \"{kind}\": invalid mount path: '{path}' mount path must be absolute"
    )]
    NotAbsolute { kind: String, path: String },
    #[error("invalid mode: {0}")]
    Mode(String),
    #[error("Duplicate mount point: {}", .0.display())]
    Duplicate(PathBuf),
    #[error(
        "create {0}: \"{0}\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
    )]
    VolumeName(String),
    #[error("invalid mount config for type \"bind\": bind source path does not exist: {}", .0.display())]
    NoSource(PathBuf),
    #[error("invalid mount config for type \"{0}\": field Target must not be empty")]
    NoTarget(String),
    #[error("invalid mount config for type \"{kind}\": field {field} must not be empty")]
    NoField { kind: &'static str, field: &'static str },
    #[error("invalid mount config for type \"{kind}\": subpath must be a relative path within the {kind}")]
    Subpath { kind: &'static str },
    #[error("invalid mount config for type \"volume\": must not set Subpath when using anonymous volumes")]
    AnonymousSubpath,
    #[error("invalid mount config for type \"{0}\": mount type unknown")]
    Kind(String),
    #[error("invalid mount config for type \"{kind}\": field {field} must not be specified")]
    ExtraField { kind: String, field: &'static str },
    #[error("invalid mount config for type \"{kind}\": {message}")]
    Conflict { kind: &'static str, message: &'static str },
    #[error("invalid mount config for type \"bind\": invalid propagation mode: {0}")]
    Propagation(String),
    #[error(
        "propagation `{0}` is not supported by this engine: what a container mounts does not reach the host"
    )]
    Shared(String),
    #[error("invalid consistency mode: {0}")]
    Consistency(String),
    #[error("invalid tmpfs option \"{0}\"")]
    TmpfsOption(String),
    #[error("`{0}` asks for labels of SELinux, which this engine does not set: leave the `z` out")]
    Relabel(String),
}

/// Whether this host labels files.
fn has_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// Named volumes lie here.
pub(crate) fn volume_directory(data_root: &Path, name: &str) -> PathBuf {
    data_root.join("volumes").join(name).join("_data")
}

/// All mount points that a container asks for. Changes nothing on disk.
pub(crate) fn parse(
    host: &HostConfig,
    image_volumes: impl IntoIterator<Item = impl AsRef<str>>,
    from_others: Vec<MountPoint>,
    data_root: &Path,
) -> Result<Vec<MountPoint>, MountError> {
    let mut points = Vec::new();
    let mut taken = BTreeSet::new();
    for bind in host.binds.iter().flatten() {
        points.push(from_bind(bind, data_root)?);
    }
    for mount in host.mounts.iter().flatten() {
        points.push(from_mount(mount, data_root)?);
    }
    for (path, options) in host.tmpfs.iter().flatten() {
        let options = options.split(',').filter(|option| !option.is_empty()).map(str::to_owned).collect();
        points.push(tmpfs(destination(path, "tmpfs", path)?, options)?);
    }
    for point in &points {
        if !taken.insert(point.destination.clone()) {
            return Err(MountError::Duplicate(point.destination.clone()));
        }
    }
    let volumes: Vec<MountPoint> = image_volumes
        .into_iter()
        .map(|path| {
            let point = anonymous(destination(path.as_ref(), "volume", path.as_ref())?, data_root);
            Ok(MountPoint { mode: String::new(), ..point })
        })
        .collect::<Result<_, MountError>>()?;
    points.extend(
        from_others.into_iter().chain(volumes).filter(|point| taken.insert(point.destination.clone())),
    );
    Ok(points)
}

fn destination(path: &str, kind: &'static str, specification: &str) -> Result<PathBuf, MountError> {
    if !path.starts_with('/') {
        return Err(MountError::NotAbsolute { kind: kind.to_owned(), path: path.to_owned() });
    }
    let cleaned = clean(Path::new(path));
    if cleaned == Path::new("/") {
        return Err(MountError::Root(specification.to_owned(), kind));
    }
    Ok(cleaned)
}

fn anonymous(destination: PathBuf, data_root: &Path) -> MountPoint {
    let name = random_id();
    MountPoint { anonymous: true, ..volume(name, destination, data_root) }
}

fn volume(name: String, destination: PathBuf, data_root: &Path) -> MountPoint {
    MountPoint {
        kind: MountKind::Volume,
        source: volume_directory(data_root, &name),
        name: Some(name),
        destination,
        read_only: false,
        mode: "z".to_owned(),
        propagation: String::new(),
        recursive: true,
        writable_below: false,
        copy: true,
        anonymous: false,
        options: Vec::new(),
        labels: BTreeMap::new(),
        driver_options: BTreeMap::new(),
        subpath: PathBuf::new(),
        image: None,
    }
}

fn bind(source: PathBuf, destination: PathBuf) -> MountPoint {
    MountPoint {
        kind: MountKind::Bind,
        name: None,
        source,
        destination,
        read_only: false,
        mode: String::new(),
        propagation: "rprivate".to_owned(),
        recursive: true,
        writable_below: false,
        copy: false,
        anonymous: false,
        options: Vec::new(),
        labels: BTreeMap::new(),
        driver_options: BTreeMap::new(),
        subpath: PathBuf::new(),
        image: None,
    }
}

fn tmpfs(destination: PathBuf, mut options: Vec<String>) -> Result<MountPoint, MountError> {
    options.retain(|option| !says_nothing(option));
    if let Some(unknown) = options.iter().find(|option| !is_tmpfs_option(option)) {
        return Err(MountError::TmpfsOption(unknown.clone()));
    }
    let read_only = options.iter().any(|option| option == "ro");
    Ok(MountPoint { kind: MountKind::Tmpfs, read_only, options, ..bind(PathBuf::new(), destination) })
}

/// Options that dockerd takes and that change nothing about a tmpfs which only one container sees.
fn says_nothing(option: &str) -> bool {
    let of_others = option.strip_prefix('r').unwrap_or(option);
    matches!(option, "defaults" | "mand" | "nomand" | "nostrictatime")
        || matches!(of_others, "private" | "shared" | "slave" | "unbindable")
}

/// What `mount(8)` says of every file system, and of this one.
fn is_tmpfs_option(option: &str) -> bool {
    match option.split_once('=') {
        Some((name, value)) => {
            matches!(name, "size" | "mode" | "uid" | "gid" | "nr_inodes" | "nr_blocks" | "mpol" | "huge")
                && !value.is_empty()
        }
        None => matches!(
            option,
            "ro" | "rw"
                | "exec"
                | "noexec"
                | "suid"
                | "nosuid"
                | "dev"
                | "nodev"
                | "sync"
                | "async"
                | "dirsync"
                | "atime"
                | "noatime"
                | "diratime"
                | "nodiratime"
                | "relatime"
                | "norelatime"
                | "strictatime"
        ),
    }
}

/// Each kind of mount has options of its own.
fn refuse_foreign_options(mount: &Mount) -> Result<(), MountError> {
    let kind = mount.r#type.as_str();
    let bind = mount.bind_options.clone().unwrap_or_default();
    let mut volume = mount.volume_options.clone().unwrap_or_default();
    volume.driver_config = volume.driver_config.filter(|driver| *driver != DriverConfig::default());
    let image = mount.image_options.clone().unwrap_or_default();
    let mut tmpfs = mount.tmpfs_options.clone().unwrap_or_default();
    tmpfs.options = tmpfs.options.filter(|options| !options.is_empty());
    let fields = [
        ("BindOptions", "bind", bind != BindOptions::default()),
        ("VolumeOptions", "volume", volume != VolumeOptions::default()),
        ("TmpfsOptions", "tmpfs", tmpfs != TmpfsOptions::default()),
        ("ImageOptions", "image", image != ImageOptions::default()),
    ];
    if let Some((field, ..)) = fields.into_iter().find(|(_, own, is_said)| *is_said && *own != kind) {
        return Err(MountError::ExtraField { kind: kind.to_owned(), field });
    }
    if kind == "tmpfs" && !mount.source.is_empty() {
        return Err(MountError::ExtraField { kind: kind.to_owned(), field: "Source" });
    }
    Ok(())
}

/// Wishes about what is read-only below a bind mount that contradict each other.
fn check_read_only(mount: &Mount, options: &BindOptions) -> Result<(), MountError> {
    let message = if options.read_only_non_recursive && options.read_only_force_recursive {
        "ReadOnlyNonRecursive conflicts with ReadOnlyForceRecursive"
    } else if options.read_only_non_recursive && !mount.read_only {
        "ReadOnlyNonRecursive needs ReadOnly"
    } else if options.read_only_force_recursive && !mount.read_only {
        "ReadOnlyForceRecursive needs ReadOnly"
    } else if options.read_only_force_recursive && options.non_recursive {
        "ReadOnlyForceRecursive conflicts with NonRecursive"
    } else if options.read_only_force_recursive && !matches!(options.propagation.as_str(), "" | "rprivate") {
        "ReadOnlyForceRecursive needs the Propagation rprivate"
    } else {
        return Ok(());
    };
    Err(MountError::Conflict { kind: "bind", message })
}

fn from_bind(text: &str, data_root: &Path) -> Result<MountPoint, MountError> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, mode) = match parts[..] {
        [target] => return Ok(anonymous(destination(target, "volume", text)?, data_root)),
        [source, target] => (source, target, ""),
        [source, target, mode] => (source, target, mode),
        _ => return Err(MountError::Specification(text.to_owned())),
    };
    if source.is_empty() || target.is_empty() {
        return Err(MountError::Specification(text.to_owned()));
    }
    let mut point = if source.starts_with('/') {
        bind(clean(Path::new(source)), destination(target, "bind", text)?)
    } else {
        if !names::is_valid(source) {
            return Err(MountError::VolumeName(source.to_owned()));
        }
        volume(source.to_owned(), destination(target, "volume", text)?, data_root)
    };
    if !mode.is_empty() {
        mode.clone_into(&mut point.mode);
    }
    for word in mode.split(',').filter(|_| !mode.is_empty()) {
        match word {
            "ro" => point.read_only = true,
            "z" | "Z" if has_selinux() => return Err(MountError::Relabel(text.to_owned())),
            // Without SELinux there is nothing to label, and here no copy that could be behind.
            "rw" | "z" | "Z" | "consistent" | "cached" | "delegated" => {}
            "nocopy" if point.kind == MountKind::Volume => point.copy = false,
            "slave" | "rslave" | "private" | "rprivate" if point.kind == MountKind::Bind => {
                word.clone_into(&mut point.propagation);
            }
            "shared" | "rshared" if point.kind == MountKind::Bind => {
                return Err(MountError::Shared(word.to_owned()));
            }
            _ => return Err(MountError::Mode(mode.to_owned())),
        }
    }
    Ok(point)
}

/// Whether `--volumes-from NAME:MODE` makes the volumes read-only.
pub(crate) fn others_read_only(text: &str, mode: &str) -> Result<bool, MountError> {
    let mut read_only = false;
    for word in mode.split(',') {
        match word {
            "ro" => read_only = true,
            "z" | "Z" if has_selinux() => return Err(MountError::Relabel(text.to_owned())),
            "rw" | "z" | "Z" => {}
            _ => return Err(MountError::Mode(mode.to_owned())),
        }
    }
    Ok(read_only)
}

/// A path below a volume or an image.
fn subpath(kind: &'static str, text: &str) -> Result<PathBuf, MountError> {
    let path = PathBuf::from(text);
    if text.contains('\0') || !part::is_below(&path) {
        return Err(MountError::Subpath { kind });
    }
    Ok(path)
}

fn from_mount(mount: &Mount, data_root: &Path) -> Result<MountPoint, MountError> {
    if mount.target.is_empty() {
        return Err(MountError::NoTarget(mount.r#type.clone()));
    }
    refuse_foreign_options(mount)?;
    if !matches!(mount.consistency.as_str(), "" | "default" | "consistent" | "cached" | "delegated") {
        return Err(MountError::Consistency(mount.consistency.clone()));
    }
    let mut point = match mount.r#type.as_str() {
        "bind" => {
            let options = mount.bind_options.clone().unwrap_or_default();
            if !mount.source.starts_with('/') {
                let (kind, path) = ("bind".to_owned(), mount.source.clone());
                return Err(MountError::NotAbsolute { kind, path });
            }
            let source = clean(Path::new(&mount.source));
            if !options.create_mountpoint && !source.exists() {
                return Err(MountError::NoSource(source));
            }
            let mut point = bind(source, destination(&mount.target, "bind", &mount.target)?);
            point.recursive = !options.non_recursive;
            point.writable_below = options.read_only_non_recursive;
            check_read_only(mount, &options)?;
            match options.propagation.as_str() {
                "" => {}
                "slave" | "rslave" | "private" | "rprivate" => point.propagation = options.propagation,
                other => return Err(MountError::Propagation(other.to_owned())),
            }
            point
        }
        "volume" => {
            let options = mount.volume_options.clone().unwrap_or_default();
            let target = destination(&mount.target, "volume", &mount.target)?;
            let mut point = match mount.source.as_str() {
                "" => anonymous(target, data_root),
                name if names::is_valid(name) => volume(name.to_owned(), target, data_root),
                name => return Err(MountError::VolumeName(name.to_owned())),
            };
            point.copy = !options.no_copy;
            point.labels = options.labels;
            if !options.subpath.is_empty() {
                point.subpath = subpath("volume", &options.subpath)?;
                if point.anonymous {
                    return Err(MountError::AnonymousSubpath);
                }
            }
            point.driver_options = options.driver_config.map(|driver| driver.options).unwrap_or_default();
            point
        }
        "image" => {
            if mount.source.is_empty() {
                return Err(MountError::NoField { kind: "image", field: "Source" });
            }
            let source = PathBuf::from(&mount.source);
            let target = destination(&mount.target, "image", &mount.target)?;
            let mut point = MountPoint { kind: MountKind::Image, read_only: true, ..bind(source, target) };
            point.propagation.clear();
            if let Some(options) = mount.image_options.as_ref().filter(|options| !options.subpath.is_empty())
            {
                point.subpath = subpath("image", &options.subpath)?;
            }
            point
        }
        "tmpfs" => {
            let wanted = mount.tmpfs_options.clone().unwrap_or_default();
            let mut options = Vec::new();
            if wanted.size_bytes > 0 {
                options.push(format!("size={}", wanted.size_bytes));
            }
            if wanted.mode > 0 {
                options.push(format!("mode={:o}", wanted.mode));
            }
            options.extend(wanted.options.iter().flatten().map(|words| words.join("=")));
            tmpfs(destination(&mount.target, "tmpfs", &mount.target)?, options)?
        }
        other => return Err(MountError::Kind(other.to_owned())),
    };
    point.read_only |= mount.read_only;
    Ok(point)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn parsed(json: serde_json::Value) -> Result<Vec<MountPoint>, MountError> {
        let host: HostConfig = serde_json::from_value(json).unwrap();
        parse(&host, ["/image"], Vec::new(), Path::new("/data"))
    }

    #[test]
    fn binds_volumes_and_image_volumes() {
        let points =
            parsed(json!({ "Binds": ["/a/../b:/c:ro,z", "name:/d//e", "/anonymous", "x1:/image:nocopy"] }))
                .unwrap();
        assert_eq!(points.len(), 4);
        assert_eq!((points[0].source.as_path(), points[0].read_only), (Path::new("/b"), true));
        assert_eq!(points[1].source, Path::new("/data/volumes/name/_data"));
        assert_eq!(points[1].destination, Path::new("/d/e"));
        assert!(points[2].anonymous && points[2].name.as_ref().unwrap().len() == 64);
        assert!(!points[3].copy && !points[3].anonymous);
        assert!(parsed(json!({})).unwrap()[0].anonymous);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for bad in ["/a:b", "/a:/", "/a:/b:xx", "../x:/b", ":/b", "/a:/b:ro:rw", "/a:/..", "na me:/b"] {
            assert!(parsed(json!({ "Binds": [bad] })).is_err(), "{bad}");
        }
        assert!(parsed(json!({ "Binds": ["/a:/x", "/b:/x/"] })).is_err());
        let mount = json!({ "Type": "bind", "Source": "/no/such/folder", "Target": "/x" });
        let error = parsed(json!({ "Mounts": [mount] })).unwrap_err().to_string();
        assert!(error.ends_with("bind source path does not exist: /no/such/folder"), "{error}");
    }

    #[test]
    fn a_tmpfs_keeps_its_options() {
        let points = parsed(json!({ "Tmpfs": { "/run": "defaults,size=1m,ro,rprivate" }, "Mounts": [
            { "Type": "tmpfs", "Target": "/t", "TmpfsOptions": { "SizeBytes": 5, "Mode": 0o700 } } ] }))
        .unwrap();
        assert_eq!(points[0].options, ["size=5", "mode=700"]);
        assert!(points[1].read_only && points[1].kind == MountKind::Tmpfs);
        assert_eq!(points[1].options, ["size=1m", "ro"]);
        assert!(parsed(json!({ "Tmpfs": { "/run": "sized=1m" } })).is_err());
    }
}
