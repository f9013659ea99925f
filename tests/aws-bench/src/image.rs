//! The images that VMs boot, as `cargo xtask image` builds them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct Manifest {
    #[serde(default)]
    cmdline: String,
}

/// An image: a kernel with an initrd, and a disk under the VM's own where there is one.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
    pub(crate) command_line: String,
    pub(crate) base: Option<PathBuf>,
}

/// The folder with all images.
#[derive(Debug, Clone)]
pub(crate) struct Images(pub(crate) PathBuf);

impl Images {
    /// Read anew for each VM: images are rebuilt while a bench runs.
    pub(crate) fn find(&self, name: &str) -> Result<Image> {
        let folder = fs::canonicalize(self.0.join(name)).with_context(|| {
            format!("There is no image `{name}` in `{}`: `cargo xtask image` builds it", self.0.display())
        })?;
        let manifest = folder.join("manifest.json");
        let text = fs::read(&manifest).with_context(|| format!("Could not read `{}`", manifest.display()))?;
        let manifest: Manifest = serde_json::from_slice(&text)
            .with_context(|| format!("`{}` is not understood", manifest.display()))?;
        let kernel = first(&folder, &["vmlinux", "vmlinuz"])
            .with_context(|| format!("The image `{name}` has no kernel"))?;
        let initrd =
            first(&folder, &["initrd.img"]).with_context(|| format!("The image `{name}` has no initrd"))?;
        let base = first(&folder, &["disk.qcow2"]);
        Ok(Image { kernel, initrd, command_line: manifest.cmdline, base })
    }
}

fn first(folder: &Path, names: &[&str]) -> Option<PathBuf> {
    names.iter().map(|name| folder.join(name)).find(|path| path.is_file())
}
