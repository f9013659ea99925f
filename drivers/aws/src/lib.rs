//! Hosts on AWS: instances of EC2, with everything that they need there and nothing that outlives them.
//!
//! ```text
//! check ── what is not there or not allowed is said before anything is made
//! create ─ key pair ─ security group ─ instance (client token: the host's id) ─ address
//! remove ─ instance ─ spot request ─ volumes ─ key pair ─ security group
//! ```
//!
//! Everything carries the host's id as a tag from the moment when it exists. Credentials come from the AWS SDK's own
//! chain, at each run; none is stored.

mod adopted;
mod api;
mod caller;
mod capacity;
mod config;
mod console;
mod driver;
mod error;
mod flags;
mod gc;
mod groups;
mod image;
mod keys;
mod launch;
mod notices;
mod patience;
mod placement;
mod policy;
mod region;
mod removal;
mod rules;
mod state;
mod tags;
mod take_down;
mod user_data;
mod watch;

pub use driver::Aws;
