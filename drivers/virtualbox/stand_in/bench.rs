//! The real VBoxManage for everything that it does without its kernel module. Only power is stood in for: what
//! `showvminfo --machinereadable` says of a VM is booted with QEMU, with its discs, its rules and its serial ports.

use std::{
    collections::BTreeMap,
    env,
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::play::{Failure, INVALID_STATE, failure};

/// Names the real VBoxManage.
pub(crate) const REAL: &str = "MACHINE_VBOXMANAGE";
const START: Duration = Duration::from_secs(20);

/// What the real one said, as it is to be passed on.
pub(crate) struct Said {
    pub(crate) output: String,
    pub(crate) complaint: String,
    pub(crate) success: bool,
}

fn real(program: &Path, words: &[&str]) -> io::Result<Said> {
    let Output { status, stdout, stderr } =
        Command::new(program).args(words).stdin(Stdio::null()).output()?;
    // That there is no module is what this bench is about.
    let output: String = String::from_utf8_lossy(&stdout)
        .split_inclusive('\n')
        .filter(|line| !line.starts_with("WARNING: The character device") && !line.starts_with("\t "))
        .collect();
    Ok(Said { output, complaint: String::from_utf8_lossy(&stderr).into_owned(), success: status.success() })
}

fn monitor(home: &Path, id: &str) -> PathBuf {
    home.join(format!("{}.qmp", &id[..8]))
}

fn said(answer: Result<String, Failure>) -> Said {
    match answer {
        Ok(output) => Said { output, complaint: String::new(), success: true },
        Err(complaint) => {
            let complaint = complaint.lines().map(|line| format!("VBoxManage: error: {line}\n")).collect();
            Said { output: String::new(), complaint, success: false }
        }
    }
}

pub(crate) fn answer(program: &Path, home: &Path, words: &[&str]) -> io::Result<Said> {
    let running = |id: &str| tell(home, id, "query-status", None).is_ok();
    match words {
        ["startvm", id, "--type", _] if running(id) => {
            Ok(said(Err(failure("The machine is already locked by a session", INVALID_STATE))))
        }
        ["startvm", id, "--type", _] => {
            let facts = real(program, &["showvminfo", id, "--machinereadable"])?;
            boot(home, id, &facts.output)?;
            Ok(said(Ok(String::new())))
        }
        ["controlvm", id, ..] if !running(id) => {
            Ok(said(Err(format!("Machine '{id}' is not currently running."))))
        }
        ["controlvm", id, "poweroff"] => {
            let _ = tell(home, id, "quit", None);
            let began = Instant::now();
            while running(id) && began.elapsed() < START {
                thread::sleep(Duration::from_millis(10));
            }
            Ok(said(Ok(String::new())))
        }
        ["controlvm", id, "acpipowerbutton"] => {
            tell(home, id, "system_powerdown", None)?;
            Ok(said(Ok(String::new())))
        }
        ["controlvm", id, "natpf1", rule @ ..] => {
            let facts = real(program, &["showvminfo", id, "--machinereadable"])?;
            let known = values(&facts.output);
            let done = real(program, &[&["modifyvm", id, "--natpf1"][..], rule].concat())?;
            if done.success {
                let command = match rule {
                    ["delete", name] => known
                        .iter()
                        .filter(|(key, _)| key.starts_with("Forwarding("))
                        .find_map(|(_, rule)| rule.strip_prefix(&format!("{name},")))
                        .and_then(|rule| forward(&format!("x,{rule}")))
                        .and_then(|forward| {
                            Some(format!("hostfwd_remove net1 {}", forward.split_once('-')?.0))
                        }),
                    [rule] => forward(rule).map(|forward| format!("hostfwd_add net1 {forward}")),
                    _ => None,
                };
                let arguments = format!("{{\"command-line\": \"{}\"}}", command.unwrap_or_default());
                tell(home, id, "human-monitor-command", Some(&arguments))?;
            }
            Ok(done)
        }
        ["showvminfo", id, "--machinereadable"] => {
            let mut facts = real(program, words)?;
            if running(id) {
                facts.output = facts.output.replace("VMState=\"poweroff\"", "VMState=\"running\"");
            }
            Ok(facts)
        }
        _ => real(program, words),
    }
}

fn values(answer: &str) -> BTreeMap<String, String> {
    let lines = answer.lines().filter_map(|line| line.split_once('='));
    lines.map(|(key, value)| (key.trim_matches('"').to_owned(), value.trim_matches('"').to_owned())).collect()
}

/// `ssh,tcp,127.1.2.3,22,,22` is `tcp:127.1.2.3:22-:22`.
fn forward(rule: &str) -> Option<String> {
    let parts: Vec<&str> = rule.split(',').collect();
    let [_, protocol, address, port, _, guest] = parts[..] else { return None };
    Some(format!("{protocol}:{address}:{port}-:{guest}"))
}

fn mac(text: &str) -> String {
    text.as_bytes().chunks(2).map(String::from_utf8_lossy).collect::<Vec<_>>().join(":")
}

fn boot(home: &Path, id: &str, answer: &str) -> io::Result<()> {
    let known = values(answer);
    let of = |key: &str| {
        known
            .get(key)
            .map(String::as_str)
            .ok_or_else(|| io::Error::other(format!("the real one says no {key}")))
    };
    let serial = |port: &str| -> io::Result<String> {
        let (kind, path) =
            of(port)?.split_once(',').ok_or_else(|| io::Error::other("a serial port leads nowhere"))?;
        Ok(if kind == "file" { format!("file:{path}") } else { format!("unix:{path},server=on,wait=off") })
    };
    let mut words: Vec<String> = [
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-machine",
        "pc",
        "-daemonize",
        "-rtc",
        "base=utc",
    ]
    .map(str::to_owned)
    .into();
    let mut add = |option: &str, value: &str| words.extend([format!("-{option}"), value.to_owned()]);
    // A `/dev/kvm` that is there may still hang guests; this works everywhere.
    add("accel", "tcg,thread=single");
    add("cpu", "max");
    add("smp", of("cpus")?);
    add("m", of("memory")?);
    add("boot", if of("boot1")? == "dvd" { "d" } else { "c" });
    add("device", "ahci,id=sata");
    for port in 0..3 {
        let Ok(medium) = of(&format!("SATA-{port}-0")) else { continue };
        let path = Path::new(medium);
        let (format, kind) = match path.extension().and_then(std::ffi::OsStr::to_str) {
            Some("vdi") => ("vdi", "hd"),
            Some("iso") => ("raw", "cd"),
            _ => continue,
        };
        let media = if kind == "cd" { ",media=cdrom" } else { "" };
        add("drive", &format!("if=none,id=d{port},file={medium},format={format}{media}"));
        add("device", &format!("ide-{kind},drive=d{port},bus=sata.{port}"));
    }
    if of("nic1")? != "nat" || of("nic2")? != "intnet" {
        return Err(io::Error::other("the real one has other network cards"));
    }
    let rules =
        known.iter().filter(|(key, _)| key.starts_with("Forwarding(")).filter_map(|(_, rule)| forward(rule));
    let rules: String = rules.map(|rule| format!(",hostfwd={rule}")).collect();
    add("netdev", &format!("user,id=net1{rules}"));
    add("device", &format!("e1000,netdev=net1,mac={}", mac(of("macaddress1")?)));
    add("netdev", "hubport,id=net2,hubid=7");
    add("device", &format!("e1000,netdev=net2,mac={}", mac(of("macaddress2")?)));
    add("serial", &serial("uartmode1")?);
    add("serial", &serial("uartmode2")?);
    add("qmp", &format!("unix:{},server=on,wait=off", monitor(home, id).display()));
    let done = Command::new("qemu-system-x86_64").args(&words).stdin(Stdio::null()).output()?;
    if done.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&done.stderr).into_owned()))
}

/// One command to QEMU's monitor.
fn tell(home: &Path, id: &str, command: &str, arguments: Option<&str>) -> io::Result<()> {
    let mut stream = UnixStream::connect(monitor(home, id))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let arguments = arguments.map(|text| format!(", \"arguments\": {text}")).unwrap_or_default();
    let commands =
        ["{\"execute\": \"qmp_capabilities\"}".into(), format!("{{\"execute\": \"{command}\"{arguments}}}")];
    for command in commands {
        writeln!(stream, "{command}")?;
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line.contains("\"return\"") {
                break;
            }
            if line.contains("\"error\"") {
                return Err(io::Error::other(line));
            }
        }
    }
    Ok(())
}

pub(crate) fn program() -> Option<PathBuf> {
    env::var_os(REAL).map(PathBuf::from)
}
