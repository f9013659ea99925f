//! Changing limits and the restart policy of a container.

use std::path::Path;
use std::sync::Arc;

use engine_kernel::cgroup::{self, weights};
use engine_model::life::Change;
use engine_model::wire::{RestartPolicy, noting_unknown, unknown_warning};
use libcontainer::oci_spec::runtime::LinuxResources;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::unsupported::says_something;
use super::{Container, ContainerError, Containers};
use crate::oci::SpecError;
use crate::{limits, understand};

/// What can be wished of a new container only.
const OF_A_NEW_ONE: [&str; 21] = [
    "BlkioDeviceReadBps",
    "BlkioDeviceReadIOps",
    "BlkioDeviceWriteBps",
    "BlkioDeviceWriteIOps",
    "BlkioWeightDevice",
    "CgroupParent",
    "CpuCount",
    "CpuPercent",
    "CpuRealtimePeriod",
    "CpuRealtimeRuntime",
    "DeviceCgroupRules",
    "DeviceRequests",
    "Devices",
    "IOMaximumBandwidth",
    "IOMaximumIOps",
    "Init",
    "KernelMemory",
    "KernelMemoryTCP",
    "MemorySwappiness",
    "OomKillDisable",
    "Ulimits",
];

/// The body of `POST /containers/{id}/update`; zero and absent mean unchanged.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct UpdateRequest {
    pub cpu_shares: Option<i64>,
    pub memory: Option<i64>,
    pub memory_swap: Option<i64>,
    pub memory_reservation: Option<i64>,
    pub nano_cpus: Option<i64>,
    pub cpu_period: Option<i64>,
    pub cpu_quota: Option<i64>,
    pub cpuset_cpus: Option<String>,
    pub cpuset_mems: Option<String>,
    pub pids_limit: Option<i64>,
    pub blkio_weight: Option<u16>,
    pub restart_policy: Option<RestartPolicy>,
    /// Fields that this engine does not know.
    #[serde(skip)]
    pub unknown: Vec<String>,
}

impl UpdateRequest {
    /// Reads a body; refuses what cannot be changed, by name.
    pub fn read(body: &[u8]) -> Result<Self, ContainerError> {
        let invalid = |error: serde_json::Error| ContainerError::Invalid(format!("invalid JSON: {error}"));
        let mut fields: Map<String, Value> = serde_json::from_slice(body).map_err(invalid)?;
        for field in OF_A_NEW_ONE {
            let wish = fields.remove(field).unwrap_or_default();
            if says_something(&wish) && wish != -1 {
                return Err(ContainerError::Unsupported(format!("A change of `{field}`")));
            }
        }
        let mut unknown = Vec::new();
        let request: Self = noting_unknown(Value::Object(fields), "", &mut unknown).map_err(invalid)?;
        Ok(Self { unknown, ..request })
    }
}

impl Containers {
    pub async fn update(
        &self,
        container: &Arc<Container>,
        request: UpdateRequest,
    ) -> Result<Vec<String>, ContainerError> {
        let mut warnings: Vec<String> = request.unknown.iter().map(|field| unknown_warning(field)).collect();
        let _operation = container.operation.lock().await;
        let mut host = container.identity().host.clone();
        let numbers = [
            (request.cpu_shares, &mut host.cpu_shares),
            (request.memory, &mut host.memory),
            (request.memory_swap, &mut host.memory_swap),
            (request.memory_reservation, &mut host.memory_reservation),
            (request.nano_cpus, &mut host.nano_cpus),
            (request.cpu_period, &mut host.cpu_period),
            (request.cpu_quota, &mut host.cpu_quota),
        ];
        for (wanted, field) in numbers {
            if let Some(wanted) = wanted.filter(|&wanted| wanted != 0) {
                *field = wanted;
            }
        }
        for (wanted, field) in
            [(request.cpuset_cpus, &mut host.cpuset_cpus), (request.cpuset_mems, &mut host.cpuset_mems)]
        {
            if let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) {
                *field = wanted;
            }
        }
        if request.pids_limit.is_some_and(|limit| limit != 0) {
            host.pids_limit = request.pids_limit;
        }
        if let Some(weight) = request.blkio_weight.filter(|&weight| weight != 0) {
            host.blkio_weight = weight;
        }
        if let Some(policy) = request.restart_policy.filter(|policy| !policy.name.is_empty()) {
            if host.auto_remove && policy.name != "no" {
                let message =
                    "Restart policy cannot be updated because AutoRemove is enabled for the container";
                return Err(ContainerError::Conflict(message.to_owned()));
            }
            host.restart_policy = policy;
        }
        let identity = container.identity();
        super::sensible::check(&identity.config, &host)?;
        if !weights::are_supported() {
            super::create::discard_weights(&mut host, &mut warnings);
        }
        let spec =
            understand::request(&identity.config, &host, &identity.networks, identity.left_first_network)?;
        if container.status().is_alive() {
            let value = limits::resources(&spec.limits, cgroup::is_unified()).map_err(SpecError::from)?;
            let resources: LinuxResources =
                serde_json::from_value(value).map_err(|error| ContainerError::Invalid(error.to_string()))?;
            let target = Arc::clone(container);
            let shares = limits::weights(&spec.limits).map_err(SpecError::from)?;
            let work = move |cgroup: &Path| {
                cgroup::update(cgroup, &resources)?;
                weights::apply(cgroup, &shares)
            };
            match tokio::task::spawn_blocking(move || target.in_cgroup(work)).await? {
                // The next run has the new limits all the same.
                Ok(()) | Err(ContainerError::Ended(_)) => {}
                Err(error) => return Err(error),
            }
        }
        container.change_identity(|identity| identity.host = host)?;
        container.tell(&self.0.events, &Change::Updated);
        Ok(warnings)
    }
}
