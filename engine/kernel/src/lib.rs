//! The Linux kernel as the engine uses it: cgroups, capabilities, seccomp, devices, overlayfs, namespaces, netlink, and files
//! that are opened without ever leaving a container. It knows the kernel's words, and nothing of containers' lives.

pub mod attributes;
pub mod capabilities;
pub mod cgroup;
pub mod confine;
pub mod devices;
pub mod etc;
pub mod fstab;
#[cfg(test)]
mod fuzz;
pub mod ids;
mod loopback;
pub mod mount;
pub mod namespace;
pub mod netlink;
pub mod overlay;
pub mod part;
pub mod pin;
pub mod process;
pub mod quota;
pub mod seccomp;
pub mod userns;
