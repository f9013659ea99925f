//! The driver `fluentd`: Fluentd's forward protocol (version 1, message mode), over TCP, TLS or a unix socket.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base64::Engine as _;
use engine_model::size;
use jiff::SignedDuration;
use rmp::encode as pack;
use rustls::ClientConfig;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::connection::{Address, Connection};
use crate::driver::{ContainerInfo, Driver, DriverError, complain, is_on, option};
use crate::lines::Entry;
use crate::tls;

pub(crate) const PORT: u16 = 24224;

/// Between attempts, at first and at most; each pause is half as long again as the one before.
const RETRY_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// As in dockerd, practically for ever.
const RETRIES: u32 = i32::MAX as u32;
/// How many messages wait in asynchronous mode, as in dockerd, and how many bytes of them at most.
const BUFFER: usize = 1024 * 1024;
const MOST_BYTES: usize = 64 * 1024 * 1024;
/// A pause that is none would keep a processor busy.
const SHORTEST_WAIT: Duration = Duration::from_millis(100);
/// How long an acknowledgement may take.
const ACKNOWLEDGEMENT: Duration = Duration::from_secs(60);
/// An acknowledgement is short.
const LONGEST_ANSWER: usize = 4096;

/// A message, and how it is acknowledged if one waits for that.
#[derive(Debug)]
struct Message {
    bytes: Vec<u8>,
    chunk: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Fluentd {
    writer: Writer,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Direct(Forwarder),
    Queue(Queue),
}

impl Fluentd {
    pub(crate) async fn begin(
        options: &BTreeMap<String, String>,
        container: ContainerInfo,
    ) -> Result<Self, DriverError> {
        let text = option(options, "fluentd-address").unwrap_or("127.0.0.1");
        let whole = if text.contains("://") { text.to_owned() } else { format!("tcp://{text}") };
        let address = Address::parse(&whole, PORT, &["tcp", "tls", "unix"]).map_err(DriverError::new)?;
        let tls = (address.scheme == "tls").then(|| tls::client(tls::Files::default())).transpose()?;
        let period = |name| option(options, name).and_then(duration);
        let retries = option(options, "fluentd-max-retries").and_then(|text| text.parse().ok());
        let mut forwarder = Forwarder {
            address,
            tls,
            connection: None,
            since: Instant::now(),
            retries: retries.unwrap_or(RETRIES),
            wait: period("fluentd-retry-wait").unwrap_or(RETRY_WAIT).max(SHORTEST_WAIT),
            write_timeout: period("fluentd-write-timeout").filter(|period| !period.is_zero()),
            renewal: period("fluentd-async-reconnect-interval").filter(|period| !period.is_zero()),
        };
        let writer = Writer {
            acknowledged: is_on(options, "fluentd-request-ack", false),
            fine: is_on(options, "fluentd-sub-second-precision", false),
            container,
        };
        let way = if is_on(options, "fluentd-async", false) {
            let limit = option(options, "fluentd-buffer-limit").and_then(size);
            Way::Queue(Queue::begin(
                forwarder,
                limit.and_then(|limit| limit.try_into().ok()).unwrap_or(BUFFER),
            ))
        } else {
            forwarder.renewal = None;
            forwarder.connect().await?;
            Way::Direct(forwarder)
        };
        Ok(Self { writer, way })
    }
}

fn duration(text: &str) -> Option<Duration> {
    text.parse::<SignedDuration>().ok()?.try_into().ok()
}

#[async_trait]
impl Driver for Fluentd {
    async fn send(&mut self, entry: Entry) -> Result<(), DriverError> {
        let message = self.writer.message(&entry).map_err(|error| DriverError::new(error.to_string()))?;
        match &mut self.way {
            Way::Direct(forwarder) => forwarder.deliver(&message).await,
            Way::Queue(queue) => queue.add(message),
        }
    }

    async fn finish(&mut self) -> Result<(), DriverError> {
        match &mut self.way {
            Way::Direct(_) => Ok(()),
            Way::Queue(queue) => queue.finish().await,
        }
    }
}

/// Messages that wait while the server is slow or gone; nobody else waits for them.
#[derive(Debug)]
struct Queue {
    sender: Option<mpsc::UnboundedSender<Message>>,
    /// Messages and bytes that wait.
    waiting: Arc<[AtomicUsize; 2]>,
    limit: usize,
    work: JoinHandle<()>,
}

impl Queue {
    fn begin(mut forwarder: Forwarder, limit: usize) -> Self {
        let (sender, mut receiver) = mpsc::unbounded_channel::<Message>();
        let waiting: Arc<[AtomicUsize; 2]> = Arc::default();
        let counter = Arc::clone(&waiting);
        let work = tokio::spawn(async move {
            while let Some(message) = receiver.recv().await {
                if let Err(error) = forwarder.deliver(&message).await {
                    complain(&error);
                }
                counter[0].fetch_sub(1, Ordering::Relaxed);
                counter[1].fetch_sub(message.bytes.len(), Ordering::Relaxed);
            }
        });
        Self { sender: Some(sender), waiting, limit, work }
    }

    fn add(&self, message: Message) -> Result<(), DriverError> {
        let length = message.bytes.len();
        let [messages, bytes] = [0, 1].map(|index| self.waiting[index].load(Ordering::Relaxed));
        if messages > 0 && (messages >= self.limit || bytes + length > MOST_BYTES) {
            return Err(DriverError::new(format!(
                "{messages} messages wait for the Fluentd server, more than `fluentd-buffer-limit` or the memory for them allows; what comes now is lost"
            )));
        }
        self.waiting[0].fetch_add(1, Ordering::Relaxed);
        self.waiting[1].fetch_add(length, Ordering::Relaxed);
        let sent = self.sender.as_ref().is_some_and(|sender| sender.send(message).is_ok());
        if sent { Ok(()) } else { Err(DriverError::new("nothing is sent to the Fluentd server any more")) }
    }

    async fn finish(&mut self) -> Result<(), DriverError> {
        self.sender = None;
        (&mut self.work).await.map_err(|error| DriverError::new(error.to_string()))
    }
}

/// Brings messages to the server, again and again if it has to be.
#[derive(Debug)]
struct Forwarder {
    address: Address,
    tls: Option<Arc<ClientConfig>>,
    connection: Option<Connection>,
    /// When that was opened.
    since: Instant,
    retries: u32,
    wait: Duration,
    /// How long a connection is used, so that a name that leads elsewhere by then is followed.
    renewal: Option<Duration>,
    /// How long the server may take to accept a message.
    write_timeout: Option<Duration>,
}

impl Forwarder {
    async fn connect(&mut self) -> Result<&mut Connection, DriverError> {
        let connection = Connection::open(&self.address, self.tls.clone()).await?;
        self.since = Instant::now();
        Ok(self.connection.insert(connection))
    }

    async fn deliver(&mut self, message: &Message) -> Result<(), DriverError> {
        let mut wait = self.wait;
        let mut attempt = 0;
        loop {
            let Err(error) = self.try_once(message).await else { return Ok(()) };
            self.connection = None;
            attempt += 1;
            if attempt > self.retries {
                return Err(error);
            }
            if attempt == 1 {
                complain(&error);
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 3 / 2).min(LONGEST_WAIT);
        }
    }

    async fn try_once(&mut self, message: &Message) -> Result<(), DriverError> {
        let is_old = self.renewal.is_some_and(|renewal| self.since.elapsed() > renewal);
        let is_lost = match &mut self.connection {
            // Its acknowledgement is read where it is expected.
            Some(connection) => !connection.is_open().await,
            None => true,
        };
        if is_old || is_lost {
            self.connect().await?;
        }
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let failed = |error: &dyn std::fmt::Display| {
            DriverError::new(format!("Could not send to {}: {error}", self.address))
        };
        let sending = connection.send(&message.bytes);
        let sent = match self.write_timeout {
            Some(timeout) => tokio::time::timeout(timeout, sending)
                .await
                .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())),
            None => sending.await,
        };
        sent.map_err(|error| failed(&error))?;
        let Some(chunk) = &message.chunk else { return Ok(()) };
        let answer = tokio::time::timeout(ACKNOWLEDGEMENT, acknowledgement(connection)).await;
        match answer {
            Ok(Ok(acknowledged)) if acknowledged == *chunk => Ok(()),
            Ok(Ok(_)) => Err(failed(&"it acknowledges something else")),
            Ok(Err(error)) => Err(failed(&error)),
            Err(_) => Err(failed(&"it acknowledges nothing")),
        }
    }
}

/// `{"ack": chunk}`.
async fn acknowledgement(connection: &mut Connection) -> std::io::Result<String> {
    let mut answer = Vec::new();
    loop {
        let mut buffer = [0; 512];
        let count = connection.receive(&mut buffer).await?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        answer.extend_from_slice(&buffer[..count]);
        match parse_acknowledgement(&answer) {
            Some(chunk) => return Ok(chunk),
            None if answer.len() > LONGEST_ANSWER => return Err(std::io::ErrorKind::InvalidData.into()),
            None => {}
        }
    }
}

/// What is acknowledged, once all of the answer is there.
pub(crate) fn parse_acknowledgement(bytes: &[u8]) -> Option<String> {
    let mut rest = bytes;
    if rmp::decode::read_map_len(&mut rest).ok()? == 0 {
        return None;
    }
    let (key, rest) = rmp::decode::read_str_from_slice(rest).ok()?;
    let (chunk, _) = rmp::decode::read_str_from_slice(rest).ok()?;
    (key == "ack").then(|| chunk.to_owned())
}

/// How messages are written.
#[derive(Debug)]
struct Writer {
    acknowledged: bool,
    /// Times in nanoseconds, as Fluentd's `EventTime`, rather than in seconds.
    fine: bool,
    container: ContainerInfo,
}

impl Writer {
    /// `[tag, time, record, option]`.
    fn message(&self, entry: &Entry) -> std::io::Result<Message> {
        let chunk = self.acknowledged.then(|| {
            let number: [u8; 16] = fastrand::u128(..).to_be_bytes();
            base64::engine::general_purpose::STANDARD.encode(number)
        });
        let mut bytes = Vec::with_capacity(entry.line.len() + 256);
        pack::write_array_len(&mut bytes, 4)?;
        pack::write_str(&mut bytes, &self.container.tag)?;
        self.time(&mut bytes, entry)?;
        let name = format!("/{}", self.container.name);
        let text = entry.text();
        let mut record = vec![
            ("container_id", self.container.id.as_str()),
            ("container_name", &name),
            ("source", entry.stream.name()),
            ("log", &text),
        ];
        record.extend(self.container.extra.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let ordinal = entry.partial.as_ref().map(|part| part.ordinal.to_string()).unwrap_or_default();
        if let Some(partial) = &entry.partial {
            record.push(("partial_message", "true"));
            record.push(("partial_id", &partial.id));
            record.push(("partial_ordinal", &ordinal));
            record.push(("partial_last", if partial.last { "true" } else { "false" }));
        }
        pack::write_map_len(&mut bytes, u32::try_from(record.len()).map_err(std::io::Error::other)?)?;
        for (name, value) in record {
            pack::write_str(&mut bytes, name)?;
            pack::write_str(&mut bytes, value)?;
        }
        match &chunk {
            Some(chunk) => {
                pack::write_map_len(&mut bytes, 1)?;
                pack::write_str(&mut bytes, "chunk")?;
                pack::write_str(&mut bytes, chunk)?;
            }
            None => drop(pack::write_map_len(&mut bytes, 0)?),
        }
        Ok(Message { bytes, chunk })
    }

    fn time(&self, bytes: &mut Vec<u8>, entry: &Entry) -> std::io::Result<()> {
        let seconds = entry.time.as_second();
        if !self.fine {
            pack::write_sint(bytes, seconds)?;
            return Ok(());
        }
        pack::write_ext_meta(bytes, 8, 0)?;
        bytes.extend_from_slice(&u32::try_from(seconds).unwrap_or(0).to_be_bytes());
        bytes.extend_from_slice(&u32::try_from(entry.time.subsec_nanosecond()).unwrap_or(0).to_be_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use engine_shim::log::Stream;

    use super::*;

    fn message(acknowledged: bool, fine: bool) -> Message {
        let container = ContainerInfo {
            id: "i".to_owned(),
            name: "n".to_owned(),
            tag: "t".to_owned(),
            ..ContainerInfo::default()
        };
        let time = "1970-01-01T00:00:02.000000003Z".parse().unwrap();
        let entry = Entry { time, stream: Stream::Stderr, line: b"l".to_vec(), partial: None };
        Writer { acknowledged, fine, container }.message(&entry).unwrap()
    }

    #[test]
    fn a_message_byte_for_byte() {
        let expected =
            b"\x94\xa1t\x02\x84\xaccontainer_id\xa1i\xaecontainer_name\xa2/n\xa6source\xa6stderr\xa3log\xa1l\x80";
        assert_eq!(message(false, false).bytes, expected);
        // Type 0 is EventTime: seconds and nanoseconds.
        assert_eq!(message(false, true).bytes[3..13], *b"\xd7\0\0\0\0\x02\0\0\0\x03");
        let acknowledged = message(true, false);
        let chunk = acknowledged.chunk.unwrap();
        assert!(acknowledged.bytes.ends_with(format!("\u{0}{chunk}").trim_start_matches('\0').as_bytes()));
    }

    #[test]
    fn acknowledgements() {
        assert_eq!(parse_acknowledgement(b"\x81\xa3ack\xa2xy").as_deref(), Some("xy"));
        for wrong in [&b""[..], b"\x80", b"\x81\xa3ack\xa9xy", b"\x81\xa3nak\xa2xy", b"\xff\xff"] {
            assert_eq!(parse_acknowledgement(wrong), None);
        }
    }
}
