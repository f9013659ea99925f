//! What the client of a build is asked for over its session: files, credentials, secrets, its SSH agent.

use std::collections::BTreeMap;

use prost::Message;

/// `fsutil.types.Packet`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Packet {
    /// One of `packet`.
    #[prost(int32, tag = "1")]
    pub(crate) kind: i32,
    #[prost(message, optional, tag = "2")]
    pub(crate) stat: Option<Stat>,
    #[prost(uint32, tag = "3")]
    pub(crate) id: u32,
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) data: Vec<u8>,
}

/// The values of `fsutil.types.Packet.PacketType`.
pub(crate) mod packet {
    /// A file, or, with none, the end of the list.
    pub(crate) const STAT: i32 = 0;
    /// The receiver wants a file's content.
    pub(crate) const REQUEST: i32 = 1;
    /// A part of the content, or, when it is empty, the end of it.
    pub(crate) const DATA: i32 = 2;
    pub(crate) const FINISHED: i32 = 3;
    pub(crate) const ERROR: i32 = 4;
}

/// `fsutil.types.Stat`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Stat {
    /// Bytes, though the protocol calls it a string: names of files are not always UTF-8, and Go's programs do not mind.
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) path: Vec<u8>,
    /// As Go's `fs.FileMode`.
    #[prost(uint32, tag = "2")]
    pub(crate) mode: u32,
    #[prost(uint32, tag = "3")]
    pub(crate) uid: u32,
    #[prost(uint32, tag = "4")]
    pub(crate) gid: u32,
    #[prost(int64, tag = "5")]
    pub(crate) size: i64,
    /// In nanoseconds since 1970.
    #[prost(int64, tag = "6")]
    pub(crate) modified: i64,
    #[prost(bytes = "vec", tag = "7")]
    pub(crate) link: Vec<u8>,
    #[prost(int64, tag = "8")]
    pub(crate) device_major: i64,
    #[prost(int64, tag = "9")]
    pub(crate) device_minor: i64,
    #[prost(btree_map = "string, bytes", tag = "10")]
    pub(crate) attributes: BTreeMap<String, Vec<u8>>,
}

/// `moby.filesync.v1.CredentialsRequest`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct CredentialsRequest {
    #[prost(string, tag = "1")]
    pub(crate) host: String,
}

/// `moby.filesync.v1.CredentialsResponse`. `Debug` shows no secret.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(crate) struct CredentialsResponse {
    #[prost(string, tag = "1")]
    pub(crate) username: String,
    #[prost(string, tag = "2")]
    pub(crate) secret: String,
}

impl std::fmt::Debug for CredentialsResponse {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("CredentialsResponse")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// `moby.buildkit.secrets.v1.GetSecretRequest`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct GetSecretRequest {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
}

/// `moby.buildkit.secrets.v1.GetSecretResponse`. `Debug` shows no secret.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(crate) struct GetSecretResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) data: Vec<u8>,
}

impl std::fmt::Debug for GetSecretResponse {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("GetSecretResponse").finish_non_exhaustive()
    }
}

/// `moby.sshforward.v1.CheckAgentRequest`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct CheckAgentRequest {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
}

/// Bytes of a stream: `BytesMessage` of `moby.filesync.v1`, `moby.sshforward.v1` and `moby.upload.v1`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct BytesMessage {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) data: Vec<u8>,
}
