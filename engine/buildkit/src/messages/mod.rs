//! The messages of BuildKit's protocol that are needed here, each with where it is from.

pub(crate) mod control;
pub(crate) mod gateway;
pub(crate) mod session;

use prost::Message;

/// `google.protobuf.Timestamp`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Timestamp {
    #[prost(int64, tag = "1")]
    pub(crate) seconds: i64,
    #[prost(int32, tag = "2")]
    pub(crate) nanos: i32,
}

impl Timestamp {
    pub(crate) fn now() -> Self {
        jiff::Timestamp::now().into()
    }
}

impl From<jiff::Timestamp> for Timestamp {
    fn from(time: jiff::Timestamp) -> Self {
        let (mut seconds, mut nanos) = (time.as_second(), time.subsec_nanosecond());
        // Before 1970 both are negative there, and here the fraction never is.
        if nanos < 0 {
            seconds -= 1;
            nanos += 1_000_000_000;
        }
        Self { seconds, nanos }
    }
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Any {
    #[prost(string, tag = "1")]
    pub(crate) type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) value: Vec<u8>,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RpcStatus {
    #[prost(int32, tag = "1")]
    pub(crate) code: i32,
    #[prost(string, tag = "2")]
    pub(crate) message: String,
    #[prost(message, repeated, tag = "3")]
    pub(crate) details: Vec<Any>,
}

/// `pb.Definition` of `solver/pb/ops.proto`, as far as it is looked at: whether there is anything in it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Definition {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub(crate) operations: Vec<Vec<u8>>,
}

/// `pb.Platform` of `solver/pb/ops.proto`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Platform {
    #[prost(string, tag = "1")]
    pub(crate) architecture: String,
    #[prost(string, tag = "2")]
    pub(crate) os: String,
}
