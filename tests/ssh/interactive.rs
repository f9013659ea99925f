//! Sessions joined to our own standard streams, with and without a terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use machine::ssh::{Key, Target};

use crate::child::{MARKER, PANIC, Task, after_marker};
use crate::server::Server;

#[test]
fn pipes_carry_every_byte() {
    let server = Server::start();
    let task = Task::Run {
        target: server.target(),
        command: Some("cat; echo problem >&2; exit 9"),
        terminal: false,
    };
    let mut child =
        task.command().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let data: Vec<u8> =
        (0..3_000_000u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    let (mut stdin, sent) = (child.stdin.take().unwrap(), data.clone());
    let feeding = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
    let output = child.wait_with_output().unwrap();
    feeding.join().unwrap();
    assert_eq!(output.status.code(), Some(9));
    assert!(after_marker(&output.stdout) == data);
    assert_eq!(output.stderr, b"problem\n");
}

#[test]
fn a_pipe_that_closes_ends_the_command() {
    let server = Server::start();
    let task = Task::Run { target: server.target(), command: Some("yes"), terminal: false };
    let mut child = task.command().stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 1000]).unwrap();
    drop(stdout);
    assert_eq!(child.wait().unwrap().code(), Some(141));
}

#[test]
fn without_a_command_there_is_a_shell() {
    let server = Server::start();
    let task = Task::Run { target: server.target(), command: None, terminal: false };
    let mut child = task.command().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"echo shell says $((6 * 7))\nexit 5\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&output.stdout).contains("shell says 42"));
}

/// A terminal with a child in it, as a person has one.
struct Screen {
    master: OwnedFd,
    slave: OwnedFd,
    child: Child,
    output: Receiver<Vec<u8>>,
    seen: String,
}

impl Screen {
    fn open(task: &Task, columns: u16, rows: u16) -> Self {
        Self::open_with(task, columns, rows, &[])
    }

    fn open_with(task: &Task, columns: u16, rows: u16, environment: &[(&str, &Path)]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(&name, flags, Mode::empty()).unwrap();
        let mut screen = Self {
            child: {
                resize(&master, columns, rows);
                let stream = || Stdio::from(slave.try_clone().unwrap());
                let mut command = task.command_in_terminal();
                command.envs(environment.iter().copied());
                command
                    .env("TERM", "vt220")
                    .stdin(stream())
                    .stdout(stream())
                    .stderr(stream())
                    .spawn()
                    .unwrap()
            },
            output: {
                let (sender, output) = channel();
                let mut reader = File::from(master.try_clone().unwrap());
                std::thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    while let Ok(length @ 1..) = reader.read(&mut buffer) {
                        if sender.send(buffer[..length].to_vec()).is_err() {
                            return;
                        }
                    }
                });
                output
            },
            master,
            slave,
            seen: String::new(),
        };
        screen.expect(std::str::from_utf8(MARKER).unwrap().trim());
        screen
    }

    /// Reads until the text comes; what came before it is forgotten.
    fn expect(&mut self, text: &str) {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(place) = self.seen.find(text) {
                self.seen.drain(..place + text.len());
                return;
            }
            let left = end.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => panic!("{text:?} did not come, but {:?}: {error}", self.seen),
            }
        }
    }

    fn type_in(&self, text: &str) {
        File::from(self.master.try_clone().unwrap()).write_all(text.as_bytes()).unwrap();
    }

    fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.slave).unwrap().local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    fn end(mut self) -> i32 {
        let code = self.child.wait().unwrap().code().unwrap();
        assert!(!self.is_raw(), "the terminal is left raw");
        let modes = tcgetattr(&self.slave).unwrap().local_modes;
        assert!(modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG), "{modes:?}");
        code
    }
}

fn resize(terminal: impl AsFd, columns: u16, rows: u16) {
    tcsetwinsize(terminal, Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
}

fn in_terminal(server: &Server, command: &'static str) -> Task {
    Task::Run { target: server.target(), command: Some(command), terminal: true }
}

#[test]
fn the_host_knows_the_terminal_and_its_size() {
    let server = Server::start();
    let command = "echo $TERM $(stty size); read x; echo again $(stty size); stty -a | grep -o iutf8; exit 7";
    let mut screen = Screen::open(&in_terminal(&server, command), 100, 40);
    screen.expect("vt220 40 100");
    assert!(screen.is_raw());
    resize(&screen.master, 120, 50);
    // The change travels on its own; there is nothing to wait for but its effect.
    std::thread::sleep(Duration::from_millis(500));
    screen.type_in("\r");
    screen.expect("again 50 120");
    assert_eq!(screen.end(), 7);
}

#[test]
fn keys_go_to_the_host_and_not_to_us() {
    let server = Server::start();
    let command = "trap 'echo interrupted; exit 3' INT; echo ready; while :; do sleep 0.1; done";
    let mut screen = Screen::open(&in_terminal(&server, command), 80, 24);
    screen.expect("ready");
    screen.type_in("\x03");
    screen.expect("interrupted");
    assert_eq!(screen.end(), 3);
}

#[test]
fn the_terminal_is_restored_however_it_ends() {
    let server = Server::start();
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::INT, 130), (Signal::QUIT, 131)] {
        let mut screen = Screen::open(&in_terminal(&server, "echo ready; sleep 100"), 80, 24);
        screen.expect("ready");
        assert!(screen.is_raw());
        kill_process(Pid::from_child(&screen.child), signal).unwrap();
        assert_eq!(screen.end(), code);
    }
    let mut screen = Screen::open(&in_terminal(&server, "echo ready; sleep 100"), 80, 24);
    screen.expect("ready");
    screen.type_in("\r~.");
    assert_eq!(screen.end(), 255);

    let mut screen = Screen::open(&in_terminal(&server, "echo ready; sleep 100"), 80, 24);
    screen.expect("ready");
    server.cut();
    screen.expect("was lost while running");
    assert_eq!(screen.end(), 1);
}

#[test]
fn a_panic_leaves_a_terminal_that_can_be_read() {
    let server = Server::start();
    let trigger = server.path("trigger");
    let task = in_terminal(&server, "echo ready; sleep 100");
    let mut screen = Screen::open_with(&task, 80, 24, &[(PANIC, &trigger)]);
    screen.expect("ready");
    assert!(screen.is_raw());
    std::fs::write(&trigger, "").unwrap();
    screen.expect("as ordered");
    assert!(!screen.is_raw());
    kill_process(Pid::from_child(&screen.child), Signal::TERM).unwrap();
    assert_eq!(screen.end(), 143);
}

#[test]
fn a_person_is_asked_for_the_passphrase() {
    let server = Server::start();
    server.shell(
        "umask 077; ssh-keygen -q -t ed25519 -N 'pass phrase' -f closed; cp closed.pub authorized_keys",
    );
    let target = Target { key: Key::File(server.path("closed")), ..server.target() };
    let mut screen = Screen::open(&Task::Connect { target }, 80, 24);
    screen.expect("closed`: ");
    screen.type_in("wrong\n");
    screen.expect("closed`: ");
    screen.type_in("pass phrase\n");
    screen.expect("connected");
    assert!(!screen.seen.contains("phrase"));
    assert_eq!(screen.end(), 0);
}
