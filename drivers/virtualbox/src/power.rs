//! A VM's power: on, off, and what belongs to a VM while it runs.

use std::{
    fs, io,
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use machine_driver::{DriverError, HostView, Progress, State};
use tokio::time::{Instant, sleep};

use crate::{
    config::Config,
    docker_machine::{Old, vm_of},
    failure::CallError,
    files::{
        self, CONSOLE, PREVIOUS_CONSOLE, SEED, cache, ports_socket, remove_if_there, vm_folder, vm_name,
    },
    image::{Image, text},
    info::{self, Vm},
    making::{self, BOOT_PORT, SEED_PORT, attach, is_ours},
    place::{Place, look_again},
    program::VBoxManage,
    work::blocking,
};

/// What an orderly shutdown may take.
const SHUTDOWN: Duration = Duration::from_mins(2);
/// A guest that is still booting does not see the button being pressed.
const PRESS_AGAIN: Duration = Duration::from_secs(8);
/// What VirtualBox may take from one state to another.
const CHANGE: Duration = Duration::from_mins(1);
/// A forward is there when the VM runs, or a moment later.
const FORWARD: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(100);

/// The host's VM, if it is registered. Another folder's is an error.
pub(crate) async fn own(manage: &VBoxManage, host: &HostView) -> Result<Option<Vm>, DriverError> {
    match info::look_up(manage, &vm_of(host)).await? {
        Some(vm) if !is_ours(&vm, &host.folder) => Err(making::foreign(&vm, host)),
        vm => Ok(vm),
    }
}

/// The error of a VM that was removed behind our back.
pub(crate) fn gone(host: &HostView) -> DriverError {
    DriverError::gone(format!("VirtualBox has no VM of `{}` any more", host.name))
        .with_hint(format!("If it was removed there, remove the host as well: `machine rm {}`", host.name))
}

/// Waits until the VM is in one of two lasting states.
async fn lasting(manage: &VBoxManage, host: &HostView) -> Result<Vm, DriverError> {
    let deadline = Instant::now() + CHANGE;
    loop {
        let vm = own(manage, host).await?.ok_or_else(|| gone(host))?;
        if !matches!(vm.state, State::Starting | State::Stopping) {
            return Ok(vm);
        }
        if Instant::now() > deadline {
            return Err(DriverError::not_ready(format!(
                "The VM of `{}` is {} for too long",
                host.name, vm.state
            ))
            .with_hint(format!("`machine kill {}` stops it as if the power was cut", host.name)));
        }
        sleep(POLL).await;
    }
}

/// Has the VM run; running already is success.
pub(crate) async fn on(
    manage: &VBoxManage,
    host: &HostView,
    config: &Config,
    place: Place,
    image: &Image,
    progress: &dyn Progress,
) -> Result<(), DriverError> {
    let vm = registered(manage, host).await?;
    let id = vm_of(host);
    let failed = |error: CallError| error.into_error(format!("Could not start the VM of `{}`", host.name));
    match vm.state {
        State::Running => return blocking(move || leads_in(place)).await,
        State::Paused => {
            return manage.call(&["controlvm", &id, "resume"]).await.map(drop).map_err(failed);
        }
        State::Stopped => {
            look_again(place)?;
            settle(manage, host, &vm, place, image, progress).await?;
        }
        State::Saved => look_again(place)?,
        State::Error if vm.settings.is_none() => return Err(unreadable(host)),
        state => {
            return Err(DriverError::failed(format!(
                "The VM of `{}` cannot be started: its state is {state}",
                host.name
            ))
            .with_hint(format!("`machine kill {}` stops it as if the power was cut", host.name)));
        }
    }
    manage.has_to_start()?;
    progress.step("Starting the VM");
    if let Err(error) = manage.take_time(&["startvm", &id, "--type", &config.ui_type]).await {
        // Whoever was killed before this may have started it.
        let is_running =
            matches!(info::look_up(manage, &id).await, Ok(Some(vm)) if vm.state == State::Running);
        if !is_running {
            return Err(failed(error));
        }
    }
    lasting(manage, host).await?;
    blocking(move || leads_in(place)).await
}

/// Has a VM of docker-machine's run; running already is success.
pub(crate) async fn wake(
    manage: &VBoxManage,
    host: &HostView,
    old: &Old,
    progress: &dyn Progress,
) -> Result<(), DriverError> {
    let id = vm_of(host);
    let failed = |error: CallError| error.into_error(format!("Could not start the VM of `{}`", host.name));
    match lasting(manage, host).await?.state {
        State::Running => return Ok(()),
        State::Paused => {
            return manage.call(&["controlvm", &id, "resume"]).await.map(drop).map_err(failed);
        }
        _ => old.look()?,
    }
    manage.has_to_start()?;
    progress.step("Starting the VM");
    manage.take_time(&["startvm", &id, "--type", old.ui_type()]).await.map_err(failed)?;
    lasting(manage, host).await.map(drop)
}

/// The VM as it is registered; one whose folder has moved with its store is registered again.
async fn registered(manage: &VBoxManage, host: &HostView) -> Result<Vm, DriverError> {
    let settings = files::folder(host)?.join(vm_name(host)).join(format!("{}.vbox", vm_name(host)));
    let id = vm_of(host);
    let found = info::look_up(manage, &id).await?;
    let is_elsewhere = found.as_ref().is_none_or(|vm| match &vm.settings {
        Some(theirs) => !is_ours(vm, &host.folder) && !theirs.exists(),
        None => true,
    });
    if is_elsewhere && settings.exists() {
        let failed =
            |error: CallError| error.into_error(format!("Could not register the VM of `{}`", host.name));
        if found.is_some() {
            manage.call(&["unregistervm", &id]).await.map_err(failed)?;
        }
        manage.call(&["registervm", text(&settings)?]).await.map_err(failed)?;
    }
    lasting(manage, host).await
}

fn unreadable(host: &HostView) -> DriverError {
    DriverError::failed(format!("VirtualBox cannot read the settings of the VM of `{}`", host.name))
        .with_hint(format!(
            "See whether `{}` is there; without it, remove the host with `machine rm {}`",
            vm_folder(host).display(),
            host.name
        ))
}

/// Writes what depends on the paths of today and on what may have been left from the last run: serial ports, discs and
/// forwards.
async fn settle(
    manage: &VBoxManage,
    host: &HostView,
    vm: &Vm,
    place: Place,
    image: &Image,
    progress: &dyn Progress,
) -> Result<(), DriverError> {
    let (id, folder) = (vm_of(host), files::folder(host)?);
    let gone = |file: &str| {
        DriverError::gone(format!("The VM's file `{}` is gone", host.folder.join(file).display()))
            .with_hint("Put it back; without it the VM does not start")
    };
    if !folder.join(SEED).exists() {
        return Err(gone(SEED));
    }
    let boot = image.boot_disc(&cache(host));
    if let Some(boot) = boot.as_ref().filter(|boot| !boot.exists()) {
        return Err(gone(&boot.display().to_string()));
    }
    rotate(host).map_err(|error| {
        DriverError::failed("Could not make room for a new run of the VM").with_source(error)
    })?;
    let console = folder.join(CONSOLE);
    let socket = ports_socket(&folder, &host.id);
    if socket.is_none() {
        progress.note(
            "Published ports of containers will not be reachable: the path of the host's folder is too long",
        );
    }
    let mut words: Vec<&str> =
        vec!["modifyvm", &id, "--uart1", "0x3F8", "4", "--uartmode1", "file", text(&console)?];
    match &socket {
        Some(socket) => words.extend(["--uart2", "0x2F8", "3", "--uartmode2", "server", text(socket)?]),
        None => words.extend(["--uart2", "off"]),
    }
    for forward in &vm.forwards {
        words.extend(["--natpf1", "delete", &forward.name]);
    }
    let rules: Vec<String> = place.forwards().iter().map(info::Forward::rule).collect();
    for rule in &rules {
        words.extend(["--natpf1", rule]);
    }
    let failed = |error: CallError| error.into_error(format!("Could not set up the VM of `{}`", host.name));
    manage.call(&words).await.map_err(failed)?;
    if let Some(boot) = &boot {
        manage.call(&attach(&id, BOOT_PORT, "dvddrive", text(boot)?)).await.map_err(failed)?;
    }
    let seed = folder.join(SEED);
    manage.call(&attach(&id, SEED_PORT, "dvddrive", text(&seed)?)).await.map_err(failed)?;
    Ok(())
}

fn rotate(host: &HostView) -> io::Result<()> {
    files::clear_runtime_files(&host.folder)?;
    match fs::rename(host.folder.join(CONSOLE), host.folder.join(PREVIOUS_CONSOLE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A forward that VirtualBox could not bind is a line in its log and nothing else. Blocks.
fn leads_in(place: Place) -> Result<(), DriverError> {
    for forward in place.forwards() {
        let address = SocketAddr::from((place.address, forward.port));
        let deadline = std::time::Instant::now() + FORWARD;
        loop {
            match TcpStream::connect_timeout(&address, Duration::from_secs(2)) {
                Ok(_) => break,
                Err(error) if std::time::Instant::now() > deadline => {
                    return Err(DriverError::failed(format!(
                        "The VM runs, but {address} does not lead to it: VirtualBox could not take that port"
                    ))
                    .with_source(error)
                    .with_hint(
                        "Stop the host, end the program that has the port, and start the host again",
                    ));
                }
                Err(_) => std::thread::sleep(POLL),
            }
        }
    }
    Ok(())
}

/// Presses the power button and waits for the guest to be done.
pub(crate) async fn shut_down(
    manage: &VBoxManage,
    host: &HostView,
    progress: &dyn Progress,
) -> Result<(), DriverError> {
    let (id, name) = (vm_of(host), &host.name);
    let began = Instant::now();
    let mut pressed: Option<Instant> = None;
    let mut trouble: Option<CallError> = None;
    loop {
        let vm = own(manage, host).await?.ok_or_else(|| gone(host))?;
        match vm.state {
            // A saved VM does not run either, and what it did is not thrown away.
            State::Stopped | State::Saved | State::None => return Ok(()),
            State::Paused => {
                manage.call(&["controlvm", &id, "resume"]).await.map_err(|error| {
                    error.into_error(format!("Could not let the VM of `{name}` go on, to shut it down"))
                })?;
            }
            State::Error => {
                return Err(DriverError::failed(format!(
                    "The VM of `{name}` cannot shut down: it does not work"
                ))
                .with_hint(format!("`machine kill {name}` stops it as if the power was cut")));
            }
            State::Running if pressed.is_none_or(|pressed| pressed.elapsed() > PRESS_AGAIN) => {
                if pressed.is_none() {
                    progress.step("Shutting the VM down");
                } else {
                    progress.note("The VM is still shutting down");
                }
                trouble = manage.call(&["controlvm", &id, "acpipowerbutton"]).await.err();
                pressed = Some(Instant::now());
            }
            State::Running | State::Starting | State::Stopping => {}
        }
        if began.elapsed() > SHUTDOWN {
            let message = format!("`{name}` did not shut down within {} seconds", SHUTDOWN.as_secs());
            let error = DriverError::failed(message)
                .with_hint(format!("`machine kill {name}` stops it as if the power was cut"));
            return Err(match trouble {
                Some(trouble) => error.with_source(trouble),
                None => error,
            });
        }
        sleep(POLL).await;
    }
}

/// Ends the VM at once, as if the power was cut. `None`: there is no such VM.
pub(crate) async fn off(manage: &VBoxManage, host: &HostView) -> Result<Option<()>, DriverError> {
    let id = vm_of(host);
    let deadline = Instant::now() + CHANGE;
    loop {
        let Some(vm) = own(manage, host).await? else { return Ok(None) };
        if matches!(vm.state, State::Stopped | State::Saved | State::None) || vm.settings.is_none() {
            return Ok(Some(()));
        }
        let cut = manage.call(&["controlvm", &id, "poweroff"]).await;
        if let Err(error) = cut
            && (!error.refusal().is_some_and(|refusal| refusal.is_not_running() || refusal.is_not_found())
                || Instant::now() > deadline)
        {
            return Err(error.into_error(format!("Could not cut the power of the VM of `{}`", host.name)));
        }
        if Instant::now() > deadline {
            return Err(DriverError::unknown(format!("The VM of `{}` does not end", host.name))
                .with_hint("End its process `VBoxHeadless`, and run the same command again"));
        }
        sleep(POLL).await;
    }
}

/// Removes the logs of this and the last run.
pub(crate) fn remove_logs(host: &HostView) -> io::Result<()> {
    [CONSOLE, PREVIOUS_CONSOLE, files::PORTS_LOG]
        .iter()
        .try_for_each(|file| remove_if_there(&host.folder.join(file)))
}
