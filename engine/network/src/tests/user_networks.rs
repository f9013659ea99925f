//! Networks that users make.

use super::*;

#[test]
fn networks_of_users_are_apart() {
    Host::run(|host| {
        let network = host.network();
        for name in ["front", "back"] {
            host.block_on(network.create(wish(name))).unwrap();
        }
        let attach = |place: &Place, name: &str, to: &str| {
            let (to, container_name) = (to.to_owned(), name.to_owned());
            let request = EndpointRequest { network: to, container_name, ..EndpointRequest::default() };
            host.block_on(network.attach(name, &place.path, &request)).unwrap()
        };
        let (web, database, both) = (Place::new(), Place::new(), Place::new());
        assert_eq!(attach(&web, "web", "front").address.to_string(), "172.18.0.2");
        assert_eq!(attach(&database, "db", "back").address.to_string(), "172.19.0.2");
        assert_eq!(attach(&both, "app", "front").interface, "eth0");
        assert_eq!(attach(&both, "app", "back").interface, "eth1");
        for place in [&web, &database, &both] {
            place.serve(80);
        }
        assert_eq!(both.ask("172.18.0.2:80").unwrap(), "172.18.0.3");
        assert_eq!(both.ask("172.19.0.2:80").unwrap(), "172.19.0.3");
        assert!(web.ask("172.19.0.2:80").is_err());
        assert!(database.ask("172.18.0.2:80").is_err());
        host.outside.serve(7000);
        assert_eq!(both.ask("203.0.113.2:7000").unwrap(), HOST);
        // A port that is published on one network is reached from another by the host's address.
        let endpoint = attach(&web, "web", "front");
        host.publish(&network, "web", &endpoint, &[port(Protocol::Tcp, 8080)]);
        assert_eq!(database.ask("203.0.113.1:8080").unwrap(), "172.18.0.1");
        host.block_on(network.detach("app", Some(&both.path), "front")).unwrap();
        assert_eq!(both.ask("172.19.0.2:80").unwrap(), "172.19.0.3");
        assert_eq!(both.ask("203.0.113.2:7000").unwrap(), HOST);
    });
}

#[test]
fn an_internal_network_has_no_way_out() {
    Host::run(|host| {
        let network = host.network();
        host.block_on(network.create(NewNetwork { internal: true, ..wish("inside") })).unwrap();
        let (one, endpoint) = host.attach_to(&network, "one", "inside");
        let (two, _) = host.attach_to(&network, "two", "inside");
        assert_eq!(endpoint.gateway, None);
        host.outside.serve(7000);
        two.serve(80);
        assert_eq!(one.ask("172.18.0.3:80").unwrap(), "172.18.0.2");
        assert!(one.ask("203.0.113.2:7000").is_err());
        one.command("ip route add default via 172.18.0.1");
        assert!(one.ask("203.0.113.2:7000").is_err());
    });
}

#[test]
fn networks_are_made_once_and_removed_when_empty() {
    Host::run(|host| {
        let network = host.network();
        let create = |new: NewNetwork| host.block_on(network.create(new));
        let refused = |result: Result<NetworkRecord, NetworkError>| {
            let error = result.unwrap_err();
            (error.kind(), error.to_string())
        };
        let subnet = NewNetwork {
            pools: vec![WishedPool {
                subnet: "10.50.0.0/24".into(),
                gateway: Some("10.50.0.254".into()),
                range: Some("10.50.0.128/26".into()),
                ..WishedPool::default()
            }],
            ..wish("mine")
        };
        let record = create(subnet.clone()).unwrap();
        let (_place, endpoint) = host.attach_to(&network, "web", &record.id[..12]);
        assert_eq!(endpoint.address.to_string(), "10.50.0.128");
        assert_eq!(endpoint.gateway.unwrap().to_string(), "10.50.0.254");

        assert_eq!(
            refused(create(subnet.clone())),
            (Kind::Conflict, "network with name mine already exists".into())
        );
        assert_eq!(refused(create(NewNetwork { name: "other".into(), ..subnet.clone() })).0, Kind::Forbidden);
        for name in ["", "a/b", "-x", "a b", "../x"] {
            assert_eq!(refused(create(wish(name))).0, Kind::Invalid, "{name}");
        }
        for name in ["bridge", "host", "none"] {
            assert_eq!(refused(create(wish(name))).0, Kind::Forbidden, "{name}");
            assert_eq!(refused(host.block_on(network.remove(name))).0, Kind::Forbidden);
        }
        assert_eq!(
            refused(create(NewNetwork { driver: "overlay2000".into(), ..wish("x") })).0,
            Kind::NotFound
        );
        assert_eq!(refused(create(with_subnet("x", "10.60.0.0/33"))).0, Kind::Invalid);
        let mut outside = with_subnet("x", "10.60.0.0/24");
        outside.pools[0].gateway = Some("10.61.0.1".into());
        assert_eq!(refused(create(outside)).0, Kind::Invalid);
        let mut several = with_subnet("x", "10.60.0.0/24");
        several.pools.extend(with_subnet("x", "10.61.0.0/24").pools);
        let (kind, message) = refused(create(several));
        assert_eq!(
            (kind, message.as_str()),
            (Kind::Forbidden, "bridge driver doesn't support multiple subnets")
        );

        assert_eq!(
            refused(host.block_on(network.remove("mine"))).1,
            "error while removing network: network mine has active endpoints"
        );
        host.block_on(network.release("web")).unwrap();
        host.block_on(network.remove("mine")).unwrap();
        assert!(!links().iter().any(|name| name.starts_with("br-")));
        assert!(!command("nft list table ip engine").contains("10.50"));
        assert_eq!(
            refused(host.block_on(network.remove("mine"))),
            (Kind::NotFound, "network mine not found".into())
        );
    });
}
