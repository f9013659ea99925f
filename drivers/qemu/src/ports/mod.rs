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

use machine_driver::local::{
    address::ENGINE_PORTS,
    ports::{LONGEST_LINE, Leaving, Lines, Port, Protocol, parse},
};

use crate::{
    command::{CONSOLE, LOG, NETWORK, PORTS, PORTS_LOG, PORTS_MONITOR, PREVIOUS_CONSOLE},
    inside,
    qmp::{self, Qmp, QmpError},
};

/// The first argument with which the executable is run as the port forwarder.
pub(crate) const PORT_FORWARDER_WORD: &str = "__qemu-ports";

/// What the process says on its standard output once it works.
pub(crate) const READY: &str = "ready";

const MONITOR_LIMIT: Duration = Duration::from_secs(10);
/// How long the guest is listened to before looking whether QEMU is still there.
const TICK: Duration = Duration::from_secs(2);
/// A guest that changes its mind all the time is listened to four times a second.
const BREATH: Duration = Duration::from_millis(250);
/// A port that something else on this machine has is tried again after this.
const RETRY: Duration = Duration::from_secs(10);
/// A console log is cut at this size, keeping the part before in `console.log.1`.
const LARGEST_CONSOLE: u64 = 8 << 20;
const LARGEST_LOG: u64 = 64 << 10;

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
}
