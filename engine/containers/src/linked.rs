//! Links on the default bridge (`--link`), where no server answers for names: lines in the hosts file and variables, both of the
//! containers that are linked as they are when one starts. The lines follow when one of those starts anew.
//!
//! On user-defined networks a link is a name for the network's server, and nothing of this happens.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use engine_kernel::etc;
use engine_model::spec::NetworkMode;
use engine_model::task::vital;
use engine_model::wire::HostConfig;

use super::record::{Identity, Status};
use super::{Container, ContainerError, Containers, endpoint};

const BRIDGE: &str = "bridge";
/// As dockerd.
const PATIENCE: Duration = Duration::from_secs(5);
/// Variables of a linked container that are about that one alone.
const OWN: [&str; 2] = ["HOME", "PATH"];

/// A container that another one is linked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Linked {
    alias: String,
    name: String,
    short_id: String,
    address: Ipv4Addr,
    /// `80/tcp`, …: what it exposes.
    ports: Vec<String>,
    environment: Vec<String>,
}

impl Linked {
    /// Its line in the other's hosts file.
    fn line(&self) -> String {
        let mut names = vec![self.alias.as_str()];
        names.extend(
            [self.short_id.as_str(), self.name.as_str()].into_iter().filter(|name| *name != self.alias),
        );
        format!("{}\t{}", self.address, names.join(" "))
    }

    /// The variables that tell of it, as Docker has them.
    fn variables(&self, of: &str) -> Vec<String> {
        let prefix = self.alias.to_uppercase().replace('-', "_");
        let mut variables = vec![format!("{prefix}_NAME=/{of}/{}", self.alias)];
        let mut ports: Vec<(u16, &str)> = self.ports.iter().filter_map(|port| parse(port)).collect();
        ports.sort_by_key(|(number, protocol)| (*protocol != "tcp", *number));
        for (at, (number, protocol)) in ports.into_iter().enumerate() {
            let (url, name) = (
                format!("{protocol}://{}:{number}", self.address),
                format!("{prefix}_PORT_{number}_{}", protocol.to_uppercase()),
            );
            if at == 0 {
                variables.push(format!("{prefix}_PORT={url}"));
            }
            variables.extend([
                format!("{name}={url}"),
                format!("{name}_ADDR={}", self.address),
                format!("{name}_PORT={number}"),
                format!("{name}_PROTO={protocol}"),
            ]);
        }
        for (name, value) in self.environment.iter().filter_map(|entry| entry.split_once('=')) {
            if !OWN.contains(&name) {
                variables.push(format!("{prefix}_ENV_{name}={value}"));
            }
        }
        variables
    }
}

fn parse(port: &str) -> Option<(u16, &str)> {
    let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    Some((number.parse().ok()?, protocol))
}

/// A hosts file with this line in the place of the one that has the same first two names, an alias and an id.
fn with_line(text: &str, line: &str) -> String {
    let names = |line: &str| line.split_whitespace().skip(1).take(2).map(str::to_owned).collect::<Vec<_>>();
    let wanted = names(line);
    let mut lines: Vec<&str> = text.lines().collect();
    let is_old = |line: &&str| names(line) == wanted;
    match lines.iter().position(is_old) {
        Some(place) => lines[place] = line,
        None => lines.push(line),
    }
    lines.iter().flat_map(|line| [line, "\n"]).collect()
}

/// What a container on the default bridge is linked to: aliases, and names or ids of containers.
fn links(host: &HostConfig) -> Vec<(String, String)> {
    if !is_on_bridge(host) {
        return Vec::new();
    }
    // What makes no sense was refused.
    endpoint::links(host.links.as_deref().unwrap_or_default()).unwrap_or_default()
}

/// The same, as long as it is there.
fn links_of(identity: &Identity) -> Vec<(String, String)> {
    if identity.left_first_network { Vec::new() } else { links(&identity.host) }
}

/// Whether its first network is the default bridge.
pub(super) fn is_on_bridge(host: &HostConfig) -> bool {
    matches!(host.network_mode.as_str(), "" | "default" | BRIDGE)
}

impl Containers {
    /// Writes links down by ids, which stay when names change. Those that they lead to run by the time this one starts.
    pub(super) fn settle_links(&self, host: &mut HostConfig) -> Result<(), ContainerError> {
        let wished = links(host);
        for (link, (alias, name)) in host.links.iter_mut().flatten().zip(wished) {
            let other = self.find(&name).map_err(|_| {
                ContainerError::Invalid(format!(
                    "could not get container for {name}: No such container: {name}"
                ))
            })?;
            if other.spec().is_ok_and(|spec| spec.network.mode == NetworkMode::Host) {
                let message = "conflicting options: host type networking can't be used with links. This would result in undefined behavior";
                return Err(ContainerError::Conflict(message.to_owned()));
            }
            *link = format!("{}:{alias}", other.id);
        }
        Ok(())
    }

    /// A container that another one is linked to, if it runs on the default bridge.
    fn follow(&self, identity: &Identity, alias: String, name: &str) -> Result<Linked, ContainerError> {
        let other = self.find(name).map_err(|_| {
            let message =
                format!("Cannot link to a container that is gone: {name} AS /{}/{alias}", identity.name);
            ContainerError::NotFound(message)
        })?;
        let (known, state) = (other.identity(), other.state());
        let refused = |what: &str| {
            let (child, own) = (&known.name, &identity.name);
            ContainerError::Conflict(format!("Cannot link to {what}: /{child} AS /{own}/{alias}"))
        };
        if !state.status.is_alive() {
            return Err(refused("a non running container"));
        }
        let endpoint = state.endpoints.iter().find(|endpoint| endpoint.network_name == BRIDGE);
        let address =
            endpoint.ok_or_else(|| refused("a container that is not on the default bridge"))?.address;
        Ok(Linked {
            alias,
            name: known.name.clone(),
            short_id: other.id.chars().take(12).collect(),
            address,
            ports: known.config.exposed_ports.iter().flatten().map(|(port, _)| port.clone()).collect(),
            environment: known.config.env.clone(),
        })
    }

    /// Those of the containers that this one is linked to that run.
    fn running_links(&self, identity: &Identity) -> Vec<Linked> {
        let links = links_of(identity).into_iter();
        links.filter_map(|(alias, name)| self.follow(identity, alias, &name).ok()).collect()
    }

    /// The variables that tell a container, or a process that joins it, of those that it is linked to. Whatever of them does not run now
    /// is left out.
    pub(super) fn variables_of_links(&self, identity: &Identity) -> Vec<String> {
        self.running_links(identity).iter().flat_map(|linked| linked.variables(&identity.name)).collect()
    }

    /// The lines of a container's hosts file that tell of those that it is linked to; all of them have to run.
    pub(super) fn lines_of_links(&self, identity: &Identity) -> Result<String, ContainerError> {
        let links = links_of(identity).into_iter();
        links.map(|(alias, name)| Ok(self.follow(identity, alias, &name)?.line() + "\n")).collect()
    }

    /// Waits a while for those that a container is linked to and that are about to run, as after a start of the host.
    pub(super) async fn wait_for_linked(&self, identity: &Identity) {
        let all = async {
            for (_, name) in links_of(identity) {
                let Ok(other) = self.find(&name) else { continue };
                if other.status() == Status::Restarting {
                    other.wait_until(|_| other.status() != Status::Restarting).await;
                }
            }
        };
        // Whatever does not run by then is told.
        let _ = tokio::time::timeout(PATIENCE, all).await;
    }

    /// Tells those that are linked to a container, and run, where it is now; and the container itself, of those that have moved
    /// while it was made.
    pub(super) fn tell_linked(&self, target: &Arc<Container>) {
        let leads_here = |name: &str| self.find(name).is_ok_and(|one| one.id == target.id);
        let others: Vec<_> = self.index().containers.values().cloned().collect();
        for other in others.into_iter().filter(|other| other.status().is_alive()) {
            let links = links_of(&other.identity());
            if links.iter().any(|(_, name)| leads_here(name)) || (other.id == target.id && !links.is_empty())
            {
                self.renew_lines(other);
            }
        }
    }

    /// Brings the lines of links in a running container's hosts file up to date.
    pub(super) fn renew_lines(&self, container: Arc<Container>) {
        if links_of(&container.identity()).is_empty() {
            return;
        }
        let containers = self.clone();
        vital(async move {
            // Who changes its networks meanwhile changes the same file.
            let _operation = container.operation.lock().await;
            let (path, identity) = (container.directory.join("hosts"), container.identity());
            let changed = containers
                .blocking(move |containers| {
                    let write = |source| ContainerError::Write { path: path.clone(), source };
                    containers.running_links(&identity).iter().try_for_each(|one| {
                        etc::change(&path, |text| with_line(text, &one.line())).map_err(write)
                    })
                })
                .await;
            if let Err(error) = changed {
                let error = engine_model::chain(&error);
                tracing::warn!(container = container.id, error, "Could not say where linked containers are");
            }
        });
    }

    /// Links as inspect shows them: `/db:/web/alias`.
    pub(super) fn shown_links(&self, identity: &Identity) -> Option<Vec<String>> {
        let links = links(&identity.host);
        let name =
            |id: &str| self.find(id).map_or_else(|_| id.to_owned(), |other| other.identity().name.clone());
        let shown = links.iter().map(|(alias, id)| format!("/{}:/{}/{alias}", name(id), identity.name));
        (!links.is_empty()).then(|| shown.collect())
    }

    /// Takes a link away: `/web/db` is what `web` calls `db`.
    pub async fn unlink(&self, name: &str) -> Result<(), ContainerError> {
        let missing = || ContainerError::NotFound(format!("No such link: {name}"));
        let (parent, alias) = name.trim_start_matches('/').split_once('/').ok_or_else(missing)?;
        let parent = self.find(parent)?;
        let _operation = parent.operation.lock().await;
        let is_meant =
            |link: &String| endpoint::links(std::slice::from_ref(link)).is_ok_and(|read| read[0].0 == alias);
        if !parent.identity().host.links.iter().flatten().any(is_meant) {
            return Err(missing());
        }
        parent.change_identity(|identity| {
            let mut links = identity.host.links.take().unwrap_or_default();
            links.retain(|link| !is_meant(link));
            identity.host.links = Some(links).filter(|links| !links.is_empty());
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn lines_and_variables_are_dockers() {
        let linked = Linked {
            alias: "my-db".to_owned(),
            name: "store".to_owned(),
            short_id: "0123456789ab".to_owned(),
            address: Ipv4Addr::new(172, 17, 0, 2),
            ports: ["53/udp", "5432/tcp", "80"].map(str::to_owned).to_vec(),
            environment: ["PATH=/bin", "USER=me"].map(str::to_owned).to_vec(),
        };
        assert_eq!(linked.line(), "172.17.0.2\tmy-db 0123456789ab store");
        assert_eq!(
            linked.variables("web"),
            [
                "MY_DB_NAME=/web/my-db",
                "MY_DB_PORT=tcp://172.17.0.2:80",
                "MY_DB_PORT_80_TCP=tcp://172.17.0.2:80",
                "MY_DB_PORT_80_TCP_ADDR=172.17.0.2",
                "MY_DB_PORT_80_TCP_PORT=80",
                "MY_DB_PORT_80_TCP_PROTO=tcp",
                "MY_DB_PORT_5432_TCP=tcp://172.17.0.2:5432",
                "MY_DB_PORT_5432_TCP_ADDR=172.17.0.2",
                "MY_DB_PORT_5432_TCP_PORT=5432",
                "MY_DB_PORT_5432_TCP_PROTO=tcp",
                "MY_DB_PORT_53_UDP=udp://172.17.0.2:53",
                "MY_DB_PORT_53_UDP_ADDR=172.17.0.2",
                "MY_DB_PORT_53_UDP_PORT=53",
                "MY_DB_PORT_53_UDP_PROTO=udp",
                "MY_DB_ENV_USER=me",
            ]
        );
        let same = Linked { alias: "store".to_owned(), ..linked };
        assert_eq!(same.line(), "172.17.0.2\tstore 0123456789ab");
    }

    #[test]
    fn a_line_takes_the_place_of_the_one_before() {
        let text = "127.0.0.1\tlocalhost\n172.17.0.2\tdb 0123 store\n172.17.0.3\tweb\n";
        let renewed = with_line(text, "172.17.0.9\tdb 0123 store");
        assert_eq!(renewed, "127.0.0.1\tlocalhost\n172.17.0.9\tdb 0123 store\n172.17.0.3\tweb\n");
        assert_eq!(with_line(&renewed, "172.17.0.9\tdb 0123 store"), renewed);
        // What its maker has called so stays.
        assert_eq!(with_line("1.2.3.4\tdb\n", "172.17.0.9\tdb 0123"), "1.2.3.4\tdb\n172.17.0.9\tdb 0123\n");
    }
}
