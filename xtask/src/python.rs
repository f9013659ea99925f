//! What comes as Python packages, below `target/tools`: programs, each in a virtual environment of its own, and sources.

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

/// Fetches the source package of a requirement (pip's words, in one line) and returns the folder with what is in it.
pub(crate) fn sources(name: &str, requirement: &str) -> Result<PathBuf> {
    let folder = root().join("target/tools").join(name);
    let (list, mark, content) =
        (folder.join("requirements.txt"), folder.join(".unpacked"), folder.join("content"));
    if fs::read_to_string(&mark).is_ok_and(|text| text == requirement) {
        return Ok(content);
    }
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let pip = programs("pip", "")?.join("pip");
    say(&format!("Fetching the sources of {name}"));
    fs::create_dir_all(&content)?;
    fs::write(&list, requirement)?;
    let fetched = folder.join("fetched");
    check(
        Command::new(pip)
            .args(["download", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-binary", ":all:"])
            .args(["--dest".as_ref(), fetched.as_os_str(), "--requirement".as_ref(), list.as_os_str()]),
    )?;
    for archive in fs::read_dir(&fetched)? {
        let mut unpack = Command::new("tar");
        unpack.args(["--extract", "--strip-components", "1", "--file"]).arg(archive?.path());
        check(unpack.arg("--directory").arg(&content))?;
    }
    fs::write(&mark, requirement)?;
    Ok(content)
}
