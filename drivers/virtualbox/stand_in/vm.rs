//! A VM that runs, as far as anybody can tell: a process that listens where the VM's rules say.

use std::{
    collections::BTreeMap,
    env,
    error::Error,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    net::{Ipv4Addr, TcpListener, UdpSocket},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::registry::{Registry, Settings};

const TICK: Duration = Duration::from_millis(20);
const START: Duration = Duration::from_secs(20);
/// Never longer than a test.
const LONGEST: Duration = Duration::from_mins(10);

fn lock(home: &Path, id: &str) -> PathBuf {
    home.join(format!("vm-{id}.lock"))
}

fn state_file(home: &Path, id: &str) -> PathBuf {
    home.join(format!("vm-{id}.state"))
}

fn order_file(home: &Path, id: &str) -> PathBuf {
    home.join(format!("vm-{id}.order"))
}

/// VirtualBox's word for it. A VM whose process was killed is aborted.
pub(crate) fn state(home: &Path, id: &str) -> String {
    let said = fs::read_to_string(state_file(home, id)).unwrap_or_else(|_| "poweroff".into());
    let lives = OpenOptions::new()
        .write(true)
        .open(lock(home, id))
        .is_ok_and(|lock| matches!(lock.try_lock(), Err(fs::TryLockError::WouldBlock)));
    match said.as_str() {
        "running" | "paused" if !lives => "aborted".into(),
        _ => said,
    }
}

pub(crate) fn forget(home: &Path, id: &str) {
    for path in [lock(home, id), state_file(home, id), order_file(home, id)] {
        let _ = fs::remove_file(path);
    }
}

/// Tells the VM what to do, and waits until it knows.
pub(crate) fn order(home: &Path, id: &str, word: &str) -> io::Result<()> {
    let path = order_file(home, id);
    let partial = path.with_extension("partial");
    fs::write(&partial, word)?;
    fs::rename(partial, &path)?;
    let began = Instant::now();
    while path.exists() && began.elapsed() < START {
        thread::sleep(TICK / 4);
    }
    Ok(())
}

pub(crate) fn start(home: &Path, id: &str) -> io::Result<()> {
    let _ = fs::remove_file(order_file(home, id));
    let null = Stdio::null;
    let mut command = Command::new(env::current_exe()?);
    command.args(["__vm", id]).stdin(null()).stdout(null()).stderr(null());
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.spawn()?;
    let began = Instant::now();
    while state(home, id) != "running" {
        if began.elapsed() > START {
            return Err(io::Error::other("The virtual machine has terminated unexpectedly during startup"));
        }
        thread::sleep(TICK / 4);
    }
    Ok(())
}

#[expect(dead_code, reason = "held so that their ports are taken")]
enum Listener {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// `tcp-80,tcp,127.1.2.3,80,,80`. What cannot be bound is passed over in silence, as VirtualBox does.
fn listen(rule: &str) -> Option<Listener> {
    let parts: Vec<&str> = rule.split(',').collect();
    let place: (Ipv4Addr, u16) = (parts.get(2)?.parse().ok()?, parts.get(3)?.parse().ok()?);
    Some(match parts[1] {
        "tcp" => Listener::Tcp(TcpListener::bind(place).ok()?),
        _ => Listener::Udp(UdpSocket::bind(place).ok()?),
    })
}

/// The VM's process.
pub(crate) fn run(home: &Path, id: &str) -> Result<(), Box<dyn Error>> {
    let held: File = OpenOptions::new().create(true).truncate(false).write(true).open(lock(home, id))?;
    held.try_lock()?;
    let settings = Registry::open(home)?.vm(id)?;
    let path = settings.path.clone();
    let console = settings.serial("uartmode1").ok_or("no console")?;
    let folder = console.parent().ok_or("no folder")?.to_owned();
    let mut listeners: BTreeMap<String, Option<Listener>> = BTreeMap::new();
    let binds = !folder.join("bind-nothing").exists();
    if binds {
        follow(&mut listeners, &settings);
    }
    if let Some(socket) = settings.serial("uartmode2") {
        let _ = fs::remove_file(&socket);
        let guest = UnixListener::bind(socket)?;
        let said = folder.join("guest-ports");
        thread::spawn(move || {
            for client in guest.incoming().flatten() {
                let _ = speak_as_guest(client, &said);
            }
        });
    }
    writeln!(File::create(&console)?, "the stand-in booted")?;
    say(home, id, "running")?;
    let began = Instant::now();
    let last = loop {
        thread::sleep(TICK);
        if let Ok(settings) = Settings::read(&path)
            && binds
        {
            follow(&mut listeners, &settings);
        }
        let order = fs::read_to_string(order_file(home, id)).unwrap_or_default();
        let done = match order.as_str() {
            "poweroff" => Some("poweroff"),
            "savestate" => Some("saved"),
            "acpipowerbutton" if !folder.join("ignore-power-button").exists() => Some("poweroff"),
            "pause" => say(home, id, "paused").map(|()| None)?,
            "resume" => say(home, id, "running").map(|()| None)?,
            _ => None,
        };
        if let Some(last) = done.or_else(|| (began.elapsed() > LONGEST).then_some("poweroff")) {
            break last;
        }
        if !order.is_empty() {
            fs::remove_file(order_file(home, id))?;
        }
    };
    if let Some(socket) = settings.serial("uartmode2") {
        let _ = fs::remove_file(socket);
    }
    drop(listeners);
    say(home, id, last)?;
    let _ = fs::remove_file(order_file(home, id));
    Ok(())
}

fn say(home: &Path, id: &str, word: &str) -> io::Result<()> {
    let partial = state_file(home, id).with_extension("partial");
    fs::write(&partial, word)?;
    fs::rename(partial, state_file(home, id))
}

/// Makes the listeners those of the rules.
fn follow(listeners: &mut BTreeMap<String, Option<Listener>>, settings: &Settings) {
    listeners.retain(|rule, _| settings.rules.values().any(|known| known == rule));
    for rule in settings.rules.values() {
        listeners.entry(rule.clone()).or_insert_with(|| listen(rule));
    }
}

fn speak_as_guest(mut client: UnixStream, said: &Path) -> io::Result<()> {
    let mut last = None;
    loop {
        let words = fs::read_to_string(said).ok();
        if words.is_some() && words != last {
            client.write_all(words.as_deref().unwrap_or_default().as_bytes())?;
            last = words;
        }
        thread::sleep(TICK);
    }
}
