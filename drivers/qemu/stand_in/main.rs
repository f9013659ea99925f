//! Plays QEMU, the port forwarder and the switch for the tests: it takes the same options, listens on the same
//! addresses, writes the same files and speaks QMP. It runs no guest, unless the environment says which program is one.
//!
//! Files in its folder steer it: `ignore-power-button`, `guest-ports`, which is what the guest says, and `frame`, which
//! it sends on the network inside. What comes from there goes to `frames`.

mod guest;

use std::{
    collections::BTreeMap,
    env,
    error::Error,
    ffi::OsString,
    fs::{self, OpenOptions},
    io::{BufRead, BufReader, Write},
    net::{TcpListener, UdpSocket},
    os::unix::net::{UnixDatagram, UnixListener, UnixStream},
    path::Path,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use machine_driver_qemu::helper_main;
use serde_json::{Value, json};

type Failure = Box<dyn Error + Send + Sync>;

/// What the accelerator's test guest exits with.
const PROBE_DONE: u8 = 33;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    if let Some(code) = helper_main(&arguments) {
        return code;
    }
    let arguments: Vec<String> = arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    if has("--version") {
        let _ = writeln!(std::io::stdout(), "QEMU emulator version 7.2.0 (stand-in)");
        return ExitCode::SUCCESS;
    }
    if !has("-uuid") {
        return ExitCode::from(PROBE_DONE);
    }
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "qemu-system-x86_64: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The VM as far as anybody can tell.
#[derive(Default)]
struct Vm {
    listeners: Mutex<BTreeMap<String, Listener>>,
    guest: Option<guest::Guest>,
}

#[expect(dead_code, reason = "held so that their ports are taken")]
enum Listener {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

fn run(arguments: &[String]) -> Result<(), Failure> {
    let after = |option: &str| -> Vec<&String> {
        arguments.windows(2).filter(|pair| pair[0] == option).map(|pair| &pair[1]).collect()
    };
    let mut disks = BTreeMap::new();
    for device in after("-blockdev") {
        let device: Value = serde_json::from_str(device)?;
        let path = device["file"]["filename"].as_str().unwrap_or_default();
        disks.insert(device["node-name"].as_str().unwrap_or_default().to_owned(), path.to_owned());
        let content = fs::read(path).map_err(|error| format!("Could not open '{path}': {error}"))?;
        if device["driver"] == "qcow2" && !content.starts_with(b"QFI\xfb") {
            return Err("Image is not in qcow2 format".into());
        }
    }
    let guest = guest::Guest::of(disks.get("disk"), disks.get("seed"))?;
    let vm = Arc::new(Vm { guest, ..Vm::default() });
    for network in after("-netdev") {
        for rule in network.split(',').filter_map(|part| part.strip_prefix("hostfwd=")) {
            vm.listen(rule)?;
        }
        let path = |word| network.split(',').find_map(|part| part.strip_prefix(word)).map(str::to_owned);
        if let (Some(local), Some(remote)) = (path("local.path="), path("remote.path=")) {
            let _ = fs::remove_file(&local);
            let socket = UnixDatagram::bind(&local)?;
            thread::spawn(move || be_on_the_network(&socket, &remote).map_err(|error| error.to_string()));
        }
    }
    for monitor in after("-qmp") {
        let socket =
            monitor.strip_prefix("unix:").and_then(|rest| rest.split(',').next()).unwrap_or_default();
        let (listener, vm) = (UnixListener::bind(socket)?, vm.clone());
        thread::spawn(move || {
            // One client at a time, as with QEMU.
            for client in listener.incoming().flatten() {
                let _ = vm.serve(client);
            }
        });
    }
    let guest = UnixListener::bind("ports.sock")?;
    thread::spawn(move || {
        for client in guest.incoming().flatten() {
            let _ = speak_as_guest(client);
        }
    });
    if let Some(guest) = &vm.guest {
        guest.boot()?;
    }
    writeln!(OpenOptions::new().create(true).append(true).open("console.log")?, "the stand-in booted")?;
    fs::write("qemu.pid", format!("{}\n", std::process::id()))?;
    // Killed, told to quit, or shut down; and never longer than a test.
    thread::sleep(Duration::from_mins(10));
    end();
}

#[expect(clippy::exit, reason = "threads are waiting for clients, and the process is to end as QEMU does")]
fn end() -> ! {
    for file in ["qmp.sock", "ports-qmp.sock", "ports.sock", "qemu.pid"] {
        let _ = fs::remove_file(file);
    }
    std::process::exit(0)
}

/// Sends the frame in `frame` once, and keeps those that come.
fn be_on_the_network(socket: &UnixDatagram, switch: &str) -> Result<(), Failure> {
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let mut frame = [0; 2048];
    loop {
        if let Ok(frame) = fs::read("frame") {
            // Without a switch it is lost.
            let _ = socket.send_to(&frame, switch);
            fs::remove_file("frame")?;
        }
        if let Ok(length) = socket.recv(&mut frame) {
            let mut file = OpenOptions::new().create(true).append(true).open("frames")?;
            file.write_all(&frame[..length])?;
        }
    }
}

fn speak_as_guest(mut client: UnixStream) -> Result<(), Failure> {
    let mut said = None;
    loop {
        let words = fs::read_to_string("guest-ports").ok();
        if words.is_some() && words != said {
            client.write_all(words.as_deref().unwrap_or_default().as_bytes())?;
            said = words;
        }
        thread::sleep(Duration::from_millis(50));
    }
}

impl Vm {
    /// `tcp:127.1.2.3:80-:80`
    fn listen(&self, rule: &str) -> Result<(), Failure> {
        let refused = || format!("Could not set up host forwarding rule '{rule}'");
        let (from, port) = rule.split_once("-:").ok_or_else(refused)?;
        let (protocol, place) = from.split_once(':').ok_or_else(refused)?;
        let listener = match protocol {
            "tcp" => {
                let listener = TcpListener::bind(place).map_err(|_| refused())?;
                if let Some(guest) = &self.guest {
                    guest.lead_in(port, listener.try_clone()?);
                }
                Listener::Tcp(listener)
            }
            _ => Listener::Udp(UdpSocket::bind(place).map_err(|_| refused())?),
        };
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).insert(from.to_owned(), listener);
        Ok(())
    }

    fn serve(&self, client: UnixStream) -> Result<(), Failure> {
        let mut writer = client.try_clone()?;
        writeln!(writer, "{}", json!({"QMP": {"version": {}, "capabilities": []}}))?;
        for line in BufReader::new(client).lines() {
            let message: Value = serde_json::from_str(&line?)?;
            let answer = match message["execute"].as_str().unwrap_or_default() {
                "qmp_capabilities" => json!({}),
                "query-status" => json!({"running": true, "status": "running"}),
                "system_powerdown" => {
                    writeln!(writer, "{}", json!({"event": "POWERDOWN"}))?;
                    if !Path::new("ignore-power-button").exists() {
                        writeln!(writer, "{}", json!({"return": {}}))?;
                        thread::sleep(Duration::from_millis(20));
                        end();
                    }
                    json!({})
                }
                "quit" => {
                    writeln!(writer, "{}", json!({"return": {}}))?;
                    end();
                }
                "human-monitor-command" => {
                    json!(self.human(message["arguments"]["command-line"].as_str().unwrap_or_default()))
                }
                other => {
                    let description = format!("The command {other} has not been found");
                    writeln!(
                        writer,
                        "{}",
                        json!({"error": {"class": "CommandNotFound", "desc": description}})
                    )?;
                    continue;
                }
            };
            writeln!(writer, "{}", json!({ "return": answer }))?;
        }
        Ok(())
    }

    fn human(&self, command: &str) -> String {
        let words: Vec<&str> = command.split_ascii_whitespace().collect();
        match words[..] {
            ["hostfwd_add", "net0", rule] => match self.listen(rule) {
                Ok(()) => String::new(),
                Err(error) => format!("{error}\r\n"),
            },
            ["hostfwd_remove", "net0", rule] => {
                let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
                let found = if listeners.remove(rule).is_some() { "removed" } else { "not found" };
                format!("host forwarding rule for {rule} {found}\r\n")
            }
            ["info", "usernet"] => {
                let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
                let rows: Vec<String> = listeners
                    .keys()
                    .filter_map(|from| {
                        let mut parts = from.splitn(3, ':');
                        let (protocol, address, port) = (parts.next()?, parts.next()?, parts.next()?);
                        let protocol = protocol.to_uppercase();
                        Some(format!(
                            "  {protocol}[HOST_FORWARD]  9  {address}  {port}  10.0.2.15  {port}  0  0"
                        ))
                    })
                    .collect();
                rows.join("\r\n")
            }
            _ => format!("unknown command: '{command}'\r\n"),
        }
    }
}
