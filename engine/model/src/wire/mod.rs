//! Bodies of the API: what clients send, in the shapes that they send it in.

mod container;
mod image;

pub use container::{
    BindOptions, Config, CreateRequest, DeviceMapping, EndpointConfig, HostConfig, IpamConfig, LogConfig,
    Mount, NetworkingConfig, PortBinding, RestartPolicy, TmpfsOptions, Ulimit, VolumeOptions,
};
pub use image::{HistoryEntry, ImageConfig};

use serde::{Deserialize, Deserializer};

/// Go's programs write `null` for lists and maps that are not set.
pub fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}
