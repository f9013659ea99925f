//! Registries for tests: Debian's docker-registry, and one of ours that does whatever it is told.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Stdio};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::{Engine, wait_for};
pub(crate) use crate::web::{Asked, Fake, Reply};

/// An answer as registries refuse.
pub(crate) fn denial(status: u16, code: &str, message: &str) -> Reply {
    Reply::new(status, json!({"errors": [{"code": code, "message": message}]}).to_string())
}

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
                return denial(404, "MANIFEST_UNKNOWN", "manifest unknown");
            }
            return Reply::new(200, self.manifest.clone()).with("Content-Type", MANIFEST);
        }
        let Some(blob) = path.rsplit('/').next().and_then(|digest| self.blobs.get(digest)) else {
            return denial(404, "BLOB_UNKNOWN", "blob unknown to registry");
        };
        let begin = asked.headers.get("range").and_then(|range| range.strip_prefix("bytes="));
        match begin.and_then(|range| range.trim_end_matches('-').parse::<usize>().ok()) {
            Some(begin) if begin < blob.len() => Reply::new(206, &blob[begin..])
                .with("Content-Range", format!("bytes {begin}-{}/{}", blob.len() - 1, blob.len())),
            Some(_) => denial(416, "RANGE_INVALID", "invalid content range"),
            None => Reply::new(200, blob.clone()),
        }
    }
}

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
