//! Devices: drivers for those that are there and those that come, names for virtio ports, the power button.

use std::collections::HashSet;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

use crate::console;
use crate::kernel::Modules;
use crate::supervisor::{End, Event};

/// There when every device that was present at power-on has its driver.
pub(crate) const SETTLED: &str = "/run/devices-settled";
/// The kernel's own limit for one event is 2 KiB of variables.
const EVENT_SIZE: usize = 8 * 1024;
/// `EV_KEY` and `KEY_POWER` of linux/input-event-codes.h.
const KEY_EVENT: u16 = 1;
const POWER_KEY: u16 = 116;
/// The size of `struct input_event` on 64-bit machines.
const INPUT_EVENT_SIZE: usize = 24;

/// Starts the thread that looks after devices for as long as the system runs.
pub(crate) fn watch(events: Sender<Event>) {
    thread::spawn(move || {
        let mut keeper = match Modules::of_this_kernel() {
            Ok(modules) => Keeper { modules, seen: HashSet::new(), watched: HashSet::new(), events },
            Err(failure) => {
                console::say(&format!("There are no modules for this kernel: {failure}"));
                return;
            }
        };
        // Listening comes first, so that nothing slips between the scan and the first event.
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(KOBJECT_UEVENT),
        )
        .and_then(|socket| {
            rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 1))?;
            Ok(socket)
        });
        keeper.cold_plug();
        let _ = fs::write(SETTLED, "");
        let socket = match socket {
            Ok(socket) => socket,
            Err(failure) => {
                console::say(&format!("New devices will not be noticed: {failure}"));
                return;
            }
        };
        let mut buffer = vec![0; EVENT_SIZE];
        loop {
            match rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((length, _)) => keeper.handle(&buffer[..length.min(EVENT_SIZE)]),
                // Some were lost: look at everything again.
                Err(rustix::io::Errno::NOBUFS) => keeper.cold_plug(),
                Err(_) => thread::sleep(Duration::from_millis(100)),
            }
        }
    });
}

struct Keeper {
    modules: Modules,
    /// Aliases that were looked up before.
    seen: HashSet<String>,
    /// Input devices with a thread that waits for the power button.
    watched: HashSet<PathBuf>,
    events: Sender<Event>,
}

impl Keeper {
    fn cold_plug(&mut self) {
        loop {
            let mut found: Vec<String> =
                present_aliases().into_iter().filter(|alias| !self.seen.contains(alias)).collect();
            // Disks and networks of virtual machines come first: what is slow to probe keeps nobody waiting then.
            let Some(first) = found.iter().map(|alias| urgency(alias)).min() else { break };
            found.retain(|alias| urgency(alias) == first);
            found.sort();
            for alias in found {
                self.modules.load_for(&alias);
                self.seen.insert(alias);
            }
        }
        if let Err(failure) = self.modules.load("evdev") {
            console::say(&format!("The power button cannot be heard: {failure}"));
        }
        for port in entries("/sys/class/virtio-ports") {
            name_port(&port);
        }
        for device in entries("/sys/class/input") {
            self.watch_button(&device);
        }
    }

    fn handle(&mut self, message: &[u8]) {
        let mut kind = "";
        let (mut path, mut alias, mut subsystem) = ("", "", "");
        for field in message.split(|&byte| byte == 0).filter_map(|field| std::str::from_utf8(field).ok()) {
            match field.split_once('=') {
                Some(("ACTION", value)) => kind = value,
                Some(("DEVPATH", value)) => path = value,
                Some(("MODALIAS", value)) => alias = value,
                Some(("SUBSYSTEM", value)) => subsystem = value,
                _ => {}
            }
        }
        if kind != "add" && kind != "change" {
            return;
        }
        if !alias.is_empty() {
            self.modules.load_for(alias);
        }
        let device = PathBuf::from(format!("/sys{path}"));
        match subsystem {
            "virtio-ports" => name_port(&device),
            "input" => self.watch_button(&device),
            _ => {}
        }
    }

    fn watch_button(&mut self, device: &Path) {
        let Some(name) = device.file_name().filter(|name| name.to_string_lossy().starts_with("event")) else {
            return;
        };
        let node = Path::new("/dev/input").join(name);
        if !self.watched.insert(node.clone()) {
            return;
        }
        let events = self.events.clone();
        thread::spawn(move || {
            let Ok(mut input) = fs::File::open(&node) else { return };
            let mut record = [0; INPUT_EVENT_SIZE];
            while input.read_exact(&mut record).is_ok() {
                if is_power_key(&record) && events.send(Event::Shutdown(End::PowerOff)).is_err() {
                    return;
                }
            }
        });
    }
}

fn is_power_key(record: &[u8; INPUT_EVENT_SIZE]) -> bool {
    let kind = u16::from_ne_bytes([record[16], record[17]]);
    let code = u16::from_ne_bytes([record[18], record[19]]);
    let value = i32::from_ne_bytes([record[20], record[21], record[22], record[23]]);
    kind == KEY_EVENT && code == POWER_KEY && value == 1
}

fn urgency(alias: &str) -> u8 {
    if alias.starts_with("virtio:") || alias.starts_with("vmbus:") {
        0
    } else if alias.starts_with("pci:v00001AF4")
        || alias.starts_with("acpi:VMBUS")
        || alias.starts_with("scsi:")
    {
        1
    } else {
        2
    }
}

fn present_aliases() -> HashSet<String> {
    let mut found = HashSet::new();
    for bus in entries("/sys/bus") {
        for device in entries(bus.join("devices")) {
            if let Ok(alias) = fs::read_to_string(device.join("modalias")) {
                found.insert(alias.trim_end().to_owned());
            }
        }
    }
    found
}

/// The entries of a folder; none when it is absent.
pub(crate) fn entries(folder: impl AsRef<Path>) -> Vec<PathBuf> {
    let Ok(listing) = fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<PathBuf> = listing.flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}

/// Gives a virtio port the name that its host chose: `/dev/virtio-ports/NAME`.
fn name_port(device: &Path) {
    let (Some(node), Ok(name)) = (device.file_name(), fs::read_to_string(device.join("name"))) else {
        return;
    };
    let name = name.trim_end();
    if !may_name_a_file(name) {
        return;
    }
    let folder = Path::new("/dev/virtio-ports");
    let link = folder.join(name);
    let _ = fs::create_dir_all(folder);
    let _ = fs::remove_file(&link);
    let _ = std::os::unix::fs::symlink(Path::new("..").join(node), &link);
}

fn may_name_a_file(name: &str) -> bool {
    !matches!(name, "" | "." | "..")
        && name.len() < 128
        && name.chars().all(|letter| letter.is_ascii_graphic() && letter != '/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_names_stay_in_their_folder() {
        for name in ["", ".", "..", "../sda", "a/b", "a b", "a\nb", &"x".repeat(200)] {
            assert!(!may_name_a_file(name), "{name}");
        }
        assert!(may_name_a_file("org.qemu.guest_agent.0"));
    }

    #[test]
    fn only_the_press_of_the_power_key_counts() {
        let record = |kind: u16, code: u16, value: i32| {
            let mut record = [0; INPUT_EVENT_SIZE];
            record[16..18].copy_from_slice(&kind.to_ne_bytes());
            record[18..20].copy_from_slice(&code.to_ne_bytes());
            record[20..24].copy_from_slice(&value.to_ne_bytes());
            record
        };
        assert!(is_power_key(&record(1, 116, 1)));
        assert!(!is_power_key(&record(1, 116, 0)));
        assert!(!is_power_key(&record(1, 30, 1)));
        assert!(!is_power_key(&record(0, 116, 1)));
    }

    #[test]
    fn virtual_disks_and_networks_come_first() {
        let mut aliases = ["pci:v00008086d00007010", "pci:v00001AF4d00001001", "virtio:d00000002v00001AF4"];
        aliases.sort_by_key(|alias| urgency(alias));
        assert_eq!(aliases[0], "virtio:d00000002v00001AF4");
        assert_eq!(aliases[2], "pci:v00008086d00007010");
    }
}
