//! What a VM is told at its first boot.

use machine_driver::{
    DriverError, HostView,
    local::{
        first_boot::{self, FirstBoot},
        ports::GUEST_OVER_VIRTIO,
    },
    seed::{Interface, Network, Seed},
};

use crate::{
    command,
    config::Config,
    image::Image,
    inside::{self, Inside},
};

pub(crate) fn seed(
    host: &HostView,
    config: &Config,
    image: &Image,
    inside: Option<Inside>,
) -> Result<Seed, DriverError> {
    let first = FirstBoot {
        user: user(config, image),
        services: image.services,
        ports: GUEST_OVER_VIRTIO,
        network: inside.map(|inside| network(host, inside)),
    };
    first_boot::seed(host, first)
}

/// The first interface leads out and the second one inside. Where there is no second one, there is nothing to say.
fn network(host: &HostView, inside: Inside) -> Network {
    let outside = Interface {
        name: "outside".into(),
        mac: Some(command::mac(&host.id)),
        dhcp: true,
        ..Interface::default()
    };
    let inside = Interface {
        name: "inside".into(),
        mac: Some(inside::mac(inside).to_string()),
        addresses: vec![inside.interface()],
        ..Interface::default()
    };
    Network { interfaces: vec![outside, inside] }
}

pub(crate) fn user<'a>(config: &'a Config, image: &'a Image) -> &'a str {
    config.ssh_user.as_deref().unwrap_or(&image.user)
}
