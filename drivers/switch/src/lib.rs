//! An Ethernet switch between VMs, as one unprivileged process on unix sockets.
//!
//! Each VM has a port with one hardware address and, if wanted, one IP address: it cannot speak as another. A port may
//! have the rules of security groups, which hold between VMs. [`Switch`] is the logic, without any socket; [`Network`]
//! is a folder, 0700, in which the switch's socket and those of the VMs are, and [`switch_main`] the process.
//!
//! Frames go as datagrams, one each, so that a switch that was killed can be started again under running VMs.

mod connections;
mod filter;
mod frame;
mod guard;
mod mac;
#[cfg(unix)]
mod network;
#[cfg(unix)]
mod process;
mod settings;
mod switch;

pub use filter::{Peer, Ports, Protocol, Rule};
pub use frame::{Arp, Content, Frame, LARGEST_FRAME, Malformed, Neighbour, Packet, Transport};
pub use guard::Offence;
pub use mac::{InvalidMacAddress, MacAddress};
#[cfg(unix)]
pub use network::{Network, NetworkError, Starting};
#[cfg(unix)]
pub use process::{SWITCH_WORD, switch_main};
pub use settings::Settings;
pub use switch::{Dropped, MOST_PORTS, Switch};
