//! Hosts on AWS: instances of EC2, with everything that they need there and nothing that outlives them.
//!
//! ```text
//! check ── what is not there or not allowed is said before anything is made
//! create ─ key pair ─ security group ─ instance (client token: the host's id) ─ address
//! admit ── rules of the security group, membership in those of clusters
//! remove ─ instance, its disks with it ─ spot request ─ key pair ─ security group
//! ```
//!
//! Everything carries the host's id as a tag from the moment when it exists. Credentials come from the AWS SDK's own
//! chain, at each run; none is stored. What AWS answers may be older than what was done: nothing is believed to be
//! absent because one answer does not have it, and nothing that was asked for is forgotten because of an answer that
//! leaves open what came of it.

mod api;
mod backoff;
mod caller;
mod capacity;
mod config;
mod console;
mod delete;
mod docker_machine;
mod driver;
mod error;
mod flags;
mod gc;
mod groups;
mod image;
mod ingress;
mod keys;
mod launch;
mod listing;
mod membership;
mod memo;
mod placement;
mod policy;
mod power;
mod record;
mod region;
mod regions;
mod removal;
mod request;
mod retries;
mod rules;
mod state;
mod tags;
mod user_data;
mod waiting;
mod watch;

pub use backoff::Pace;
pub use driver::Aws;
