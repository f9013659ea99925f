//! The process: takes frames from the VMs' sockets and gives them to others, until no VM is left.

use std::{
    collections::HashSet,
    ffi::OsString,
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::{fs::OpenOptionsExt, net::UnixDatagram},
    path::Path,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use crate::{
    Dropped, LARGEST_FRAME, Switch,
    network::{LOCK, LOG, Network, READY, SOCKET, STARTING, lock_file, port_of_socket},
};

/// The first argument with which the executable has to call [`switch_main`].
pub const SWITCH_WORD: &str = "__switch";

/// How often it is looked whether a VM is left.
const TICK: Duration = Duration::from_secs(5);
/// Another switch that runs or is coming up is waited for as long.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);
/// Frames in a row, after which it is looked at the clock.
const BATCH: usize = 256;
/// Different things that are written to the log at most.
const MOST_LINES: usize = 256;
/// Bytes of earlier switches that are kept in the log.
const LARGEST_LOG: u64 = 64 * 1024;

/// The switch's `main`, given the arguments after [`SWITCH_WORD`]. The current folder is the network's.
pub fn switch_main(arguments: &[OsString]) -> ExitCode {
    if arguments.len() != 1 {
        return ExitCode::from(2);
    }
    // Neither Ctrl-C nor the end of the caller's terminal is meant for it. It may have its session already.
    let _ = rustix::process::setsid();
    let Some(network) = Network::existing(Path::new(".")) else { return ExitCode::FAILURE };
    let lock = match take_lock(&network) {
        Ok(Some(lock)) => lock,
        // Another one serves the network.
        Ok(None) => return say_ready(),
        Err(_) => return ExitCode::FAILURE,
    };
    // The log is of the one that has the lock.
    let mut log = Log::open();
    let outcome = run(&network, &mut log);
    drop(lock);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log.line(&format!("The switch failed: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(network: &Network, log: &mut Log) -> io::Result<()> {
    match std::fs::remove_file(SOCKET) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixDatagram::bind(SOCKET)?;
    socket.set_nonblocking(true)?;
    let mut service = Service { network, socket, switch: Switch::new(), unknown: HashSet::new(), log };
    service.look();
    say_ready();
    service.serve()
}

/// The lock, or nothing if another switch has it and answers.
fn take_lock(network: &Network) -> io::Result<Option<File>> {
    let mut lock = lock_file(Path::new(LOCK))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match lock.try_lock() {
            Ok(()) => {
                lock.set_len(0)?;
                writeln!(lock, "{}", std::process::id())?;
                return Ok(Some(lock));
            }
            Err(std::fs::TryLockError::Error(error)) => return Err(error),
            Err(std::fs::TryLockError::WouldBlock) if network.is_served() => return Ok(None),
            Err(std::fs::TryLockError::WouldBlock) if Instant::now() > deadline => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "another switch does not come up"));
            }
            Err(std::fs::TryLockError::WouldBlock) => thread::sleep(PAUSE),
        }
    }
}

/// The caller waits for this; it may also be gone by now.
fn say_ready() -> ExitCode {
    let mut output = io::stdout();
    let _ = writeln!(output, "{READY}").and_then(|()| output.flush());
    ExitCode::SUCCESS
}

struct Service<'a> {
    network: &'a Network,
    socket: UnixDatagram,
    switch: Switch,
    /// Senders without settings, which are not looked up for each frame.
    unknown: HashSet<String>,
    log: &'a mut Log,
}

impl Service<'_> {
    fn serve(&mut self) -> io::Result<()> {
        // One byte more, so that a frame which is cut off is seen to be.
        let mut buffer = vec![0; LARGEST_FRAME + 1];
        let mut looked = Instant::now();
        loop {
            let mut wants_look = looked.elapsed() >= TICK;
            if !wants_look && self.wait(TICK.saturating_sub(looked.elapsed()))? {
                wants_look = self.take(&mut buffer)?;
            }
            if wants_look {
                self.look();
                looked = Instant::now();
                if self.is_over()? {
                    return Ok(());
                }
            }
        }
    }

    /// Whether something came.
    fn wait(&self, limit: Duration) -> io::Result<bool> {
        let mut descriptors = [PollFd::new(&self.socket, PollFlags::IN)];
        let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
        match poll(&mut descriptors, Some(&limit)) {
            Ok(count) => Ok(count > 0),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes what is there. `true`: somebody asks to look around.
    fn take(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        for _ in 0..BATCH {
            let (length, sender) = match self.socket.recv_from(buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            match sender.as_pathname().and_then(port_of_socket) {
                Some(port) => {
                    let port = port.to_owned();
                    self.forward(&port, &buffer[..length]);
                }
                None if length == 0 => return Ok(true),
                None => {}
            }
        }
        Ok(false)
    }

    fn forward(&mut self, from: &str, frame: &[u8]) {
        if self.switch.port(from).is_none() && !self.unknown.contains(from) {
            self.plug(from);
        }
        match self.switch.forward(from, frame, Instant::now()) {
            Ok(ports) => {
                for port in ports {
                    // A VM that does not take it in time, or that is gone, loses it, as on any Ethernet.
                    let _ = self.socket.send_to(frame, Network::port_socket(port));
                }
            }
            // Ordinary: others listen to nothing of the kind, or are not there yet.
            Err(Dropped::Nowhere | Dropped::Refused | Dropped::NoPort) => {}
            Err(reason @ (Dropped::Malformed | Dropped::Offence(_))) => {
                self.log.once(&format!("dropped from {from}: {reason:?}"));
            }
        }
    }

    /// Takes up the settings of all ports as they are now.
    fn look(&mut self) {
        self.unknown.clear();
        let Ok(present) = self.network.ports() else { return };
        let known: Vec<String> = self.switch.ports().map(str::to_owned).collect();
        for port in known.iter().filter(|port| !present.contains(port)) {
            self.switch.unplug(port);
        }
        // Hardware addresses may have changed hands: all that are given up are free before one is taken.
        for port in &present {
            let before = self.switch.port(port).map(|settings| settings.mac);
            let now = self.network.settings(port).ok().flatten().map(|settings| settings.mac);
            if before.is_some() && before != now {
                self.switch.unplug(port);
            }
        }
        for port in present {
            self.plug(&port);
        }
    }

    fn plug(&mut self, port: &str) {
        let plugged = match self.network.settings(port) {
            Ok(Some(settings)) => {
                let plugged = self.switch.plug(port, settings);
                if !plugged {
                    self.log.once(&format!(
                        "{port} is not on the network: there are too many, or two with one address"
                    ));
                }
                plugged
            }
            Ok(None) => false,
            Err(error) => {
                self.log.once(&format!("{error}: {:?}", std::error::Error::source(&error)));
                // What cannot be read lets nothing through.
                self.switch.unplug(port);
                false
            }
        };
        if !plugged && self.unknown.len() < crate::MOST_PORTS {
            self.unknown.insert(port.to_owned());
        }
    }

    /// Whether no VM is left, nor one about to be started. Then the socket is gone, too.
    fn is_over(&self) -> io::Result<bool> {
        let starting = lock_file(Path::new(STARTING))?;
        if starting.try_lock().is_err() {
            return Ok(false);
        }
        if self.network.ports()?.iter().any(|port| self.network.is_used(port)) {
            return Ok(false);
        }
        // Whoever starts a VM now waits for the lock, and by then this one does not answer any more.
        std::fs::remove_file(SOCKET)?;
        Ok(true)
    }
}

/// What was dropped, for those who wonder: each kind of thing once.
struct Log {
    file: Option<File>,
    said: HashSet<String>,
}

impl Log {
    fn open() -> Self {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(LOG);
        // What earlier ones wrote stays, as long as it is not much.
        let file = file.and_then(|file| {
            if file.metadata()?.len() > LARGEST_LOG {
                file.set_len(0)?;
            }
            Ok(file)
        });
        Self { file: file.ok(), said: HashSet::new() }
    }

    fn once(&mut self, text: &str) {
        if self.said.len() < MOST_LINES && self.said.insert(text.to_owned()) {
            self.line(text);
        }
    }

    fn line(&mut self, text: &str) {
        if let Some(file) = &mut self.file {
            let _ = writeln!(file, "{text}");
        }
    }
}
