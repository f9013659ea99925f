//! The way from process 1 to `machineos: ready`: disks, seed, network, sshd, services. Runs as a process of its own,
//! so that nothing in a seed can take the supervisor down.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::command_line;
use crate::console;
use crate::data;
use crate::devices::{SETTLED, entries};
use crate::disks::{self, Content, Disk};
use crate::error::{BootError, make_folder, replace_file};
use crate::instance;
use crate::kernel::Modules;
use crate::network;
use crate::seed::network_config::NetworkConfig;
use crate::seed::{self, Files, Seed, ec2};
use crate::supervisor::protocol;

const POLL: Duration = Duration::from_millis(10);
/// Buses answer a little after their drivers say that they are done.
const LATE_DISKS: Duration = Duration::from_millis(150);
/// Without a seed, or data that has the last one, there is nothing to lose by waiting for a slow bus.
const LATE_SEED: Duration = Duration::from_secs(3);
/// More than any driver takes; a driver that hangs must not keep the system from starting.
const DEVICES_DEADLINE: Duration = Duration::from_secs(30);
const SSHD_DEADLINE: Duration = Duration::from_mins(1);
const NETWORK_DEADLINE: Duration = Duration::from_secs(15);
/// Where Hyper-V's key-value pairs are spoken, by which it learns the addresses of its VMs.
const HYPERV_PAIRS: &str = "/dev/vmbus/hv_kvp";
const COMMAND_LOG: &str = "/var/log/runcmd.log";
/// Where the seed's scripts are run from: they may carry secrets, and the folders above are root's.
const SCRIPTS: &str = "scripts";
const SSH_PORT: u16 = 22;

/// What the data disk and the seed are mounted with. The checksums come first: ext4 would call for them otherwise.
const FILE_SYSTEMS: [&str; 3] = ["crc32c_intel", "crc32c_generic", "ext4"];
const FAT_MODULES: [&str; 3] = ["nls_cp437", "nls_ascii", "vfat"];
const ISO_MODULES: [&str; 1] = ["isofs"];
/// What the engine asks for with its first container; the rest comes when it is asked for.
const ENGINE_MODULES: [&str; 9] = [
    "bridge",
    "br_netfilter",
    "veth",
    "nf_tables",
    "nft_chain_nat",
    "nft_ct",
    "nft_masq",
    "nft_nat",
    "nft_fib_inet",
];

/// Everything up to the last command of the seed.
pub(crate) fn run() -> ExitCode {
    let mut modules = Modules::of_this_kernel().unwrap_or_default();
    report(network::loopback());
    load(&mut modules, &FILE_SYSTEMS);
    let is_ec2 = ec2::is_here();
    let found = find_disks(is_ec2);
    prepare_data(&found);
    let mut up = BTreeSet::new();
    let (seed, is_new) = read_seed(&found, is_ec2, &mut modules, &mut up);
    for complaint in &seed.complaints {
        console::report(complaint);
    }

    let (host_name, named) = instance::name_host(seed.host_name.as_deref());
    report(named);
    bring_up_network(seed.network.as_ref(), Some(&host_name), &mut up);
    let (default_user, verdict) = command_line::default_user();
    report(verdict);
    complain(&instance::make_accounts(seed.accounts(&default_user), is_new));
    complain(&instance::provide_host_keys(&seed.config.ssh_keys, is_new, &host_name));
    complain(&instance::write_files(&seed.config.write_files, is_new));
    let mark = Path::new(data::STATE).join("instance");
    report(replace_file(&mark, seed.instance.as_bytes(), 0o600, None));

    report(start("sshd"));
    if wait(SSHD_DEADLINE, || network::is_listening(SSH_PORT)) {
        instance::tell_host_keys();
        let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
        let seconds = uptime.split(' ').next().unwrap_or_default();
        console::say(&format!("sshd listens {seconds} s after the kernel started"));
        console::say("ready");
    } else {
        console::say(&format!(
            "sshd does not listen, see `/var/log/sshd.log`; keys are in `{}`",
            instance::HOST_KEY_FOLDER
        ));
    }

    // By the time that anybody can have logged in and started a container, it is there.
    let is_guarded = guard_host_loopback();
    wait(DEVICES_DEADLINE, || Path::new(SETTLED).exists());
    bring_up_network(seed.network.as_ref(), Some(&host_name), &mut up);
    if up.is_empty() {
        console::say("There is no network interface");
    }
    load(&mut modules, &ENGINE_MODULES);
    if Path::new(HYPERV_PAIRS).exists() {
        report(start("hv-kvp"));
    }
    let services = if is_guarded { entries("/etc/services") } else { Vec::new() };
    for service in services {
        if let Some(name) = service.file_name().and_then(|name| name.to_str())
            && service.join("run").exists()
        {
            report(start(name));
        }
    }
    if run_commands(&seed) {
        // They may have changed them, and what comes last is found first.
        instance::tell_host_keys();
    }
    ExitCode::SUCCESS
}

/// Whether what was asked for is so.
fn guard_host_loopback() -> bool {
    if !command_line::denies_host_loopback() {
        return true;
    }
    let outcome = network::deny_host_loopback();
    if outcome.is_err() {
        console::say(
            "No service is started: containers could reach the loopback services of the machine that runs this one",
        );
    }
    let is_guarded = outcome.is_ok();
    report(outcome);
    is_guarded
}

/// The disks that are there when seed and data are found, or when no more can come.
fn find_disks(is_ec2: bool) -> Vec<Disk> {
    let began = Instant::now();
    let mut settled: Option<Instant> = None;
    let mut known: BTreeMap<String, Option<Disk>> = BTreeMap::new();
    loop {
        for name in disks::names() {
            if !matches!(known.get(&name), Some(Some(_))) {
                let disk = disks::look(&name);
                known.insert(name, disk);
            }
        }
        let found: Vec<Disk> = known.values().flatten().cloned().collect();
        let has_seed = seed::choose(&found).is_some();
        let has_data = data::choose(&found).is_some_and(data::is_settled);
        if has_seed && has_data {
            return found;
        }
        if settled.is_none() && Path::new(SETTLED).exists() {
            settled = Some(Instant::now());
        }
        // On EC2 the seed is not on a disk.
        let patience = if has_seed || has_data || is_ec2 { LATE_DISKS } else { LATE_SEED };
        if settled.is_some_and(|since| since.elapsed() >= patience) || began.elapsed() >= DEVICES_DEADLINE {
            return found;
        }
        thread::sleep(POLL);
    }
}

fn prepare_data(found: &[Disk]) {
    let outcome = if let Some(disk) = data::choose(found) {
        data::mount_disk(disk)
    } else {
        console::say("There is no data disk: everything is in memory and lost at power-off");
        data::mount_memory()
    };
    if let Err(failure) = outcome {
        console::report(&failure);
        console::say("The data disk cannot be used: everything is in memory and lost at power-off");
        report(data::mount_memory());
    }
}

/// The seed, and whether it is for an instance that was not set up yet.
fn read_seed(found: &[Disk], is_ec2: bool, modules: &mut Modules, up: &mut BTreeSet<String>) -> (Seed, bool) {
    let kept = Path::new(data::STATE).join("seed");
    let files = match seed::choose(found) {
        Some(disk) => read_disk(disk, modules),
        None if is_ec2 => read_metadata(up),
        None => None,
    };
    if let Some(files) = &files {
        report(files.keep(&kept));
    }
    let seed = match files.or_else(|| Files::read(&kept).ok()) {
        Some(files) => files.parse(),
        None if is_ec2 => {
            console::say("There is no metadata: nobody can log in. Enable the instance's metadata service");
            Seed::default()
        }
        None => {
            console::say(
                "There is no seed: nobody can log in. Attach a disk labelled `cidata` with `user-data`",
            );
            Seed::default()
        }
    };
    let before = fs::read_to_string(Path::new(data::STATE).join("instance"));
    let is_new = before.map_or(true, |before| before != seed.instance);
    (seed, is_new)
}

fn read_disk(disk: &Disk, modules: &mut Modules) -> Option<Files> {
    let is_disc = matches!(disk.content, Content::Iso { .. });
    load(modules, if is_disc { &ISO_MODULES } else { &FAT_MODULES });
    Files::read_from(disk).map_err(|failure| console::report(&failure)).ok()
}

/// Brings up the network on the way: on EC2 that comes before knowing whose it is.
fn read_metadata(up: &mut BTreeSet<String>) -> Option<Files> {
    match ec2::read(|| bring_up_network(None, None, up)) {
        Ok((files, complaint)) => {
            report(complaint.map_or(Ok(()), Err));
            Some(files)
        }
        Err(failure) => {
            console::report(&failure);
            None
        }
    }
}

fn bring_up_network(config: Option<&NetworkConfig>, host_name: Option<&str>, up: &mut BTreeSet<String>) {
    for interface in network::interfaces() {
        if up.insert(interface.clone()) {
            report(network::bring_up(&interface, config, host_name, start));
        }
    }
}

/// The seed's commands and then its scripts, once for each instance: those that were begun are not begun again. Tells
/// whether there were any.
fn run_commands(seed: &Seed) -> bool {
    let commands = seed.config.commands();
    let mark = Path::new(data::STATE).join("commands");
    let is_nothing = commands.is_empty() && seed.scripts.is_empty();
    if is_nothing || fs::read_to_string(&mark).is_ok_and(|before| before == seed.instance) {
        return false;
    }
    report(replace_file(&mark, seed.instance.as_bytes(), 0o600, None));
    wait(NETWORK_DEADLINE, network::has_route);
    for words in commands {
        if let Err(failure) = run_logged(&words) {
            console::say(&format!("A command of the seed failed, see `{COMMAND_LOG}`: {failure}"));
        }
    }
    let folder = Path::new(data::STATE).join(SCRIPTS);
    let _ = fs::remove_dir_all(&folder);
    for (index, script) in seed.scripts.iter().enumerate() {
        let number = index + 1;
        let file = folder.join(format!("script-{number}"));
        let written = make_folder(&folder).and_then(|()| replace_file(&file, script.as_bytes(), 0o700, None));
        if let Err(failure) = written {
            console::report(&failure);
        } else if let Err(failure) = run_logged(&[file.to_string_lossy().into_owned()]) {
            console::say(&format!("Script {number} of the seed failed, see `{COMMAND_LOG}`: {failure}"));
        }
    }
    true
}

/// The output goes straight to the file: what a command leaves running must not hold up the next one.
fn run_logged(words: &[String]) -> io::Result<()> {
    let log = fs::OpenOptions::new().append(true).create(true).open(COMMAND_LOG)?;
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let status =
        command.env("PATH", crate::supervisor::PATH).env("HOME", "/root").current_dir("/").status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(status.to_string())) }
}

fn load(modules: &mut Modules, names: &[&str]) {
    for name in names {
        if let Err(failure) = modules.load(name) {
            console::say(&format!("Could not load the kernel module `{name}`: {failure}"));
        }
    }
}

/// Asks the supervisor to start a service; its socket may be a moment away.
fn start(name: &str) -> Result<(), BootError> {
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        match protocol::ask(&format!("start {name}")) {
            Ok(reply) if reply.code == 0 => return Ok(()),
            Ok(reply) => return Err(BootError::Supervisor { source: io::Error::other(reply.text) }),
            Err(_) if Instant::now() < until => thread::sleep(POLL),
            Err(source) => return Err(BootError::Supervisor { source }),
        }
    }
}

fn wait(deadline: Duration, done: impl Fn() -> bool) -> bool {
    let until = Instant::now() + deadline;
    while !done() {
        if Instant::now() >= until {
            return false;
        }
        thread::sleep(POLL);
    }
    true
}

fn report<E: std::error::Error>(outcome: Result<(), E>) {
    if let Err(failure) = outcome {
        console::report(&failure);
    }
}

fn complain(failures: &[instance::InstanceError]) {
    for failure in failures {
        console::report(failure);
    }
}
