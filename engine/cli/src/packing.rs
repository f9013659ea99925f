//! A directory as the context of a build: an archive of what `.dockerignore` leaves in it.

use std::fs::{self, File};
use std::io::{self, PipeReader, Read, Write};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Component, Path, PathBuf};
use std::thread::JoinHandle;

use engine_patterns::ignore::{Ignored, shown};
use tar::{Builder, EntryType, Header};

use crate::failure::{Failure, Outcome};

const IGNORE: &str = ".dockerignore";
/// A list of patterns is shorter.
const LONGEST_IGNORE: u64 = 16 * 1024 * 1024;

/// Whether it begins as archives do, packed or not.
pub(crate) fn is_archive(start: &[u8]) -> bool {
    let magics: [&[u8]; 4] = [b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"];
    magics.iter().any(|magic| start.starts_with(magic)) || start.get(257..262) == Some(b"ustar")
}

/// An archive with one file.
pub(crate) fn single(name: &str, content: &[u8]) -> io::Result<Vec<u8>> {
    let mut builder = Builder::new(Vec::new());
    add_file(&mut builder, name, content)?;
    builder.into_inner()
}

fn add_file<W: Write>(builder: &mut Builder<W>, name: &str, content: &[u8]) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_mode(0o600);
    header.set_size(content.len() as u64);
    builder.append_data(&mut header, name, content)
}

/// What is to be sent.
#[derive(Debug)]
pub(crate) struct Plan {
    root: PathBuf,
    ignored: Ignored,
    /// The Dockerfile's path in the archive.
    dockerfile: String,
    /// Files that are not in the directory, or in another form there: their names and contents.
    added: Vec<(String, Vec<u8>)>,
}

impl Plan {
    /// `dockerfile` is the option: a path from where the user is, or `-`.
    pub(crate) fn new(root: &Path, dockerfile: Option<&str>) -> Outcome<Self> {
        let unable = |path: &Path, error: &dyn std::fmt::Display| {
            Failure::refused(format!(
                "unable to prepare context: path {:?}: {error}",
                path.display().to_string()
            ))
        };
        let root = fs::canonicalize(root).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Failure::refused(format!(
                "unable to prepare context: path {:?} not found",
                root.display().to_string()
            )),
            _ => unable(root, &error),
        })?;
        if !root.is_dir() {
            return Err(Failure::refused(format!(
                "unable to prepare context: context must be a directory: {}",
                root.display()
            )));
        }
        let outside = |content: Vec<u8>| {
            let name = format!(".dockerfile.{:016x}", random());
            (name.clone(), Some((name, content)))
        };
        let (dockerfile, brought) = match dockerfile {
            None => (usual(&root)?, None),
            Some("-") => {
                let mut text = Vec::new();
                io::stdin().read_to_end(&mut text).map_err(Failure::Input)?;
                outside(text)
            }
            Some(path) => {
                let absolute = std::path::absolute(path).map_err(|error| unable(Path::new(path), &error))?;
                let real = fs::canonicalize(&absolute).map_err(|error| match error.kind() {
                    io::ErrorKind::NotFound => no_dockerfile(&absolute),
                    _ => unable(&absolute, &error),
                })?;
                match real.strip_prefix(&root) {
                    Ok(inside) => (shown(inside), None),
                    Err(_) => outside(fs::read(&real).map_err(|error| unable(&real, &error))?),
                }
            }
        };
        let (ignored, text) = ignored(&root, &dockerfile)?;
        let mut added = Vec::new();
        if let Some((name, content)) = brought {
            // It is the daemon's to read, and no part of what is built from; nor is a list that the user has not written.
            let own = if text.is_empty() { IGNORE } else { "" };
            added.push((IGNORE.to_owned(), format!("{text}\n{own}\n{name}\n").into_bytes()));
            added.push((name, content));
        }
        Ok(Self { root, ignored, dockerfile, added })
    }

    pub(crate) fn dockerfile(&self) -> &str {
        &self.dockerfile
    }

    /// Begins to pack. What goes wrong with that is an error of the last read.
    pub(crate) fn begin(self) -> Outcome<Packed> {
        let (reader, writer) = io::pipe().map_err(Failure::Input)?;
        let work = std::thread::spawn(move || self.pack(io::BufWriter::with_capacity(64 * 1024, writer)));
        Ok(Packed { reader, work: Some(work) })
    }

    fn pack(&self, writer: impl Write) -> io::Result<()> {
        let mut builder = Builder::new(writer);
        builder.follow_symlinks(false);
        for (name, content) in &self.added {
            add_file(&mut builder, name, content)?;
        }
        self.pack_folder(&mut builder, Path::new(""))?;
        builder.into_inner()?.flush()
    }

    fn is_sent(&self, path: &str) -> bool {
        if self.added.iter().any(|(name, _)| name == path) {
            return false;
        }
        // The daemon needs both, whatever the patterns say; it does not let them into images then.
        path == self.dockerfile || path == IGNORE || !self.ignored.fits(path)
    }

    fn pack_folder<W: Write>(&self, builder: &mut Builder<W>, folder: &Path) -> io::Result<()> {
        let mut names: Vec<_> = fs::read_dir(self.root.join(folder))?
            .map(|entry| Ok(entry?.file_name()))
            .collect::<io::Result<_>>()?;
        names.sort();
        for name in names {
            let path = folder.join(name);
            let text = shown(&path);
            let metadata = fs::symlink_metadata(self.root.join(&path))?;
            let is_sent = self.is_sent(&text);
            if is_sent {
                self.pack_one(builder, &path, &metadata)?;
            }
            let holds_dockerfile = self.dockerfile.starts_with(&format!("{text}/"));
            if metadata.is_dir() && (is_sent || self.ignored.may_return() || holds_dockerfile) {
                self.pack_folder(builder, &path)?;
            }
        }
        Ok(())
    }

    fn pack_one<W: Write>(
        &self,
        builder: &mut Builder<W>,
        path: &Path,
        metadata: &fs::Metadata,
    ) -> io::Result<()> {
        let kind = metadata.file_type();
        // There is no such thing in an archive.
        if kind.is_socket() {
            return Ok(());
        }
        let mut header = Header::new_gnu();
        header.set_metadata(metadata);
        // What is built belongs to nobody of this machine.
        header.set_uid(0);
        header.set_gid(0);
        let full = self.root.join(path);
        let failed = |error: io::Error| {
            io::Error::new(error.kind(), format!("Could not send `{}`: {error}", full.display()))
        };
        if metadata.is_file() {
            let file = File::open(&full).map_err(failed)?;
            header.set_size(metadata.len());
            // It may grow meanwhile; one that shrinks is an error, as the rest of the archive would be nonsense.
            let mut file = Exact { file: file.take(metadata.len()), left: metadata.len() };
            builder.append_data(&mut header, path, &mut file).map_err(failed)
        } else if metadata.is_symlink() {
            header.set_size(0);
            builder.append_link(&mut header, path, fs::read_link(&full)?).map_err(failed)
        } else {
            header.set_size(0);
            if kind.is_char_device() || kind.is_block_device() {
                header.set_entry_type(if kind.is_char_device() { EntryType::Char } else { EntryType::Block });
                header.set_device_major(rustix::fs::major(metadata.rdev()))?;
                header.set_device_minor(rustix::fs::minor(metadata.rdev()))?;
            }
            builder.append_data(&mut header, path, io::empty()).map_err(failed)
        }
    }
}

fn no_dockerfile(path: &Path) -> Failure {
    Failure::refused(format!(
        "unable to prepare context: unable to evaluate symlinks in Dockerfile path: lstat {}: no such file or directory",
        path.display()
    ))
}

/// `Dockerfile`, or `dockerfile` where there is no other.
fn usual(root: &Path) -> Outcome<String> {
    let names = ["Dockerfile", "dockerfile"];
    let found = names.iter().find(|name| root.join(name).symlink_metadata().is_ok());
    found.map(|name| (*name).to_owned()).ok_or_else(|| no_dockerfile(&root.join("Dockerfile")))
}

/// The patterns of `DOCKERFILE.dockerignore`, or of `.dockerignore`, and their text.
fn ignored(root: &Path, dockerfile: &str) -> Outcome<(Ignored, String)> {
    let is_inside = |path: &Path| path.components().all(|part| matches!(part, Component::Normal(_)));
    for name in [format!("{dockerfile}{IGNORE}"), IGNORE.to_owned()] {
        if !is_inside(Path::new(&name)) {
            continue;
        }
        let path = root.join(&name);
        let failed = |source| Failure::ReadFile { path: path.display().to_string(), source };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(error)),
        };
        let mut text = String::new();
        file.take(LONGEST_IGNORE).read_to_string(&mut text).map_err(failed)?;
        let ignored = Ignored::parse(&text).map_err(|error| Failure::refused(error.to_string()))?;
        return Ok((ignored, text));
    }
    Ok((Ignored::default(), String::new()))
}

fn random() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(std::process::id())
}

/// As many bytes as were announced, or an error.
struct Exact {
    file: io::Take<File>,
    left: u64,
}

impl Read for Exact {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read(buffer)?;
        self.left -= length as u64;
        if length == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it was cut short while it was read"));
        }
        Ok(length)
    }
}

/// The archive while it is packed.
#[derive(Debug)]
pub(crate) struct Packed {
    reader: PipeReader,
    work: Option<JoinHandle<io::Result<()>>>,
}

impl Read for Packed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read(buffer)?;
        if length == 0
            && let Some(work) = self.work.take()
        {
            work.join().unwrap_or_else(|_| Err(io::Error::other("Could not pack the context")))?;
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::symlink;

    use super::*;

    fn names(root: &Path, dockerfile: Option<&str>) -> Vec<String> {
        let plan = Plan::new(root, dockerfile).unwrap();
        let mut archive = tar::Archive::new(plan.begin().unwrap());
        let entries = archive.entries().unwrap();
        entries.map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect()
    }

    #[test]
    fn what_is_ignored_stays_at_home() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for path in ["node/modules/deep", "src"] {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        for path in ["Dockerfile", "secret", "src/main.c", "src/main.o", "node/modules/deep/x", "node/keep"] {
            fs::write(root.join(path), path).unwrap();
        }
        symlink("/etc/passwd", root.join("link")).unwrap();
        fs::write(root.join(IGNORE), "secret\n**/*.o\nnode\n!node/keep\nDockerfile\n").unwrap();
        assert_eq!(
            names(root, None),
            [".dockerignore", "Dockerfile", "link", "node/keep", "src", "src/main.c"]
        );
        fs::write(root.join("Dockerfile.dockerignore"), "*\n").unwrap();
        assert_eq!(names(root, None), [".dockerignore", "Dockerfile"]);
    }

    #[test]
    fn a_dockerfile_from_elsewhere_travels_along_and_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let (root, other) = (folder.path().join("context"), folder.path().join("other"));
        fs::create_dir(&root).unwrap();
        fs::write(root.join("file"), "").unwrap();
        fs::write(&other, "FROM x").unwrap();
        let names = names(&root, Some(other.to_str().unwrap()));
        assert_eq!((names[0].as_str(), names[2].as_str()), (IGNORE, "file"));
        assert!(names[1].starts_with(".dockerfile."), "{names:?}");
        assert!(Plan::new(&root, None).is_err() && Plan::new(&root.join("none"), None).is_err());
    }

    #[test]
    fn archives_are_told_by_their_beginning() {
        let archive = single("Dockerfile", b"FROM x").unwrap();
        assert!(is_archive(&archive) && is_archive(b"\x1f\x8b\x08") && !is_archive(b"FROM busybox\n"));
    }

    #[test]
    fn a_file_that_shrinks_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        fs::write(&path, "abc").unwrap();
        let mut exact = Exact { file: File::open(&path).unwrap().take(5), left: 5 };
        assert!(exact.read_to_end(&mut Vec::new()).is_err());
    }
}
