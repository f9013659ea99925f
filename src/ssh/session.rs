//! One login on a host.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use std::{borrow::Cow, io};

use russh::client::{self, DisconnectReason, Handle, Handler, Msg};
use russh::keys::{Algorithm, PublicKey, PublicKeyOrCertificate};
use russh::{Channel, ChannelId, Disconnect, Preferred, SshId, cipher};
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};

use super::authentication::{self, Credentials};
use super::banner;
use super::error::printable;
use super::host_key::{Expected, OfferedKey};
use super::{HostKeyPolicy, SshError, Target, Timeouts};

/// One login on a host. Commands, copies and forwards are channels on it; they end with it.
pub struct Session {
    host: String,
    timeouts: Timeouts,
    handle: Handle<Client>,
    facts: Arc<Facts>,
    host_key: OfferedKey,
    /// The connection is cut when this is dropped.
    _life: oneshot::Sender<()>,
}

impl fmt::Debug for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Session").field("host", &self.host).finish_non_exhaustive()
    }
}

/// What the callbacks of the protocol tell those who wait for an outcome.
#[derive(Default)]
pub(super) struct Facts {
    host_key: OnceLock<(PublicKey, OfferedKey)>,
    /// Why the host key was refused.
    refusal: Mutex<Option<SshError>>,
    /// Whether somebody is being asked right now.
    asking: Mutex<bool>,
    /// Why the connection ended.
    lost: OnceLock<String>,
    /// Whether it has ended.
    over: watch::Sender<bool>,
}

impl Facts {
    /// Why the connection ended, if it did.
    pub(super) fn lost(&self) -> Option<&str> {
        self.lost.get().map(String::as_str)
    }

    fn set_asking(&self, asking: bool) {
        *self.asking.lock().unwrap_or_else(PoisonError::into_inner) = asking;
    }

    fn is_asking(&self) -> bool {
        *self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// Connects and logs in, once.
    pub async fn connect(target: &Target, timeouts: &Timeouts) -> Result<Self, SshError> {
        let expected = Expected::new(&target.host_key)?;
        let credentials = Credentials::gather(target).await?;
        let mut session = Self::open_expected(&target.host, target.port, &expected, timeouts).await?;
        session.log_in(&target.user, credentials).await?;
        Ok(session)
    }

    /// The host key that a server shows, whatever it is; nobody logs in.
    pub async fn host_key_of(host: &str, port: u16, timeouts: &Timeouts) -> Result<OfferedKey, SshError> {
        let any = Expected::Ask(HostKeyPolicy::Ask(Arc::new(|_| true)));
        let kinds = any.algorithms();
        let session = Self::open(host, port, any, kinds, timeouts).await?;
        let key = session.host_key.clone();
        session.close().await;
        Ok(key)
    }

    /// Connects and agrees on keys with a server that has an expected host key, whichever of its keys that is.
    async fn open_expected(
        host: &str,
        port: u16,
        expected: &Expected,
        timeouts: &Timeouts,
    ) -> Result<Self, SshError> {
        let first = Self::open(host, port, expected.clone(), expected.algorithms(), timeouts).await;
        if matches!(first, Err(SshError::HostKeyChanged { .. })) {
            for kinds in expected.other_kinds() {
                if let Ok(session) = Self::open(host, port, expected.clone(), kinds, timeouts).await {
                    return Ok(session);
                }
            }
        }
        first
    }

    /// Connects and agrees on keys with a server that shows an expected host key of one of these kinds.
    async fn open(
        host: &str,
        port: u16,
        expected: Expected,
        kinds: Vec<Algorithm>,
        timeouts: &Timeouts,
    ) -> Result<Self, SshError> {
        let mut stream = banner::connect(host, port, timeouts.connect).await?;
        tune(&stream, timeouts.idle);
        let banner = banner::read_banner(&mut stream, host, port, timeouts.banner).await?;
        let (life, dead) = oneshot::channel();
        let transport = Transport::new(stream, banner.read, dead, timeouts.idle);
        let facts = Arc::new(Facts::default());
        let config = Arc::new(config(kinds, timeouts));
        let handler = Client { host: host.to_owned(), expected: Arc::new(expected), facts: facts.clone() };
        let exchange = client::connect_stream(config, transport, handler);
        let handle = exchange_keys(host, timeouts.key_exchange, &facts, exchange).await?;
        let Some((_, shown)) = facts.host_key.get() else {
            let source = "it ended without a host key".into();
            return Err(SshError::KeyExchange { host: host.to_owned(), source });
        };
        let host_key = shown.clone();
        Ok(Self { host: host.to_owned(), timeouts: *timeouts, handle, facts, host_key, _life: life })
    }

    async fn log_in(&mut self, user: &str, credentials: Credentials) -> Result<(), SshError> {
        let attempt = authentication::log_in(&mut self.handle, &self.host, user, credentials);
        let result = timeout(self.timeouts.authentication, attempt).await.map_err(|_| {
            SshError::AuthenticationTimeout {
                host: self.host.clone(),
                user: user.to_owned(),
                after: self.timeouts.authentication,
            }
        })?;
        match (result, self.facts.lost()) {
            (Ok(()), _) => Ok(()),
            // A server that gives up in the middle of the login refuses nothing by name.
            (Err(SshError::Authentication { methods, .. }), Some(reason)) if methods.is_empty() => {
                let (host, user, reason) = (self.host.clone(), user.to_owned(), reason.to_owned());
                Err(SshError::AuthenticationBroken { host, user, reason })
            }
            (Err(error), _) => Err(error),
        }
    }

    /// The host key that the server showed, and that was accepted.
    pub fn host_key(&self) -> &OfferedKey {
        &self.host_key
    }

    /// The host, as it was named.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Says goodbye and waits a moment for it to be heard.
    pub async fn close(mut self) {
        let goodbye = async {
            let said = self.handle.disconnect(Disconnect::ByApplication, "", "").await;
            if said.is_ok() {
                let _ = (&mut self.handle).await;
            }
        };
        let _ = timeout(Duration::from_secs(2), goodbye).await;
    }

    pub(super) fn facts(&self) -> &Arc<Facts> {
        &self.facts
    }

    /// Waits for the end of the connection.
    pub(super) async fn ended(&self) {
        let _ = self.facts.over.subscribe().wait_for(|over| *over).await;
    }

    pub(super) fn channel_limit(&self) -> Duration {
        self.timeouts.channel
    }

    /// Opens a session channel.
    pub(super) async fn open_channel(&self, what: &str) -> Result<Channel<Msg>, SshError> {
        self.opened(what, self.handle.channel_open_session()).await
    }

    pub(super) async fn open_tcp_channel(
        &self,
        what: &str,
        host: &str,
        port: u16,
    ) -> Result<Channel<Msg>, SshError> {
        self.opened(what, self.handle.channel_open_direct_tcpip(host, port.into(), "127.0.0.1", 0)).await
    }

    pub(super) async fn open_unix_channel(&self, what: &str, path: &str) -> Result<Channel<Msg>, SshError> {
        self.opened(what, self.handle.channel_open_direct_streamlocal(path)).await
    }

    async fn opened(
        &self,
        what: &str,
        opening: impl Future<Output = Result<Channel<Msg>, russh::Error>>,
    ) -> Result<Channel<Msg>, SshError> {
        match timeout(self.timeouts.channel, opening).await {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(error)) => Err(self.channel_error(what, error)),
            Err(_) => Err(self.channel_timeout(what)),
        }
    }

    /// An error on a channel is nearly always the end of the connection, whose reason says more.
    pub(super) fn channel_error(&self, what: &str, error: impl Into<super::error::Cause>) -> SshError {
        match self.facts.lost() {
            Some(reason) => self.lost_error(what, reason),
            None => {
                SshError::Channel { host: self.host.clone(), what: what.to_owned(), source: error.into() }
            }
        }
    }

    pub(super) fn channel_timeout(&self, what: &str) -> SshError {
        SshError::ChannelTimeout {
            host: self.host.clone(),
            what: what.to_owned(),
            after: self.timeouts.channel,
        }
    }

    /// The connection ended before the outcome was known.
    pub(super) fn lost(&self, what: &str) -> SshError {
        self.lost_error(
            what,
            self.facts.lost().unwrap_or("the server closed the channel without saying how it ended"),
        )
    }

    fn lost_error(&self, what: &str, reason: &str) -> SshError {
        SshError::Lost { host: self.host.clone(), what: what.to_owned(), reason: reason.to_owned() }
    }
}

/// Waits for the key exchange, but lets a person who is asked about the host key take their time.
async fn exchange_keys(
    host: &str,
    limit: Duration,
    facts: &Facts,
    exchange: impl Future<Output = Result<Handle<Client>, russh::Error>>,
) -> Result<Handle<Client>, SshError> {
    let mut exchange = std::pin::pin!(exchange);
    let mut end = Instant::now() + limit;
    let result = loop {
        tokio::select! {
            result = &mut exchange => break result,
            () = sleep_until(end) => {
                if !facts.is_asking() {
                    return Err(SshError::KeyExchangeTimeout { host: host.to_owned(), after: limit });
                }
                end = Instant::now() + limit;
            }
        }
    };
    result.map_err(|error| {
        let refusal = facts.refusal.lock().unwrap_or_else(PoisonError::into_inner).take();
        refusal.unwrap_or_else(|| SshError::KeyExchange { host: host.to_owned(), source: Box::new(error) })
    })
}

/// Small messages go at once; and data that a dead peer does not confirm ends the connection, as its silence does.
fn tune(stream: &TcpStream, idle: Duration) {
    // A connection that cannot be tuned is still a connection.
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(stream, true);
    limit_unconfirmed(stream, idle);
}

#[cfg(target_os = "linux")]
fn limit_unconfirmed(stream: &TcpStream, idle: Duration) {
    let _ = sockopt::set_tcp_user_timeout(stream, u32::try_from(idle.as_millis()).unwrap_or(u32::MAX));
}

/// Elsewhere the keepalive of the protocol, and [`Transport`]'s patience with what it writes, see to it alone.
#[cfg(not(target_os = "linux"))]
fn limit_unconfirmed(_: &TcpStream, _: Duration) {}

fn config(kinds: Vec<Algorithm>, timeouts: &Timeouts) -> client::Config {
    const UNANSWERED: u32 = 3;
    client::Config {
        client_id: SshId::Standard(Cow::Borrowed(concat!("SSH-2.0-machine_", env!("CARGO_PKG_VERSION")))),
        nodelay: true,
        inactivity_timeout: None,
        keepalive_interval: Some(timeouts.idle / (UNANSWERED + 1)),
        keepalive_max: UNANSWERED as usize,
        preferred: Preferred {
            key: kinds.into(),
            // Fastest first where the processor knows AES, as nearly all do.
            cipher: Cow::Borrowed(&[
                cipher::AES_256_GCM,
                cipher::CHACHA20_POLY1305,
                cipher::AES_256_CTR,
                cipher::AES_192_CTR,
                cipher::AES_128_CTR,
            ]),
            ..Preferred::DEFAULT
        },
        ..client::Config::default()
    }
}

/// Our side of the protocol. Whatever the server wants to open towards us is turned down: all channels are ours.
pub(super) struct Client {
    host: String,
    expected: Arc<Expected>,
    facts: Arc<Facts>,
}

impl Handler for Client {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        let key = shown.public_key();
        if let Some((known, _)) = self.facts.host_key.get() {
            // Keys are exchanged anew every now and then; the host stays the same.
            return Ok(known.key_data() == key.key_data());
        }
        let (expected, host, asked_key) = (self.expected.clone(), self.host.clone(), key.clone());
        self.facts.set_asking(true);
        let verdict = tokio::task::spawn_blocking(move || expected.check(&host, &asked_key)).await;
        self.facts.set_asking(false);
        match verdict.unwrap_or_else(|_| {
            Err(SshError::HostKeyUnknown {
                host: self.host.clone(),
                offered: super::host_key::describe(&key),
            })
        }) {
            Ok(()) => {
                let offered = OfferedKey::new(&key);
                let _ = self.facts.host_key.set((key, offered));
                Ok(true)
            }
            Err(error) => {
                *self.facts.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                Ok(false)
            }
        }
    }

    async fn disconnected(&mut self, reason: DisconnectReason<russh::Error>) -> Result<(), russh::Error> {
        let _ = self.facts.lost.set(explain(&reason));
        self.facts.over.send_replace(true);
        Ok(())
    }

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        _: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), russh::Error> {
        Ok(())
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), russh::Error> {
        Ok(())
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        _: Channel<Msg>,
        _: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), russh::Error> {
        Ok(())
    }

    async fn should_accept_unknown_server_channel(&mut self, _: ChannelId, _: &str) -> bool {
        false
    }

    async fn server_channel_open_session(
        &mut self,
        _: Channel<Msg>,
        _: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), russh::Error> {
        Ok(())
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        _: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), russh::Error> {
        Ok(())
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), russh::Error> {
        Ok(())
    }

    async fn server_channel_open_x11(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), russh::Error> {
        Ok(())
    }
}

fn explain(reason: &DisconnectReason<russh::Error>) -> String {
    match reason {
        DisconnectReason::ReceivedDisconnect(info) if info.message.trim().is_empty() => {
            "the server ended it".to_owned()
        }
        DisconnectReason::ReceivedDisconnect(info) => {
            format!("the server ended it: {}", printable(&info.message))
        }
        DisconnectReason::Error(russh::Error::KeepaliveTimeout) => "the server stopped answering".to_owned(),
        DisconnectReason::Error(russh::Error::Disconnect | russh::Error::HUP) => {
            "the server closed it without a word".to_owned()
        }
        DisconnectReason::Error(russh::Error::IO(error)) => match error.kind() {
            io::ErrorKind::UnexpectedEof => "the server closed it without a word".to_owned(),
            io::ErrorKind::TimedOut => "the server stopped answering".to_owned(),
            _ => error.to_string(),
        },
        DisconnectReason::Error(error) => error.to_string(),
    }
}

/// The connection, with what the banner's reader has taken put back, and an end when the session is gone: the protocol
/// runs in a task of its own, which would else wait for a silent server for ever.
struct Transport {
    stream: TcpStream,
    replay: io::Cursor<Vec<u8>>,
    dead: oneshot::Receiver<()>,
    is_dead: bool,
    /// How long the other side may take nothing; the protocol's own keepalive does not run while a write waits.
    patience: Duration,
    impatience: Option<Pin<Box<Sleep>>>,
}

impl Transport {
    fn new(stream: TcpStream, replay: Vec<u8>, dead: oneshot::Receiver<()>, patience: Duration) -> Self {
        Self { stream, replay: io::Cursor::new(replay), dead, is_dead: false, patience, impatience: None }
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.replay.position() < self.replay.get_ref().len() as u64 {
            return Pin::new(&mut self.replay).poll_read(context, buffer);
        }
        if self.is_dead || Pin::new(&mut self.dead).poll(context).is_ready() {
            self.is_dead = true;
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        if outcome.is_ready() {
            self.impatience = None;
            return outcome;
        }
        let patience = self.patience;
        let impatience = self.impatience.get_or_insert_with(|| Box::pin(sleep(patience)));
        impatience.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
