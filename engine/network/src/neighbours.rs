//! Names of the containers on user-defined networks, in each other's `/etc/hosts`.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{self, Read, Seek, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use engine_kernel::etc;
use tracing::warn;

use super::{Attachment, Running};

/// Addresses, each with its names.
pub(super) type Names = Vec<(IpAddr, Vec<String>)>;

/// A hosts file that has grown beyond this inside its container is left alone.
const LARGEST: u64 = 4 * 1024 * 1024;

impl Running {
    /// What has to be in the hosts files of all containers on a network, when names count on it, and of one that has left it.
    pub(super) fn names(&self, network_id: &str, left: Option<&str>) -> Vec<(PathBuf, Names)> {
        if !self.has_names(network_id) {
            return Vec::new();
        }
        let members: BTreeSet<&str> =
            self.members(network_id).map(|member| member.container.as_str()).chain(left).collect();
        members
            .into_iter()
            .filter_map(|container| Some((self.hosts_file(container)?, self.seen_by(container))))
            .collect()
    }

    fn members<'a>(&'a self, network_id: &'a str) -> impl Iterator<Item = &'a Attachment> {
        self.state.attachments.iter().filter(move |attachment| attachment.endpoint.network_id == network_id)
    }

    /// On the default bridge nobody has a name, as Docker has always had it.
    pub(super) fn has_names(&self, network_id: &str) -> bool {
        self.state.networks.iter().any(|network| network.id == network_id && !network.is_built_in())
    }

    fn hosts_file(&self, container: &str) -> Option<PathBuf> {
        self.state
            .attachments
            .iter()
            .filter(|attachment| attachment.container == container)
            .find_map(|attachment| attachment.endpoint.hosts_file.clone())
    }

    /// Everybody with a name on the networks of this container, itself included.
    fn seen_by(&self, container: &str) -> Names {
        self.state
            .attachments
            .iter()
            .filter(|own| own.container == container && self.has_names(&own.endpoint.network_id))
            .flat_map(|own| self.members(&own.endpoint.network_id))
            .map(|member| {
                let endpoint = &member.endpoint;
                let mut names = vec![endpoint.container_name.clone()];
                names.extend(endpoint.aliases.iter().cloned());
                names.extend(member.container.get(..12).map(str::to_owned));
                let mut seen = BTreeSet::new();
                names.retain(|name| !name.is_empty() && seen.insert(name.clone()));
                (endpoint.address.into(), names)
            })
            .collect()
    }
}

/// Renews these hosts files.
pub(super) fn write(work: Vec<(PathBuf, Names)>) {
    for (path, neighbours) in work {
        if let Err(error) = renew(&path, &neighbours) {
            warn!(%error, path = %path.display(), "The names of other containers could not be renewed");
        }
    }
}

/// Writes into the file that is there: the container has this very file mounted.
fn renew(path: &Path, neighbours: &[(IpAddr, Vec<String>)]) -> io::Result<()> {
    let mut file = match OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path) {
        // The container is just being removed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result?,
    };
    if file.metadata()?.len() > LARGEST {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut bytes = Vec::new();
    (&mut file).take(LARGEST).read_to_end(&mut bytes)?;
    let current = String::from_utf8_lossy(&bytes);
    let renewed = etc::with_neighbours(&current, neighbours);
    if renewed != current {
        file.rewind()?;
        file.write_all(renewed.as_bytes())?;
        file.set_len(u64::try_from(renewed.len()).unwrap_or(u64::MAX))?;
    }
    Ok(())
}
