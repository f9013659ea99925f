//! Sessions joined to our own standard streams, with and without a terminal.

use std::io::{Read, Write};
use std::process::Stdio;

use machine::ssh::{Key, Target};
use rustix::process::Signal;

use crate::child::{PANIC, Task, after_marker};
use crate::machine_program::Store;
use crate::screen::Screen;
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

fn in_terminal(server: &Server, command: &'static str) -> Task {
    Task::Run { target: server.target(), command: Some(command), terminal: true }
}

#[test]
fn the_host_knows_the_terminal_and_its_size() {
    let server = Server::start();
    let command = "echo $TERM $(stty size); until [ \"$(stty size)\" = '50 120' ]; do sleep 0.05; done; read x; \
                   echo again $(stty size); stty -a | grep -o iutf8; exit 7";
    let mut screen = Screen::of_task(&in_terminal(&server, command), 100, 40);
    screen.expect("vt220 40 100");
    assert!(screen.is_raw());
    screen.resize(120, 50);
    screen.type_in("\r");
    screen.expect("again 50 120");
    assert_eq!(screen.end(), 7);
}

#[test]
fn keys_go_to_the_host_and_not_to_us() {
    let server = Server::start();
    let command = "trap 'echo interrupted; exit 3' INT; echo ready; while :; do sleep 0.1; done";
    let mut screen = Screen::of_task(&in_terminal(&server, command), 80, 24);
    screen.expect("ready");
    screen.type_in("\x03");
    screen.expect("interrupted");
    assert_eq!(screen.end(), 3);
}

#[test]
fn the_terminal_is_restored_however_it_ends() {
    let server = Server::start();
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::INT, 130), (Signal::QUIT, 131)] {
        let mut screen = Screen::of_task(&in_terminal(&server, "echo ready; sleep 100"), 80, 24);
        screen.expect("ready");
        assert!(screen.is_raw());
        screen.signal(signal);
        assert_eq!(screen.end(), code);
    }
    let mut screen = Screen::of_task(&in_terminal(&server, "echo ready; sleep 100"), 80, 24);
    screen.expect("ready");
    screen.type_in("\r~.");
    assert_eq!(screen.end(), 255);

    let mut screen = Screen::of_task(&in_terminal(&server, "echo ready; sleep 100"), 80, 24);
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
    let mut screen = Screen::of_task_with(&task, 80, 24, &[(PANIC, &trigger)]);
    screen.expect("ready");
    assert!(screen.is_raw());
    std::fs::write(&trigger, "").unwrap();
    screen.expect("as ordered");
    assert!(!screen.is_raw());
    screen.signal(Signal::TERM);
    assert_eq!(screen.end(), 143);
}

#[test]
fn a_person_is_asked_for_the_passphrase() {
    let server = Server::start();
    server.shell(
        "umask 077; ssh-keygen -q -t ed25519 -N 'pass phrase' -f closed; cp closed.pub authorized_keys",
    );
    let target = Target { key: Key::File(server.path("closed")), ..server.target() };
    let mut screen = Screen::of_task(&Task::Connect { target }, 80, 24);
    screen.expect("closed`: ");
    screen.type_in("wrong\n");
    screen.expect("closed`: ");
    screen.type_in("pass phrase\n");
    screen.expect("connected");
    assert!(!screen.rest().contains("phrase"));
    assert_eq!(screen.end(), 0);
}

#[test]
fn a_passphrase_that_nobody_types_leaves_the_terminal_as_it_was() {
    let server = Server::start();
    server.shell("ssh-keygen -q -p -N secret -f key");
    let store = Store::with(&server);
    for (end, status) in [("\x03", 130), ("", 143), ("\n", 255)] {
        let mut screen = Screen::of(&store.command(&["ssh", "web1", "true"]), 120, 24);
        screen.expect("key`: ");
        assert!(!screen.shows_what_is_typed());
        // A shell that comes back in between would show the rest.
        screen.type_in("\x1a\x1c\x15");
        match end {
            "" => screen.signal(Signal::TERM),
            typed => screen.type_in(typed),
        }
        // That the terminal shows again what is typed is looked at there.
        assert_eq!(screen.end(), status, "after {end:?}");
    }
}
