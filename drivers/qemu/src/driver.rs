//! The driver: each call as the steps it consists of.

use std::{
    fs,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use machine_driver::{
    Driver, DriverError, DriverInfo, Endpoint, Features, Flag, Forecast, HostId, HostKeySource, HostView,
    Inside, Journal, LoginSource, Options, Progress, SshEndpoint, SshKey, State,
};
use serde_json::Value;

use crate::{
    address, check,
    command::{CONSOLE, DISK, LOG, PORTS_LOG, PREVIOUS_CONSOLE, SEED},
    config::{self, Config},
    console,
    emulator::Emulator,
    first_boot, image,
    making::{self, ADDRESS, FILE, INSIDE, cache, place},
    reservations::Reservations,
    running::{self, Tools},
    state::{Book, Made},
    vm,
};

/// What `qemu-system-x86_64` emulates.
const ARCHITECTURE: &str = "x86_64";

/// VMs on this machine.
///
/// The program that uses it has to call [`crate::helper_main`] first, or published ports are not forwarded and VMs do
/// not reach one another.
#[derive(Debug, Clone, Default)]
pub struct Qemu {
    images: Option<Vec<PathBuf>>,
    helper: Option<PathBuf>,
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

    /// Runs this program as the port forwarder and as the switch, instead of the one that is running.
    #[must_use]
    pub fn with_helper(mut self, program: PathBuf) -> Self {
        self.helper = Some(program);
        self
    }

    fn image_folders(&self) -> Vec<PathBuf> {
        self.images.clone().unwrap_or_else(image::search_path)
    }

    fn tools(&self) -> Tools {
        Tools { images: self.image_folders(), helper: self.helper.clone() }
    }
}

async fn state_of(folder: PathBuf, made: Made, id: HostId) -> State {
    if vm::find(&folder, made.process, &id).is_some() {
        return vm::ask(folder).await;
    }
    if folder.join(DISK).exists() { State::Stopped } else { State::None }
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
        let tools = self.tools();
        let image = making::take_image(host, &config, &tools.images, &mut book, progress).await?;
        making::take_address(host, &config, &mut book).await?;
        // A disk that is there belongs to a VM that has its place already, or none.
        if book.made.inside.is_some() || !host.folder.join(DISK).exists() {
            let emulator = running::emulator_of(&config, &book.made).await?;
            if emulator.has_datagrams {
                making::take_inside(host, &mut book).await?;
            } else {
                progress.note(&running::without_inside(&emulator));
            }
        }
        // What a VM was booted with stays as it is.
        if vm::find_or_wait(&host.folder, book.made.process, &host.id).await?.is_none() {
            making::make_disk(host, &config, &image, &mut book, progress).await?;
            making::make_seed(host, &config, &image, &mut book).await?;
        }
        running::run(&tools, host, &config, &mut book, progress).await
    }

    async fn start(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let config = Config::of(host)?;
        running::run(&self.tools(), host, &config, &mut Book::open(journal)?, progress).await
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
        running::ended(host, &mut book).await
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
        vm::kill_everything(vm::marker(&host.folder, &host.id)).await?;
        running::ended(host, &mut book).await
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
        vm::kill_everything(vm::marker(&host.folder, &host.id)).await?;
        running::ended(host, &mut book).await?;
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
        let cache = cache(host);
        Reservations::of_loopback(&cache).release_all(&host.id)?;
        Reservations::inside(&cache).release_all(&host.id)?;
        book.made = Made::default();
        book.save().await?;
        for kind in [ADDRESS, INSIDE] {
            for name in book.named(kind) {
                book.gone(kind, &name).await?;
            }
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
            inside: made.inside.map(|inside| Inside {
                address: inside.address.into(),
                // Networks of two stores may look alike, and are apart.
                network: format!("qemu:{}:{}", host.owner, inside.network()),
            }),
            address,
        })
    }

    async fn console(&self, host: &HostView, _: &Value, lines: usize) -> Option<String> {
        let path: &Path = &host.folder.join(CONSOLE);
        fs::exists(path).ok().filter(|there| *there)?;
        console::tail(path, lines).ok()
    }
}
