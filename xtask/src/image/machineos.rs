//! MachineOS: kernel and initrd, and a disk that boots them, from packages and `os/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::archive::Archive;
use super::kernel::{self, Modules};
use super::packages::{Package, Repository, epoch};
use super::tools::{
    Toolbox, digest_file, digest_lines, digest_text, list_files, make_folder, output, remove_folder,
};
use super::{boot_disk, cache, manifest, root, say, workspace};

const FILES: [&str; 4] = ["vmlinuz", "vmlinux", "initrd.img", "boot.raw"];
/// The stock kernel: the cloud flavour lacks the drivers of VirtualBox.
const KERNEL: &str = "linux-image-amd64";
/// What boots the kernel on machines that cannot be handed one, and where it is in its package.
const LOADER: &str = "systemd-boot-efi";
const LOADER_FILE: &str = "usr/lib/systemd/boot/efi/systemd-bootx64.efi";
/// What is in the image; the libraries are those that the programs name, checked when they are unpacked.
const PACKAGES: [&str; 58] = [
    "bash",
    "busybox-static",
    "ca-certificates",
    "dash",
    "e2fsprogs",
    "hyperv-daemons",
    "iproute2",
    "kmod",
    "nftables",
    "openssh-client",
    "openssh-server",
    "openssh-sftp-server",
    "sudo",
    "libaudit1",
    "libblkid1",
    "libbpf1",
    "libbsd0",
    "libc6",
    "libcap-ng0",
    "libcap2",
    "libcbor0.8",
    "libcom-err2",
    "libcrypt1",
    "libedit2",
    "libelf1",
    "libext2fs2",
    "libfido2-1",
    "libgcrypt20",
    "libgmp10",
    "libgpg-error0",
    "libgssapi-krb5-2",
    "libjansson4",
    "libk5crypto3",
    "libkeyutils1",
    "libkrb5-3",
    "libkrb5support0",
    "liblz4-1",
    "liblzma5",
    "libmd0",
    "libmnl0",
    "libnftables1",
    "libnftnl11",
    "libnsl2",
    "libxtables12",
    "libpam-modules",
    "libpam0g",
    "libpcre2-8-0",
    "libselinux1",
    "libss2",
    "libssl3",
    "libsystemd0",
    "libtinfo6",
    "libtirpc3",
    "libudev1",
    "libuuid1",
    "libwrap0",
    "libzstd1",
    "zlib1g",
];
/// Programs that must be what they were in their packages, owner and all.
const SET_USER: [&str; 1] = ["usr/bin/sudo"];
/// Files that are not for everybody.
const PRIVATE: [(&str, &str); 4] =
    [("etc/shadow", "600"), ("etc/sudoers", "440"), ("etc/sudoers.d", "750"), ("root", "700")];
/// The console is the serial port; the rest keeps the kernel from waiting and talking:
/// `no_timer_check` and `tsc=reliable` trust the hypervisor's clocks, `cryptomgr.notests` leaves out the self-tests of
/// ciphers, `rcu_expedited` prefers a fast boot to a quiet one.
const COMMAND_LINE: &str = "console=tty0 console=ttyS0 quiet panic=10 no_timer_check tsc=reliable cryptomgr.notests \
                            rcupdate.rcu_expedited=1 apparmor=0";
/// The modules that the early stage loads, in this order.
const EARLY_MODULES: [&str; 3] = ["loop", "squashfs", "overlay"];
/// A change of any of these is a change of the image.
const RECIPE: [&str; 5] = [
    include_str!("machineos.rs"),
    include_str!("root.rs"),
    include_str!("kernel.rs"),
    include_str!("archive.rs"),
    include_str!("boot_disk.rs"),
];

pub(super) fn build(out_dir: &Path, init: &Path) -> Result<()> {
    let began = Instant::now();
    let os = workspace().join("os");
    let repository = Repository::open()?;
    let kernel_package = repository.behind(KERNEL)?;
    let mut names = PACKAGES.to_vec();
    names.extend([kernel_package.as_str(), LOADER]);
    let packages = repository.resolve(&names)?;
    let inputs = inputs(&packages, &os, init)?;
    if manifest::is_current(out_dir, &inputs, &FILES) {
        say(&format!("MachineOS in `{}` is up to date", out_dir.display()));
        return Ok(());
    }
    let kernel =
        packages.iter().find(|package| package.name() == kernel_package).context("The kernel is missing")?;
    // A version is what it was made of: the release of the sources and the first digits of all inputs.
    let version = format!("{}-{}", env!("CARGO_PKG_VERSION"), &inputs[..8]);
    say(&format!("building MachineOS {version} with Linux {}", kernel.version()));
    let tools = Toolbox::unpack(&repository)?;
    let files = repository.fetch(&packages)?;

    let work = cache().join("machineos");
    remove_folder(&work)?;
    let (root_folder, kernel_folder) = (work.join("root"), work.join("kernel"));
    let boots = |file: &PathBuf| {
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        [kernel_package.as_str(), LOADER].iter().any(|package| name.starts_with(package))
    };
    let (boot_files, others): (Vec<PathBuf>, Vec<PathBuf>) = files.into_iter().partition(boots);
    make_folder(&kernel_folder)?;
    for file in boot_files {
        output(Command::new("dpkg-deb").arg("-x").arg(file).arg(&kernel_folder))?;
    }
    root::unpack(&others, &root_folder)?;
    root::assemble(&root_folder, &os.join("rootfs"), init, &release_file(&version))?;

    let release = kernel_package.trim_start_matches("linux-image-");
    let modules = Modules::list(&kernel_folder, release, &tools)?;
    let wanted = fs::read_to_string(os.join("modules.txt"))?;
    kernel::copy(&kernel_folder, &root_folder, release, &modules.select(&wanted)?, &tools)?;

    root::normalise_modes(&root_folder)?;
    // Machines that run from the files of the last build keep them: new files take their names when all are done.
    let fresh = out_dir.join(".new");
    remove_folder(&fresh)?;
    make_folder(&fresh)?;
    let vmlinuz = kernel_folder.join("boot").join(format!("vmlinuz-{release}"));
    let time = epoch(&vmlinuz)?;
    fs::copy(&vmlinuz, fresh.join("vmlinuz"))?;
    kernel::uncompress(&vmlinuz, &fresh.join("vmlinux"), &tools)?;
    let squashfs = work.join("root.squashfs");
    squash(&root_folder, &squashfs, time, &tools)?;

    let mut archive = Archive::create(&fresh.join("initrd.img"), time)?;
    archive.file("init", init, true)?;
    archive.folder("modules")?;
    for (place, module) in EARLY_MODULES.iter().enumerate() {
        let file = kernel_folder.join("lib/modules").join(release).join(modules.file(module)?);
        archive.file(&format!("modules/{place}-{module}.ko"), &file, false)?;
    }
    archive.file("root.squashfs", &squashfs, false)?;
    archive.finish()?;
    let content = boot_disk::Content {
        loader: &kernel_folder.join(LOADER_FILE),
        kernel: &fresh.join("vmlinuz"),
        initrd: &fresh.join("initrd.img"),
        command_line: COMMAND_LINE,
        time,
    };
    boot_disk::write(&fresh.join("boot.raw"), &content, &work.join("boot"), &tools)?;

    manifest::remove(out_dir);
    for file in FILES {
        fs::rename(fresh.join(file), out_dir.join(file))
            .with_context(|| format!("Could not write `{}`", out_dir.join(file).display()))?;
    }
    remove_folder(&fresh)?;
    let facts = [
        ("name", "machineos"),
        ("version", version.as_str()),
        ("kernel", release),
        ("boot", "direct"),
        ("cmdline", COMMAND_LINE),
        ("inputs", &inputs),
    ];
    manifest::write(out_dir, &facts, &FILES)?;
    remove_folder(&work)?;
    let size = |file: &str| fs::metadata(out_dir.join(file)).map_or(0, |facts| facts.len() / 1_000_000);
    say(&format!(
        "MachineOS {version} is in `{}` after {} s: vmlinuz {} MB, initrd.img {} MB",
        out_dir.display(),
        began.elapsed().as_secs(),
        size("vmlinuz"),
        size("initrd.img")
    ));
    Ok(())
}

/// The digest of everything that decides what the image is.
fn inputs(packages: &[Package], os: &Path, init: &Path) -> Result<String> {
    let mut text: String = packages.iter().map(|package| package.line.clone() + "\n").collect();
    let mut files = vec![os.join("modules.txt")];
    files.extend(list_files(&os.join("rootfs"))?);
    text.push_str(&digest_lines(os, &files)?);
    text.push_str(&digest_file(init)?);
    for source in RECIPE {
        text.push_str(source);
    }
    text.push_str(&std::env::var("SOURCE_DATE_EPOCH").unwrap_or_default());
    digest_text(&text)
}

fn release_file(version: &str) -> String {
    format!(
        "NAME=\"MachineOS\"\nID=machineos\nID_LIKE=debian\nVERSION_ID={version}\nPRETTY_NAME=\"MachineOS {version}\"\n"
    )
}

fn squash(root: &Path, to: &Path, time: u64, tools: &Toolbox) -> Result<()> {
    let mut command = tools.command("usr/bin/mksquashfs", "mksquashfs");
    command.arg(root).arg(to).args([
        "-noappend",
        "-all-root",
        "-no-xattrs",
        "-no-exports",
        "-quiet",
        "-no-progress",
    ]);
    command.args(["-comp", "zstd", "-Xcompression-level", "19", "-b", "128K"]);
    // It takes the time from one place only.
    let time = time.to_string();
    command.env_remove("SOURCE_DATE_EPOCH").args(["-mkfs-time", &time, "-all-time", &time]);
    for program in SET_USER {
        command.args(["-p", &format!("{program} m 4755 0 0")]);
    }
    for (path, mode) in PRIVATE {
        command.args(["-p", &format!("{path} m {mode} 0 0")]);
    }
    output(&mut command).map(drop)
}
