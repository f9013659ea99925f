//! Addresses of names. glibc's look-up would load modules of the host's own glibc into a static binary, so it is not used.

use std::net::SocketAddr;

use hickory_resolver::TokioResolver;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Reads `/etc/resolv.conf` and `/etc/hosts` anew for each look-up: hosts move from network to network, and the engine stays.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SystemNames;

impl Resolve for SystemNames {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let addresses: Vec<SocketAddr> = look_up(name.as_str())
                .await?
                .into_iter()
                .map(|address| SocketAddr::new(address, 0))
                .collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// All addresses of a host.
pub async fn look_up(name: &str) -> Result<Vec<std::net::IpAddr>, Box<dyn std::error::Error + Send + Sync>> {
    let resolver = TokioResolver::builder_tokio()?.build()?;
    Ok(resolver.lookup_ip(name).await?.iter().collect())
}
