//! What happens to an instance over time: booting, shutting down, being taken away.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use tokio::{
    io::AsyncReadExt as _,
    net::TcpStream,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    amis::Distribution,
    bench::{Bench, Instance, later},
    form::Form,
    groups, log, metadata,
    rewrite::Phase,
    vm::{CONSOLE, DISK, Machine, PROGRAM, Vm},
};

/// A boot that takes longer lets the next one begin.
const LONGEST_BOOT: Duration = Duration::from_mins(2);
/// How long others wait for a boot that cannot be watched.
const UNSEEN_BOOT: Duration = Duration::from_secs(15);

/// Makes an instance pending, and later running.
pub(crate) fn boot(bench: &Arc<Bench>, id: &str) -> Result<()> {
    let public = bench.addresses.take()?;
    let generation = {
        let mut state = bench.lock();
        let instance = state.instances.get_mut(id).context("There is no such instance")?;
        instance.public = instance.wants_public.then_some(public);
        instance.enter(Phase::Pending);
        instance.reason = None;
        instance.generation += 1;
        instance.generation
    };
    tokio::spawn(run(bench.clone(), id.to_owned(), generation));
    Ok(())
}

/// Shuts an instance down and boots it again, with the same addresses.
pub(crate) fn reboot(bench: &Arc<Bench>, id: &str) {
    let Some((generation, vm)) = overtake(bench, id, None) else { return };
    let bound = Duration::from_millis(bench.lock().settings.shutdown_ms);
    let (bench, id) = (bench.clone(), id.to_owned());
    tokio::spawn(async move {
        if let Some(vm) = vm {
            vm.shut_down(bound).await;
        }
        end_guest(&bench, &id).await;
        run(bench, id, generation).await;
    });
}

/// Makes an instance stopping, and later stopped.
pub(crate) fn stop(bench: &Arc<Bench>, id: &str, force: bool) {
    let Some((generation, vm)) = overtake(bench, id, Some(Phase::Stopping)) else { return };
    let (ending, bound) = {
        let state = bench.lock();
        (Duration::from_millis(state.settings.ending_ms), Duration::from_millis(state.settings.shutdown_ms))
    };
    let (bench, id) = (bench.clone(), id.to_owned());
    tokio::spawn(async move {
        let least = Instant::now() + ending;
        match vm {
            Some(vm) if force => vm.kill().await,
            Some(vm) => vm.shut_down(bound).await,
            None => end_guest(&bench, &id).await,
        }
        sleep_until(least).await;
        change(&bench, &id, generation, |instance| {
            instance.enter(Phase::Stopped);
            instance.public = None;
            instance.vm = None;
            let message = "User initiated shutdown".to_owned();
            instance.reason = Some(("Client.UserInitiatedShutdown".to_owned(), message));
        });
    });
}

/// Makes an instance shutting-down, and later terminated.
pub(crate) fn terminate(bench: &Arc<Bench>, id: &str, reason: (&str, &str)) {
    let Some((generation, vm)) = overtake(bench, id, Some(Phase::ShuttingDown)) else { return };
    let ending = Duration::from_millis(bench.lock().settings.ending_ms);
    let (bench, id) = (bench.clone(), id.to_owned());
    let reason = (reason.0.to_owned(), reason.1.to_owned());
    tokio::spawn(async move {
        let least = Instant::now() + ending;
        if let Some(vm) = vm {
            vm.kill().await;
        }
        end_guest(&bench, &id).await;
        sleep_until(least).await;
        change(&bench, &id, generation, |instance| {
            instance.enter(Phase::Terminated);
            instance.public = None;
            instance.vm = None;
            if let Some(service) = instance.metadata.take() {
                service.abort();
            }
            // The console stays, as it does there for a while.
            let _ = std::fs::remove_file(instance.folder.join(DISK));
            instance.reason = Some(reason.clone());
        });
        let mut state = bench.lock();
        if let Some(request) = state.spot_requests.values_mut().find(|request| request.instance == id) {
            request.ended(reason.0.starts_with("Server.Spot"));
        }
    });
}

/// Terminates an instance without anybody having asked by the API.
pub(crate) async fn take_away(bench: &Arc<Bench>, id: &str, reason: (&str, &str)) -> Result<()> {
    let region = {
        let state = bench.lock();
        let instance = state.instances.get(id).with_context(|| format!("There is no instance `{id}`"))?;
        instance.region.clone()
    };
    // Protection against the API is none against the provider.
    let unprotect =
        [("Action", "ModifyInstanceAttribute"), ("InstanceId", id), ("DisableApiTermination.Value", "false")];
    bench.moto.query(&region, &unprotect).await?;
    bench.moto.query(&region, &[("Action", "TerminateInstances"), ("InstanceId.1", id)]).await?;
    delete_interface(bench, &region, id).await;
    terminate(bench, id, reason);
    Ok(())
}

/// Nothing is known any more of an instance that has ended, nor of its spot request. One that is shutting down
/// has to have ended first.
pub(crate) async fn forget(bench: &Bench, id: &str) -> Result<()> {
    loop {
        {
            let mut state = bench.lock();
            let instance = state.instances.get(id).with_context(|| format!("There is no instance `{id}`"))?;
            match instance.phase {
                Phase::Terminated => {
                    let request = instance.spot_request.clone();
                    state.forgotten.extend(request.into_iter().chain([id.to_owned()]));
                    return Ok(());
                }
                Phase::ShuttingDown => {}
                _ => bail!("The instance `{id}` has not ended, and is not about to"),
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// An interface that came with the instance goes with it; the emulator keeps it where the call had named none.
pub(crate) async fn delete_interface(bench: &Bench, region: &str, id: &str) {
    let interface = bench.lock().instances.get(id).and_then(|instance| instance.interface.clone());
    if let Some(interface) = interface {
        let delete = [("Action", "DeleteNetworkInterface"), ("NetworkInterfaceId", interface.as_str())];
        // It is usually gone already.
        let _ = bench.moto.query(region, &delete).await;
    }
}

/// Announces that an instance will be taken away, and does it after a while.
pub(crate) fn interrupt(bench: &Arc<Bench>, id: &str, delay: Duration) -> Result<()> {
    {
        let mut state = bench.lock();
        let instance = state.instances.get_mut(id).with_context(|| format!("There is no instance `{id}`"))?;
        let Some(request) = instance.spot_request.clone() else {
            bail!("The instance `{id}` is no spot instance");
        };
        instance.interruption = Some(later(delay));
        if let Some(request) = state.spot_requests.get_mut(&request) {
            request.marked();
        }
    }
    let (bench, id) = (bench.clone(), id.to_owned());
    tokio::spawn(async move {
        sleep(delay).await;
        let reason = ("Server.SpotInstanceTermination", "Spot instance termination");
        if let Err(error) = take_away(&bench, &id, reason).await {
            log(&format!("{id}: interruption: {error:#}"));
        }
    });
    Ok(())
}

/// Kills all VMs and waits until they are gone.
pub(crate) async fn kill_all(bench: &Arc<Bench>) {
    let mut guests = Vec::new();
    let vms: Vec<Vm> = {
        let mut state = bench.lock();
        state
            .instances
            .values_mut()
            .filter_map(|instance| {
                instance.generation += 1;
                if let Some(service) = instance.metadata.take() {
                    service.abort();
                }
                guests.extend(instance.guest.take());
                instance.vm.take()
            })
            .collect()
    };
    for vm in vms {
        vm.kill().await;
    }
    drop(guests);
}

/// Takes an instance over from whoever acted on it before.
fn overtake(bench: &Bench, id: &str, phase: Option<Phase>) -> Option<(u64, Option<Vm>)> {
    let mut state = bench.lock();
    let instance = state.instances.get_mut(id)?;
    instance.generation += 1;
    if let Some(phase) = phase {
        instance.enter(phase);
    }
    Some((instance.generation, instance.vm.clone()))
}

/// Changes an instance unless it was taken over meanwhile.
fn change(bench: &Bench, id: &str, generation: u64, change: impl FnOnce(&mut Instance)) -> bool {
    let mut state = bench.lock();
    match state.instances.get_mut(id) {
        Some(instance) if instance.generation == generation => {
            change(instance);
            true
        }
        _ => false,
    }
}

async fn run(bench: Arc<Bench>, id: String, generation: u64) {
    let started = Instant::now();
    let (vms, guests, pending) = {
        let settings = &bench.lock().settings;
        (settings.vms, settings.guests.clone(), Duration::from_millis(settings.pending_ms))
    };
    let permit = if vms { bench.boots.clone().acquire_owned().await.ok() } else { None };
    if vms {
        let launching = bench.lock().instances.get(&id).map(|instance| instance.launching.clone());
        let Some(launching) = launching else { return };
        // Two VMs must not have one disk, not even when the first one is overtaken while it begins.
        let alone = launching.lock().await;
        match launch(&bench, &id, generation).await {
            Ok(Some(vm)) => {
                let kept = change(&bench, &id, generation, |instance| instance.vm = Some(vm.clone()));
                if !kept {
                    vm.kill().await;
                    return;
                }
                log(&format!("{id}: QEMU {} after {:.1} s", vm.pid, started.elapsed().as_secs_f32()));
                drop(alone);
                // A group may have changed since the command line was written.
                groups::apply(&bench, &id).await;
            }
            Ok(None) => return,
            Err(error) => {
                drop(alone);
                log(&format!("{id}: {error:#}"));
                let reason = ("Server.InternalError", "Internal error on launch");
                if let Err(error) = take_away(&bench, &id, reason).await {
                    log(&format!("{id}: {error:#}"));
                }
                return;
            }
        }
    }
    if let Some(program) = guests.filter(|_| !vms) {
        match play(&bench, &id, program).await {
            Ok(guest) => {
                // If it was overtaken meanwhile, this one is dropped.
                change(&bench, &id, generation, |instance| instance.guest = Some(guest));
            }
            Err(error) => log(&format!("{id}: {error:#}")),
        }
    }
    sleep_until(started + pending).await;
    change(&bench, &id, generation, |instance| instance.enter(Phase::Running));
    if permit.is_some() {
        wait_for_boot(&bench, &id, generation, started).await;
    }
}

/// Ends the guest that plays an instance.
async fn end_guest(bench: &Bench, id: &str) {
    let guest = bench.lock().instances.get_mut(id).and_then(|instance| instance.guest.take());
    // It takes a moment, and that on a thread which may wait.
    let _ = tokio::task::spawn_blocking(move || drop(guest)).await;
}

/// Has a guest play an instance.
async fn play(bench: &Bench, id: &str, program: PathBuf) -> Result<guest::Guest> {
    let (disk, user, data, key, addresses) = {
        let state = bench.lock();
        let instance = state.instances.get(id).context("There is no such instance")?;
        let addresses: Vec<_> = instance.public.into_iter().chain([instance.private]).collect();
        let key = instance.key.as_ref().map(|(_, public)| public.clone()).unwrap_or_default();
        let data = instance.user_data.clone().unwrap_or_default();
        (instance.folder.join("guest"), instance.ami.user(), data, key, addresses)
    };
    let ports: Vec<(u16, String)> = addresses
        .iter()
        .flat_map(|address| [22, guest::engine::PORT].map(|port| (port, format!("{address}:{port}"))))
        .collect();
    let begin = move || {
        std::fs::create_dir_all(&disk)?;
        std::fs::write(disk.join(guest::USER_DATA), data)?;
        std::fs::write(disk.join(guest::AUTHORIZED_KEYS), key)?;
        guest::Guest::start(&program, &disk, user, &ports)
    };
    tokio::task::spawn_blocking(begin).await?.context("Could not start a guest")
}

/// `None`: the instance was taken over before its VM began.
async fn launch(bench: &Arc<Bench>, id: &str, generation: u64) -> Result<Option<Vm>> {
    let forwards = groups::wanted(bench, id).await?;
    let machine = {
        let mut state = bench.lock();
        let settings = state.settings.clone();
        let Some(instance) = state.instances.get_mut(id).filter(|instance| instance.generation == generation)
        else {
            return Ok(None);
        };
        std::fs::create_dir_all(&instance.folder).context("Could not make the VM's folder")?;
        let link = instance.folder.join(PROGRAM);
        if !link.exists() {
            std::os::unix::fs::symlink(&bench.program, link).context("Could not link this program")?;
        }
        if instance.metadata.is_none() {
            instance.metadata = Some(metadata::serve(bench, id, &instance.folder)?);
        }
        let debian = settings.debian_ami_real && instance.ami.distribution == Distribution::Debian;
        Machine {
            folder: instance.folder.clone(),
            image: bench.images.find(if debian { "debian-12" } else { "machineos" })?,
            user: instance.ami.user(),
            uuid: instance.uuid.clone(),
            instance: instance.id.clone(),
            instance_type: instance.kind.clone(),
            mac: instance.mac.clone(),
            memory: settings.memory,
            disk: instance.disk,
            forwards,
        }
    };
    let (watching, watched) = (bench.clone(), id.to_owned());
    let runtime = tokio::runtime::Handle::current();
    let vm = machine
        .start(move || {
            runtime.spawn(async move { ended_by_itself(&watching, &watched, generation).await });
        })
        .await?;
    Ok(Some(vm))
}

/// The guest switched itself off.
async fn ended_by_itself(bench: &Arc<Bench>, id: &str, generation: u64) {
    let mut facts = None;
    let ours = change(bench, id, generation, |instance| {
        facts = Some((instance.region.clone(), instance.terminate_on_shutdown));
    });
    let Some((region, terminates)) = facts.filter(|_| ours) else { return };
    log(&format!("{id}: the VM ended by itself"));
    let reason = ("Client.InstanceInitiatedShutdown", "Instance initiated shutdown");
    if terminates {
        if let Err(error) = take_away(bench, id, reason).await {
            log(&format!("{id}: {error:#}"));
        }
        return;
    }
    let stop = Form::of(&[("Action", "StopInstances"), ("InstanceId.1", id)]);
    if let Err(error) = bench.moto.query_form(&region, &stop).await {
        log(&format!("{id}: {error:#}"));
    }
    change(bench, id, generation, |instance| {
        instance.enter(Phase::Stopped);
        instance.public = None;
        instance.vm = None;
        instance.reason = Some((reason.0.to_owned(), reason.1.to_owned()));
    });
}

/// Returns when the guest answers, or when it is not worth waiting any longer: others want to boot.
async fn wait_for_boot(bench: &Bench, id: &str, generation: u64, started: Instant) {
    loop {
        let vm = {
            let state = bench.lock();
            let instance = state.instances.get(id).filter(|instance| instance.generation == generation);
            instance.and_then(|instance| instance.vm.clone())
        };
        let Some(vm) = vm else { return };
        let forwards: BTreeSet<_> = vm.forwards.lock().await.clone();
        let watched = forwards.into_iter().find(|(_, port)| *port == 22);
        let bound = if watched.is_some() { LONGEST_BOOT } else { UNSEEN_BOOT };
        if started.elapsed() > bound {
            return;
        }
        if let Some(target) = watched
            && has_banner(target.into()).await
        {
            let seconds = started.elapsed().as_secs_f32();
            log(&format!("{id}: SSH answers after {seconds:.1} s ({CONSOLE} in {})", vm.folder.display()));
            return;
        }
        sleep(Duration::from_millis(300)).await;
    }
}

async fn has_banner(address: SocketAddr) -> bool {
    let read = async {
        let mut stream = TcpStream::connect(address).await?;
        let mut banner = [0; 4];
        stream.read_exact(&mut banner).await?;
        std::io::Result::Ok(banner)
    };
    timeout(Duration::from_secs(5), read).await.is_ok_and(|read| read.is_ok_and(|banner| &banner == b"SSH-"))
}
