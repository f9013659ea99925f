//! Containers that ask for names at 127.0.0.11.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use engine_model::spec::NameSpec;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::*;

const RESOLVER: (Ipv4Addr, u16) = (Ipv4Addr::new(127, 0, 0, 11), 53);

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(99, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    let mut edns = Edns::new();
    edns.set_max_payload(1400);
    message.set_edns(edns);
    message.to_vec().unwrap()
}

/// How an answer went, and what it has.
type Told = (ResponseCode, Vec<String>);

fn told(bytes: &[u8]) -> Told {
    let answer = Message::from_vec(bytes).unwrap();
    assert_eq!(answer.metadata.id, 99);
    let shown = answer.answers.iter().map(|record| match &record.data {
        RData::A(address) => address.0.to_string(),
        RData::PTR(name) => name.0.to_ascii(),
        other => panic!("{other:?}"),
    });
    (answer.metadata.response_code, shown.collect())
}

fn exchange(socket: &UdpSocket, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    socket.send_to(bytes, RESOLVER)?;
    let mut buffer = [0; 2000];
    let (length, from) = socket.recv_from(&mut buffer)?;
    assert_eq!(from, SocketAddr::from(RESOLVER));
    Ok(buffer[..length].to_vec())
}

fn resolve_as(place: &Place, name: &str, kind: RecordType) -> Told {
    let bytes = question(name, kind);
    place.run(move || told(&exchange(&UdpSocket::bind("0.0.0.0:0").unwrap(), &bytes).unwrap()))
}

fn resolve(place: &Place, name: &str) -> Told {
    resolve_as(place, name, RecordType::A)
}

/// Asks by a stream, twice on the same one.
fn resolve_by_stream(place: &Place, name: &str) -> Told {
    let bytes = question(name, RecordType::A);
    place.run(move || {
        let mut stream = TcpStream::connect(RESOLVER).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut ask = || {
            stream.write_all(&u16::try_from(bytes.len()).unwrap().to_be_bytes()).unwrap();
            stream.write_all(&bytes).unwrap();
            told(&read_message(&mut stream))
        };
        let first = ask();
        assert_eq!(ask(), first);
        first
    })
}

fn read_message(stream: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).unwrap();
    message
}

fn found_at(address: &str) -> Told {
    (ResponseCode::NoError, vec![address.to_owned()])
}

/// Answers each question with the address that has asked it, unless its name begins with `fail`, `silent`, or `long`, which is cut short in
/// a datagram.
fn serve_names(place: &Place) -> Arc<AtomicUsize> {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    place.run(move || {
        let datagrams = UdpSocket::bind("0.0.0.0:53").unwrap();
        let streams = TcpListener::bind("0.0.0.0:53").unwrap();
        let answer = move |bytes: &[u8], from: IpAddr, is_stream: bool| {
            count.fetch_add(1, Ordering::SeqCst);
            let asked = Message::from_vec(bytes).unwrap();
            let mut answer = Message::response(asked.metadata.id, OpCode::Query);
            let query = asked.queries[0].clone();
            let name = query.name().to_ascii();
            assert_eq!(asked.edns.unwrap().max_payload(), 1400, "what was asked for is passed on");
            answer.add_query(query.clone());
            if name.starts_with("silent") {
                return None;
            }
            if name.starts_with("fail") {
                answer.metadata.response_code = ResponseCode::ServFail;
            } else if name.starts_with("long") && !is_stream {
                answer.metadata.truncation = true;
            } else if let IpAddr::V4(from) = from {
                answer.add_answer(Record::from_rdata(query.name().clone(), 1, RData::A(A(from))));
            }
            Some(answer.to_vec().unwrap())
        };
        let by_stream = answer.clone();
        thread::spawn(move || {
            let mut buffer = [0; 2000];
            while let Ok((length, from)) = datagrams.recv_from(&mut buffer) {
                if let Some(bytes) = answer(&buffer[..length], from.ip(), false) {
                    datagrams.send_to(&bytes, from).unwrap();
                }
            }
        });
        thread::spawn(move || {
            for stream in streams.incoming() {
                let mut stream = stream.unwrap();
                let from = stream.peer_addr().unwrap().ip();
                let bytes = by_stream(&read_message(&mut stream), from, true).unwrap();
                stream.write_all(&u16::try_from(bytes.len()).unwrap().to_be_bytes()).unwrap();
                stream.write_all(&bytes).unwrap();
            }
        });
    });
    asked
}

/// A container with its own files.
struct Named {
    place: Place,
    naming: Naming,
    name: String,
}

impl Named {
    fn new(host: &Host, name: &str, servers: &[&str]) -> Self {
        let file = |kind: &str| -> PathBuf { host.folder.path().join(format!("{kind}-{name}")) };
        let servers = servers.iter().map(|server| (*server).to_owned()).collect();
        let naming = Naming {
            hostname: format!("{name}-host.example.com"),
            domain: String::new(),
            hosts_file: file("hosts"),
            resolver_file: file("resolv"),
            wishes: NameSpec { servers, ..NameSpec::default() },
        };
        let named = Self { place: Place::new(), naming, name: name.to_owned() };
        named.write_files();
        named
    }

    fn write_files(&self) {
        let servers = self.naming.wishes.servers.clone();
        let request = engine_kernel::etc::DnsRequest { servers, ..Default::default() };
        fs::write(&self.naming.hosts_file, "127.0.0.1\tlocalhost\n").unwrap();
        fs::write(&self.naming.resolver_file, engine_kernel::etc::resolv_conf(&request)).unwrap();
    }

    fn attach(&self, host: &Host, network: &Network, to: &str, aliases: &[&str]) -> Endpoint {
        let request = EndpointRequest {
            network: to.to_owned(),
            container_name: self.name.clone(),
            aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
            naming: Some(self.naming.clone()),
            ..EndpointRequest::default()
        };
        host.block_on(network.attach(&self.name, &self.place.path, &request)).unwrap()
    }

    fn found(&self, endpoint: &Endpoint) -> Found {
        let namespace = Some(self.place.path.clone());
        Found { namespace, naming: Some(self.naming.clone()), ..found(&self.name, endpoint, &[]) }
    }

    fn hosts(&self) -> String {
        fs::read_to_string(&self.naming.hosts_file).unwrap()
    }

    fn resolver(&self) -> String {
        fs::read_to_string(&self.naming.resolver_file).unwrap()
    }
}

#[test]
fn containers_find_each_other_by_name_and_follow_changes_at_once() {
    Host::run(|host| {
        let network = host.network();
        for name in ["front", "back"] {
            host.block_on(network.create(wish(name))).unwrap();
        }
        let servers = ["203.0.113.9"];
        let [web, db, app] = ["web", "db", "app"].map(|name| Named::new(&host, name, &servers));
        web.attach(&host, &network, "front", &["www"]);
        db.attach(&host, &network, "back", &[]);
        app.attach(&host, &network, "front", &["www"]);
        app.attach(&host, &network, "back", &[]);
        let from = |named: &Named, name: &str| resolve(&named.place, name);
        assert_eq!(from(&web, "app."), found_at("172.18.0.3"));
        assert_eq!(resolve_by_stream(&web.place, "app."), found_at("172.18.0.3"));
        assert_eq!(from(&db, "app."), found_at("172.19.0.3"));
        assert_eq!(from(&web, "app-host.example.com."), found_at("172.18.0.3"));
        assert_eq!(from(&web, "www.").1.len(), 2);
        assert_eq!(resolve_as(&web.place, "app.", RecordType::AAAA), (ResponseCode::NoError, Vec::new()));
        assert_eq!(resolve_as(&db.place, "3.0.19.172.in-addr.arpa.", RecordType::PTR), found_at("app.back."));
        for (named, interface) in [(&web, "172.18.0.2"), (&db, "172.19.0.2")] {
            assert!(named.resolver().starts_with("nameserver 127.0.0.11\n"), "{}", named.resolver());
            let own = format!("{interface}\t{0}-host.example.com {0}-host\n", named.name);
            assert_eq!(named.hosts(), format!("127.0.0.1\tlocalhost\n{own}"));
        }
        assert_eq!(app.hosts().lines().count(), 3);

        host.block_on(network.rename("web", "web2")).unwrap();
        assert_eq!(from(&app, "web2."), found_at("172.18.0.2"));
        host.block_on(network.detach("app", Some(&app.place.path), "front")).unwrap();
        assert_eq!(app.hosts().lines().count(), 2);
        assert_eq!(from(&web, "www."), found_at("172.18.0.2"));
        assert_eq!(from(&app, "web2.").0, ResponseCode::ServFail);
        assert_eq!(from(&app, "db."), found_at("172.19.0.2"));
        host.block_on(network.release("app")).unwrap();
        assert_eq!(from(&db, "app.").0, ResponseCode::ServFail);
        // It is free for what is in there.
        let bound = web.place.run(|| UdpSocket::bind(("0.0.0.0", 53)).is_ok());
        assert!(bound);
        assert_eq!(from(&web, "web2."), found_at("172.18.0.2"));
    });
}

#[test]
fn other_names_are_asked_of_others() {
    Host::run(|host| {
        let asked = serve_names(&host.outside);
        let network = host.network();
        host.block_on(network.create(wish("front"))).unwrap();
        host.block_on(network.create(NewNetwork { internal: true, ..wish("inside") })).unwrap();
        // Nobody is at the first; what comes from a container comes from the host's address.
        let web = Named::new(&host, "web", &["203.0.113.1", OUTSIDE]);
        web.attach(&host, &network, "front", &[]);
        assert_eq!(resolve(&web.place, "example.com."), found_at(HOST));
        assert_eq!(resolve_by_stream(&web.place, "example.com."), found_at(HOST));
        // What was cut short in a datagram is whole in a stream.
        assert_eq!(resolve(&web.place, "long.example."), (ResponseCode::NoError, Vec::new()));
        assert_eq!(resolve_by_stream(&web.place, "long.example."), found_at(HOST));
        assert_eq!(resolve(&web.place, "fail.example.").0, ResponseCode::ServFail);
        // One that is not answered holds up nobody.
        let silent = question("silent.example.", RecordType::A);
        web.place.run(move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            for _ in 0..100 {
                socket.send_to(&silent, RESOLVER).unwrap();
            }
        });
        assert_eq!(resolve(&web.place, "example.com."), found_at(HOST));
        eventually("all of them are asked", || asked.load(Ordering::SeqCst) > 100);

        let before = asked.load(Ordering::SeqCst);
        let inner = Named::new(&host, "inner", &[OUTSIDE]);
        inner.attach(&host, &network, "inside", &[]);
        assert_eq!(resolve(&inner.place, "example.com.").0, ResponseCode::ServFail);
        assert_eq!(resolve(&inner.place, "inner.").0, ResponseCode::NoError);
        assert_eq!(asked.load(Ordering::SeqCst), before);
    });
}

#[test]
fn a_container_that_sends_nonsense_is_still_answered() {
    Host::run(|host| {
        let network = host.network();
        host.block_on(network.create(wish("front"))).unwrap();
        let web = Named::new(&host, "web", &["203.0.113.9"]);
        web.attach(&host, &network, "front", &[]);
        web.place.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            for length in 0..1500_usize {
                let bytes: Vec<u8> = (0..length).map(|at| u8::try_from(at * length % 251).unwrap()).collect();
                socket.send_to(&bytes, RESOLVER).unwrap();
            }
            // Connections that say nothing, or less than they announce.
            let mut streams: Vec<TcpStream> =
                (0..40).map(|_| TcpStream::connect(RESOLVER).unwrap()).collect();
            for stream in &mut streams {
                stream.write_all(&[0xff, 0xff, 1, 2, 3]).unwrap();
            }
            streams
        });
        assert_eq!(resolve(&web.place, "web."), found_at("172.18.0.2"));
        assert_eq!(resolve_by_stream(&web.place, "web."), found_at("172.18.0.2"));
    });
}

#[test]
fn answers_come_again_with_the_next_daemon() {
    Host::run(|mut host| {
        let network = host.network();
        host.block_on(network.create(wish("front"))).unwrap();
        let [web, db] = ["web", "db"].map(|name| Named::new(&host, name, &["203.0.113.9"]));
        let ends = [&web, &db].map(|named| named.attach(&host, &network, "front", &[]));
        // Who keeps its socket is answered there, too.
        let socket = web.place.run(|| Arc::new(UdpSocket::bind("0.0.0.0:0").unwrap()));
        let ask = |place: &Place, socket: &Arc<UdpSocket>| {
            let (socket, bytes) = (Arc::clone(socket), question("db.", RecordType::A));
            place.run(move || exchange(&socket, &bytes).map(|answer| told(&answer)))
        };
        assert_eq!(ask(&web.place, &socket).unwrap(), found_at("172.18.0.3"));
        drop(network);
        host.kill();
        // As an earlier version has left it.
        let mark = "# Other containers of the same networks, kept up to date by the engine";
        fs::write(&web.naming.hosts_file, format!("{}{mark}\n172.18.0.3\tdb\n", web.hosts())).unwrap();
        let network = host.network();
        let live = [web.found(&ends[0]), db.found(&ends[1])];
        host.block_on(network.restore(&live)).unwrap();
        assert_eq!(ask(&web.place, &socket).unwrap(), found_at("172.18.0.3"));
        assert_eq!(web.hosts(), "127.0.0.1\tlocalhost\n172.18.0.2\tweb-host.example.com web-host\n");
        assert_eq!(resolve(&db.place, "web."), found_at("172.18.0.2"));
        // Who is gone by then has no name.
        host.block_on(network.restore(&live[..1])).unwrap();
        assert_eq!(resolve(&web.place, "db.").0, ResponseCode::ServFail);
    });
}

#[test]
#[ignore = "prints how many questions are answered in a second"]
fn questions() {
    Host::run(|host| {
        let network = host.network();
        host.block_on(network.create(wish("front"))).unwrap();
        let web = Named::new(&host, "web", &[]);
        web.attach(&host, &network, "front", &[]);
        for programs in [1, 4] {
            let each = 20_000;
            let took = web.place.run(move || {
                let begin = std::time::Instant::now();
                // Threads that this one begins are in its network namespace.
                let threads: Vec<_> = (0..programs)
                    .map(|_| {
                        thread::spawn(move || {
                            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                            let bytes = question("web.", RecordType::A);
                            for _ in 0..each {
                                exchange(&socket, &bytes).unwrap();
                            }
                        })
                    })
                    .collect();
                for thread in threads {
                    thread.join().unwrap();
                }
                begin.elapsed()
            });
            let count = f64::from(programs * each) / took.as_secs_f64();
            eprintln!("{programs} programs: {count:.0} questions a second");
        }
    });
}

#[test]
fn a_file_that_somebody_has_changed_is_left_alone() {
    Host::run(|host| {
        let network = host.network();
        host.block_on(network.create(wish("front"))).unwrap();
        let web = Named::new(&host, "web", &["203.0.113.9"]);
        web.attach(&host, &network, "bridge", &[]);
        assert!(web.resolver().starts_with("nameserver 203.0.113.9\n"), "{}", web.resolver());
        let own = "nameserver 203.0.113.9\n# mine\n";
        fs::write(&web.naming.resolver_file, own).unwrap();
        web.attach(&host, &network, "front", &[]);
        assert_eq!(web.resolver(), own);
        assert_eq!(resolve(&web.place, "web."), found_at("172.18.0.2"));
        web.write_files();
        host.block_on(network.release("web")).unwrap();
        web.attach(&host, &network, "bridge", &[]);
        web.attach(&host, &network, "front", &[]);
        assert!(web.resolver().starts_with("nameserver 127.0.0.11\n"), "{}", web.resolver());
    });
}
