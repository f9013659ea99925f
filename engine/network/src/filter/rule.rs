//! The expressions of a rule, as nf_tables has them.

use std::net::{IpAddr, SocketAddr};

use engine_kernel::netlink::Message;

use super::Family;
use crate::addresses::{Subnet, octets};

pub(super) const PREROUTING: u32 = 0;
pub(super) const FORWARD: u32 = 2;
pub(super) const OUTPUT: u32 = 3;
pub(super) const POSTROUTING: u32 = 4;

pub(super) const VERDICT_REGISTER: u32 = 0;

pub(super) const INCOMING_INTERFACE: u32 = 6;
pub(super) const OUTGOING_INTERFACE: u32 = 7;
pub(super) const PROTOCOL_KEY: u32 = 16;

pub(super) const DROP: i32 = 0;
pub(super) const ACCEPT: i32 = 1;
pub(super) const JUMP: i32 = -3;
pub(super) const RETURN: i32 = -5;

/// A rule while it is written: expressions, each of which may end it.
pub(super) struct Rule<'a> {
    pub(super) message: &'a mut Message,
    pub(super) family: Family,
}

impl Rule<'_> {
    pub(super) fn expression(&mut self, name: &str, data: impl FnOnce(&mut Message)) -> &mut Self {
        self.message.nest(1, |inside| {
            inside.text(1, name).nest(2, data);
        });
        self
    }

    pub(super) fn compare(&mut self, register: u32, equal: bool, value: &[u8]) -> &mut Self {
        self.expression("cmp", |data| {
            data.network_number(1, register).network_number(2, u32::from(!equal)).nest(3, |inside| {
                inside.bytes(1, value);
            });
        })
    }

    pub(super) fn meta(&mut self, key: u32, register: u32) -> &mut Self {
        self.expression("meta", |data| {
            data.network_number(1, register).network_number(2, key);
        })
    }

    pub(super) fn interface(&mut self, key: u32, name: &str, equal: bool) -> &mut Self {
        let mut padded = [0; 16];
        let length = name.len().min(15);
        padded[..length].copy_from_slice(&name.as_bytes()[..length]);
        // A name takes a whole register of 128 bits.
        self.meta(key, 1).compare(1, equal, &padded)
    }

    pub(super) fn comes_from(&mut self, interface: &str) -> &mut Self {
        self.interface(INCOMING_INTERFACE, interface, true)
    }

    pub(super) fn goes_to(&mut self, interface: &str) -> &mut Self {
        self.interface(OUTGOING_INTERFACE, interface, true)
    }

    pub(super) fn goes_elsewhere_than(&mut self, interface: &str) -> &mut Self {
        self.interface(OUTGOING_INTERFACE, interface, false)
    }

    /// `base`: 1 the IP header, 2 the transport header.
    pub(super) fn payload(&mut self, register: u32, base: u32, offset: u32, length: u32) -> &mut Self {
        self.expression("payload", |data| {
            data.network_number(1, register)
                .network_number(2, base)
                .network_number(3, offset)
                .network_number(4, length);
        })
    }

    pub(super) fn masked(&mut self, register: u32, mask: &[u8]) -> &mut Self {
        let length = u32::try_from(mask.len()).unwrap_or(0);
        self.expression("bitwise", |data| {
            data.network_number(1, register)
                .network_number(2, register)
                .network_number(3, length)
                .nest(4, |inside| {
                    inside.bytes(1, mask);
                })
                .nest(5, |inside| {
                    inside.bytes(1, &vec![0; mask.len()]);
                });
        })
    }

    fn address_in(&mut self, offset: u32, subnet: Subnet) -> &mut Self {
        let length = self.family.length();
        self.payload(1, 1, offset, length).masked(1, &subnet.mask()).compare(1, true, &octets(subnet.first()))
    }

    pub(super) fn comes_from_subnet(&mut self, subnet: Subnet) -> &mut Self {
        self.address_in(self.family.source(), subnet)
    }

    pub(super) fn goes_to_subnet(&mut self, subnet: Subnet) -> &mut Self {
        self.address_in(self.family.destination(), subnet)
    }

    /// The destination is this very address.
    pub(super) fn goes_to_address(&mut self, address: IpAddr) -> &mut Self {
        self.load_destination(1).compare(1, true, &octets(address))
    }

    /// Puts the destination's address into a register.
    pub(super) fn load_destination(&mut self, register: u32) -> &mut Self {
        self.payload(register, 1, self.family.destination(), self.family.length())
    }

    /// The transport protocol and the port it goes to.
    pub(super) fn goes_to_port(&mut self, protocol: u8, port: u16) -> &mut Self {
        self.meta(PROTOCOL_KEY, 1).compare(1, true, &[protocol]).payload(1, 2, 2, 2).compare(
            1,
            true,
            &port.to_be_bytes(),
        )
    }

    /// Puts a value into a register.
    fn load(&mut self, register: u32, value: &[u8]) -> &mut Self {
        self.expression("immediate", |data| {
            data.network_number(1, register).nest(2, |inside| {
                inside.bytes(1, value);
            });
        })
    }

    /// Rewrites the destination.
    pub(super) fn redirect_to(&mut self, target: SocketAddr) {
        let [high, low] = target.port().to_be_bytes();
        let [address, port, _] = self.family.registers();
        self.load(address, &octets(target.ip())).load(port, &[high, low]).rewrite_destination();
    }

    fn rewrite_destination(&mut self) {
        const DESTINATION: u32 = 1;
        let ([address, port, _], family) = (self.family.registers(), self.family.number());
        self.expression("nat", |data| {
            data.network_number(1, DESTINATION)
                .network_number(2, family.into())
                .network_number(3, address)
                .network_number(5, port);
        });
    }

    /// The destination is an address of this host.
    pub(super) fn goes_to_this_host(&mut self) -> &mut Self {
        const RESULT_KIND: u32 = 3;
        const BY_DESTINATION: u32 = 2;
        const KIND_LOCAL: u32 = 2;
        self.expression("fib", |data| {
            data.network_number(1, 1).network_number(2, RESULT_KIND).network_number(3, BY_DESTINATION);
        })
        .compare(1, true, &KIND_LOCAL.to_ne_bytes())
    }

    /// Some of these bits are set in what connection tracking knows under `key`.
    pub(super) fn tracked(&mut self, key: u32, bits: u32) -> &mut Self {
        self.expression("ct", |data| {
            data.network_number(1, 1).network_number(2, key);
        })
        .masked(1, &bits.to_ne_bytes())
        .compare(1, false, &[0; 4])
    }

    pub(super) fn is_reply(&mut self) -> &mut Self {
        const STATE: u32 = 0;
        const ESTABLISHED: u32 = 2;
        const RELATED: u32 = 4;
        self.tracked(STATE, ESTABLISHED | RELATED)
    }

    pub(super) fn was_redirected(&mut self) -> &mut Self {
        const STATUS: u32 = 2;
        const DESTINATION_REWRITTEN: u32 = 1 << 5;
        self.tracked(STATUS, DESTINATION_REWRITTEN)
    }

    pub(super) fn redirect_by(&mut self, map: &str, identifier: u32) {
        let [first, ..] = self.family.registers();
        self.expression("lookup", |data| {
            data.text(1, map).network_number(2, first).network_number(3, first).network_number(4, identifier);
        })
        .rewrite_destination();
    }

    pub(super) fn masquerade(&mut self) {
        self.expression("masq", |_| ());
    }

    pub(super) fn verdict(&mut self, code: i32, chain: Option<&str>) {
        self.expression("immediate", |data| {
            data.network_number(1, VERDICT_REGISTER).nest(2, |inside| {
                inside.nest(2, |inside| {
                    inside.network_number(1, code.cast_unsigned());
                    if let Some(chain) = chain {
                        inside.text(2, chain);
                    }
                });
            });
        });
    }
}
