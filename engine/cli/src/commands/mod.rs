//! The commands, one file for each family.

pub(crate) mod attach;
pub(crate) mod build;
pub(crate) mod cleaning;
pub(crate) mod context;
pub(crate) mod cp;
pub(crate) mod images;
pub(crate) mod inspect;
pub(crate) mod lifecycle;
pub(crate) mod login;
pub(crate) mod making;
pub(crate) mod network;
pub(crate) mod ps;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod run;
pub(crate) mod search;
pub(crate) mod stats;
pub(crate) mod swarm;
pub(crate) mod system;
pub(crate) mod version;
