//! The root folder of MachineOS: packages unpacked, what nobody needs taken away, our own files laid over.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::tools::{make_folder, output};

/// Folders that were moved under /usr long ago, with links in their old places.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];
/// Empty folders that the system mounts on or writes to.
const FOLDERS: [&str; 23] = [
    "boot",
    "data",
    "dev",
    "etc/engine",
    "etc/profile.d",
    "etc/services",
    "etc/sudoers.d",
    "home",
    "mnt",
    "proc",
    "root",
    "run",
    "sys",
    "tmp",
    "usr/local/bin",
    "usr/local/etc",
    "usr/local/lib",
    "usr/local/sbin",
    "usr/local/share",
    "var/cache",
    "var/lib/engine",
    "var/lib/machineos",
    "var/log",
];
/// Of the packages' configuration only this stays.
const CONFIGURATION: [&str; 3] = ["etc/iproute2", "etc/mke2fs.conf", "etc/ssh/moduli"];
/// What no running MachineOS opens, in folders and files.
const UNUSED: [&str; 43] = [
    "boot",
    "usr/games",
    "usr/include",
    "usr/share",
    "var",
    "usr/bin/bashbug",
    "usr/bin/c_rehash",
    "usr/bin/chattr",
    "usr/bin/clear_console",
    "usr/bin/cvtsudoers",
    "usr/bin/lnstat",
    "usr/bin/nstat",
    "usr/bin/rdma",
    "usr/bin/routef",
    "usr/bin/routel",
    "usr/bin/ssh-agent",
    "usr/bin/ssh-argv0",
    "usr/bin/ssh-copy-id",
    "usr/bin/sudoreplay",
    "usr/bin/ctstat",
    "usr/bin/rtstat",
    "usr/bin/rbash",
    "usr/lib/initramfs-tools",
    "usr/lib/modprobe.d",
    "usr/lib/openssh/agent-launch",
    "usr/lib/openssh/ssh-keysign",
    "usr/lib/openssh/ssh-pkcs11-helper",
    "usr/lib/openssh/ssh-session-cleanup",
    "usr/lib/openssh/ssh-sk-helper",
    "usr/lib/systemd",
    "usr/lib/tc",
    "usr/lib/tmpfiles.d",
    "usr/lib/udev",
    "usr/lib/x86_64-linux-gnu/audit",
    "usr/lib/x86_64-linux-gnu/e2fsprogs",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/x86_64-linux-gnu/tc",
    "usr/lib/valgrind",
    "usr/lib/runit-helper",
    "usr/sbin/arpd",
    "usr/sbin/sudo_logsrvd",
    "usr/sbin/sudo_sendlog",
    "usr/sbin/tc",
];
/// Tools for filesystem doctors; those that make, check and grow one stay.
const MORE_UNUSED: [&str; 16] = [
    "badblocks",
    "debugfs",
    "devlink",
    "e2freefrag",
    "e2image",
    "e2mmpstatus",
    "e2scrub",
    "e2scrub_all",
    "e2undo",
    "e4crypt",
    "e4defrag",
    "filefrag",
    "genl",
    "mklost+found",
    "tipc",
    "vdpa",
];
/// Modules of PAM that our two configurations name.
const PAM_MODULES: [&str; 2] = ["pam_deny.so", "pam_permit.so"];
/// Busybox must not answer to names that our init answers to, nor offer what cannot work here.
const WITHOUT_APPLETS: [&str; 13] = [
    "halt", "init", "linuxrc", "login", "passwd", "poweroff", "reboot", "service", "shutdown", "su",
    "sulogin", "telnetd", "dpkg",
];
/// The names of our own program.
const OWN_NAMES: [&str; 6] = ["service", "poweroff", "reboot", "halt", "shutdown", "init"];

/// Unpacks packages into a fresh folder whose top is merged into /usr.
pub(super) fn unpack(packages: &[PathBuf], root: &Path) -> Result<()> {
    for folder in MERGED {
        make_folder(&root.join("usr").join(folder))?;
        make_link(Path::new("usr").join(folder), root.join(folder))?;
    }
    for package in packages {
        extract(package, root)?;
    }
    for folder in MERGED {
        if !fs::symlink_metadata(root.join(folder))?.is_symlink() {
            bail!("A package replaced the link `/{folder}`");
        }
    }
    Ok(())
}

/// Unpacks one package through the links: `dpkg-deb -x` would put folders in their place.
fn extract(package: &Path, root: &Path) -> Result<()> {
    let mut reader = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .context("Could not run `dpkg-deb`")?;
    let archive = reader.stdout.take().context("`dpkg-deb` has no output")?;
    let options = ["--extract", "--keep-directory-symlink", "--same-permissions", "--no-same-owner"];
    let status = Command::new("tar").args(options).arg("--directory").arg(root).stdin(archive).status();
    let unpacked = status.context("Could not run `tar`")?.success();
    if !reader.wait()?.success() || !unpacked {
        bail!("`{}` could not be unpacked", package.display());
    }
    Ok(())
}

/// Takes away, adds and checks.
pub(super) fn assemble(root: &Path, overlay: &Path, init: &Path, release_file: &str) -> Result<()> {
    let authorities = certificates(&root.join("usr/share/ca-certificates"))?;
    keep_configuration(root)?;
    for path in UNUSED
        .iter()
        .map(ToString::to_string)
        .chain(MORE_UNUSED.iter().map(|name| format!("usr/sbin/{name}")))
    {
        remove(&root.join(path))?;
    }
    for entry in fs::read_dir(root.join("usr/lib/x86_64-linux-gnu/security"))?.flatten() {
        if !PAM_MODULES.iter().any(|name| entry.file_name() == *name) {
            remove(&entry.path())?;
        }
    }
    for folder in FOLDERS {
        make_folder(&root.join(folder))?;
    }
    lay_over(overlay, root)?;
    make_folder(&root.join("etc/ssl/certs"))?;
    fs::write(root.join("etc/ssl/certs/ca-certificates.crt"), authorities)?;
    fs::write(root.join("etc/os-release"), release_file)?;
    fs::write(root.join("etc/resolv.conf"), "")?;
    make_link("/proc/self/mounts", root.join("etc/mtab"))?;
    make_link("/run", root.join("var/run"))?;
    make_link("/run/lock", root.join("var/lock"))?;
    make_link("/tmp", root.join("var/tmp"))?;
    // Busybox's shell would take its own applets for everything, whatever is in the folders of PATH.
    make_shell(root)?;
    own_program(root, init)?;
    applets(root)?;
    check_libraries(root)
}

fn make_link(to: impl AsRef<Path>, at: impl AsRef<Path>) -> Result<()> {
    let at = at.as_ref();
    symlink(to, at).with_context(|| format!("Could not create the link `{}`", at.display()))
}

fn remove(path: &Path) -> Result<()> {
    let outcome = match fs::symlink_metadata(path) {
        Ok(facts) if facts.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => return Ok(()),
    };
    outcome.with_context(|| format!("Could not remove `{}`", path.display()))
}

fn keep_configuration(root: &Path) -> Result<()> {
    let aside = root.join("etc.old");
    fs::rename(root.join("etc"), &aside)?;
    for path in CONFIGURATION {
        let target = root.join(path);
        make_folder(target.parent().unwrap_or(root))?;
        let source = aside.join(path.trim_start_matches("etc/"));
        fs::rename(&source, &target).with_context(|| format!("No package brings `/{path}`"))?;
    }
    remove(&aside)
}

/// All trusted authorities in one file, in the order of their names.
fn certificates(folder: &Path) -> Result<String> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder.join("mozilla"))
        .context("No package brings certificate authorities")?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    files.sort();
    let mut all = String::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "crt")) {
        all.push_str(fs::read_to_string(file)?.trim_end());
        all.push('\n');
    }
    Ok(all)
}

fn lay_over(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("Could not read `{}`", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            make_folder(&target)?;
            lay_over(&entry.path(), &target)?;
        } else {
            remove(&target)?;
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

fn make_shell(root: &Path) -> Result<()> {
    remove(&root.join("usr/bin/sh"))?;
    make_link("dash", root.join("usr/bin/sh"))
}

fn own_program(root: &Path, init: &Path) -> Result<()> {
    let target = root.join("usr/lib/machineos/machineos");
    fs::copy(init, &target).with_context(|| format!("Could not copy `{}`", init.display()))?;
    fs::set_permissions(&target, fs::Permissions::from_mode(0o755))?;
    for name in OWN_NAMES {
        make_link("../lib/machineos/machineos", root.join("usr/sbin").join(name))?;
    }
    Ok(())
}

/// Busybox under each of its names that no package took.
fn applets(root: &Path) -> Result<()> {
    let taken: BTreeSet<_> = ["usr/bin", "usr/sbin"]
        .iter()
        .filter_map(|folder| fs::read_dir(root.join(folder)).ok())
        .flat_map(|listing| listing.flatten().map(|entry| entry.file_name()))
        .collect();
    let listing = output(Command::new(root.join("usr/bin/busybox")).arg("--list-full"))?;
    for applet in listing.lines().map(Path::new) {
        let Some(name) = applet.file_name() else { continue };
        if taken.contains(name) || WITHOUT_APPLETS.iter().any(|without| name == *without) {
            continue;
        }
        let in_sbin = applet.parent().is_some_and(|folder| folder.ends_with("sbin"));
        let name_here = root.join(if in_sbin { "usr/sbin" } else { "usr/bin" }).join(name);
        make_link(if in_sbin { "../bin/busybox" } else { "busybox" }, name_here)?;
    }
    Ok(())
}

/// Gives everything the modes that it has in packages, whatever umask it was cloned and built under. The few that differ
/// are named where the file system is made.
pub(super) fn normalise_modes(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("Could not read `{}`", folder.display()))? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_symlink() {
            continue;
        }
        let is_program = entry.metadata()?.permissions().mode() & 0o111 != 0;
        let mode = if is_program || kind.is_dir() { 0o755 } else { 0o644 };
        fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode))?;
        if kind.is_dir() {
            normalise_modes(&entry.path())?;
        }
    }
    Ok(())
}

/// A library that is missing shows here rather than in a machine that does not start.
fn check_libraries(root: &Path) -> Result<()> {
    let mut files = Vec::new();
    for folder in ["usr/bin", "usr/sbin", "usr/lib/openssh", "usr/libexec", "usr/lib/x86_64-linux-gnu"] {
        find_binaries(&root.join(folder), &mut files)?;
    }
    let libraries: BTreeSet<String> = files
        .iter()
        .chain(&links(&root.join("usr/lib/x86_64-linux-gnu"))?)
        .chain(&links(&root.join("usr/libexec/sudo"))?)
        .filter_map(|file| Some(file.file_name()?.to_string_lossy().into_owned()))
        .collect();
    let listing = output(Command::new("readelf").args(["-d", "-W"]).args(&files))?;
    let mut missing = BTreeSet::new();
    let mut file = "";
    for line in listing.lines() {
        if let Some(name) = line.strip_prefix("File: ") {
            file = name;
        }
        if let Some((_, needed)) = line.split_once("Shared library: [") {
            let needed = needed.trim_end_matches(']');
            if !libraries.contains(needed) {
                missing.insert(format!(
                    "`{needed}` for `{}`",
                    file.trim_start_matches(&*root.to_string_lossy())
                ));
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    bail!("Libraries are missing: {}", missing.into_iter().collect::<Vec<_>>().join(", "));
}

fn links(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.flatten();
    Ok(entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_symlink()))
        .map(|entry| entry.path())
        .collect())
}

fn find_binaries(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let Ok(listing) = fs::read_dir(folder) else { return Ok(()) };
    for entry in listing {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            find_binaries(&entry.path(), found)?;
        } else if kind.is_file() && fs::read(entry.path())?.starts_with(b"\x7fELF") {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(())
}
