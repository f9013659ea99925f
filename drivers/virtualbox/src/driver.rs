//! The driver: each call as the steps it consists of.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use machine_driver::{
    Driver, DriverError, DriverInfo, Endpoint, Features, Flag, Forecast, HostKeySource, HostView, Inside,
    Journal, LoginSource, Options, Progress, SshEndpoint, SshKey, State,
    local::{console, image as images, reservations::Reservations},
};
use serde_json::Value;

use crate::{
    check,
    config::{self, Config},
    docker_machine::{self, vm_of},
    files::{CONSOLE, SEED, cache, remove_if_there},
    first_boot, image, info,
    making::{self, ADDRESS, FILE, INSIDE, VM, is_ours},
    ports, power,
    program::{Settings, VBoxManage},
    state::{Book, Made},
};

/// Kinds and names in the journal.
const PROCESS: &str = "process";
const PORTS: &str = "ports";

/// What the VMs are.
const ARCHITECTURE: &str = "x86_64";

/// VMs on this machine, run by VirtualBox.
///
/// The program that uses it has to call [`crate::helper_main`] first, or published ports are not forwarded.
#[derive(Debug, Clone, Default)]
pub struct VirtualBox {
    settings: Settings,
    images: Option<Vec<PathBuf>>,
    helper: Option<PathBuf>,
}

impl VirtualBox {
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs this VBoxManage, and no other.
    #[must_use]
    pub fn with_program(mut self, program: PathBuf) -> Self {
        self.settings.program = Some(program);
        self
    }

    /// Works with the VirtualBox whose own settings are in this folder (`VBOX_USER_HOME`).
    #[must_use]
    pub fn with_home(mut self, folder: PathBuf) -> Self {
        self.settings.home = Some(folder);
        self
    }

    /// Looks for images in these folders and nowhere else.
    #[must_use]
    pub fn with_images(mut self, folders: Vec<PathBuf>) -> Self {
        self.images = Some(folders);
        self
    }

    /// Runs this program as the port forwarder, instead of the one that is running.
    #[must_use]
    pub fn with_helper(mut self, program: PathBuf) -> Self {
        self.helper = Some(program);
        self
    }

    fn image_folders(&self) -> Vec<PathBuf> {
        self.images.clone().unwrap_or_else(images::search_path)
    }

    async fn manage(&self) -> Result<VBoxManage, DriverError> {
        VBoxManage::find(&self.settings).await
    }

    /// Brings the VM up, with its port forwarder; running already is success.
    async fn run(
        &self,
        manage: &VBoxManage,
        host: &HostView,
        config: &Config,
        book: &mut Book<'_>,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let (Some(place), Some(image), true) = (book.made.place, book.made.image.clone(), book.made.whole)
        else {
            return Err(DriverError::gone(format!("The VM of `{}` was never made", host.name))
                .with_hint(format!("Run `machine create {}` again, or remove it", host.name)));
        };
        power::on(manage, host, config, place, &image, progress).await?;
        book.intend(PROCESS, PORTS).await?;
        match ports::start(self.helper.as_deref(), manage, &self.settings, host, place).await {
            Ok(()) => book.made(PROCESS, PORTS, None).await,
            // A VM without it works; only its published ports are not reachable.
            Err(error) => {
                tracing::warn!(%error, cause = ?std::error::Error::source(&error), "no port forwarder");
                progress.note(
                    "Published ports of containers will not be reachable: the port forwarder did not start",
                );
                book.gone(PROCESS, PORTS).await
            }
        }
    }
}

/// Forgets the process beside the VM, which has ended.
async fn ended(host: &HostView, book: &mut Book<'_>) -> Result<(), DriverError> {
    ports::end(&host.folder).await?;
    for name in book.named(PROCESS) {
        book.gone(PROCESS, &name).await?;
    }
    Ok(())
}

fn never_made(made: &Made) -> bool {
    !made.whole
}

#[async_trait]
impl Driver for VirtualBox {
    fn info(&self) -> DriverInfo {
        DriverInfo {
            name: "virtualbox".to_owned(),
            aliases: Vec::new(),
            summary: "Runs a VM on this machine with VirtualBox".to_owned(),
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

    fn features_of(&self, config: &Value) -> Features {
        let features = self.info().features;
        if docker_machine::is_its(config) {
            // Its key is in the host's folder, and nobody has seen its host key.
            return Features { login: LoginSource::User, host_key: HostKeySource::User, ..features };
        }
        features
    }

    fn flags(&self) -> Vec<Flag> {
        config::flags()
    }

    async fn configure(&self, options: &Options) -> Result<Value, DriverError> {
        Config::from_options(options)?.to_value()
    }

    async fn check(&self, host: &HostView) -> Result<Forecast, DriverError> {
        let manage = self.manage().await?;
        check::check(&manage, host, &Config::of(host)?, &self.image_folders()).await?;
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
        let manage = self.manage().await?;
        manage.has_to_start()?;
        if !book.made.whole {
            making::take_place(host, &config, &mut book).await?;
            let inside = making::take_inside(host, &mut book).await?;
            progress.step("Preparing the image");
            let image = image::provide(&manage, &config, &cache(host), &self.image_folders()).await?;
            book.made.image = Some(image.clone());
            book.save().await?;
            making::make_seed(host, &config, &image, inside, &mut book).await?;
            making::make_vm(&manage, host, &config, &image, inside, &mut book, progress).await?;
        }
        self.run(&manage, host, &config, &mut book, progress).await
    }

    async fn start(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let manage = self.manage().await?;
        if let Some(old) = docker_machine::of(host)? {
            return power::wake(&manage, host, &old, progress).await;
        }
        let config = Config::of(host)?;
        self.run(&manage, host, &config, &mut Book::open(journal)?, progress).await
    }

    async fn stop(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let mut book = Book::open(journal)?;
        let manage = self.manage().await?;
        power::shut_down(&manage, host, progress).await?;
        ended(host, &mut book).await
    }

    async fn kill(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        _: &dyn Progress,
    ) -> Result<(), DriverError> {
        let mut book = Book::open(journal)?;
        let manage = self.manage().await?;
        if power::off(&manage, host).await?.is_none() {
            return Err(power::gone(host));
        }
        ended(host, &mut book).await
    }

    async fn remove(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        // A state that cannot be read is no reason to leave a VM behind.
        let made = Made::parse(&journal.state()).unwrap_or_default();
        let mut book = Book { journal, made, place: None };
        let has_vm = !book.named(VM).is_empty() || docker_machine::is_its(&host.config);
        self.take_away(host, has_vm, &mut book, progress).await
    }

    async fn salvage(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let mut book = Book { journal, made: Made::default(), place: None };
        self.take_away(host, true, &mut book, progress).await
    }

    async fn state(&self, host: &HostView, state: &Value) -> Result<State, DriverError> {
        if !docker_machine::is_its(&host.config) && never_made(&Made::parse(state)?) {
            return Ok(State::None);
        }
        let vm = info::look_up(&VBoxManage::located(&self.settings)?, &vm_of(host)).await?;
        Ok(vm.filter(|vm| is_ours(vm, &host.folder)).map_or(State::None, |vm| vm.state))
    }

    async fn endpoint(&self, host: &HostView, state: &Value) -> Result<Endpoint, DriverError> {
        if let Some(old) = docker_machine::of(host)? {
            return old.endpoint(host);
        }
        let config = Config::of(host)?;
        let made = Made::parse(state)?;
        let (Some(place), Some(image)) = (made.place, &made.image) else {
            return Err(DriverError::not_ready(format!("`{}` has no address yet", &host.name)));
        };
        let address = place.address.to_string();
        Ok(Endpoint {
            engine_port: place.engine_port,
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
                network: format!("virtualbox:{}:{}", host.owner, inside.network()),
            }),
            address,
        })
    }

    async fn console(&self, host: &HostView, _: &Value, lines: usize) -> Option<String> {
        let path: &Path = &host.folder.join(CONSOLE);
        path.exists().then(|| console::tail(path, lines).ok())?
    }
}

impl VirtualBox {
    async fn take_away(
        &self,
        host: &HostView,
        has_vm: bool,
        book: &mut Book<'_>,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        progress.step("Removing the VM");
        if has_vm {
            let manage = self.manage().await?;
            match info::look_up(&manage, &vm_of(host)).await? {
                Some(vm) if !is_ours(&vm, &host.folder) => {
                    progress.note("The VM belongs to another store, of which this one is a copy, and stays");
                }
                Some(_) => {
                    power::off(&manage, host).await?;
                    ended(host, book).await?;
                    making::unregister(&manage, host).await?;
                }
                None => {
                    ended(host, book).await?;
                    making::unregister(&manage, host).await?;
                }
            }
            if let Some(boot) = book.made.image.as_ref().and_then(|image| image.boot_disc(&cache(host))) {
                making::forget_shared(&manage, &boot).await;
            }
        }
        ended(host, book).await?;
        remove_if_there(&host.folder.join(SEED))
            .and_then(|()| remove_if_there(&host.folder.join(format!("{SEED}.partial"))))
            .and_then(|()| power::remove_logs(host))
            .map_err(|error| {
                DriverError::failed(format!("Could not remove the files of the VM of `{}`", host.name))
                    .with_source(error)
            })?;
        for kind in [VM, FILE] {
            for name in book.named(kind) {
                book.gone(kind, &name).await?;
            }
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
}
