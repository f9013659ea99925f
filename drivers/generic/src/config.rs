//! The options of `generic`, checked.

use machine_driver::{DriverError, HostView, Options};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What `create` was told about the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// An IP address or a DNS name.
    pub(crate) address: String,
    pub(crate) user: String,
    pub(crate) port: u16,
    pub(crate) engine_port: u16,
    /// As given: relative paths belong to the folder that `create` ran in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
}

impl Config {
    pub(crate) fn from_options(options: &Options) -> Result<Self, DriverError> {
        let address = options
            .text("generic-ip-address")
            .ok_or_else(|| DriverError::invalid("generic driver requires the --generic-ip-address option"))?;
        let user = options.text("generic-ssh-user").unwrap_or("root");
        let odd = |c: char| c.is_whitespace() || c.is_control() || "@:/\\'\"".contains(c);
        if user.starts_with('-') || user.contains(odd) {
            return Err(DriverError::invalid(format!("`{}` is no name of a user", user.escape_debug())));
        }
        Ok(Self {
            address: host_address(address)?,
            user: user.to_owned(),
            port: port(options, "generic-ssh-port")?,
            engine_port: port(options, "generic-engine-port")?,
            key: options.text("generic-ssh-key").map(str::to_owned),
        })
    }

    pub(crate) fn of(host: &HostView) -> Result<Self, DriverError> {
        serde_json::from_value(host.config.clone()).map_err(|error| {
            DriverError::failed("Could not read the driver's part of the record").with_source(error)
        })
    }

    pub(crate) fn to_value(&self) -> Result<Value, DriverError> {
        serde_json::to_value(self)
            .map_err(|error| DriverError::failed("Could not write the configuration").with_source(error))
    }
}

/// An IP address, with or without brackets, or a DNS name.
fn host_address(text: &str) -> Result<String, DriverError> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if bare.parse::<std::net::IpAddr>().is_ok() {
        return Ok(bare.to_owned());
    }
    let good = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    if text.len() <= 253 && text.strip_suffix('.').unwrap_or(text).split('.').all(good) {
        return Ok(text.to_owned());
    }
    Err(DriverError::invalid(format!("`{}` is neither an IP address nor a DNS name", text.escape_debug()))
        .with_hint(
            "The port and the user have options of their own: `--generic-ssh-port`, `--generic-ssh-user`",
        ))
}

fn port(options: &Options, name: &str) -> Result<u16, DriverError> {
    let number = options.integer(name).unwrap_or_default();
    u16::try_from(number).ok().filter(|port| *port != 0).ok_or_else(|| {
        DriverError::invalid(format!("`--{name}` takes a port from 1 to 65535, not `{number}`"))
    })
}
