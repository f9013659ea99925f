//! A VM: QEMU's command line, and its process.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use tokio::{
    process::Command,
    sync::{Mutex, Notify, watch},
    time::{Instant, sleep},
};

use crate::{child::die_with_bench, image::Image, qmp};

pub(crate) const DISK: &str = "disk.qcow2";
pub(crate) const CONSOLE: &str = "console.log";
/// What answers the VM's instance metadata, in the VM's folder.
pub(crate) const METADATA: &str = "metadata.sock";
/// A link to this program in the VM's folder: QEMU would split a path with spaces.
pub(crate) const PROGRAM: &str = "aws-bench";
pub(crate) const PIPE: &str = "metadata-pipe";
const LOG: &str = "qemu.log";
const ACCELERATOR: &str = "AWS_BENCH_ACCEL";
/// MiB that translated code may take of the host's memory; QEMU's own default is a gigabyte.
const TRANSLATIONS: u32 = 256;
const LAUNCH: Duration = Duration::from_mins(1);
/// A guest that is still booting does not see the button being pressed.
const PRESS_AGAIN: Duration = Duration::from_secs(5);

/// An address and a port which lead into a VM.
pub(crate) type Forward = (Ipv4Addr, u16);

/// A VM about to be run.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) folder: PathBuf,
    pub(crate) image: Image,
    /// The account that gets the keys, where the image can be told.
    pub(crate) user: &'static str,
    pub(crate) uuid: String,
    pub(crate) instance: String,
    pub(crate) instance_type: String,
    pub(crate) mac: String,
    /// MiB.
    pub(crate) memory: u64,
    /// GiB.
    pub(crate) disk: u64,
    pub(crate) forwards: BTreeSet<Forward>,
}

/// A VM that runs.
#[derive(Debug, Clone)]
pub(crate) struct Vm {
    pub(crate) pid: u32,
    pub(crate) folder: PathBuf,
    /// What is forwarded now.
    pub(crate) forwards: Arc<Mutex<BTreeSet<Forward>>>,
    kill: Arc<Notify>,
    ended: watch::Receiver<bool>,
}

impl Machine {
    fn arguments(&self, kvm: bool) -> Vec<String> {
        let mut arguments: Vec<String> = Vec::new();
        let mut add = |words: &[&str]| arguments.extend(words.iter().map(|word| (*word).to_owned()));
        add(&["-name", &self.instance, "-uuid", &self.uuid]);
        add(&["-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35,vmport=off"]);
        if kvm {
            add(&["-accel", "kvm", "-cpu", "host"]);
        } else {
            add(&["-accel", &format!("tcg,thread=multi,tb-size={TRANSLATIONS}"), "-cpu", "max"]);
        }
        add(&["-smp", "1", "-m", &self.memory.to_string(), "-rtc", "base=utc"]);
        add(&["-smbios", "type=0,vendor=Amazon EC2,version=1.0"]);
        let system = format!(
            "type=1,manufacturer=Amazon EC2,product={},uuid={uuid},serial={uuid}",
            self.instance_type,
            uuid = self.uuid
        );
        add(&["-smbios", &system]);
        add(&["-smbios", &format!("type=3,manufacturer=Amazon EC2,asset={}", self.instance)]);
        let (kernel, initrd) = (self.image.kernel.to_string_lossy(), self.image.initrd.to_string_lossy());
        let mut command_line = self.image.command_line.clone();
        if self.image.base.is_none() {
            command_line.push_str(&format!(" machineos.user={}", self.user));
        }
        add(&["-kernel", &kernel, "-initrd", &initrd, "-append", command_line.trim()]);
        let disk = json!({
            "driver": "qcow2", "node-name": "disk", "discard": "unmap",
            "file": { "driver": "file", "filename": DISK, "discard": "unmap" },
        });
        add(&["-blockdev", &disk.to_string(), "-device", "virtio-blk-pci,drive=disk,bootindex=1"]);
        // Restricted, because all else of this network would be looked for on the host's own, where a real metadata
        // service may be: nothing leaves the VM but what is forwarded here.
        let mut network = format!(
            "user,id=net0,restrict=on,ipv6=off,net=169.254.0.0/16,host=169.254.0.2,dns=169.254.0.3,dhcpstart=169.254.10.15,\
             guestfwd=tcp:169.254.169.254:80-cmd:./{PROGRAM} {PIPE} {METADATA}"
        );
        for (address, port) in &self.forwards {
            network.push_str(&format!(",hostfwd=tcp:{address}:{port}-:{port}"));
        }
        add(&["-netdev", &network, "-device", &format!("virtio-net-pci,netdev=net0,mac={}", self.mac)]);
        add(&["-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0"]);
        add(&[
            "-chardev",
            &format!("file,id=console,path={CONSOLE},append=on"),
            "-serial",
            "chardev:console",
        ]);
        add(&["-qmp", &format!("unix:{},server=on,wait=off", qmp::SOCKET)]);
        arguments
    }

    async fn make_disk(&self) -> Result<()> {
        if self.folder.join(DISK).exists() {
            return Ok(());
        }
        let mut command = Command::new("qemu-img");
        command.args(["create", "-q", "-f", "qcow2"]).current_dir(&self.folder).stdin(Stdio::null());
        if let Some(base) = &self.image.base {
            command.arg("-b").arg(base).args(["-F", "qcow2"]);
        }
        command.args([DISK, &format!("{}G", self.disk)]);
        let output = command.output().await.context("Could not run `qemu-img`")?;
        if !output.status.success() {
            bail!("Could not make a disk: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// Runs QEMU. `ended` is called when it has ended, for whatever reason.
    pub(crate) async fn start(self, ended: impl FnOnce() + Send + 'static) -> Result<Vm> {
        self.make_disk().await?;
        let kvm = std::env::var(ACCELERATOR).is_ok_and(|value| value == "kvm");
        let log = std::fs::File::create(self.folder.join(LOG)).context("Could not write QEMU's log")?;
        let _ = std::fs::remove_file(self.folder.join(qmp::SOCKET));
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(self.arguments(kvm))
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(log))
            .kill_on_drop(true);
        die_with_bench(&mut command);
        let mut child = command.spawn().context("Could not run `qemu-system-x86_64`")?;
        let pid = child.id().unwrap_or_default();
        let deadline = Instant::now() + LAUNCH;
        while qmp::execute(&self.folder, "query-status", json!({})).await.is_err() {
            if let Some(status) = child.try_wait()? {
                bail!("QEMU ended at once ({status}): {}", read_log(&self.folder));
            }
            if Instant::now() > deadline {
                bail!("QEMU does not answer: {}", read_log(&self.folder));
            }
            sleep(Duration::from_millis(20)).await;
        }
        let kill = Arc::new(Notify::new());
        let (sender, receiver) = watch::channel(false);
        tokio::spawn({
            let kill = kill.clone();
            async move {
                tokio::select! {
                    _ = child.wait() => {}
                    () = kill.notified() => {
                        let _ = child.kill().await;
                    }
                }
                sender.send_replace(true);
                ended();
            }
        });
        Ok(Vm {
            pid,
            folder: self.folder,
            forwards: Arc::new(Mutex::new(self.forwards)),
            kill,
            ended: receiver,
        })
    }
}

fn read_log(folder: &Path) -> String {
    std::fs::read_to_string(folder.join(LOG)).unwrap_or_default()
}

impl Vm {
    pub(crate) async fn kill(&self) {
        self.kill.notify_one();
        self.wait().await;
    }

    async fn wait(&self) {
        // An error says that the sender has gone, and it goes when the VM has ended.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }

    /// Presses the power button until the VM is off, and pulls the plug after `bound`.
    pub(crate) async fn shut_down(&self, bound: Duration) {
        let deadline = Instant::now() + bound;
        while Instant::now() < deadline {
            let pressed = qmp::execute(&self.folder, "system_powerdown", json!({})).await;
            let pause = if pressed.is_ok() { PRESS_AGAIN } else { Duration::from_millis(500) };
            let left = deadline.saturating_duration_since(Instant::now());
            if tokio::time::timeout(pause.min(left), self.wait()).await.is_ok() {
                return;
            }
        }
        self.kill().await;
    }

    /// Makes exactly these addresses and ports lead into the VM. Returns what could not be done.
    pub(crate) async fn forward(&self, wanted: BTreeSet<Forward>) -> Vec<String> {
        let mut current = self.forwards.lock().await;
        let mut trouble = Vec::new();
        for (address, port) in current.difference(&wanted) {
            let rule = format!("hostfwd_remove net0 tcp:{address}:{port}");
            match qmp::human(&self.folder, &rule).await {
                Ok(said) if said.contains("removed") => {}
                Ok(said) => trouble.push(said),
                Err(error) => trouble.push(format!("{error:#}")),
            }
        }
        for (address, port) in wanted.difference(&current) {
            let rule = format!("hostfwd_add net0 tcp:{address}:{port}-:{port}");
            match qmp::human(&self.folder, &rule).await {
                Ok(said) if said.is_empty() => {}
                Ok(said) => trouble.push(said),
                Err(error) => trouble.push(format!("{error:#}")),
            }
        }
        *current = wanted;
        trouble
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(base: Option<&str>) -> Machine {
        Machine {
            folder: "/f".into(),
            image: Image {
                kernel: "/i/vmlinux".into(),
                initrd: "/i/initrd.img".into(),
                command_line: "quiet".to_owned(),
                base: base.map(Into::into),
            },
            user: "admin",
            uuid: "ec2a1b2c-0000-4000-8000-000000000000".to_owned(),
            instance: "i-0123456789abcdef0".to_owned(),
            instance_type: "t3.small".to_owned(),
            mac: "02:00:00:00:00:01".to_owned(),
            memory: 512,
            disk: 8,
            forwards: BTreeSet::from([(Ipv4Addr::new(127, 40, 0, 1), 22)]),
        }
    }

    #[test]
    fn only_the_vms_own_ports_are_listened_on() {
        let arguments = machine(None).arguments(false);
        let network = arguments.iter().find(|argument| argument.starts_with("user,")).unwrap();
        let forwards: Vec<&str> = network.split(',').filter(|part| part.starts_with("hostfwd=")).collect();
        assert_eq!(forwards, ["hostfwd=tcp:127.40.0.1:22-:22"]);
        assert!(network.contains(",restrict=on,"));
        assert!(arguments.contains(&"quiet machineos.user=admin".to_owned()));
    }

    #[test]
    fn other_images_are_not_told_who_logs_in() {
        assert!(machine(Some("/i/disk.qcow2")).arguments(true).contains(&"quiet".to_owned()));
    }
}
