//! What the parts of the engine say to one another: identifiers, descriptions of images, networks and containers,
//! events, failures, and the bodies of the API. It does nothing by itself and knows no part of the engine.

pub mod event;
pub mod executor;
mod failure;
pub mod id;
mod image;
pub mod life;
mod network;
mod pattern;
pub mod platform;
mod size;
pub mod spec;
pub mod task;
pub mod transfer;
pub mod wire;

pub use failure::{Failure, Kind, chain};
pub use image::{
    Changes, Image, ImageId, ImageUser, KeptStep, LoadEvent, Loaded, NewImage, NewStep, Removed,
};
pub use network::{
    AddressPool, Endpoint, EndpointRequest, Found, Ipv6Place, Naming, NetworkConfig, PortRequest, Protocol,
    PublishedPort, UnknownProtocol,
};
pub use pattern::Patterns;
pub use size::size;
