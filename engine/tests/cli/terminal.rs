//! A person at a terminal: raw mode, sizes, keys and ends.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::harness::{Engine, wait_for};
use crate::stand_in::{close, read_all};
use crate::{one_container, ours, send};

/// A pseudo-terminal: our end, and the end of the program.
fn terminal() -> (File, OwnedFd) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let slave = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    (File::from(master), OwnedFd::from(slave))
}

fn on_terminal(mut command: Command, slave: &OwnedFd) -> Child {
    let end = || Stdio::from(slave.try_clone().unwrap());
    command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap()
}

fn is_raw(terminal: &OwnedFd) -> bool {
    !tcgetattr(terminal).unwrap().local_modes.contains(LocalModes::ICANON)
}

fn resize(terminal: &OwnedFd, rows: u16, columns: u16) {
    tcsetwinsize(terminal, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
}

/// Reads from the terminal until the text is there.
fn read_until(master: &mut File, text: &str) -> String {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !String::from_utf8_lossy(&seen).contains(text) {
        if master.read(&mut byte).unwrap_or(0) == 0 {
            break;
        }
        seen.push(byte[0]);
    }
    let seen = String::from_utf8_lossy(&seen).into_owned();
    assert!(seen.contains(text), "{seen:?}");
    seen
}

#[test]
fn a_terminal_is_raw_for_as_long_as_the_process_and_told_of_its_size() {
    let daemon = one_container(5, |mut stream| {
        stream.get_mut().write_all(b"prompt> ").unwrap();
        let mut typed = [0; 4];
        stream.read_exact(&mut typed).unwrap();
        // As typed: ctrl-c and the carriage return are the process's business.
        assert_eq!(&typed, b"a\x03\r\x1a");
        stream.get_mut().write_all(b"bye\r\n").unwrap();
        close(&stream);
    });
    let (mut master, slave) = terminal();
    resize(&slave, 40, 120);
    assert!(!is_raw(&slave));
    let mut child = on_terminal(ours(&daemon.host(), &["run", "-it", "busybox"]), &slave);
    read_until(&mut master, "prompt> ");
    wait_for("the raw terminal", || is_raw(&slave));
    let sizes = || -> Vec<String> {
        let requests = daemon.requests();
        requests
            .into_iter()
            .filter(|request| request.path.ends_with("/resize"))
            .map(|request| request.query)
            .collect()
    };
    wait_for("the first size", || sizes() == ["h=40&w=120"]);
    resize(&slave, 50, 130);
    send(&child, "WINCH");
    wait_for("the second size", || sizes() == ["h=40&w=120", "h=50&w=130"]);
    master.write_all(b"a\x03\r\x1a").unwrap();
    read_until(&mut master, "bye");
    assert_eq!(child.wait().unwrap().code(), Some(5));
    assert!(!is_raw(&slave));
}

#[test]
fn detach_keys_leave_the_process_alone_and_the_terminal_as_it_was() {
    let daemon = one_container(0, |mut stream| {
        stream.get_mut().write_all(b"prompt> ").unwrap();
        // Nothing of the sequence arrives.
        assert_eq!(read_all(&mut stream), b"x");
    });
    let (mut master, slave) = terminal();
    let mut child = on_terminal(ours(&daemon.host(), &["run", "-it", "busybox"]), &slave);
    read_until(&mut master, "prompt> ");
    wait_for("the raw terminal", || is_raw(&slave));
    master.write_all(b"x\x10").unwrap();
    master.write_all(b"\x11").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!is_raw(&slave));
}

#[test]
fn a_signal_restores_the_terminal() {
    for (signal, code) in [("TERM", 143), ("HUP", 129), ("INT", 130)] {
        let daemon = one_container(0, |mut stream| {
            stream.get_mut().write_all(b"prompt> ").unwrap();
            drop(read_all(&mut stream));
        });
        let (mut master, slave) = terminal();
        let mut child =
            on_terminal(ours(&daemon.host(), &["run", "-it", "--sig-proxy=false", "busybox"]), &slave);
        read_until(&mut master, "prompt> ");
        wait_for("the raw terminal", || is_raw(&slave));
        send(&child, signal);
        assert_eq!(child.wait().unwrap().code(), Some(code));
        assert!(!is_raw(&slave), "{signal}");
    }
}

#[test]
fn a_signal_to_run_is_the_process_s_business_even_on_a_terminal() {
    let daemon = one_container(0, |mut stream| {
        stream.get_mut().write_all(b"prompt> ").unwrap();
        let mut typed = [0];
        stream.read_exact(&mut typed).unwrap();
        close(&stream);
    });
    let (mut master, slave) = terminal();
    let mut child = on_terminal(ours(&daemon.host(), &["run", "-it", "busybox"]), &slave);
    read_until(&mut master, "prompt> ");
    wait_for("the raw terminal", || is_raw(&slave));
    send(&child, "TERM");
    wait_for("the signal at the daemon", || {
        daemon
            .requests()
            .iter()
            .any(|request| request.path.ends_with("/kill") && request.query == "signal=TERM")
    });
    assert!(is_raw(&slave));
    master.write_all(b"x").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!is_raw(&slave));
}

#[test]
fn a_daemon_that_dies_restores_the_terminal() {
    let daemon = one_container(0, |mut stream| {
        stream.get_mut().write_all(b"prompt> ").unwrap();
        close(&stream);
    });
    let (mut master, slave) = terminal();
    let mut child = on_terminal(ours(&daemon.host(), &["run", "-it", "busybox"]), &slave);
    read_until(&mut master, "prompt> ");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!is_raw(&slave));
}

#[test]
fn a_shell_in_a_real_container_has_our_terminal() {
    let engine = Engine::start();
    engine.load_busybox();
    let host = format!("unix://{}", engine.socket().display());
    let (mut master, slave) = terminal();
    resize(&slave, 33, 111);
    let mut child =
        on_terminal(ours(&host, &["run", "-it", "--rm", "--name", "shell", "busybox", "sh"]), &slave);
    read_until(&mut master, "/ # ");
    master.write_all(b"stty size; echo mar''ker\r").unwrap();
    read_until(&mut master, "marker");
    wait_for("the size of the terminal in the container", || {
        let sizes = engine.docker([
            "exec",
            "shell",
            "sh",
            "-c",
            "stty size < /dev/console || stty size < /dev/pts/0",
        ]);
        sizes.stdout.contains("33 111")
    });
    // Leaves with the keys, comes back with `attach`, and ends the shell.
    master.write_all(b"\x10\x11").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!is_raw(&slave));
    let mut child = on_terminal(ours(&host, &["attach", "shell"]), &slave);
    wait_for("the raw terminal", || is_raw(&slave));
    master.write_all(b"echo mar''ker2; exit 6\r").unwrap();
    read_until(&mut master, "marker2");
    assert_eq!(child.wait().unwrap().code(), Some(6));
    assert!(!is_raw(&slave));
}
