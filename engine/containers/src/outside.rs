//! What containers need of the rest of the engine. Whoever puts the engine together gives it to them, so that containers know
//! neither the image store nor the networks.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use engine_model::spec::NameSpec;
use engine_model::wire::Ulimit;
use engine_model::{Endpoint, EndpointRequest, Failure, Found, Image, ImageId, PortRequest, PublishedPort};

use crate::users::Mapping;

/// Where things are, and what holds for every container.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What outlives a boot.
    pub data_root: PathBuf,
    /// What does not.
    pub exec_root: PathBuf,
    /// Below which control group containers lie that do not name one; `None` is a group of the engine's own, which goes with
    /// the last container. A group that is named is somebody else's.
    pub cgroup_parent: Option<PathBuf>,
    /// By name, `nofile` and so on, for containers that do not set their own.
    pub default_ulimits: BTreeMap<String, Ulimit>,
    /// How containers resolve names that have no wishes for that.
    pub names: NameSpec,
    /// Which numbers users of containers have on the host, if not the same.
    pub mapping: Option<Arc<Mapping>>,
}

/// Images that containers are made of. Every call blocks.
pub trait Images: Debug + Send + Sync {
    /// An image by name, id or the beginning of an id.
    fn find(&self, reference: &str) -> Result<Image, Failure>;

    /// The directories for overlayfs, top layer first.
    fn lower_dirs(&self, id: &ImageId) -> Result<Vec<PathBuf>, Failure>;
}

/// Networks that containers are on.
#[async_trait]
pub trait Networks: Debug + Send + Sync {
    /// Gives a container an interface on a network. Called again, it completes what is there.
    async fn attach(
        &self,
        container: &str,
        netns: &Path,
        request: &EndpointRequest,
    ) -> Result<Endpoint, Failure>;

    /// Makes ports of a container reachable on the host, in place of those published for it before.
    async fn publish(
        &self,
        container: &str,
        endpoint: &Endpoint,
        ports: &[PortRequest],
    ) -> Result<Vec<PublishedPort>, Failure>;

    /// Gives a container that is on networks another name on them.
    async fn rename(&self, container: &str, name: &str) -> Result<(), Failure>;

    /// Takes a container off all its networks and closes its ports. That it is gone already is fine.
    async fn release(&self, container: &str) -> Result<(), Failure>;

    /// After the daemon was away: containers in `live` keep their place and get their ports back, all others lose theirs.
    async fn restore(&self, live: &[Found]) -> Result<(), Failure>;

    /// What containers call `host-gateway`: the addresses of the host that every container can reach.
    fn host_gateways(&self) -> Vec<IpAddr>;

    /// Where a container was when that was last written down, and the ports published for it there.
    async fn places(&self, container: &str) -> Vec<(Endpoint, Vec<PublishedPort>)>;
}
