//! The daemon's configuration: `daemon.json`, flags over it, defaults below.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

/// Everything the daemon was told, checked.
#[derive(Debug)]
pub struct Config {
    pub data_root: PathBuf,
    pub exec_root: PathBuf,
    /// Address and prefix of the default bridge, such as `172.17.0.1/16`.
    pub bip: Option<String>,
    pub mtu: Option<u32>,
    /// `nofile` and so on.
    pub default_ulimits: BTreeMap<String, Ulimit>,
    pub debug: bool,
    live: RwLock<Arc<Live>>,
}

/// A default resource limit for containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ulimit {
    pub name: String,
    pub soft: i64,
    pub hard: i64,
}

/// The part that SIGHUP reads again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Live {
    pub labels: Vec<String>,
    /// The log driver of containers that do not name one: `json-file` or `none`.
    pub log_driver: String,
    /// `max-size`, `max-file`.
    pub log_options: BTreeMap<String, String>,
    pub registry_mirrors: Vec<String>,
    pub insecure_registries: Vec<String>,
}

impl Config {
    /// The reloadable part as it is now.
    pub fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live.read().unwrap_or_else(PoisonError::into_inner))
    }
}
