//! What a VM is made of: its addresses, what its first boot is told, its settings and its disk.

use std::path::Path;

use machine_driver::{
    DriverError, HostView, Progress,
    local::{
        inside::{self, Inside},
        reservations::Reservations,
    },
};

use crate::{
    config::Config,
    docker_machine::vm_of,
    failure::CallError,
    files::{self, DISK, SEED, cache, remove_folder_if_there, vm_folder, vm_name},
    first_boot::{self, outside_mac, without_colons},
    image::{Image, text},
    info::{self, Vm},
    place::{self, Place},
    program::VBoxManage,
    state::Book,
};

/// Kinds in the journal.
pub(crate) const ADDRESS: &str = "address";
pub(crate) const INSIDE: &str = "inside";
pub(crate) const FILE: &str = "file";
pub(crate) const VM: &str = "vm";
/// The VM's controller, and what is at its ports.
pub(crate) const CONTROLLER: &str = "SATA";
const DISK_PORT: &str = "0";
pub(crate) const BOOT_PORT: &str = "1";
pub(crate) const SEED_PORT: &str = "2";
/// The first version whose user network is told whether it leads to this machine's loopback.
const LOOPBACK_OPTION: (u32, u32) = (7, 0);

/// The address: chosen once, then kept.
pub(crate) async fn take_place(
    host: &HostView,
    config: &Config,
    book: &mut Book<'_>,
) -> Result<Place, DriverError> {
    let reservations = Reservations::of_loopback(&cache(host));
    if let Some(place) = book.made.place {
        // Made by an earlier run; the reservation is written again if the cache was cleared.
        reservations.reserve(place.reservation(), &host.id)?;
        return Ok(place);
    }
    // What a run that was killed intended is given back; it may be chosen again.
    for name in book.named(ADDRESS) {
        reservations.release(&name, &host.id)?;
        book.gone(ADDRESS, &name).await?;
    }
    loop {
        let place = place::choose(&host.id, config.address, &reservations)?;
        let name = place.reservation();
        book.intend(ADDRESS, &name).await?;
        if reservations.reserve(&name, &host.id)? {
            book.made.place = Some(place);
            book.made(ADDRESS, &name, None).await?;
            return Ok(place);
        }
        // Another host was faster.
        book.gone(ADDRESS, &name).await?;
    }
}

/// The address on the network inside the store, the same way.
pub(crate) async fn take_inside(host: &HostView, book: &mut Book<'_>) -> Result<Inside, DriverError> {
    let reservations = Reservations::inside(&cache(host));
    if let Some(inside) = book.made.inside {
        reservations.reserve(inside.address, &host.id)?;
        return Ok(inside);
    }
    for name in book.named(INSIDE) {
        reservations.release(&name, &host.id)?;
        book.gone(INSIDE, &name).await?;
    }
    loop {
        let inside = inside::choose(&host.owner, &host.id, &reservations)?;
        let name = inside.address.to_string();
        book.intend(INSIDE, &name).await?;
        if reservations.reserve(inside.address, &host.id)? {
            book.made.inside = Some(inside);
            book.made(INSIDE, &name, None).await?;
            return Ok(inside);
        }
        book.gone(INSIDE, &name).await?;
    }
}

pub(crate) async fn make_seed(
    host: &HostView,
    config: &Config,
    image: &Image,
    inside: Inside,
    book: &mut Book<'_>,
) -> Result<(), DriverError> {
    let seed = first_boot::seed(host, config, image, inside)?;
    book.intend(FILE, SEED).await?;
    seed.write(&host.folder.join(SEED)).map_err(|error| {
        DriverError::failed("Could not write what the VM is told at its first boot").with_source(error)
    })?;
    book.made(FILE, SEED, None).await
}

/// The VM and its disk, all of it: what a run that was killed has begun is made anew.
pub(crate) async fn make_vm(
    manage: &VBoxManage,
    host: &HostView,
    config: &Config,
    image: &Image,
    inside: Inside,
    book: &mut Book<'_>,
    progress: &dyn Progress,
) -> Result<(), DriverError> {
    let (name, id) = (vm_name(host), host.id.to_string());
    if let Some(vm) = info::look_up(manage, &id).await?
        && !is_ours(&vm, &host.folder)
    {
        return Err(foreign(&vm, host));
    }
    book.intend(VM, &id).await?;
    unregister(manage, host).await?;
    progress.step("Creating the VM");
    let folder = files::folder(host)?;
    let failed = |error: CallError| error.into_error(format!("Could not create the VM of `{}`", host.name));
    let change = async |arguments: &[&str]| manage.call(arguments).await.map(drop).map_err(failed);
    let base = text(&folder)?;
    let register = ["--basefolder", base, "--ostype", "Linux26_64", "--register"];
    change(&[&["createvm", "--name", &name, "--uuid", &id][..], &register].concat()).await?;
    let settings = settings(manage, host, config, image, inside);
    change(&settings.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    let controller = ["storagectl", &id, "--name", CONTROLLER, "--add", "sata", "--portcount", "3"];
    change(&[&controller[..], &["--hostiocache", "on"]].concat()).await?;
    let disk = folder.join(&name).join(DISK);
    let (disk, size) = (text(&disk)?, config.disk_size.to_string());
    let create = ["createmedium", "disk", "--filename", disk];
    match image.base_disk(&cache(host)) {
        None => change(&[&create[..], &["--size", &size, "--format", "VDI"]].concat()).await?,
        Some(base) => {
            change(&[&create[..], &["--diffparent", text(&base)?]].concat()).await?;
            grow(manage, disk, config.disk_size, progress).await;
        }
    }
    change(&attach(&id, DISK_PORT, "hdd", disk)).await?;
    book.made.whole = true;
    book.made(VM, &id, None).await
}

/// A disk over another one is as large as that, and a guest fills what it finds.
async fn grow(manage: &VBoxManage, disk: &str, size: u64, progress: &dyn Progress) {
    if let Err(error) = manage.call(&["modifymedium", "disk", disk, "--resize", &size.to_string()]).await {
        tracing::debug!(%error, "the disk keeps its size");
        progress.note("The disk has the size of its image, which is not less than what was asked for or cannot be changed");
    }
}

/// The words that put a medium into a port of the controller.
pub(crate) fn attach<'a>(id: &'a str, port: &'a str, kind: &'a str, medium: &'a str) -> [&'a str; 12] {
    [
        "storageattach",
        id,
        "--storagectl",
        CONTROLLER,
        "--port",
        port,
        "--device",
        "0",
        "--type",
        kind,
        "--medium",
        medium,
    ]
}

/// What the VM is like and stays, whatever its folder is called.
fn settings(
    manage: &VBoxManage,
    host: &HostView,
    config: &Config,
    image: &Image,
    inside: Inside,
) -> Vec<String> {
    let on = |yes: bool| if yes { "on" } else { "off" };
    let mut words: Vec<String> = vec!["modifyvm".into(), host.id.to_string()];
    let mut set = |option: &str, value: &str| words.extend([format!("--{option}"), value.to_owned()]);
    set("description", &format!("The host {} of machine", host.name));
    set("cpus", &config.cpus().to_string());
    set("memory", &config.memory.to_string());
    for (option, value) in [
        ("firmware", "bios"),
        ("bioslogofadein", "off"),
        ("bioslogofadeout", "off"),
        ("bioslogodisplaytime", "0"),
        ("biosbootmenu", "disabled"),
        ("acpi", "on"),
        ("ioapic", "on"),
        ("rtcuseutc", "on"),
        ("pae", "on"),
        ("hpet", "on"),
        ("hwvirtex", "on"),
        ("nestedpaging", "on"),
        ("largepages", "on"),
        ("vtxvpid", "on"),
        ("boot1", if image.boot.is_some() { "dvd" } else { "disk" }),
        ("boot2", "none"),
        ("boot3", "none"),
        ("boot4", "none"),
        ("nic1", "nat"),
        ("nictype1", &config.nic_type),
        ("cableconnected1", "on"),
        ("macaddress1", &without_colons(outside_mac(&host.id))),
        ("natdnshostresolver1", on(config.host_dns_resolver)),
        ("natdnsproxy1", on(!config.no_dns_proxy)),
        ("nic2", "intnet"),
        ("intnet2", &format!("machine-{}", host.owner)),
        ("nictype2", &config.nic_type),
        ("cableconnected2", "on"),
        ("macaddress2", &without_colons(inside.mac())),
    ] {
        set(option, value);
    }
    if manage.version >= LOOPBACK_OPTION {
        set("nat-localhostreachable1", on(config.host_loopback));
    }
    words
}

/// Whether a registered VM is the one of this folder. One whose settings are gone has no files that could be anybody
/// else's.
pub(crate) fn is_ours(vm: &Vm, folder: &Path) -> bool {
    let Some(settings) = &vm.settings else { return true };
    let real = |path: &Path| std::path::absolute(path).and_then(|path| path.canonicalize().or(Ok(path))).ok();
    settings.parent().and_then(Path::parent).and_then(real).is_some_and(|theirs| real(folder) == Some(theirs))
}

/// The error of what belongs to another store, such as the one that this is a copy of.
pub(crate) fn foreign(vm: &Vm, host: &HostView) -> DriverError {
    let settings = vm.settings.as_deref().unwrap_or_else(|| Path::new("")).display().to_string();
    DriverError::refused(format!("The VM of `{}` belongs to another folder: `{settings}`", host.name)).with_hint(
        "This store is a copy of another one, or was moved: remove the host here with `machine rm -f`, or move the store back",
    )
}

/// Unregisters the VM, which does not run, and removes its files. What VirtualBox does not know is removed all the same.
pub(crate) async fn unregister(manage: &VBoxManage, host: &HostView) -> Result<(), DriverError> {
    let id = vm_of(host);
    let failed = |error: CallError| error.into_error(format!("Could not remove the VM of `{}`", host.name));
    let vm = info::look_up(manage, &id).await?.filter(|vm| is_ours(vm, &host.folder));
    if let Some(vm) = vm {
        let words: &[&str] = match vm.settings {
            Some(_) => &["unregistervm", &id, "--delete"],
            None => &["unregistervm", &id],
        };
        match manage.call(words).await {
            Err(CallError::Refused(refusal)) if refusal.is_not_found() => {}
            done => drop(done.map_err(failed)?),
        }
    }
    let folder = files::folder(host)?;
    // A disk that was made and not attached, and the seed, stay in VirtualBox's list of media; none of them in the VM's.
    for (kind, file) in [("disk", folder.join(vm_name(host)).join(DISK)), ("dvd", folder.join(SEED))] {
        if file.exists()
            && let Ok(file) = text(&file)
        {
            forget(manage, kind, file).await?;
        }
    }
    remove_folder_if_there(&vm_folder(host)).map_err(|error| {
        DriverError::failed(format!("Could not remove `{}`", vm_folder(host).display())).with_source(error)
    })
}

/// Has VirtualBox forget a medium. One that it does not know it opens, and closes.
async fn forget(manage: &VBoxManage, kind: &str, medium: &str) -> Result<(), DriverError> {
    match manage.call(&["closemedium", kind, medium]).await {
        Err(CallError::Refused(refusal)) if refusal.is_in_use() => {
            Err(CallError::Refused(refusal).into_error(format!("Could not remove `{medium}`")))
        }
        // It is no medium at all, such as one of which a killed run wrote half.
        Err(CallError::Refused(refusal)) => {
            tracing::debug!(%refusal, medium, "not a medium");
            Ok(())
        }
        Err(error) => Err(error.into_error(format!("Could not remove `{medium}`"))),
        Ok(_) => Ok(()),
    }
}

/// Has VirtualBox forget a boot disc that no VM uses any more; it stays in the cache.
pub(crate) async fn forget_shared(manage: &VBoxManage, disc: &Path) {
    if let Ok(disc) = text(disc)
        && let Err(error) = manage.call(&["closemedium", "dvd", disc]).await
    {
        tracing::debug!(%error, disc, "not forgotten");
    }
}
