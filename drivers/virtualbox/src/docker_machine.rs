//! Hosts of docker-machine's own driver: their VMs are found, started, stopped and removed; what they are like stays.
//!
//! Such a VM is called as the host is, lies in the host's folder as ours do, is logged in to by a rule on 127.0.0.1, and
//! has its engine on a host-only adapter, whose address is the recorded one.

use std::net::{Ipv4Addr, TcpListener};

use machine_driver::{DriverError, Endpoint, HostView, SshEndpoint, SshKey};
use serde::Deserialize;
use serde_json::Value;

/// What docker-machine recorded, as far as it matters for a host that exists.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Old {
    machine_name: String,
    #[serde(default, rename = "IPAddress")]
    address: String,
    #[serde(default, rename = "SSHUser")]
    user: String,
    #[serde(default, rename = "SSHPort")]
    ssh_port: u16,
    #[serde(default, rename = "SSHKeyPath")]
    key: String,
    #[serde(default, rename = "UIType")]
    ui_type: String,
}

/// Whether a configuration is one of docker-machine's.
pub(crate) fn is_its(config: &Value) -> bool {
    config.get("VBoxManager").is_some() && config.get("HostOnlyCIDR").is_some()
}

/// What docker-machine recorded of a host; `None`: the host is ours.
pub(crate) fn of(host: &HostView) -> Result<Option<Old>, DriverError> {
    if !is_its(&host.config) {
        return Ok(None);
    }
    let failed = || DriverError::failed(format!("Could not read docker-machine's record of `{}`", host.name));
    let old: Old =
        serde_json::from_value(host.config.clone()).map_err(|error| failed().with_source(error))?;
    let is_name = old.machine_name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && old.machine_name.chars().all(|c| c.is_ascii_alphanumeric() || "-.".contains(c));
    if is_name { Ok(Some(old)) } else { Err(failed().with_source("Its VM has no name")) }
}

/// What VirtualBox calls the VM of a host: docker-machine's name for it, or the host's id.
pub(crate) fn vm_of(host: &HostView) -> String {
    match of(host) {
        Ok(Some(old)) => old.machine_name,
        _ => host.id.to_string(),
    }
}

impl Old {
    pub(crate) fn ui_type(&self) -> &str {
        if self.ui_type.is_empty() { "headless" } else { &self.ui_type }
    }

    pub(crate) fn endpoint(&self, host: &HostView) -> Result<Endpoint, DriverError> {
        if self.address.is_empty() || self.ssh_port == 0 {
            return Err(DriverError::not_ready(format!("`{}` has no address yet", host.name)));
        }
        // A store works where it lies, also after it was moved.
        let here = host.folder.join("id_rsa");
        let key = if here.exists() { here } else { self.key.clone().into() };
        Ok(Endpoint {
            address: self.address.clone(),
            engine_port: 2376,
            url: None,
            ssh: Some(SshEndpoint {
                host: Ipv4Addr::LOCALHOST.to_string(),
                port: self.ssh_port,
                user: if self.user.is_empty() { "docker".to_owned() } else { self.user.clone() },
                key: SshKey::File(key),
            }),
            inside: None,
        })
    }

    /// Refuses to start a VM whose port for SSH somebody else has: VirtualBox would start it without.
    pub(crate) fn look(&self) -> Result<(), DriverError> {
        TcpListener::bind((Ipv4Addr::LOCALHOST, self.ssh_port)).map(drop).map_err(|error| {
            DriverError::refused(format!("Port {} is taken on 127.0.0.1", self.ssh_port))
                .with_source(error)
                .with_hint("End the program that listens there: the VM is logged in to on that port")
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use machine_driver::HostId;
    use serde_json::json;

    use super::*;

    fn host(name: &str) -> HostView {
        HostView {
            name: "old".parse().unwrap(),
            id: HostId::random(),
            owner: String::new(),
            folder: "/s/machines/old".into(),
            cache: "/s/cache".into(),
            config: json!({
                "VBoxManager": {}, "HostInterfaces": {}, "IPAddress": "192.168.99.100", "MachineName": name,
                "SSHUser": "docker", "SSHPort": 49307, "SSHKeyPath": "/s/machines/old/id_rsa", "StorePath": "/s",
                "CPU": 1, "Memory": 1024, "DiskSize": 20000, "HostOnlyCIDR": "192.168.99.1/24", "UIType": "headless",
            }),
            place: None,
            login: None,
            host_key: None,
        }
    }

    #[test]
    fn a_record_of_docker_machine_names_its_vm_and_where_it_is_reached() {
        let host = host("old");
        let endpoint = of(&host).unwrap().unwrap().endpoint(&host).unwrap();
        assert_eq!(endpoint.url(), "tcp://192.168.99.100:2376");
        let ssh = endpoint.ssh.unwrap();
        assert_eq!((ssh.host.as_str(), ssh.port, ssh.user.as_str()), ("127.0.0.1", 49307, "docker"));
        assert_eq!(vm_of(&host), "old");
        let ours = HostView { config: json!({"image": "machineos"}), ..host };
        assert_eq!((of(&ours).unwrap(), vm_of(&ours)), (None, ours.id.to_string()));
    }

    #[test]
    fn a_name_that_is_an_option_is_none() {
        for name in ["", "--all", "a b", "../x"] {
            assert!(of(&host(name)).is_err(), "{name}");
        }
    }
}
