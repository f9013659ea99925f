//! What each cmdlet does to the machine, with the errors that Hyper-V's have.

use std::{fs, path::Path, thread, time::Duration};

use crate::{
    dotnet,
    interpreter::{Argument, Flow, Interpreter, Outcome, unknown},
    table::{self, Takes},
    value::{Failure, Value},
    world::{Facts, Vm},
};

/// A cmdlet with its parameters.
#[derive(Debug)]
pub(crate) struct Bound {
    name: &'static str,
    values: Vec<(&'static str, Value)>,
    passed: Option<Vec<Value>>,
}

impl Bound {
    /// Refuses what is not in the table.
    pub(crate) fn new(name: &str, arguments: Vec<Argument>, passed: Option<Vec<Value>>) -> Outcome<Self> {
        let Some(cmdlet) = table::find(name) else { return unknown(format!("the cmdlet `{name}`")) };
        let mut values = Vec::new();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let Argument::Name(parameter) = argument else {
                return unknown(format!("a value without a name for `{name}`"));
            };
            let Some((known, takes)) = cmdlet.parameter(&parameter) else {
                return unknown(format!("the parameter `-{parameter}` of `{name}`"));
            };
            let value = match (takes, takes == Takes::Something) {
                (Takes::Nothing, _) => Value::Bool(true),
                (Takes::Something, _) => match arguments.next() {
                    Some(Argument::Value(value)) => value,
                    _ => return unknown(format!("`-{parameter}` of `{name}` without a value")),
                },
            };
            if values.iter().any(|(other, _)| *other == known) {
                return unknown(format!("`-{parameter}` of `{name}` twice"));
            }
            values.push((known, value));
        }
        Ok(Self { name: cmdlet.name, values, passed })
    }

    fn get(&self, parameter: &str) -> Option<&Value> {
        self.values.iter().find(|(name, _)| *name == parameter).map(|(_, value)| value)
    }

    fn has(&self, parameter: &str) -> bool {
        self.get(parameter).is_some()
    }

    fn need(&self, parameter: &str) -> Outcome<&Value> {
        match self.get(parameter) {
            Some(Value::Null) => {
                Err(self.fail("ParameterArgumentValidationErrorNullNotAllowed", "InvalidData", 0))
            }
            Some(value) => Ok(value),
            None => unknown(format!("`{}` without `-{parameter}`", self.name)),
        }
    }

    fn text(&self, parameter: &str) -> Outcome<String> {
        Ok(self.need(parameter)?.to_text())
    }

    fn integer(&self, parameter: &str) -> Outcome<i64> {
        match self.need(parameter)?.integer() {
            Some(number) => Ok(number),
            None => unknown(format!("`-{parameter}` of `{}` that is no number", self.name)),
        }
    }

    fn quiet(&self) -> bool {
        self.get("ErrorAction").is_some_and(|action| action.to_text() == "SilentlyContinue")
    }

    /// An error as this cmdlet reports it, in the language of the machine.
    fn fail(&self, identifier: &str, category: &'static str, code: i64) -> Flow {
        let class: String = self.name.chars().filter(char::is_ascii_alphanumeric).collect();
        let class = class.trim_start_matches("HyperV");
        Flow::Throw(Failure {
            id: format!("{identifier},Microsoft.HyperV.PowerShell.Commands.{class}"),
            category: category.into(),
            class: "VirtualizationException",
            code,
            text: format!("Fehler bei „{}“: Der Vorgang ist fehlgeschlagen.", self.name),
        })
    }

    fn invalid_state(&self) -> Flow {
        self.fail("InvalidState", "InvalidOperation", GENERIC)
    }

    fn invalid(&self) -> Flow {
        self.fail("InvalidParameter", "InvalidArgument", GENERIC)
    }

    /// The id in a VM, or in an adapter of one.
    fn id(&self, parameter: &str, class: &str) -> Outcome<String> {
        match self.need(parameter)? {
            Value::Object(object) if object.class == class => {
                Ok(object.field("Id").map(Value::to_text).unwrap_or_default())
            }
            other => unknown(format!("`-{parameter}` of `{}` is no {class} but {other:?}", self.name)),
        }
    }

    /// The VM that is meant, as it is now.
    fn vm<'f>(&self, facts: &'f mut Facts, id: &str) -> Outcome<&'f mut Vm> {
        let missing = self.fail("ObjectNotFound", "ObjectNotFound", GENERIC);
        facts.vms.iter_mut().find(|vm| vm.id == id).ok_or(missing)
    }
}

/// What .NET gives every exception that has no code of its own.
const GENERIC: i64 = -2_146_233_088;
const DISK_FULL: i64 = -2_147_024_784;
const FILE_NOT_FOUND: i64 = -2_147_024_894;
const FILE_EXISTS: i64 = -2_147_024_816;
const DEVICE_NOT_READY: i64 = -2_147_024_875;

/// Whether the cmdlet changes the machine.
fn changes(name: &str) -> bool {
    name.starts_with("Hyper-V\\") && !name.starts_with("Hyper-V\\Get-")
}

pub(crate) fn run(interpreter: &mut Interpreter<'_>, bound: &Bound) -> Outcome<Vec<Value>> {
    if bound.name.starts_with("Hyper-V\\") {
        let facts = interpreter.world.facts();
        if !facts.module {
            return Err(bound.fail("CouldNotAutoLoadModule", "ObjectNotFound", GENERIC));
        }
        if facts.faults.denied.iter().any(|name| bound.name.ends_with(&format!("\\{name}"))) {
            return Err(bound.fail("AccessDenied", "PermissionDenied", GENERIC));
        }
        if changes(bound.name) {
            live(interpreter);
        }
    }
    let one = |value| Ok(vec![value]);
    match bound.name {
        "ConvertFrom-Json" => {
            let texts: Vec<String> = bound.passed.iter().flatten().map(Value::to_text).collect();
            match serde_json::from_str(&texts.join("\n")) {
                Ok(json) => one(Value::from_json(json)),
                Err(error) => Err(Flow::Throw(Failure {
                    id: "System.ArgumentException,Microsoft.PowerShell.Commands.ConvertFromJsonCommand"
                        .into(),
                    category: "NotSpecified".into(),
                    class: "ArgumentException",
                    code: -2_147_024_809,
                    text: error.to_string(),
                })),
            }
        }
        "ConvertTo-Json" => one(Value::Text(bound.need("InputObject")?.to_json().to_string())),
        "Out-Null" => Ok(Vec::new()),
        "New-Object" => {
            let arguments = bound.need("ArgumentList")?.clone().each();
            one(dotnet::make(interpreter, &bound.text("TypeName")?, &arguments)?)
        }
        "Start-Sleep" => {
            thread::sleep(Duration::from_millis(
                u64::try_from(bound.integer("Milliseconds")?).unwrap_or_default(),
            ));
            Ok(Vec::new())
        }
        "Get-Module" if bound.text("Name")? == "Hyper-V" => {
            let module = Value::object("PSModuleInfo", vec![("Name", Value::text("Hyper-V"))]);
            Ok(if interpreter.world.facts().module { vec![module] } else { Vec::new() })
        }
        "Get-Service" if bound.text("Name")? == "vmms" => {
            let facts = interpreter.world.facts();
            if !facts.feature {
                return if bound.quiet() {
                    Ok(Vec::new())
                } else {
                    Err(bound.fail("NoServiceFound", "ObjectNotFound", GENERIC))
                };
            }
            let status = if facts.service { "Running" } else { "Stopped" };
            one(Value::object("ServiceController", vec![("Status", Value::text(status))]))
        }
        "Get-CimInstance" if bound.text("ClassName")? == "Win32_ComputerSystem" => {
            let present = Value::Bool(interpreter.world.facts().hypervisor);
            one(Value::object("CimInstance", vec![("HypervisorPresent", present)]))
        }
        "Test-Path" => one(Value::Bool(Path::new(&bound.text("LiteralPath")?).exists())),
        "Remove-Item" => match fs::remove_file(bound.text("LiteralPath")?) {
            Ok(()) => Ok(Vec::new()),
            Err(_) => Err(bound.fail("RemoveFileSystemItemIOError", "WriteError", GENERIC)),
        },
        "Get-NetNeighbor" => Ok(neighbours(&interpreter.world.facts())),
        _ => hyperv(interpreter, bound),
    }
}

/// Counts down to the end of a process that is to die.
fn live(interpreter: &mut Interpreter<'_>) {
    let dies = interpreter.world.change(|facts| match &mut facts.faults.dies_after {
        Some(0) => {
            facts.faults.dies_after = None;
            true
        }
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    });
    if dies {
        std::process::abort();
    }
}

fn hyperv(interpreter: &mut Interpreter<'_>, bound: &Bound) -> Outcome<Vec<Value>> {
    let world = interpreter.world.clone();
    match bound.name {
        "Hyper-V\\Get-VMHost" => {
            let facts = world.facts();
            Ok(vec![Value::object(
                "VMHost",
                vec![
                    ("LogicalProcessorCount", Value::Integer(facts.processors)),
                    ("MemoryCapacity", Value::Integer(facts.memory)),
                ],
            )])
        }
        "Hyper-V\\Get-VMSwitch" => {
            let switches = world.facts().switches;
            let switch = |switch: &crate::world::Switch| {
                Value::object(
                    "VMSwitch",
                    vec![("Id", Value::text(&switch.id)), ("Name", Value::text(&switch.name))],
                )
            };
            Ok(switches.iter().map(switch).collect())
        }
        "Hyper-V\\Get-VM" => {
            let facts = world.facts();
            // Whoever has no rights sees nothing, and is not told so.
            Ok(if facts.groups.is_empty() { Vec::new() } else { facts.vms.iter().map(vm).collect() })
        }
        "Hyper-V\\New-VHD" => new_vhd(&world.facts(), bound)
            .map(|path| vec![Value::object("VirtualHardDisk", vec![("Path", Value::Text(path))])]),
        "Hyper-V\\New-VM" => world.change(|facts| new_vm(facts, bound)).map(|vm| vec![vm]),
        "Hyper-V\\Get-VMNetworkAdapter" => {
            let id = bound.id("VM", "VirtualMachine")?;
            world.change(|facts| {
                let (faults, vm) = (facts.faults.clone(), bound.vm(facts, &id)?);
                Ok(vec![Value::object(
                    "VMNetworkAdapter",
                    vec![
                        ("Id", Value::text(&vm.id)),
                        ("MacAddress", Value::text(&vm.mac)),
                        ("IPAddresses", Value::texts(&told(vm, &faults.addresses, faults.network))),
                    ],
                )])
            })
        }
        "Hyper-V\\Connect-VMNetworkAdapter" => {
            let switch = bound.id("VMSwitch", "VMSwitch")?;
            change(interpreter, bound, "VMNetworkAdapter", "VMNetworkAdapter", |vm| {
                vm.switch = Some(switch);
                Ok(())
            })
        }
        "Hyper-V\\Set-VMNetworkAdapter" => {
            let mac = bound.text("StaticMacAddress")?;
            change(interpreter, bound, "VMNetworkAdapter", "VMNetworkAdapter", |vm| {
                vm.mac = mac;
                Ok(())
            })
        }
        "Hyper-V\\Set-VMNetworkAdapterVlan" if bound.has("Access") => {
            let vlan = bound.integer("VlanId")?;
            change(interpreter, bound, "VMNetworkAdapter", "VMNetworkAdapter", |vm| {
                vm.vlan = vlan;
                Ok(())
            })
        }
        "Hyper-V\\Remove-VM" => {
            let id = bound.id("VM", "VirtualMachine")?;
            world.change(|facts| {
                let vm = bound.vm(facts, &id)?;
                if !["Off", "Saved"].contains(&vm.state.as_str()) {
                    return Err(bound.invalid_state());
                }
                // The folders stay, as they do on Windows.
                let _ = fs::remove_file(configuration(vm));
                facts.vms.retain(|vm| vm.id != id);
                Ok(Vec::new())
            })
        }
        "Hyper-V\\Stop-VM" if !bound.has("TurnOff") => shut_down(interpreter, bound),
        _ => of_a_vm(interpreter, bound),
    }
}

/// Cmdlets that change one VM.
fn of_a_vm(interpreter: &mut Interpreter<'_>, bound: &Bound) -> Outcome<Vec<Value>> {
    let faults = interpreter.world.facts().faults;
    if bound.name == "Hyper-V\\Stop-VM" && faults.unruly > 0 {
        interpreter.world.change(|facts| facts.faults.unruly -= 1);
        return Err(bound.invalid_state());
    }
    let mut drive = None;
    change(interpreter, bound, "VM", "VirtualMachine", |vm| {
        match bound.name {
            "Hyper-V\\Set-VM" => set_vm(vm, bound)?,
            "Hyper-V\\Add-VMHardDiskDrive" => {
                let path = bound.text("Path")?;
                if !is_vhdx(Path::new(&path)) {
                    return Err(bound.fail("ObjectNotFound", "ObjectNotFound", FILE_NOT_FOUND));
                }
                vm.disks.push(path.clone());
                if bound.has("Passthru") {
                    drive = Some(Value::object("HardDiskDrive", vec![("Path", Value::Text(path))]));
                }
            }
            "Hyper-V\\Add-VMDvdDrive" => {
                let path = bound.text("Path")?;
                let is_disc = fs::read(&path).is_ok_and(|disc| disc.get(32769..32774) == Some(b"CD001"));
                if !is_disc {
                    return Err(bound.fail("ObjectNotFound", "ObjectNotFound", FILE_NOT_FOUND));
                }
                vm.discs.push(path);
            }
            "Hyper-V\\Set-VMFirmware" => {
                let Value::Object(first) = bound.need("FirstBootDevice")? else {
                    return Err(bound.invalid());
                };
                vm.first = first.field("Path").map(Value::to_text).unwrap_or_default();
                vm.secure_boot = match bound.text("EnableSecureBoot")?.as_str() {
                    "On" => true,
                    "Off" => false,
                    _ => return Err(bound.invalid()),
                };
                if vm.generation != 2 || !vm.disks.contains(&vm.first) {
                    return Err(bound.invalid());
                }
            }
            "Hyper-V\\Set-VMComPort" => {
                let path = bound.text("Path")?;
                if !path.starts_with(r"\\.\pipe\") || !(1..=2).contains(&bound.integer("Number")?) {
                    return Err(bound.invalid());
                }
                vm.console = path;
            }
            "Hyper-V\\Start-VM" => {
                if !["Off", "Saved"].contains(&vm.state.as_str()) {
                    return Err(bound.invalid_state());
                }
                if faults.no_memory {
                    return Err(bound.fail("OutOfMemory", "ResourceUnavailable", GENERIC));
                }
                if !vm.disks.iter().all(|disk| is_whole(Path::new(disk))) {
                    return Err(bound.fail("ObjectNotFound", "ObjectNotFound", FILE_NOT_FOUND));
                }
                vm.state = faults.starts_as.clone().unwrap_or_else(|| "Running".into());
            }
            "Hyper-V\\Resume-VM" if vm.state == "Paused" => vm.state = "Running".into(),
            "Hyper-V\\Remove-VMSavedState" if vm.state == "Saved" => vm.state = "Off".into(),
            "Hyper-V\\Stop-VM" => {
                if ["Off", "Saved"].contains(&vm.state.as_str()) {
                    return Err(bound.invalid_state());
                }
                if vm.state != "Stuck" {
                    vm.state = "Off".into();
                }
            }
            _ => return Err(bound.invalid_state()),
        }
        Ok(())
    })?;
    Ok(drive.into_iter().collect())
}

fn change(
    interpreter: &mut Interpreter<'_>,
    bound: &Bound,
    parameter: &str,
    class: &str,
    change: impl FnOnce(&mut Vm) -> Outcome<()>,
) -> Outcome<Vec<Value>> {
    let id = bound.id(parameter, class)?;
    interpreter.world.change(|facts| change(bound.vm(facts, &id)?)).map(|()| Vec::new())
}

fn shut_down(interpreter: &mut Interpreter<'_>, bound: &Bound) -> Outcome<Vec<Value>> {
    if !bound.has("Force") {
        return unknown("`Stop-VM` without `-Force`, which may ask a question");
    }
    let id = bound.id("VM", "VirtualMachine")?;
    thread::sleep(Duration::from_millis(interpreter.world.facts().faults.shutdown));
    let deaf = interpreter.world.change(|facts| {
        if facts.faults.booting > 0 {
            facts.faults.booting -= 1;
            return Err(bound.fail("OperationFailed", "InvalidResult", DEVICE_NOT_READY));
        }
        let deaf = facts.faults.deaf;
        let vm = bound.vm(facts, &id)?;
        if vm.state != "Running" {
            return Err(bound.invalid_state());
        }
        if !deaf {
            vm.state = "Off".into();
        }
        Ok(deaf)
    })?;
    if deaf {
        thread::sleep(Duration::from_mins(5));
    }
    Ok(Vec::new())
}

fn set_vm(vm: &mut Vm, bound: &Bound) -> Outcome<()> {
    for (parameter, value) in &bound.values {
        match (*parameter, value) {
            ("ProcessorCount", Value::Integer(count)) => vm.processors = *count,
            ("DynamicMemory", _) => vm.dynamic = true,
            ("StaticMemory", _) => vm.dynamic = false,
            ("MemoryMinimumBytes", Value::Integer(bytes)) if *bytes <= vm.memory => vm.least = *bytes,
            ("MemoryMaximumBytes", Value::Integer(bytes)) if *bytes >= vm.memory => {}
            ("CheckpointType", Value::Text(word)) => vm.checkpoints.clone_from(word),
            ("AutomaticStopAction", Value::Text(word))
                if ["Save", "ShutDown", "TurnOff"].contains(&word.as_str()) =>
            {
                vm.stop_action.clone_from(word);
            }
            ("Notes", Value::Text(text)) => vm.notes.clone_from(text),
            ("VM", _) => {}
            _ => return Err(bound.invalid()),
        }
    }
    Ok(())
}

/// A file that says what the disk would be. Real ones of ours are taken as well, as a parent.
fn new_vhd(facts: &Facts, bound: &Bound) -> Outcome<String> {
    let path = bound.text("Path")?;
    if Path::new(&path).extension().is_none_or(|extension| extension != "vhdx") {
        return Err(bound.invalid());
    }
    if Path::new(&path).exists() {
        return Err(bound.fail("OperationFailed", "NotSpecified", FILE_EXISTS));
    }
    if facts.faults.disk_full {
        // As much of it as there was room for.
        let _ = fs::write(&path, "vhdx");
        return Err(bound.fail("OperationFailed", "NotSpecified", DISK_FULL));
    }
    let parent = match (bound.has("Differencing"), bound.has("Dynamic")) {
        (true, false) => {
            let parent = bound.text("ParentPath")?;
            if !is_vhdx(Path::new(&parent)) {
                return Err(bound.fail("ObjectNotFound", "ObjectNotFound", FILE_NOT_FOUND));
            }
            Some(parent)
        }
        (false, true) if bound.integer("SizeBytes")? > 0 => None,
        _ => return Err(bound.invalid()),
    };
    let text = format!("vhdxfile\n{}\n", parent.unwrap_or_default());
    match fs::write(&path, text) {
        Ok(()) => Ok(path),
        Err(_) => Err(bound.fail("OperationFailed", "NotSpecified", FILE_NOT_FOUND)),
    }
}

fn is_vhdx(path: &Path) -> bool {
    fs::read(path).is_ok_and(|content| content.starts_with(b"vhdxfile"))
}

/// Whether a disk and what it is based on are there.
fn is_whole(path: &Path) -> bool {
    let Ok(content) = fs::read(path) else { return false };
    let text = String::from_utf8_lossy(&content);
    match text.strip_prefix("vhdxfile\n").and_then(|rest| rest.lines().next()) {
        Some("") => true,
        Some(parent) => is_vhdx(Path::new(parent)),
        None => content.starts_with(b"vhdxfile"),
    }
}

fn new_vm(facts: &mut Facts, bound: &Bound) -> Outcome<Value> {
    let (name, memory) = (bound.text("Name")?, bound.integer("MemoryStartupBytes")?);
    if name.chars().count() > 100 || memory % (2 << 20) != 0 || !bound.has("NoVHD") {
        return Err(bound.invalid());
    }
    facts.made = facts.made.wrapping_add(1);
    let number = facts.made;
    let made = Vm {
        id: format!("aaaaaaaa-0000-4000-8000-{number:012}"),
        path: Path::new(&bound.text("Path")?).join(&name).to_string_lossy().into_owned(),
        name,
        state: "Off".into(),
        generation: bound.integer("Generation")?,
        memory,
        secure_boot: true,
        mac: format!("00155D0000{number:02X}"),
        number,
        ..Vm::default()
    };
    let file = configuration(&made);
    let written =
        Path::new(&file).parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&file, ""));
    if written.is_err() {
        return Err(bound.fail("OperationFailed", "NotSpecified", FILE_NOT_FOUND));
    }
    let value = vm(&made);
    facts.vms.push(made);
    Ok(value)
}

fn configuration(vm: &Vm) -> String {
    let path = Path::new(&vm.path).join("Virtual Machines").join(format!("{}.vmcx", vm.id));
    path.to_string_lossy().into_owned()
}

fn vm(vm: &Vm) -> Value {
    Value::object(
        "VirtualMachine",
        vec![
            ("Id", Value::text(&vm.id)),
            ("Name", Value::text(&vm.name)),
            ("Path", Value::text(&vm.path)),
            ("State", Value::text(&vm.state)),
            ("Notes", Value::text(&vm.notes)),
        ],
    )
}

fn ipv4(vm: &Vm, network: u8) -> String {
    format!("172.{}.0.{}", 20_u8.wrapping_add(network), vm.number)
}

/// What the guest tells of itself.
fn told(vm: &Vm, mode: &str, network: u8) -> Vec<String> {
    let link = format!("fe80::215:5dff:fe00:{:x}", vm.number);
    match (vm.state.as_str(), mode) {
        ("Running", "" | "told") => vec![link, ipv4(vm, network)],
        ("Running", "ipv6") => vec![link, format!("2001:db8::{:x}", vm.number)],
        _ => Vec::new(),
    }
}

fn neighbours(facts: &Facts) -> Vec<Value> {
    let entry = |address: String, mac: &str, state: &str| {
        Value::object(
            "MSFT_NetNeighbor",
            vec![
                ("IPAddress", Value::Text(address)),
                ("LinkLayerAddress", if mac.is_empty() { Value::Null } else { Value::text(mac) }),
                ("State", Value::text(state)),
            ],
        )
    };
    let mut entries = vec![
        entry("ff02::16".into(), "", "Permanent"),
        entry("172.20.15.255".into(), "FF-FF-FF-FF-FF-FF", "Permanent"),
        entry("172.20.0.250".into(), "00-00-00-00-00-00", "Unreachable"),
    ];
    if facts.faults.addresses == "neighbours" {
        for vm in facts.vms.iter().filter(|vm| vm.state == "Running") {
            let pairs: Vec<String> =
                vm.mac.as_bytes().chunks(2).map(|pair| String::from_utf8_lossy(pair).into_owned()).collect();
            entries.push(entry(format!("172.19.0.{}", vm.number), &pairs.join("-"), "Stale"));
            entries.push(entry(ipv4(vm, facts.faults.network), &pairs.join("-"), "Reachable"));
        }
    }
    entries
}
