//! Published container ports on the VM's own address: a small process beside each VM.
//!
//! The guest says over the second serial port on which ports it listens; this process has VirtualBox forward the same
//! ports of the VM's address. VirtualBox says of a rule that it was taken, and only writes to its log when it could not
//! have the port: each is looked at before and after. It ends when the VM does.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use machine_driver::{
    DriverError, HostId, HostView, State,
    local::ports::{LONGEST_LINE, Leaving, Lines, Port, Protocol, parse},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::Command,
    time::{sleep, timeout},
};

use crate::{
    files::{self, PORTS_END, PORTS_LOCK, PORTS_LOG, ports_socket},
    info::{self, Forward},
    place::Place,
    program::{Settings, VBoxManage},
};

/// The first argument with which the executable is run as the port forwarder.
pub(crate) const PORT_FORWARDER_WORD: &str = "__virtualbox-ports";
/// What the process says on its standard output once it works.
const READY: &str = "ready";
/// How long the process may take to come up, and to end.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long the guest is listened to before looking whether the VM is still there.
const TICK: Duration = Duration::from_secs(1);
/// The VM's state is asked for so often.
const LOOK: Duration = Duration::from_secs(10);
/// A guest that changes its mind all the time is listened to four times a second.
const BREATH: Duration = Duration::from_millis(250);
/// A port that something else on this machine has is tried again after this.
const RETRY: Duration = Duration::from_secs(10);
const LARGEST_LOG: u64 = 64 << 10;

/// Whether the port forwarder of a host works.
fn is_at_work(folder: &Path) -> bool {
    let lock = OpenOptions::new().write(true).open(folder.join(PORTS_LOCK));
    lock.is_ok_and(|lock| matches!(lock.try_lock(), Err(fs::TryLockError::WouldBlock)))
}

/// Sees to it that the VM, which runs, has a port forwarder.
pub(crate) async fn start(
    helper: Option<&Path>,
    manage: &VBoxManage,
    settings: &Settings,
    host: &HostView,
    place: Place,
) -> Result<(), DriverError> {
    let folder = files::folder(host)?;
    if is_at_work(&folder) || ports_socket(&folder, &host.id).is_none() {
        return Ok(());
    }
    let helper = match helper {
        Some(helper) => helper.to_owned(),
        None => env::current_exe().map_err(|error| {
            DriverError::failed("Could not find this program's own file").with_source(error)
        })?,
    };
    let failed = || DriverError::failed(format!("Could not start the port forwarder `{}`", helper.display()));
    files::remove_if_there(&folder.join(PORTS_END)).map_err(|error| failed().with_source(error))?;
    let mut command = Command::new(&helper);
    command.arg(PORT_FORWARDER_WORD).arg(host.id.to_string());
    command.arg(serde_json::to_string(&place).map_err(|error| failed().with_source(error))?);
    command.arg(&manage.path).arg(settings.home.as_deref().unwrap_or_else(|| Path::new("")));
    command.current_dir(&folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    // Ctrl-C is not meant for it.
    #[cfg(unix)]
    command.process_group(0);
    // It has no console and belongs to no other group.
    #[cfg(windows)]
    command.creation_flags(0x0000_0008 | 0x0000_0200);
    let mut child = command.spawn().map_err(|error| failed().with_source(error))?;
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        let mut output = BufReader::new(output.take(64));
        let _ = timeout(PATIENCE, output.read_line(&mut line)).await;
    }
    if line.trim() == READY {
        return Ok(());
    }
    let _ = child.start_kill();
    Err(failed().with_source("It did not come up"))
}

/// The forwarder ends with the VM by itself; it is told to, all the same.
pub(crate) async fn end(folder: &Path) -> Result<(), DriverError> {
    let failed = || DriverError::failed("The port forwarder of the VM does not end");
    if is_at_work(folder) {
        fs::write(folder.join(PORTS_END), "").map_err(|error| failed().with_source(error))?;
        let began = Instant::now();
        while is_at_work(folder) {
            if began.elapsed() > PATIENCE {
                return Err(failed());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
    files::clear_runtime_files(folder)
        .map_err(|error| DriverError::failed("Could not remove what a run of the VM left").with_source(error))
}

/// The port forwarder's `main`, given the arguments after [`PORT_FORWARDER_WORD`]: the host's id, its place, VBoxManage,
/// and the folder of its settings or nothing. The current folder is the host's.
pub(crate) fn port_forwarder_main(arguments: &[OsString]) -> ExitCode {
    let [id, place, program, home] = arguments else { return ExitCode::from(2) };
    let read = |text: &OsString| text.to_str().map(str::to_owned);
    let (Some(id), Some(place)) = (read(id), read(place)) else { return ExitCode::from(2) };
    let (Ok(id), Ok(place)) =
        (serde_json::from_value::<HostId>(id.into()), serde_json::from_str::<Place>(&place))
    else {
        return ExitCode::from(2);
    };
    let home = (!home.is_empty()).then(|| PathBuf::from(home));
    let settings = Settings { program: Some(program.into()), home };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return ExitCode::FAILURE;
    };
    let Ok(folder) = env::current_dir() else { return ExitCode::FAILURE };
    let mut log = Log::open(&folder);
    match runtime.block_on(work(&folder, id, place, &settings, &mut log)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log.line(&format!("{error}: {:?}", std::error::Error::source(&error).map(ToString::to_string)));
            ExitCode::FAILURE
        }
    }
}

async fn work(
    folder: &Path,
    id: HostId,
    place: Place,
    settings: &Settings,
    log: &mut Log,
) -> Result<(), DriverError> {
    let failed = |error: io::Error| DriverError::failed("Could not begin").with_source(error);
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join(PORTS_LOCK))
        .map_err(failed)?;
    // Another one is faster; one is enough.
    if lock.try_lock().is_err() {
        return Ok(());
    }
    let manage = VBoxManage::find(settings).await?;
    let Some(socket) = ports_socket(folder, &id) else { return Ok(()) };
    // The caller waits for this; it may also be gone by now.
    let _ = writeln!(io::stdout(), "{READY}").and_then(|()| io::stdout().flush());
    let mut forwarder = Forwarder::new(manage, id, place);
    forwarder.run(folder, &socket, log).await
}

struct Forwarder {
    manage: VBoxManage,
    id: String,
    place: Place,
    forwarded: BTreeSet<Port>,
    wanted: BTreeSet<Port>,
    refused: BTreeMap<Port, Instant>,
    leaving: Leaving,
}

impl Forwarder {
    fn new(manage: VBoxManage, id: HostId, place: Place) -> Self {
        Self {
            manage,
            id: id.to_string(),
            place,
            forwarded: BTreeSet::new(),
            wanted: BTreeSet::new(),
            refused: BTreeMap::new(),
            leaving: Leaving::default(),
        }
    }

    /// The ports of the address that lead to the VM anyway, and the guest's own.
    fn excluded(&self) -> Vec<u16> {
        let fixed = self.place.forwards();
        fixed.iter().flat_map(|forward| [forward.port, forward.guest_port]).collect()
    }

    async fn run(&mut self, folder: &Path, socket: &Path, log: &mut Log) -> Result<(), DriverError> {
        let excluded = self.excluded();
        let mut looked: Option<Instant> = None;
        let mut guest: Option<Receiver<Vec<u8>>> = None;
        loop {
            if folder.join(PORTS_END).exists() || !folder.exists() {
                return Ok(());
            }
            if looked.is_none_or(|looked| looked.elapsed() > LOOK) {
                if !self.recall().await? {
                    return Ok(());
                }
                if looked.is_none() {
                    self.wanted.clone_from(&self.forwarded);
                }
                looked = Some(Instant::now());
            }
            let Some(said) = &guest else {
                guest = connect(socket).ok().map(listen);
                sleep(BREATH).await;
                continue;
            };
            match said.recv_timeout(BREATH) {
                Ok(line) => self.wanted = parse(&line, &excluded),
                Err(RecvTimeoutError::Timeout) => {}
                // The VM has ended, or its serial port has been closed.
                Err(RecvTimeoutError::Disconnected) => {
                    (guest, looked) = (None, None);
                    continue;
                }
            }
            self.reconcile(log).await?;
        }
    }

    /// Learns what is forwarded. `false`: the VM does not run any more.
    async fn recall(&mut self) -> Result<bool, DriverError> {
        let Some(vm) = info::look_up(&self.manage, &self.id).await? else { return Ok(false) };
        let known = vm.forwards.iter().filter_map(port_of);
        self.forwarded = known.collect();
        Ok(matches!(vm.state, State::Running | State::Paused | State::Starting))
    }

    /// Makes VirtualBox's forwards those that are wanted.
    async fn reconcile(&mut self, log: &mut Log) -> Result<(), DriverError> {
        for port in self.leaving.over(&self.forwarded, &self.wanted, Instant::now()) {
            self.tell(&["delete", &name(port)]).await?;
            self.forwarded.remove(&port);
            log.line(&format!("- {}", name(port)));
        }
        self.refused.retain(|port, _| self.wanted.contains(port));
        let missing: Vec<Port> = self.wanted.difference(&self.forwarded).copied().collect();
        for port in missing {
            if self.refused.get(&port).is_some_and(|since| since.elapsed() < RETRY) {
                continue;
            }
            if self.add(port).await? {
                self.forwarded.insert(port);
                self.refused.remove(&port);
                log.line(&format!("+ {}", name(port)));
            } else if self.refused.insert(port, Instant::now()).is_none() {
                log.line(&format!("! {} is taken on {}", name(port), self.place.address));
            }
        }
        Ok(())
    }

    /// Leads a port to the VM. `false`: somebody else has it.
    async fn add(&self, port: Port) -> Result<bool, DriverError> {
        let address = self.place.address;
        if !is_free(address, port) {
            return Ok(false);
        }
        let Port { protocol, number } = port;
        let forward = Forward {
            protocol: protocol.name().into(),
            ..Forward::tcp(&name(port), address, number, number)
        };
        self.tell(&[&forward.rule()]).await?;
        // Whatever it says, what counts is whether it has the port.
        let began = Instant::now();
        while is_free(address, port) {
            if began.elapsed() > TICK {
                self.tell(&["delete", &name(port)]).await?;
                return Ok(false);
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(true)
    }

    async fn tell(&self, rule: &[&str]) -> Result<(), DriverError> {
        let words = [&["controlvm", &self.id, "natpf1"][..], rule].concat();
        self.manage.call(&words).await.map(drop).map_err(|error| error.into_error("Could not forward a port"))
    }
}

fn name(Port { protocol, number }: Port) -> String {
    format!("{}-{number}", protocol.name())
}

/// The port of a rule that is ours to change.
fn port_of(forward: &Forward) -> Option<Port> {
    let protocol = match forward.protocol.as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    let port = Port { protocol, number: forward.port };
    (forward.name == name(port)).then_some(port)
}

fn is_free(address: Ipv4Addr, Port { protocol, number }: Port) -> bool {
    match protocol {
        Protocol::Tcp => TcpListener::bind((address, number)).is_ok(),
        Protocol::Udp => UdpSocket::bind((address, number)).is_ok(),
    }
}

/// Opens the host's end of the VM's serial port.
#[cfg(unix)]
fn connect(socket: &Path) -> io::Result<impl Read + Send + use<>> {
    std::os::unix::net::UnixStream::connect(socket)
}

/// Opens the host's end of the VM's serial port.
#[cfg(windows)]
fn connect(socket: &Path) -> io::Result<impl Read + Send + use<>> {
    OpenOptions::new().read(true).write(true).open(socket)
}

/// The lines of the guest, until its end of the line closes.
fn listen(mut guest: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    // A guest that says more than is listened to waits.
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut lines = Lines::default();
        let mut buffer = [0; LONGEST_LINE];
        while let Ok(count @ 1..) = guest.read(&mut buffer) {
            if let Some(line) = lines.push(&buffer[..count])
                && sender.send(line).is_err()
            {
                return;
            }
        }
    });
    receiver
}

/// What was forwarded and what could not be, for those who wonder.
#[derive(Debug)]
struct Log(Option<File>);

impl Log {
    fn open(folder: &Path) -> Self {
        Self(OpenOptions::new().create(true).append(true).open(folder.join(PORTS_LOG)).ok())
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
    fn only_rules_of_published_ports_are_ours_to_change() {
        let address = Ipv4Addr::new(127, 20, 30, 40);
        let of = |name: &str, port: u16| port_of(&Forward::tcp(name, address, port, port));
        assert_eq!(of("tcp-8080", 8080), Some(Port { protocol: Protocol::Tcp, number: 8080 }));
        for (name, port) in [("ssh", 22), ("tcp-8081", 8080), ("udp-8080", 8080), ("mine", 8080)] {
            assert_eq!(of(name, port), None, "{name}");
        }
    }

    #[test]
    fn a_forwarder_that_is_not_there_has_nothing_to_end() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_at_work(folder.path()));
        let lock = File::create(folder.path().join(PORTS_LOCK)).unwrap();
        assert!(!is_at_work(folder.path()));
        lock.lock().unwrap();
        assert!(is_at_work(folder.path()));
    }
}
