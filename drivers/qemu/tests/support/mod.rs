//! What the tests of this driver share.

#![allow(dead_code, reason = "each test program uses its part of it")]

use std::{collections::BTreeMap, fs, path::Path};

use async_trait::async_trait;
use machine_driver::{
    HostId, HostView,
    conformance::{Inventory, Resource},
};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

pub(crate) const STAND_IN: &str = env!("CARGO_BIN_EXE_machine-qemu-stand-in");

/// A folder of images with one called `tiny`, which nothing could boot.
pub(crate) fn fake_images() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("tiny");
    fs::create_dir(&image).unwrap();
    let mut digests = BTreeMap::new();
    for file in ["vmlinuz", "initrd.img"] {
        fs::write(image.join(file), file).unwrap();
        let digest = format!("{:x}", Sha256::digest(file));
        digests.insert(file, digest);
    }
    let manifest = serde_json::json!({"name": "tiny", "version": "1", "cmdline": "quiet", "sha256": digests});
    fs::write(image.join("manifest.json"), manifest.to_string()).unwrap();
    folder
}

/// Processes with a given argument right before the host's id.
pub(crate) fn processes(word: &str, id: &HostId) -> Vec<i32> {
    let id = id.to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let arguments: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        if arguments.windows(2).any(|pair| pair[0] == word.as_bytes() && pair[1] == id.as_bytes()) {
            found.push(pid);
        }
    }
    found
}

pub(crate) fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

/// Ends the switch of a store.
pub(crate) fn kill_switch(cache: &Path) {
    let folder = cache.join("qemu/network");
    if machine_switch::Network::existing(&folder).is_some_and(|network| network.is_served()) {
        let lock = fs::read_to_string(folder.join("lock")).unwrap_or_default();
        lock.trim().parse().into_iter().for_each(kill);
    }
}

/// Ends whatever runs for a host.
pub(crate) fn kill_all(id: &HostId) {
    for word in ["-uuid", "__qemu-ports"] {
        processes(word, id).into_iter().for_each(kill);
    }
}

/// All that the driver may leave anywhere: processes, files, reservations.
#[derive(Debug)]
pub(crate) struct Everything;

#[async_trait]
impl Inventory for Everything {
    async fn resources(&self, host: &HostView) -> Vec<Resource> {
        let mut found = Vec::new();
        let mut add = |kind: &str, name: String| found.push(Resource { kind: kind.into(), name });
        for word in ["-uuid", "__qemu-ports"] {
            for pid in processes(word, &host.id) {
                add(word, pid.to_string());
            }
        }
        let whole = host.folder.join("disk.qcow2").exists();
        for file in files(&host.folder) {
            // Logs of earlier boots may be there or not, as long as the VM is.
            let is_log = file.contains(".log");
            if !(whole && is_log) {
                add(&format!("file {file}"), host.folder.join(file).display().to_string());
            }
        }
        for (kind, folder) in [("address", "qemu/addresses"), ("inside", "qemu/inside")] {
            let folder = host.cache.join(folder);
            for file in files(&folder) {
                if fs::read_to_string(folder.join(&file)).is_ok_and(|id| id.trim() == host.id.to_string()) {
                    add(kind, file);
                }
            }
        }
        // The port on the switch: its settings and its socket.
        for file in files(&host.cache.join("qemu/network")) {
            if let Some(end) = file.strip_prefix(&host.id.to_string()) {
                add(&format!("network{end}"), file.clone());
            }
        }
        found
    }
}

fn files(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
