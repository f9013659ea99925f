//! What the user asked of the engine, and the configuration files that come of it.
//!
//! Options are given the way that dockerd takes them as flags (`log-opt=max-size=5m`, `dns=10.0.0.1`) or the way that
//! `daemon.json` calls them (`log-opts`, `labels`); both end under the key of `daemon.json`.

mod error;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::desired::Flavor;
use super::render::render;

pub use error::SettingsError;

/// Longer ones are a mistake, or an attack on the host's disk.
const VALUE_AT_MOST: usize = 16 * 1024;

/// What the user asked of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineSettings {
    /// Another engine: the URL of its installer. `None` is the engine that travels inside this program.
    pub install_url: Option<String>,
    /// The SHA-256 digest of that installer, in hexadecimal; another one is not run.
    pub install_sha256: Option<String>,
    /// `--engine-opt`, in order; a key may come several times.
    pub options: Vec<(String, String)>,
    /// `key=value`.
    pub labels: Vec<String>,
    /// The daemon's environment.
    pub env: Vec<(String, String)>,
    pub insecure_registries: Vec<String>,
    pub registry_mirrors: Vec<String>,
    pub storage_driver: Option<String>,
    /// Where the engine listens for clients with a certificate.
    pub port: u16,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            install_url: None,
            install_sha256: None,
            options: Vec::new(),
            labels: Vec::new(),
            env: Vec::new(),
            insecure_registries: Vec::new(),
            registry_mirrors: Vec::new(),
            storage_driver: None,
            port: 2376,
        }
    }
}

/// How the values of one key come together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Integer,
    Boolean,
    List,
    /// `NAME=VALUE`, each an entry of an object.
    Pairs,
    /// `NAME=SOFT:HARD`
    Limits,
    /// `base=ADDRESS,size=BITS`
    Pools,
    /// Not known here: the engine will judge.
    Unknown,
}

/// dockerd's flags whose key in `daemon.json` is another.
const FLAGS: [(&str, &str); 13] = [
    ("H", "hosts"),
    ("host", "hosts"),
    ("label", "labels"),
    ("insecure-registry", "insecure-registries"),
    ("registry-mirror", "registry-mirrors"),
    ("log-opt", "log-opts"),
    ("storage-opt", "storage-opts"),
    ("default-ulimit", "default-ulimits"),
    ("default-address-pool", "default-address-pools"),
    ("exec-opt", "exec-opts"),
    ("dns-opt", "dns-opts"),
    ("authorization-plugin", "authorization-plugins"),
    ("node-generic-resource", "node-generic-resources"),
];

fn kind(key: &str) -> Kind {
    match key {
        "hosts"
        | "labels"
        | "insecure-registries"
        | "registry-mirrors"
        | "storage-opts"
        | "exec-opts"
        | "dns"
        | "dns-opts"
        | "dns-search"
        | "authorization-plugins"
        | "node-generic-resources" => Kind::List,
        "log-opts" => Kind::Pairs,
        "default-ulimits" => Kind::Limits,
        "default-address-pools" => Kind::Pools,
        "mtu"
        | "max-concurrent-downloads"
        | "max-concurrent-uploads"
        | "max-download-attempts"
        | "shutdown-timeout"
        | "network-control-plane-mtu" => Kind::Integer,
        "debug" | "live-restore" | "experimental" | "icc" | "ip-forward" | "ip-masq" | "iptables"
        | "ip6tables" | "ipv6" | "userland-proxy" | "selinux-enabled" | "no-new-privileges" | "raw-logs" => {
            Kind::Boolean
        }
        "bip" | "data-root" | "exec-root" | "pidfile" | "group" | "log-level" | "log-driver"
        | "storage-driver" | "bridge" | "default-runtime" | "default-shm-size" | "fixed-cidr"
        | "cgroup-parent" | "containerd" => Kind::Text,
        _ => Kind::Unknown,
    }
}

impl EngineSettings {
    /// Which engine this is about.
    pub(super) fn flavor(&self) -> Flavor {
        if self.install_url.is_some() { Flavor::Dockerd } else { Flavor::Bundled }
    }

    /// Refuses everything that can be refused without looking at the host, the installer included.
    pub fn check_all(&self) -> Result<(), SettingsError> {
        self.check()?;
        self.check_installer()?;
        match self.flavor() {
            Flavor::Bundled => self.engine_configuration(None).map(drop),
            Flavor::Dockerd => self.dockerd_configuration(None).map(drop),
        }
    }

    /// Refuses an installer that anybody on the way could replace. Where nothing is to be installed it does not matter.
    pub(super) fn check_installer(&self) -> Result<(), SettingsError> {
        match (&self.install_url, &self.install_sha256) {
            (Some(url), None) if !url.starts_with("https://") => {
                Err(SettingsError::InstallUnprotected { url: url.clone() })
            }
            (None, Some(_)) => Err(SettingsError::DigestOfNothing),
            _ => Ok(()),
        }
    }

    /// Refuses what could not be written to the files exactly as it is.
    pub(super) fn check(&self) -> Result<(), SettingsError> {
        if let Some(digest) = &self.install_sha256
            && !(digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()))
        {
            return Err(SettingsError::InstallDigest { digest: digest.clone() });
        }
        if let Some(url) = &self.install_url {
            let address = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
            let sound = |rest: &str| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_graphic());
            if !address.is_some_and(sound) {
                return Err(SettingsError::InstallUrl { url: url.clone() });
            }
        }
        for (name, value) in &self.env {
            let named = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
                && name.bytes().next().is_some_and(|byte| !byte.is_ascii_digit());
            if !named {
                return Err(SettingsError::VariableName { name: name.clone() });
            }
            printable(name, value, "\t\n")?;
        }
        let lists = [
            ("labels", &self.labels),
            ("insecure-registries", &self.insecure_registries),
            ("registry-mirrors", &self.registry_mirrors),
        ];
        for (key, values) in lists {
            values.iter().try_for_each(|value| printable(key, value, "\t"))?;
        }
        if let Some(value) = &self.storage_driver {
            printable("storage-driver", value, "")?;
        }
        for (key, value) in &self.options {
            let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            if key.is_empty() || key.len() > 128 || !key.bytes().all(sound) {
                return Err(SettingsError::OptionName { key: key.clone() });
            }
            if canonical(key).starts_with("tls") {
                return Err(SettingsError::Managed { key: key.clone() });
            }
            printable(key, value, "\t")?;
        }
        Ok(())
    }

    /// `/etc/engine/daemon.json` of the bundled engine, whose containers lie below this control group unless the user has
    /// named another.
    pub(super) fn engine_configuration(&self, cgroup_parent: Option<&str>) -> Result<String, SettingsError> {
        #[derive(Serialize)]
        struct Values<'a> {
            tcp_host: String,
            cgroup_parent: Option<&'a str>,
            storage_driver: &'a str,
            labels: &'a [String],
            insecure_registries: &'a [String],
            registry_mirrors: &'a [String],
        }
        let values = Values {
            tcp_host: format!("tcp://0.0.0.0:{}", self.port),
            cgroup_parent,
            storage_driver: self.storage_driver.as_deref().unwrap_or("overlay2"),
            labels: &self.labels,
            insecure_registries: &self.insecure_registries,
            registry_mirrors: &self.registry_mirrors,
        };
        let mut configuration = object("engine/daemon.json", &values)?;
        merge(&mut configuration, &self.options)?;
        text(&configuration)
    }

    /// `/etc/docker/daemon.json` of dockerd: the defaults, under what is already there, under what the user asked for.
    /// Addresses and certificates are on its command line, and dockerd refuses what comes twice.
    pub(super) fn dockerd_configuration(&self, existing: Option<&[u8]>) -> Result<String, SettingsError> {
        let mut configuration = object("docker/daemon.json", &json!({}))?;
        if let Some(existing) = existing.filter(|bytes| !bytes.trim_ascii().is_empty()) {
            let existing: Value = serde_json::from_slice(existing)
                .map_err(|source| SettingsError::Existing { source: Some(source) })?;
            let Value::Object(existing) = existing else {
                return Err(SettingsError::Existing { source: None });
            };
            // The options of one log driver are not those of another.
            if existing.contains_key("log-driver") || existing.contains_key("log-opts") {
                configuration.remove("log-driver");
                configuration.remove("log-opts");
            }
            configuration.extend(existing);
        }
        configuration.retain(|key, _| key != "hosts" && !key.starts_with("tls"));
        let lists = [
            ("labels", &self.labels),
            ("insecure-registries", &self.insecure_registries),
            ("registry-mirrors", &self.registry_mirrors),
        ];
        for (key, values) in lists {
            if !values.is_empty() {
                configuration.insert(key.to_owned(), json!(values));
            }
        }
        if let Some(driver) = &self.storage_driver {
            configuration.insert("storage-driver".to_owned(), json!(driver));
        }
        if self.options.iter().any(|(key, _)| canonical(key) == "hosts") {
            return Err(SettingsError::Managed { key: "hosts".to_owned() });
        }
        // Run again, the lists that options make must not grow.
        for (key, _) in &self.options {
            let key = canonical(key);
            let grows = matches!(kind(key), Kind::List | Kind::Pools | Kind::Unknown);
            if grows
                && !lists.iter().any(|(other, _)| *other == key)
                && !configuration.get(key).is_some_and(Value::is_object)
            {
                configuration.remove(key);
            }
        }
        merge(&mut configuration, &self.options)?;
        // The same settings make the same text, wherever their keys stood before.
        configuration.sort_keys();
        text(&configuration)
    }
}

fn printable(name: &str, value: &str, allowed: &str) -> Result<(), SettingsError> {
    let harmless = |character: char| !character.is_control() || allowed.contains(character);
    if value.len() <= VALUE_AT_MOST && value.chars().all(harmless) {
        Ok(())
    } else {
        Err(SettingsError::Unprintable { name: name.to_owned() })
    }
}

fn canonical(key: &str) -> &str {
    let key = key.trim_start_matches('-');
    FLAGS.iter().find(|(flag, _)| *flag == key).map_or(key, |(_, canonical)| canonical)
}

fn object(template: &'static str, values: &impl Serialize) -> Result<Map<String, Value>, SettingsError> {
    let rendered = render(template, values)?;
    match serde_json::from_str(&rendered) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(SettingsError::Rendered { template, source: None }),
        Err(source) => Err(SettingsError::Rendered { template, source: Some(source) }),
    }
}

fn text(configuration: &Map<String, Value>) -> Result<String, SettingsError> {
    let mut text = serde_json::to_string_pretty(configuration)
        .map_err(|source| SettingsError::Rendered { template: "daemon.json", source: Some(source) })?;
    text.push('\n');
    Ok(text)
}

/// Puts the user's options over a configuration. A list that is already there is added to.
fn merge(configuration: &mut Map<String, Value>, options: &[(String, String)]) -> Result<(), SettingsError> {
    for (key, value) in options {
        let key = canonical(key);
        // `prune.schedule=12h` is a key of the object `prune`.
        if let Some((head, tail)) = key.split_once('.')
            && let Some(Value::Object(inner)) = configuration.get_mut(head)
        {
            inner.insert(tail.to_owned(), guess(value));
            continue;
        }
        let wrong = |expected| SettingsError::Value { key: key.to_owned(), value: value.clone(), expected };
        match kind(key) {
            Kind::Text => {
                configuration.insert(key.to_owned(), json!(value));
            }
            Kind::Integer => {
                let number: i64 = value.trim().parse().map_err(|_| wrong("a whole number"))?;
                configuration.insert(key.to_owned(), json!(number));
            }
            Kind::Boolean => {
                let switch = switch(value).ok_or_else(|| wrong("`true` or `false`"))?;
                configuration.insert(key.to_owned(), json!(switch));
            }
            Kind::List => append(configuration, key, json!(value)),
            Kind::Pairs => {
                let (name, value) = pair(key, value)?;
                inner(configuration, key).insert(name.to_owned(), json!(value));
            }
            Kind::Limits => {
                let (name, limit) = pair(key, value)?;
                let (soft, hard) = limit.split_once(':').unwrap_or((limit, limit));
                let number = |text: &str| text.parse::<i64>().map_err(|_| wrong("`NAME=SOFT:HARD`"));
                let limit = json!({ "Name": name, "Soft": number(soft)?, "Hard": number(hard)? });
                inner(configuration, key).insert(name.to_owned(), limit);
            }
            Kind::Pools => {
                append(configuration, key, pool(value).ok_or_else(|| wrong("`base=ADDRESS,size=BITS`"))?);
            }
            Kind::Unknown => match configuration.get_mut(key) {
                // `prune=false`
                Some(Value::Object(inner)) if inner.contains_key("enabled") && switch(value).is_some() => {
                    inner.insert("enabled".to_owned(), json!(switch(value)));
                }
                Some(_) => append(configuration, key, guess(value)),
                None => {
                    configuration.insert(key.to_owned(), guess(value));
                }
            },
        }
    }
    Ok(())
}

fn pair<'a>(key: &str, value: &'a str) -> Result<(&'a str, &'a str), SettingsError> {
    value
        .split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| SettingsError::NoPair { key: key.to_owned(), value: value.to_owned() })
}

fn inner<'a>(configuration: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let entry = configuration.entry(key).or_insert_with(|| json!({}));
    if !entry.is_object() {
        *entry = json!({});
    }
    match entry {
        Value::Object(inner) => inner,
        _ => unreachable!("it was just made an object"),
    }
}

fn append(configuration: &mut Map<String, Value>, key: &str, value: Value) {
    match configuration.get_mut(key) {
        Some(Value::Array(list)) => {
            if !list.contains(&value) {
                list.push(value);
            }
        }
        Some(single) => {
            let first = single.take();
            *single = json!([first, value]);
        }
        None => {
            let list = if kind(key) == Kind::Unknown { value } else { json!([value]) };
            configuration.insert(key.to_owned(), list);
        }
    }
}

fn pool(value: &str) -> Option<Value> {
    let (mut base, mut size) = (None, None);
    for part in value.split(',') {
        match part.split_once('=')? {
            ("base", address) => base = Some(address),
            ("size", bits) => size = Some(bits.parse::<u8>().ok()?),
            _ => return None,
        }
    }
    Some(json!({ "base": base?, "size": size? }))
}

/// A flag without a value is switched on.
fn switch(value: &str) -> Option<bool> {
    match value.trim().to_ascii_lowercase().as_str() {
        "" | "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

fn guess(value: &str) -> Value {
    match value {
        "" | "true" => json!(true),
        "false" => json!(false),
        _ => json!(value),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn with(options: &[(&str, &str)]) -> EngineSettings {
        EngineSettings {
            options: options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            labels: vec!["provider=qemu".to_owned()],
            ..EngineSettings::default()
        }
    }

    fn engine(options: &[(&str, &str)]) -> Value {
        let settings = with(options);
        settings.check().unwrap();
        serde_json::from_str(&settings.engine_configuration(None).unwrap()).unwrap()
    }

    #[test]
    fn defaults_rotate_logs_and_prune() {
        insta::assert_snapshot!(with(&[]).engine_configuration(None).unwrap());
        insta::assert_snapshot!(with(&[]).dockerd_configuration(None).unwrap());
    }

    #[test]
    fn options_are_merged_under_their_keys() {
        let configuration = engine(&[
            ("log-opt", "max-size=5m"),
            ("log-opts", "tag={{.Name}}"),
            ("label", "a=b"),
            ("labels", "provider=qemu"),
            ("host", "tcp://127.0.0.1:2375"),
            ("mtu", "1400"),
            ("debug", ""),
            ("--bip", "10.1.0.1/16"),
            ("default-ulimit", "nofile=1024:2048"),
            ("default-ulimit", "core=0"),
            ("default-address-pool", "base=10.10.0.0/16,size=24"),
            ("prune.schedule", "12h"),
            ("prune", "false"),
            ("unheard-of", "x"),
            ("unheard-of", "y"),
            ("storage-driver", "btrfs"),
        ]);
        assert_eq!(configuration["log-opts"], json!({"max-size": "5m", "max-file": "3", "tag": "{{.Name}}"}));
        assert_eq!(configuration["labels"], json!(["provider=qemu", "a=b"]));
        assert_eq!(
            configuration["hosts"],
            json!(["unix:///var/run/docker.sock", "tcp://0.0.0.0:2376", "tcp://127.0.0.1:2375"])
        );
        assert_eq!(configuration["mtu"], json!(1400));
        assert_eq!(configuration["debug"], json!(true));
        assert_eq!(configuration["bip"], json!("10.1.0.1/16"));
        assert_eq!(
            configuration["default-ulimits"],
            json!({"nofile": {"Name": "nofile", "Soft": 1024, "Hard": 2048}, "core": {"Name": "core", "Soft": 0, "Hard": 0}})
        );
        assert_eq!(configuration["default-address-pools"], json!([{"base": "10.10.0.0/16", "size": 24}]));
        assert_eq!(configuration["prune"]["schedule"], json!("12h"));
        assert_eq!(configuration["prune"]["enabled"], json!(false));
        assert_eq!(configuration["unheard-of"], json!(["x", "y"]));
        assert_eq!(configuration["storage-driver"], json!("btrfs"));
    }

    #[test]
    fn values_cannot_leave_their_place() {
        let nasty = "x\", \"debug\": true, \"y\": \"$(id) `id` \\";
        let configuration = engine(&[("label", nasty), ("dns", nasty), ("log-opt", &format!("tag={nasty}"))]);
        assert_eq!(configuration["labels"][1], json!(nasty));
        assert_eq!(configuration["dns"], json!([nasty]));
        assert_eq!(configuration["log-opts"]["tag"], json!(nasty));
        assert_eq!(configuration.get("debug"), None);
        let settings = EngineSettings { registry_mirrors: vec![nasty.to_owned()], ..with(&[]) };
        let configuration: Value =
            serde_json::from_str(&settings.engine_configuration(None).unwrap()).unwrap();
        assert_eq!(configuration["registry-mirrors"], json!([nasty]));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refused = |options: &[(&str, &str)]| {
            let settings = with(options);
            settings.check().and_then(|()| settings.engine_configuration(None)).unwrap_err().to_string()
        };
        assert_eq!(refused(&[("tlscert", "/x")]), "The engine option `tlscert` is set by `machine` itself");
        assert_eq!(
            refused(&[("log-opt", "max-size")]),
            "The engine option `log-opts` takes `NAME=VALUE`, not `max-size`"
        );
        assert_eq!(refused(&[("mtu", "big")]), "The engine option `mtu` takes a whole number, not `big`");
        assert!(refused(&[("a b", "c")]).contains("no name of an engine option"));
        assert!(refused(&[("dns", "a\nb")]).contains("control characters"));
        for (name, value) in [("A-B", "x"), ("", "x"), ("1A", "x"), ("A", "\u{1}"), ("A", "\r")] {
            let settings = EngineSettings { env: vec![(name.to_owned(), value.to_owned())], ..with(&[]) };
            assert!(settings.check().is_err(), "{name}={value:?}");
        }
        let installer = |url: &str, digest: Option<&str>| {
            let settings = EngineSettings {
                install_url: Some(url.to_owned()),
                install_sha256: digest.map(str::to_owned),
                ..with(&[])
            };
            settings.check_all().map_err(|error| (error.to_string(), error.hint().unwrap()))
        };
        let (digest, url) = ("aB".repeat(32), "http://mirror.example/install.sh");
        let (error, hint) = installer(url, None).unwrap_err();
        assert!(error.contains(url) && error.contains("as root"), "{error}");
        assert!(hint.contains("--engine-install-sha256"), "{hint}");
        installer(url, Some(&digest)).unwrap();
        installer("https://get.docker.com", None).unwrap();
        for wrong in ["", "ab", &digest[1..], &format!("{}g", &digest[1..])] {
            assert!(installer(url, Some(wrong)).is_err(), "{wrong}");
        }
        let nothing = EngineSettings { install_sha256: Some(digest), ..with(&[]) };
        assert!(matches!(nothing.check_all(), Err(SettingsError::DigestOfNothing)));
        for url in ["get.docker.com", "file:///etc/passwd", "https://", "https://a b", "-o/x"] {
            let settings = EngineSettings { install_url: Some(url.to_owned()), ..with(&[]) };
            assert!(settings.check().is_err(), "{url}");
        }
    }

    #[test]
    fn the_configuration_of_an_existing_dockerd_is_kept() {
        let settings = with(&[("dns", "10.0.0.1"), ("live-restore", "true")]);
        let existing = br#"{"hosts": ["fd://"], "tls": true, "data-root": "/srv", "log-driver": "journald", "dns": ["1.1.1.1"]}"#;
        let once = settings.dockerd_configuration(Some(existing)).unwrap();
        let value: Value = serde_json::from_str(&once).unwrap();
        assert_eq!(
            value,
            json!({"log-driver": "journald", "data-root": "/srv", "dns": ["10.0.0.1"], "labels": ["provider=qemu"], "live-restore": true})
        );
        let twice = settings.dockerd_configuration(Some(once.as_bytes())).unwrap();
        assert_eq!(once, twice);
        assert!(settings.dockerd_configuration(Some(b"[]")).is_err());
        assert!(settings.dockerd_configuration(Some(b"{")).is_err());
        assert!(settings.dockerd_configuration(Some(b" \n")).is_ok());
    }
}
