//! What the tests of this driver share.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use machine_driver::{
    HostView,
    conformance::{Inventory, Resource},
};
use machine_driver_virtualbox::VirtualBox;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

pub(crate) const STAND_IN: &str = env!("CARGO_BIN_EXE_machine-virtualbox-stand-in");

/// What looks like a kernel from outside.
fn kernel() -> Vec<u8> {
    let mut kernel = vec![0; 3 * 512];
    kernel[0x1f1] = 2;
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    kernel[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
    kernel[0x211] = 1;
    kernel[0x238..0x23c].copy_from_slice(&2047_u32.to_le_bytes());
    kernel[0x258..0x260].copy_from_slice(&0x100_0000_u64.to_le_bytes());
    kernel[0x260..0x264].copy_from_slice(&0x100_0000_u32.to_le_bytes());
    kernel.extend(vec![0x90; 5000]);
    kernel
}

/// A folder of images with one called `tiny`, which nothing could boot.
pub(crate) fn fake_images() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("tiny");
    fs::create_dir(&image).unwrap();
    let mut digests = BTreeMap::new();
    for (file, content) in [("vmlinuz", kernel()), ("initrd.img", b"initrd".to_vec())] {
        fs::write(image.join(file), &content).unwrap();
        digests.insert(file, format!("{:x}", Sha256::digest(&content)));
    }
    let manifest = serde_json::json!({"name": "tiny", "version": "1", "cmdline": "quiet", "sha256": digests});
    fs::write(image.join("manifest.json"), manifest.to_string()).unwrap();
    folder
}

/// A VirtualBox of its own: its settings, and images for it.
pub(crate) struct Bench {
    pub(crate) home: TempDir,
    pub(crate) images: TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap(), images: fake_images() }
    }

    pub(crate) fn driver(&self) -> VirtualBox {
        VirtualBox::new()
            .with_program(STAND_IN.into())
            .with_home(self.home.path().to_owned())
            .with_helper(STAND_IN.into())
            .with_images(vec![self.images.path().to_owned()])
    }

    /// What the stand-in knows.
    pub(crate) fn registry(&self) -> Value {
        let text = fs::read_to_string(self.home.path().join("stand-in.json")).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Has calls that begin like this fail so many times.
    pub(crate) fn fail(&self, command: &str, times: u32, complaint: &str) {
        fs::write(self.home.path().join("fail"), format!("{command}\n{times}\n{complaint}")).unwrap();
    }
}

impl Drop for Bench {
    /// Also when a test fails, nothing is left running.
    fn drop(&mut self) {
        for file in files(self.home.path()) {
            if let Some(id) = file.strip_prefix("vm-").and_then(|rest| rest.strip_suffix(".lock")) {
                let _ = fs::write(self.home.path().join(format!("vm-{id}.order")), "poweroff");
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// All that the driver may leave anywhere: VMs, media, files, reservations, the process beside a VM.
pub(crate) struct Everything<'a>(pub(crate) &'a Bench);

#[async_trait]
impl Inventory for Everything<'_> {
    async fn resources(&self, host: &HostView) -> Vec<Resource> {
        let mut found = Vec::new();
        let mut add = |kind: &str, name: String| found.push(Resource { kind: kind.into(), name });
        let (registry, id) = (self.0.registry(), host.id.to_string());
        if !registry["vms"][&id].is_null() {
            add("vm", id.clone());
        }
        let folder = host.folder.display().to_string();
        for medium in registry["media"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if let Some(file) = medium.strip_prefix(&folder) {
                let name = file.rsplit('/').next().unwrap_or_default();
                add(&format!("medium {name}"), medium.to_owned());
            }
        }
        let whole = !registry["vms"][&id].is_null();
        for file in files(&host.folder) {
            // Logs of earlier boots may be there or not, as long as the VM is.
            if !(whole && file.contains(".log")) {
                let kind = if file.contains(&id) { "folder" } else { &file };
                add(&format!("file {kind}"), host.folder.join(&file).display().to_string());
            }
        }
        for (kind, folder) in [("address", "virtualbox/addresses"), ("inside", "virtualbox/inside")] {
            let folder = host.cache.join(folder);
            for file in files(&folder) {
                if fs::read_to_string(folder.join(&file)).is_ok_and(|holder| holder.trim() == id) {
                    add(kind, file);
                }
            }
        }
        found
    }
}

pub(crate) fn files(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(files_below(&entry.path()));
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    found
}
