//! Shares of block devices: how much of them a cgroup gets beside others that want them at the same time.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{MOUNT, directory, is_unified};

/// Weights from 10 to 1000.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlockWeights {
    /// Of all devices that have none of their own.
    pub all: Option<u16>,
    pub devices: Vec<DeviceWeight>,
}

/// Of the device with these numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceWeight {
    pub major: u32,
    pub minor: u32,
    pub weight: u16,
}

impl BlockWeights {
    pub fn is_empty(&self) -> bool {
        self.all.is_none() && self.devices.is_empty()
    }
}

/// Whether the kernel weighs those who use block devices against each other.
pub fn are_supported() -> bool {
    if !is_unified() {
        let has = |file: &str| Path::new(MOUNT).join("blkio").join(file).exists();
        // BFQ shows its weights everywhere but in the root.
        return has("blkio.weight") || has("blkio.bfq.io_serviced");
    }
    let controllers = fs::read_to_string(Path::new(MOUNT).join("cgroup.controllers")).unwrap_or_default();
    if !controllers.split_whitespace().any(|name| name == "io") {
        return false;
    }
    // Here as well; where the controller is not in use yet, there is nothing to be seen.
    let groups = fs::read_dir(MOUNT).into_iter().flatten().flatten().map(|entry| entry.path());
    let in_use: Vec<_> = groups.filter(|group| group.join("io.stat").exists()).collect();
    in_use.is_empty() || in_use.iter().any(|group| Files::in_group(group).is_some())
}

/// Sets the weights of a cgroup, as runc does: those of the scheduler BFQ where the kernel has it, and the general ones elsewhere.
pub fn apply(cgroup: &Path, weights: &BlockWeights) -> io::Result<()> {
    if weights.is_empty() { Ok(()) } else { write(&directory("blkio", cgroup), weights) }
}

fn write(group: &Path, weights: &BlockWeights) -> io::Result<()> {
    let files = Files::in_group(group).ok_or_else(|| {
        io::Error::new(io::ErrorKind::Unsupported, "the kernel has no weights for block devices")
    })?;
    let failed = |what: String, error: io::Error| {
        let reason = match error.kind() {
            // As BFQ says of a device that has another scheduler.
            io::ErrorKind::Unsupported => "the device's scheduler knows no weights (bfq does)".to_owned(),
            _ => error.to_string(),
        };
        io::Error::new(error.kind(), format!("setting {what} in {}: {reason}", group.display()))
    };
    if let Some(weight) = weights.all {
        let text = (files.scale)(weight).to_string();
        fs::write(group.join(files.all), &text).map_err(|error| failed(format!("weight {text}"), error))?;
    }
    for DeviceWeight { major, minor, weight } in &weights.devices {
        let text = format!("{major}:{minor} {}", (files.scale)(*weight));
        fs::write(group.join(files.devices), &text)
            .map_err(|error| failed(format!("device weight \"{text}\""), error))?;
    }
    Ok(())
}

/// The files that take weights.
struct Files {
    all: &'static str,
    devices: &'static str,
    scale: fn(u16) -> u32,
}

impl Files {
    fn in_group(group: &Path) -> Option<Self> {
        let same = u32::from;
        let known = [
            Self { all: "io.bfq.weight", devices: "io.bfq.weight", scale: same },
            Self { all: "io.weight", devices: "io.weight", scale: wide },
            Self { all: "blkio.weight", devices: "blkio.weight_device", scale: same },
            Self { all: "blkio.bfq.weight", devices: "blkio.bfq.weight_device", scale: same },
        ];
        known.into_iter().find(|files| group.join(files.all).exists())
    }
}

/// From 10…1000 to 1…10000.
fn wide(weight: u16) -> u32 {
    1 + u32::from(weight.saturating_sub(10)) * 9999 / 990
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn weights_go_to_the_file_that_the_kernel_has() {
        let weights = BlockWeights {
            all: Some(200),
            devices: vec![DeviceWeight { major: 8, minor: 16, weight: 1000 }],
        };
        for (all, devices, expected, expected_device) in [
            ("io.bfq.weight", "io.bfq.weight", "200", "8:16 1000"),
            ("io.weight", "io.weight", "1920", "8:16 10000"),
            ("blkio.weight", "blkio.weight_device", "200", "8:16 1000"),
            ("blkio.bfq.weight", "blkio.bfq.weight_device", "200", "8:16 1000"),
        ] {
            let group = tempfile::tempdir().unwrap();
            fs::write(group.path().join(all), "").unwrap();
            write(group.path(), &weights).unwrap();
            assert_eq!(fs::read_to_string(group.path().join(devices)).unwrap(), expected_device);
            write(group.path(), &BlockWeights { devices: Vec::new(), ..weights.clone() }).unwrap();
            assert_eq!(fs::read_to_string(group.path().join(all)).unwrap(), expected);
        }
    }

    #[test]
    fn a_kernel_without_weights_is_named() {
        let group = tempfile::tempdir().unwrap();
        let refused = write(group.path(), &BlockWeights { all: Some(10), devices: Vec::new() }).unwrap_err();
        assert_eq!(refused.to_string(), "the kernel has no weights for block devices");
        apply(group.path(), &BlockWeights::default()).unwrap();
    }

    #[test]
    fn the_scale_has_both_ends() {
        assert_eq!((wide(10), wide(1000), wide(0)), (1, 10_000, 1));
    }
}
