//! The client of image registries: the OCI distribution specification 1.1, the tokens of Docker's registries, and nothing of a store.
//! Whatever else the engine fetches by HTTP goes the same way.

mod auth;
mod blob;
mod challenge;
mod client;
mod credentials;
mod endpoint;
mod error;
mod fetch;
#[cfg(test)]
mod fuzz;
mod hub;
mod manifest;
mod push;
mod resolve;
mod settings;
mod source;
mod trust;

pub use blob::Blob;
pub use client::plain as plain_client;
pub use credentials::Credentials;
pub use endpoint::Registries;
pub use error::RegistryError;
pub use fetch::{Fetched, Validators};
pub use hub::{Found, Login};
pub use manifest::{Document, MediaType};
pub use push::Mounted;
/// The body of an upload.
pub use reqwest::Body;
pub use resolve::look_up;
pub use settings::{Proxies, Settings};
pub use source::Source;
