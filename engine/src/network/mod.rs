//! Networks of containers: bridges, addresses, published ports.

use std::path::Path;

mod error;
mod types;

pub use error::NetworkError;
pub use types::{Endpoint, EndpointRequest, NetworkConfig, PortRequest, Protocol, PublishedPort, UnknownProtocol};

/// Networks of this engine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Network;

impl Network {
    pub async fn open(config: &NetworkConfig, state_dir: &Path) -> Result<Self, NetworkError> {
        todo!("{config:?} {state_dir:?}")
    }

    pub async fn attach(&self, container: &str, netns: &Path, request: &EndpointRequest) -> Result<Endpoint, NetworkError> {
        todo!("{container} {netns:?} {request:?}")
    }

    pub async fn publish(
        &self,
        container: &str,
        endpoint: &Endpoint,
        ports: &[PortRequest],
    ) -> Result<Vec<PublishedPort>, NetworkError> {
        todo!("{container} {endpoint:?} {ports:?}")
    }

    pub async fn release(&self, container: &str) -> Result<(), NetworkError> {
        todo!("{container}")
    }

    pub async fn restore(&self, live: &[(String, Endpoint, Vec<PublishedPort>)]) -> Result<(), NetworkError> {
        todo!("{live:?}")
    }
}
