//! Connections that the host makes for us.

use super::{Session, SshError};

/// A connection that the host made: bytes in, bytes out.
pub type ForwardedStream = russh::ChannelStream<russh::client::Msg>;

impl Session {
    /// Lets the host connect to a TCP port.
    pub async fn open_tcp(&self, host: &str, port: u16) -> Result<ForwardedStream, SshError> {
        todo!("{host}{port}")
    }

    /// Lets the host connect to a unix socket.
    pub async fn open_unix(&self, path: &str) -> Result<ForwardedStream, SshError> {
        todo!("{path}")
    }
}
