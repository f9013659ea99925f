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

/// Everything that a user needs, and nothing else.
pub(crate) fn all() -> Result<()> {
    setup::for_build()?;
    engine()?;
    machineos()?;
    machine(Drivers::All)?;
    say(&format!("Built. To use it: export PATH=\"{}:$PATH\"", dist().join("bin").display()));
    Ok(())
}

/// Where the finished program and its images are.
pub(crate) fn dist() -> PathBuf {
    root().join("target/dist")
}

/// The finished `machine`.
pub(crate) fn machine_program() -> PathBuf {
    dist().join("bin/machine")
}

/// The static engine binary, not compressed.
pub(crate) fn engine_program() -> PathBuf {
    root().join("target").join(TARGET).join("bundle/engine")
}

/// Cargo with the profile, target and flags of everything that travels: static, small, its dependencies compiled once
/// for the engine and for `machine`.
fn cargo_build(package: &str) -> Command {
    let mut command = cargo();
    command
        .args(["build", "--profile", "bundle", "--target", TARGET, "--package", package])
        .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", "-C target-feature=+crt-static")
        .env("LIBSECCOMP_LINK_TYPE", "static")
        .env("LIBSECCOMP_LIB_PATH", "/usr/lib/x86_64-linux-gnu")
        .env("MACHINE_BUILD", revision());
    command
}

fn revision() -> String {
    output(Command::new("git").args(["rev-parse", "--short=7", "HEAD"]).current_dir(root()))
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// The engine, gzip'd into `target/engine-bundle`, where `machine`'s build finds it.
pub(crate) fn engine() -> Result<()> {
    check(&mut cargo_build("engine"))?;
    pack(&engine_program(), &root().join("target/engine-bundle"))
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

/// Which drivers are compiled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drivers {
    All,
    /// Those that need no provider's SDK: they compile in a fraction of the time and memory.
    Light,
}

impl Drivers {
    /// The feature flags of the package `machine`.
    pub(crate) fn features(self) -> &'static [&'static str] {
        match self {
            Self::All => &[],
            Self::Light => &["--no-default-features"],
        }
    }
}

/// `machine` with the engine inside.
pub(crate) fn machine(drivers: Drivers) -> Result<()> {
    check(cargo_build("machine").args(drivers.features()))?;
    let program = machine_program();
    fs::create_dir_all(dist().join("bin"))?;
    // A new file, because the old one may be running.
    let temporary = program.with_extension("new");
    fs::copy(root().join("target").join(TARGET).join("bundle/machine"), &temporary)?;
    fs::rename(&temporary, &program)?;
    let images = dist().join("share/machine/images");
    if !images.exists() {
        fs::create_dir_all(dist().join("share/machine"))?;
        let _ = fs::remove_file(&images);
        std::os::unix::fs::symlink(root().join("target/images"), &images)?;
    }
    Ok(())
}

/// The image of MachineOS.
pub(crate) fn machineos() -> Result<()> {
    image::machineos(&root().join("target/images/machineos"))
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
