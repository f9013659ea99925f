//! `moby.buildkit.v1` and `moby.buildkit.v1.types`: what the control service takes and gives.

use std::collections::BTreeMap;

use prost::Message;

use super::{Definition, Platform, Timestamp};

/// `moby.buildkit.v1.SolveRequest`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SolveRequest {
    #[prost(string, tag = "1")]
    pub(crate) reference: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) definition: Option<Definition>,
    /// Of clients before 0.13; the first of `exporters` in those since.
    #[prost(string, tag = "3")]
    pub(crate) exporter: String,
    #[prost(btree_map = "string, string", tag = "4")]
    pub(crate) exporter_attributes: BTreeMap<String, String>,
    #[prost(string, tag = "5")]
    pub(crate) session: String,
    #[prost(string, tag = "6")]
    pub(crate) frontend: String,
    #[prost(btree_map = "string, string", tag = "7")]
    pub(crate) frontend_attributes: BTreeMap<String, String>,
    #[prost(message, optional, tag = "8")]
    pub(crate) cache: Option<CacheOptions>,
    #[prost(string, repeated, tag = "9")]
    pub(crate) entitlements: Vec<String>,
    #[prost(btree_map = "string, message", tag = "10")]
    pub(crate) frontend_inputs: BTreeMap<String, Definition>,
    /// A policy on sources; only whether there is one matters.
    #[prost(bytes = "vec", optional, tag = "12")]
    pub(crate) source_policy: Option<Vec<u8>>,
    #[prost(message, repeated, tag = "13")]
    pub(crate) exporters: Vec<Exporter>,
}

/// `moby.buildkit.v1.Exporter`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Exporter {
    #[prost(string, tag = "1")]
    pub(crate) kind: String,
    #[prost(btree_map = "string, string", tag = "2")]
    pub(crate) attributes: BTreeMap<String, String>,
}

/// `moby.buildkit.v1.CacheOptions`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct CacheOptions {
    #[prost(message, repeated, tag = "4")]
    pub(crate) exports: Vec<CacheOptionsEntry>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) imports: Vec<CacheOptionsEntry>,
}

/// `moby.buildkit.v1.CacheOptionsEntry`, and the one of the same fields in `moby.buildkit.v1.frontend`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct CacheOptionsEntry {
    #[prost(string, tag = "1")]
    pub(crate) kind: String,
    #[prost(btree_map = "string, string", tag = "2")]
    pub(crate) attributes: BTreeMap<String, String>,
}

/// `moby.buildkit.v1.SolveResponse`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SolveResponse {
    #[prost(btree_map = "string, string", tag = "1")]
    pub(crate) exporter_response: BTreeMap<String, String>,
}

/// `moby.buildkit.v1.StatusRequest`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct StatusRequest {
    #[prost(string, tag = "1")]
    pub(crate) reference: String,
}

/// `moby.buildkit.v1.StatusResponse`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct StatusResponse {
    #[prost(message, repeated, tag = "1")]
    pub(crate) vertexes: Vec<Vertex>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) statuses: Vec<VertexStatus>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) logs: Vec<VertexLog>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) warnings: Vec<VertexWarning>,
}

/// `moby.buildkit.v1.Vertex`: a step as it is shown.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Vertex {
    #[prost(string, tag = "1")]
    pub(crate) digest: String,
    #[prost(string, repeated, tag = "2")]
    pub(crate) inputs: Vec<String>,
    #[prost(string, tag = "3")]
    pub(crate) name: String,
    #[prost(bool, tag = "4")]
    pub(crate) cached: bool,
    #[prost(message, optional, tag = "5")]
    pub(crate) started: Option<Timestamp>,
    #[prost(message, optional, tag = "6")]
    pub(crate) completed: Option<Timestamp>,
    #[prost(string, tag = "7")]
    pub(crate) error: String,
}

/// `moby.buildkit.v1.VertexStatus`: how far a part of a step has come.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct VertexStatus {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(string, tag = "2")]
    pub(crate) vertex: String,
    #[prost(string, tag = "3")]
    pub(crate) name: String,
    #[prost(int64, tag = "4")]
    pub(crate) current: i64,
    #[prost(int64, tag = "5")]
    pub(crate) total: i64,
    #[prost(message, optional, tag = "6")]
    pub(crate) timestamp: Option<Timestamp>,
    #[prost(message, optional, tag = "7")]
    pub(crate) started: Option<Timestamp>,
    #[prost(message, optional, tag = "8")]
    pub(crate) completed: Option<Timestamp>,
}

/// `moby.buildkit.v1.VertexLog`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct VertexLog {
    #[prost(string, tag = "1")]
    pub(crate) vertex: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) timestamp: Option<Timestamp>,
    /// 1 for a command's output, 2 for its errors.
    #[prost(int64, tag = "3")]
    pub(crate) stream: i64,
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) message: Vec<u8>,
}

/// `moby.buildkit.v1.VertexWarning`, without what it points at.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct VertexWarning {
    #[prost(string, tag = "1")]
    pub(crate) vertex: String,
    #[prost(int64, tag = "2")]
    pub(crate) level: i64,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) short: Vec<u8>,
}

/// `moby.buildkit.v1.ListWorkersResponse`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ListWorkersResponse {
    #[prost(message, repeated, tag = "1")]
    pub(crate) record: Vec<WorkerRecord>,
}

/// `moby.buildkit.v1.types.WorkerRecord`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct WorkerRecord {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(btree_map = "string, string", tag = "2")]
    pub(crate) labels: BTreeMap<String, String>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) platforms: Vec<Platform>,
    #[prost(message, optional, tag = "5")]
    pub(crate) version: Option<BuildkitVersion>,
}

/// `moby.buildkit.v1.types.BuildkitVersion`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct BuildkitVersion {
    #[prost(string, tag = "1")]
    pub(crate) package: String,
    #[prost(string, tag = "2")]
    pub(crate) version: String,
    #[prost(string, tag = "3")]
    pub(crate) revision: String,
}

/// `moby.buildkit.v1.InfoResponse`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct InfoResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) version: Option<BuildkitVersion>,
}

/// `moby.buildkit.v1.DiskUsageRequest`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct DiskUsageRequest {
    #[prost(string, repeated, tag = "1")]
    pub(crate) filter: Vec<String>,
}

/// `moby.buildkit.v1.DiskUsageResponse`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct DiskUsageResponse {
    #[prost(message, repeated, tag = "1")]
    pub(crate) record: Vec<UsageRecord>,
}

/// `moby.buildkit.v1.UsageRecord`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct UsageRecord {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(bool, tag = "2")]
    pub(crate) mutable: bool,
    #[prost(bool, tag = "3")]
    pub(crate) in_use: bool,
    #[prost(int64, tag = "4")]
    pub(crate) size: i64,
    #[prost(message, optional, tag = "6")]
    pub(crate) created_at: Option<Timestamp>,
    #[prost(message, optional, tag = "7")]
    pub(crate) last_used_at: Option<Timestamp>,
    #[prost(int64, tag = "8")]
    pub(crate) usage_count: i64,
    #[prost(string, tag = "9")]
    pub(crate) description: String,
    #[prost(string, tag = "10")]
    pub(crate) record_type: String,
    #[prost(bool, tag = "11")]
    pub(crate) shared: bool,
    #[prost(string, repeated, tag = "12")]
    pub(crate) parents: Vec<String>,
}

/// `moby.buildkit.v1.PruneRequest`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct PruneRequest {
    #[prost(string, repeated, tag = "1")]
    pub(crate) filter: Vec<String>,
    #[prost(bool, tag = "2")]
    pub(crate) all: bool,
    /// In nanoseconds.
    #[prost(int64, tag = "3")]
    pub(crate) keep_duration: i64,
    #[prost(int64, tag = "4")]
    pub(crate) keep_bytes: i64,
    /// Of newer clients.
    #[prost(int64, tag = "5")]
    pub(crate) max_used_space: i64,
    #[prost(int64, tag = "6")]
    pub(crate) min_free_space: i64,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct HealthCheckResponse {
    /// 1 is `SERVING`.
    #[prost(int32, tag = "1")]
    pub(crate) status: i32,
}
