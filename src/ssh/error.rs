//! How far a connection came, and what stopped it there.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why there is no connection, no login, no channel, or no answer; one variant for each layer and cause.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// The name has no address.
    #[error("The address `{host}` does not resolve")]
    Address { host: String, source: io::Error },
    /// Nobody listens, or the way there is closed.
    #[error("Could not connect to port {port} of `{host}`")]
    Connect { host: String, port: u16, source: io::Error },
    /// Nobody answered at all.
    #[error("Port {port} of `{host}` did not answer within {}", seconds(*after))]
    ConnectTimeout { host: String, port: u16, after: Duration },
    /// The connection is there, and the server says nothing.
    #[error("Port {port} of `{host}` accepts connections, but the server did not introduce itself within {}", seconds(*after))]
    BannerTimeout { host: String, port: u16, after: Duration },
    /// The connection was closed before the server said anything.
    #[error("Port {port} of `{host}` accepted the connection and closed it again")]
    BannerClosed { host: String, port: u16, source: io::Error },
    /// The server speaks, but another protocol.
    #[error("Port {port} of `{host}` does not speak SSH, but says `{said}`")]
    NotSsh { host: String, port: u16, said: String },
    /// No agreement on keys in time.
    #[error("`{host}` did not finish the key exchange within {}", seconds(*after))]
    KeyExchangeTimeout { host: String, after: Duration },
    /// No agreement on keys.
    #[error("The key exchange with `{host}` failed")]
    KeyExchange { host: String, source: Box<dyn std::error::Error + Send + Sync> },
    /// The person or rule that was asked did not accept the key.
    #[error("The host key of `{host}` is unknown and was not accepted: {offered}")]
    HostKeyUnknown { host: String, offered: String },
    /// The host has another key than the recorded one.
    #[error("The host key of `{host}` has changed: expected {}, the server shows {offered}", expected.join(" or "))]
    HostKeyChanged { host: String, offered: String, expected: Vec<String> },
    /// The record of the host key is unreadable.
    #[error("The recorded host key `{line}` cannot be read")]
    HostKeyRecord { line: String },
    /// There is no key file.
    #[error("The key file `{}` does not exist", path.display())]
    KeyMissing { path: PathBuf },
    /// The key file cannot be read.
    #[error("Could not read the key file `{}`", path.display())]
    KeyUnreadable { path: PathBuf, source: io::Error },
    /// Others than the owner can read the key file.
    #[error("permissions {mode:04o} for '{}' are too open", path.display())]
    KeyTooOpen { path: PathBuf, mode: u32 },
    /// The key file is encrypted, and nobody gave the passphrase.
    #[error("The key file `{}` is encrypted with a passphrase", path.display())]
    KeyEncrypted { path: PathBuf },
    /// The passphrase is not that of the key file.
    #[error("The passphrase does not open the key file `{}`", path.display())]
    KeyPassphrase { path: PathBuf },
    /// The file holds something else.
    #[error("`{}` is not a private key: {reason}", path.display())]
    KeyInvalid { path: PathBuf, reason: String },
    /// A key pair could not be made.
    #[error("Could not make a key pair")]
    KeyGeneration { source: Box<dyn std::error::Error + Send + Sync> },
    /// There is neither an agent nor a key in the usual places.
    #[error("There is no key to log in with: {reason}")]
    NoKey { reason: String },
    /// The login took too long.
    #[error("`{host}` did not finish the login of `{user}` within {}", seconds(*after))]
    AuthenticationTimeout { host: String, user: String, after: Duration },
    /// The server does not want the key.
    #[error("`{host}` refused the login of `{user}` with {tried}; it offers {}", methods.join(", "))]
    Authentication { host: String, user: String, tried: String, methods: Vec<String> },
    /// A channel could not be opened.
    #[error("`{host}` did not open a channel for {what}")]
    Channel { host: String, what: String, source: Box<dyn std::error::Error + Send + Sync> },
    /// The connection broke.
    #[error("The connection to `{host}` was lost while running {what}: {reason}")]
    Lost { host: String, what: String, reason: String },
    /// The command wrote more than anybody wants to keep.
    #[error("{what} on `{host}` wrote more than {limit} bytes")]
    TooMuchOutput { host: String, what: String, limit: usize },
    /// Our own standard input, output, error or terminal.
    #[error("Could not use the {what}")]
    OwnStream { what: &'static str, source: io::Error },
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f32().round())
}

impl SshError {
    /// How far the connection came: `address`, `port`, `banner`, `key exchange`, `host key`, `key file`,
    /// `authentication`, `channel` or `connection`.
    pub fn layer(&self) -> &'static str {
        todo!()
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        todo!()
    }
}
