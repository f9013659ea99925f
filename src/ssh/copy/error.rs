//! What was not copied, and why; always with the name of the file.

use std::io;

use crate::ssh::SshError;

/// Why something was not copied. `place` is a path here, or `host:path`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// The connection.
    #[error(transparent)]
    Ssh(#[from] SshError),
    /// The host has an SSH server without file transfer.
    #[error("The SSH server of `{host}` does not transfer files")]
    NoSftp { host: String, source: io::Error },
    /// The source.
    #[error("Could not read `{place}`")]
    Read { place: String, source: io::Error },
    /// The destination.
    #[error("Could not write `{place}`")]
    Write { place: String, source: io::Error },
    /// A directory of the source.
    #[error("Could not list the directory `{place}`")]
    List { place: String, source: io::Error },
    /// A directory of the destination.
    #[error("Could not make the directory `{place}`")]
    MakeDirectory { place: String, source: io::Error },
    /// A directory, and nobody asked for directories.
    #[error("`{place}` is a directory")]
    IsDirectory { place: String },
    /// A directory should go where there is a file.
    #[error("`{place}` is not a directory")]
    NotDirectory { place: String },
    /// A device, a socket or a pipe.
    #[error("`{place}` is neither a file nor a directory")]
    Special { place: String },
    /// A directory with an entry such as `../x`: somebody wants to write elsewhere.
    #[error("The directory `{place}` lists the entry `{name}`, which cannot be the name of a file")]
    HostileName { place: String, name: String },
    /// A name that the protocol here cannot carry.
    #[error("The name of `{place}` is not UTF-8")]
    NotUnicode { place: String },
    /// A link that would be followed for ever.
    #[error("`{place}` is a link to a directory that it lies in")]
    Loop { place: String },
    /// Nobody nests directories so deeply on purpose.
    #[error("`{place}` lies more than {limit} directories deep")]
    TooDeep { place: String, limit: usize },
    /// Nobody puts so many files into one directory on purpose.
    #[error("The directory `{place}` has more than {limit} entries")]
    TooMany { place: String, limit: usize },
    /// The host goes on and on.
    #[error("`{place}` and what came before it are more than {limit} files and directories")]
    TooManyInAll { place: String, limit: u64 },
    /// The host goes on and on.
    #[error("`{place}` and what came before it are more than {}", size(*limit))]
    TooMuchInAll { place: String, limit: u64 },
    /// The file would be emptied before it is read.
    #[error("`{place}` would be copied onto or into itself")]
    Itself { place: String },
    /// Everything else was copied.
    #[error("{count} files or directories were not copied")]
    Several {
        /// How many, of which `rest` has only the beginning.
        count: usize,
        #[source]
        first: Box<Self>,
        rest: Vec<Self>,
    },
}

/// With the largest unit that makes a whole number.
fn size(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let whole = |&&(shift, _): &&(u32, &str)| bytes >= 1 << shift && bytes.trailing_zeros() >= shift;
    match units.iter().find(whole) {
        Some((shift, unit)) => format!("{} {unit}", bytes >> shift),
        None => format!("{bytes} bytes"),
    }
}

impl CopyError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Ssh(error) => error.hint(),
            Self::IsDirectory { .. } => Some("Directories are copied with `-r`".to_owned()),
            Self::NoSftp { .. } => {
                Some("Is `sftp-server` installed on the host, and named in its `sshd_config`?".to_owned())
            }
            Self::TooManyInAll { .. } => Some("If that is right, allow more with `--max-files`".to_owned()),
            Self::TooMuchInAll { .. } => Some("If that is right, allow more with `--max-size`".to_owned()),
            Self::Several { first, .. } => first.hint(),
            _ => None,
        }
    }

    /// Whether nothing else can be copied either.
    pub(super) fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Ssh(_) | Self::NoSftp { .. } | Self::TooManyInAll { .. } | Self::TooMuchInAll { .. }
        )
    }

    /// The failures of a copy, one by one, as far as they were kept.
    pub fn each(&self) -> Vec<&Self> {
        match self {
            Self::Several { first, rest, .. } => std::iter::once(&**first).chain(rest).collect(),
            one => vec![one],
        }
    }

    /// One error for all of them.
    pub(super) fn join(failures: Vec<Self>) -> Result<(), Self> {
        const SHOWN: usize = 20;
        let count = failures.len();
        let mut failures = failures.into_iter();
        let Some(first) = failures.next() else { return Ok(()) };
        if count == 1 {
            return Err(first);
        }
        Err(Self::Several { count, first: Box::new(first), rest: failures.take(SHOWN).collect() })
    }
}
