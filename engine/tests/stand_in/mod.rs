//! A daemon that answers what a test tells it to, and remembers what it was asked.

#![allow(unreachable_pub, dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// What was asked: the path without its version.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub query: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Request {
    /// `POST /containers/create`.
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

type Conversation = Box<dyn FnOnce(BufReader<UnixStream>) + Send>;

/// What is answered.
pub enum Reply {
    Json(u16, Value),
    /// A body of any type.
    Body(Vec<u8>),
    /// The head at once, the body when it comes.
    Later(Receiver<Value>),
    /// The connection becomes a raw stream.
    Upgrade(Conversation),
}

impl Reply {
    pub fn error(status: u16, message: &str) -> Self {
        Self::Json(status, json!({"message": message}))
    }

    pub fn upgrade(conversation: impl FnOnce(BufReader<UnixStream>) + Send + 'static) -> Self {
        Self::Upgrade(Box::new(conversation))
    }
}

/// The listening daemon; it ends with the test's process.
pub struct StandIn {
    directory: tempfile::TempDir,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl StandIn {
    pub fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("api.sock")).unwrap();
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (answer, seen) = (Arc::new(answer), Arc::clone(&requests));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, seen) = (Arc::clone(&answer), Arc::clone(&seen));
                std::thread::spawn(move || serve(stream.unwrap(), answer.as_ref(), &seen));
            }
        });
        Self { directory, requests }
    }

    pub fn host(&self) -> String {
        format!("unix://{}", self.directory.path().join("api.sock").display())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// All that was asked, without the greetings.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    pub fn lines(&self) -> Vec<String> {
        self.requests().iter().map(Request::line).collect()
    }
}

fn serve(stream: UnixStream, answer: &dyn Fn(&Request) -> Reply, seen: &Mutex<Vec<Request>>) {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader) {
        let is_greeting = request.path == "/_ping";
        if !is_greeting {
            seen.lock().unwrap().push(request.clone());
        }
        let reply = if is_greeting { Reply::Body(b"OK".to_vec()) } else { answer(&request) };
        let without_body = request.method == "HEAD";
        let stream = reader.get_mut();
        // A client may have gone already.
        let written = match reply {
            Reply::Json(204, _) => stream.write_all(b"HTTP/1.1 204 No Content\r\nApi-Version: 1.50\r\n\r\n"),
            Reply::Json(status, value) => {
                write(stream, status, "application/json", value.to_string().as_bytes(), without_body)
            }
            Reply::Body(body) => write(stream, 200, "application/octet-stream", &body, without_body),
            Reply::Later(body) => {
                let head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
                stream.write_all(head).unwrap();
                let body = body.recv().map(|value| value.to_string()).unwrap_or_default();
                stream.write_all(format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).as_bytes())
            }
            Reply::Upgrade(conversation) => {
                assert_eq!(request.headers.get("upgrade").map(String::as_str), Some("tcp"), "{request:?}");
                let head = b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n\
                    Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
                stream.write_all(head).unwrap();
                conversation(reader);
                return;
            }
        };
        if written.is_err() {
            return;
        }
    }
}

fn write(
    stream: &mut UnixStream,
    status: u16,
    kind: &str,
    body: &[u8],
    without_body: bool,
) -> std::io::Result<()> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} Status\r\nApi-Version: 1.50\r\nOstype: linux\r\nDocker-Experimental: false\r\n\
         Content-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    if without_body { Ok(()) } else { stream.write_all(body) }
}

fn read(reader: &mut BufReader<UnixStream>) -> Option<Request> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let mut words = line.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let mut body = Vec::new();
    if let Some(length) = headers.get("content-length") {
        body.resize(length.parse().ok()?, 0);
        reader.read_exact(&mut body).ok()?;
    } else if headers.get("transfer-encoding").is_some_and(|encoding| encoding == "chunked") {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).ok()?;
            let size = usize::from_str_radix(size.trim(), 16).ok()?;
            let start = body.len();
            body.resize(start + size, 0);
            reader.read_exact(&mut body[start..]).ok()?;
            let mut end = String::new();
            reader.read_line(&mut end).ok()?;
            if size == 0 {
                break;
            }
        }
    }
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let path = match path.strip_prefix("/v1.") {
        Some(rest) => rest.find('/').map_or(path, |slash| &rest[slash..]),
        None => path,
    };
    Some(Request { method, path: path.to_owned(), query: query.to_owned(), headers, body })
}

/// A frame of standard output (1) or standard error (2).
pub fn frame(stream: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![stream, 0, 0, 0];
    frame.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    frame.extend(payload);
    frame
}

/// Reads to the end of what the client sends.
pub fn read_all(reader: &mut BufReader<UnixStream>) -> Vec<u8> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Ends our half of a conversation.
pub fn close(reader: &BufReader<UnixStream>) {
    let _ = reader.get_ref().shutdown(Shutdown::Both);
}

pub const CONTAINER: &str = "c1d2e3f4a5b600000000000000000000000000000000000000000000000000aa";
const GONE: &str = "d4d4d4d4d4d41111111111111111111111111111111111111111111111111111";
const IMAGE: &str = "sha256:ab12cd34ef56ab12cd34ef56ab12cd34ef56ab12cd34ef56ab12cd34ef56abcd";

fn version() -> Value {
    json!({
        "Platform": {"Name": "Engine"},
        "Components": [
            {"Name": "Engine", "Version": "0.1.0", "Details": {
                "ApiVersion": "1.50", "Arch": "amd64", "BuildTime": "2026-11-20T10:00:00.000000000+00:00",
                "Experimental": "false", "GitCommit": "abc", "GoVersion": "rust", "KernelVersion": "6.1",
                "MinAPIVersion": "1.24", "Os": "linux",
            }},
            {"Name": "runtime", "Version": "0.7.0", "Details": {"GitCommit": "x"}},
        ],
        "Version": "0.1.0", "ApiVersion": "1.50", "MinAPIVersion": "1.24", "GitCommit": "abc", "GoVersion": "rust",
        "Os": "linux", "Arch": "amd64", "KernelVersion": "6.1", "BuildTime": "2026-11-20T10:00:00.000000000+00:00",
    })
}

fn info() -> Value {
    let mut info = json!({
        "ID": "aa-bb", "Containers": 3, "ContainersRunning": 1, "ContainersPaused": 0, "ContainersStopped": 2,
        "Images": 2, "Driver": "overlay2",
        "DriverStatus": [["Backing Filesystem", "extfs"], ["Supports d_type", "true"]],
        "Plugins": {
            "Volume": ["local"], "Network": ["bridge", "host", "null"], "Authorization": null, "Log": ["json-file"],
        },
        "MemoryLimit": true, "SwapLimit": true, "CpuCfsPeriod": true, "CpuCfsQuota": true, "CPUShares": true,
        "CPUSet": true, "PidsLimit": true, "IPv4Forwarding": true, "Debug": false, "NFd": 20,
        "OomKillDisable": false, "NGoroutines": 30, "SystemTime": "2026-11-21T00:00:00.0Z",
        "LoggingDriver": "json-file", "CgroupDriver": "cgroupfs", "CgroupVersion": "2", "NEventsListener": 0,
        "KernelVersion": "6.1.0", "OperatingSystem": "MachineOS", "OSVersion": "0.1", "OSType": "linux",
        "Architecture": "x86_64", "IndexServerAddress": "https://index.docker.io/v1/",
    });
    let more = json!({
        "RegistryConfig": {
            "InsecureRegistryCIDRs": ["127.0.0.0/8"],
            "IndexConfigs": {"docker.io": {"Name": "docker.io", "Mirrors": [], "Secure": true, "Official": true}},
            "Mirrors": ["https://mirror.example/"],
        },
        "NCPU": 2, "MemTotal": 4_123_456_789_i64, "GenericResources": null, "DockerRootDir": "/var/lib/engine",
        "HttpProxy": "", "HttpsProxy": "", "NoProxy": "", "Name": "mc1", "Labels": ["zone=a"],
        "ExperimentalBuild": false, "ServerVersion": "0.1.0", "Runtimes": {"youki": {"path": "youki"}},
        "DefaultRuntime": "youki",
        "Swarm": {"NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": false, "Error": "",
            "RemoteManagers": null},
        "LiveRestoreEnabled": true, "Isolation": "", "InitBinary": "engine-init",
        "ContainerdCommit": {"ID": "", "Expected": ""}, "RuncCommit": {"ID": "0.7.0", "Expected": "0.7.0"},
        "InitCommit": {"ID": "", "Expected": ""},
        "SecurityOptions": ["name=seccomp,profile=builtin", "name=cgroupns"],
        "Warnings": ["WARNING: No swap limit support"],
    });
    info.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    info
}

fn containers(now: i64) -> Value {
    json!([
        {
            "Id": CONTAINER, "Names": ["/web", "/other/alias"], "Image": "busybox:latest", "ImageID": IMAGE,
            "Command": "sh -c 'while true; do sleep 1; done'", "Created": now - 7300,
            "Ports": [
                {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
                {"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
                {"PrivatePort": 443, "Type": "tcp"},
                {"IP": "0.0.0.0", "PrivatePort": 9000, "PublicPort": 9000, "Type": "tcp"},
                {"IP": "0.0.0.0", "PrivatePort": 9001, "PublicPort": 9001, "Type": "tcp"},
                {"PrivatePort": 53, "Type": "udp"},
            ],
            "SizeRw": 1_234_567, "SizeRootFs": 7_654_321, "Labels": {"b": "2", "a": "1"}, "State": "running",
            "Status": "Up 2 hours", "HostConfig": {"NetworkMode": "bridge"},
            "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "172.17.0.2"}}},
            "Mounts": [
                {"Type": "bind", "Name": "", "Source": "/srv/very/long/source/path", "Destination": "/data",
                    "Mode": "", "RW": true, "Propagation": "rprivate"},
                {"Type": "volume", "Name": "0123456789abcdef0123456789abcdef", "Source": "/x", "Destination": "/v",
                    "Driver": "local"},
            ],
        },
        {
            "Id": GONE, "Names": ["/gone"], "Image": IMAGE, "ImageID": IMAGE, "Command": "true",
            "Created": now - 90_000 * 30, "Ports": [], "Labels": {}, "State": "exited",
            "Status": "Exited (0) 3 weeks ago", "HostConfig": {"NetworkMode": "default"},
            "NetworkSettings": {"Networks": {"bridge": {}}}, "Mounts": [],
        },
    ])
}

fn images(now: i64) -> Value {
    json!([
        {"Id": IMAGE, "ParentId": "", "RepoTags": ["busybox:latest", "busybox:1.36"],
            "RepoDigests": [format!("busybox@sha256:{}", "d".repeat(64))], "Created": now - 86_400 * 3 - 60,
            "Size": 4_261_550, "SharedSize": -1, "VirtualSize": 4_261_550, "Labels": null, "Containers": -1},
        {"Id": format!("sha256:{}", "99".repeat(32)), "ParentId": "", "RepoTags": [], "RepoDigests": [],
            "Created": now - 150, "Size": 123, "SharedSize": -1, "VirtualSize": 123, "Labels": {"x": "y"},
            "Containers": -1},
    ])
}

fn container() -> Value {
    json!({
        "Id": CONTAINER, "Created": "2026-11-20T10:00:00.123456789Z", "Path": "sh", "Args": ["-c", "x"],
        "State": {"Status": "running", "Running": true, "Paused": false, "Restarting": false, "OOMKilled": false,
            "Dead": false, "Pid": 1234, "ExitCode": 0, "Error": "", "StartedAt": "2026-11-20T10:00:01Z",
            "FinishedAt": "0001-01-01T00:00:00Z"},
        "Image": IMAGE, "ResolvConfPath": "/r", "HostnamePath": "/h", "HostsPath": "/hosts", "LogPath": "/l",
        "Name": "/web", "RestartCount": 0, "Driver": "overlay2", "Platform": "linux", "MountLabel": "",
        "ProcessLabel": "", "AppArmorProfile": "", "ExecIDs": null,
        "HostConfig": {"Binds": null, "ContainerIDFile": "", "LogConfig": {"Type": "json-file", "Config": {}},
            "NetworkMode": "bridge", "PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]},
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}, "AutoRemove": false,
            "NanoCpus": 1_500_000_000, "Memory": 67_108_864},
        "GraphDriver": {"Data": null, "Name": "overlay2"}, "Mounts": [],
        "Config": {"Hostname": "c1", "Domainname": "", "User": "", "AttachStdin": false, "AttachStdout": false,
            "AttachStderr": false, "Tty": false, "OpenStdin": false, "StdinOnce": false,
            "Env": ["A=1", "PATH=/bin"], "Cmd": ["sh", "-c", "x"], "Image": "busybox", "Volumes": null,
            "WorkingDir": "", "Entrypoint": null, "OnBuild": null, "Labels": {"a": "1", "b": "<&>"}},
        "NetworkSettings": {"Bridge": "", "SandboxID": "s", "SandboxKey": "/k",
            "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}],
                "443/tcp": null},
            "Gateway": "172.17.0.1", "IPAddress": "172.17.0.2", "IPPrefixLen": 16,
            "MacAddress": "02:42:ac:11:00:02",
            "Networks": {"bridge": {"IPAMConfig": null, "Links": null, "Aliases": null, "NetworkID": "n",
                "EndpointID": "e", "Gateway": "172.17.0.1", "IPAddress": "172.17.0.2", "IPPrefixLen": 16}}},
    })
}

fn networks() -> Value {
    json!([
        {"Name": "bridge", "Id": format!("abcdef012345{}", "6".repeat(52)),
            "Created": "2026-11-20T10:00:00.123456789Z", "Scope": "local", "Driver": "bridge", "EnableIPv4": true,
            "EnableIPv6": false, "IPAM": {"Driver": "default", "Options": null,
                "Config": [{"Subnet": "172.17.0.0/16", "Gateway": "172.17.0.1"}]},
            "Internal": false, "Attachable": false, "Ingress": false, "ConfigFrom": {"Network": ""},
            "ConfigOnly": false, "Containers": {}, "Options": {}, "Labels": {}},
        {"Name": "none", "Id": "0f".repeat(32), "Created": "2026-11-20T10:00:00Z", "Scope": "local",
            "Driver": "null", "IPAM": {"Config": null}},
    ])
}

fn stats() -> Value {
    let cpu = |total: u64, system: u64| {
        json!({"cpu_usage": {"total_usage": total, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
            "system_cpu_usage": system, "online_cpus": 2, "throttling_data": {}})
    };
    json!({
        "read": "2026-11-20T10:00:01Z", "preread": "2026-11-20T10:00:00Z",
        "pids_stats": {"current": 3, "limit": 100},
        "blkio_stats": {"io_service_bytes_recursive": [
            {"major": 8, "minor": 0, "op": "read", "value": 1_048_576},
            {"major": 8, "minor": 0, "op": "write", "value": 2000}]},
        "num_procs": 0, "cpu_stats": cpu(300_000_000, 10_000_000_000), "precpu_stats": cpu(100_000_000, 9_000_000_000),
        "memory_stats": {"usage": 20_000_000, "limit": 67_108_864, "stats": {"inactive_file": 1_000_000}},
        "networks": {"eth0": {"rx_bytes": 1500, "tx_bytes": 700_000}}, "name": "/web", "id": CONTAINER,
    })
}

/// Answers for a host on which there is something of everything; 404 for the rest.
pub fn populated(request: &Request, now: i64) -> Reply {
    let volume = json!({"CreatedAt": "2026-11-20T10:00:00Z", "Driver": "local", "Labels": null,
        "Mountpoint": "/var/x", "Name": "data", "Options": null, "Scope": "local"});
    let with = |mut value: Value, field: &str, content: Value| {
        value[field] = content;
        value
    };
    let (status, value) = match request.line().as_str() {
        "GET /version" => (200, version()),
        "GET /info" => (200, info()),
        "GET /containers/json" => (200, containers(now)),
        "GET /images/json" => (200, images(now)),
        "GET /containers/web/json" => (200, container()),
        "GET /images/busybox/json" => (
            200,
            json!({"Id": IMAGE, "RepoTags": ["busybox:latest"], "RepoDigests": [], "Parent": "", "Comment": "",
                "Created": "2026-11-20T10:00:00Z", "DockerVersion": "", "Author": "",
                "Config": {"Env": ["PATH=/bin"], "Cmd": ["sh"], "Entrypoint": null, "Labels": null},
                "Architecture": "amd64", "Os": "linux", "Size": 4_261_550}),
        ),
        "GET /images/busybox/history" => (
            200,
            json!([
                {"Id": IMAGE, "Created": now - 86_400 * 3 - 60, "Tags": ["busybox:latest"], "Size": 0, "Comment": "",
                    "CreatedBy": "/bin/sh -c #(nop)  CMD [\"sh\"] and a rather long command line here to be cut"},
                {"Id": "<missing>", "Created": now - 86_400 * 400, "Tags": null, "Size": 4_261_550,
                    "CreatedBy": "/bin/sh -c #(nop) ADD file:x in / ", "Comment": "hello"},
            ]),
        ),
        "GET /containers/web/top" => (
            200,
            json!({"Titles": ["UID", "PID", "CMD"],
                "Processes": [["root", "1234", "sh -c x"], ["root", "22", "sleep 1"]]}),
        ),
        "GET /containers/web/changes" => (
            200,
            json!([{"Path": "/etc", "Kind": 0}, {"Path": "/etc/x", "Kind": 1}, {"Path": "/gone", "Kind": 2}]),
        ),
        "GET /containers/web/stats" => (200, stats()),
        "GET /networks" => (200, networks()),
        "GET /networks/bridge" => (200, networks()[0].clone()),
        "GET /volumes" => (200, json!({"Volumes": [volume], "Warnings": null})),
        "GET /volumes/data" | "POST /volumes/create" => (200, volume),
        "GET /system/df" => (
            200,
            json!({"LayersSize": 5_000_000,
                "Images": [with(with(images(now)[0].clone(), "Containers", json!(1)), "SharedSize", json!(0))],
                "Containers": [containers(now)[0], with(containers(now)[1].clone(), "SizeRw", json!(5))],
                "Volumes": [with(volume, "UsageData", json!({"RefCount": 0, "Size": 333}))], "BuildCache": []}),
        ),
        "POST /containers/prune" => (200, json!({"ContainersDeleted": [GONE], "SpaceReclaimed": 5})),
        "POST /networks/prune" => (200, json!({"NetworksDeleted": ["two"]})),
        "POST /volumes/prune" => (200, json!({"VolumesDeleted": ["data"], "SpaceReclaimed": 333})),
        "POST /images/prune" => {
            (200, json!({"ImagesDeleted": [{"Untagged": "x:y"}, {"Deleted": IMAGE}], "SpaceReclaimed": 1000}))
        }
        "POST /build/prune" => (200, json!({"CachesDeleted": null, "SpaceReclaimed": 0})),
        "DELETE /images/busybox" => (200, json!([{"Untagged": "busybox:latest"}, {"Deleted": IMAGE}])),
        "POST /containers/web/wait" => (200, json!({"StatusCode": 3})),
        "POST /containers/web/update" => (200, json!({"Warnings": ["careful"]})),
        "POST /containers/create" => (201, json!({"Id": CONTAINER, "Warnings": ["a warning"]})),
        "POST /networks/create" => (201, json!({"Id": "n1", "Warning": ""})),
        "POST /images/busybox/tag" => (201, Value::Null),
        "POST /swarm/init" | "GET /swarm" => (503, json!({"message": "There is no swarm here"})),
        "DELETE /containers/web" | "DELETE /networks/bridge" | "DELETE /volumes/data" => (204, Value::Null),
        line if line.starts_with("POST /containers/web/") => (204, Value::Null),
        line if line == format!("POST /containers/{CONTAINER}/start") => (204, Value::Null),
        line if line == format!("POST /containers/{CONTAINER}/wait") => (200, json!({"StatusCode": 0})),
        line => (404, json!({"message": format!("no such thing: {line}")})),
    };
    Reply::Json(status, value)
}
