//! Hosts of docker-machine's `amazonec2` driver: their records have its own fields, which are read as ours.
//!
//! Its security groups are shared by all hosts and were never deleted; that stays so.

use std::collections::BTreeMap;

use machine_driver::{DriverError, Options};
use serde_json::Value;

use crate::{
    config::Config,
    flags,
    state::{Image, Made, Place, Plan},
};

fn text(old: &Value, field: &str) -> Option<String> {
    old.get(field).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
}

/// Whether a configuration is one of docker-machine's.
pub(crate) fn is_its(config: &Value) -> bool {
    config.get("InstanceId").is_some() && config.get("Region").is_some()
}

/// The configuration, as far as it matters for a host that exists.
pub(crate) fn config(old: &Value) -> Result<Config, DriverError> {
    let mut given: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let texts = [
        ("aws-region", "Region"),
        ("aws-instance-type", "InstanceType"),
        ("aws-ssh-user", "SSHUser"),
        ("aws-ssh-keypath", "SSHKeyPath"),
        ("aws-endpoint", "Endpoint"),
    ];
    for (flag, field) in texts {
        given.extend(text(old, field).map(|text| (flag.to_owned(), vec![text])));
    }
    for (flag, field) in
        [("aws-private-address-only", "PrivateIPOnly"), ("aws-use-private-address", "UsePrivateIP")]
    {
        if old.get(field).and_then(Value::as_bool) == Some(true) {
            given.insert(flag.to_owned(), vec!["true".to_owned()]);
        }
    }
    if let Some(port) = old.get("SSHPort").and_then(Value::as_u64).filter(|port| *port > 0) {
        given.insert("aws-ssh-port".to_owned(), vec![port.to_string()]);
    }
    let options = Options::resolve(&flags::all(), &given).map_err(|error| {
        DriverError::failed("Could not read the record of docker-machine").with_source(error)
    })?;
    Config::from_options(&options)
}

/// What docker-machine made.
pub(crate) fn made(old: &Value) -> Made {
    let word = |field: &str| text(old, field).unwrap_or_default();
    let region = word("Region");
    let zone = word("Zone");
    let zone = if zone.len() == 1 { format!("{region}{zone}") } else { zone };
    Made {
        plan: Some(Plan {
            image: Image {
                id: word("AMI"),
                name: String::new(),
                architecture: "x86_64".into(),
                user: word("SSHUser"),
                root_device: word("DeviceName"),
                root_size: 0,
                other_devices: Vec::new(),
            },
            vpc: word("VpcId"),
            places: vec![Place { subnet: word("SubnetId"), zone, addresses: String::new() }],
            region,
        }),
        // A key pair that was there before stays.
        key_pair: text(old, "KeyName")
            .filter(|_| old.get("ExistingKey").and_then(Value::as_bool) != Some(true)),
        instance: text(old, "InstanceId"),
        public_address: text(old, "IPAddress"),
        private_address: text(old, "PrivateIPAddress"),
        ..Made::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_of_docker_machine_names_its_instance() {
        let old = json!({
            "IPAddress": "203.0.113.9", "MachineName": "old", "SSHUser": "ubuntu", "SSHPort": 22,
            "SSHKeyPath": "/s/machines/old/id_rsa", "Region": "eu-west-1", "AMI": "ami-1", "KeyName": "old",
            "ExistingKey": false, "InstanceId": "i-0123", "InstanceType": "t2.micro", "Zone": "a",
            "SecretKey": "", "PrivateIPOnly": false,
        });
        assert!(is_its(&old));
        let config = config(&old).unwrap();
        assert_eq!(config.scope.region.as_deref(), Some("eu-west-1"));
        let made = made(&old);
        assert_eq!((made.instance.as_deref(), made.key_pair.as_deref()), (Some("i-0123"), Some("old")));
        assert_eq!(made.plan.unwrap().places[0].zone, "eu-west-1a");
    }
}
