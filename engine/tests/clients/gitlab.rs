//! What GitLab Runner's docker executor asks of an engine for a job, call by call: with a network for the job, and with links.
//!
//! The calls, their order and their fields are those of `executors/docker` of GitLab Runner 17; its helper image is played by
//! busybox.

use std::cell::Cell;
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Engine, wait_for};
use crate::servers::Registry;
use crate::{frames, say};

const PROJECT: &str = "runner-t1-project-1-concurrent-0";
const CACHE: &str = "runner-t1-project-1-concurrent-0-cache-3c3f060a0374fc8bc39395164f415a70";
const BUILDS: &str = "runner-t1-project-1-concurrent-0-cache-c33bcaa1fd2c77edfc3893b41966cea8";
const IMAGE: &str = "127.0.0.1:5000/group/image:v1";
/// What a service answers, again and again.
const SERVER: &str = "exec nc -ll -p 80 -e echo served";
/// What `gitlab-runner-helper health-check` does: with the variables that the executor sets, or with those of a link.
const HEALTH_CHECK: &str = "address=${WAIT_FOR_SERVICE_TCP_ADDR:-$SERVICE_PORT_80_TCP_ADDR}
    port=${WAIT_FOR_SERVICE_80_TCP_PORT:-$SERVICE_PORT_80_TCP_PORT}
    until nc -w 1 $address $port </dev/null; do sleep 0.1; done";
/// What the runner has the build container's shell do when a job is cancelled.
const TERMINATE: &str =
    "for id in $(ls /proc); do case $id in 1|$$|*[!0-9]*) ;; *) kill -TERM $id 2>/dev/null;; esac; done";

/// A runner that has one job at a time.
struct Runner<'a> {
    engine: &'a Engine,
    /// The network for the job, or nothing: then services are linked.
    network: &'a str,
    /// Of what it has to remove at the end.
    containers: Vec<String>,
    calls: Cell<usize>,
}

impl<'a> Runner<'a> {
    fn new(engine: &'a Engine, network: &'a str) -> Self {
        Self { engine, network, containers: Vec::new(), calls: Cell::new(0) }
    }

    /// Asks, and returns what is answered with this status.
    #[track_caller]
    fn call(&self, method: &str, path: &str, body: &Value, status: u16) -> Value {
        self.calls.set(self.calls.get() + 1);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = self.engine.http(method, &format!("/v1.44{path}"), body.as_bytes());
        assert_eq!(answer.status, status, "{method} {path} {body}: {}", answer.text());
        serde_json::from_slice(&answer.body).unwrap_or_default()
    }

    #[track_caller]
    fn get(&self, path: &str) -> Value {
        self.call("GET", path, &Value::Null, 200)
    }

    fn labels(kind: &str) -> Value {
        json!({ "com.gitlab.gitlab-runner.job.id": "7", "com.gitlab.gitlab-runner.managed": "true",
                "com.gitlab.gitlab-runner.type": kind })
    }

    /// What it wants to know before anything else.
    fn connect(&self) {
        self.call("HEAD", "/_ping", &Value::Null, 200);
        let info = self.get("/info");
        assert_eq!(info["OSType"], "linux");
        assert!(info["Architecture"].is_string() && info["KernelVersion"].is_string(), "{info}");
        assert_eq!(self.get("/version")["ApiVersion"], "1.51");
    }

    /// The policy `if-not-present`; `missing` says that the image is expected not to be.
    fn image(&self, name: &str, missing: bool) -> String {
        let path = format!("/images/{name}/json");
        if missing {
            let said = self.call("GET", &path, &Value::Null, 404);
            assert_eq!(said["message"], format!("No such image: {name}"));
            let (repository, tag) = name.rsplit_once(':').unwrap();
            let path = format!("/images/create?fromImage={}&tag={tag}", repository.replace('/', "%2F"));
            self.calls.set(self.calls.get() + 1);
            let answer = self.engine.http("POST", &path, b"");
            assert!(answer.status == 200 && !answer.text().contains("error"), "{}", answer.text());
        }
        self.get(&path)["Id"].as_str().unwrap().to_owned()
    }

    fn create_network(&self) {
        if !self.network.is_empty() {
            let body = json!({ "Name": self.network, "CheckDuplicate": true, "Driver": "", "Scope": "", "EnableIPv6": false,
                "IPAM": null, "Internal": false, "Attachable": false, "Ingress": false, "ConfigOnly": false, "ConfigFrom": null,
                "Options": null, "Labels": Self::labels("network") });
            let id = self.call("POST", "/networks/create", &body, 201)["Id"].clone();
            let network = self.get(&format!("/networks/{}", id.as_str().unwrap()));
            assert_eq!(network["Labels"], Self::labels("network"));
        }
    }

    /// A volume that everybody may write to: a container of its own sees to that.
    fn create_volume(&self, name: &str) {
        let body = json!({ "Name": name, "Labels": Self::labels("cache"), "Driver": "", "DriverOpts": {} });
        let volume = self.call("POST", "/volumes/create", &body, 201);
        assert_eq!((&volume["Name"], &volume["Labels"]), (&json!(name), &Self::labels("cache")));
        let command = ["sh", "-c", "chmod 777 /gitlab-runner-cache-init"];
        let body = json!({ "Image": self.image("busybox:latest", false), "Cmd": command, "Labels": Self::labels("cache-init"),
            "HostConfig": { "LogConfig": { "Type": "json-file", "Config": null },
                            "Binds": [format!("{name}:/gitlab-runner-cache-init")] } });
        let path = format!("/containers/create?name={name}-set-permission-0a1b2c3d");
        let id = self.call("POST", &path, &body, 201)["Id"].as_str().unwrap().to_owned();
        self.call("POST", &format!("/containers/{id}/start"), &Value::Null, 204);
        assert_eq!(self.wait(&id), 0);
        self.call("DELETE", &format!("/containers/{id}?force=1"), &Value::Null, 204);
    }

    fn wait(&self, id: &str) -> i64 {
        let path = format!("/containers/{id}/wait?condition=not-running");
        self.call("POST", &path, &Value::Null, 200)["StatusCode"].as_i64().unwrap()
    }

    /// As Go writes such a structure: with everything that was not asked for.
    fn host_config(&self, links: &[&str]) -> Value {
        let mut config = json!({ "Binds": [format!("{CACHE}:/cache"), format!("{BUILDS}:/builds")], "ContainerIDFile": "",
            "LogConfig": { "Type": "json-file", "Config": null }, "NetworkMode": self.network, "PortBindings": null,
            "RestartPolicy": { "Name": "no", "MaximumRetryCount": 0 }, "AutoRemove": false, "VolumeDriver": "",
            "VolumesFrom": null, "ConsoleSize": [0, 0], "CapAdd": null, "CapDrop": null, "CgroupnsMode": "", "Dns": null,
            "DnsOptions": null, "DnsSearch": null, "ExtraHosts": null, "GroupAdd": null, "IpcMode": "", "Cgroup": "",
            "Links": links, "OomScoreAdj": 0, "PidMode": "", "Privileged": false, "PublishAllPorts": false,
            "ReadonlyRootfs": false, "SecurityOpt": null, "UTSMode": "", "UsernsMode": "", "ShmSize": 0, "Isolation": "",
            "MaskedPaths": null, "ReadonlyPaths": null });
        let resources = json!({ "CpuShares": 0, "Memory": 0, "NanoCpus": 0, "CgroupParent": "", "BlkioWeight": 0,
            "BlkioWeightDevice": null, "BlkioDeviceReadBps": null, "BlkioDeviceWriteBps": null,
            "BlkioDeviceReadIOps": null, "BlkioDeviceWriteIOps": null, "CpuPeriod": 0, "CpuQuota": 0,
            "CpuRealtimePeriod": 0, "CpuRealtimeRuntime": 0, "CpusetCpus": "", "CpusetMems": "", "Devices": null,
            "DeviceCgroupRules": null, "DeviceRequests": null, "MemoryReservation": 0, "MemorySwap": 0,
            "MemorySwappiness": null, "OomKillDisable": false, "PidsLimit": null, "Ulimits": null, "CpuCount": 0,
            "CpuPercent": 0, "IOMaximumIOps": 0, "IOMaximumBandwidth": 0 });
        config.as_object_mut().unwrap().extend(resources.as_object().unwrap().clone());
        config
    }

    fn endpoints(&self, aliases: &[&str]) -> Value {
        let mut settings = json!({ "IPAMConfig": null, "Links": null, "MacAddress": "", "DriverOpts": null, "NetworkID": "",
            "EndpointID": "", "Gateway": "", "IPAddress": "", "IPPrefixLen": 0, "IPv6Gateway": "", "GlobalIPv6Address": "",
            "GlobalIPv6PrefixLen": 0, "DNSNames": null });
        settings["Aliases"] = if self.network.is_empty() { Value::Null } else { json!(aliases) };
        let network = if self.network.is_empty() { "default" } else { self.network };
        json!({ "EndpointsConfig": { network: settings } })
    }

    /// Removes what has this name, if something has, and makes it.
    fn create(&mut self, name: &str, body: &Value) -> String {
        self.get("/networks");
        self.call("DELETE", &format!("/containers/{name}?force=1&v=1"), &Value::Null, 404);
        let id = self.call("POST", &format!("/containers/create?name={name}"), body, 201)["Id"].clone();
        let id = id.as_str().unwrap().to_owned();
        self.containers.push(id.clone());
        self.get(&format!("/containers/{id}/json"));
        id
    }

    /// Starts a service, and has a container wait until its port answers.
    fn service(&mut self) {
        let name = format!("{PROJECT}-0a1b2c3d-db-0");
        let body = json!({ "Image": self.image("busybox:latest", false), "Cmd": ["sh", "-c", SERVER], "Env": ["CI=true"],
            "ExposedPorts": { "80/tcp": {} }, "Labels": Self::labels("service"), "HostConfig": self.host_config(&[]),
            "NetworkingConfig": self.endpoints(&["db", "database"]) });
        let id = self.create(&name, &body);
        self.call("POST", &format!("/containers/{id}/start"), &Value::Null, 204);
        let exposed = self.get(&format!("/containers/{id}/json"))["Config"]["ExposedPorts"].clone();
        assert_eq!(exposed, json!({ "80/tcp": {} }));
        let mut body = json!({ "Image": self.image("busybox:latest", false), "Cmd": ["sh", "-c", HEALTH_CHECK],
            "Labels": Self::labels("wait"), "HostConfig": { "RestartPolicy": { "Name": "no", "MaximumRetryCount": 0 },
                "NetworkMode": self.network, "LogConfig": { "Type": "json-file", "Config": null } } });
        if self.network.is_empty() {
            body["HostConfig"]["Links"] = json!([format!("{name}:service")]);
        } else {
            let address = format!("WAIT_FOR_SERVICE_TCP_ADDR={}", &id[..12]);
            body["Env"] = json!([address, "WAIT_FOR_SERVICE_80_TCP_PORT=80"]);
        }
        let path = format!("/containers/create?name={name}-wait-for-service");
        let waiting = self.call("POST", &path, &body, 201)["Id"].as_str().unwrap().to_owned();
        self.call("POST", &format!("/containers/{waiting}/start"), &Value::Null, 204);
        assert_eq!(self.wait(&waiting), 0);
        let path = format!("/containers/{waiting}/logs?stderr=1&stdout=1&timestamps=1");
        let answer = self.engine.http("GET", &path, b"");
        assert!(frames(&answer.body).0.ends_with("Z served\n"), "{}", answer.text());
        self.call("DELETE", &format!("/containers/{waiting}?force=1&v=1"), &Value::Null, 204);
    }

    /// The helper's container (`predefined`) or the job's (`build`): it runs what comes on its input, once for each start.
    fn shell(&mut self, kind: &str, image: &str, links: &[&str]) -> String {
        let name = format!("{PROJECT}-0a1b2c3d-{kind}");
        let body = json!({ "Image": image, "Hostname": PROJECT, "Domainname": "", "User": "", "AttachStdin": true,
            "AttachStdout": true, "AttachStderr": true, "Tty": false, "OpenStdin": true, "StdinOnce": true,
            "Env": ["CI=true", "CI_JOB_ID=7"], "Cmd": ["sh"], "Volumes": null, "WorkingDir": "", "Entrypoint": null,
            "OnBuild": null, "Labels": Self::labels(kind), "HostConfig": self.host_config(links),
            "NetworkingConfig": self.endpoints(&["build", &name]) });
        self.create(&name, &body)
    }

    fn attach(&self, id: &str) -> UnixStream {
        self.calls.set(self.calls.get() + 1);
        let mut stream = UnixStream::connect(self.engine.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        write!(
            stream,
            "POST /v1.44/containers/{id}/attach?stderr=1&stdin=1&stdout=1&stream=1 HTTP/1.1\r\nHost: docker\r\n\
             Connection: Upgrade\r\nContent-Length: 0\r\nContent-Type: text/plain\r\nUpgrade: tcp\r\n\r\n"
        )
        .unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        stream
    }

    /// Starts the container, pipes a script in, and returns how it ended and what it said.
    fn script(&self, id: &str, script: &str) -> (i64, String) {
        let mut stream = self.attach(id);
        self.call("POST", &format!("/containers/{id}/start"), &Value::Null, 204);
        stream.write_all(script.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).unwrap();
        let (out, err) = frames(&said);
        (self.end(id), out + &err)
    }

    /// However it ended: stopped, and waited for.
    fn end(&self, id: &str) -> i64 {
        self.calls.set(self.calls.get() + 1);
        let answer = self.engine.http("POST", &format!("/v1.44/containers/{id}/stop"), b"");
        assert!([204, 304].contains(&answer.status), "{}", answer.text());
        self.wait(id)
    }

    /// Removes everything but the cache. Nothing else may be left.
    fn clean_up(mut self) -> usize {
        for id in std::mem::take(&mut self.containers) {
            self.get("/networks");
            self.call("DELETE", &format!("/containers/{id}?force=1&v=1"), &Value::Null, 204);
        }
        self.call("DELETE", &format!("/volumes/{BUILDS}?force=1"), &Value::Null, 204);
        if !self.network.is_empty() {
            let path = format!("/networks/{}", self.network);
            assert_eq!(self.get(&path)["Containers"], json!({}));
            self.call("DELETE", &path, &Value::Null, 204);
        }
        assert_eq!(self.get("/containers/json?all=1"), json!([]));
        let volumes = self.get("/volumes")["Volumes"].clone();
        assert_eq!(volumes.as_array().unwrap().iter().map(|one| &one["Name"]).collect::<Vec<_>>(), [CACHE]);
        self.calls.get()
    }
}

fn engine() -> (Engine, Registry) {
    let engine = Engine::start();
    engine.load_busybox();
    let registry = Registry::start(&engine, "registry", "127.0.0.1:5000", &json!({}));
    engine.docker(["tag", "busybox", IMAGE]).ok();
    engine.docker(["push", "-q", IMAGE]).ok();
    engine.docker(["rmi", IMAGE]).ok();
    (engine, registry)
}

/// A job from its preparation to its end; answers what its own script has said.
fn job(runner: &mut Runner<'_>, missing: bool) -> String {
    runner.connect();
    runner.create_network();
    runner.create_volume(CACHE);
    runner.create_volume(BUILDS);
    runner.service();
    let image = runner.image(IMAGE, missing);
    let helper = runner.image("busybox:latest", false);
    let service = format!("{PROJECT}-0a1b2c3d-db-0");
    let links = [format!("{service}:db"), format!("{service}:database")];
    let links: Vec<&str> =
        if runner.network.is_empty() { links.iter().map(String::as_str).collect() } else { Vec::new() };
    let helper = runner.shell("predefined", &helper, &links);
    let build = runner.shell("build", &image, &links);
    let (code, said) = runner.script(&helper, "echo Running on $(hostname) via test...\n");
    assert_eq!((code, said), (0, format!("Running on {PROJECT} via test...\n")));
    // The sources, and a cache that an earlier job may have left.
    let sources = "mkdir -p /builds/group && echo source > /builds/group/file\nls /cache\n";
    let (code, cached) = runner.script(&helper, sources);
    assert_eq!(code, 0, "{cached}");
    let script = "set -e\ncd /builds/group\ncat file\nnc -w 5 db 80 </dev/null\nnc -w 5 database 80 </dev/null\n\
        echo $CI_JOB_ID >&2\ntouch /cache/kept\n";
    let (code, said) = runner.script(&build, script);
    assert_eq!((code, said.as_str()), (0, "source\nserved\nserved\n7\n"));
    // The same container again, for what comes after the script; and the failure of a job.
    assert_eq!(runner.script(&build, "echo after\nexit 9\n"), (9, "after\n".to_owned()));
    cached
}

#[test]
fn gitlabs_executor_with_a_network_for_each_job() {
    let (engine, _registry) = engine();
    let network = format!("{PROJECT}-job-7-network");
    let mut runner = Runner::new(&engine, &network);
    assert_eq!(job(&mut runner, true), "");
    let mut calls = runner.clean_up();
    // The next one finds the image and the cache.
    let mut runner = Runner::new(&engine, &network);
    assert_eq!(job(&mut runner, false), "kept\n");
    calls += runner.clean_up();
    say(&format!("GitLab's docker executor, network for each job: {calls} calls"));
}

#[test]
fn gitlabs_executor_with_links() {
    let (engine, _registry) = engine();
    let mut runner = Runner::new(&engine, "");
    job(&mut runner, true);
    let calls = runner.clean_up();
    say(&format!("GitLab's docker executor, links: {calls} calls"));
}

#[test]
fn gitlabs_executor_cancels_a_job() {
    let engine = Engine::start();
    engine.load_busybox();
    let network = format!("{PROJECT}-job-7-network");
    let mut runner = Runner::new(&engine, &network);
    runner.create_network();
    runner.create_volume(CACHE);
    runner.create_volume(BUILDS);
    let image = runner.image("busybox:latest", false);
    let build = runner.shell("build", &image, &[]);
    let mut stream = runner.attach(&build);
    runner.call("POST", &format!("/containers/{build}/start"), &Value::Null, 204);
    // A step that does not end; its shell takes SIGTERM as the executor expects, and tells so.
    stream
        .write_all(b"trap 'echo told; exit 3' TERM\necho begun\nsleep 1000\necho step ended\nsleep 1000\n")
        .unwrap();
    let mut said = [0; 8 + 6];
    stream.read_exact(&mut said).unwrap();
    assert_eq!(&said[8..], b"begun\n");
    let body = json!({ "User": "", "Privileged": false, "Tty": false, "AttachStdin": false, "AttachStderr": true,
        "AttachStdout": true, "Detach": false, "DetachKeys": "", "Env": null, "WorkingDir": "",
        "Cmd": ["sh", "-c", TERMINATE] });
    let exec = runner.call("POST", &format!("/containers/{build}/exec"), &body, 201)["Id"].clone();
    let path = format!("/exec/{}/start", exec.as_str().unwrap());
    runner.call("POST", &path, &json!({ "Detach": false, "Tty": false }), 200);
    let mut said = [0; 8 + 11];
    stream.read_exact(&mut said).unwrap();
    // The step's process is gone, so that the shell goes on with the next, until it is told itself.
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(said.ends_with("Terminated\n") || said.ends_with("step ended\n"), "{said}");
    let mut waiting = UnixStream::connect(engine.socket()).unwrap();
    write!(waiting, "POST /v1.44/containers/{build}/wait?condition=not-running HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n").unwrap();
    runner.call("POST", &format!("/containers/{build}/stop?t=1&signal=SIGTERM"), &Value::Null, 204);
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("\"StatusCode\":"), "{answer}");
    stream.read_to_end(&mut Vec::new()).unwrap();

    // Another that takes no notice is killed, and whoever is attached is told of the end.
    let mut stream = runner.attach(&build);
    runner.call("POST", &format!("/containers/{build}/start"), &Value::Null, 204);
    stream.write_all(b"echo begun\nwhile true; do sleep 1000; done\n").unwrap();
    stream.read_exact(&mut [0; 8 + 6]).unwrap();
    runner.call("POST", &format!("/containers/{build}/kill?signal=SIGKILL"), &Value::Null, 204);
    stream.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(runner.wait(&build), 137);
    runner.call("POST", &format!("/containers/{build}/kill?signal=SIGKILL"), &Value::Null, 409);

    // A runner that dies in the middle leaves its container running; the next one removes it by its name.
    let stream = runner.attach(&build);
    runner.call("POST", &format!("/containers/{build}/start"), &Value::Null, 204);
    drop(stream);
    wait_for("the end of a shell whose input is closed", || {
        engine.http("GET", &format!("/containers/{build}/json"), b"").json()["State"]["Running"] == false
    });
    let calls = runner.clean_up();
    assert!(!fs::read_to_string(engine.path("engine.log")).unwrap().contains("panicked"));
    say(&format!("GitLab's docker executor, cancelled: {calls} calls"));
}
