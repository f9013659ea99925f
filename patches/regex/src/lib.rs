//! The interface of the crate `regex`, by `regex-lite`.
//!
//! What runs containers (`libcontainer`) and its types (`oci-spec`) match half a dozen short patterns of ASCII, hardly ever. The
//! automata that `regex` builds for them are half a megabyte of the engine, which travels to every host.

pub use regex_lite::*;
