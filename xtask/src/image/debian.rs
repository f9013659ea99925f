//! A stock Debian with systemd and cloud-init, from packages: a disk, and the kernel that boots it from outside.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::packages::{Repository, is_root};
use super::tools::{Toolbox, digest_lines, digest_text, list_files, make_folder, output, remove_folder};
use super::{RELEASE, cache, manifest, say, workspace};
use crate::setup;

const FILES: [&str; 3] = ["vmlinuz", "initrd.img", "disk.qcow2"];
/// The flavour for virtual machines: smaller, and quicker to unpack itself.
const KERNEL: &str = "linux-image-cloud-amd64";
/// What is asked for; what they depend on comes along, what they recommend does not.
const PACKAGES: [&str; 13] = [
    KERNEL,
    "ca-certificates",
    "cloud-init",
    "dbus",
    "e2fsprogs",
    "initramfs-tools",
    "iproute2",
    "openssh-server",
    "procps",
    "sudo",
    "systemd-resolved",
    "systemd-sysv",
    "udev",
];
/// Needed by the initramfs, which no package says.
const COMPRESSOR: &str = "zstd";
/// Documentation and translations are half of a small system and read by nobody on a host for containers.
const LEFT_OUT: [&str; 3] = ["/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*"];
/// The file system grows with the disk that the image is copied to; this is the smallest.
const DISK_SIZE: u64 = 4 << 30;
const LABEL: &str = "debian-root";
/// Fixed, so that the same packages give the same file system.
const UUID: &str = "6d616368-696e-4e00-8000-64656269616e";
/// The same as for MachineOS where it keeps the kernel from waiting; the security modules stay as Debian has them.
const COMMAND_LINE: &str = "root=LABEL=debian-root ro console=tty0 console=ttyS0 no_timer_check tsc=reliable \
                            cryptomgr.notests rcupdate.rcu_expedited=1";
const RECIPE: &str = include_str!("debian.rs");

pub(super) fn build(out_dir: &Path) -> Result<()> {
    let began = Instant::now();
    let sources = workspace().join("os/debian");
    let repository = Repository::open()?;
    let inputs = inputs(&repository, &sources)?;
    if manifest::is_current(out_dir, &inputs, &FILES) {
        say(&format!("Debian in `{}` is up to date", out_dir.display()));
        return Ok(());
    }
    setup::for_debian_image()?;
    let version = format!("12-{}", &inputs[..8]);
    let kernel = repository.behind(KERNEL)?;
    say(&format!("building Debian {version} from packages, which takes a minute or two"));
    let tools = Toolbox::unpack(&repository)?;

    let work = cache().join("debian");
    output(&mut privileged("rm", |command| command.arg("-rf").arg(&work)))?;
    let (root, raw, fresh) = (work.join("root"), work.join("disk.raw"), work.join("out"));
    make_folder(&fresh)?;
    let hook = format!(
        "sh '{}' \"$1\" '{}' '{}'",
        sources.join("customize").display(),
        sources.join("rootfs").display(),
        fresh.display()
    );
    output(&mut privileged("mmdebstrap", |command| {
        command.args(["--quiet", "--mode=root", "--variant=minbase", "--format=directory"]);
        command.arg(format!("--include={},{COMPRESSOR}", PACKAGES.join(",")));
        command.arg("--aptopt=APT::Install-Recommends \"false\"");
        for path in LEFT_OUT {
            command.arg(format!("--dpkgopt=path-exclude={path}"));
        }
        command.arg(format!("--customize-hook={hook}"));
        command.arg(RELEASE).arg(&root).arg(repository.sources())
    }))
    .context("Could not put the system together")?;

    fs::File::create(&raw)?.set_len(DISK_SIZE)?;
    let seed = format!("hash_seed={UUID}");
    let mut format = tools.command("sbin/mke2fs", "mke2fs");
    format
        .args(["-q", "-F", "-t", "ext4", "-m", "1", "-L", LABEL, "-U", UUID, "-E", &seed, "-d"])
        .arg(&root)
        .arg(&raw);
    format.env("MKE2FS_CONFIG", tools.file("etc/mke2fs.conf"));
    output(&mut as_root(&format)).context("Could not make the file system")?;
    output(
        Command::new("qemu-img")
            .args(["convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd"])
            .arg(&raw)
            .arg(fresh.join("disk.qcow2")),
    )
    .context("Could not make the disk")?;

    make_folder(out_dir)?;
    manifest::remove(out_dir);
    for file in FILES {
        // Copied, not moved: what was made through sudo belongs to root.
        fs::copy(fresh.join(file), out_dir.join(format!(".{file}.new")))
            .and_then(|_| fs::rename(out_dir.join(format!(".{file}.new")), out_dir.join(file)))
            .with_context(|| format!("Could not write `{}`", out_dir.join(file).display()))?;
    }
    let facts = [
        ("name", "debian-12"),
        ("version", version.as_str()),
        ("kernel", kernel.trim_start_matches("linux-image-")),
        ("boot", "direct"),
        ("cmdline", COMMAND_LINE),
        ("user", "debian"),
        ("inputs", &inputs),
    ];
    manifest::write(out_dir, &facts, &FILES)?;
    output(&mut privileged("rm", |command| command.arg("-rf").arg(&work)))?;
    remove_folder(&work)?;
    let size = fs::metadata(out_dir.join("disk.qcow2"))?.len() / 1_000_000;
    say(&format!(
        "Debian {version} is in `{}` after {} s: disk.qcow2 {size} MB",
        out_dir.display(),
        began.elapsed().as_secs()
    ));
    Ok(())
}

/// The digest of everything that decides what the image is.
fn inputs(repository: &Repository, sources: &Path) -> Result<String> {
    let mut names = PACKAGES.to_vec();
    names.push(COMPRESSOR);
    let text = repository.closure(&names)? + &digest_lines(sources, &list_files(sources)?)?;
    digest_text(&(text + RECIPE))
}

/// A command that needs root: unpacking packages sets owners and makes devices.
fn privileged(program: &str, arguments: impl FnOnce(&mut Command) -> &mut Command) -> Command {
    let mut command = Command::new(program);
    arguments(&mut command);
    as_root(&command)
}

fn as_root(command: &Command) -> Command {
    let mut sudo = Command::new(if is_root() { "env" } else { "sudo" });
    if !is_root() {
        sudo.arg("env");
    }
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            let mut assignment = name.to_owned();
            assignment.push("=");
            assignment.push(value);
            sudo.arg(assignment);
        }
    }
    sudo.arg(command.get_program()).args(command.get_args());
    sudo
}
