//! Builds what travels: the engine's bundle, the images, and `machine` with the bundle inside, into `target/dist`.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

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
    let program = engine_program();
    let folder = root().join("target/engine-bundle");
    fs::create_dir_all(&folder)?;
    let digest = output(Command::new("sha256sum").arg(&program))?;
    let digest = digest.split_whitespace().next().context("sha256sum printed nothing")?.to_owned();
    let (digest_file, packed) = (
        folder.join(format!("engine-{ARCHITECTURE}.sha256")),
        folder.join(format!("engine-{ARCHITECTURE}.gz")),
    );
    if packed.exists() && fs::read_to_string(&digest_file).is_ok_and(|old| old.trim() == digest) {
        return Ok(());
    }
    fs::write(&digest_file, format!("{digest}\n"))?;
    fs::write(
        folder.join(format!("engine-{ARCHITECTURE}.version")),
        concat!(env!("CARGO_PKG_VERSION"), "\n"),
    )?;
    let temporary = folder.join(format!(".engine-{ARCHITECTURE}.gz"));
    let file = fs::File::create(&temporary)?;
    check(Command::new("gzip").args(["-9", "-n", "-c"]).arg(&program).stdout(file))?;
    fs::rename(&temporary, &packed)?;
    Ok(())
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
