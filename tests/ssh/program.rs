//! `machine ssh` and `machine scp`: exit statuses, ports, progress.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::machine_program::{Store, said};
use crate::screen::Screen;
use crate::server::{Server, own_address};

/// A store whose host's key is pinned.
fn known(server: &Server) -> Store {
    let store = Store::with(server);
    let pinned = store.machine(&["host-key", "pin", "web1", &server.line("host_ed25519.pub")]);
    assert!(pinned.status.success(), "{}", said(&pinned));
    store
}

#[test]
fn the_exit_status_is_the_commands_and_255_without_a_connection() {
    let mut server = Server::start();
    let store = known(&server);
    for status in [0, 1, 42, 255] {
        let output = store.machine(&["ssh", "web1", &format!("exit {status}")]);
        assert_eq!(output.status.code(), Some(status), "{}", said(&output));
    }
    let lost = store.machine(&["ssh", "web1", "kill -9 $PPID; sleep 60"]);
    assert_eq!(lost.status.code(), Some(255), "{}", said(&lost));
    let wrong = store.machine(&["ssh", "web1", "-L", "not-an-address-here:1:x:2", "-N"]);
    assert_eq!(wrong.status.code(), Some(255), "{}", said(&wrong));
    fs::write(server.path("authorized_keys"), "").unwrap();
    let refused = store.machine(&["ssh", "web1", "true"]);
    assert_eq!(refused.status.code(), Some(255), "{}", said(&refused));
    server.stop();
    let gone = store.machine(&["ssh", "web1", "exit 1"]);
    assert_eq!(gone.status.code(), Some(255), "{}", said(&gone));
    // There is no such host; that is no matter of connections.
    assert_eq!(store.machine(&["ssh", "web2", "true"]).status.code(), Some(1));
    assert_eq!(store.machine(&["ssh", "web1", "-N", "true"]).status.code(), Some(1));
}

/// A child that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts `machine ssh web1 …` and returns it with the addresses that it says it listens on.
fn forwarding(store: &Store, words: &[&str], count: usize) -> (Running, Vec<String>) {
    let mut command = store.command(&[&["ssh", "web1"], words].concat());
    let mut child = Running(command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(child.0.stderr.take().unwrap()).lines();
    let addresses = (0..count)
        .map(|_| lines.next().unwrap().unwrap().split_once(" leads to ").unwrap().0.to_owned())
        .collect();
    std::thread::spawn(move || lines.for_each(drop));
    (child, addresses)
}

fn answer(address: &str) -> String {
    let mut text = String::new();
    TcpStream::connect(address).unwrap().read_to_string(&mut text).unwrap();
    text
}

#[test]
fn ports_here_lead_to_ports_and_sockets_there() {
    let server = Server::start();
    let store = known(&server);
    let tcp = TcpListener::bind((own_address(), 0)).unwrap();
    let unix = UnixListener::bind(server.path("socket")).unwrap();
    let to = tcp.local_addr().unwrap();
    std::thread::spawn(move || tcp.incoming().for_each(|stream| stream.unwrap().write_all(b"tcp").unwrap()));
    std::thread::spawn(move || {
        unix.incoming().for_each(|stream| stream.unwrap().write_all(b"unix").unwrap());
    });
    let first = format!("0:{}:{}", to.ip(), to.port());
    let second = format!("{}:0:{}", own_address(), server.path("socket").display());
    let closed = format!("0:{}:1", own_address());
    let (child, addresses) = forwarding(&store, &["-N", "-L", &first, "-L", &second, "-L", &closed], 3);
    assert!(addresses[0].starts_with("127.0.0.1:"), "{addresses:?}");
    for _ in 0..3 {
        assert_eq!((answer(&addresses[0]), answer(&addresses[1])), ("tcp".to_owned(), "unix".to_owned()));
        // Where nobody listens the connection ends, and the others go on.
        assert_eq!(answer(&addresses[2]), "");
    }
    assert_eq!(server.logins(), 1);
    kill_process(Pid::from_child(&child.0), Signal::INT).unwrap();
    let mut child = child;
    assert_eq!(child.0.wait().unwrap().code(), Some(130));
    assert!(TcpStream::connect(&addresses[0]).is_err(), "the port stayed");

    // Beside a command, which decides when it ends.
    let (mut child, addresses) = forwarding(&store, &["-L", &first, "read line; exit 5"], 1);
    assert_eq!(answer(&addresses[0]), "tcp");
    child.0.stdin.take().unwrap().write_all(b"enough\n").unwrap();
    assert_eq!(child.0.wait().unwrap().code(), Some(5));
    assert!(TcpStream::connect(&addresses[0]).is_err(), "the port stayed");

    // The end of the connection is the end of it.
    let (mut child, _) = forwarding(&store, &["-N", "-L", &first], 1);
    server.cut();
    assert_eq!(child.0.wait().unwrap().code(), Some(255));
}

#[test]
fn a_port_that_is_taken_is_told_before_anybody_connects() {
    let server = Server::start();
    let store = known(&server);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let before = server.connections();
    let refused = store.machine(&["ssh", "web1", "-N", "-L", &format!("{port}:x:80")]);
    assert_eq!(refused.status.code(), Some(255), "{}", said(&refused));
    assert!(said(&refused).contains(&format!("Could not listen on 127.0.0.1:{port}")), "{}", said(&refused));
    assert_eq!(server.connections(), before);
}

#[test]
fn a_copy_shows_its_progress_on_a_terminal_alone() {
    let server = Server::start();
    let store = known(&server);
    fs::write(server.path("big"), vec![7; 30 << 20]).unwrap();
    let there = format!("web1:{}", server.path("big").display());
    let here = server.path("here").display().to_string();
    let mut screen = Screen::of(&store.command(&["scp", &there, &here]), 160, 24);
    screen.expect("of 30.00 MiB");
    assert_eq!(screen.end(), 0);
    for arguments in [&["scp", &*there, &here][..], &["scp", "-q", &there, &here]] {
        let output = store.machine(arguments);
        assert!(
            output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(),
            "{}",
            said(&output)
        );
    }
    let mut screen = Screen::of(&store.command(&["scp", "-q", &there, &here]), 160, 24);
    assert_eq!(screen.written_within(std::time::Duration::from_secs(3)), "");
    assert_eq!(screen.end(), 0);
}

#[test]
fn every_file_that_was_not_copied_is_named() {
    let server = Server::start();
    let store = known(&server);
    fs::create_dir(server.path("tree")).unwrap();
    for name in ["one", "two", "three"] {
        std::os::unix::fs::symlink("nowhere", server.path("tree").join(name)).unwrap();
    }
    let there = format!("web1:{}", server.path("tree").display());
    let output = store.machine(&["scp", "-r", &there, &server.path("back").display().to_string()]);
    assert_eq!(output.status.code(), Some(1));
    for text in ["tree/one", "tree/two", "tree/three", "3 files or directories were not copied"] {
        assert!(said(&output).contains(text), "{}", said(&output));
    }
    let limit = ["scp", "-r", "--max-files", "2", &there, "/nowhere"];
    assert!(said(&store.machine(&limit)).contains("more than 2 files"), "{}", said(&store.machine(&limit)));
    for wrong in ["", "G", "1X", "99999999T", "-1"] {
        assert_eq!(
            store.machine(&["scp", "--max-size", wrong, &there, "/nowhere"]).status.code(),
            Some(2),
            "{wrong}"
        );
    }
}

fn objects(output: &std::process::Output) -> Vec<serde_json::Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

#[test]
fn a_copy_is_an_answer_for_scripts_and_nothing_to_read_for_people() {
    let server = Server::start();
    let store = known(&server);
    let (tree, back) = (server.path("tree"), server.path("back"));
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("a"), "12345").unwrap();
    fs::write(tree.join("b"), "678").unwrap();
    let (there, here) = (format!("web1:{}", tree.display()), back.display().to_string());
    let copied = store.machine(&["--json", "scp", "-r", &there, &here]);
    assert!(copied.status.success(), "{}", said(&copied));
    let expected = serde_json::json!({ "Source": there, "Destination": here, "Files": 2, "Bytes": 8 });
    assert_eq!(objects(&copied), [expected]);
    let silent = store.machine(&["scp", "-r", &there, &here]);
    assert_eq!((silent.stdout, silent.stderr), (Vec::new(), Vec::new()));
    // A part that fails is no answer.
    let absent = store.machine(&["--json", "scp", &format!("{there}/absent"), &here]);
    assert_eq!(absent.status.code(), Some(1), "{}", said(&absent));
    assert_eq!(objects(&absent)[0]["event"], "error");
}

#[test]
fn what_passes_on_the_streams_of_others_refuses_json_by_name() {
    let server = Server::start();
    let store = known(&server);
    for arguments in [
        &["--json", "ssh", "web1", "echo hello"][..],
        &["--json", "ssh", "web1"],
        &["--json", "ssh", "web1", "-A", "true"],
        &["--json", "scp", "--delta", "/etc/hostname", "web1:/nowhere"],
    ] {
        let output = store.machine(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", said(&output));
        assert_eq!(objects(&output)[0]["event"], "error", "{arguments:?}");
        assert!(said(&output).contains("`--json` prints objects alone"), "{}", said(&output));
    }
    // Ports alone print nothing of the host's: where they are is told in events.
    let mut command = store.command(&["--json", "ssh", "web1", "-N", "-L", "127.0.0.1:0:127.0.0.1:9"]);
    let mut child = Running(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let event: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert!(event["text"].as_str().unwrap().contains(" leads to "), "{event}");
}

#[test]
fn a_mounted_folder_is_an_answer_whatever_sshfs_prints() {
    use std::os::unix::fs::PermissionsExt as _;
    let server = Server::start();
    let store = known(&server);
    let programs = server.path("programs");
    fs::create_dir(&programs).unwrap();
    for program in ["sshfs", "fusermount"] {
        fs::write(programs.join(program), "#!/bin/sh\necho noise\ntest \"$2\" != /bad\n").unwrap();
        fs::set_permissions(programs.join(program), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mount = |words: &[&str]| {
        let mut command = store.command(&[&["--json", "mount"], words].concat());
        command.env("PATH", &programs).output().unwrap()
    };
    for (words, mounted) in [(&["web1:/srv", "/mnt"][..], true), (&["-u", "web1:/srv", "/mnt"], false)] {
        let output = mount(words);
        assert!(output.status.success(), "{}", said(&output));
        let expected =
            serde_json::json!({ "Name": "web1", "Path": "/srv", "Mountpoint": "/mnt", "Mounted": mounted });
        assert_eq!(objects(&output), [expected]);
        assert_eq!(String::from_utf8_lossy(&output.stderr), "noise\n");
    }
    let failed = mount(&["-u", "web1:/srv", "/bad"]);
    assert_eq!((failed.status.code(), objects(&failed)), (Some(1), Vec::new()));
}
