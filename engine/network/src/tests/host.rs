//! A host, machines around it and containers: each a network namespace with a thread inside.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use engine_store::Quarantine;

use super::super::{
    Endpoint, EndpointRequest, Found, Network, NetworkConfig, NewNetwork, PortRequest, Protocol,
    PublishedPort, WishedPool,
};

/// The host's address and the one of a machine outside.
pub(super) const HOST: &str = "203.0.113.1";
pub(super) const OUTSIDE: &str = "203.0.113.2";
pub(super) const HOST6: &str = "2001:db8::1";
pub(super) const OUTSIDE6: &str = "2001:db8::2";

type Job = Box<dyn FnOnce() + Send>;

#[expect(unsafe_code, reason = "rustix marks it as unsafe as well")]
fn unshare_network() {
    // SAFETY: only the calling thread moves, and it has just begun.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(result, 0, "these tests need root: {}", std::io::Error::last_os_error());
}

/// A network namespace with a thread inside that does what it is told.
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) thread: String,
    jobs: mpsc::Sender<Job>,
}

impl Place {
    pub(super) fn new() -> Self {
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

    pub(super) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (send, receive) = mpsc::channel();
        self.jobs.send(Box::new(move || send.send(job()).unwrap())).unwrap();
        receive.recv().unwrap()
    }

    pub(super) fn command(&self, line: &str) -> String {
        let line = line.to_owned();
        self.run(move || command(&line))
    }

    /// Answers every connection, and every datagram, with the address it came from.
    pub(super) fn serve(&self, port: u16) {
        self.run(move || {
            // Of both families.
            let listener = TcpListener::bind(("::", port)).unwrap();
            let socket = UdpSocket::bind(("::", port)).unwrap();
            thread::spawn(move || {
                for connection in listener.incoming() {
                    let mut connection = connection.unwrap();
                    let _ = write!(connection, "{}", connection.peer_addr().unwrap().ip().to_canonical());
                }
            });
            thread::spawn(move || {
                let mut buffer = [0; 100];
                while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(from.ip().to_canonical().to_string().as_bytes(), from);
                }
            });
        });
    }

    pub(super) fn ask(&self, address: &str) -> Result<String, std::io::Error> {
        let address: SocketAddr = address.parse().unwrap();
        self.run(move || ask(address))
    }

    pub(super) fn ask_by_datagram(&self, address: &str) -> Result<String, std::io::Error> {
        let address: SocketAddr = address.parse().unwrap();
        self.run(move || {
            let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            ask_by_datagram(&UdpSocket::bind(any).unwrap(), address)
        })
    }
}

pub(super) fn ask(address: SocketAddr) -> Result<String, std::io::Error> {
    let mut connection = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer)
}

pub(super) fn ask_by_datagram(socket: &UdpSocket, address: SocketAddr) -> Result<String, std::io::Error> {
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.send_to(b"?", address)?;
    let mut buffer = [0; 100];
    let (length, from) = socket.recv_from(&mut buffer)?;
    assert_eq!(from, address);
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

pub(super) fn command(line: &str) -> String {
    let output = Command::new("sh").args(["-ec", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A host with an interface to the outside, where this thread and those of the runtime are.
pub(super) struct Host {
    pub(super) outside: Place,
    pub(super) folder: tempfile::TempDir,
    runtime: Option<tokio::runtime::Runtime>,
}

fn new_runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

impl Host {
    pub(super) fn run(test: impl FnOnce(Self) + Send + 'static) {
        let host = thread::spawn(|| {
            unshare_network();
            let outside = Place::new();
            command(&format!(
                "ip link set lo up; ip link add uplink type veth peer name eth0 netns {}
                 ip address add {HOST}/24 dev uplink; ip address add {HOST6}/64 dev uplink nodad; ip link set uplink up",
                outside.thread
            ));
            outside.command(&format!(
                "ip address add {OUTSIDE}/24 dev eth0; ip address add {OUTSIDE6}/64 dev eth0 nodad
                 ip link set eth0 up; ip link set lo up"
            ));
            test(Self { outside, folder: tempfile::tempdir().unwrap(), runtime: Some(new_runtime()) });
        });
        if let Err(panic) = host.join() {
            std::panic::resume_unwind(panic);
        }
    }

    pub(super) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.as_ref().unwrap().block_on(future)
    }

    pub(super) fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.runtime.as_ref().unwrap().spawn(future)
    }

    pub(super) fn network(&self) -> Network {
        self.block_on(Network::open(
            &NetworkConfig::default(),
            self.folder.path(),
            &Quarantine::of(self.folder.path()),
        ))
        .unwrap()
    }

    /// All that a daemon holds goes away, as when it is killed.
    pub(super) fn kill(&mut self) {
        self.runtime.take().unwrap().shutdown_timeout(Duration::from_secs(5));
        self.runtime = Some(new_runtime());
    }

    pub(super) fn attach(&self, network: &Network, name: &str) -> (Place, Endpoint) {
        self.attach_to(network, name, "bridge")
    }

    pub(super) fn attach_to(&self, network: &Network, name: &str, to: &str) -> (Place, Endpoint) {
        let place = Place::new();
        let request = EndpointRequest {
            network: to.to_owned(),
            container_name: name.to_owned(),
            ..EndpointRequest::default()
        };
        let endpoint = self.block_on(network.attach(name, &place.path, &request)).unwrap();
        (place, endpoint)
    }

    pub(super) fn publish(
        &self,
        network: &Network,
        name: &str,
        endpoint: &Endpoint,
        ports: &[PortRequest],
    ) -> Vec<PublishedPort> {
        self.block_on(network.publish(name, endpoint, ports)).unwrap()
    }
}

pub(super) fn links() -> Vec<String> {
    command("ip -o link | sed 's/^[0-9]*: //; s/[@:].*//'").lines().map(str::to_owned).collect()
}

pub(super) fn port(protocol: Protocol, host_port: u16) -> PortRequest {
    PortRequest {
        protocol,
        container_port: 80,
        host_ip: None,
        host_port: Some(host_port),
        last_host_port: None,
    }
}

pub(super) fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_true() {
        assert!(begin.elapsed() < Duration::from_secs(15), "{what} did not come true");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A container as a new daemon finds it.
pub(super) fn found(container: &str, endpoint: &Endpoint, ports: &[PublishedPort]) -> Found {
    let (container, endpoint, ports) = (container.to_owned(), endpoint.clone(), ports.to_vec());
    Found { container, endpoint, ports, namespace: None, naming: None }
}

pub(super) fn wish(name: &str) -> NewNetwork {
    NewNetwork { name: name.to_owned(), ..NewNetwork::default() }
}

/// A network with this subnet, and IPv6 if that is one of it.
pub(super) fn with_subnet(name: &str, subnet: &str) -> NewNetwork {
    let pool = WishedPool { subnet: subnet.to_owned(), ..WishedPool::default() };
    NewNetwork { ipv6: subnet.contains(':'), pools: vec![pool], ..wish(name) }
}
