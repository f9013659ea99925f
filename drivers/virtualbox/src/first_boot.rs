//! What a VM is told at its first boot.

use machine_driver::{
    DriverError, HostId, HostView,
    local::{
        first_boot::{self, FirstBoot},
        inside::Inside,
        ports::GUEST_OVER_SERIAL,
    },
    seed::{Interface, Network, Seed},
};

use crate::{config::Config, image::Image};

pub(crate) fn seed(
    host: &HostView,
    config: &Config,
    image: &Image,
    inside: Inside,
) -> Result<Seed, DriverError> {
    let first = FirstBoot {
        user: user(config, image),
        services: image.services,
        ports: GUEST_OVER_SERIAL,
        network: Some(network(host, inside)),
    };
    first_boot::seed(host, first)
}

/// The first interface leads out and the second one inside.
fn network(host: &HostView, inside: Inside) -> Network {
    let outside = Interface {
        name: "outside".into(),
        mac: Some(with_colons(outside_mac(&host.id))),
        dhcp: true,
        ..Interface::default()
    };
    let inside = Interface {
        name: "inside".into(),
        mac: Some(with_colons(inside.mac())),
        addresses: vec![inside.interface()],
        ..Interface::default()
    };
    Network { interfaces: vec![outside, inside] }
}

/// The first interface's hardware address: locally administered, and always the same, from the host's id.
pub(crate) fn outside_mac(id: &HostId) -> [u8; 6] {
    let digits: Vec<u8> = id
        .to_string()
        .chars()
        .filter_map(|c| c.to_digit(16))
        .filter_map(|digit| u8::try_from(digit).ok())
        .collect();
    let pair = |at: usize| {
        digits.get(at).copied().unwrap_or_default() << 4 | digits.get(at + 1).copied().unwrap_or_default()
    };
    [0x52, 0x54, 0, pair(0), pair(2), pair(4)]
}

fn with_colons(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// As VirtualBox takes it.
pub(crate) fn without_colons(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02X}")).concat()
}

pub(crate) fn user<'a>(config: &'a Config, image: &'a Image) -> &'a str {
    config.ssh_user.as_deref().unwrap_or(&image.user)
}
