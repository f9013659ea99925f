//! The engines that travel inside this program, one for each architecture.
//!
//! `build.rs` embeds them and describes the folder that they come from; [`Bundle::read`] takes the same folder at run
//! time.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// An engine as the build script found it.
struct EmbeddedEngine {
    architecture: &'static str,
    version: &'static str,
    sha256: &'static str,
    compressed: &'static [u8],
}

/// The architectures that an engine can be built for, as `uname -m` says them.
const ARCHITECTURES: [&str; 2] = ["x86_64", "aarch64"];

/// Larger than any engine will be, and small enough to be held in memory.
const COMPRESSED_AT_MOST: u64 = 256 * 1024 * 1024;

/// Where to look for a bundle instead of the embedded one.
pub const BUNDLE_VARIABLE: &str = "MACHINE_ENGINE_BUNDLE";

/// There is no engine to install.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// None was embedded for the architecture of the host.
    #[error("This build of `machine` carries no engine for {architecture}")]
    Missing { architecture: String },
    /// A bundle folder that was named cannot be read.
    #[error("Could not read `{}` of the engine bundle", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// A bundle folder that was named holds something else.
    #[error("`{}` of the engine bundle is not {expected}", path.display())]
    Malformed { path: PathBuf, expected: &'static str },
}

impl BundleError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { architecture } if ARCHITECTURES.contains(&architecture.as_str()) => {
                Some("Build `machine` together with its engines: `cargo xtask build`".to_owned())
            }
            Self::Missing { .. } => {
                Some(format!("The engine is built for {} only", ARCHITECTURES.join(" and ")))
            }
            Self::Read { .. } | Self::Malformed { .. } => {
                Some(format!("The folder was named by the environment variable `{BUNDLE_VARIABLE}`"))
            }
        }
    }
}

/// One engine: a static binary, through gzip.
#[derive(Clone)]
pub struct Engine {
    architecture: Cow<'static, str>,
    version: Cow<'static, str>,
    sha256: Cow<'static, str>,
    compressed: Cow<'static, [u8]>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Engine")
            .field("architecture", &self.architecture)
            .field("version", &self.version)
            .field("sha256", &self.sha256)
            .field("compressed", &self.compressed.len())
            .finish()
    }
}

impl Engine {
    /// An engine from its parts: the SHA-256 is that of the binary before gzip, in lower-case hexadecimal.
    pub fn new(
        architecture: impl Into<String>,
        version: impl Into<String>,
        sha256: impl Into<String>,
        compressed: Vec<u8>,
    ) -> Self {
        Self {
            architecture: Cow::Owned(architecture.into()),
            version: Cow::Owned(version.into()),
            sha256: Cow::Owned(sha256.into()),
            compressed: Cow::Owned(compressed),
        }
    }

    /// As `uname -m` says it on the host.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// The version that the binary says of itself.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// SHA-256 of the binary before gzip, in lower-case hexadecimal.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The binary, through gzip.
    pub fn compressed(&self) -> &[u8] {
        &self.compressed
    }

    /// The size of the binary before gzip, as gzip's trailer has it (modulo 4 GiB).
    pub fn size(&self) -> u64 {
        match self.compressed.last_chunk::<4>() {
            Some(trailer) => u64::from(u32::from_le_bytes(*trailer)),
            None => 0,
        }
    }
}

/// The engines that can be installed.
#[derive(Debug, Clone, Default)]
pub struct Bundle {
    engines: Vec<Engine>,
}

impl Bundle {
    /// What was embedded when this program was built; may be empty.
    pub fn embedded() -> Self {
        let engines = EMBEDDED.iter().map(|engine| Engine {
            architecture: Cow::Borrowed(engine.architecture),
            version: Cow::Borrowed(engine.version),
            sha256: Cow::Borrowed(engine.sha256),
            compressed: Cow::Borrowed(engine.compressed),
        });
        Self { engines: engines.collect() }
    }

    /// The engines of a folder in the layout that `build.rs` describes.
    pub fn read(folder: &Path) -> Result<Self, BundleError> {
        let mut engines = Vec::new();
        for architecture in ARCHITECTURES {
            let path = folder.join(format!("engine-{architecture}.gz"));
            let compressed = match read_bounded(&path, COMPRESSED_AT_MOST) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(BundleError::Read { path, source }),
            };
            if !compressed.starts_with(&[0x1f, 0x8b]) || compressed.len() < 20 {
                return Err(BundleError::Malformed { path, expected: "a gzip file" });
            }
            let sha256 = read_word(&folder.join(format!("engine-{architecture}.sha256")), |word| {
                word.len() == 64 && word.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            })?;
            let version = read_word(&folder.join(format!("engine-{architecture}.version")), is_version)?;
            engines.push(Engine::new(architecture, version, sha256, compressed));
        }
        Ok(Self { engines })
    }

    /// The folder if one was named (by [`BUNDLE_VARIABLE`]), else what was embedded.
    pub fn read_or_embedded(folder: Option<&Path>) -> Result<Self, BundleError> {
        folder.map_or_else(|| Ok(Self::embedded()), Self::read)
    }

    /// Adds an engine, or replaces the one of the same architecture.
    #[must_use]
    pub fn with(mut self, engine: Engine) -> Self {
        self.engines.retain(|other| other.architecture != engine.architecture);
        self.engines.push(engine);
        self
    }

    /// The engine for a host whose `uname -m` says `architecture`.
    pub fn for_architecture(&self, architecture: &str) -> Result<&Engine, BundleError> {
        self.engines
            .iter()
            .find(|engine| engine.architecture == architecture)
            .ok_or_else(|| BundleError::Missing { architecture: architecture.to_owned() })
    }

    /// The engines, in no particular order.
    pub fn engines(&self) -> &[Engine] {
        &self.engines
    }
}

fn is_version(word: &str) -> bool {
    word.len() <= 64 && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".+-~".contains(&byte))
}

fn read_word(path: &Path, acceptable: impl Fn(&str) -> bool) -> Result<String, BundleError> {
    let bytes =
        read_bounded(path, 4096).map_err(|source| BundleError::Read { path: path.to_owned(), source })?;
    String::from_utf8_lossy(&bytes)
        .split_whitespace()
        .next()
        .filter(|word| acceptable(word))
        .map(str::to_owned)
        .ok_or_else(|| BundleError::Malformed { path: path.to_owned(), expected: "what its name says" })
}

fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than any engine"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};
    use sha2::{Digest, Sha256};

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn embedded_engines_are_what_their_digests_say() {
        for engine in Bundle::embedded().engines() {
            let mut binary = Vec::new();
            flate2::read::GzDecoder::new(engine.compressed()).read_to_end(&mut binary).unwrap();
            assert_eq!(engine.size(), binary.len() as u64);
            assert_eq!(engine.sha256(), format!("{:x}", Sha256::digest(&binary)));
            assert!(is_version(engine.version()), "{}", engine.version());
        }
    }

    #[test]
    fn a_missing_architecture_is_named() {
        let error = Bundle::default().for_architecture("riscv64").unwrap_err();
        assert_eq!(error.to_string(), "This build of `machine` carries no engine for riscv64");
        assert!(error.hint().unwrap().contains("x86_64"));
        let error = Bundle::default().for_architecture("aarch64").unwrap_err();
        assert!(error.hint().unwrap().contains("cargo xtask build"));
    }

    #[test]
    fn a_folder_is_read_and_checked() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
        assert!(Bundle::read(folder.path()).unwrap().engines().is_empty());

        write("engine-x86_64.gz", &gzip(b"an engine, said to be one"));
        assert!(matches!(Bundle::read(folder.path()), Err(BundleError::Read { .. })));
        write("engine-x86_64.sha256", format!("{}  -\n", "ab".repeat(32)).as_bytes());
        write("engine-x86_64.version", b"0.1.0\n");
        let bundle = Bundle::read(folder.path()).unwrap();
        let engine = bundle.for_architecture("x86_64").unwrap();
        assert_eq!((engine.version(), engine.size()), ("0.1.0", 25));

        write("engine-x86_64.version", b"$(reboot)\n");
        assert!(matches!(Bundle::read(folder.path()), Err(BundleError::Malformed { .. })));
        write("engine-x86_64.version", b"0.1.0\n");
        write("engine-x86_64.gz", b"#!/bin/sh and something more\n");
        assert!(matches!(Bundle::read(folder.path()), Err(BundleError::Malformed { .. })));
    }
}
