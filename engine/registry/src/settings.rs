//! What the administrator says of registries.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::error::RegistryError;

/// Which registries there are, and how far they are trusted. In the words of dockerd's `daemon.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Base URLs that are asked before the default registry, in order.
    pub mirrors: Vec<String>,
    /// `host[:port]` or networks in CIDR notation whose certificates are not checked, and that may speak plain HTTP.
    pub insecure: Vec<String>,
    pub proxies: Proxies,
    /// Folders with a folder `host[:port]` for each registry: `*.crt` are authorities, `*.cert` and `*.key` the client's own.
    pub certificates: Vec<PathBuf>,
    /// How often something is tried that fails in a way that may pass.
    pub attempts: u32,
    /// Before the second attempt; it doubles from there.
    pub first_pause: Duration,
}

/// By way of whom HTTP goes out. Loopback addresses are always reached directly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    pub http: Option<String>,
    pub https: Option<String>,
    /// Hosts, domains and networks that are reached directly, with commas between.
    pub none: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mirrors: Vec::new(),
            insecure: Vec::new(),
            proxies: Proxies::default(),
            certificates: vec!["/etc/engine/certs.d".into(), "/etc/docker/certs.d".into()],
            attempts: 5,
            first_pause: Duration::from_secs(1),
        }
    }
}

impl Proxies {
    /// What the environment says, in capitals or not, as curl and Go's programs read it.
    pub fn of_environment() -> Self {
        let read = |name: &str| {
            let value = std::env::var(name).or_else(|_| std::env::var(name.to_ascii_lowercase())).ok();
            value.filter(|value| !value.is_empty())
        };
        Self {
            http: read("HTTP_PROXY"),
            https: read("HTTPS_PROXY"),
            none: read("NO_PROXY").unwrap_or_default(),
        }
    }

    /// These, with another's for what they do not say.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            http: self.http.or(other.http),
            https: self.https.or(other.https),
            none: if self.none.is_empty() { other.none } else { self.none },
        }
    }
}

impl Settings {
    /// Refuses what could not be used, by its name.
    pub fn check(&self) -> Result<(), RegistryError> {
        for mirror in &self.mirrors {
            let url = reqwest::Url::parse(mirror).ok();
            let usable = url.filter(|url| {
                matches!(url.scheme(), "http" | "https")
                    && url.host().is_some()
                    && url.query().is_none()
                    && url.fragment().is_none()
                    && url.username().is_empty()
                    && url.password().is_none()
            });
            if usable.is_none() {
                let reason =
                    "it is no URL such as `https://mirror.example.com`, without user, query and fragment";
                return Err(RegistryError::Setting {
                    key: "registry-mirrors",
                    value: mirror.clone(),
                    reason,
                });
            }
        }
        for registry in &self.insecure {
            let is_host = !registry.is_empty() && !registry.contains("://") && !registry.contains('/');
            if !is_host && registry.parse::<IpNet>().is_err() {
                let reason = "it is neither `host[:port]` nor a network such as `10.0.0.0/8`";
                return Err(RegistryError::Setting {
                    key: "insecure-registries",
                    value: registry.clone(),
                    reason,
                });
            }
        }
        for (key, proxy) in [("http-proxy", &self.proxies.http), ("https-proxy", &self.proxies.https)] {
            if let Some(value) = proxy.as_ref().filter(|proxy| reqwest::Proxy::all(proxy.as_str()).is_err()) {
                let reason = "it is no URL of a proxy";
                return Err(RegistryError::Setting { key, value: value.clone(), reason });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_refused_by_name() {
        let mirrors = |text: &str| Settings { mirrors: vec![text.to_owned()], ..Settings::default() };
        let insecure = |text: &str| Settings { insecure: vec![text.to_owned()], ..Settings::default() };
        for good in
            [mirrors("http://127.0.0.1:5000"), mirrors("https://m.example.com/prefix/"), insecure("a:5")]
        {
            assert!(good.check().is_ok(), "{good:?}");
        }
        assert!(insecure("10.0.0.0/8").check().is_ok());
        for bad in [
            mirrors("m.example.com"),
            mirrors("https://m.example.com/?x=1"),
            mirrors("https://user:word@m.example.com"),
            insecure("http://a"),
            insecure("10.0.0.0/33"),
            insecure(""),
        ] {
            assert!(matches!(bad.check(), Err(RegistryError::Setting { .. })), "{bad:?}");
        }
    }
}
