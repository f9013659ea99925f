//! A VM while it runs: QEMU, the port forwarder and its place on the network inside.

use std::{env, path::PathBuf};

use machine_driver::{DriverError, HostView, Progress};
use machine_switch::Starting;

use crate::{
    accelerator,
    address::{self, Place},
    command::{DISK, Machine, SEED},
    config::Config,
    emulator::Emulator,
    inside::{self, Inside},
    making::{cache, place, provide},
    process::Process,
    state::{Book, Made},
    vm::{self, blocking},
};

/// Names the program that forwards ports and switches frames, where it is not the one that runs. For tests.
const HELPER_VARIABLE: &str = "MACHINE_QEMU_PORTS_HELPER";

/// Kinds and names in the journal.
const PROCESS: &str = "process";
const QEMU: &str = "qemu";
const PORTS: &str = "ports";

/// What it takes besides QEMU.
#[derive(Debug)]
pub(crate) struct Tools {
    /// Where images are looked for.
    pub(crate) images: Vec<PathBuf>,
    /// The program that forwards ports and switches frames; `None`: the one that runs.
    pub(crate) helper: Option<PathBuf>,
}

impl Tools {
    fn helper(&self) -> Result<PathBuf, DriverError> {
        if let Some(helper) = self.helper.clone().or_else(|| env::var_os(HELPER_VARIABLE).map(Into::into)) {
            return Ok(helper);
        }
        env::current_exe()
            .map_err(|error| DriverError::failed("Could not find this program's own file").with_source(error))
    }
}

pub(crate) async fn emulator_of(config: &Config, made: &Made) -> Result<Emulator, DriverError> {
    match &made.binary {
        Some(path) => Emulator::find(&path.to_string_lossy()).await,
        None => Emulator::find(config.binary()).await,
    }
}

/// Brings the VM up, with its port forwarder; running already is success.
pub(crate) async fn run(
    tools: &Tools,
    host: &HostView,
    config: &Config,
    book: &mut Book<'_>,
    progress: &dyn Progress,
) -> Result<(), DriverError> {
    let (Some(place), Some(image)) = (place(&book.made), book.made.image.clone()) else {
        return Err(DriverError::gone(format!("The VM of `{}` was never made", host.name))
            .with_hint(format!("Run `machine create {}` again, or remove it", host.name)));
    };
    let running = vm::find_or_wait(&host.folder, book.made.process, &host.id).await?;
    let process = if let Some(process) = running {
        if let Some(inside) = book.made.inside {
            // A switch that was killed comes again, too.
            join(tools, host, inside, progress).await;
        }
        if book.made.process == Some(process) {
            return run_forwarder(tools, host, place, book, progress).await;
        }
        process
    } else {
        complete(host)?;
        let image = provide(image, config, cache(host), &tools.images).await?;
        address::look_again(place)?;
        let emulator = emulator_of(config, &book.made).await?;
        let choice =
            accelerator::choose(config.accelerator, &emulator.path, &emulator.version, &cache(host)).await?;
        if let Some(note) = &choice.note {
            progress.note(note);
        }
        progress.step("Starting the VM");
        book.intend(PROCESS, QEMU).await?;
        let inside = usable_inside(&book.made, &emulator, progress);
        // Held until the VM runs: a switch without VMs would end.
        let starting = match inside {
            Some(inside) => join(tools, host, inside, progress).await,
            None => None,
        };
        let machine = Machine {
            name: &host.name,
            id: &host.id,
            folder: &absolute(host)?,
            image: &image,
            place,
            accelerator: choice.accelerator,
            cpus: config.cpus(),
            memory: config.memory,
            // QEMU does not start with an interface that leads nowhere.
            inside: inside.filter(|_| starting.is_some()),
            host_loopback: config.host_loopback,
            sandbox: emulator.can_be_sandboxed,
        };
        launch(&machine, &emulator, progress).await?
    };
    book.made.process = Some(process);
    book.made(PROCESS, QEMU, Some(&process.id())).await?;
    run_forwarder(tools, host, place, book, progress).await
}

/// The recorded place on the network inside, as far as this QEMU can be on it.
fn usable_inside(made: &Made, emulator: &Emulator, progress: &dyn Progress) -> Option<Inside> {
    if made.inside.is_some() && !emulator.has_datagrams {
        progress.note(&without_inside(emulator));
        return None;
    }
    made.inside
}

/// Puts the VM on the network inside. Without it a VM works; only others of the store cannot reach it there.
async fn join(tools: &Tools, host: &HostView, inside: Inside, progress: &dyn Progress) -> Option<Starting> {
    let (cache, folder, id) = (cache(host), host.folder.clone(), host.id);
    let joined = match tools.helper() {
        Ok(helper) => blocking(move || inside::join(&cache, &folder, &id, inside, &helper)).await,
        Err(error) => Err(error),
    };
    joined
        .inspect_err(|error| {
            tracing::warn!(%error, cause = ?std::error::Error::source(error), "no network inside");
            progress
                .note("Other hosts of the store cannot be reached: the switch between them did not start");
        })
        .ok()
}

async fn launch(
    machine: &Machine<'_>,
    emulator: &Emulator,
    progress: &dyn Progress,
) -> Result<Process, DriverError> {
    if !machine.sandbox {
        progress.note(&format!(
            "`{}` was built without a sandbox: the VM runs with all the rights of its user",
            emulator.path.display()
        ));
    }
    vm::launch(&emulator.path, &machine.arguments()?, machine.folder, machine.id).await.map_err(|error| {
        DriverError::failed(format!("Could not start the VM of `{}`", machine.name)).with_source(error)
    })
}

/// A VM without it works; only its published ports are not reachable.
async fn run_forwarder(
    tools: &Tools,
    host: &HostView,
    place: Place,
    book: &mut Book<'_>,
    progress: &dyn Progress,
) -> Result<(), DriverError> {
    let marker = vm::forwarder_marker(&host.folder, &host.id);
    if book.made.ports.is_some_and(|process| process.is_alive(&marker)) {
        return Ok(());
    }
    book.intend(PROCESS, PORTS).await?;
    // One that nobody recorded may still be on its way; two would be in each other's way.
    vm::kill_everything(marker).await?;
    let launched = match tools.helper() {
        Ok(helper) => vm::launch_forwarder(&helper, &host.folder, place, &host.id).await,
        Err(error) => Err(error),
    };
    match launched {
        Ok(process) => {
            book.made.ports = Some(process);
            book.made(PROCESS, PORTS, Some(&process.id())).await
        }
        Err(error) => {
            tracing::warn!(%error, cause = ?std::error::Error::source(&error), "no port forwarder");
            progress.note(
                "Published ports of containers will not be reachable: the port forwarder did not start",
            );
            book.gone(PROCESS, PORTS).await
        }
    }
}

/// Forgets the processes, which have ended.
pub(crate) async fn ended(host: &HostView, book: &mut Book<'_>) -> Result<(), DriverError> {
    vm::end_forwarder(&host.folder, &host.id).await?;
    vm::clear_runtime_files(&host.folder).map_err(|error| {
        DriverError::failed("Could not remove what a run of the VM left").with_source(error)
    })?;
    let (cache, folder, id) = (cache(host), host.folder.clone(), host.id);
    blocking(move || inside::leave(&cache, &folder, &id)).await?;
    book.made.process = None;
    book.made.ports = None;
    book.save().await?;
    for name in book.named(PROCESS) {
        book.gone(PROCESS, &name).await?;
    }
    Ok(())
}

fn absolute(host: &HostView) -> Result<PathBuf, DriverError> {
    std::path::absolute(&host.folder)
        .map_err(|error| DriverError::failed("Could not find the host's folder").with_source(error))
}

pub(crate) fn without_inside(emulator: &Emulator) -> String {
    format!(
        "Other hosts of the store cannot reach this one: that takes QEMU 7.2, and `{}` is {}",
        emulator.path.display(),
        emulator.version
    )
}

/// Refuses to start a VM of which something is missing.
fn complete(host: &HostView) -> Result<(), DriverError> {
    let gone = |file: &str| {
        DriverError::gone(format!("The VM's file `{}` is gone", host.folder.join(file).display()))
    };
    if !host.folder.join(DISK).exists() {
        return Err(gone(DISK).with_hint(format!(
            "If it is nowhere, all that was on the host is lost: remove it with `machine rm {}`",
            host.name
        )));
    }
    if !host.folder.join(SEED).exists() {
        return Err(gone(SEED).with_hint("Put it back; the VM's disk is there"));
    }
    Ok(())
}
