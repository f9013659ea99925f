//! The driver: each call as the steps it consists of.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use machine_driver::{
    Driver, DriverError, DriverInfo, Endpoint, Features, Flag, Forecast, HostId, HostKeySource, HostView,
    Journal, LoginSource, Options, Progress, SshEndpoint, SshKey, State,
};
use serde_json::Value;

use crate::{
    accelerator::{self, Accelerator},
    address::{self, Place},
    check::{self, Emulator},
    command::{CONSOLE, DISK, LOG, Machine, PORTS_LOG, PREVIOUS_CONSOLE, SEED},
    config::{self, Config},
    console, disk, first_boot, image,
    process::Process,
    state::{Book, Made},
    vm::{self, LaunchError, blocking},
};

/// Names the program that forwards ports, where it is not the one that runs. For tests.
const HELPER_VARIABLE: &str = "MACHINE_QEMU_PORTS_HELPER";

/// Kinds in the journal.
/// What `qemu-system-x86_64` emulates.
const ARCHITECTURE: &str = "x86_64";
const ADDRESS: &str = "address";
const FILE: &str = "file";
const PROCESS: &str = "process";
const QEMU: &str = "qemu";
const PORTS: &str = "ports";

/// VMs on this machine.
///
/// The program that uses it has to call [`crate::port_forwarder_main`] when its first argument is
/// [`crate::PORT_FORWARDER_WORD`], or published ports are not forwarded.
#[derive(Debug, Clone, Default)]
pub struct Qemu {
    images: Option<Vec<PathBuf>>,
    ports_helper: Option<PathBuf>,
}

impl Qemu {
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks for images in these folders and nowhere else.
    #[must_use]
    pub fn with_images(mut self, folders: Vec<PathBuf>) -> Self {
        self.images = Some(folders);
        self
    }

    /// Runs this program as the port forwarder instead of the one that is running.
    #[must_use]
    pub fn with_ports_helper(mut self, program: PathBuf) -> Self {
        self.ports_helper = Some(program);
        self
    }

    fn image_folders(&self) -> Vec<PathBuf> {
        self.images.clone().unwrap_or_else(image::search_path)
    }

    fn helper(&self) -> Result<PathBuf, DriverError> {
        if let Some(helper) =
            self.ports_helper.clone().or_else(|| env::var_os(HELPER_VARIABLE).map(Into::into))
        {
            return Ok(helper);
        }
        env::current_exe()
            .map_err(|error| DriverError::failed("Could not find this program's own file").with_source(error))
    }

    /// The address: chosen once, then kept.
    async fn take_address(
        host: &HostView,
        config: &Config,
        book: &mut Book<'_>,
    ) -> Result<Place, DriverError> {
        let cache = cache(host);
        if let Some(place) = place(&book.made) {
            // Made by an earlier run; the reservation is written again if the cache was cleared.
            address::reserve(&cache, place.address, &host.id)?;
            return Ok(place);
        }
        // What a run that was killed intended is given back; it may be chosen again.
        for name in book.named(ADDRESS) {
            if let Ok(intended) = name.parse() {
                address::release(&cache, intended, &host.id)?;
            }
            book.gone(ADDRESS, &name).await?;
        }
        loop {
            let place = address::choose(&host.id, config.address, &cache)?;
            let name = place.address.to_string();
            book.intend(ADDRESS, &name).await?;
            if address::reserve(&cache, place.address, &host.id)? {
                book.made.address = Some(place.address);
                book.made.ssh_port = Some(place.ssh_port);
                book.made(ADDRESS, &name, None).await?;
                return Ok(place);
            }
            // Another host was faster.
            book.gone(ADDRESS, &name).await?;
        }
    }

    async fn take_image(
        &self,
        host: &HostView,
        config: &Config,
        book: &mut Book<'_>,
        progress: &dyn Progress,
    ) -> Result<image::Image, DriverError> {
        if let Some(image) = &book.made.image {
            return Ok(image.clone());
        }
        let found = image::find(&config.image, &self.image_folders())?;
        let cache = cache(host);
        if found.bytes_to_copy(&cache) > 0 {
            progress.step("Copying the image");
        }
        let image = blocking(move || found.adopt(&cache)).await?;
        book.made.image = Some(image.clone());
        book.save().await?;
        Ok(image)
    }

    /// The VM's disk: an overlay over the image's, or an empty one. One that is there is never written again.
    async fn make_disk(
        host: &HostView,
        config: &Config,
        image: &image::Image,
        book: &mut Book<'_>,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let path = host.folder.join(DISK);
        book.intend(FILE, DISK).await?;
        if !path.exists() {
            progress.step("Creating the disk");
            let wanted = config.disk_size << 20;
            let base = image.base.as_ref();
            let size = base.map_or(wanted, |base| base.size.max(wanted));
            if size > wanted {
                progress.note(&format!("The disk has {} MiB, as the image has", size >> 20));
            }
            disk::create(&path, size, base.map(|base| (base.path.as_path(), base.format)))
                .map_err(|error| DriverError::failed("Could not create the disk").with_source(error))?;
        }
        book.made(FILE, DISK, None).await
    }

    async fn make_seed(
        host: &HostView,
        config: &Config,
        image: &image::Image,
        book: &mut Book<'_>,
    ) -> Result<(), DriverError> {
        let seed = first_boot::seed(host, config, image)?;
        book.intend(FILE, SEED).await?;
        seed.write(&host.folder.join(SEED)).map_err(|error| {
            DriverError::failed("Could not write what the VM is told at its first boot").with_source(error)
        })?;
        book.made(FILE, SEED, None).await
    }

    /// Brings the VM up, with its port forwarder; running already is success.
    async fn run(
        &self,
        host: &HostView,
        config: &Config,
        book: &mut Book<'_>,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let (Some(place), Some(image)) = (place(&book.made), book.made.image.clone()) else {
            return Err(DriverError::gone(format!("The VM of `{}` was never made", &host.name))
                .with_hint(format!("Run `machine create {}` again, or remove it", &host.name)));
        };
        let running = vm::find_or_wait(&host.folder, book.made.process, &host.id).await?;
        let process = if let Some(process) = running {
            if book.made.process == Some(process) {
                return self.run_forwarder(host, place, book, progress).await;
            }
            process
        } else {
            complete(host, &image)?;
            address::look_again(place)?;
            let emulator = match &book.made.binary {
                Some(path) => Emulator::find(&path.to_string_lossy()).await?,
                None => Emulator::find(config.binary()).await?,
            };
            let choice =
                accelerator::choose(config.accelerator, &emulator.path, &emulator.version, &cache(host))
                    .await?;
            if let Some(note) = &choice.note {
                progress.note(note);
            }
            progress.step("Starting the VM");
            book.intend(PROCESS, QEMU).await?;
            Self::launch(host, config, &image, place, &emulator, choice.accelerator, progress).await?
        };
        book.made.process = Some(process);
        book.made(PROCESS, QEMU, Some(&process.id())).await?;
        self.run_forwarder(host, place, book, progress).await
    }

    async fn launch(
        host: &HostView,
        config: &Config,
        image: &image::Image,
        place: Place,
        emulator: &Emulator,
        accelerator: Accelerator,
        progress: &dyn Progress,
    ) -> Result<Process, DriverError> {
        let folder = std::path::absolute(&host.folder)
            .map_err(|error| DriverError::failed("Could not find the host's folder").with_source(error))?;
        let mut machine = Machine {
            name: &host.name,
            id: &host.id,
            folder: &folder,
            image,
            place,
            accelerator,
            cpus: config.cpus(),
            memory: config.memory,
            sandbox: true,
        };
        let mut launched = vm::launch(&emulator.path, &machine.arguments()?, &folder, &host.id).await;
        if launched.as_ref().is_err_and(LaunchError::is_about_the_sandbox) {
            progress.note("This QEMU cannot be sandboxed: it runs with all the rights of its user");
            machine.sandbox = false;
            launched = vm::launch(&emulator.path, &machine.arguments()?, &folder, &host.id).await;
        }
        launched.map_err(|error| {
            DriverError::failed(format!("Could not start the VM of `{}`", &host.name)).with_source(error)
        })
    }

    /// A VM without it works; only its published ports are not reachable.
    async fn run_forwarder(
        &self,
        host: &HostView,
        place: Place,
        book: &mut Book<'_>,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let marker = vm::forwarder_marker(&host.id);
        if book.made.ports.is_some_and(|process| process.is_alive(&marker)) {
            return Ok(());
        }
        book.intend(PROCESS, PORTS).await?;
        // One that nobody recorded may still be on its way; two would be in each other's way.
        vm::kill_everything(marker).await?;
        let launched = match self.helper() {
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
    async fn ended(host: &HostView, book: &mut Book<'_>) -> Result<(), DriverError> {
        vm::end_forwarder(&host.id).await?;
        vm::clear_runtime_files(&host.folder).map_err(|error| {
            DriverError::failed("Could not remove what a run of the VM left").with_source(error)
        })?;
        book.made.process = None;
        book.made.ports = None;
        book.save().await?;
        for name in book.named(PROCESS) {
            book.gone(PROCESS, &name).await?;
        }
        Ok(())
    }
}

fn cache(host: &HostView) -> PathBuf {
    let cache = host.cache.join("qemu");
    std::path::absolute(&cache).unwrap_or(cache)
}

fn place(made: &Made) -> Option<Place> {
    Some(Place { address: made.address?, ssh_port: made.ssh_port? })
}

async fn state_of(folder: PathBuf, made: Made, id: HostId) -> State {
    if vm::find(&folder, made.process, &id).is_some() {
        return vm::ask(folder).await;
    }
    if folder.join(DISK).exists() { State::Stopped } else { State::None }
}

/// Refuses to start a VM of which something is missing.
fn complete(host: &HostView, image: &image::Image) -> Result<(), DriverError> {
    let (disk, seed) = (host.folder.join(DISK), host.folder.join(SEED));
    let kernel = image.kernel.iter().flat_map(|kernel| [&kernel.file, &kernel.initrd]);
    let needed: Vec<&PathBuf> = [&disk, &seed].into_iter().chain(kernel).collect();
    let base = image.base.as_ref().map(|base| &base.path);
    match needed.into_iter().chain(base).find(|path| !path.exists()) {
        None => Ok(()),
        Some(path) => Err(DriverError::gone(format!("The VM's file `{}` is gone", path.display()))
            .with_hint(format!("Remove the host with `machine rm {}` and create it again", &host.name))),
    }
}

#[async_trait]
impl Driver for Qemu {
    fn info(&self) -> DriverInfo {
        DriverInfo {
            name: "qemu".to_owned(),
            aliases: Vec::new(),
            summary: "Runs a VM on this machine with QEMU, without privileges".to_owned(),
            features: Features {
                provisioned: true,
                power: true,
                login: LoginSource::Generated,
                host_key: HostKeySource::Delivered,
                adopted: false,
                firewall: false,
            },
        }
    }

    fn flags(&self) -> Vec<Flag> {
        config::flags()
    }

    async fn configure(&self, options: &Options) -> Result<Value, DriverError> {
        Config::from_options(options)?.to_value()
    }

    async fn check(&self, host: &HostView) -> Result<Forecast, DriverError> {
        check::check(host, &Config::of(host)?, &cache(host), &self.image_folders()).await?;
        Ok(Forecast { architecture: Some(ARCHITECTURE.to_owned()), ..Forecast::default() })
    }

    async fn create(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let config = Config::of(host)?;
        let mut book = Book::open(journal)?;
        if let Some(given) = &config.binary
            && book.made.binary.is_none()
        {
            book.made.binary = Some(Emulator::find(given).await?.path);
        }
        let image = self.take_image(host, &config, &mut book, progress).await?;
        Self::take_address(host, &config, &mut book).await?;
        // What a VM was booted with stays as it is.
        if vm::find_or_wait(&host.folder, book.made.process, &host.id).await?.is_none() {
            Self::make_disk(host, &config, &image, &mut book, progress).await?;
            Self::make_seed(host, &config, &image, &mut book).await?;
        }
        self.run(host, &config, &mut book, progress).await
    }

    async fn start(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let config = Config::of(host)?;
        self.run(host, &config, &mut Book::open(journal)?, progress).await
    }

    async fn stop(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let mut book = Book::open(journal)?;
        if let Some(process) = vm::find_or_wait(&host.folder, book.made.process, &host.id).await? {
            progress.step("Shutting the VM down");
            vm::shut_down(&host.folder, process, &host.id, host.name.as_str(), progress).await?;
        }
        Self::ended(host, &mut book).await
    }

    async fn kill(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        _: &dyn Progress,
    ) -> Result<(), DriverError> {
        let mut book = Book::open(journal)?;
        if let Some(process) = vm::find(&host.folder, book.made.process, &host.id) {
            vm::cut_power(&host.folder, process, &host.id).await?;
        }
        vm::kill_everything(vm::marker(&host.id)).await?;
        Self::ended(host, &mut book).await
    }

    async fn remove(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        // A state that cannot be read is no reason to leave a VM behind: what matters is in the journal's names.
        let made = Made::parse(&journal.state()).unwrap_or_default();
        let mut book = Book { journal, made, place: None };
        progress.step("Removing the VM");
        vm::kill_everything(vm::marker(&host.id)).await?;
        Self::ended(host, &mut book).await?;
        let partial = |name: &str| format!("{name}.partial");
        let files =
            [DISK.into(), partial(DISK), SEED.into(), partial(SEED), CONSOLE.into(), PREVIOUS_CONSOLE.into()];
        let files: Vec<String> = files.into_iter().chain([LOG.into(), PORTS_LOG.into()]).collect();
        for file in files {
            vm::remove_if_there(&host.folder.join(&file)).map_err(|error| {
                DriverError::failed(format!("Could not remove `{file}` of the VM")).with_source(error)
            })?;
        }
        for name in book.named(FILE) {
            book.gone(FILE, &name).await?;
        }
        let addresses = book.named(ADDRESS);
        address::release_all(&cache(host), &host.id)?;
        book.made = Made::default();
        book.save().await?;
        for name in addresses {
            book.gone(ADDRESS, &name).await?;
        }
        Ok(())
    }

    async fn state(&self, host: &HostView, state: &Value) -> Result<State, DriverError> {
        Ok(state_of(host.folder.clone(), Made::parse(state)?, host.id).await)
    }

    async fn endpoint(&self, host: &HostView, state: &Value) -> Result<Endpoint, DriverError> {
        let config = Config::of(host)?;
        let made = Made::parse(state)?;
        let (Some(place), Some(image)) = (place(&made), &made.image) else {
            return Err(DriverError::not_ready(format!("`{}` has no address yet", &host.name)));
        };
        let address = place.address.to_string();
        Ok(Endpoint {
            engine_port: address::ENGINE_PORTS[0],
            url: None,
            ssh: Some(SshEndpoint {
                host: address.clone(),
                port: place.ssh_port,
                user: first_boot::user(&config, image).to_owned(),
                key: SshKey::Generated,
            }),
            inside: None,
            address,
        })
    }

    async fn console(&self, host: &HostView, _: &Value, lines: usize) -> Option<String> {
        let path: &Path = &host.folder.join(CONSOLE);
        fs::exists(path).ok().filter(|there| *there)?;
        console::tail(path, lines).ok()
    }
}
