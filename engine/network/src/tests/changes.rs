//! The packet filter changed step by step: always what a table written as a whole would be, and never written as a whole.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use super::*;
use crate::filter::{Bridge, Redirection, Source};

/// The rules of a namespace, without the kernel's numbers; elements of a map have no order.
fn ruleset(json: &str) -> String {
    fn plain(value: &mut Value) {
        match value {
            Value::Object(object) => {
                object.remove("handle");
                object.values_mut().for_each(plain);
                if let Some(Value::Array(elements)) = object.get_mut("elem") {
                    elements.sort_by_key(Value::to_string);
                }
            }
            Value::Array(list) => list.iter_mut().for_each(plain),
            _ => {}
        }
    }
    let mut value: Value = serde_json::from_str(json).unwrap();
    plain(&mut value);
    let mut text = String::new();
    for part in value["nftables"].as_array().unwrap() {
        writeln!(text, "{part}").unwrap();
    }
    text
}

/// The kernel's number for the table: another one after it was written anew.
fn table_number() -> String {
    let shown = command("nft -a list table ip engine");
    shown.lines().next().unwrap().to_owned()
}

/// Numbers that look random, always the same for a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }

    fn choose<'a, T>(&mut self, among: &'a [T]) -> Option<&'a T> {
        (!among.is_empty()).then(|| &among[self.below(among.len())])
    }
}

fn seed() -> u64 {
    let seed = std::env::var("MACHINE_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        u64::from(now.subsec_nanos())
    });
    println!("MACHINE_TEST_SEED={seed}");
    seed
}

/// Compares what is there with a table written as a whole, in a namespace of its own.
#[track_caller]
pub(super) fn assert_as_written_anew(network: &Network, after: &str) {
    let here = command("nft -j list table ip engine");
    let rules = network.inner.rules.clone();
    let anew = Place::new().run(move || {
        rules.write_anew();
        command("nft -j list table ip engine")
    });
    let (here, anew) = (ruleset(&here), ruleset(&anew));
    assert!(here == anew, "after {after}\nthere is:\n{here}\nwritten anew:\n{anew}");
}

#[test]
fn any_changes_end_in_what_is_written_as_a_whole() {
    let mut dice = Dice(seed());
    Host::run(move |host| {
        let network = host.network();
        let number = table_number();
        let mut networks = vec!["bridge".to_owned()];
        // Each with its place and the networks it is on.
        let mut containers: Vec<(String, Place, Vec<Endpoint>)> = Vec::new();
        let mut done = String::new();
        for step in 0..60 {
            match dice.below(12) {
                0 | 1 => {
                    let name = format!("n{step}");
                    let switch = |on| if on { "true" } else { "false" }.to_owned();
                    let new = NewNetwork {
                        internal: dice.below(3) == 0,
                        options: BTreeMap::from([
                            (
                                "com.docker.network.bridge.enable_ip_masquerade".to_owned(),
                                switch(dice.below(3) > 0),
                            ),
                            ("com.docker.network.bridge.enable_icc".to_owned(), switch(dice.below(3) > 0)),
                        ]),
                        ..wish(&name)
                    };
                    writeln!(done, "create {new:?}").unwrap();
                    host.block_on(network.create(new)).unwrap();
                    networks.push(name);
                }
                2 => {
                    let Some(name) = dice.choose(&networks[1..]).cloned() else { continue };
                    writeln!(done, "remove {name}").unwrap();
                    // One that somebody is on is refused.
                    if host.block_on(network.remove(&name)).is_ok() {
                        networks.retain(|one| *one != name);
                    }
                }
                3..=5 => {
                    let name = format!("c{step}");
                    let to = dice.choose(&networks).unwrap();
                    writeln!(done, "attach {name} to {to}").unwrap();
                    let (place, endpoint) = host.attach_to(&network, &name, to);
                    containers.push((name, place, vec![endpoint]));
                }
                6 if !containers.is_empty() => {
                    let at = dice.below(containers.len());
                    let (name, place, endpoints) = &mut containers[at];
                    let to = dice.choose(&networks).unwrap().clone();
                    if endpoints.iter().any(|endpoint| endpoint.network_name == to) {
                        continue;
                    }
                    writeln!(done, "attach {name} to {to} as well").unwrap();
                    let request = EndpointRequest {
                        network: to,
                        container_name: name.clone(),
                        ..EndpointRequest::default()
                    };
                    endpoints.push(host.block_on(network.attach(name, &place.path, &request)).unwrap());
                }
                7..=9 => {
                    let Some((name, _, endpoints)) = dice.choose(&containers) else { continue };
                    let Some(endpoint) = dice.choose(endpoints) else { continue };
                    let mut ports = Vec::new();
                    for _ in 0..dice.below(4) {
                        let protocol = if dice.below(3) == 0 { Protocol::Udp } else { Protocol::Tcp };
                        let address =
                            *dice.choose(&[None, Some("127.0.0.1"), Some(HOST), Some("::1")]).unwrap();
                        ports.push(PortRequest {
                            host_ip: address.map(|address| address.parse().unwrap()),
                            container_port: u16::try_from(80 + dice.below(3)).unwrap(),
                            // A small range, so that some are taken.
                            ..port(protocol, u16::try_from(8000 + dice.below(20)).unwrap())
                        });
                    }
                    writeln!(done, "publish {name} on {} {ports:?}", endpoint.network_name).unwrap();
                    let _ = host.block_on(network.publish(name, endpoint, &ports));
                }
                10 if !containers.is_empty() => {
                    let at = dice.below(containers.len());
                    let (name, place, endpoints) = &mut containers[at];
                    let Some(endpoint) = endpoints.pop() else { continue };
                    writeln!(done, "detach {name} from {}", endpoint.network_name).unwrap();
                    let path = place.path.clone();
                    host.block_on(network.detach(name, Some(&path), &endpoint.network_name)).unwrap();
                }
                11 if !containers.is_empty() => {
                    let (name, _place, _) = containers.swap_remove(dice.below(containers.len()));
                    writeln!(done, "release {name}").unwrap();
                    host.block_on(network.release(&name)).unwrap();
                }
                _ => continue,
            }
            assert_as_written_anew(&network, &done);
        }
        assert_eq!(table_number(), number, "the table was written anew after\n{done}");
        // What a daemon makes of what it finds is the same.
        let live: Vec<_> = network
            .running()
            .state
            .attachments
            .iter()
            .map(|one| found(&one.container, &one.endpoint, &one.ports))
            .collect();
        let before = ruleset(&command("nft -j list table ip engine"));
        host.block_on(network.restore(&live)).unwrap();
        assert_eq!(ruleset(&command("nft -j list table ip engine")), before, "after\n{done}");
        assert_ne!(table_number(), number);
        for (name, ..) in containers {
            host.block_on(network.release(&name)).unwrap();
        }
        for name in &networks[1..] {
            host.block_on(network.remove(name)).unwrap();
        }
        assert_as_written_anew(&network, "everything is gone");
    });
}

#[test]
fn a_change_that_meets_something_else_writes_the_table_anew() {
    Host::run(|host| {
        let network = host.network();
        let (_web, endpoint) = host.attach(&network, "web");
        host.block_on(network.create(wish("mine"))).unwrap();
        let publish = |ports: &[PortRequest]| host.publish(&network, "web", &endpoint, ports);
        let mends = |what: &str, damage: &str, change: &dyn Fn()| {
            let number = table_number();
            command(damage);
            change();
            assert_as_written_anew(&network, what);
            assert_ne!(table_number(), number, "{what}");
        };
        mends(
            "an element too many",
            "nft add element ip engine published '{ tcp . 8080 : 10.1.1.1 . 80 }'",
            &|| {
                publish(&[port(Protocol::Tcp, 8080)]);
            },
        );
        mends("an element too few", "nft flush map ip engine published", &|| {
            publish(&[]);
        });
        mends("a rule too few", "nft flush chain ip engine into_bridges", &|| {
            host.block_on(network.remove("mine")).unwrap();
        });
        mends(
            "a chain too few",
            "nft 'flush chain ip engine prerouting; flush chain ip engine from_bridges; delete chain ip engine from_bridges'",
            &|| {
                host.block_on(network.create(wish("other"))).unwrap();
            },
        );
        mends("rules that somebody has taken away", "nft flush chain ip engine into_bridges", &|| {
            host.block_on(network.inner.rules.heal()).unwrap();
        });
        command("nft delete table ip engine");
        publish(&[port(Protocol::Tcp, 8081)]);
        assert_as_written_anew(&network, "no table at all");
    });
}

#[test]
fn ports_of_others_are_never_closed_by_a_change() {
    Host::run(|host| {
        let network = host.network();
        let (web, endpoint) = host.attach(&network, "web");
        web.serve(80);
        host.publish(&network, "web", &endpoint, &[port(Protocol::Udp, 8080)]);
        let is_over = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&is_over);
        // Each question is a new exchange, for which the rules are asked.
        let asking = host.outside.run(move || {
            std::thread::spawn(move || {
                let mut answers = 0;
                while !asked.load(Ordering::Relaxed) {
                    let ask = || {
                        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                        ask_by_datagram(&socket, "203.0.113.1:8080".parse().unwrap())
                    };
                    // Whoever answers may be busy with other things for a while.
                    let answer = ask().or_else(|_| ask()).or_else(|_| ask());
                    assert_eq!(answer.unwrap(), OUTSIDE);
                    answers += 1;
                }
                answers
            })
        });
        for round in 0..20 {
            let name = format!("n{round}");
            host.block_on(network.create(wish(&name))).unwrap();
            let (_place, other) = host.attach_to(&network, &name, &name);
            host.publish(&network, &name, &other, &[port(Protocol::Udp, 9090), port(Protocol::Tcp, 9090)]);
            host.block_on(network.release(&name)).unwrap();
            host.block_on(network.remove(&name)).unwrap();
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(asking.join().unwrap() > 0);
    });
}

/// More than a socket sends at once by itself.
#[test]
fn a_table_of_any_size_is_written_at_once() {
    Host::run(|host| {
        let network = host.network();
        let bridges = (0..300).map(|number| Bridge {
            interface: format!("br-{number}"),
            subnets: vec![format!("10.{}.{}.0/24", number / 250, number % 250).parse().unwrap()],
            internal: false,
            masquerade: true,
            among_themselves: false,
        });
        let redirections = (0..8000).map(|number| Redirection {
            source: Source { protocol: Protocol::Tcp, address: None, port: 10_000 + number },
            target: "10.0.0.2:80".parse().unwrap(),
        });
        let wanted = (bridges.collect(), redirections.collect::<Vec<_>>());
        host.block_on(network.inner.rules.replace(move || wanted)).unwrap();
        let shown = command("nft list table ip engine");
        assert!(shown.contains("br-299") && shown.contains("10000") && shown.contains("17999"));
    });
}
