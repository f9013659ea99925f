//! bollard, the library for Rust, with the tests that came with its crate: built beside our own, as it asks for other features.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::run::{cargo, check, output, root, say};

/// The release whose tests are asked for. The crate has a lock file, which says the rest.
const VERSION: &str = "0.21.1";

/// Those that need no swarm, no plug-in and no machine of another kind.
const TESTS: [&str; 9] = [
    "container_test",
    "exec_test",
    "export_test",
    "image_test",
    "network_test",
    "race_test",
    "system_test",
    "version_test",
    "volume_test",
];

/// Builds the programs of the tests, below `target/tools/bollard`; minutes from nothing.
pub(crate) fn build() -> Result<()> {
    let folder = root().join("target/tools/bollard");
    let source = folder.join("source");
    if !source.join("Cargo.lock").exists() {
        let original = fetch(&folder.join("fetch"))?;
        let _ = fs::remove_dir_all(&source);
        check(Command::new("cp").arg("-r").arg(original).arg(&source))?;
        // Or it would be looked for among ours.
        let manifest = source.join("Cargo.toml");
        fs::write(&manifest, fs::read_to_string(&manifest)? + "\n[workspace]\n")?;
    }
    say("Building the tests of bollard");
    let mut command = cargo();
    command.args(["test", "--quiet", "--no-run", "--locked"]).current_dir(&source);
    for test in TESTS {
        command.args(["--test", test]);
    }
    let target = folder.join("target");
    check(command.env("CARGO_TARGET_DIR", target).env("CARGO_PROFILE_TEST_DEBUG", "0"))
}

/// Has cargo fetch the crate, and returns the folder with what is in it.
fn fetch(folder: &std::path::Path) -> Result<PathBuf> {
    say(&format!("Fetching bollard {VERSION}"));
    fs::create_dir_all(folder.join("src"))?;
    fs::write(folder.join("src/lib.rs"), "")?;
    let manifest = format!(
        "[package]\nname = \"fetch\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\
         [dependencies]\nbollard = \"={VERSION}\"\n[workspace]\n"
    );
    fs::write(folder.join("Cargo.toml"), manifest)?;
    let found = output(cargo().args(["metadata", "--quiet", "--format-version", "1"]).current_dir(folder))?;
    let end = format!("bollard-{VERSION}/Cargo.toml\"");
    let path = found.find(&end).map(|at| &found[..at + end.len() - "/Cargo.toml\"".len()]);
    let path = path.and_then(|before| before.rsplit('"').next());
    Ok(PathBuf::from(path.context("cargo does not say where it has put bollard")?))
}
