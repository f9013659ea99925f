//! Registries for tests: Debian's docker-registry, and one of ours that does whatever it is told.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::{Engine, wait_for};

/// Debian's registry in an engine's namespaces.
pub(crate) struct Registry {
    child: Child,
}

impl Registry {
    /// Starts one that listens on `address` and keeps its data in the folder `name` of the test. `more` is added to its
    /// configuration.
    pub(crate) fn start(engine: &Engine, name: &str, address: &str, more: &Value) -> Self {
        let data = engine.path(format!("{name}-data"));
        fs::create_dir_all(&data).unwrap();
        let mut config = json!({
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": true}},
            "storage": {"filesystem": {"rootdirectory": data}, "delete": {"enabled": true}},
            "http": {"addr": address, "secret": "of this test"},
        });
        for (key, value) in more.as_object().unwrap() {
            if key == "http" {
                config["http"].as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
            } else {
                config[key] = value.clone();
            }
        }
        // JSON is YAML.
        let path = engine.path(format!("{name}.yml"));
        fs::write(&path, config.to_string()).unwrap();
        let log = fs::File::create(engine.path(format!("{name}.log"))).unwrap();
        let mut command = engine.enter("docker-registry");
        command.arg("serve").arg(&path).env("OTEL_TRACES_EXPORTER", "none");
        let child =
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let registry = Self { child };
        let port = address.rsplit(':').next().unwrap();
        let port = format!(":{:04X} ", port.parse::<u16>().unwrap());
        let listening = |engine: &Engine| {
            let all = engine.inside("cat", ["/proc/net/tcp", "/proc/net/tcp6"]).stdout;
            all.lines().any(|line| line.contains(&port) && line.contains(" 0A "))
        };
        wait_for("the registry", || listening(engine));
        registry
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a client asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// With the query.
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
}

/// What it is answered.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The connection ends after so many bytes of the body.
    pub(crate) cut: Option<usize>,
    /// The body goes on like this for ever, in place of its length.
    pub(crate) endless: bool,
    /// So long before each piece of 64 KiB.
    pub(crate) pace: Duration,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let (headers, cut) = (Vec::new(), None);
        Self { status, headers, body: body.into(), cut, endless: false, pace: Duration::ZERO }
    }

    pub(crate) fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub(crate) fn error(status: u16, code: &str, message: &str) -> Self {
        Self::new(status, json!({"errors": [{"code": code, "message": message}]}).to_string())
    }
}

type Answer = dyn Fn(&Asked) -> Reply + Send + Sync;

/// A registry that does what it is told.
pub(crate) struct Fake {
    pub(crate) asked: Arc<Mutex<Vec<Asked>>>,
}

impl Fake {
    /// Listens on this address of the engine's network namespace, for as long as the test runs.
    pub(crate) fn start(
        engine: &Engine,
        address: &str,
        answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = listen(engine, address);
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let answer: Arc<Answer> = Arc::new(answer);
        let seen = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, seen) = (Arc::clone(&answer), Arc::clone(&seen));
                std::thread::spawn(move || serve(stream, &answer, &seen));
            }
        });
        Self { asked }
    }

    /// How often something was asked whose path ends so.
    pub(crate) fn count(&self, method: &str, ending: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|one| one.method == method && one.path.ends_with(ending)).count()
    }
}

/// A socket of the engine's network namespace, in the hands of this process.
fn listen(engine: &Engine, address: &str) -> TcpListener {
    let namespace = fs::File::open(format!("/proc/{}/ns/net", engine.pid())).unwrap();
    let address = address.to_owned();
    // The namespace is the thread's, which ends with this.
    let made = std::thread::spawn(move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        TcpListener::bind(address).unwrap()
    });
    made.join().unwrap()
}

fn serve(mut stream: TcpStream, answer: &Arc<Answer>, seen: &Arc<Mutex<Vec<Asked>>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let Some(asked) = read(&mut reader) else { return };
        seen.lock().unwrap().push(asked.clone());
        let reply = answer(&asked);
        if write(&mut stream, &reply, asked.method == "HEAD").is_err() || reply.cut.is_some() {
            return;
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length: u64 = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    std::io::copy(&mut reader.take(length), &mut std::io::sink()).ok()?;
    Some(Asked { method, path, headers })
}

fn write(stream: &mut TcpStream, reply: &Reply, is_head: bool) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Such\r\n", reply.status);
    if reply.endless {
        head.push_str("Connection: close\r\n");
    } else {
        head.push_str(&format!("Content-Length: {}\r\n", reply.body.len()));
    }
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    if is_head {
        return Ok(());
    }
    let end = reply.cut.unwrap_or(reply.body.len());
    loop {
        for piece in reply.body[..end].chunks(64 << 10) {
            std::thread::sleep(reply.pace);
            stream.write_all(piece)?;
        }
        if !reply.endless {
            return Ok(());
        }
    }
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

/// An image for a fake registry: blobs by digest, and the manifest.
#[derive(Clone)]
pub(crate) struct Fixture {
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
    pub(crate) manifest: Vec<u8>,
    pub(crate) layers: Vec<String>,
    pub(crate) config: String,
}

impl Fixture {
    /// Of layers that are not packed.
    pub(crate) fn of(layers: &[Vec<u8>]) -> Self {
        let diff_ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = config.to_string().into_bytes();
        let mut blobs: BTreeMap<String, Vec<u8>> =
            layers.iter().map(|layer| (digest(layer), layer.clone())).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest(&config),
                "size": config.len(),
            },
            "layers": layers.iter().map(|layer| json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": digest(layer),
                "size": layer.len(),
            })).collect::<Vec<_>>(),
        });
        let config_digest = digest(&config);
        blobs.insert(config_digest.clone(), config);
        Self { blobs, manifest: manifest.to_string().into_bytes(), layers: diff_ids, config: config_digest }
    }

    /// What an honest registry answers.
    pub(crate) fn answer(&self, asked: &Asked) -> Reply {
        let path = asked.path.split('?').next().unwrap();
        if path == "/v2/" {
            return Reply::new(200, "{}");
        }
        if path.contains("/manifests/") {
            let by_digest = path.rsplit('/').next().unwrap();
            if by_digest.starts_with("sha256:") && by_digest != digest(&self.manifest) {
                return Reply::error(404, "MANIFEST_UNKNOWN", "manifest unknown");
            }
            return Reply::new(200, self.manifest.clone()).with("Content-Type", MANIFEST);
        }
        let Some(blob) = path.rsplit('/').next().and_then(|digest| self.blobs.get(digest)) else {
            return Reply::error(404, "BLOB_UNKNOWN", "blob unknown to registry");
        };
        let begin = asked.headers.get("range").and_then(|range| range.strip_prefix("bytes="));
        match begin.and_then(|range| range.trim_end_matches('-').parse::<usize>().ok()) {
            Some(begin) if begin < blob.len() => Reply::new(206, &blob[begin..])
                .with("Content-Range", format!("bytes {begin}-{}/{}", blob.len() - 1, blob.len())),
            Some(_) => Reply::error(416, "RANGE_INVALID", "invalid content range"),
            None => Reply::new(200, blob.clone()),
        }
    }
}

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
