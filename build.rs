//! Embeds the engine bundle: the gzip'd engines that `cargo xtask build` left in `target/engine-bundle`.
//!
//! The layout of the folder (`$MACHINE_BUNDLE`, else `target/engine-bundle` below this package), for each architecture
//! (`x86_64`, `aarch64`):
//!
//! | file | content |
//! |---|---|
//! | `engine-ARCHITECTURE.gz` | the static binary, through gzip |
//! | `engine-ARCHITECTURE.sha256` | SHA-256 of the binary before gzip, in hexadecimal (what follows a blank is ignored, so `sha256sum <engine` will do) |
//! | `engine-ARCHITECTURE.version` | its version, such as `0.1.0` |
//!
//! What is not there is not embedded; a file without its two companions is an error. Write the `.gz` last and by
//! renaming, so that a build at the same time finds all of it or nothing.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const ARCHITECTURES: [&str; 2] = ["x86_64", "aarch64"];

fn main() -> ExitCode {
    match generate() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("cargo::error={message}");
            ExitCode::FAILURE
        }
    }
}

fn generate() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=MACHINE_BUNDLE");
    let folder = if let Some(folder) = env::var_os("MACHINE_BUNDLE") {
        PathBuf::from(folder)
    } else {
        let folder = PathBuf::from(required("CARGO_MANIFEST_DIR")?).join("target/engine-bundle");
        // Cargo takes a watched path that does not exist for changed, and would build this crate anew every
        // time. An unwritable folder is the only reason to fail, and then nobody will put a bundle there.
        let _ = fs::create_dir_all(&folder);
        folder
    };
    println!("cargo::rerun-if-changed={}", folder.display());

    let mut source = String::from("static EMBEDDED: &[EmbeddedEngine] = &[\n");
    for architecture in ARCHITECTURES {
        embed(&folder, architecture, &mut source)?;
    }
    source.push_str("];\n");
    let path = PathBuf::from(required("OUT_DIR")?).join("embedded.rs");
    fs::write(&path, source).map_err(|error| format!("Could not write `{}`: {error}", path.display()))
}

fn embed(folder: &Path, architecture: &str, source: &mut String) -> Result<(), String> {
    let compressed = folder.join(format!("engine-{architecture}.gz"));
    if !compressed.exists() {
        return Ok(());
    }
    let compressed = fs::canonicalize(&compressed)
        .map_err(|error| format!("Could not find `{}`: {error}", compressed.display()))?;
    let digest = companion(folder, architecture, "sha256")?;
    let version = companion(folder, architecture, "version")?;
    let path = compressed.to_str().ok_or_else(|| format!("`{}` is not UTF-8", compressed.display()))?;
    writeln!(
        source,
        "    EmbeddedEngine {{ architecture: {architecture:?}, version: {version:?}, sha256: {digest:?}, \
         compressed: include_bytes!({path:?}) }},"
    )
    .map_err(|error| error.to_string())
}

fn companion(folder: &Path, architecture: &str, extension: &str) -> Result<String, String> {
    let path = folder.join(format!("engine-{architecture}.{extension}"));
    let text = fs::read_to_string(&path)
        .map_err(|error| format!("The bundle is incomplete: could not read `{}`: {error}", path.display()))?;
    match text.split_whitespace().next() {
        Some(word) => Ok(word.to_owned()),
        None => Err(format!("`{}` is empty", path.display())),
    }
}

fn required(name: &str) -> Result<String, String> {
    env::var_os(name)
        .and_then(|value| value.into_string().ok())
        .ok_or_else(|| format!("Cargo did not set `{name}`"))
}
