//! Programs that come as Python packages: each in a virtual environment of its own, below `target/tools`.

use std::{fs, path::PathBuf, process::Command};

use anyhow::Result;

use crate::run::{check, root, say};

/// Installs the requirements (pip's words for packages, versions and digests) and returns the folder of their programs.
/// Nothing is done if the same ones are there already.
pub(crate) fn programs(name: &str, requirements: &str) -> Result<PathBuf> {
    let folder = root().join("target/tools").join(name);
    let programs = folder.join("bin");
    let (list, mark) = (folder.join("requirements.txt"), folder.join(".installed"));
    if fs::read_to_string(&mark).is_ok_and(|text| text == requirements) {
        return Ok(programs);
    }
    say(&format!("Installing {name} into a virtual environment"));
    check(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    fs::write(&list, requirements)?;
    check(
        Command::new(programs.join("pip"))
            .args(["install", "--quiet", "--disable-pip-version-check", "--requirement"])
            .arg(&list),
    )?;
    fs::write(&mark, requirements)?;
    Ok(programs)
}
