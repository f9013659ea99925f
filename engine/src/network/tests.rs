//! Networks for real, in network namespaces made for each test: nothing of this machine's own is touched.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use axum::http::StatusCode;

use super::*;

/// The host's address and the one of a machine outside.
const HOST: &str = "203.0.113.1";
const OUTSIDE: &str = "203.0.113.2";

type Job = Box<dyn FnOnce() + Send>;

#[expect(unsafe_code, reason = "rustix marks it as unsafe as well")]
fn unshare_network() {
    // SAFETY: only the calling thread moves, and it has just begun.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(result, 0, "these tests need root: {}", std::io::Error::last_os_error());
}

/// A network namespace with a thread inside that does what it is told.
struct Place {
    path: PathBuf,
    thread: String,
    jobs: mpsc::Sender<Job>,
}

impl Place {
    fn new() -> Self {
        let (jobs, work) = mpsc::channel::<Job>();
        let (report, ready) = mpsc::channel();
        thread::spawn(move || {
            unshare_network();
            let thread = fs::read_link("/proc/thread-self").unwrap();
            report.send(thread).unwrap();
            for job in work {
                job();
            }
        });
        let thread = ready.recv().unwrap();
        let path = PathBuf::from("/proc").join(&thread).join("ns/net");
        let thread = thread.file_name().unwrap().to_string_lossy().into_owned();
        Self { path, thread, jobs }
    }

    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (send, receive) = mpsc::channel();
        self.jobs.send(Box::new(move || send.send(job()).unwrap())).unwrap();
        receive.recv().unwrap()
    }

    fn command(&self, line: &str) -> String {
        let line = line.to_owned();
        self.run(move || command(&line))
    }

    /// Answers every connection, and every datagram, with the address it came from.
    fn serve(&self, port: u16) {
        self.run(move || {
            let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
            let socket = UdpSocket::bind(("0.0.0.0", port)).unwrap();
            thread::spawn(move || {
                for connection in listener.incoming() {
                    let mut connection = connection.unwrap();
                    let _ = write!(connection, "{}", connection.peer_addr().unwrap().ip());
                }
            });
            thread::spawn(move || {
                let mut buffer = [0; 100];
                while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(from.ip().to_string().as_bytes(), from);
                }
            });
        });
    }

    fn ask(&self, address: &str) -> Result<String, std::io::Error> {
        let address: SocketAddr = address.parse().unwrap();
        self.run(move || ask(address))
    }

    fn ask_by_datagram(&self, address: &str) -> Result<String, std::io::Error> {
        let address: SocketAddr = address.parse().unwrap();
        self.run(move || ask_by_datagram(&UdpSocket::bind("0.0.0.0:0").unwrap(), address))
    }
}

fn ask(address: SocketAddr) -> Result<String, std::io::Error> {
    let mut connection = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer)
}

fn ask_by_datagram(socket: &UdpSocket, address: SocketAddr) -> Result<String, std::io::Error> {
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.send_to(b"?", address)?;
    let mut buffer = [0; 100];
    let (length, from) = socket.recv_from(&mut buffer)?;
    assert_eq!(from, address);
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

fn command(line: &str) -> String {
    let output = Command::new("sh").args(["-ec", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A host with an interface to the outside, where this thread and those of the runtime are.
struct Host {
    outside: Place,
    folder: tempfile::TempDir,
    runtime: Option<tokio::runtime::Runtime>,
}

fn new_runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

impl Host {
    fn run(test: impl FnOnce(Self) + Send + 'static) {
        let host = thread::spawn(|| {
            unshare_network();
            let outside = Place::new();
            command(&format!(
                "ip link set lo up; ip link add uplink type veth peer name eth0 netns {}
                 ip address add {HOST}/24 dev uplink; ip link set uplink up",
                outside.thread
            ));
            outside.command(&format!(
                "ip address add {OUTSIDE}/24 dev eth0; ip link set eth0 up; ip link set lo up"
            ));
            test(Self { outside, folder: tempfile::tempdir().unwrap(), runtime: Some(new_runtime()) });
        });
        if let Err(panic) = host.join() {
            std::panic::resume_unwind(panic);
        }
    }

    fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.as_ref().unwrap().block_on(future)
    }

    fn network(&self) -> Network {
        self.block_on(Network::open(&NetworkConfig::default(), self.folder.path())).unwrap()
    }

    /// All that a daemon holds goes away, as when it is killed.
    fn kill(&mut self) {
        self.runtime.take().unwrap().shutdown_timeout(Duration::from_secs(5));
        self.runtime = Some(new_runtime());
    }

    fn attach(&self, network: &Network, name: &str) -> (Place, Endpoint) {
        self.attach_to(network, name, "bridge")
    }

    fn attach_to(&self, network: &Network, name: &str, to: &str) -> (Place, Endpoint) {
        let place = Place::new();
        let request = EndpointRequest {
            network: to.to_owned(),
            container_name: name.to_owned(),
            ..EndpointRequest::default()
        };
        let endpoint = self.block_on(network.attach(name, &place.path, &request)).unwrap();
        (place, endpoint)
    }

    fn publish(
        &self,
        network: &Network,
        name: &str,
        endpoint: &Endpoint,
        ports: &[PortRequest],
    ) -> Vec<PublishedPort> {
        self.block_on(network.publish(name, endpoint, ports)).unwrap()
    }
}

fn links() -> Vec<String> {
    command("ip -o link | sed 's/^[0-9]*: //; s/[@:].*//'").lines().map(str::to_owned).collect()
}

fn port(protocol: Protocol, host_port: u16) -> PortRequest {
    PortRequest { protocol, container_port: 80, host_ip: None, host_port: Some(host_port) }
}

fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_true() {
        assert!(begin.elapsed() < Duration::from_secs(15), "{what} did not come true");
        thread::sleep(Duration::from_millis(50));
    }
}

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
fn everything_survives_the_daemon() {
    Host::run(|mut host| {
        let network = host.network();
        let (web, endpoint) = host.attach(&network, "web");
        let (_gone, _) = host.attach(&network, "gone");
        web.serve(80);
        let published =
            host.publish(&network, "web", &endpoint, &[port(Protocol::Tcp, 8080), port(Protocol::Udp, 8080)]);
        let bridge = host.block_on(network.find("bridge")).unwrap();
        drop(network);
        host.kill();

        // Without a daemon the packet filter still does its work.
        assert_eq!(host.outside.ask("203.0.113.1:8080").unwrap(), OUTSIDE);
        let stranger = TcpListener::bind("0.0.0.0:8080").unwrap();
        command("ip link set docker0 down; ip link add vethstray master docker0 type veth peer name stray");

        let network = host.network();
        assert_eq!(host.block_on(network.find("bridge")).unwrap(), bridge);
        assert_eq!(host.outside.ask("203.0.113.1:8080").unwrap(), OUTSIDE);
        let live = [("web".to_owned(), endpoint.clone(), published.clone())];
        host.block_on(network.restore(&live)).unwrap();
        // A port that somebody else has now is that one's until it is given up.
        assert!(host.outside.ask_by_datagram("203.0.113.1:8080").is_ok());
        drop(stranger);
        eventually("the port is ours again", || {
            ask("127.0.0.1:8080".parse().unwrap()).is_ok_and(|text| text == "172.17.0.1")
        });
        eventually("the packet filter leads to it", || {
            host.outside.ask("203.0.113.1:8080").is_ok_and(|text| text == OUTSIDE)
        });

        // What was left over is gone: the stray cable, the container that ended meanwhile and its address.
        let cables: Vec<String> = links().into_iter().filter(|name| name.starts_with("veth")).collect();
        assert_eq!(cables, std::slice::from_ref(&endpoint.host_interface));
        let (_next, next) = host.attach(&network, "next");
        assert_eq!(next.address, Ipv4Addr::new(172, 17, 0, 3));
        assert_eq!(host.block_on(network.attachments(&bridge.id)).len(), 2);
    });
}

#[test]
fn containers_come_back_although_the_bridge_and_the_state_are_lost() {
    Host::run(|mut host| {
        let network = host.network();
        let (web, endpoint) = host.attach(&network, "web");
        web.serve(80);
        let published = host.publish(&network, "web", &endpoint, &[port(Protocol::Tcp, 8080)]);
        drop(network);
        host.kill();
        command("ip link delete docker0; nft flush ruleset");
        let network = host.network();
        let live = [("web".to_owned(), endpoint, published)];
        host.block_on(network.restore(&live)).unwrap();
        assert_eq!(host.outside.ask("203.0.113.1:8080").unwrap(), OUTSIDE);
        host.block_on(network.release("web")).unwrap();
        host.block_on(network.restore(&live)).unwrap();
        assert_eq!(host.block_on(network.attachments(&live[0].1.network_id)).len(), 1);
    });
}

#[test]
fn two_hundred_containers_leave_nothing_behind() {
    Host::run(|host| {
        let network = host.network();
        let (before, rules) = (links(), command("nft list table ip engine"));
        for round in 0..4 {
            let mut places = Vec::new();
            for number in 0..50 {
                let name = format!("c{round}-{number}");
                let (place, endpoint) = host.attach(&network, &name);
                assert_eq!(endpoint.address, Ipv4Addr::new(172, 17, 0, number + 2));
                host.publish(&network, &name, &endpoint, &[port(Protocol::Tcp, 10_000 + u16::from(number))]);
                places.push((name, place));
            }
            for (number, (name, place)) in places.into_iter().enumerate() {
                if number % 2 == 0 {
                    // The container's processes are gone first, as usual.
                    drop(place);
                }
                host.block_on(network.release(&name)).unwrap();
            }
        }
        eventually("all interfaces are gone", || links() == before);
        assert_eq!(command("nft list table ip engine"), rules);
        drop(TcpListener::bind("0.0.0.0:10000").unwrap());
    });
}

#[test]
fn rules_of_others_are_left_alone() {
    Host::run(|host| {
        command(
            "nft add table inet others; nft add chain inet others input '{ type filter hook input priority 0; policy accept; }'
             nft add rule inet others input tcp dport 23 drop; nft add table ip nat",
        );
        let others = command("nft list table inet others; nft list table ip nat");
        let network = host.network();
        let table = command("nft list table ip engine");
        assert_eq!(
            host.block_on(Network::open(&NetworkConfig::default(), host.folder.path()))
                .map(drop)
                .err()
                .map(|e| e.to_string()),
            None
        );
        assert_eq!(command("nft list table ip engine"), table);
        let (_place, endpoint) = host.attach(&network, "web");
        host.publish(&network, "web", &endpoint, &[port(Protocol::Tcp, 8080)]);
        assert_eq!(command("nft list table inet others; nft list table ip nat"), others);
        let shown = command("nft list map ip engine published");
        // Where there is no /etc/protocols, the protocol is shown by its number.
        assert!(shown.contains(" . 8080 : 172.17.0.2 . 80"), "{shown}");
    });
}

#[test]
fn a_firewall_that_drops_what_it_does_not_know_is_passed() {
    Host::run(|host| {
        command(
            "nft add table ip filter; nft add chain ip filter FORWARD '{ type filter hook forward priority 0; policy drop; }'
             nft add rule ip filter FORWARD tcp dport 23 drop",
        );
        let shown = || command("nft list chain ip filter FORWARD");
        let network = host.network();
        let (web, endpoint) = host.attach(&network, "web");
        web.serve(80);
        host.outside.serve(7000);
        assert_eq!(web.ask("203.0.113.2:7000").unwrap(), HOST);
        host.publish(&network, "web", &endpoint, &[port(Protocol::Tcp, 8080)]);
        assert_eq!(host.outside.ask("203.0.113.1:8080").unwrap(), OUTSIDE);
        // Once each, however often the rules are renewed, and only as long as there is the bridge.
        host.block_on(network.create(NewNetwork {
            options: BTreeMap::from([("com.docker.network.bridge.name".to_owned(), "mine".to_owned())]),
            ..wish("mine")
        }))
        .unwrap();
        assert_eq!(
            (shown().matches("\"docker0\"").count(), shown().matches("\"mine\"").count()),
            (2, 2),
            "{}",
            shown()
        );
        host.block_on(network.remove("mine")).unwrap();
        assert_eq!(
            (shown().matches("\"docker0\"").count(), shown().matches("\"mine\"").count()),
            (2, 0),
            "{}",
            shown()
        );
        assert!(shown().contains("tcp dport 23 drop"));
    });
}

#[test]
fn rules_that_somebody_removed_come_back() {
    Host::run(|host| {
        let network = host.network();
        let (web, endpoint) = host.attach(&network, "web");
        web.serve(80);
        host.publish(&network, "web", &endpoint, &[port(Protocol::Tcp, 8080)]);
        command("nft flush ruleset");
        eventually("the port is redirected again", || {
            host.outside.ask("203.0.113.1:8080").is_ok_and(|answer| answer == OUTSIDE)
        });
        host.outside.serve(7000);
        assert_eq!(web.ask("203.0.113.2:7000").unwrap(), HOST);
    });
}

#[test]
fn the_bridge_is_as_configured() {
    Host::run(|host| {
        let open = |bip: &str, mtu| {
            let config = NetworkConfig { bip: Some(bip.to_owned()), mtu: Some(mtu) };
            host.block_on(Network::open(&config, host.folder.path()))
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

fn wish(name: &str) -> NewNetwork {
    NewNetwork { name: name.to_owned(), ..NewNetwork::default() }
}

#[test]
fn networks_of_users_are_apart_and_know_names() {
    Host::run(|host| {
        let network = host.network();
        for name in ["front", "back"] {
            host.block_on(network.create(wish(name))).unwrap();
        }
        let hosts = |name: &str| host.folder.path().join(format!("hosts-{name}"));
        let attach = |place: &Place, name: &str, to: &str| {
            let path = hosts(name);
            if !path.exists() {
                fs::write(&path, "127.0.0.1\tlocalhost\n").unwrap();
            }
            let request = EndpointRequest {
                network: to.to_owned(),
                container_name: name.to_owned(),
                aliases: vec![format!("{name}-alias")],
                hosts_file: Some(path),
                ..EndpointRequest::default()
            };
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

        let read = |name: &str| fs::read_to_string(hosts(name)).unwrap();
        assert!(read("web").starts_with("127.0.0.1\tlocalhost\n"));
        assert!(read("web").contains("172.18.0.3\tapp app-alias\n") && !read("web").contains("db"));
        assert!(
            read("app").contains("172.18.0.2\tweb web-alias\n")
                && read("app").contains("172.19.0.2\tdb db-alias\n")
        );
        host.block_on(network.detach("app", Some(&both.path), "front")).unwrap();
        assert!(!read("web").contains("app"));
        assert!(!read("app").contains("web") && read("app").contains("db"));
        assert_eq!(both.ask("172.19.0.2:80").unwrap(), "172.19.0.3");
        assert_eq!(both.ask("203.0.113.2:7000").unwrap(), HOST);
        host.block_on(network.release("app")).unwrap();
        assert!(!read("db").contains("app"));
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
            (error.status(), error.to_string())
        };
        let subnet = NewNetwork {
            subnet: Some("10.50.0.0/24".into()),
            gateway: Some("10.50.0.254".into()),
            range: Some("10.50.0.128/26".into()),
            ..wish("mine")
        };
        let record = create(subnet.clone()).unwrap();
        let (_place, endpoint) = host.attach_to(&network, "web", &record.id[..12]);
        assert_eq!(endpoint.address.to_string(), "10.50.0.128");
        assert_eq!(endpoint.gateway.unwrap().to_string(), "10.50.0.254");

        assert_eq!(
            refused(create(subnet.clone())),
            (StatusCode::CONFLICT, "network with name mine already exists".into())
        );
        assert_eq!(
            refused(create(NewNetwork { name: "other".into(), ..subnet.clone() })).0,
            StatusCode::FORBIDDEN
        );
        for name in ["", "a/b", "-x", "a b", "../x"] {
            assert_eq!(refused(create(wish(name))).0, StatusCode::BAD_REQUEST, "{name}");
        }
        for name in ["bridge", "host", "none"] {
            assert_eq!(refused(create(wish(name))).0, StatusCode::FORBIDDEN, "{name}");
            assert_eq!(refused(host.block_on(network.remove(name))).0, StatusCode::FORBIDDEN);
        }
        assert_eq!(
            refused(create(NewNetwork { driver: "overlay2000".into(), ..wish("x") })).0,
            StatusCode::NOT_FOUND
        );
        assert_eq!(
            refused(create(NewNetwork { subnet: Some("10.60.0.0/33".into()), ..wish("x") })).0,
            StatusCode::BAD_REQUEST
        );
        let outside = NewNetwork {
            subnet: Some("10.60.0.0/24".into()),
            gateway: Some("10.61.0.1".into()),
            ..wish("x")
        };
        assert_eq!(refused(create(outside)).0, StatusCode::BAD_REQUEST);

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
            (StatusCode::NOT_FOUND, "network mine not found".into())
        );
    });
}
