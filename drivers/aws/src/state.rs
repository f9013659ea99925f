//! What is stored of a host while it exists: where it was planned, what was made, and where it is reached.

use std::collections::BTreeSet;

use machine_driver::{Network, Rule};
use serde::{Deserialize, Serialize};

/// Kinds in the journal.
pub(crate) const KEY_PAIR: &str = "key-pair";
pub(crate) const SECURITY_GROUP: &str = "security-group";
/// A group that belongs to several hosts; it goes with the last of them.
pub(crate) const SHARED_GROUP: &str = "shared-security-group";
pub(crate) const INSTANCE: &str = "instance";
pub(crate) const SPOT_REQUEST: &str = "spot-request";

/// The driver's state in the record. It holds no secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Made {
    /// What was found out before anything was made, so that a later run does not decide differently.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) plan: Option<Plan>,
    /// The name of the key pair that the instance was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key_pair: Option<String>,
    /// All security groups of the instance, by id.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) groups: Vec<String>,
    /// The groups that the instance was seen in last.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) joined: BTreeSet<String>,
    /// The host's own group among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) own_group: Option<String>,
    /// What the host's own group lets in because of us. What somebody opened by hand is not among it.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) rules: BTreeSet<Rule>,
    /// What was about to be let in as well, and may be by now.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) opening: BTreeSet<Rule>,
    /// What was let in because of us once and was taken back, the latest last: AWS may go on listing it for a while.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) closed: Vec<Rule>,
    /// What was last asked to be let in, besides what the options say. `None`: nobody was let in yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) admitted: Option<Vec<Rule>>,
    /// The record is an earlier version's, whose `create` let in what was wanted: nothing is new to it.
    #[serde(skip)]
    pub(crate) is_of_before: bool,
    /// In records of earlier versions: who was let in. [`crate::record`] reads it as `rules`; it is not written any more.
    #[serde(skip_serializing)]
    pub(crate) let_in: Vec<Network>,
    /// How the instance is asked for; changes when capacity is looked for elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) launch: Option<Launch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) instance: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) public_address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) private_address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ipv6_address: Option<String>,
}

/// What the options came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) region: String,
    pub(crate) image: Image,
    pub(crate) vpc: String,
    /// Where the instance may be, best first; never empty.
    pub(crate) places: Vec<Place>,
}

impl Plan {
    /// The same with a zone before all others, which stay in their order.
    pub(crate) fn beginning_in(mut self, zone: &str) -> Self {
        self.places.sort_by_key(|place| place.zone != zone);
        self
    }
}

/// A machine image, pinned: the same name may mean another one tomorrow.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Image {
    /// `ami-…`
    pub(crate) id: String,
    pub(crate) name: String,
    /// `x86_64` or `arm64`.
    pub(crate) architecture: String,
    /// Who logs in.
    pub(crate) user: String,
    /// The name of the root device, such as `/dev/xvda`.
    pub(crate) root_device: String,
    /// GiB that the root disk has at least.
    pub(crate) root_size: i32,
    /// The names of the other disks that come with the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) other_devices: Vec<String>,
}

/// A subnet and the zone that it is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) subnet: String,
    pub(crate) zone: String,
    /// The subnet's addresses, such as `172.31.0.0/20`.
    pub(crate) addresses: String,
}

/// One way of asking for the instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Launch {
    /// Counts the ways; part of the client token.
    pub(crate) attempt: u32,
    /// Index into [`Plan::places`].
    pub(crate) place: usize,
    pub(crate) spot: bool,
}

pub(crate) type Book<'a> = machine_driver::Book<'a, Made>;
