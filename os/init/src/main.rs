//! The one program of MachineOS's own: init, supervisor and their commands, told apart by the name it is called by.

mod boot;
mod command;
mod command_line;
mod console;
mod data;
mod devices;
mod disks;
mod early;
mod error;
mod http;
mod instance;
mod kernel;
mod network;
mod seed;
mod supervisor;

use std::path::Path;
use std::process::ExitCode;

/// Only the initramfs has this file: its presence tells the early stage from the running system.
const ROOT_IMAGE: &str = "/root.squashfs";

fn main() -> ExitCode {
    // The first process has nothing that could go on without what panicked, nor have those that it makes as copies of it.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |information| {
        report(information);
        std::process::abort();
    }));
    let mut arguments = std::env::args();
    let called = arguments.next().unwrap_or_default();
    let name = called.rsplit('/').next().unwrap_or_default();
    let arguments: Vec<String> = arguments.collect();
    match (name, arguments.first().map(String::as_str)) {
        ("init", _) if std::process::id() == 1 && Path::new(ROOT_IMAGE).exists() => early::run(ROOT_IMAGE),
        ("init", _) if std::process::id() == 1 => supervisor::run(),
        ("init", Some("boot")) => boot::run(),
        ("service", _) => command::service(&arguments),
        ("poweroff" | "halt" | "reboot" | "shutdown", _) => command::power(name, &arguments),
        _ => {
            console::complain("Call this as `init`, `service`, `poweroff` or `reboot`");
            ExitCode::from(2)
        }
    }
}
