//! Embeds the engine bundle: the gzip'd engines that `cargo xtask build` left in `target/engine-bundle`, or those of the
//! folder `$MACHINE_BUNDLE`. Only what is whole, and is what its digest says, can be embedded.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[allow(unreachable_pub, reason = "the library offers it")]
#[path = "src/bundle/folder.rs"]
mod folder;

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
    println!("cargo::rerun-if-changed=src/bundle/folder.rs");
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
    let out = PathBuf::from(required("OUT_DIR")?);
    let source = source(&folder, &out, &required("CARGO_PKG_VERSION")?)?;
    write(&out.join("embedded.rs"), source.as_bytes())
}

/// The table of what is embedded, from copies in `out` of what was checked: the folder may change while this is compiled.
fn source(folder: &Path, out: &Path, own_version: &str) -> Result<String, String> {
    let again = "; `cargo xtask build` makes it anew";
    let engines = folder::read(folder).map_err(|error| match std::error::Error::source(&error) {
        Some(cause) => format!("{error}: {cause}{again}"),
        None => format!("{error}{again}"),
    })?;
    let mut source = String::from("static EMBEDDED: &[EmbeddedEngine] = &[\n");
    for engine in engines {
        let (architecture, version, sha256) = (engine.architecture, &engine.version, &engine.sha256);
        if version != own_version {
            println!(
                "cargo::warning=The engine for {architecture} is {version}, and this is {own_version}{again}"
            );
        }
        let path = out.join(format!("engine-{architecture}.gz"));
        write(&path, &engine.compressed)?;
        let path = path.to_str().ok_or_else(|| format!("`{}` is not UTF-8", path.display()))?;
        writeln!(
            source,
            "    EmbeddedEngine {{ architecture: {architecture:?}, version: {version:?}, sha256: {sha256:?}, \
             compressed: include_bytes!({path:?}) }},"
        )
        .map_err(|error| error.to_string())?;
    }
    source.push_str("];\n");
    Ok(source)
}

fn write(path: &Path, content: &[u8]) -> Result<(), String> {
    fs::write(path, content).map_err(|error| format!("Could not write `{}`: {error}", path.display()))
}

fn required(name: &str) -> Result<String, String> {
    env::var_os(name)
        .and_then(|value| value.into_string().ok())
        .ok_or_else(|| format!("Cargo did not set `{name}`"))
}
