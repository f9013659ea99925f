//! What a container is called, and the files in it that say so.

use std::fs;

use engine_kernel::etc::{self, DnsRequest};
use engine_model::Naming;
use engine_model::spec::{ContainerSpec, NameSpec, NetworkMode, NetworkSpec};

use super::{Container, ContainerError, Containers};

impl Containers {
    /// What the networks of a container have to know of its names.
    pub fn naming(&self, container: &Container, spec: &ContainerSpec) -> Naming {
        Naming {
            hostname: spec.process.hostname.clone().unwrap_or_else(|| container.default_hostname()),
            domain: spec.process.domain_name.clone(),
            hosts_file: container.directory.join("hosts"),
            resolver_file: container.directory.join("resolv.conf"),
            wishes: self.wishes(&spec.network.names),
        }
    }

    /// A container's wishes, or the daemon's where it has none.
    fn wishes(&self, own: &NameSpec) -> NameSpec {
        let default = &self.0.config.names;
        let or = |own: &[String], default: &[String]| if own.is_empty() { default } else { own }.to_vec();
        NameSpec {
            servers: or(&own.servers, &default.servers),
            search: or(&own.search, &default.search),
            options: or(&own.options, &default.options),
            extra_hosts: own.extra_hosts.clone(),
        }
    }

    /// `/etc/hosts` before the container is on any network.
    pub(super) fn hosts_file(&self, network: &NetworkSpec) -> Result<String, ContainerError> {
        let entries = &network.names.extra_hosts;
        if network.mode == NetworkMode::Host && entries.is_empty() {
            // The names that hold on the host hold in its network.
            return Ok(fs::read_to_string("/etc/hosts").unwrap_or_default());
        }
        let extra = etc::extra_hosts(entries, &self.0.network.host_gateways())
            .map_err(|error| ContainerError::Invalid(error.to_string()))?;
        Ok(etc::hosts(&extra))
    }

    /// `/etc/resolv.conf` before the container is on a network with names.
    pub(super) fn resolver_file(&self, network: &NetworkSpec) -> String {
        let NameSpec { servers, search, options, .. } = self.wishes(&network.names);
        if network.mode == NetworkMode::Host
            && [&servers, &search, &options].iter().all(|list| list.is_empty())
        {
            return fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        }
        etc::resolv_conf(&DnsRequest { servers, search, options })
    }
}
