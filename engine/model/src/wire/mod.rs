//! Bodies of the API: what clients send, in the shapes that they send it in.

mod any_case;
mod container;
mod health;
mod image;

pub use container::{
    BindOptions, Config, CreateRequest, DeviceMapping, DriverConfig, EndpointConfig, HostConfig,
    ImageOptions, IpamConfig, LogConfig, Mount, NetworkingConfig, PortBinding, RestartPolicy, ThrottleDevice,
    TmpfsOptions, Ulimit, VolumeOptions, WeightDevice,
};
pub use health::HealthConfig;
pub use image::{HistoryEntry, ImageConfig};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Go's programs write `null` for lists and maps that are not set.
pub fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads a part of a body, in which the case of fields does not count, and notes those that its type does not have: newer clients send more than an older engine
/// knows, which is no reason to refuse them, but one to say so.
pub fn noting_unknown<T: DeserializeOwned>(
    part: Value,
    prefix: &str,
    unknown: &mut Vec<String>,
) -> Result<T, serde_json::Error> {
    // Where the API has lists and options, paths have `?`, which says nothing to whoever wrote the field.
    let note = |path: serde_ignored::Path<'_>| {
        let path = path.to_string();
        let parts: Vec<&str> = path.split('.').filter(|part| *part != "?").collect();
        // A field that is null says nothing, whatever it is.
        let value = parts.iter().try_fold(&part, |value, part| match value {
            Value::Array(list) => list.get(part.parse::<usize>().ok()?),
            value => value.get(part),
        });
        if value != Some(&Value::Null) {
            unknown.push(format!("{prefix}{}", parts.join(".")));
        }
    };
    serde_ignored::deserialize(any_case::AnyCase(&part), note)
}

/// How a container was on a network when somebody asked: whoever puts one on a network may send this again.
const REPEATED: [&str; 9] = [
    "NetworkID",
    "EndpointID",
    "Gateway",
    "IPAddress",
    "IPPrefixLen",
    "IPv6Gateway",
    "GlobalIPv6Address",
    "GlobalIPv6PrefixLen",
    "DNSNames",
];

/// Whether a field is an answer of the API that clients send back with a wish for an endpoint.
pub fn is_repeated(field: &str) -> bool {
    let name = field.rsplit('.').next().unwrap_or_default();
    ["NetworkingConfig.", "EndpointConfig."].iter().any(|part| field.starts_with(part))
        && REPEATED.contains(&name)
}

/// What a client is told of fields that are not known here.
pub fn unknown_warning(field: &str) -> String {
    format!("This engine does not know the field `{field}` and has passed it over")
}
