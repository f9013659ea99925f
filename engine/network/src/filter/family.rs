//! The two families of IP, each with a table of its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::addresses::Subnet;

/// A family of IP, as nf_tables tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    pub(in super::super) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }

    pub(super) fn has(self, subnet: Subnet) -> bool {
        Self::of(subnet.first()) == self
    }

    /// The kernel's number for it.
    pub(in super::super) fn number(self) -> u8 {
        match self {
            Self::Ipv4 => 2,
            Self::Ipv6 => 10,
        }
    }

    /// The bytes of an address.
    pub(super) fn length(self) -> u32 {
        match self {
            Self::Ipv4 => 4,
            Self::Ipv6 => 16,
        }
    }

    /// Where the sender's address is in a packet's header.
    pub(super) fn source(self) -> u32 {
        match self {
            Self::Ipv4 => 12,
            Self::Ipv6 => 8,
        }
    }

    /// Where the receiver's address is in a packet's header.
    pub(super) fn destination(self) -> u32 {
        self.source() + self.length()
    }

    /// The number by which the `nft` command knows addresses; the kernel does not care.
    pub(super) fn address_type(self) -> u32 {
        match self {
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
        }
    }

    /// Registers of 32 bits for an address and what follows it in a concatenation: an address of IPv6 takes four.
    pub(super) fn registers(self) -> [u32; 3] {
        match self {
            Self::Ipv4 => [8, 9, 10],
            Self::Ipv6 => [8, 12, 13],
        }
    }

    /// Addresses of the host that it has for itself: all of them, or the only one.
    pub(super) fn loopback(self) -> (IpAddr, u8) {
        match self {
            Self::Ipv4 => (Ipv4Addr::LOCALHOST.into(), 8),
            Self::Ipv6 => (Ipv6Addr::LOCALHOST.into(), 128),
        }
    }
}
