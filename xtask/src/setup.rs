//! What the chores need of the system: Debian packages, installed when they are missing.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    python,
    run::{check, output, root, say},
};

/// For compiling the engine and `machine`.
const BUILD: [&str; 3] = ["gcc", "libc6-dev", "libseccomp-dev"];

/// For VMs and for the images they boot.
const VM: [&str; 3] = ["qemu-system-x86", "qemu-utils", "busybox-static"];

/// For the image of a stock Debian.
const DEBIAN: [&str; 2] = ["mmdebstrap", "qemu-utils"];

/// For namespaces, and for a Debian with dockerd in it.
const PEERS: [&str; 6] =
    ["mmdebstrap", "busybox-static", "docker-registry", "iproute2", "nftables", "util-linux"];

/// For the tests beyond that.
const TEST: [&str; 17] = [
    "docker-registry",
    "openssh-server",
    "openssh-client",
    "nftables",
    "iproute2",
    "util-linux",
    "openssl",
    "curl",
    "shellcheck",
    "sudo",
    "mtools",
    "dosfstools",
    "genisoimage",
    "xfsprogs",
    "zsh",
    "fish",
    "tcsh",
];

/// For programs that come as Python packages.
const PYTHON: [&str; 2] = ["python3", "python3-venv"];

/// For what is checked for Windows: a C compiler and an assembler that aim there.
const WINDOWS: [&str; 2] = ["gcc-mingw-w64-x86-64", "nasm"];

/// For the guests that play instances on the bench for AWS, and for what is asked of them.
const AWS_BENCH: [&str; 5] = ["openssh-server", "openssh-client", "util-linux", "openssl", "curl"];

/// Everything that building takes.
pub(crate) fn for_build() -> Result<()> {
    packages(&BUILD)
}

/// Everything that the demo takes.
pub(crate) fn for_demo() -> Result<()> {
    packages(&[BUILD.as_slice(), VM.as_slice()].concat())
}

/// Everything that the image of a stock Debian takes.
pub(crate) fn for_debian_image() -> Result<()> {
    packages(&DEBIAN)
}

/// Everything that the tests take.
pub(crate) fn for_tests() -> Result<()> {
    packages(&[BUILD.as_slice(), VM.as_slice(), TEST.as_slice(), PYTHON.as_slice()].concat())
}

/// Everything that running the engine beside dockerd takes.
pub(crate) fn for_peers() -> Result<()> {
    packages(&[BUILD.as_slice(), PEERS.as_slice()].concat())
}

/// Everything that the check of dependencies takes.
pub(crate) fn for_deny() -> Result<()> {
    packages(&PYTHON)
}

/// Everything that compiling for Windows takes: packages, and Rust's own library for it.
pub(crate) fn for_windows() -> Result<()> {
    packages(&WINDOWS)?;
    check(Command::new("rustup").args(["target", "add", crate::test::WINDOWS_TARGET]).current_dir(root()))
}

/// Everything that the bench which plays AWS takes.
pub(crate) fn for_aws_bench() -> Result<()> {
    packages(&[VM.as_slice(), AWS_BENCH.as_slice(), PYTHON.as_slice()].concat())
}

fn packages(names: &[&str]) -> Result<()> {
    let missing: Vec<&str> = names.iter().copied().filter(|name| !installed(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("This needs the packages {}, and there is no apt to install them with", missing.join(", "));
    }
    say(&format!("Installing Debian packages: {}", missing.join(", ")));
    as_root(Command::new("apt-get").args(["update", "-qq"]))
        .context("Could not fetch the lists of packages")?;
    // One version for all of QEMU: a newer part of it, from elsewhere, would conflict with the rest.
    let version = candidate("qemu-system-x86")?;
    let mut wanted: Vec<String> = Vec::new();
    for name in &missing {
        match *name {
            "qemu-system-x86" | "qemu-utils" => {
                for part in ["qemu-system-x86", "qemu-system-common", "qemu-system-data", "qemu-utils"] {
                    let exact = if part == "qemu-system-data" {
                        part.to_owned()
                    } else {
                        format!("{part}={version}")
                    };
                    if !wanted.contains(&exact) {
                        wanted.push(exact);
                    }
                }
            }
            name => wanted.push(name.to_owned()),
        }
    }
    let quiet = NoServices::new();
    let mut install = Command::new("apt-get");
    install
        .args(["install", "-y", "-qq", "--no-install-recommends", "--allow-downgrades"])
        .args(&wanted)
        .env("DEBIAN_FRONTEND", "noninteractive");
    let done = as_root(&mut install);
    drop(quiet);
    done
}

fn installed(name: &str) -> bool {
    Command::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Status}", name])
        .output()
        .is_ok_and(|output| output.stdout == b"installed")
}

pub(crate) fn candidate(name: &str) -> Result<String> {
    let policy = output(Command::new("apt-cache").args(["policy", name]))?;
    let line = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
    Ok(line.with_context(|| format!("apt knows no package `{name}`"))?.to_owned())
}

/// Runs a command as root: as it is, or through sudo.
fn as_root(command: &mut Command) -> Result<()> {
    if is_root() {
        return check(command);
    }
    say("  (through sudo)");
    let mut sudo = Command::new("sudo");
    sudo.arg("env");
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            sudo.arg(format!("{}={}", name.to_string_lossy(), value.to_string_lossy()));
        }
    }
    sudo.arg(command.get_program()).args(command.get_args());
    check(&mut sudo)
}

/// Whether this process is root's.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// Keeps packages from starting services while they are installed: the tests bring up their own.
struct NoServices {
    policy: Option<PathBuf>,
}

impl NoServices {
    fn new() -> Self {
        let path = PathBuf::from("/usr/sbin/policy-rc.d");
        if path.exists() || !is_root() {
            return Self { policy: None };
        }
        let made = fs::write(&path, "#!/bin/sh\nexit 101\n")
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)));
        Self { policy: made.is_ok().then_some(path) }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(path) = &self.policy {
            let _ = fs::remove_file(path);
        }
    }
}

/// The stock docker command line: the one that is there, or the one of Debian's package, unpacked beside the build
/// so that no daemon is installed.
pub(crate) fn docker_cli() -> Result<PathBuf> {
    if let Some(found) = in_path("docker") {
        return Ok(found);
    }
    let folder = root().join("target/tools/docker");
    let program = folder.join("usr/bin/docker");
    if program.exists() {
        return Ok(program);
    }
    // Debian 13 has the client in a package of its own.
    let package = if candidate("docker-cli").is_ok_and(|version| version != "(none)") {
        "docker-cli"
    } else {
        "docker.io"
    };
    say(&format!("Fetching the stock docker command line from Debian's package {package}"));
    fs::create_dir_all(&folder)?;
    check(Command::new("apt-get").args(["download", "-qq", package]).current_dir(&folder))?;
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            check(Command::new("dpkg-deb").arg("-x").arg(&path).arg(&folder))?;
            fs::remove_file(&path)?;
        }
    }
    if !program.exists() {
        bail!("The package `{package}` has no docker command line in it");
    }
    Ok(program)
}

/// Docker's library for Python, with the tests that its makers have written of it: those of the last release whose source
/// package has them. And testcontainers, which is made of that library.
pub(crate) fn docker_sdk() -> Result<()> {
    const LIBRARY: &str =
        "docker[ssh,websockets]==7.2.0\npytest==9.2.0\npytest-timeout==2.4.0\ntestcontainers==4.15.0\n";
    const TESTS: &str = "docker==7.0.0 \
        --hash=sha256:323736fb92cd9418fc5e7133bc953e11a9da04f4483f828b527db553f1e7e5a3\n";
    let library = python::programs("docker-sdk", LIBRARY)?;
    let folder = library.parent().context("a virtual environment is a folder")?.to_owned();
    let tests = folder.join("tests");
    if tests.symlink_metadata().is_ok() {
        fs::remove_file(&tests)?;
    }
    symlink(python::sources("docker-sdk-source", TESTS)?.join("tests"), &tests)?;
    Ok(())
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}
