//! The engines that travel inside this program, one for each architecture.
//!
//! `build.rs` embeds those of a folder; [`Bundle::read`] takes such a folder at run time.

mod folder;

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use folder::ARCHITECTURES;
pub use folder::FolderError;

include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// An engine as the build script found it.
struct EmbeddedEngine {
    architecture: &'static str,
    version: &'static str,
    sha256: &'static str,
    compressed: &'static [u8],
}

/// Where to look for a bundle instead of the embedded one.
pub const BUNDLE_VARIABLE: &str = "MACHINE_ENGINE_BUNDLE";

/// There is no engine to install.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// None was embedded for the architecture of the host.
    #[error("This build of `machine` carries no engine for {architecture}")]
    Missing { architecture: String },
    /// The bundle folder that was named cannot be taken for one.
    #[error(transparent)]
    Folder(#[from] FolderError),
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
            Self::Folder(_) => {
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

    /// The engines of a folder, each of which is what its digest says.
    pub fn read(folder: &Path) -> Result<Self, BundleError> {
        let engines = folder::read(folder)?.into_iter();
        let engines = engines
            .map(|found| Engine::new(found.architecture, found.version, found.sha256, found.compressed));
        Ok(Self { engines: engines.collect() })
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};
    use sha2::{Digest, Sha256};

    use super::*;

    const BINARY: &[u8] = b"an engine, said to be one";

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// A folder with a whole bundle, in which each test breaks something.
    struct Folder(tempfile::TempDir);

    impl Folder {
        fn whole() -> Self {
            let folder = Self(tempfile::tempdir().unwrap());
            folder.write("gz", &gzip(BINARY));
            folder.write("sha256", format!("{:x}  -\n", Sha256::digest(BINARY)).as_bytes());
            folder.write("version", b"0.1.0\n");
            folder
        }

        fn write(&self, extension: &str, bytes: &[u8]) {
            fs::write(self.0.path().join(format!("engine-x86_64.{extension}")), bytes).unwrap();
        }

        fn remove(&self, extension: &str) {
            fs::remove_file(self.0.path().join(format!("engine-x86_64.{extension}"))).unwrap();
        }

        fn refused(&self) -> FolderError {
            match Bundle::read(self.0.path()) {
                Err(BundleError::Folder(error)) => error,
                other => panic!("{other:?}"),
            }
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
    fn a_whole_folder_is_read() {
        let folder = Folder::whole();
        let bundle = Bundle::read(folder.0.path()).unwrap();
        assert_eq!(bundle.engines().len(), 1);
        let engine = bundle.for_architecture("x86_64").unwrap();
        assert_eq!((engine.version(), engine.size()), ("0.1.0", BINARY.len() as u64));
        assert_eq!(engine.sha256(), format!("{:x}", Sha256::digest(BINARY)));
        assert_eq!(engine.compressed(), gzip(BINARY));
    }

    #[test]
    fn an_empty_folder_has_no_engine() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Bundle::read(folder.path()).unwrap().engines().is_empty());
    }

    /// As a build leaves it that is killed between two of its files.
    #[test]
    fn an_engine_under_the_digest_of_another_is_refused() {
        let folder = Folder::whole();
        folder.write("gz", &gzip(b"the engine of yesterday"));
        let error = folder.refused();
        assert!(
            matches!(&error, FolderError::Other { expected, found, .. }
            if *expected == format!("{:x}", Sha256::digest(BINARY)) && expected != found),
            "{error:?}"
        );
        assert!(error.to_string().contains("engine-x86_64.gz"), "{error}");
    }

    #[test]
    fn what_is_not_whole_is_refused() {
        for extension in ["sha256", "version"] {
            let folder = Folder::whole();
            folder.remove(extension);
            let error = folder.refused();
            assert!(
                matches!(&error, FolderError::Read { path, .. } if path.ends_with(format!("engine-x86_64.{extension}"))),
                "{error:?}"
            );
        }
        let whole = gzip(BINARY);
        for (extension, bytes) in [
            ("gz", &b"#!/bin/sh and something more\n"[..]),
            ("gz", &whole[..whole.len() - 6]),
            ("gz", b""),
            ("sha256", b"0123\n"),
            ("sha256", b""),
            ("version", b"$(reboot)\n"),
            ("version", b"\n"),
        ] {
            let folder = Folder::whole();
            folder.write(extension, bytes);
            let error = folder.refused();
            assert!(
                matches!(&error, FolderError::Malformed { path, .. } if path.ends_with(format!("engine-x86_64.{extension}"))),
                "{extension} {bytes:?}: {error:?}"
            );
        }
    }
}
