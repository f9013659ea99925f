//! The driver: each call as the steps it consists of.

use std::{env::consts::ARCH, net::IpAddr, path::PathBuf, time::Duration};

use async_trait::async_trait;
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use machine_driver::{
    Description, Driver, DriverError, DriverInfo, Endpoint, Features, Flag, Forecast, HostKeySource,
    HostView, Journal, LoginSource, Options, Progress, Row, SshEndpoint, SshKey, State,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    config::{self, Config, Stored},
    facts::Facts,
    first_boot, image,
    machine::{Hypervisor, Named, gone},
    making::{self, FILE, VM, cache},
    scripts::Operation,
    shell::Shell,
    state::{Book, Made},
};

/// Where the engine listens.
const ENGINE_PORT: u16 = 2376;

/// How long the driver waits for what takes a VM its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For a VM to come from one state to another.
    pub state: Duration,
    /// For an address of a VM that runs.
    pub address: Duration,
    /// For another process that is at work on the same VM.
    pub turn: Duration,
    /// Between two looks.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            state: Duration::from_mins(1),
            address: Duration::from_mins(3),
            turn: Duration::from_mins(1),
            pause: Duration::from_millis(500),
        }
    }
}

/// VMs of Hyper-V.
#[derive(Debug, Clone, Default)]
pub struct Hyperv {
    images: Option<Vec<PathBuf>>,
    hypervisor: Hypervisor,
}

impl Hyperv {
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks for images in these folders and nowhere else.
    #[must_use]
    pub fn with_images(mut self, folders: Vec<PathBuf>) -> Self {
        self.images = Some(folders);
        self
    }

    /// Runs this program as PowerShell, instead of the system's.
    #[must_use]
    pub fn with_powershell(mut self, program: PathBuf) -> Self {
        self.hypervisor.shell = Shell::at(program);
        self
    }

    /// Waits as long as this.
    #[must_use]
    pub fn with_patience(mut self, patience: Patience) -> Self {
        self.hypervisor.patience = patience;
        self
    }

    fn image_folders(&self) -> Vec<PathBuf> {
        self.images.clone().unwrap_or_else(image::search_path)
    }

    /// Starts the VM and writes down where it is reached.
    async fn run(
        &self,
        host: &HostView,
        book: &mut Book<'_>,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let machine = Named::of(host, &book.made)?;
        progress.step("Starting the VM");
        self.hypervisor.start(host, &machine).await?;
        progress.step("Waiting for its address");
        book.made.address = Some(self.hypervisor.address(host, &machine).await?);
        book.save().await
    }

    async fn remove_all(
        &self,
        host: &HostView,
        book: &mut Book<'_>,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        progress.step("Removing the VM");
        self.hypervisor.remove(host, &Named::of(host, &book.made)?).await?;
        for name in book.named(VM) {
            book.gone(VM, &name).await?;
        }
        self.remove_rest(host, book).await
    }

    /// What is left without a VM.
    async fn remove_rest(&self, host: &HostView, book: &mut Book<'_>) -> Result<(), DriverError> {
        making::remove_files(host).await?;
        for name in book.named(FILE) {
            book.gone(FILE, &name).await?;
        }
        book.made = Made::default();
        book.save().await
    }
}

/// The VM of a host that there should be one of; `None`: it was not made so far.
fn made_vm(host: &HostView, state: &Value) -> Result<Option<(Made, Named)>, DriverError> {
    let made = Made::parse(state)?;
    if made.vm.is_none() && matches!(Stored::of(host)?, Stored::Ours(_)) {
        return Ok(None);
    }
    let named = Named::of(host, &made)?;
    Ok(Some((made, named)))
}

/// Where a VM is reached: what Hyper-V says now, or else what was last known. One of IPv4 is not given up for one of
/// IPv6, which a guest that boots tells first.
fn address(recorded: Option<IpAddr>, facts: Option<&Facts>) -> Option<IpAddr> {
    let better = |now: &IpAddr| now.is_ipv4() || recorded.is_none_or(|recorded| recorded.is_ipv6());
    facts.and_then(Facts::address).filter(better).or(recorded)
}

fn endpoint(host: &HostView, made: &Made, facts: Option<&Facts>) -> Result<Endpoint, DriverError> {
    let not_yet = || DriverError::not_ready(format!("`{}` has no address yet", host.name));
    let (recorded, user, port, key) = match Stored::of(host)? {
        Stored::Ours(config) => {
            let image = made.image.as_ref().ok_or_else(not_yet)?;
            (made.address, first_boot::user(&config, image).to_owned(), 22, SshKey::Generated)
        }
        Stored::DockerMachines(adopted) => {
            let key = adopted.ssh_key_path;
            let key = if key.as_os_str().is_empty() { SshKey::Agent } else { SshKey::File(key) };
            let user = if adopted.ssh_user.is_empty() { "docker".into() } else { adopted.ssh_user };
            let port = if adopted.ssh_port == 0 { 22 } else { adopted.ssh_port };
            (made.address.or_else(|| adopted.address.parse().ok()), user, port, key)
        }
    };
    let address = address(recorded, facts).ok_or_else(not_yet)?.to_string();
    Ok(Endpoint {
        engine_port: ENGINE_PORT,
        url: None,
        ssh: Some(SshEndpoint { host: address.clone(), port, user, key }),
        inside: None,
        address,
    })
}

fn description(host: &HostView, made: &Made, facts: Option<&Facts>) -> Description {
    match facts {
        None => Description { state: State::None, endpoint: None },
        Some(facts) => Description { state: facts.state(), endpoint: endpoint(host, made, Some(facts)).ok() },
    }
}

#[derive(Debug, Serialize)]
struct Asked<'a> {
    network: Option<&'a str>,
}

/// What VMs can be made of here.
#[derive(Debug, Deserialize)]
struct Limits {
    processors: u64,
    /// Bytes.
    memory: u64,
}

#[async_trait]
impl Driver for Hyperv {
    fn info(&self) -> DriverInfo {
        DriverInfo {
            name: "hyperv".to_owned(),
            aliases: Vec::new(),
            summary: "Runs a VM on this machine with Hyper-V".to_owned(),
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
        let config = Config::of(host)?;
        let asked = Asked { network: config.switch.as_deref() };
        let limits: Limits = self.hypervisor.shell.run(Operation::Check, &asked).await?;
        image::find(&config.image, &self.image_folders())?;
        if u64::from(config.cpu_count) > limits.processors {
            return Err(DriverError::refused(format!(
                "The VM is to have {} CPUs, and this machine has {}",
                config.cpu_count, limits.processors
            ))
            .with_hint("Choose fewer with `--hyperv-cpu-count`"));
        }
        let present = limits.memory >> 20;
        if config.memory > present {
            return Err(DriverError::refused(format!(
                "The VM is to have {} MiB of memory, and this machine has {present}",
                config.memory
            ))
            .with_hint("Choose less with `--hyperv-memory`"));
        }
        Ok(Forecast { architecture: Some(ARCH.to_owned()), ..Forecast::default() })
    }

    async fn create(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let config = Config::of(host)?;
        let mut book = Book::open(journal)?;
        let image = making::take_image(host, &config, &self.image_folders(), &mut book, progress).await?;
        // One that was whole is never made again: its disks hold what the host has kept.
        if book.made.vm.is_none() {
            making::make(&self.hypervisor, host, &config, &image, &mut book, progress).await?;
        }
        self.run(host, &mut book, progress).await
    }

    async fn start(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let mut book = Book::open(journal)?;
        if let Stored::Ours(config) = Stored::of(host)? {
            let (Some(_), Some(image)) = (&book.made.vm, &book.made.image) else {
                return Err(DriverError::gone(format!("The VM of `{}` was never made", host.name))
                    .with_hint(format!("Run `machine create {}` again, or remove it", host.name)));
            };
            making::provide(image.clone(), &config, cache(host), &self.image_folders()).await?;
        }
        self.run(host, &mut book, progress).await
    }

    async fn stop(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let (_, machine) = made_vm(host, &journal.state())?.ok_or_else(|| gone(host))?;
        progress.step("Shutting the VM down");
        self.hypervisor.stop(host, &machine).await
    }

    async fn kill(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        _: &dyn Progress,
    ) -> Result<(), DriverError> {
        let (_, machine) = made_vm(host, &journal.state())?.ok_or_else(|| gone(host))?;
        self.hypervisor.kill(host, &machine).await
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
        let ours = matches!(Stored::of(host)?, Stored::Ours(_));
        if ours && book.made.vm.is_none() && book.named(VM).is_empty() {
            return self.remove_rest(host, &mut book).await;
        }
        self.remove_all(host, &mut book, progress).await
    }

    async fn salvage(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        self.remove_all(host, &mut Book { journal, made: Made::default(), place: None }, progress).await
    }

    async fn state(&self, host: &HostView, state: &Value) -> Result<State, DriverError> {
        let Some((_, machine)) = made_vm(host, state)? else { return Ok(State::None) };
        let found = self.hypervisor.describe(&[machine]).await?;
        Ok(found.into_iter().next().flatten().map_or(State::None, |facts| facts.state()))
    }

    async fn endpoint(&self, host: &HostView, state: &Value) -> Result<Endpoint, DriverError> {
        let Some((made, machine)) = made_vm(host, state)? else {
            return Err(DriverError::not_ready(format!("`{}` has no address yet", host.name)));
        };
        let found = self.hypervisor.describe(&[machine]).await?;
        endpoint(host, &made, found.into_iter().next().flatten().as_ref())
    }

    fn describe_many<'a>(&'a self, hosts: &'a [(HostView, Value)]) -> BoxStream<'a, Row> {
        let asking = async move {
            let mut rows: Vec<Row> = Vec::new();
            let (mut asked, mut machines) = (Vec::new(), Vec::new());
            for (index, (host, state)) in hosts.iter().enumerate() {
                match made_vm(host, state) {
                    Ok(Some((made, machine))) => {
                        asked.push((index, made));
                        machines.push(machine);
                    }
                    Ok(None) => rows.push((index, Ok(Description { state: State::None, endpoint: None }))),
                    Err(error) => rows.push((index, Err(error))),
                }
            }
            if machines.is_empty() {
                return stream::iter(rows);
            }
            match self.hypervisor.describe(&machines).await {
                Ok(found) => rows.extend(asked.into_iter().zip(found).map(|((index, made), facts)| {
                    (index, Ok(description(&hosts[index].0, &made, facts.as_ref())))
                })),
                Err(error) => rows.extend(asked.into_iter().map(|(index, _)| (index, Err(error.clone())))),
            }
            stream::iter(rows)
        };
        stream::once(asking).flatten().boxed()
    }
}
