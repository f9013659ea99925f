//! From a create request to a running container.

pub mod capabilities;
pub mod cgroup;
pub mod confine;
pub mod devices;
pub mod limits;
pub mod loopback;
pub mod overlay;
pub mod seccomp;
pub mod spec;
pub mod users;
