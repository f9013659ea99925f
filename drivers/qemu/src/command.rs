//! QEMU's command line for a VM.

use std::{net::Ipv4Addr, path::Path};

use machine_driver::{DriverError, HostId, HostName};
use serde_json::{Value, json};

use crate::{
    accelerator::Accelerator,
    address::{ENGINE_PORTS, Place},
    emulator::SANDBOX,
    image::{Image, Services},
    inside::{self, Inside},
};

/// Files in a host's folder.
pub(crate) const DISK: &str = "disk.qcow2";
pub(crate) const SEED: &str = "seed.iso";
pub(crate) const CONSOLE: &str = "console.log";
pub(crate) const PREVIOUS_CONSOLE: &str = "console.log.1";
pub(crate) const PID_FILE: &str = "qemu.pid";
pub(crate) const LOG: &str = "qemu.log";
pub(crate) const MONITOR: &str = "qmp.sock";
/// The port forwarder's own monitor: each serves one client at a time.
pub(crate) const PORTS_MONITOR: &str = "ports-qmp.sock";
pub(crate) const PORTS: &str = "ports.sock";
pub(crate) const PORTS_LOG: &str = "ports.log";
/// Names inside the VM's configuration.
pub(crate) const NETWORK: &str = "net0";
/// The second interface, on the network inside the store.
pub(crate) const INSIDE: &str = "net1";
pub(crate) const PORTS_CHANNEL: &str = "org.machine.ports";

/// MachineOS then keeps containers from this machine's loopback.
const HOST_LOOPBACK_DENIED: &str = " machineos.host-loopback=deny";

/// A VM about to be run.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    pub(crate) name: &'a HostName,
    pub(crate) id: &'a HostId,
    /// QEMU runs in this folder, so that the paths of its sockets are short.
    pub(crate) folder: &'a Path,
    pub(crate) image: &'a Image,
    pub(crate) place: Place,
    pub(crate) accelerator: Accelerator,
    pub(crate) cpus: usize,
    /// MiB.
    pub(crate) memory: u64,
    /// `None`: it is not on the network inside the store.
    pub(crate) inside: Option<Inside>,
    pub(crate) host_loopback: bool,
    /// Not all builds of QEMU can be sandboxed.
    pub(crate) sandbox: bool,
}

impl Machine<'_> {
    pub(crate) fn arguments(&self) -> Result<Vec<String>, DriverError> {
        let mut arguments: Vec<String> = Vec::new();
        let mut add = |words: &[&str]| arguments.extend(words.iter().map(|word| (*word).to_owned()));
        add(&["-name", &format!("guest={}", self.name), "-uuid", &self.id.to_string()]);
        add(&["-nodefaults", "-no-user-config", "-display", "none", "-pidfile", PID_FILE]);
        if self.sandbox {
            add(&["-sandbox", SANDBOX]);
        }
        add(&["-machine", "q35,vmport=off", "-rtc", "base=utc"]);
        match self.accelerator {
            Accelerator::Kvm => add(&["-accel", "kvm", "-cpu", "host"]),
            // With a thread for each processor, QEMU 7.2 goes on running the breakpoint that Linux puts in place of an instruction
            // while it changes it, long after it is gone from memory: the VM hangs. Seen once, on a machine under load.
            Accelerator::Tcg => add(&["-accel", "tcg,thread=single", "-cpu", "max"]),
        }
        add(&["-smp", &self.cpus.to_string(), "-m", &self.memory.to_string()]);
        if let Some(kernel) = &self.image.kernel {
            add(&["-kernel", text(&kernel.file)?, "-initrd", text(&kernel.initrd)?]);
            let deny = self.image.services == Services::MachineOs && !self.host_loopback;
            let deny = if deny { HOST_LOOPBACK_DENIED } else { "" };
            add(&["-append", &format!("{}{deny}", kernel.command_line)]);
        }
        add(&["-blockdev", &self.disk()?.to_string()]);
        add(&["-device", "virtio-blk-pci,drive=disk,bootindex=1"]);
        let seed = json!({
            "driver": "raw", "node-name": "seed", "read-only": true,
            "file": { "driver": "file", "filename": text(&self.folder.join(SEED))? },
        });
        add(&["-blockdev", &seed.to_string(), "-device", "virtio-blk-pci,drive=seed"]);
        add(&[
            "-netdev",
            &self.network(),
            "-device",
            &format!("virtio-net-pci,netdev={NETWORK},mac={}", mac(self.id)),
        ]);
        add(&["-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0"]);
        add(&[
            "-chardev",
            &format!("file,id=console,path={CONSOLE},append=on"),
            "-serial",
            "chardev:console",
        ]);
        for monitor in [MONITOR, PORTS_MONITOR] {
            add(&["-qmp", &format!("unix:{monitor},server=on,wait=off")]);
        }
        add(&["-device", "virtio-serial-pci", "-chardev"]);
        add(&[&format!("socket,id=ports,path={PORTS},server=on,wait=off")]);
        add(&["-device", &format!("virtserialport,chardev=ports,name={PORTS_CHANNEL}")]);
        // Last, so that the places of all others on the bus stay what they are in VMs without it.
        if let Some(inside) = self.inside {
            add(&["-netdev", &inside::netdev(self.id, INSIDE)]);
            add(&["-device", &format!("virtio-net-pci,netdev={INSIDE},mac={}", inside::mac(inside))]);
        }
        Ok(arguments)
    }

    /// The base is named here, so what the disk's own header says is not followed.
    fn disk(&self) -> Result<Value, DriverError> {
        let backing = match &self.image.base {
            None => Value::Null,
            Some(base) => json!({
                "driver": base.format.name(),
                "file": { "driver": "file", "filename": text(&base.path)? },
            }),
        };
        Ok(json!({
            "driver": "qcow2", "node-name": "disk", "discard": "unmap",
            "file": { "driver": "file", "filename": text(&self.folder.join(DISK))?, "discard": "unmap" },
            "backing": backing,
        }))
    }

    fn network(&self) -> String {
        let Place { address, ssh_port } = self.place;
        // Without a route to the IPv6 Internet guests would wait for it.
        let mut network = format!("user,id={NETWORK},ipv6=off");
        network.push_str(&forward(address, ssh_port, 22));
        for port in ENGINE_PORTS {
            network.push_str(&forward(address, port, port));
        }
        network
    }
}

/// The first interface's hardware address: locally administered, and always the same, from the host's id.
pub(crate) fn mac(id: &HostId) -> String {
    let digits: Vec<char> = id.to_string().chars().filter(char::is_ascii_hexdigit).take(6).collect();
    let pair = |at: usize| digits[at..at + 2].iter().collect::<String>();
    format!("52:54:00:{}:{}:{}", pair(0), pair(2), pair(4))
}

fn forward(address: Ipv4Addr, port: u16, guest: u16) -> String {
    format!(",hostfwd=tcp:{address}:{port}-:{guest}")
}

/// QEMU's options are text.
fn text(path: &Path) -> Result<&str, DriverError> {
    path.to_str().ok_or_else(|| {
        DriverError::refused(format!("The path `{}` is not UTF-8, which QEMU needs", path.display()))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use machine_driver::local::disk::Format;

    use super::*;
    use crate::image::{Base, Kernel, Services};

    fn image(base: Option<Base>) -> Image {
        Image {
            name: "x".into(),
            version: "1".into(),
            user: "docker".into(),
            services: Services::Systemd,
            kernel: base.is_none().then(|| Kernel {
                file: "/c/vmlinux".into(),
                initrd: "/c/initrd.img".into(),
                command_line: "console=ttyS0 quiet".into(),
            }),
            base,
        }
    }

    fn arguments(image: &Image, folder: &str, accelerator: Accelerator) -> Vec<String> {
        arguments_with(image, folder, accelerator, None, false)
    }

    fn arguments_with(
        image: &Image,
        folder: &str,
        accelerator: Accelerator,
        inside: Option<Inside>,
        host_loopback: bool,
    ) -> Vec<String> {
        let (name, id) = ("mc1".parse().unwrap(), HostId::random());
        let place = Place { address: Ipv4Addr::new(127, 20, 30, 40), ssh_port: 2222 };
        let folder = Path::new(folder);
        Machine {
            name: &name,
            id: &id,
            folder,
            image,
            place,
            accelerator,
            cpus: 2,
            memory: 1024,
            inside,
            host_loopback,
            sandbox: true,
        }
        .arguments()
        .unwrap()
    }

    fn after<'a>(arguments: &'a [String], option: &str) -> Vec<&'a str> {
        arguments.windows(2).filter(|pair| pair[0] == option).map(|pair| pair[1].as_str()).collect()
    }

    #[test]
    fn only_the_vms_own_address_is_listened_on() {
        let arguments = arguments(&image(None), "/f", Accelerator::Tcg);
        let network = after(&arguments, "-netdev")[0];
        let forwards: Vec<&str> = network.split(',').filter(|part| part.starts_with("hostfwd=")).collect();
        assert_eq!(
            forwards,
            [
                "hostfwd=tcp:127.20.30.40:2222-:22",
                "hostfwd=tcp:127.20.30.40:2376-:2376",
                "hostfwd=tcp:127.20.30.40:3376-:3376",
            ]
        );
    }

    #[test]
    fn a_path_with_commas_and_quotes_stays_one_path() {
        let folder = "/a,b\"c,readonly=on";
        let arguments = arguments(&image(None), folder, Accelerator::Tcg);
        let disk: Value = serde_json::from_str(after(&arguments, "-blockdev")[0]).unwrap();
        assert_eq!(disk["file"]["filename"], format!("{folder}/disk.qcow2"));
        assert!(disk["backing"].is_null());
    }

    #[test]
    fn the_base_is_named_with_its_format_so_that_nothing_is_guessed() {
        let base = Base { path: "/c/disk.raw".into(), format: Format::Raw, size: 1 };
        let arguments = arguments(&image(Some(base)), "/f", Accelerator::Kvm);
        let disk: Value = serde_json::from_str(after(&arguments, "-blockdev")[0]).unwrap();
        assert_eq!(
            disk["backing"],
            json!({"driver": "raw", "file": {"driver": "file", "filename": "/c/disk.raw"}})
        );
        assert!(after(&arguments, "-kernel").is_empty());
        assert_eq!((after(&arguments, "-accel"), after(&arguments, "-cpu")), (vec!["kvm"], vec!["host"]));
    }

    #[test]
    fn a_kernel_is_booted_directly() {
        let arguments = arguments(&image(None), "/f", Accelerator::Tcg);
        assert_eq!(after(&arguments, "-kernel"), ["/c/vmlinux"]);
        assert_eq!(after(&arguments, "-append"), ["console=ttyS0 quiet"]);
        assert_eq!(after(&arguments, "-accel"), ["tcg,thread=single"]);
    }

    /// Names of interfaces follow from places on the bus: what a VM of an older version has stays where it is.
    #[test]
    fn the_second_interface_comes_last() {
        let inside = Inside { address: Ipv4Addr::new(10, 200, 1, 2), prefix_length: 20 };
        let plain = arguments(&image(None), "/f", Accelerator::Tcg);
        let joined = arguments_with(&image(None), "/f", Accelerator::Tcg, Some(inside), false);
        let devices = |arguments: &[String]| -> Vec<String> {
            let devices = after(arguments, "-device").into_iter();
            devices.filter(|device| !device.contains("netdev=net0")).map(str::to_owned).collect()
        };
        let (plain, mut joined_devices) = (devices(&plain), devices(&joined));
        assert_eq!(joined_devices.pop().as_deref(), Some("virtio-net-pci,netdev=net1,mac=52:54:0a:c8:01:02"));
        assert_eq!(joined_devices, plain);
        let network = after(&joined, "-netdev")[1];
        assert!(network.starts_with("dgram,id=net1,local.type=unix,local.path=inside/"), "{network}");
        assert!(network.ends_with(",remote.type=unix,remote.path=inside/switch.sock"), "{network}");
    }

    #[test]
    fn machineos_is_told_to_keep_off_the_hosts_loopback() {
        let machineos = Image { services: Services::MachineOs, ..image(None) };
        let line = |image, host_loopback| {
            let arguments = arguments_with(image, "/f", Accelerator::Tcg, None, host_loopback);
            after(&arguments, "-append")[0].to_owned()
        };
        assert_eq!(line(&machineos, false), "console=ttyS0 quiet machineos.host-loopback=deny");
        assert_eq!(line(&machineos, true), "console=ttyS0 quiet");
        assert_eq!(line(&image(None), false), "console=ttyS0 quiet");
    }
}
