//! `cp`: files between a container and this machine.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

use base64::Engine as _;
use clap::Args;
use hyper::body::Frame;
use hyper::{HeaderMap, Method};
use rustix::fs::{CWD, FileType, Mode};
use serde::Deserialize;
use tokio_util::io::SyncIoBridge;

use super::attach::body_reader;
use super::images::{body_from, body_of, write_out};
use crate::client::{Client, Target, empty};
use crate::failure::{Failure, Outcome};

/// Go's mark of a directory in a file mode.
const DIRECTORY: u64 = 1 << 31;
/// How many symbolic links are followed for `-L`.
const LINK_LIMIT: usize = 40;

/// Copy files/folders between a container and the local filesystem
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Keep the numbers of users and groups
    #[arg(long, short)]
    archive: bool,
    /// Follow a symbolic link in the source
    #[arg(long, short = 'L')]
    follow_link: bool,
    /// Say nothing
    #[arg(long, short)]
    quiet: bool,
    #[arg(value_name = "SOURCE", allow_hyphen_values = true)]
    source: String,
    #[arg(value_name = "DESTINATION", allow_hyphen_values = true)]
    destination: String,
}

#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    Container { name: &'a str, path: &'a str },
    Local(&'a str),
    Stream,
}

/// A path with a colon in it is a container's, unless it begins like a path.
fn place(text: &str) -> Place<'_> {
    if text == "-" {
        return Place::Stream;
    }
    if text.starts_with(['/', '.']) {
        return Place::Local(text);
    }
    match text.split_once(':') {
        Some((name, path)) if !name.is_empty() && !name.contains('/') => Place::Container { name, path },
        _ => Place::Local(text),
    }
}

/// What the daemon says of a path, in a header.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Stat {
    mode: u64,
    #[serde(rename = "linkTarget")]
    link_target: String,
}

impl Stat {
    fn from_headers(headers: &HeaderMap) -> Outcome<Self> {
        let header = headers.get("x-docker-container-path-stat").and_then(|value| value.to_str().ok());
        let header =
            header.ok_or_else(|| Failure::Answer("there is nothing about the path in it".to_owned()))?;
        let decoded = base64::engine::general_purpose::STANDARD
            .decode(header)
            .map_err(|error| Failure::Answer(error.to_string()))?;
        serde_json::from_slice(&decoded).map_err(|error| Failure::Answer(error.to_string()))
    }

    fn is_directory(&self) -> bool {
        self.mode & DIRECTORY != 0
    }
}

pub(crate) async fn run(client: &Client, options: Options) -> Outcome {
    match (place(&options.source), place(&options.destination)) {
        (Place::Container { .. }, Place::Container { .. }) => {
            Err(Failure::refused("copying between containers is not supported"))
        }
        (Place::Container { name, path }, to) => copy_out(client, &options, name, path, &to).await,
        (from, Place::Container { name, path }) => copy_in(client, &options, &from, name, path).await,
        _ => Err(Failure::refused("must specify at least one container source")),
    }
}

fn archive(container: &str, path: &str) -> Target {
    Target::new(["containers", container, "archive"]).with("path", path)
}

/// The last part of a path; of the root, the root.
fn base_name(path: &str) -> &str {
    path.trim_end_matches("/.").trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

fn only_contents(path: &str) -> bool {
    path == "." || path.ends_with("/.")
}

async fn copy_out(client: &Client, options: &Options, name: &str, path: &str, to: &Place<'_>) -> Outcome {
    let mut path = path.to_owned();
    if options.follow_link {
        for _ in 0..LINK_LIMIT {
            let stat = Stat::from_headers(&client.head(&archive(name, &path)).await?)?;
            if stat.link_target.is_empty() {
                break;
            }
            path = if stat.link_target.starts_with('/') {
                stat.link_target
            } else {
                let folder = path.trim_end_matches('/').rsplit_once('/').map_or("", |(folder, _)| folder);
                format!("{folder}/{}", stat.link_target)
            };
        }
    }
    let response = client.stream(Method::GET, &archive(name, &path), None, empty()).await?;
    let Place::Local(destination) = to else {
        return write_out(response.into_body(), None).await;
    };
    let stat = Stat::from_headers(response.headers())?;
    let root = destination_root(&path, &stat, destination)?;
    let reader = SyncIoBridge::new(body_reader(response.into_body()));
    let unpacked = tokio::task::spawn_blocking(move || unpack(reader, &root)).await;
    unpacked.map_err(|error| Failure::refused(error.to_string()))?
}

/// Where the thing that is copied goes, itself and not its folder.
fn destination_root(path: &str, stat: &Stat, destination: &str) -> Outcome<PathBuf> {
    let target = Path::new(destination);
    match fs::metadata(target) {
        Ok(found) if found.is_dir() => {
            if stat.is_directory() && only_contents(path) {
                return Ok(target.to_path_buf());
            }
            Ok(target.join(base_name(path)))
        }
        Ok(_) if stat.is_directory() => Err(Failure::refused("cannot copy directory")),
        Ok(_) => Ok(target.to_path_buf()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if destination.ends_with('/') && !stat.is_directory() {
                return Err(Failure::refused(format!(
                    "destination \"{destination}\" must be a directory: no such directory"
                )));
            }
            Ok(PathBuf::from(destination.trim_end_matches('/')))
        }
        Err(source) => Err(Failure::ReadFile { path: destination.to_owned(), source }),
    }
}

/// The parts of an archived path that are names; anything that would climb is refused.
fn parts(path: &Path) -> Outcome<Vec<&OsStr>> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(Failure::Answer(format!("`{}` leaves the archive", path.display())));
            }
        }
    }
    Ok(parts)
}

/// Unpacks an archive of one file or folder to `root`. Nothing is written outside of it.
fn unpack(reader: impl io::Read, root: &Path) -> Outcome {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |source| Failure::WriteFile { path, source }
    };
    let parent = match root.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let parent = fs::canonicalize(parent).map_err(failed(parent))?;
    let root = match root.file_name() {
        Some(name) => parent.join(name),
        None => fs::canonicalize(root).map_err(failed(root))?,
    };
    let mut archive = tar::Archive::new(reader);
    archive.set_preserve_permissions(true);
    let mut stripped: Option<usize> = None;
    for entry in archive.entries().map_err(Failure::Input)? {
        let mut entry = entry.map_err(Failure::Input)?;
        let path = entry.path().map_err(Failure::Input)?.into_owned();
        let names = parts(&path)?;
        // The first entry is the thing itself; what is in it has its name in front.
        let strip = *stripped.get_or_insert(names.len());
        let target = names.iter().skip(strip).fold(root.clone(), |target, name| target.join(name));
        if let Some(folder) = target.parent() {
            let folder = fs::canonicalize(folder).map_err(failed(folder))?;
            if target != root && !folder.starts_with(&root) {
                return Err(Failure::Answer(format!("`{}` leaves the archive", path.display())));
            }
        }
        let kind = entry.header().entry_type();
        if kind.is_hard_link() {
            let link = entry.link_name().map_err(Failure::Input)?.unwrap_or_default().into_owned();
            let source =
                parts(&link)?.into_iter().skip(strip).fold(root.clone(), |source, name| source.join(name));
            let confined = source.parent().and_then(|folder| fs::canonicalize(folder).ok());
            if !confined.is_some_and(|folder| folder.starts_with(&root)) {
                return Err(Failure::Answer(format!("`{}` leaves the archive", link.display())));
            }
            let _ = fs::remove_file(&target);
            fs::hard_link(&source, &target).map_err(failed(&target))?;
        } else if matches!(kind, tar::EntryType::Fifo | tar::EntryType::Char | tar::EntryType::Block) {
            let _ = fs::remove_file(&target);
            special(entry.header(), &target).map_err(failed(&target))?;
        } else if kind.is_dir() && target.is_dir() {
            // It is there already, and stays as it is.
        } else {
            entry.unpack(&target).map_err(failed(&target))?;
        }
    }
    Ok(())
}

/// Makes a pipe or a device. Whoever may not make devices is told so.
fn special(header: &tar::Header, target: &Path) -> io::Result<()> {
    let kind = match header.entry_type() {
        tar::EntryType::Char => FileType::CharacterDevice,
        tar::EntryType::Block => FileType::BlockDevice,
        _ => FileType::Fifo,
    };
    let number = |found: io::Result<Option<u32>>| Ok::<_, io::Error>(found?.unwrap_or(0));
    let device = rustix::fs::makedev(number(header.device_major())?, number(header.device_minor())?);
    let mode = Mode::from_raw_mode(header.mode()? & 0o7777);
    Ok(rustix::fs::mknodat(CWD, target, kind, mode, device)?)
}

async fn copy_in(client: &Client, options: &Options, from: &Place<'_>, name: &str, path: &str) -> Outcome {
    let put = |folder: &str| {
        let target = archive(name, folder).with("noOverwriteDirNonDir", "true");
        if options.archive { target.with("copyUIDGID", "true") } else { target }
    };
    let Place::Local(source) = from else {
        let body = body_from(io::stdin());
        return client.stream(Method::PUT, &put(path), Some("application/x-tar"), body).await.map(|_| ());
    };
    let unreadable = |error| Failure::ReadFile { path: (*source).to_owned(), source: error };
    let metadata = if options.follow_link || source.ends_with('/') || only_contents(source) {
        fs::metadata(source)
    } else {
        fs::symlink_metadata(source)
    };
    let is_directory = metadata.map_err(unreadable)?.is_dir();
    let there = match client.head(&archive(name, path)).await {
        Ok(headers) => Some(Stat::from_headers(&headers)?),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error),
    };
    let (folder, entry) = match &there {
        Some(stat) if stat.is_directory() => {
            let contents = is_directory && only_contents(source);
            (path.to_owned(), (!contents).then(|| base_name(source).to_owned()))
        }
        Some(_) if is_directory => return Err(Failure::refused("cannot copy directory")),
        None if path.ends_with('/') && !is_directory => {
            return Err(Failure::refused(format!(
                "destination \"{name}:{path}\" must be a directory: no such directory"
            )));
        }
        _ => {
            let trimmed = path.trim_end_matches('/');
            let (folder, entry) = trimmed.rsplit_once('/').unwrap_or(("", trimmed));
            (format!("{folder}/"), Some(entry.to_owned()))
        }
    };
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let source_path = PathBuf::from(source);
    let follow = options.follow_link;
    let packing = tokio::task::spawn_blocking(move || {
        let mut writer = Frames { sender: sender.clone(), buffer: Vec::new() };
        let packed = pack(&mut writer, &source_path, entry.as_deref(), follow).and_then(|()| writer.flush());
        if let Err(error) = &packed {
            // The daemon must not take half an archive for a whole one.
            let _ = sender.blocking_send(Err(io::Error::new(error.kind(), error.to_string())));
        }
        packed
    });
    let sent = client.stream(Method::PUT, &put(&folder), Some("application/x-tar"), body_of(receiver)).await;
    match packing.await {
        // The daemon hung up: its own words say why.
        Ok(Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => Err(unreadable(error)),
        _ => sent.map(|_| ()),
    }
}

/// Writes an archive of `source`, called `entry`; without a name, of what is in it.
fn pack(writer: &mut impl Write, source: &Path, entry: Option<&str>, follow: bool) -> io::Result<()> {
    let mut builder = tar::Builder::new(writer);
    builder.follow_symlinks(false);
    let entry = entry.filter(|entry| !entry.is_empty());
    match entry {
        Some(entry) if source.is_dir() && (follow || !source.is_symlink()) => {
            builder.append_dir_all(entry, source)?;
        }
        Some(entry) => {
            builder.follow_symlinks(follow);
            builder.append_path_with_name(source, entry)?;
        }
        None => {
            for child in fs::read_dir(source)? {
                let child = child?;
                if child.file_type()?.is_dir() {
                    builder.append_dir_all(child.file_name(), child.path())?;
                } else {
                    builder.append_path_with_name(child.path(), child.file_name())?;
                }
            }
        }
    }
    builder.finish()
}

/// Sends what is written as frames of a body.
struct Frames {
    sender: tokio::sync::mpsc::Sender<io::Result<Frame<bytes::Bytes>>>,
    buffer: Vec<u8>,
}

impl Write for Frames {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(data);
        if self.buffer.len() >= 64 * 1024 {
            self.flush()?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let frame = Frame::data(bytes::Bytes::from(std::mem::take(&mut self.buffer)));
        self.sender.blocking_send(Ok(frame)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn places() {
        assert_eq!(place("web:/etc"), Place::Container { name: "web", path: "/etc" });
        assert_eq!(place("./a:b"), Place::Local("./a:b"));
        assert_eq!(place("/a:b"), Place::Local("/a:b"));
        assert_eq!(place("a/b:c"), Place::Local("a/b:c"));
        assert_eq!(place("file"), Place::Local("file"));
        assert_eq!(place("-"), Place::Stream);
    }

    fn entry(builder: &mut tar::Builder<Vec<u8>>, name: &str, kind: tar::EntryType, data: &[u8], link: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(0o755);
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        if !link.is_empty() {
            header.set_link_name(link).unwrap();
        }
        header.set_cksum();
        builder.append(&header, data).unwrap();
    }

    #[test]
    fn a_folder_takes_the_name_of_its_destination() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        fs::create_dir_all(source.join("in")).unwrap();
        fs::write(source.join("in/file"), "x").unwrap();
        let mut packed = Vec::new();
        pack(&mut packed, &source, Some("renamed"), false).unwrap();
        unpack(packed.as_slice(), &folder.path().join("copy")).unwrap();
        assert_eq!(fs::read(folder.path().join("copy/in/file")).unwrap(), b"x");
        let mut packed = Vec::new();
        pack(&mut packed, &source.join("in/file"), Some("other"), false).unwrap();
        unpack(packed.as_slice(), &folder.path().join("single")).unwrap();
        assert_eq!(fs::read(folder.path().join("single")).unwrap(), b"x");
    }

    #[test]
    fn nothing_leaves_the_destination() {
        let folder = tempfile::tempdir().unwrap();
        let outside = folder.path().join("outside");
        fs::create_dir(&outside).unwrap();
        let archives = {
            let climbing = |name: &str| {
                let mut builder = tar::Builder::new(Vec::new());
                entry(&mut builder, "d/", tar::EntryType::Directory, b"", "");
                entry(&mut builder, name, tar::EntryType::Regular, b"evil", "");
                builder.into_inner().unwrap()
            };
            let mut linked = tar::Builder::new(Vec::new());
            entry(&mut linked, "d/", tar::EntryType::Directory, b"", "");
            entry(&mut linked, "d/link", tar::EntryType::Symlink, b"", outside.to_str().unwrap());
            entry(&mut linked, "d/link/evil", tar::EntryType::Regular, b"evil", "");
            let mut hard = tar::Builder::new(Vec::new());
            entry(&mut hard, "d/", tar::EntryType::Directory, b"", "");
            entry(&mut hard, "d/hard", tar::EntryType::Link, b"", "d/../../outside");
            [
                climbing("d/../../outside/evil"),
                climbing("../outside/evil"),
                linked.into_inner().unwrap(),
                hard.into_inner().unwrap(),
            ]
        };
        for (index, archive) in archives.iter().enumerate() {
            let root = folder.path().join(format!("copy{index}"));
            assert!(unpack(archive.as_slice(), &root).is_err(), "{index}");
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{index}");
        }
    }
}
