//! A stock Debian with systemd and cloud-init, from packages.

use std::path::Path;

use anyhow::{Result, bail};

pub(super) fn build(out_dir: &Path) -> Result<()> {
    bail!("{}", out_dir.display())
}
