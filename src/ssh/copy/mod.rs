//! `scp`: files and directories from here to a host, back, and between hosts.
//!
//! Whatever a host lists is only believed as far as it can do no harm: names that climb are refused, links are followed on
//! the reading side but never on the writing side, depth, number and size are bounded.

mod ends;
mod error;
mod local;
mod remote;
mod tree;

use std::path::{Path, PathBuf};

use ends::{Destination, Source};

use super::Session;

pub use error::CopyError;

/// More than any directory of people has.
const MAXIMUM_ENTRIES: usize = 1_000_000;

/// One end of a copy.
#[derive(Debug)]
pub enum Place<'a> {
    /// A path on this machine.
    Local(PathBuf),
    /// A path on a host; relative ones and the empty one start at the home of the user.
    Remote {
        session: &'a Session,
        /// What errors call the host.
        name: String,
        path: String,
    },
}

/// How much is taken from a host at most, in one copy. What lies here is not bounded: it is the user's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyLimits {
    pub bytes: u64,
    /// Files and directories.
    pub entries: u64,
}

impl Default for CopyLimits {
    fn default() -> Self {
        Self { bytes: 256 << 30, entries: 1_000_000 }
    }
}

/// What to copy, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CopyOptions {
    /// Directories are copied with all that is in them; without it they are refused.
    pub recursive: bool,
    /// Modification times are kept too.
    pub preserve_times: bool,
    pub limits: CopyLimits,
}

/// What a copy tells while it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyEvent<'a> {
    /// A file begins.
    File {
        /// Its path at the source.
        name: &'a str,
        /// In bytes, as far as it is known.
        size: u64,
    },
    /// So many bytes more were written, of any file.
    Bytes(u64),
}

/// Who is told.
type Progress<'a> = &'a (dyn Fn(CopyEvent<'_>) + Send + Sync);

/// Copies a file, or with `recursive` a directory, with its modes. As with `scp`, a destination that is a directory
/// receives the source under its own name. What fails does not keep the rest from being copied; a host that sends more than
/// the limits allow ends it.
pub async fn copy(
    from: &Place<'_>,
    to: &Place<'_>,
    options: CopyOptions,
    progress: Progress<'_>,
) -> Result<(), CopyError> {
    let (source, from) = Source::open(from).await?;
    let (destination, to) = Destination::open(to).await?;
    let copied = tree::Copied::default();
    let copy = tree::Copy { source: &source, destination: &destination, options, progress, copied: &copied };
    tokio::select! {
        outcome = copy.run(&from, &to) => outcome,
        error = source.ended() => Err(error),
        error = destination.ended() => Err(error),
    }
}

/// What something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Directory,
    Link,
    Other,
}

/// What is known about a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Meta {
    kind: Kind,
    /// Permissions for owner, group and others; nothing that runs as somebody else travels.
    mode: u32,
    size: u64,
    /// Seconds since 1970, as the protocol has them.
    accessed: u32,
    modified: u32,
}

/// How errors and events name a path.
fn label(host: Option<&str>, path: &Path) -> String {
    let path: String = path.to_string_lossy().chars().flat_map(visible).collect();
    match host {
        Some(host) => format!("{host}:{path}"),
        None => path,
    }
}

/// Names may contain anything, terminals should not get it.
fn visible(c: char) -> impl Iterator<Item = char> {
    let escaped = c.is_control().then(|| c.escape_default());
    let plain = escaped.is_none().then_some(c);
    escaped.into_iter().flatten().chain(plain)
}

/// Whether an entry of a directory may have this name.
fn is_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
}

/// Whether a file of Windows may have this name, and is then that file and nothing else: no device, no stream within a
/// file, and no other name, as one is that ends in dots or blanks.
#[cfg(any(windows, test))]
fn is_name_on_windows(name: &str) -> bool {
    is_name(name)
        && !name.contains(|c: char| c.is_ascii_control() || r#"<>:"/\|?*"#.contains(c))
        && !name.ends_with(['.', ' '])
        && !machine_driver::is_device_on_windows(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_windows_understands_in_another_way_are_none_there() {
        for name in [
            "c:",
            "c:x",
            r"a\b",
            "file:stream",
            "file::$DATA",
            "nul",
            "CON.txt",
            "Com1",
            "LPT\u{b9}.x",
            "a.",
            "a ",
            "...",
            "a?",
            "*",
            "a\u{1f}b",
            "\"",
            "",
            "..",
            "nul .txt",
        ] {
            assert!(!is_name_on_windows(name), "{name:?}");
        }
        for name in ["a", "..a", "-rf", "a b", "ünï", "~", "console", "com10", "a.nul", "nulls.txt", "com"]
        {
            assert!(is_name_on_windows(name), "{name:?}");
        }
    }

    #[test]
    fn hostile_names_are_no_names() {
        for name in ["", ".", "..", "/", "/etc/passwd", "../x", "a/b", "a/", "x\0y", "..\0"] {
            assert!(!is_name(name), "{name:?}");
        }
        for name in ["a", "...", "..a", "-rf", " ", "a b", "new\nline", "ünï", "~", "*", "\\", "c:"] {
            assert!(is_name(name), "{name:?}");
        }
    }

    #[test]
    fn labels_keep_terminals_whole() {
        assert_eq!(label(Some("mc1"), Path::new("a\n\x1b[2Jü")), "mc1:a\\n\\u{1b}[2Jü");
        assert_eq!(label(None, Path::new("/tmp/x")), "/tmp/x");
    }
}
