//! Builds what travels: the engine's bundle, the images, and `machine` with the bundle inside, into `target/dist`.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    image,
    run::{cargo, check, output, root, say},
    setup,
};

/// The only target so far: the machine that the project is built on.
const TARGET: &str = "x86_64-unknown-linux-gnu";
const ARCHITECTURE: &str = "x86_64";

/// Static programs; small ones, too: with frame pointers the tables for unwinding are smaller by a quarter, relocations are packed
/// (glibc 2.36 and later apply them to a static program), and functions that are the same, and whose addresses nobody compares,
/// are kept once.
const RUSTFLAGS: &str = "-C target-feature=+crt-static -C force-frame-pointers=yes -C link-arg=-Wl,-O2 \
    -C link-arg=-Wl,--icf=safe -C link-arg=-Wl,-z,pack-relative-relocs";

/// How the programs that travel are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Make {
    /// As users get them: small, and with all drivers.
    Release,
    /// The same without the drivers that need a provider's SDK, which takes minutes and gigabytes to compile.
    Light,
    /// For the demo and for tests: as [`Make::Light`], not optimised as a whole, which takes as long as all the rest.
    Quick,
}

impl Make {
    /// The profile of `Cargo.toml`.
    fn profile(self) -> &'static str {
        match self {
            Self::Release | Self::Light => "bundle",
            Self::Quick => "quick",
        }
    }

    /// Where the finished program and its images are.
    pub(crate) fn dist(self) -> PathBuf {
        root().join(match self {
            Self::Release | Self::Light => "target/dist",
            Self::Quick => "target/quick-dist",
        })
    }

    /// The finished `machine`.
    pub(crate) fn machine_program(self) -> PathBuf {
        self.dist().join("bin/machine")
    }

    /// The engine, gzip'd, as `machine`'s build and `machine` itself find it.
    pub(crate) fn engine_bundle(self) -> PathBuf {
        root().join(match self {
            Self::Release | Self::Light => "target/engine-bundle",
            Self::Quick => "target/quick-engine-bundle",
        })
    }

    /// The static engine binary, not compressed.
    pub(crate) fn engine_program(self) -> PathBuf {
        self.built("engine")
    }

    fn built(self, program: &str) -> PathBuf {
        root().join("target").join(TARGET).join(self.profile()).join(program)
    }

    /// Builds programs: static, for one target.
    fn build(self, programs: &[&str]) -> Result<()> {
        let mut command = cargo();
        command
            .args(["build", "--profile", self.profile(), "--target", TARGET])
            .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", RUSTFLAGS)
            .env("LIBSECCOMP_LINK_TYPE", "static")
            .env("LIBSECCOMP_LIB_PATH", "/usr/lib/x86_64-linux-gnu")
            .env("MACHINE_BUNDLE", self.engine_bundle())
            .env("MACHINE_BUILD", revision());
        match self {
            // Each with the features that it asks for itself.
            Self::Release | Self::Light => {
                for program in programs {
                    command.args(["--package", program]);
                }
            }
            // All with the same features, so that a crate which several of them use is built once.
            Self::Quick => {
                for package in ["engine", "machineos-init", "machine"] {
                    command.args(["--package", package]);
                }
                for program in programs {
                    command.args(["--bin", program]);
                }
            }
        }
        if self != Self::Release {
            command.arg("--no-default-features");
        }
        check(&mut command)
    }
}

/// Everything that a user needs, and nothing else.
pub(crate) fn all() -> Result<()> {
    setup::for_build()?;
    engine(Make::Release)?;
    machineos(Make::Release)?;
    machine(Make::Release)?;
    say(&format!("Built. To use it: export PATH=\"{}:$PATH\"", Make::Release.dist().join("bin").display()));
    Ok(())
}

fn revision() -> String {
    output(Command::new("git").args(["rev-parse", "--short=7", "HEAD"]).current_dir(root()))
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// The engine, gzip'd where `machine`'s build finds it.
pub(crate) fn engine(make: Make) -> Result<()> {
    make.build(&["engine"])?;
    pack(&make.engine_program(), &make.engine_bundle())
}

/// Writes the files that `src/bundle/folder.rs` describes. The one that makes a bundle of them is taken away first and
/// put back last, so that a build which is killed here leaves none, and never one of an engine and another's digest.
fn pack(program: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let file = |extension: &str| folder.join(format!("engine-{ARCHITECTURE}.{extension}"));
    let digest = digest(program)?;
    let written = fs::read_to_string(file("sha256")).unwrap_or_default();
    if written.trim() == digest && packed_digest(&file("gz")).is_ok_and(|packed| packed == digest) {
        return Ok(());
    }
    match fs::remove_file(file("gz")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    fs::write(file("sha256"), format!("{digest}\n"))?;
    fs::write(file("version"), format!("{}\n", version(program)?))?;
    let temporary = folder.join(format!(".engine-{ARCHITECTURE}.gz"));
    let packed = fs::File::create(&temporary)?;
    check(Command::new("gzip").args(["-9", "-n", "-c"]).arg(program).stdout(packed))?;
    fs::rename(&temporary, file("gz"))?;
    Ok(())
}

/// SHA-256 of a file, in hexadecimal.
fn digest(file: &Path) -> Result<String> {
    let line = output(Command::new("sha256sum").arg(file))?;
    Ok(line.split_whitespace().next().context("sha256sum printed nothing")?.to_owned())
}

/// SHA-256 of what was packed.
fn packed_digest(archive: &Path) -> Result<String> {
    let mut unpacking =
        Command::new("gzip").arg("-dc").arg(archive).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let binary = unpacking.stdout.take().context("gzip has no output")?;
    let line = output(Command::new("sha256sum").stdin(binary))?;
    if !unpacking.wait()?.success() {
        bail!("`{}` is not whole", archive.display());
    }
    Ok(line.split_whitespace().next().context("sha256sum printed nothing")?.to_owned())
}

/// What the engine says of itself: `Docker version 0.1.0, build 1234567`.
fn version(program: &Path) -> Result<String> {
    let said = output(Command::new(program).arg("--version"))?;
    let word = said.split_whitespace().nth(2).map(|word| word.trim_end_matches(','));
    Ok(word.with_context(|| format!("The engine says of its version: {said}"))?.to_owned())
}

/// `machine` with the engine inside.
pub(crate) fn machine(make: Make) -> Result<()> {
    make.build(&["machine"])?;
    let program = make.machine_program();
    fs::create_dir_all(make.dist().join("bin"))?;
    // A new file, because the old one may be running.
    let temporary = program.with_extension("new");
    fs::copy(make.built("machine"), &temporary)?;
    fs::rename(&temporary, &program)?;
    let images = make.dist().join("share/machine/images");
    if !images.exists() {
        fs::create_dir_all(make.dist().join("share/machine"))?;
        let _ = fs::remove_file(&images);
        std::os::unix::fs::symlink(root().join("target/images"), &images)?;
    }
    Ok(())
}

/// The image of MachineOS.
pub(crate) fn machineos(make: Make) -> Result<()> {
    make.build(&["machineos-init"])?;
    image::machineos(&root().join("target/images/machineos"), &make.built("machineos-init"))
}

/// The image of a stock Debian.
pub(crate) fn debian() -> Result<()> {
    setup::for_debian_image()?;
    image::debian(&root().join("target/images/debian-12"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A folder with a program in it that says this version.
    fn engine(folder: &Path, version: &str) -> PathBuf {
        let program = folder.join("engine");
        fs::write(&program, format!("#!/bin/sh\necho 'Docker version {version}, build unknown'\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        program
    }

    /// What is packed, and what is written beside it.
    fn packed(bundle: &Path) -> (String, String, String) {
        let text = |extension: &str| {
            fs::read_to_string(bundle.join(format!("engine-{ARCHITECTURE}.{extension}"))).unwrap()
        };
        let archive = bundle.join(format!("engine-{ARCHITECTURE}.gz"));
        let binary = output(Command::new("gzip").arg("-dc").arg(archive)).unwrap();
        (binary, text("sha256").trim().to_owned(), text("version").trim().to_owned())
    }

    #[test]
    fn a_bundle_is_of_one_engine_whatever_was_there() {
        let folder = std::env::temp_dir().join(format!("xtask-pack-{}", std::process::id()));
        let bundle = folder.join("bundle");
        fs::create_dir_all(&folder).unwrap();
        for version in ["0.1.0", "0.2.0"] {
            let program = engine(&folder, version);
            let expected =
                (fs::read_to_string(&program).unwrap(), digest(&program).unwrap(), version.to_owned());
            pack(&program, &bundle).unwrap();
            assert_eq!(packed(&bundle), expected);
            pack(&program, &bundle).unwrap();
            assert_eq!(packed(&bundle), expected);
        }
        // One engine under the digest of another, as earlier builds could leave it.
        let archive = bundle.join(format!("engine-{ARCHITECTURE}.gz"));
        check(Command::new("sh").args(["-c", "echo old | gzip >\"$0\""]).arg(&archive)).unwrap();
        let program = engine(&folder, "0.2.0");
        pack(&program, &bundle).unwrap();
        assert_eq!(packed(&bundle).0, fs::read_to_string(&program).unwrap());
        // Killed between the files: there is nothing that could be embedded, and the next build makes all of it.
        let program = engine(&folder, "no version, and so on");
        fs::write(&program, "#!/bin/sh\nexit 1\n").unwrap();
        pack(&program, &bundle).unwrap_err();
        assert!(!archive.exists());
        let program = engine(&folder, "0.3.0");
        pack(&program, &bundle).unwrap();
        assert_eq!(packed(&bundle).2, "0.3.0");
        fs::remove_dir_all(&folder).unwrap();
    }
}
