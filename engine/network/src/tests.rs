//! Networks for real, in network namespaces made for each test: nothing of this machine's own is touched.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use engine_model::Kind;

use super::*;

mod changes;
mod firewalls;
mod host;
mod ipv6;
mod named;
mod published;
mod survival;
mod turns;
mod user_networks;
mod vlan;

use host::{
    HOST, HOST6, Host, OUTSIDE, OUTSIDE6, Place, ask, ask_by_datagram, command, eventually, found, links,
    port, wish, with_subnet,
};

#[test]
fn containers_reach_each_other_and_the_outside() {
    Host::run(|host| {
        let network = host.network();
        let (first, one) = host.attach(&network, "one");
        let (second, two) = host.attach(&network, "two");
        assert_eq!(one.address, Ipv4Addr::new(172, 17, 0, 2));
        assert_eq!(two.address, Ipv4Addr::new(172, 17, 0, 3));
        assert_eq!(one.mac_address, "02:42:ac:11:00:02");
        assert_eq!(
            (one.prefix, one.gateway, one.interface.as_str()),
            (16, Some(Ipv4Addr::new(172, 17, 0, 1)), "eth0")
        );
        assert!(first.command("ip address show eth0").contains("inet 172.17.0.2/16 brd 172.17.255.255"));
        assert!(first.command("ip link show eth0").contains("02:42:ac:11:00:02"));
        assert!(first.command("ip link show lo").contains("UP"));

        second.serve(80);
        assert_eq!(first.ask("172.17.0.3:80").unwrap(), "172.17.0.2");
        assert_eq!(first.ask_by_datagram("172.17.0.3:80").unwrap(), "172.17.0.2");
        assert_eq!(ask("172.17.0.3:80".parse().unwrap()).unwrap(), "172.17.0.1");

        host.outside.serve(7000);
        assert_eq!(first.ask("203.0.113.2:7000").unwrap(), HOST);
        assert_eq!(first.ask_by_datagram("203.0.113.2:7000").unwrap(), HOST);
    });
}

#[test]
fn wishes_for_addresses_are_honoured_or_refused() {
    Host::run(|host| {
        let network = host.network();
        let place = Place::new();
        let wish = |address: &str| EndpointRequest {
            address: Some(address.parse().unwrap()),
            ..EndpointRequest::default()
        };
        let attach = |name: &str, request| host.block_on(network.attach(name, &place.path, &request));
        let mut request = wish("172.17.9.9");
        request.mac_address = Some("02:00:00:00:00:99".to_owned());
        let endpoint = attach("one", request).unwrap();
        assert_eq!(endpoint.address.to_string(), "172.17.9.9");
        assert!(place.command("ip address show eth0").contains("02:00:00:00:00:99"));
        assert_eq!(attach("two", wish("172.17.9.9")).unwrap_err().to_string(), "Address already in use");
        assert!(matches!(attach("two", wish("172.17.0.1")), Err(NetworkError::AddressTaken { .. })));
        assert!(matches!(attach("two", wish("10.0.0.1")), Err(NetworkError::AddressOutside { .. })));
        let nowhere = EndpointRequest { network: "nowhere".into(), ..EndpointRequest::default() };
        assert_eq!(attach("two", nowhere).unwrap_err().to_string(), "network nowhere not found");
        let no_namespace =
            host.block_on(network.attach("two", Path::new("/proc/self/absent"), &wish("172.17.9.10")));
        assert!(matches!(no_namespace, Err(NetworkError::Namespace { .. })));
        let no_namespace =
            host.block_on(network.attach("two", Path::new("/etc/passwd"), &wish("172.17.9.10")));
        assert!(no_namespace.is_err());
        // The failures have not cost an address or left an interface.
        let second = Place::new();
        host.block_on(network.attach("two", &second.path, &wish("172.17.9.10"))).unwrap();
        assert_eq!(links().iter().filter(|name| name.starts_with("veth")).count(), 2);
    });
}

#[test]
fn attaching_again_changes_nothing_and_a_new_namespace_keeps_the_address() {
    Host::run(|host| {
        let network = host.network();
        let (place, endpoint) = host.attach(&network, "web");
        let request = EndpointRequest { container_name: "web".into(), ..EndpointRequest::default() };
        let again = host.block_on(network.attach("web", &place.path, &request)).unwrap();
        assert_eq!(again, endpoint);
        let next = Place::new();
        let moved = host.block_on(network.attach("web", &next.path, &request)).unwrap();
        assert_eq!(moved, endpoint);
        next.serve(80);
        assert_eq!(ask("172.17.0.2:80".parse().unwrap()).unwrap(), "172.17.0.1");
        assert_eq!(links().iter().filter(|name| name.starts_with("veth")).count(), 1);
    });
}

#[test]
fn the_bridge_is_as_configured() {
    Host::run(|host| {
        let open = |bip: &str, mtu| {
            let config =
                NetworkConfig { bip: Some(bip.to_owned()), mtu: Some(mtu), ..NetworkConfig::default() };
            host.block_on(Network::open(&config, host.folder.path(), &Quarantine::of(host.folder.path())))
        };
        let network = open("10.99.0.1/24", 1400).unwrap();
        let (place, endpoint) = host.attach(&network, "web");
        assert_eq!(endpoint.address.to_string(), "10.99.0.2");
        assert!(place.command("ip link show eth0").contains("mtu 1400"));
        open("10.98.0.1/24", 1500).unwrap();
        let shown = command("ip -4 -o address show docker0");
        assert!(shown.contains("10.98.0.1/24") && !shown.contains("10.99"), "{shown}");
        for bip in ["10.98.0.0/24", "10.98.0.255/24", "x", "10.98.0.1", "10.98.0.1/31"] {
            assert!(matches!(open(bip, 1500), Err(NetworkError::BridgeAddress { .. })), "{bip}");
        }
        assert!(matches!(open("10.98.0.1/24", 60), Err(NetworkError::Mtu { value: 60 })));
    });
}

#[test]
fn a_subnet_of_the_host_is_not_taken() {
    Host::run(|host| {
        command("ip address add 172.17.44.1/24 dev lo; ip route add 172.18.0.0/15 via 203.0.113.2");
        let network = host.network();
        let (_place, endpoint) = host.attach(&network, "web");
        assert_eq!(endpoint.address.to_string(), "172.20.0.2");
    });
}
