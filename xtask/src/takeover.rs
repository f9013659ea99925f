//! An engine of an older commit: today's replaces it under containers that run.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    run::{cargo, cargo_test, check, root, say},
    setup,
    test::{LIGHT, as_root, path_with},
};

/// The last one whose supervising processes knew no hello, and whose house was one crate.
const COMMIT: &str = "adbbc57";

/// Tries it, or records what it leaves for the tests that CI runs.
pub(crate) fn run(record: bool) -> Result<()> {
    setup::for_build()?;
    setup::for_tests()?;
    let path = path_with(&setup::docker_cli()?);
    let old = build()?;
    let mut command = cargo_test();
    command
        .args(LIGHT)
        .args(["--test", "containers", "--", "--ignored", "--exact"])
        .args(["takeover::an_old_engine_itself_is_replaced", "--nocapture"])
        .env("PATH", path)
        .env("ENGINE_TAKEOVER_OLD", old);
    if record {
        command.env("ENGINE_TAKEOVER_RECORD", "yes");
    }
    as_root(&mut command);
    check(&mut command)
}

/// Builds the old engine from its own files, with a folder of its own for what is compiled.
fn build() -> Result<PathBuf> {
    say(&format!("Building the engine of commit {COMMIT}"));
    let folder = root().join("target/takeover");
    let (source, archive) = (folder.join("source"), folder.join("source.tar"));
    fs::create_dir_all(&source).with_context(|| format!("Could not make `{}`", source.display()))?;
    check(Command::new("git").args(["archive", "--output"]).arg(&archive).arg(COMMIT).current_dir(root()))
        .context("The commit is not here: a clone with all of the history has it")?;
    check(Command::new("tar").arg("--extract").arg("--file").arg(&archive).arg("--directory").arg(&source))?;
    let target = folder.join("target");
    check(
        cargo()
            .args(["build", "--locked", "--package", "engine"])
            .current_dir(&source)
            .env("CARGO_TARGET_DIR", &target)
            .env("CARGO_PROFILE_DEV_DEBUG", "0"),
    )?;
    Ok(target.join("debug/engine"))
}
