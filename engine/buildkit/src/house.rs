//! What is needed of the rest of the engine besides its builder.

use std::fmt::Debug;
use std::net::IpAddr;

use engine_model::{Failure, ImageId};
use jiff::Timestamp;

/// Something that builds keep for the next one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    pub id: String,
    pub parent: Option<String>,
    /// As BuildKit says it: `regular`, `exec.cachemount`.
    pub kind: String,
    pub description: String,
    /// An image that is shown has it as well.
    pub is_shared: bool,
    /// In bytes.
    pub size: u64,
    pub created: Option<Timestamp>,
    pub last_used: Option<Timestamp>,
    pub uses: u64,
}

/// What of it is to go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruneWish {
    /// Also what an image that is shown is made of.
    pub all: bool,
    /// Only what was not used since.
    pub until: Option<Timestamp>,
    /// Ids, or beginnings of them; all if there are none.
    pub ids: Vec<String>,
    /// As many bytes may stay: what was used last.
    pub reserved: u64,
}

/// The engine, as the control service sees it. Calls block.
pub trait House: Debug + Send + Sync {
    /// Gives an image a name, and returns it whole.
    fn tag(&self, id: &ImageId, name: &str) -> Result<String, Failure>;

    /// What is kept.
    fn records(&self) -> Result<Vec<Record>, Failure>;

    /// Removes what is not wanted, and says what that was.
    fn prune(&self, wish: &PruneWish) -> Result<Vec<Record>, Failure>;

    /// How a container reaches the host.
    fn host_gateway(&self) -> Option<IpAddr>;
}
