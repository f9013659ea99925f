//! What runs containers, as those see it who only want them run: the API, and whoever carries out the tasks of a swarm.

use std::fmt::Debug;
use std::io;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use crate::Failure;
use crate::life::Life;
use crate::wire::CreateRequest;

/// Runs containers. A container is named by its id, its name, or a beginning of the id that no other has.
#[async_trait]
pub trait Executor: Debug + Send + Sync {
    /// Makes a container that does not run yet.
    async fn prepare(&self, name: Option<String>, request: CreateRequest) -> Result<Prepared, Failure>;

    /// Gives it variables (`NAME=value`) of which no record is kept: its next start has them, and no other.
    async fn lend(&self, container: &str, variables: Vec<String>) -> Result<(), Failure>;

    /// Starts it; that it runs already is [`crate::Kind::NotModified`].
    async fn start(&self, container: &str) -> Result<(), Failure>;

    /// What happens to it from now on, and what has happened. It ends with the container.
    async fn wait(&self, container: &str) -> Result<watch::Receiver<Life>, Failure>;

    /// Asks it to end, with `signal` or the one that it was made with, and after `seconds` makes it; without them, after as
    /// many as it was made with, and after a negative number never. That it does not run is [`crate::Kind::NotModified`].
    async fn stop(&self, container: &str, seconds: Option<i64>, signal: Option<i32>) -> Result<(), Failure>;

    /// Removes it, with `force` even if it runs, and with `volumes` the anonymous ones as well.
    async fn remove(&self, container: &str, force: bool, volumes: bool) -> Result<(), Failure>;

    /// What it has written, and with `follow` what it writes.
    async fn logs(&self, container: &str, request: LogRequest) -> Result<Logs, Failure>;
}

/// A container that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    pub id: String,
    pub warnings: Vec<String>,
}

/// What a client wants to read.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a wish of its own")]
pub struct LogRequest {
    pub follow: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    pub timestamps: bool,
    /// What the lines say of the container.
    pub details: bool,
    /// The last so many lines; all when absent.
    pub tail: Option<usize>,
}

/// Pieces of a log, as the API sends them.
pub type LogStream = mpsc::Receiver<io::Result<Bytes>>;

/// A log that is being read.
#[derive(Debug)]
pub struct Logs {
    /// The output of a terminal goes as it is. Any other comes in frames with a header that names the stream.
    pub terminal: bool,
    pub stream: LogStream,
}
