//! Process 1 of the running system: mounts what every system has, keeps services alive, reaps, and ends it all.
//!
//! ```text
//!          start                    exits, after a pause
//! Stopped ───────▶ Running ◀───────────────────────── Waiting
//!    ▲                │ exits while wanted ─────────────▲
//!    └── stop, exits ─┘
//! ```
//!
//! One thread owns all state and takes [`Event`]s from the threads that wait for things: children that end, requests
//! on the socket, the power button.

mod base;
mod end;
mod log;
pub(crate) mod protocol;
mod service;

pub(crate) use service::PATH;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitOptions};

use crate::command_line;
use crate::console;
use crate::devices;
use protocol::{Reply, Request};
use service::Service;

/// Where services are looked for, the first place that has the name wins.
const PLACES: [&str; 3] = ["/run/services", "/usr/lib/machineos/services", "/etc/services"];
/// How often back-off and deadlines are looked at when nothing else happens.
const TICK: Duration = Duration::from_millis(100);
/// No request is longer than this.
const REQUEST_SIZE: u64 = 1024;

/// How the system ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    PowerOff,
    Reboot,
}

/// What wakes the supervisor.
#[derive(Debug)]
pub(crate) enum Event {
    Exited(Pid, String),
    /// No child is left.
    Childless,
    Asked(Request, Sender<Reply>),
    Shutdown(End),
}

/// Never returns while the system lives.
pub(crate) fn run() -> ExitCode {
    base::prepare();
    let (sender, events) = mpsc::channel();
    devices::watch(sender.clone());
    reap(sender.clone());
    listen(sender);
    let mut supervisor = Supervisor { services: BTreeMap::new() };
    if let Err(failure) = Command::new("/sbin/init").arg("boot").spawn() {
        console::say(&format!("The boot process could not be started: {failure}"));
    }
    if command_line::wants_shell() {
        supervisor.start_shell();
    }
    let end = supervisor.attend(&events);
    end::finish(end, &mut supervisor.services, &events);
    ExitCode::FAILURE
}

struct Supervisor {
    services: BTreeMap<String, Service>,
}

impl Supervisor {
    fn attend(&mut self, events: &Receiver<Event>) -> End {
        loop {
            match events.recv_timeout(TICK) {
                Ok(Event::Exited(pid, how)) => {
                    for service in self.services.values_mut() {
                        service.exited(pid, &how);
                    }
                }
                Ok(Event::Asked(Request::End(end), reply)) => {
                    let _ = reply.send(Reply::done("The system is going down"));
                    return end;
                }
                Ok(Event::Asked(request, reply)) => {
                    let _ = reply.send(self.answer(&request));
                }
                Ok(Event::Shutdown(end)) => return end,
                Ok(Event::Childless) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => thread::sleep(TICK),
            }
            let now = Instant::now();
            for service in self.services.values_mut() {
                service.tick(now);
            }
        }
    }

    fn answer(&mut self, request: &Request) -> Reply {
        match request {
            Request::Start(name) => match self.find(name) {
                Some(service) => service.start(),
                None => Reply::unknown(name),
            },
            Request::Stop(name) => self.existing(name, Service::stop),
            Request::Restart(name) => match self.find(name) {
                Some(service) => service.restart(),
                None => Reply::unknown(name),
            },
            Request::Reload(name) => self.existing(name, Service::reload),
            Request::Status(name) => match self.find(name) {
                Some(service) => service.status(),
                None => Reply::unknown(name),
            },
            Request::List => {
                let lines: Vec<String> =
                    self.services.values().map(|service| service.status().text).collect();
                Reply::done(&lines.join("\n"))
            }
            Request::End(_) => Reply::done(""),
        }
    }

    fn existing(&mut self, name: &str, act: impl FnOnce(&mut Service) -> Reply) -> Reply {
        self.find(name).map_or_else(|| Reply::unknown(name), act)
    }

    /// A known service, or one whose folder has come since.
    fn find(&mut self, name: &str) -> Option<&mut Service> {
        if !self.services.contains_key(name) {
            let run = PLACES
                .iter()
                .map(|place| Path::new(place).join(name).join("run"))
                .find(|run| run.is_file())?;
            self.services.insert(name.to_owned(), Service::new(name, run));
        }
        self.services.get_mut(name)
    }

    fn start_shell(&mut self) {
        let run = Path::new("/usr/lib/machineos/shell").to_path_buf();
        let mut shell = Service::on_console("shell", run);
        shell.start();
        self.services.insert("shell".to_owned(), shell);
    }
}

/// Waits for children, our own and those left by others.
fn reap(events: Sender<Event>) {
    thread::spawn(move || {
        let mut told = false;
        loop {
            let event = match rustix::process::wait(WaitOptions::empty()) {
                Ok(Some((pid, status))) => {
                    told = false;
                    Event::Exited(pid, service::describe(status))
                }
                _ if told => {
                    thread::sleep(TICK);
                    continue;
                }
                _ => {
                    told = true;
                    Event::Childless
                }
            };
            if events.send(event).is_err() {
                return;
            }
        }
    });
}

/// Takes requests from root on the socket.
fn listen(events: Sender<Event>) {
    thread::spawn(move || {
        let listener = match UnixListener::bind(protocol::SOCKET) {
            Ok(listener) => listener,
            Err(failure) => {
                console::say(&format!("Services cannot be controlled: {failure}"));
                return;
            }
        };
        let _ = std::fs::set_permissions(protocol::SOCKET, std::fs::Permissions::from_mode(0o600));
        for connection in listener.incoming() {
            let Ok(connection) = connection else { continue };
            let events = events.clone();
            thread::spawn(move || serve(connection, &events));
        }
    });
}

fn serve(mut connection: UnixStream, events: &Sender<Event>) {
    let _ = connection.set_read_timeout(Some(Duration::from_secs(5)));
    let mut line = String::new();
    if BufReader::new((&connection).take(REQUEST_SIZE)).read_line(&mut line).is_err() {
        return;
    }
    let reply = match line.trim_end().parse::<Request>() {
        Ok(request) => {
            let (sender, replies) = mpsc::channel();
            if events.send(Event::Asked(request, sender)).is_err() {
                return;
            }
            replies.recv().unwrap_or_else(|_| Reply::failed("The system is going down"))
        }
        Err(failure) => Reply::failed(&failure.to_string()),
    };
    let _ = connection.write_all(reply.encode().as_bytes());
}
