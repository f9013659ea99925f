//! MachineOS from the disks that the driver makes, booted by QEMU with UEFI in Hyper-V's place. Takes the image in
//! `target/images`, QEMU and OVMF: `cargo test -p machine-driver-hyperv --test boot -- --ignored`.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

mod support;

use machine_driver::HostKey;
use support::Fixture;

/// Names OVMF's code where Debian's package does not lie.
const FIRMWARE_VARIABLE: &str = "MACHINE_TEST_OVMF";

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
#[ignore = "boots a VM"]
async fn machineos_boots_from_the_disks_and_follows_the_seed() {
    let firmware = std::env::var_os(FIRMWARE_VARIABLE)
        .map_or_else(|| PathBuf::from("/usr/share/OVMF/OVMF_CODE.fd"), PathBuf::from);
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/images");
    assert!(firmware.is_file(), "`{}` is missing: it is in Debian's package ovmf", firmware.display());
    let mut host = Fixture::new(&[("hyperv-image", "machineos")]).await;
    host.driver = host.world.driver().with_images(vec![fs::canonicalize(images).unwrap()]);
    let key = host.root.path().join("host-key");
    let made =
        Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(&key).status();
    assert!(made.unwrap().success());
    host.host_key = HostKey {
        public: fs::read_to_string(key.with_extension("pub")).unwrap().trim().to_owned(),
        private: fs::read_to_string(&key).unwrap(),
    };
    host.create().await.unwrap();

    let folder = host.view().folder;
    let disk = fs::read_to_string(folder.join("disk.vhdx")).unwrap();
    let base = disk.lines().nth(1).unwrap();
    // Hyper-V's own disks are stood in for: an empty one, and the base as it is.
    let data = host.root.path().join("data.raw");
    fs::File::create(&data).unwrap().set_len(1 << 30).unwrap();
    let console = host.root.path().join("console.log");
    let node = |name: &str, driver: &str, path: &Path, read_only: bool| {
        serde_json::json!({
            "driver": driver, "node-name": name, "read-only": read_only,
            "file": {"driver": "file", "filename": path},
        })
        .to_string()
    };
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-machine", "q35", "-m", "1024", "-nodefaults", "-display", "none", "-no-reboot"])
        .args(["-accel", "tcg,thread=single", "-cpu", "max"])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .arg("-drive")
        .arg(format!("if=pflash,format=raw,readonly=on,file={}", firmware.display()))
        .args(["-device", "virtio-scsi-pci", "-nic", "user,model=virtio-net-pci"])
        .args(["-blockdev", &node("base", "vhdx", Path::new(base), true)])
        .args(["-device", "scsi-hd,drive=base,bootindex=1"])
        .args(["-blockdev", &node("data", "raw", &data, false), "-device", "scsi-hd,drive=data"])
        .args(["-blockdev", &node("seed", "raw", &folder.join("seed.iso"), true)])
        .args(["-device", "scsi-cd,drive=seed"])
        .stdin(Stdio::null());
    let mut vm = Killed(command.spawn().unwrap());
    let began = Instant::now();
    let said = loop {
        let said =
            fs::read(&console).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default();
        if said.contains("machineos: ready") {
            break said;
        }
        assert!(!said.contains("does not listen"), "{said}");
        assert!(vm.0.try_wait().unwrap().is_none() && began.elapsed() < Duration::from_mins(5), "{said}");
        thread::sleep(Duration::from_millis(200));
    };
    assert!(said.contains("as the data disk") && said.contains(&host.host_key.public), "{said}");
    assert!(!said.contains("There is no seed"), "{said}");
    drop(vm);
    host.remove().await.unwrap();
}
