//! Interfaces of containers beside one of the host's (macvlan, ipvlan), and the host's that are made for that.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::thread;
use std::time::Duration;

use engine_kernel::namespace;
use engine_kernel::netlink::Socket;

use super::error::failed;
use super::inside::{self, Wishes};
use super::links::{self, Beside};
use super::record::{VlanKind, VlanRecord};
use super::{Endpoint, NetworkError, bridge};

/// A container that starts again has the hardware address of its last run, whose interface goes with its namespace: the kernel takes
/// its time for that.
const MOST_TRIES: usize = 100;
const BETWEEN_TRIES: Duration = Duration::from_millis(50);

/// Makes the host's interface, if it is not there and can be made: `eth0.10` is the VLAN 10 on `eth0`, `dm-…` leads nowhere. Says
/// whether it was made.
pub(super) fn ensure_parent(vlan: &VlanRecord) -> Result<bool, NetworkError> {
    let name = &vlan.parent;
    let make = || -> io::Result<bool> {
        let mut socket = Socket::route()?;
        if links::find(&mut socket, name)?.is_some() {
            return Ok(false);
        }
        let below = name.rsplit_once('.').and_then(|(below, tag)| Some((below, tag.parse::<u16>().ok()?)));
        match below.filter(|(_, tag)| (1..4095).contains(tag)) {
            Some((below, tag)) => {
                let below = links::find(&mut socket, below)?.ok_or(io::ErrorKind::NotFound)?;
                links::create_tagged(&mut socket, name, below.index, tag)?;
            }
            None if name.starts_with("dm-") => links::create_dummy(&mut socket, name)?,
            None => return Err(io::ErrorKind::NotFound.into()),
        }
        let link = links::find(&mut socket, name)?.ok_or(io::ErrorKind::NotFound)?;
        links::set_up(&mut socket, link.index)?;
        Ok(true)
    };
    make().map_err(|error| refused(error, &format!("the parent interface `{name}`")))
}

/// Tries whether an interface can be made beside the host's, so that a network without that is refused when it is made.
pub(super) fn probe(vlan: &VlanRecord, network_id: &str) -> Result<(), NetworkError> {
    let name = format!("vlan{}", network_id.get(..7).unwrap_or(network_id));
    let make = || -> io::Result<()> {
        let mut socket = Socket::route()?;
        create(&mut socket, vlan, &name, None, None)?;
        links::delete(&mut socket, &name)
    };
    let kind = match vlan.kind {
        VlanKind::Macvlan { .. } => "macvlan",
        VlanKind::Ipvlan { .. } => "ipvlan",
    };
    make().map_err(|error| {
        refused(error, &format!("an interface of the kind `{kind}` beside `{}`", vlan.parent))
    })
}

/// Where the kernel lacks what it takes, that is said.
fn refused(error: io::Error, what: &str) -> NetworkError {
    if error.raw_os_error() == Some(libc::EOPNOTSUPP) {
        return NetworkError::NotInKernel { what: what.to_owned() };
    }
    failed(format!("make {what}"))(error)
}

fn create(
    socket: &mut Socket,
    vlan: &VlanRecord,
    name: &str,
    namespace: Option<BorrowedFd<'_>>,
    endpoint: Option<&Endpoint>,
) -> io::Result<()> {
    let parent = links::find(socket, &vlan.parent)?.ok_or(io::ErrorKind::NotFound)?;
    let hardware_address = match vlan.kind {
        VlanKind::Macvlan { .. } => {
            endpoint.and_then(|one| bridge::parse_hardware_address(&one.mac_address).ok())
        }
        // It is that of the host's interface.
        VlanKind::Ipvlan { .. } => None,
    };
    let beside = Beside { parent: parent.index, name, namespace, hardware_address, mtu: vlan.mtu };
    match vlan.kind {
        VlanKind::Macvlan { mode } => links::create_macvlan(socket, &beside, mode),
        VlanKind::Ipvlan { mode, flag } => links::create_ipvlan(socket, &beside, mode, flag),
    }
}

/// Gives a container's namespace an interface beside the host's. What is there already is kept.
pub(super) fn plug(
    namespace: &Path,
    vlan: &VlanRecord,
    endpoint: &Endpoint,
    wishes: &Wishes<'_>,
) -> Result<(), NetworkError> {
    ensure_parent(vlan)?;
    let namespace = inside::open_namespace(namespace)?;
    let name = &endpoint.interface;
    let is_inside = namespace::inside(&namespace, || Ok(links::find(&mut Socket::route()?, name)?.is_some()))
        .map_err(failed("look into the container's network namespace"))?;
    if !is_inside {
        Socket::route()
            .and_then(|mut socket| create(&mut socket, vlan, name, Some(namespace.as_fd()), Some(endpoint)))
            .map_err(failed(format!("connect the container to the interface `{}`", vlan.parent)))?;
    }
    let routed = vlan.kind.is_routed();
    let configure = || -> io::Result<()> {
        for _ in 0..MOST_TRIES {
            match namespace::inside(&namespace, || inside::configure(endpoint, wishes, routed)) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => thread::sleep(BETWEEN_TRIES),
                result => return result,
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    };
    configure().map_err(failed("configure the container's network interface"))
}

/// Takes the container's interface away while the container runs on.
pub(super) fn unplug(namespace: &Path, interface: &str) -> Result<(), NetworkError> {
    let namespace = inside::open_namespace(namespace)?;
    namespace::inside(&namespace, || links::delete(&mut Socket::route()?, interface))
        .map_err(failed("remove the container's network interface"))
}
