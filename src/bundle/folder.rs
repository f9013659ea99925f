//! A folder with engines: read, and held against what it says of itself.
//!
//! For each architecture (`x86_64`, `aarch64`):
//!
//! | file | content |
//! |---|---|
//! | `engine-ARCHITECTURE.gz` | the static binary, through gzip |
//! | `engine-ARCHITECTURE.sha256` | SHA-256 of the binary before gzip, in hexadecimal (what follows a blank is ignored, so `sha256sum <engine` will do) |
//! | `engine-ARCHITECTURE.version` | its version, such as `0.1.0` |
//!
//! What is not there is not an error; a file without its two companions is one, and so is a binary with another digest.
//! The build script embeds what is read here, and [`Bundle::read`](super::Bundle::read) takes the same at run time.

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use sha2::{Digest, Sha256};

/// The architectures that an engine can be built for, as `uname -m` says them.
pub(crate) const ARCHITECTURES: [&str; 2] = ["x86_64", "aarch64"];

/// Larger than any engine will be, and small enough to be held in memory.
const COMPRESSED_AT_MOST: u64 = 256 << 20;
const BINARY_AT_MOST: u64 = 1 << 30;

/// An engine of the folder, which is what its digest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) architecture: &'static str,
    pub(crate) version: String,
    /// Of the binary before gzip, in lower-case hexadecimal.
    pub(crate) sha256: String,
    /// The binary, through gzip.
    pub(crate) compressed: Vec<u8>,
}

/// A folder cannot be taken for a bundle.
#[derive(Debug)]
pub enum FolderError {
    /// A file cannot be read, or is missing beside another.
    Read { path: PathBuf, source: io::Error },
    /// A file holds something else.
    Malformed { path: PathBuf, expected: &'static str },
    /// The binary is not the one that the digest is of.
    Other { path: PathBuf, expected: String, found: String },
}

impl fmt::Display for FolderError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, .. } => {
                write!(formatter, "Could not read `{}` of the engine bundle", path.display())
            }
            Self::Malformed { path, expected } => {
                write!(formatter, "`{}` of the engine bundle is not {expected}", path.display())
            }
            Self::Other { path, expected, found } => write!(
                formatter,
                "`{}` of the engine bundle has the SHA-256 {found}, and {expected} is written beside it",
                path.display()
            ),
        }
    }
}

impl Error for FolderError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Read { source, .. } => Some(source),
            Self::Malformed { .. } | Self::Other { .. } => None,
        }
    }
}

/// Every engine of a folder.
pub(crate) fn read(folder: &Path) -> Result<Vec<Found>, FolderError> {
    let mut found = Vec::new();
    for architecture in ARCHITECTURES {
        let path = folder.join(format!("engine-{architecture}.gz"));
        let compressed = match read_bounded(&path, COMPRESSED_AT_MOST) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(FolderError::Read { path, source }),
        };
        let sha256 = read_word(&folder.join(format!("engine-{architecture}.sha256")), |word| {
            word.len() == 64 && word.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        })?;
        let version = read_word(&folder.join(format!("engine-{architecture}.version")), is_version)?;
        let Ok(digest) = digest(&compressed) else {
            return Err(FolderError::Malformed { path, expected: "a gzip file" });
        };
        if digest != sha256 {
            return Err(FolderError::Other { path, expected: sha256, found: digest });
        }
        found.push(Found { architecture, version, sha256, compressed });
    }
    Ok(found)
}

/// SHA-256 of what was compressed.
fn digest(compressed: &[u8]) -> io::Result<String> {
    let mut binary = GzDecoder::new(compressed).take(BINARY_AT_MOST + 1);
    let mut digest = Sha256::new();
    let size = io::copy(&mut binary, &mut digest)?;
    if size > BINARY_AT_MOST {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn is_version(word: &str) -> bool {
    word.len() <= 64 && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".+-~".contains(&byte))
}

fn read_word(path: &Path, acceptable: impl Fn(&str) -> bool) -> Result<String, FolderError> {
    let bytes =
        read_bounded(path, 4096).map_err(|source| FolderError::Read { path: path.to_owned(), source })?;
    String::from_utf8_lossy(&bytes)
        .split_whitespace()
        .next()
        .filter(|word| acceptable(word))
        .map(str::to_owned)
        .ok_or_else(|| FolderError::Malformed { path: path.to_owned(), expected: "what its name says" })
}

fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than any engine"));
    }
    Ok(bytes)
}
