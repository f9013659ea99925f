//! The words of VBoxManage, and what becomes of each.

use std::{
    env,
    ffi::OsString,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use machine_driver_virtualbox::helper_main;

use crate::{
    bench,
    registry::{Registry, Settings},
    vm,
};

/// What is said on stderr after the program's name, and the code below it.
pub(crate) type Failure = String;

const VERSION: &str = "7.2.22_stand-in-r175245";
pub(crate) const IN_USE: &str = "VBOX_E_OBJECT_IN_USE (0x80bb000c)";
pub(crate) const FILE_ERROR: &str = "VBOX_E_FILE_ERROR (0x80bb0004)";
pub(crate) const INVALID_ARGUMENT: &str = "NS_ERROR_INVALID_ARG (0x80070057)";
pub(crate) const NOT_FOUND: &str = "VBOX_E_OBJECT_NOT_FOUND (0x80bb0001)";
pub(crate) const INVALID_STATE: &str = "VBOX_E_INVALID_OBJECT_STATE (0x80bb0007)";
pub(crate) const ACCESS_DENIED: &str = "E_ACCESSDENIED (0x80070005)";

/// The options of `modifyvm` that have a value and are only kept.
const SETTINGS: [&str; 30] = [
    "description",
    "cpus",
    "memory",
    "firmware",
    "bioslogofadein",
    "bioslogofadeout",
    "bioslogodisplaytime",
    "biosbootmenu",
    "acpi",
    "ioapic",
    "rtcuseutc",
    "pae",
    "hpet",
    "hwvirtex",
    "nestedpaging",
    "largepages",
    "vtxvpid",
    "boot1",
    "boot2",
    "boot3",
    "boot4",
    "nictype1",
    "cableconnected1",
    "macaddress1",
    "natdnshostresolver1",
    "natdnsproxy1",
    "intnet2",
    "nictype2",
    "cableconnected2",
    "macaddress2",
];
const MORE_SETTINGS: [&str; 4] = ["nic1", "nic2", "nat-localhostreachable1", "uartmode"];

pub(crate) fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    if let Some(code) = helper_main(&arguments) {
        return code;
    }
    let arguments: Vec<String> = arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let Some(home) = env::var_os("VBOX_USER_HOME").map(PathBuf::from) else {
        return told("VBOX_USER_HOME is not set");
    };
    if let Some(program) = bench::program() {
        return match bench::answer(&program, &home, &words) {
            Ok(said) => {
                let _ = io::stdout().write_all(said.output.as_bytes());
                let _ = io::stderr().write_all(said.complaint.as_bytes());
                if said.success { ExitCode::SUCCESS } else { ExitCode::FAILURE }
            }
            Err(error) => told(&error.to_string()),
        };
    }
    if let ["__vm", id] = words[..] {
        return match vm::run(&home, id) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => told(&error.to_string()),
        };
    }
    if let Some(complaint) = ordered_failure(&home, &words) {
        return told(&complaint);
    }
    match answer(&home, &words) {
        Ok(answer) => {
            let _ = io::stdout().write_all(answer.as_bytes());
            ExitCode::SUCCESS
        }
        Err(complaint) => told(&complaint),
    }
}

fn told(complaint: &str) -> ExitCode {
    for line in complaint.lines() {
        let _ = writeln!(io::stderr(), "VBoxManage: error: {line}");
    }
    ExitCode::FAILURE
}

/// What a test wants to be said instead of an answer.
fn ordered_failure(home: &Path, words: &[&str]) -> Option<String> {
    let path = home.join("fail");
    let text = fs::read_to_string(&path).ok()?;
    let mut lines = text.splitn(3, '\n');
    let (command, times, complaint) = (lines.next()?, lines.next()?.parse::<u32>().ok()?, lines.next()?);
    if times == 0 || !words.join(" ").starts_with(command) {
        return None;
    }
    fs::write(&path, format!("{command}\n{}\n{complaint}", times - 1)).ok()?;
    Some(complaint.to_owned())
}

pub(crate) fn failure(text: &str, code: &str) -> Failure {
    format!("{text}\nDetails: code {code}, component StandIn, interface IStandIn")
}

fn answer(home: &Path, words: &[&str]) -> Result<String, Failure> {
    if let ["--version"] = words {
        return Ok(fs::read_to_string(home.join("version")).unwrap_or_else(|_| format!("{VERSION}\n")));
    }
    // VMs are found by their names as well.
    let found = match words {
        [_, name, ..] => Registry::open(home).map_err(|error| error.to_string())?.id_of(name),
        _ => None,
    };
    let mut words = words.to_vec();
    if let (Some(id), Some(name)) = (&found, words.get_mut(1)) {
        *name = id;
    }
    let words = &words[..];
    if let ["startvm", id, "--type", "headless" | "gui" | "sdl" | "separate"] = words {
        return start(home, id);
    }
    let mut registry = Registry::open(home).map_err(|error| error.to_string())?;
    let answer = registered(&mut registry, words)?;
    registry.save().map_err(|error| error.to_string())?;
    Ok(answer)
}

fn start(home: &Path, id: &str) -> Result<String, Failure> {
    let running = {
        let registry = Registry::open(home).map_err(|error| error.to_string())?;
        registry.vm(id)?;
        registry.runs(id)
    };
    if running {
        return Err(failure(
            "The machine is already locked by a session (or being locked or unlocked)",
            INVALID_STATE,
        ));
    }
    vm::start(home, id).map_err(|error| error.to_string())?;
    Ok(format!("Waiting for VM \"{id}\" to power on...\nVM \"{id}\" has been successfully started.\n"))
}

fn registered(registry: &mut Registry, words: &[&str]) -> Result<String, Failure> {
    match words {
        ["showvminfo", id, "--machinereadable"] => registry.show(id),
        ["list", "hdds"] => Ok(registry.disks()),
        [
            "createvm",
            "--name",
            name,
            "--uuid",
            id,
            "--basefolder",
            base,
            "--ostype",
            "Linux26_64",
            "--register",
        ] => create(registry, name, id, Path::new(base)),
        ["registervm", path] => registry.register(Path::new(path)),
        ["unregistervm", id] => registry.unregister(id, false),
        ["unregistervm", id, "--delete"] => registry.unregister(id, true),
        ["modifyvm", id, options @ ..] => modify(registry, id, options),
        ["storagectl", id, "--name", "SATA", "--add", "sata", "--portcount", "3", "--hostiocache", "on"] => {
            let mut settings = registry.vm_to_change(id)?;
            if settings.values.insert("storagecontrollername0".into(), "SATA".into()).is_some() {
                return Err(failure("Storage controller named 'SATA' already exists", IN_USE));
            }
            Registry::write(&settings)
        }
        [
            "storageattach",
            id,
            "--storagectl",
            "SATA",
            "--port",
            port @ ("0" | "1" | "2"),
            "--device",
            "0",
            "--type",
            "hdd" | "dvddrive",
            "--medium",
            medium,
        ] => {
            let mut settings = registry.vm_to_change(id)?;
            registry.open_medium(medium)?;
            settings.media.insert((*port).to_owned(), (*medium).to_owned());
            Registry::write(&settings)
        }
        ["createmedium", "disk", "--filename", path, "--size", size, "--format", "VDI"]
            if size.parse::<u64>().is_ok() =>
        {
            registry.create_disk(path, None)
        }
        ["createmedium", "disk", "--filename", path, "--diffparent", parent] => {
            registry.open_medium(parent)?;
            registry.create_disk(path, Some(parent))
        }
        ["modifymedium", "disk", path, "--resize", size] if size.parse::<u64>().is_ok() => {
            registry.open_medium(path).map(|()| String::new())
        }
        ["closemedium", "disk" | "dvd", path] => registry.close_medium(path),
        ["clonemedium", "disk", from, to, "--format", "VDI"] => {
            registry.open_medium(from)?;
            registry.create_disk(to, None)
        }
        ["convertfromraw", from, to, "--format", "VDI"] if Path::new(from).is_file() => {
            registry.create_disk(to, None)?;
            registry.close_medium(to)
        }
        ["controlvm", id, order @ ..] => control(registry, id, order),
        _ => Err(format!("Invalid command '{}'", words.join(" "))),
    }
}

fn create(registry: &mut Registry, name: &str, id: &str, base: &Path) -> Result<String, Failure> {
    let path = base.join(name).join(format!("{name}.vbox"));
    if path.exists() {
        let text = format!("Machine settings file '{}' already exists", path.display());
        return Err(failure(&text, FILE_ERROR));
    }
    fs::create_dir_all(base.join(name).join("Logs"))
        .map_err(|error| failure(&error.to_string(), FILE_ERROR))?;
    let settings = Settings { name: name.to_owned(), id: id.to_owned(), path, ..Settings::default() };
    Registry::write(&settings)?;
    registry.register(&settings.path)
}

fn modify(registry: &mut Registry, id: &str, options: &[&str]) -> Result<String, Failure> {
    let mut settings = registry.vm_to_change(id)?;
    let mut rest = options;
    while let Some((option, following)) = rest.split_first() {
        let option = option.strip_prefix("--").unwrap_or("");
        rest = match (option, following) {
            ("natpf1", ["delete", name, following @ ..]) => {
                remove_rule(&mut settings, name)?;
                following
            }
            ("natpf1", [rule, following @ ..]) => {
                add_rule(&mut settings, rule)?;
                following
            }
            ("uart1" | "uart2", ["off", following @ ..]) => {
                settings.values.remove(&format!("uartmode{}", &option[4..]));
                following
            }
            ("uart1", ["0x3F8", "4", following @ ..]) | ("uart2", ["0x2F8", "3", following @ ..]) => {
                following
            }
            ("uartmode1" | "uartmode2", ["file" | "server", path, following @ ..]) => {
                settings.values.insert(option.to_owned(), format!("{},{path}", rest[1]));
                following
            }
            (_, [value, following @ ..]) if SETTINGS.contains(&option) || MORE_SETTINGS.contains(&option) => {
                settings.values.insert(option.to_owned(), (*value).to_owned());
                following
            }
            _ => return Err(format!("Unknown option: --{option}")),
        };
    }
    Registry::write(&settings)
}

fn add_rule(settings: &mut Settings, rule: &str) -> Result<(), Failure> {
    let parts: Vec<&str> = rule.split(',').collect();
    let [name, "tcp" | "udp", _, _, _, _] = parts[..] else { return Err(format!("Invalid rule '{rule}'")) };
    if settings.rules.insert(name.to_owned(), rule.to_owned()).is_some() {
        return Err(failure("A NAT rule of this name already exists", INVALID_ARGUMENT));
    }
    Ok(())
}

fn remove_rule(settings: &mut Settings, name: &str) -> Result<(), Failure> {
    match settings.rules.remove(name) {
        Some(_) => Ok(()),
        None => Err(failure("Invalid argument value", INVALID_ARGUMENT)),
    }
}

fn control(registry: &mut Registry, id: &str, order: &[&str]) -> Result<String, Failure> {
    let mut settings = registry.vm(id)?;
    if !registry.runs(id) {
        return Err(format!("Machine '{id}' is not currently running."));
    }
    match order {
        ["natpf1", "delete", name] => {
            remove_rule(&mut settings, name)?;
            Registry::write(&settings)
        }
        ["natpf1", rule] => {
            add_rule(&mut settings, rule)?;
            Registry::write(&settings)
        }
        [word @ ("poweroff" | "acpipowerbutton" | "pause" | "resume" | "savestate")] => {
            vm::order(registry.home(), id, word).map_err(|error| error.to_string())?;
            Ok(String::new())
        }
        _ => Err(format!("Invalid command 'controlvm {}'", order.join(" "))),
    }
}
