//! `moby.buildkit.v1.frontend`: how a client that leads its build itself asks for parts of it.

use std::collections::BTreeMap;

use prost::{Message, Oneof};

use super::control::{CacheOptionsEntry, WorkerRecord};
use super::{Definition, RpcStatus};

/// `moby.buildkit.v1.frontend.PongResponse`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct PongResponse {
    #[prost(message, repeated, tag = "1")]
    pub(crate) frontend_capabilities: Vec<Capability>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) llb_capabilities: Vec<Capability>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) workers: Vec<WorkerRecord>,
}

/// `moby.buildkit.v1.apicaps.APICap`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Capability {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(bool, tag = "2")]
    pub(crate) enabled: bool,
}

/// `moby.buildkit.v1.frontend.SolveRequest`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SolveRequest {
    #[prost(message, optional, tag = "1")]
    pub(crate) definition: Option<Definition>,
    #[prost(string, tag = "2")]
    pub(crate) frontend: String,
    #[prost(btree_map = "string, string", tag = "3")]
    pub(crate) frontend_options: BTreeMap<String, String>,
    #[prost(message, repeated, tag = "12")]
    pub(crate) cache_imports: Vec<CacheOptionsEntry>,
    #[prost(btree_map = "string, message", tag = "13")]
    pub(crate) frontend_inputs: BTreeMap<String, Definition>,
    /// The answer is to wait for the result.
    #[prost(bool, tag = "14")]
    pub(crate) evaluate: bool,
    /// `moby.buildkit.v1.sourcepolicy.Policy`, of which nothing is understood.
    #[prost(bytes = "vec", repeated, tag = "15")]
    pub(crate) source_policies: Vec<Vec<u8>>,
}

/// `moby.buildkit.v1.frontend.SolveResponse`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SolveResponse {
    #[prost(message, optional, tag = "3")]
    pub(crate) result: Option<SolveResult>,
}

/// `moby.buildkit.v1.frontend.Result`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SolveResult {
    #[prost(oneof = "Found", tags = "1, 2, 3, 4")]
    pub(crate) found: Option<Found>,
}

/// What a result consists of.
#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Found {
    #[prost(string, tag = "1")]
    Old(String),
    #[prost(message, tag = "2")]
    OldMap(OldMap),
    #[prost(message, tag = "3")]
    One(Reference),
    #[prost(message, tag = "4")]
    Map(ReferenceMap),
}

/// `moby.buildkit.v1.frontend.RefMapDeprecated`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct OldMap {
    #[prost(btree_map = "string, string", tag = "1")]
    pub(crate) references: BTreeMap<String, String>,
}

/// `moby.buildkit.v1.frontend.Ref`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Reference {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
}

/// `moby.buildkit.v1.frontend.RefMap`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ReferenceMap {
    #[prost(btree_map = "string, message", tag = "1")]
    pub(crate) references: BTreeMap<String, Reference>,
}

/// `moby.buildkit.v1.frontend.ReturnRequest`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ReturnRequest {
    #[prost(message, optional, tag = "1")]
    pub(crate) result: Option<SolveResult>,
    #[prost(message, optional, tag = "2")]
    pub(crate) error: Option<RpcStatus>,
}
