//! What containers stand on, for tests that start none.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use engine_model::spec::NameSpec;
use engine_model::{
    Endpoint, EndpointRequest, Failure, Found, Image, ImageId, Kind, PortRequest, PublishedPort,
};
use serde_json::json;

use crate::{Images, Networks, Settings};

/// Has an image by any name.
#[derive(Debug, Default)]
pub(crate) struct OneImage {
    /// It is gone when one comes back to it.
    pub vanishes: bool,
}

impl Images for OneImage {
    fn find(&self, _: &str) -> Result<Image, Failure> {
        Ok(Image {
            id: ImageId::parse(&format!("sha256:{}", "0".repeat(64))).unwrap(),
            repo_tags: Vec::new(),
            repo_digests: Vec::new(),
            created: None,
            size: 0,
            architecture: String::new(),
            variant: String::new(),
            os: String::new(),
            author: String::new(),
            comment: String::new(),
            config: serde_json::from_value(json!({ "Cmd": ["sh"] })).unwrap(),
            diff_ids: Vec::new(),
            layer_sizes: Vec::new(),
            history: Vec::new(),
            last_tagged: None,
            added: None,
            recovered: false,
            parent: None,
        })
    }

    fn lower_dirs(&self, _: &ImageId) -> Result<Vec<PathBuf>, Failure> {
        if self.vanishes {
            Err(Failure::new(Kind::NotFound, "No such image: sha256:00"))
        } else {
            Ok(Vec::new())
        }
    }
}

/// No container gets as far as this.
#[derive(Debug)]
pub(crate) struct NoNetworks;

#[async_trait]
impl Networks for NoNetworks {
    async fn attach(&self, _: &str, _: &Path, _: &EndpointRequest) -> Result<Endpoint, Failure> {
        unreachable!("nothing is started")
    }

    async fn publish(&self, _: &str, _: &Endpoint, _: &[PortRequest]) -> Result<Vec<PublishedPort>, Failure> {
        unreachable!("nothing is started")
    }

    async fn release(&self, _: &str) -> Result<(), Failure> {
        Ok(())
    }

    async fn restore(&self, _: &[Found]) -> Result<(), Failure> {
        Ok(())
    }

    async fn rename(&self, _: &str, _: &str) -> Result<(), Failure> {
        Ok(())
    }

    fn host_gateways(&self) -> Vec<IpAddr> {
        Vec::new()
    }

    async fn places(&self, _: &str) -> Vec<(Endpoint, Vec<PublishedPort>)> {
        Vec::new()
    }
}

impl Settings {
    /// Those of an engine that has everything in one folder.
    pub(crate) fn of(folder: &Path) -> Self {
        Self {
            data_root: folder.join("data"),
            exec_root: folder.join("run"),
            cgroup_parent: None,
            default_ulimits: BTreeMap::new(),
            names: NameSpec::default(),
            mapping: None,
        }
    }
}
