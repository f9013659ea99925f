//! Published ports, from wherever they can be reached.

use super::*;

#[test]
fn published_ports_are_reached_from_everywhere() {
    Host::run(|host| {
        let network = host.network();
        let (web, endpoint) = host.attach(&network, "web");
        let (other, _) = host.attach(&network, "other");
        web.serve(80);
        let published =
            host.publish(&network, "web", &endpoint, &[port(Protocol::Tcp, 8080), port(Protocol::Udp, 8080)]);
        let shown: Vec<String> = published
            .iter()
            .map(|port| format!("{} {}:{}", port.protocol, port.host_ip, port.host_port))
            .collect();
        assert_eq!(shown, ["tcp 0.0.0.0:8080", "tcp :::8080", "udp 0.0.0.0:8080", "udp :::8080"]);

        // From outside the packet filter leads straight to the container, which sees who it is.
        assert_eq!(host.outside.ask("203.0.113.1:8080").unwrap(), OUTSIDE);
        assert_eq!(host.outside.ask_by_datagram("203.0.113.1:8080").unwrap(), OUTSIDE);
        // From the host by its own address too; by the loopback it is the proxy, for both families.
        assert_eq!(ask("203.0.113.1:8080".parse().unwrap()).unwrap(), HOST);
        for address in ["127.0.0.1:8080", "[::1]:8080"] {
            assert_eq!(ask(address.parse().unwrap()).unwrap(), "172.17.0.1", "{address}");
        }
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..3 {
            assert_eq!(ask_by_datagram(&socket, "127.0.0.1:8080".parse().unwrap()).unwrap(), "172.17.0.1");
        }
        let socket = UdpSocket::bind("[::1]:0").unwrap();
        assert_eq!(ask_by_datagram(&socket, "[::1]:8080".parse().unwrap()).unwrap(), "172.17.0.1");
        // From another container, and from the container itself, by any address of the host; whether bridges hand their
        // packets to the packet filter or not.
        for setting in ["1", "0"] {
            let _ = fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", setting);
            for address in ["172.17.0.1:8080", "203.0.113.1:8080"] {
                for place in [&other, &web] {
                    assert_eq!(place.ask(address).unwrap(), "172.17.0.1", "{address}");
                }
                assert_eq!(other.ask_by_datagram(address).unwrap(), "172.17.0.1", "{address}");
            }
            assert_eq!(other.ask("172.17.0.2:80").unwrap(), "172.17.0.3");
        }
    });
}

#[test]
fn a_port_on_one_address_is_not_reached_by_others() {
    Host::run(|host| {
        let network = host.network();
        let (web, endpoint) = host.attach(&network, "web");
        web.serve(80);
        let on = |address: &str, host_port| PortRequest {
            host_ip: Some(address.parse().unwrap()),
            ..port(Protocol::Tcp, host_port)
        };
        let ports = [on("127.0.0.1", 8001), on(HOST, 8002)];
        assert_eq!(host.publish(&network, "web", &endpoint, &ports).len(), 2);
        assert_eq!(ask("127.0.0.1:8001".parse().unwrap()).unwrap(), "172.17.0.1");
        assert!(host.outside.ask("203.0.113.1:8001").is_err());
        assert_eq!(host.outside.ask("203.0.113.1:8002").unwrap(), OUTSIDE);
        assert!(ask("127.0.0.1:8002".parse().unwrap()).is_err());
    });
}

#[test]
fn nobody_outside_reaches_what_is_not_published() {
    Host::run(|host| {
        let network = host.network();
        let (web, endpoint) = host.attach(&network, "web");
        web.serve(80);
        host.outside.command(&format!("ip route add 172.17.0.0/16 via {HOST}"));
        assert!(host.outside.ask("172.17.0.2:80").is_err());
        host.publish(&network, "web", &endpoint, &[port(Protocol::Tcp, 8080)]);
        assert!(host.outside.ask("172.17.0.2:80").is_err());
        assert_eq!(host.outside.ask("203.0.113.1:8080").unwrap(), OUTSIDE);
    });
}

#[test]
fn a_taken_port_is_told_and_a_released_one_is_free() {
    Host::run(|host| {
        let network = host.network();
        let (_one, first) = host.attach(&network, "one");
        let (two, second) = host.attach(&network, "two");
        two.serve(80);
        host.publish(&network, "one", &first, &[port(Protocol::Tcp, 8080)]);
        let wish = [port(Protocol::Tcp, 9090), port(Protocol::Tcp, 8080)];
        let error = host.block_on(network.publish("two", &second, &wish)).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "driver failed programming external connectivity on endpoint two ({}): Bind for 0.0.0.0:8080 failed: port is already allocated",
                second.endpoint_id
            )
        );
        // The port that was free is not kept, nor is one of a stranger given.
        drop(TcpListener::bind("0.0.0.0:9090").unwrap());
        let stranger = TcpListener::bind("0.0.0.0:9091").unwrap();
        assert!(host.block_on(network.publish("two", &second, &[port(Protocol::Tcp, 9091)])).is_err());
        drop(stranger);

        host.block_on(network.release("one")).unwrap();
        host.block_on(network.release("one")).unwrap();
        host.publish(&network, "two", &second, &wish);
        assert_eq!(host.outside.ask("203.0.113.1:8080").unwrap(), OUTSIDE);
        // What is published anew takes the place of what was.
        host.publish(&network, "two", &second, &wish[..1]);
        assert!(host.outside.ask("203.0.113.1:8080").is_err());
        assert_eq!(host.outside.ask("203.0.113.1:9090").unwrap(), OUTSIDE);
    });
}

#[test]
fn a_released_udp_port_leads_to_its_next_container_at_once() {
    Host::run(|host| {
        let network = host.network();
        let sender = host.outside.run(|| UdpSocket::bind("0.0.0.0:5555").unwrap());
        let ask = || ask_by_datagram(&sender, "203.0.113.1:5300".parse().unwrap());
        for name in ["one", "two"] {
            let (place, endpoint) = host.attach(&network, name);
            assert!(ask().is_err());
            place.serve(80);
            host.publish(&network, name, &endpoint, &[port(Protocol::Udp, 5300)]);
            assert_eq!(ask().unwrap(), OUTSIDE);
            // The next one gets another address.
            let holder = Place::new();
            let request = EndpointRequest { container_name: "holder".into(), ..EndpointRequest::default() };
            host.block_on(network.release(name)).unwrap();
            host.block_on(network.attach("holder", &holder.path, &request)).unwrap();
        }
    });
}

#[test]
fn any_port_is_chosen_when_none_is_wished() {
    Host::run(|host| {
        let network = host.network();
        let (web, endpoint) = host.attach(&network, "web");
        web.serve(80);
        let any = PortRequest { host_port: None, ..port(Protocol::Tcp, 0) };
        let published = host.publish(&network, "web", &endpoint, &[any, port(Protocol::Tcp, 0)]);
        let ports: Vec<u16> = published.iter().map(|port| port.host_port).collect();
        assert_eq!(ports, [32_768, 32_768, 32_769, 32_769]);
        for port in [32_768, 32_769] {
            assert_eq!(host.outside.ask(&format!("{HOST}:{port}")).unwrap(), OUTSIDE);
        }
    });
}
