//! Which servers a registry's name means, and how far each is trusted.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use ipnet::IpNet;
use reqwest::{Client, Url};

use super::client::{Endpoint, build};
use super::credentials::{Credentials, DEFAULT};
use super::error::RegistryError;
use super::resolve::look_up;
use super::settings::{Proxies, Settings};
use super::source::Source;

const DEFAULT_SERVER: &str = "https://registry-1.docker.io";
/// Every change of the settings, and so many registries, begin the list of clients anew.
const MOST_CLIENTS: usize = 64;

/// All registries, as the administrator wants them to be used. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Registries {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: RwLock<Arc<Settings>>,
    /// By `host[:port]`, and whether certificates are checked.
    clients: Mutex<HashMap<(String, bool), Client>>,
}

impl Registries {
    /// With settings that have been [checked](Settings::check).
    pub fn new(settings: Settings) -> Self {
        let inner = Inner { settings: RwLock::new(Arc::new(settings)), clients: Mutex::default() };
        Self { inner: Arc::new(inner) }
    }

    /// Uses other settings from now on.
    pub fn set(&self, settings: Settings) {
        *self.inner.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
        self.inner.clients.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// By way of whom HTTP goes out.
    pub fn proxies(&self) -> Proxies {
        self.settings().proxies.clone()
    }

    pub(crate) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.inner.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where a repository is pulled from, best first: the mirrors of the default registry, which never see who the caller
    /// is, then the registry itself.
    pub async fn pull_from(
        &self,
        domain: &str,
        path: &str,
        credentials: &Credentials,
    ) -> Result<Vec<Source>, RegistryError> {
        let mut sources = Vec::new();
        if domain == DEFAULT {
            for mirror in &self.settings().mirrors {
                let endpoints = vec![self.endpoint(mirror).await?];
                sources.push(self.source(endpoints, path, &Credentials::default()));
            }
        }
        sources.push(self.push_to(domain, path, credentials).await?);
        Ok(sources)
    }

    /// The registry itself.
    pub async fn push_to(
        &self,
        domain: &str,
        path: &str,
        credentials: &Credentials,
    ) -> Result<Source, RegistryError> {
        Ok(self.source(self.servers(domain).await?, path, credentials))
    }

    fn source(&self, endpoints: Vec<Endpoint>, path: &str, credentials: &Credentials) -> Source {
        Source::new(endpoints, path, credentials.clone(), &self.settings())
    }

    /// The servers that may speak for a registry, the better protected one first.
    pub(crate) async fn servers(&self, domain: &str) -> Result<Vec<Endpoint>, RegistryError> {
        if domain == DEFAULT {
            return Ok(vec![self.trusted(DEFAULT_SERVER)?]);
        }
        let mut found = vec![self.endpoint(&format!("https://{domain}")).await?];
        if self.is_insecure(&found[0].base).await {
            found.push(self.endpoint(&format!("http://{domain}")).await?);
        }
        Ok(found)
    }

    pub(crate) async fn endpoint(&self, base: &str) -> Result<Endpoint, RegistryError> {
        let base = base_of(base)?;
        let secure = !self.is_insecure(&base).await;
        let client = self.client(&name_of(&base), secure)?;
        Ok(Endpoint { base, client })
    }

    /// A server of the default registry, which is never taken for an insecure one.
    pub(crate) fn trusted(&self, base: &str) -> Result<Endpoint, RegistryError> {
        let base = base_of(base)?;
        let client = self.client(&name_of(&base), true)?;
        Ok(Endpoint { base, client })
    }

    pub(crate) fn client(&self, name: &str, secure: bool) -> Result<Client, RegistryError> {
        let key = (name.to_owned(), secure);
        let known = self.inner.clients.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(client) = known {
            return Ok(client);
        }
        let client = build(&self.settings(), name, secure)?;
        let mut clients = self.inner.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= MOST_CLIENTS {
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }

    /// Loopback addresses are, as with dockerd, and what the settings name; networks count for the addresses of names too.
    async fn is_insecure(&self, base: &Url) -> bool {
        let settings = self.settings();
        let name = name_of(base);
        let host =
            base.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host == "localhost" || settings.insecure.iter().any(|entry| *entry == name || *entry == host) {
            return true;
        }
        let networks: Vec<IpNet> = settings.insecure.iter().filter_map(|entry| entry.parse().ok()).collect();
        let is_inside = |address: &IpAddr| {
            address.is_loopback() || networks.iter().any(|network| network.contains(address))
        };
        match host.parse::<IpAddr>() {
            Ok(address) => is_inside(&address),
            // Without a network to compare with there is no need to ask for addresses.
            Err(_) if networks.is_empty() => false,
            Err(_) => look_up(&host).await.is_ok_and(|addresses| addresses.iter().any(is_inside)),
        }
    }
}

fn base_of(text: &str) -> Result<Url, RegistryError> {
    let mut base = Url::parse(text).map_err(|error| RegistryError::answer("The address", text, error))?;
    if !base.path().ends_with('/') {
        base.set_path(&format!("{}/", base.path()));
    }
    Ok(base)
}

/// `host[:port]`, as names of images have it.
pub(crate) fn name_of(base: &Url) -> String {
    let host = base.host_str().unwrap_or_default();
    base.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn servers(settings: Settings, domain: &str) -> Vec<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let registries = Registries::new(settings);
        let found = runtime.block_on(registries.servers(domain)).unwrap();
        found.iter().map(|endpoint| endpoint.base.to_string()).collect()
    }

    #[test]
    fn plain_http_is_for_loopback_and_for_what_is_named() {
        let named = |entry: &str| Settings { insecure: vec![entry.to_owned()], ..Settings::default() };
        let (both, one) = (2, 1);
        for (settings, domain, count) in [
            (Settings::default(), "localhost:5000", both),
            (Settings::default(), "127.0.0.9:5000", both),
            (Settings::default(), "[::1]:5000", both),
            (Settings::default(), "10.1.2.3:5000", one),
            (Settings::default(), "registry.invalid", one),
            (named("10.0.0.0/8"), "10.1.2.3:5000", both),
            (named("10.0.0.0/8"), "11.1.2.3:5000", one),
            (named("registry.invalid:5000"), "registry.invalid:5000", both),
            (named("registry.invalid:5000"), "registry.invalid:5001", one),
            (named("registry.invalid"), "registry.invalid:5001", both),
        ] {
            let found = servers(settings, domain);
            assert_eq!(found.len(), count, "{domain}");
            assert_eq!(found[0], format!("https://{domain}/"));
        }
        assert_eq!(servers(named("docker.io"), "docker.io").len(), 1);
    }
}
