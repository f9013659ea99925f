//! What a log driver is, and what it is told.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use engine_shim::log::LONGEST_LINE;
use engine_shim::protocol::LogConfig;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::lines::Entry;

/// Everything that the process is told before output comes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// Its name, as in [`crate::DRIVERS`].
    pub driver: String,
    /// Checked before; see [`crate::options::check`].
    pub options: BTreeMap<String, String>,
    /// The file of the drivers `json-file` and `local`.
    pub file: Option<LogConfig>,
    pub container: ContainerInfo,
}

/// What is said of the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerInfo {
    pub id: String,
    /// Without a slash.
    pub name: String,
    pub image_id: String,
    pub image_name: String,
    pub command: String,
    pub created: Timestamp,
    /// What the option `tag` makes.
    pub tag: String,
    /// Labels and variables that the options name.
    pub extra: BTreeMap<String, String>,
}

impl ContainerInfo {
    pub(crate) fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }
}

/// Why a driver could not be begun, or a line not be sent.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct DriverError(String);

impl DriverError {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// Where lines go.
#[async_trait]
pub(crate) trait Driver: Send {
    /// Takes a line. If it cannot be sent, that is said, and the line is lost.
    async fn send(&mut self, entry: Entry) -> Result<(), DriverError>;

    /// Bytes of the longest line that it takes in one piece.
    fn longest_line(&self) -> usize {
        LONGEST_LINE
    }

    /// When [`Self::flush`] is due for what was taken so far.
    fn due(&self) -> Option<Instant> {
        None
    }

    /// Sends what was only gathered.
    async fn flush(&mut self) -> Result<(), DriverError> {
        Ok(())
    }

    /// Nothing more comes.
    async fn finish(&mut self) -> Result<(), DriverError> {
        self.flush().await
    }
}

/// How long a connection to a log server may take.
pub(crate) const CONNECTING: Duration = Duration::from_secs(10);

/// How often it is said at once that something cannot be sent, and how often after that: where it is said is memory.
const MOST_COMPLAINTS: u32 = 10;
const BETWEEN_COMPLAINTS: Duration = Duration::from_secs(60);

/// What is heard of it is on its standard error, which the daemon reads now and then.
pub(crate) fn complain(error: &DriverError) {
    static COMPLAINTS: Mutex<(u32, Option<Instant>)> = Mutex::new((0, None));
    let mut made = COMPLAINTS.lock().unwrap_or_else(PoisonError::into_inner);
    let is_early = made.1.is_some_and(|last| last.elapsed() < BETWEEN_COMPLAINTS);
    if made.0 >= MOST_COMPLAINTS && is_early {
        return;
    }
    *made = (made.0 + 1, Some(Instant::now()));
    let _ = writeln!(io::stderr(), "Failed to log a message: {error}");
}

pub(crate) fn option<'a>(options: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
    options.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

/// As Go reads it.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// Of an option that was checked before.
pub(crate) fn is_on(options: &BTreeMap<String, String>, name: &str, otherwise: bool) -> bool {
    option(options, name).and_then(boolean).unwrap_or(otherwise)
}

/// The host's own name.
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
