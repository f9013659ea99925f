//! The engine put together: images, networks and containers, and how containers reach the other two.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use engine_build::Builder;
use engine_buildkit::{Control, Sessions};
use engine_containers::{ContainerError, Containers, Images, Mapping, MappingError, Networks, Settings};
use engine_images::{ImageError, ImageStore};
use engine_model::event::EventBus;
use engine_model::executor::Executor;
use engine_model::wire::LogConfig;
use engine_model::{
    Endpoint, EndpointRequest, Failure, Found, Image, ImageId, NetworkConfig, PortRequest, PublishedPort,
};
use engine_network::{Network, NetworkError, NetworkRecord};
use engine_registry::{Registries, Settings as RegistrySettings};
use engine_store::Quarantine;
use tokio::sync::Semaphore;

use crate::building::{ForBuilds, remove_orphans};
use crate::config::{Config, Live, RemapError, remap};
use crate::kept::Kept;
use crate::pulling::Pulls;

/// What every request handler can reach. Cheap to clone.
#[derive(Clone, Debug)]
pub struct App {
    pub config: Arc<Config>,
    pub events: EventBus,
    pub images: ImageStore,
    pub pulls: Pulls,
    pub network: Network,
    pub containers: Containers,
    /// The same, for what it takes to run one.
    pub executor: Arc<dyn Executor>,
    /// Builds images from Dockerfiles.
    pub builder: Builder,
    /// Connections over which the clients of builds are asked.
    pub sessions: Sessions,
    /// Builds for clients that speak BuildKit's protocol.
    pub control: Control,
    /// What could not be read.
    pub quarantine: Quarantine,
    /// How many layers are sent at once, of all pushes together.
    uploads: Arc<RwLock<Arc<Semaphore>>>,
}

/// Why the engine cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("Could not open the image store")]
    Images(#[from] ImageError),
    #[error("Could not set up the networks")]
    Network(#[from] NetworkError),
    #[error("Could not open the containers")]
    Containers(#[from] ContainerError),
    #[error("Could not make the folders of builds")]
    Builder {
        #[source]
        source: std::io::Error,
    },
    #[error("Could not give containers users of their own (`userns-remap`)")]
    Remap(#[from] RemapError),
    #[error("Could not give containers users of their own (`userns-remap`)")]
    Mapping(#[from] MappingError),
    #[error("The work on the image store was cut short")]
    Interrupted(#[from] tokio::task::JoinError),
}

impl AppError {
    /// What the administrator of the host can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Network(error) => error.hint(),
            Self::Remap(error) => Some(error.hint()),
            Self::Mapping(error) => Some(error.hint()),
            _ => None,
        }
    }
}

impl App {
    /// Finds everything that an engine before this one left, running containers as well.
    pub async fn open(config: Arc<Config>) -> Result<Self, AppError> {
        let events = EventBus::new();
        let quarantine = Quarantine::of(&config.data_root);
        let images = {
            let (root, quarantine) = (config.data_root.join("images"), quarantine.clone());
            tokio::task::spawn_blocking(move || ImageStore::open(&root, &quarantine)).await??
        };
        let network_config = NetworkConfig {
            bip: config.bip.clone(),
            mtu: config.mtu,
            host_gateways: config.host_gateways.clone(),
            host_binding: config.host_binding,
            pools: config.address_pools.clone(),
            ipv6: config.ipv6,
            fixed_cidr_v6: config.fixed_cidr_v6.clone(),
            no_ipv6_rules: !config.ip6tables,
            host_id: crate::host::engine_id(&config.data_root),
        };
        let network = Network::open(&network_config, &config.data_root.join("network"), &quarantine).await?;
        let mapping = match &config.userns_remap {
            Some(wish) => {
                let (wish, config) = (wish.clone(), Arc::clone(&config));
                tokio::task::spawn_blocking(move || mapping(&wish, &config)).await??
            }
            None => None,
        };
        let settings = Settings {
            data_root: config.data_root.clone(),
            exec_root: config.exec_root.clone(),
            cgroup_parent: config.cgroup_parent.clone(),
            default_ulimits: config.default_ulimits.clone(),
            names: config.names.clone(),
            mapping,
        };
        let containers = Containers::open(
            settings,
            Arc::new(ImagesOf(images.clone())),
            Arc::new(NetworksOf(network.clone())),
            events.clone(),
            quarantine.clone(),
        )
        .await?;
        let executor: Arc<dyn Executor> = Arc::new(containers.clone());
        let pulls = Pulls {
            images: images.clone(),
            registries: Registries::new(RegistrySettings::default()),
            events: events.clone(),
        };
        let uploads = Arc::new(RwLock::new(Arc::new(Semaphore::new(1))));
        let for_builds = Arc::new(ForBuilds {
            pulls: pulls.clone(),
            images: images.clone(),
            containers: containers.clone(),
            events: events.clone(),
        });
        let root = config.data_root.join("build");
        let builder = Builder::open(
            root,
            config.exec_root.join("lent"),
            Arc::clone(&for_builds) as _,
            Arc::clone(&executor),
        )
        .map_err(|source| AppError::Builder { source })?;
        remove_orphans(&containers, &builder).await;
        let kept = Kept {
            images: images.clone(),
            containers: containers.clone(),
            builder: builder.clone(),
            events: events.clone(),
            network: network.clone(),
            for_builds,
        };
        let sessions = Sessions::default();
        let control = Control::new(builder.clone(), Arc::new(kept), sessions.clone());
        let app = Self {
            config,
            events,
            images,
            pulls,
            network,
            containers,
            executor,
            builder,
            sessions,
            control,
            quarantine,
            uploads,
        };
        app.apply(&app.config.live());
        Ok(app)
    }

    /// Passes on what may change while the daemon runs.
    pub fn apply(&self, live: &Live) {
        self.containers.set_log_defaults(LogConfig {
            r#type: live.log_driver.clone(),
            config: live.log_options.clone(),
        });
        self.pulls.registries.set(live.registries.clone());
        self.images.limit_downloads(live.downloads);
        *self.uploads.write().unwrap_or_else(PoisonError::into_inner) =
            Arc::new(Semaphore::new(live.uploads));
    }

    /// Who may send layers, one for each place.
    pub fn uploads(&self) -> Arc<Semaphore> {
        Arc::clone(&self.uploads.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whom `userns-remap` means; nobody if that is the host's root itself. Blocks.
fn mapping(wish: &str, config: &Config) -> Result<Option<Arc<Mapping>>, AppError> {
    let Some(ids) = remap::resolve(wish, &remap::Databases::of_host()?)? else { return Ok(None) };
    Ok(Some(Arc::new(Mapping::open(ids, &config.data_root, &config.exec_root)?)))
}

/// The image store, as containers see it.
#[derive(Debug)]
struct ImagesOf(ImageStore);

impl Images for ImagesOf {
    fn find(&self, reference: &str) -> Result<Image, Failure> {
        Ok(self.0.find(reference)?)
    }

    fn lower_dirs(&self, id: &ImageId) -> Result<Vec<PathBuf>, Failure> {
        Ok(self.0.lower_dirs(id)?)
    }
}

/// The networks, as containers see them.
#[derive(Debug)]
struct NetworksOf(Network);

#[async_trait]
impl Networks for NetworksOf {
    async fn attach(
        &self,
        container: &str,
        netns: &Path,
        request: &EndpointRequest,
    ) -> Result<Endpoint, Failure> {
        Ok(self.0.attach(container, netns, request).await?)
    }

    async fn publish(
        &self,
        container: &str,
        endpoint: &Endpoint,
        ports: &[PortRequest],
    ) -> Result<Vec<PublishedPort>, Failure> {
        Ok(self.0.publish(container, endpoint, ports).await?)
    }

    async fn rename(&self, container: &str, name: &str) -> Result<(), Failure> {
        Ok(self.0.rename(container, name).await?)
    }

    async fn release(&self, container: &str) -> Result<(), Failure> {
        Ok(self.0.release(container).await?)
    }

    async fn restore(&self, live: &[Found]) -> Result<(), Failure> {
        Ok(self.0.restore(live).await?)
    }

    fn host_gateways(&self) -> Vec<IpAddr> {
        self.0.host_gateways()
    }

    async fn places(&self, container: &str) -> Vec<(Endpoint, Vec<PublishedPort>)> {
        self.0.places(container)
    }
}

/// Tells what happened to a network.
pub fn publish_network(app: &App, action: &str, network: &NetworkRecord, more: &[(&str, &str)]) {
    let mut attributes = vec![("name", network.name.as_str()), ("type", network.driver())];
    attributes.extend_from_slice(more);
    app.events.publish("network", action, &network.id, &attributes);
}
