//! What users install: an archive and a Debian package of `machine` with its images, manual and completions.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    build::{self, Make},
    run::{check, output, root, say},
};

/// As Debian calls the architecture, and as everybody else does.
const DEBIAN_ARCHITECTURE: &str = "amd64";
const ARCHITECTURE: &str = "x86_64";
/// The shells, and where each looks for completions below `share`.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "bash-completion/completions/machine"),
    ("zsh", "zsh/site-functions/_machine"),
    ("fish", "fish/vendor_completions.d/machine.fish"),
];
/// What goes with the program.
const DOCUMENTS: [&str; 3] = ["README.md", "CHANGELOG.md", "LICENSE"];
/// Of MachineOS, what Linux boots VMs from; the disk for UEFI is the same once more.
const IMAGE: [&str; 4] = ["vmlinuz", "vmlinux", "initrd.img", "manifest.json"];
const SUMS: &str = "SHA256SUMS";

/// Builds everything and packs it, into `target/packages`.
pub(crate) fn all(make: Make) -> Result<()> {
    build::all(make)?;
    let packages = root().join("target/packages");
    if packages.exists() {
        fs::remove_dir_all(&packages)?;
    }
    let tree = packages.join("tree");
    lay_out(&make.machine_program(), &tree)?;
    let version = version(&tree.join("bin/machine"))?;
    let name = format!("machine-{version}-{ARCHITECTURE}-linux");
    let archive = packages.join(format!("{name}.tar.gz"));
    let time = time()?;
    // The same files give the same bytes.
    check(
        Command::new("tar")
            .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--format=gnu"])
            .arg(format!("--mtime=@{time}"))
            .arg(format!("--transform=s,^\\.,{name},"))
            .args(["--use-compress-program", "gzip -9 -n", "-cf"])
            .arg(&archive)
            .arg("-C")
            .arg(&tree)
            .arg("."),
    )?;
    let package = debian_package(&packages, &tree, &version, &time)?;
    fs::remove_dir_all(&tree)?;
    let names = [&archive, &package].map(|file| file.file_name().unwrap_or_default().to_owned());
    let sums = output(Command::new("sha256sum").args(names).current_dir(&packages))?;
    fs::write(packages.join(SUMS), &sums)?;
    say(&format!("In `{}`:\n{}", packages.display(), sums.trim_end()));
    Ok(())
}

/// The tree below `/usr`, or below wherever the archive is unpacked.
fn lay_out(program: &Path, tree: &Path) -> Result<()> {
    let share = tree.join("share");
    put(program, &tree.join("bin/machine"), 0o755)?;
    for image in IMAGE {
        put(
            &root().join("target/images/machineos").join(image),
            &share.join("machine/images/machineos").join(image),
            0o644,
        )?;
    }
    for document in DOCUMENTS {
        put(&root().join(document), &share.join("doc/machine").join(document), 0o644)?;
    }
    for (shell, place) in COMPLETIONS {
        let script = output(Command::new(program).args(["completions", shell]))?;
        write(&share.join(place), &script)?;
    }
    let manual = share.join("man/man1");
    check(Command::new(program).arg("man-pages").arg(&manual))?;
    for page in fs::read_dir(&manual)? {
        let page = page?.path();
        fs::set_permissions(&page, fs::Permissions::from_mode(0o644))?;
        check(Command::new("gzip").args(["-9", "-n"]).arg(page))?;
    }
    Ok(())
}

/// What VMs need is recommended and not required: hosts elsewhere do without.
fn debian_package(packages: &Path, tree: &Path, version: &str, time: &str) -> Result<PathBuf> {
    let folder = packages.join("debian");
    fs::create_dir_all(&folder)?;
    check(Command::new("cp").args(["-a", "--"]).arg(tree).arg(folder.join("usr")))?;
    let license = folder.join("usr/share/doc/machine");
    fs::rename(license.join("LICENSE"), license.join("copyright"))?;
    let kilobytes = output(Command::new("du").args(["-sk", "--apparent-size"]).arg(folder.join("usr")))?;
    let kilobytes = kilobytes.split_whitespace().next().context("du printed nothing")?;
    let control = format!(
        "Package: machine\nVersion: {version}\nArchitecture: {DEBIAN_ARCHITECTURE}\nMaintainer: The machine project <machine@localhost>\n\
         Section: admin\nPriority: optional\nInstalled-Size: {kilobytes}\nRecommends: qemu-system-x86, qemu-utils\n\
         Suggests: openssh-client, sshfs, rsync\n\
         Description: Create and manage container hosts and swarms, anywhere\n \
         Provisions VMs and servers as hosts of containers, installs an engine on them\n \
         that the docker command line drives, and keeps their certificates.\n"
    );
    write(&folder.join("DEBIAN/control"), &control)?;
    let package = packages.join(format!("machine_{version}_{DEBIAN_ARCHITECTURE}.deb"));
    check(
        Command::new("dpkg-deb")
            .args(["--root-owner-group", "-Zxz", "--build"])
            .arg(&folder)
            .arg(&package)
            .env("SOURCE_DATE_EPOCH", time),
    )?;
    fs::remove_dir_all(&folder)?;
    Ok(package)
}

/// What the program says of itself: `machine version 0.1.0, build 1234567`.
fn version(program: &Path) -> Result<String> {
    let said = output(Command::new(program).arg("--version"))?;
    let version = said.split_whitespace().find(|word| word.starts_with(|first: char| first.is_ascii_digit()));
    let version = version.with_context(|| format!("The program says of its version: {said}"))?;
    Ok(version.trim_end_matches(',').to_owned())
}

/// Of the last commit, in seconds since 1970.
fn time() -> Result<String> {
    let time = output(Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(root()))?;
    Ok(time.trim().to_owned())
}

fn put(from: &Path, to: &Path, mode: u32) -> Result<()> {
    fs::create_dir_all(to.parent().context("It has a folder")?)?;
    fs::copy(from, to).with_context(|| format!("Could not copy `{}`", from.display()))?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(mode))?)
}

fn write(to: &Path, text: &str) -> Result<()> {
    fs::create_dir_all(to.parent().context("It has a folder")?)?;
    fs::write(to, text)?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(0o644))?)
}
