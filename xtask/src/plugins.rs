//! The plug-ins of the docker command line that tests build with: buildx and compose, from Debian's packages, unpacked beside
//! the build so that nothing of them is installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    run::{check, root, say},
    setup::candidate,
};

const PACKAGES: [&str; 2] = ["docker-buildx", "docker-compose"];
/// The release of Debian that has both, for those before it.
const RELEASE: &str = "trixie";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Fetches them where they are not there yet. Tests find them in `target/tools/docker-plugins`.
pub(crate) fn fetch() -> Result<()> {
    let folder = root().join("target/tools/docker-plugins");
    let plugins = folder.join("usr/libexec/docker/cli-plugins");
    if PACKAGES.iter().all(|name| plugins.join(name).exists()) {
        return Ok(());
    }
    say("Fetching the plug-ins buildx and compose of the docker command line from Debian's packages");
    fs::create_dir_all(&folder)?;
    let has_them = |name: &&str| candidate(name).is_ok_and(|version| version != "(none)");
    // What an older release calls `docker-compose` is no plug-in.
    if PACKAGES[..1].iter().all(has_them) {
        check(Command::new("apt-get").args(["download", "-qq"]).args(PACKAGES).current_dir(&folder))?;
    } else {
        from_newer_release(&folder)?;
    }
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            check(Command::new("dpkg-deb").arg("-x").arg(&path).arg(&folder))?;
            fs::remove_file(&path)?;
        }
    }
    match PACKAGES.iter().find(|name| !plugins.join(name).exists()) {
        Some(missing) => bail!("The package `{missing}` has no plug-in of that name in it"),
        None => Ok(()),
    }
}

/// With a list of sources, and everything that comes of it, apart from the machine's own.
fn from_newer_release(folder: &Path) -> Result<()> {
    let apt = folder.join("apt");
    for part in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(apt.join(part))?;
    }
    let sources = apt.join("release.sources");
    let text = format!(
        "Types: deb\nURIs: {}\nSuites: {RELEASE}\nComponents: main\nSigned-By: {KEYRING}\n",
        mirror()?
    );
    fs::write(&sources, text)?;
    let apt_get = || {
        let mut command = Command::new("apt-get");
        command
            .arg(format!("-oDir::Etc::sourcelist={}", sources.display()))
            .args(["-oDir::Etc::sourceparts=/dev/null", "-oAPT::Sandbox::User=root"])
            .arg(format!("-oDir::State::lists={}", apt.join("lists").display()))
            .arg(format!("-oDir::Cache={}", apt.join("cache").display()))
            .current_dir(folder);
        command
    };
    check(apt_get().args(["update", "-qq"])).context("Could not fetch the lists of a newer release")?;
    check(apt_get().args(["download", "-qq"]).args(PACKAGES))
}

/// The server from which this machine gets Debian, by its own lists of sources.
fn mirror() -> Result<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    for entry in fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten() {
        files.push(entry.path());
    }
    files.sort();
    let mut texts = files.iter().filter_map(|path| fs::read_to_string(path).ok());
    let found = texts.find_map(|text| mirror_in(&text));
    found.context("No list of apt's sources names a server of Debian's: fetch docker-buildx by hand")
}

/// Of either format; the archive of security updates has no releases of its own.
fn mirror_in(text: &str) -> Option<String> {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let addresses = text.lines().filter(|line| !line.trim_start().starts_with('#')).flat_map(words);
    let mut debian =
        addresses.filter(|word| word.starts_with("http") && word.trim_end_matches('/').ends_with("/debian"));
    debian.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_found_in_either_format() {
        let new = "Types: deb\n# https://old.example.test/debian\nURIs: https://m.example.test/debian-security\n\nURIs: https://m.example.test/debian\n";
        assert_eq!(mirror_in(new).as_deref(), Some("https://m.example.test/debian"));
        let old = "deb [arch=amd64] https://m.example.test/debian/ bookworm main\n";
        assert_eq!(mirror_in(old).as_deref(), Some("https://m.example.test/debian/"));
        assert_eq!(mirror_in("deb https://x.example.test/apt y main"), None);
    }
}
