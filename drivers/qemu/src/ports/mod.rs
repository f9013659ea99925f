//! Published container ports on the VM's own address: a small process beside each VM.
//!
//! The guest says over a virtio-serial port on which ports it listens (`guest.sh`); this
//! process has QEMU forward the same ports of the VM's address. It ends when QEMU does. The guest is not trusted:
//! all it can bring about is that ports of its own address lead to itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    net::Ipv4Addr,
    os::unix::{fs::OpenOptionsExt, net::UnixStream},
    path::Path,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use crate::{
    address::ENGINE_PORTS,
    command::{CONSOLE, LOG, NETWORK, PORTS, PORTS_LOG, PORTS_MONITOR, PREVIOUS_CONSOLE},
    inside,
    qmp::{self, Qmp, QmpError},
};

/// The first argument with which the executable is run as the port forwarder.
pub(crate) const PORT_FORWARDER_WORD: &str = "__qemu-ports";

/// What the process says on its standard output once it works.
pub(crate) const READY: &str = "ready";

/// A host with more published ports than this is not a VM on somebody's desk.
const MOST_PORTS: usize = 256;
/// 256 times ` tcp:65535` and some room.
const LONGEST_LINE: usize = 4096;
const MONITOR_LIMIT: Duration = Duration::from_secs(10);
/// How long the guest is listened to before looking whether QEMU is still there.
const TICK: Duration = Duration::from_secs(2);
/// A guest that changes its mind all the time is listened to four times a second.
const BREATH: Duration = Duration::from_millis(250);
/// A port that something else on this machine has is tried again after this.
const RETRY: Duration = Duration::from_secs(10);
/// A port on which nobody listens any more is forwarded for so long: an engine that is restarted or replaced listens again
/// soon, and what is led to its containers goes on meanwhile.
const LINGER: Duration = Duration::from_secs(15);
/// A console log is cut at this size, keeping the part before in `console.log.1`.
const LARGEST_CONSOLE: u64 = 8 << 20;
const LARGEST_LOG: u64 = 64 << 10;

/// A port that the guest listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Port {
    protocol: Protocol,
    number: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// The port forwarder's `main`, given the arguments after [`PORT_FORWARDER_WORD`]: the host's id, the VM's
/// address and its SSH port. The current folder is the host's.
pub(crate) fn port_forwarder_main(arguments: &[OsString]) -> ExitCode {
    let text: Option<Vec<&str>> = arguments.iter().map(|argument| argument.to_str()).collect();
    let parsed = match text.as_deref() {
        Some([_id, address, ssh_port]) => address.parse().ok().zip(ssh_port.parse().ok()),
        _ => None,
    };
    let Some((address, ssh_port)) = parsed else { return ExitCode::from(2) };
    let folder = Path::new(".");
    let mut log = Log::open(folder);
    match Forwarder::start(folder, address, ssh_port).and_then(|mut forwarder| {
        // The caller waits for this; it may also be gone by now.
        let _ = writeln!(io::stdout(), "{READY}").and_then(|()| io::stdout().flush());
        forwarder.run(folder, &mut log)
    }) {
        // QEMU ended, and with it this work.
        Ok(()) | Err(QmpError::Closed) => ExitCode::SUCCESS,
        Err(error) => {
            log.line(&format!("{error}: {:?}", std::error::Error::source(&error).map(ToString::to_string)));
            ExitCode::FAILURE
        }
    }
}

/// Reads what the guest says. Anything but known words is ignored.
fn parse(line: &[u8], excluded: &[u16]) -> BTreeSet<Port> {
    let Ok(line) = std::str::from_utf8(line) else { return BTreeSet::new() };
    line.split_ascii_whitespace()
        .filter_map(|word| {
            let (protocol, number) = word.split_once(':')?;
            let protocol = match protocol {
                "tcp" => Protocol::Tcp,
                "udp" => Protocol::Udp,
                _ => return None,
            };
            if !number.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            Some(Port { protocol, number: number.parse().ok().filter(|number| *number != 0)? })
        })
        .filter(|port| port.protocol == Protocol::Udp || !excluded.contains(&port.number))
        .take(MOST_PORTS)
        .collect()
}

/// The lines of the guest, none longer than a bound.
#[derive(Debug, Default)]
struct Lines {
    pending: Vec<u8>,
    /// The rest of a line that was too long is skipped.
    skipping: bool,
}

impl Lines {
    /// Takes what came; gives the last whole line in it, which is all that counts.
    fn push(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut last = None;
        for byte in bytes {
            if *byte == b'\n' {
                if !std::mem::take(&mut self.skipping) {
                    last = Some(std::mem::take(&mut self.pending));
                }
                self.pending.clear();
            } else if !self.skipping {
                self.pending.push(*byte);
                self.skipping = self.pending.len() > LONGEST_LINE;
            }
        }
        last
    }
}

#[derive(Debug)]
struct Forwarder {
    monitor: Qmp,
    address: Ipv4Addr,
    /// TCP ports of the address that lead to the VM anyway.
    excluded: Vec<u16>,
    forwarded: BTreeSet<Port>,
    refused: BTreeMap<Port, Instant>,
    wanted: BTreeSet<Port>,
    leaving: Leaving,
}

/// Ports that are forwarded and not wanted any more, and since when.
#[derive(Debug, Default)]
struct Leaving(BTreeMap<Port, Instant>);

impl Leaving {
    /// Those whose time is over.
    fn over(&mut self, forwarded: &BTreeSet<Port>, wanted: &BTreeSet<Port>, now: Instant) -> Vec<Port> {
        self.0.retain(|port, _| forwarded.contains(port) && !wanted.contains(port));
        for port in forwarded.difference(wanted) {
            self.0.entry(*port).or_insert(now);
        }
        // A guest that wants others all the time keeps none.
        let linger = if forwarded.len() > MOST_PORTS { Duration::ZERO } else { LINGER };
        let over = self.0.iter().filter(|(_, since)| now.duration_since(**since) >= linger);
        over.map(|(port, _)| *port).collect()
    }
}

impl Forwarder {
    fn start(folder: &Path, address: Ipv4Addr, ssh_port: u16) -> Result<Self, QmpError> {
        let mut excluded = ENGINE_PORTS.to_vec();
        excluded.extend([22, ssh_port]);
        let mut forwarder = Self {
            monitor: Qmp::open(folder, PORTS_MONITOR, MONITOR_LIMIT)?,
            address,
            excluded,
            forwarded: BTreeSet::new(),
            refused: BTreeMap::new(),
            wanted: BTreeSet::new(),
            leaving: Leaving::default(),
        };
        forwarder.recall()?;
        forwarder.wanted.clone_from(&forwarder.forwarded);
        Ok(forwarder)
    }

    /// Learns what a forwarder before this one set up.
    fn recall(&mut self) -> Result<(), QmpError> {
        let table = self.monitor.human("info usernet")?;
        self.forwarded = forwards(&table, self.address, &self.excluded);
        Ok(())
    }

    fn run(&mut self, folder: &Path, log: &mut Log) -> Result<(), QmpError> {
        loop {
            revive_switch(folder, log);
            if let Ok(mut guest) = qmp::connect(folder, PORTS) {
                self.listen(folder, &mut guest, log)?;
            }
            self.monitor.drain()?;
            thread::sleep(BREATH);
        }
    }

    /// Until the guest's end of the line closes, which happens when QEMU ends.
    fn listen(&mut self, folder: &Path, guest: &mut UnixStream, log: &mut Log) -> Result<(), QmpError> {
        let mut lines = Lines::default();
        let mut buffer = [0; LONGEST_LINE];
        if guest.set_read_timeout(Some(TICK)).is_err() {
            return Ok(());
        }
        loop {
            match guest.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    if let Some(line) = lines.push(&buffer[..count]) {
                        self.wanted = parse(&line, &self.excluded);
                        self.reconcile(log)?;
                    }
                    thread::sleep(BREATH);
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    self.reconcile(log)?;
                }
                Err(_) => return Ok(()),
            }
            self.monitor.drain()?;
            cut(folder);
            revive_switch(folder, log);
        }
    }

    /// Makes QEMU's forwards those that are wanted.
    fn reconcile(&mut self, log: &mut Log) -> Result<(), QmpError> {
        for port in self.leaving.over(&self.forwarded, &self.wanted, Instant::now()) {
            self.monitor.human(&self.remove_command(port))?;
            self.forwarded.remove(&port);
            log.line(&format!("- {}:{}", port.protocol.name(), port.number));
        }
        self.refused.retain(|port, _| self.wanted.contains(port));
        let missing: Vec<Port> = self.wanted.difference(&self.forwarded).copied().collect();
        for port in missing {
            if self.refused.get(&port).is_some_and(|since| since.elapsed() < RETRY) {
                continue;
            }
            let answer = self.monitor.human(&self.add_command(port))?;
            if answer.is_empty() {
                self.forwarded.insert(port);
                self.refused.remove(&port);
                log.line(&format!("+ {}:{}", port.protocol.name(), port.number));
            } else if self.refused.insert(port, Instant::now()).is_none() {
                let reason: String = answer.chars().filter(|c| !c.is_control()).take(200).collect();
                log.line(&format!("! {}:{} {reason}", port.protocol.name(), port.number));
            }
        }
        Ok(())
    }

    /// Only ever from the VM's own address to the VM itself.
    fn add_command(&self, Port { protocol, number }: Port) -> String {
        format!("hostfwd_add {NETWORK} {}:{}:{number}-:{number}", protocol.name(), self.address)
    }

    fn remove_command(&self, Port { protocol, number }: Port) -> String {
        format!("hostfwd_remove {NETWORK} {}:{}:{number}", protocol.name(), self.address)
    }
}

/// The forwards in what `info usernet` prints: `  TCP[HOST_FORWARD]  12  127.1.2.3  80  10.0.2.15  80  0  0`.
fn forwards(table: &str, address: Ipv4Addr, excluded: &[u16]) -> BTreeSet<Port> {
    table
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let [kind, _, from, port, ..] = words[..] else { return None };
            let protocol = match kind {
                "TCP[HOST_FORWARD]" => Protocol::Tcp,
                "UDP[HOST_FORWARD]" => Protocol::Udp,
                _ => return None,
            };
            (from == address.to_string()).then_some(Port { protocol, number: port.parse().ok()? })
        })
        .filter(|port| port.protocol == Protocol::Udp || !excluded.contains(&port.number))
        .collect()
}

/// The switch of the network inside serves all VMs, and none of them is its parent: each sees to it that it is there.
fn revive_switch(folder: &Path, log: &mut Log) {
    // The name stands for the program also after its file was replaced.
    if let Err(error) = inside::serve(&folder.join(inside::LINK), Path::new("/proc/self/exe")) {
        log.line(&format!("{error}: {:?}", std::error::Error::source(&error).map(ToString::to_string)));
    }
}

/// A guest can write to its console for ever, and have QEMU complain; the disk of this machine is not its to fill.
/// Both are appended to, so after the cut they go on at the beginning.
fn cut(folder: &Path) {
    let too_large = |path: &Path| std::fs::metadata(path).is_ok_and(|file| file.len() > LARGEST_CONSOLE);
    let empty = |path: &Path| OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(0));
    let (console, complaints) = (folder.join(CONSOLE), folder.join(LOG));
    if too_large(&console) && std::fs::copy(&console, folder.join(PREVIOUS_CONSOLE)).is_ok() {
        let _ = empty(&console);
    }
    if too_large(&complaints) {
        let _ = empty(&complaints);
    }
}

/// What was forwarded and what could not be, for those who wonder.
#[derive(Debug)]
struct Log(Option<File>);

impl Log {
    fn open(folder: &Path) -> Self {
        let path = folder.join(PORTS_LOG);
        Self(OpenOptions::new().create(true).append(true).mode(0o600).open(path).ok())
    }

    fn line(&mut self, text: &str) {
        if let Some(file) = &mut self.0
            && file.metadata().is_ok_and(|file| file.len() < LARGEST_LOG)
        {
            let _ = writeln!(file, "{text}");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ports(line: &str) -> Vec<String> {
        let found = parse(line.as_bytes(), &[22, 2376, 3376]);
        found.iter().map(|port| format!("{}:{}", port.protocol.name(), port.number)).collect()
    }

    #[test]
    fn known_words_are_ports() {
        assert_eq!(ports(" tcp:80 udp:53 tcp:22 tcp:2376 udp:22 tcp:80"), ["tcp:80", "udp:22", "udp:53"]);
        assert!(ports("").is_empty());
    }

    #[test]
    fn a_hostile_guest_gets_nothing_but_ports() {
        for line in [
            "tcp:0",
            "tcp:65536",
            "tcp:+80",
            "tcp:-1",
            "tcp:80-10.0.0.1:80",
            "tcp:127.0.0.1:80",
            "tcp:8\u{0660}",
            "sctp:80",
            "tcp",
            "tcp:80;quit",
            "\u{1b}[2J",
        ] {
            assert!(ports(line).is_empty(), "{line:?}");
        }
        assert!(parse(b"tcp:80 \xff", &[]).is_empty());
        let many: Vec<String> = (1..2000).map(|number| format!("tcp:{number}")).collect();
        assert_eq!(parse(many.join(" ").as_bytes(), &[]).len(), MOST_PORTS);
    }

    #[test]
    fn a_line_without_an_end_takes_no_memory() {
        let mut lines = Lines::default();
        for _ in 0..1000 {
            assert_eq!(lines.push(&[b'x'; 1024]), None);
        }
        assert!(lines.pending.capacity() <= 4 * LONGEST_LINE);
        assert_eq!(lines.push(b"tail\ntcp:80\ntcp:81\ntcp"), Some(b"tcp:81".to_vec()));
        assert_eq!(lines.push(b":82\n"), Some(b"tcp:82".to_vec()));
    }

    #[test]
    fn forwards_of_an_earlier_process_are_recalled() {
        let table = "Hub -1 (net0):\r
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r
  TCP[ESTABLISHED]   21    127.20.30.40  2376       10.0.2.15  2376     0     0\r
  TCP[HOST_FORWARD]  12    127.20.30.40    22       10.0.2.15    22     0     0\r
  TCP[HOST_FORWARD]  13    127.20.30.40  8080       10.0.2.15  8080     0     0\r
  TCP[HOST_FORWARD]  14       127.0.0.9  8081       10.0.2.15  8081     0     0\r
  UDP[HOST_FORWARD]  15    127.20.30.40  5353       10.0.2.15  5353     0     0\r
  UDP[236 sec]       16       10.0.2.15 41234        10.0.2.3    53     0     0\r
";
        let found = forwards(table, Ipv4Addr::new(127, 20, 30, 40), &[22, 2376]);
        let expected = [(Protocol::Tcp, 8080), (Protocol::Udp, 5353)];
        assert_eq!(found, expected.map(|(protocol, number)| Port { protocol, number }).into());
    }

    #[test]
    fn a_port_stays_for_a_while_after_nobody_listens() {
        let set = |numbers: &[u16]| -> BTreeSet<Port> {
            numbers.iter().map(|&number| Port { protocol: Protocol::Tcp, number }).collect()
        };
        let (mut leaving, start) = (Leaving::default(), Instant::now());
        let mut over = |forwarded: &[u16], wanted: &[u16], after: Duration| -> Vec<u16> {
            let over = leaving.over(&set(forwarded), &set(wanted), start + after);
            over.iter().map(|port| port.number).collect()
        };
        assert!(over(&[80, 81], &[80], Duration::ZERO).is_empty());
        assert!(over(&[80, 81], &[80], LINGER / 2).is_empty());
        // One that comes back begins anew.
        assert!(over(&[80, 81], &[81], LINGER * 9 / 10).is_empty());
        assert!(over(&[80, 81], &[], LINGER).is_empty());
        assert_eq!(over(&[80, 81], &[], LINGER * 19 / 10), [80]);
        assert_eq!(over(&[81], &[], LINGER * 2), [81]);
        let many: Vec<u16> = (1..=u16::try_from(MOST_PORTS).unwrap() + 1).collect();
        assert_eq!(over(&many, &many[1..], LINGER * 3), [1]);
    }

    #[test]
    fn a_console_that_is_too_long_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(CONSOLE);
        std::fs::write(&path, "short").unwrap();
        cut(folder.path());
        assert_eq!(std::fs::read(&path).unwrap(), b"short");
        File::create(&path).unwrap().set_len(LARGEST_CONSOLE + 1).unwrap();
        cut(folder.path());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
        assert_eq!(
            std::fs::metadata(folder.path().join(PREVIOUS_CONSOLE)).unwrap().len(),
            LARGEST_CONSOLE + 1
        );
    }

    /// The guest's script up to its loop, with tables of our own in place of the kernel's.
    fn guest_says(shell: &str, tcp: &str, udp: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tcp"), tcp).unwrap();
        std::fs::write(folder.path().join("udp"), udp).unwrap();
        let functions = include_str!("guest.sh").split("until find_port").next().unwrap();
        let script =
            format!("{functions}\nfound=\ncollect tcp tcp 0A\ncollect udp udp 07\necho \"$found\"\n");
        let shell: Vec<&str> = shell.split(' ').collect();
        let output = std::process::Command::new(shell[0])
            .args(&shell[1..])
            .args(["-c", &script])
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    #[test]
    fn the_guest_tells_what_others_can_reach() {
        let tcp =
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1512 1 0
   1: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1512 1 0
   2: 0F02000A:01BB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1512 1 0
   3: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 00000000:00000000
   4: 00000000000000000000000001000000:0017 00000000000000000000000000000000:0000 0A 00000000:00000000
   5: 0000000000000000FFFF00000100007F:0018 00000000000000000000000000000000:0000 0A 00000000:00000000
   6: 0F02000A:0016 0202000A:EA94 01 00000000:00000000 02:000AFBCB 00000000     0        0 12203 3 0
";
        let udp = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
  14: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1512 2 0 0
  15: 00000000:0044 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1512 2 0 0
  16: 00000000:9C40 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1512 2 0 0
  17: 0100007F:0143 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1512 2 0 0
  18: 00000000:0202 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1512 2 0 0
";
        for shell in ["sh", "bash --posix", "busybox sh"] {
            if std::process::Command::new(shell.split(' ').next().unwrap()).arg("--help").output().is_err() {
                continue;
            }
            assert_eq!(guest_says(shell, tcp, udp), "tcp:8080 tcp:443 tcp:22 udp:53 udp:514", "{shell}");
        }
    }
}
