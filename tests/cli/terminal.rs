//! What somebody at a terminal sees.

use std::{
    fs::{self, File},
    io::Read as _,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    os::fd::OwnedFd,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags},
    net::{AddressFamily, SocketType, bind, getsockname, listen, socket},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use serde_json::{Value, json};

use crate::{Home, stdout};

/// Everything that a command writes to a terminal of 24 lines and 120 columns.
fn on_a_terminal(command: &mut Command) -> String {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let terminal = rustix::fs::open(&name, flags, Mode::empty()).unwrap();
    let size = Winsize { ws_row: 24, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&master, size).unwrap();
    let stream = || Stdio::from(terminal.try_clone().unwrap());
    let mut child =
        command.env("TERM", "xterm").stdin(stream()).stdout(stream()).stderr(stream()).spawn().unwrap();
    *command = Command::new("true");
    drop(terminal);
    let reader = std::thread::spawn(move || {
        let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
        // The last one who had it open closing it reads as an error.
        while let Ok(length @ 1..) = File::from(master.try_clone().unwrap()).read(&mut buffer) {
            seen.extend_from_slice(&buffer[..length]);
        }
        String::from_utf8_lossy(&seen).into_owned()
    });
    child.wait().unwrap();
    reader.join().unwrap()
}

/// A port on which nobody answers, not even with a refusal: its queue is full.
fn silent_port() -> (u16, OwnedFd, Vec<TcpStream>) {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
    listen(&socket, 0).unwrap();
    let address = SocketAddr::try_from(getsockname(&socket).unwrap()).unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        queued.push(stream);
        assert!(queued.len() < 100, "the queue has no end");
    }
    (address.port(), socket, queued)
}

/// A host of the driver `generic`, which looks whether the port of SSH answers.
fn record_host_at(home: &Home, name: &str, port: u16) {
    let text = fs::read_to_string(home.config("quick")).unwrap();
    let mut record: Value = serde_json::from_str(&text).unwrap();
    record["DriverName"] = json!("generic");
    record["Driver"]["Config"] =
        json!({ "address": "127.0.0.1", "user": "root", "port": port, "engine_port": 2376, "key": null });
    record["Endpoint"]["ssh"] = json!({ "host": "127.0.0.1", "port": port, "user": "root", "key": "agent" });
    record["EngineVersion"] = json!("27.0.1");
    fs::create_dir_all(home.config(name).parent().unwrap()).unwrap();
    fs::write(home.config(name), record.to_string()).unwrap();
}

#[test]
fn ls_shows_what_was_known_last_and_refreshes_it_in_place() {
    let home = Home::new();
    assert!(home.machine(&["create", "-d", "none", "--url", "tcp://127.0.0.1:1", "quick"]).status.success());
    let (port, _socket, _queued) = silent_port();
    record_host_at(&home, "slow", port);
    let text = on_a_terminal(&mut home.command(&[
        "ls",
        "-t",
        "4",
        "-f",
        "table {{.Name}} {{.State}} {{.DockerVersion}} {{.Error}}",
    ]));
    let first =
        text.find("slow Running … v27.0.1 …").unwrap_or_else(|| panic!("no row as last known: {text:?}"));
    assert!(text.find("quick Running …").is_some_and(|place| place < first), "{text:?}");
    // The quick one has its answer while the slow one is still being asked.
    let answered = text.rfind("slow Running …").unwrap();
    assert!(
        text[..answered].rfind("quick Running … ") < text[..answered].rfind("quick Running Unknown"),
        "{text:?}"
    );
    // The list itself comes last, as it comes through a pipe.
    let end = text.rfind("NAME STATE DOCKER ERRORS").unwrap();
    assert!(!text[end..].contains('…'), "{text:?}");
    assert!(text[end..].contains("slow Timeout  No answer within 4 s; last seen: Running"), "{text:?}");
    let piped = stdout(&home.machine(&["ls", "-t", "1", "-f", "table {{.Name}} {{.State}}"]));
    assert_eq!(piped, "NAME STATE\nquick Running\nslow Timeout\n");
}

#[test]
fn answers_that_programs_read_as_they_are_cannot_steer_a_terminal() {
    let home = Home::new();
    let store = home.folder.path().join("x\u{1b}[2Jy");
    let arguments = ["create", "-d", "none", "--url", "tcp://h:1", "mc1"];
    assert!(home.command(&arguments).env("MACHINE_STORAGE_PATH", &store).output().unwrap().status.success());
    let mut command = home.command(&["inspect", "mc1", "-f", "{{.HostOptions.AuthOptions.StorePath}}"]);
    let text = on_a_terminal(command.env("MACHINE_STORAGE_PATH", &store));
    assert!(text.contains("x\u{fffd}[2Jy"), "{text:?}");
    let mut command = home.command(&["env", "mc1"]);
    let text = on_a_terminal(command.env("MACHINE_STORAGE_PATH", &store).arg("--shell").arg("bash"));
    assert!(!text.contains('\u{1b}'), "{text:?}");
}

#[test]
fn the_console_of_a_vm_is_its_last_lines() {
    let home = Home::with(&["mc1"]);
    let mut record: Value = serde_json::from_str(&fs::read_to_string(home.config("mc1")).unwrap()).unwrap();
    record["DriverName"] = json!("qemu");
    fs::write(home.config("mc1"), record.to_string()).unwrap();
    assert_eq!(home.machine(&["console", "mc1"]).status.code(), Some(1));
    let log = "booting\r\n\u{1b}[1mone\u{1b}[0m\r\ntwo\u{202e}\r\nthree\r\n";
    fs::write(home.store().join("machines/mc1/console.log"), log).unwrap();
    assert_eq!(stdout(&home.machine(&["console", "mc1"])), "booting\none\ntwo\u{fffd}\nthree\n");
    assert_eq!(stdout(&home.machine(&["console", "-n", "1", "mc1"])), "three\n");
    let answer: Value =
        serde_json::from_slice(&home.machine(&["--json", "console", "--lines=2", "mc1"]).stdout).unwrap();
    assert_eq!(answer["Name"], "mc1");
    assert_eq!(answer["Console"][1], "three");
}
