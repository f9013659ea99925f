//! Builds the images which local machines boot: MachineOS, and a stock Debian. Nothing of the host's system is in them.
//!
//! ```text
//! apt (own configuration) → packages → root folder → squashfs ┐
//! machineos-init, early kernel modules ──────────────────────┴→ initrd.img, beside vmlinuz and manifest.json
//! vmlinuz, initrd.img, systemd-boot ───────────────────────────→ boot.raw, a disk of the same
//! ```
//!
//! Everything that goes in is listed and digested first; when the digest is the one of the last build, there is nothing
//! to do. The same packages and sources give the same bytes.

mod archive;
mod boot_disk;
mod debian;
mod kernel;
mod machineos;
mod manifest;
mod packages;
mod root;
mod tools;

use std::path::{Path, PathBuf};

use anyhow::Result;

/// The Debian release that both images are made of, whatever the host runs.
const RELEASE: &str = "bookworm";

/// Builds MachineOS with this init into `out_dir` (`target/images/machineos`) unless it is up to date.
pub(crate) fn machineos(out_dir: &Path, init: &Path) -> Result<()> {
    machineos::build(out_dir, init)
}

/// Builds the Debian image into `out_dir` (`target/images/debian-12`) unless it is up to date.
pub(crate) fn debian(out_dir: &Path) -> Result<()> {
    debian::build(out_dir)
}

/// The folder of the workspace.
fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// Where packages and half-done work are kept between builds.
fn cache() -> PathBuf {
    workspace().join("target/cache")
}

/// Says what is being done.
#[expect(clippy::print_stderr, reason = "progress of a build tool")]
fn say(message: &str) {
    eprintln!("image: {message}");
}
