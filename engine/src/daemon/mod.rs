//! The daemon: start, serve, stop.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use crate::config::Config;
use crate::containers::Containers;
use crate::events::EventBus;
use crate::images::ImageStore;
use crate::network::Network;

/// What every request handler can reach. Cheap to clone.
#[derive(Clone, Debug)]
pub struct App {
    pub config: Arc<Config>,
    pub events: EventBus,
    pub images: ImageStore,
    pub network: Network,
    pub containers: Containers,
}

/// `engine daemon …`; the arguments begin with the program's name.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    todo!("{arguments:?}")
}
