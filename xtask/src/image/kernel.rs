//! The kernel of an image: the modules that it carries, and its uncompressed form.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use super::tools::{Toolbox, make_folder, output};

/// The modules of a kernel with what each needs, by file.
#[derive(Debug)]
pub(super) struct Modules {
    needs: BTreeMap<String, Vec<String>>,
}

impl Modules {
    /// Lists the modules below `root`.
    pub(super) fn list(root: &Path, release: &str, tools: &Toolbox) -> Result<Modules> {
        depend(root, release, tools)?;
        let path = root.join("lib/modules").join(release).join("modules.dep");
        let text =
            fs::read_to_string(&path).with_context(|| format!("Could not read `{}`", path.display()))?;
        let entry = |line: &str| {
            let (file, needed) = line.split_once(':')?;
            Some((file.to_owned(), needed.split_whitespace().map(str::to_owned).collect()))
        };
        Ok(Modules { needs: text.lines().filter_map(entry).collect() })
    }

    /// The files for a list of names and folders, with all that they need.
    pub(super) fn select(&self, wanted: &str) -> Result<BTreeSet<String>> {
        let mut selected = BTreeSet::new();
        for line in wanted.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let before = selected.len();
            let mut found = false;
            for (file, needed) in &self.needs {
                let fits = match line.strip_suffix('/') {
                    Some(folder) => file
                        .strip_prefix("kernel/")
                        .is_some_and(|file| file.starts_with(&format!("{folder}/"))),
                    None => name(file) == line.replace('-', "_"),
                };
                if fits {
                    found = true;
                    selected.insert(file.clone());
                    selected.extend(needed.iter().cloned());
                }
            }
            if !found && selected.len() == before {
                bail!("The kernel has no module `{line}`");
            }
        }
        Ok(selected)
    }

    /// The file of one module.
    pub(super) fn file(&self, wanted: &str) -> Result<&str> {
        let found = self.needs.keys().find(|file| name(file) == wanted);
        Ok(found.with_context(|| format!("The kernel has no module `{wanted}`"))?)
    }
}

fn name(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split('.').next().unwrap_or(name).replace('-', "_")
}

/// Copies modules from one root to another and lists them there.
pub(super) fn copy(
    from: &Path,
    to: &Path,
    release: &str,
    files: &BTreeSet<String>,
    tools: &Toolbox,
) -> Result<()> {
    let folder = |root: &Path| root.join("lib/modules").join(release);
    for file in files {
        let target = folder(to).join(file);
        make_folder(target.parent().unwrap_or(to))?;
        fs::copy(folder(from).join(file), &target).with_context(|| format!("Could not copy `{file}`"))?;
    }
    for list in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
        fs::copy(folder(from).join(list), folder(to).join(list))
            .with_context(|| format!("Could not copy `{list}`"))?;
    }
    depend(to, release, tools)
}

fn depend(root: &Path, release: &str, tools: &Toolbox) -> Result<()> {
    output(tools.command("bin/kmod", "depmod").arg("-b").arg(root).arg(release)).map(drop)
}

/// Takes the kernel out of a `vmlinuz`: starting it needs no unpacking, which software emulation is slow at.
pub(super) fn uncompress(vmlinuz: &Path, to: &Path, tools: &Toolbox) -> Result<()> {
    let image = fs::read(vmlinuz).with_context(|| format!("Could not read `{}`", vmlinuz.display()))?;
    let payload = payload(&image).context("The kernel is not of the kind that x86 machines boot")?;
    let mut child = tools
        .command("usr/bin/xz", "xz")
        .args(["--decompress", "--stdout", "--quiet"])
        .stdin(Stdio::piped())
        .stdout(fs::File::create(to)?)
        .spawn()
        .context("Could not run `xz`")?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(payload)?;
    }
    if !child.wait()?.success() {
        bail!("The kernel could not be uncompressed");
    }
    Ok(())
}

/// The compressed kernel in a `bzImage`; the last four bytes of what its header names are its size.
fn payload(image: &[u8]) -> Option<&[u8]> {
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let long = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?) as usize);
    let sectors = usize::from(*image.get(0x1f1)?).max(4);
    let start = (sectors + 1) * 512 + long(0x248)?;
    image.get(start..start + long(0x24c)?.checked_sub(4)?)
}
