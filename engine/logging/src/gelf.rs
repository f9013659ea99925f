//! The driver `gelf`: Graylog's extended log format, version 1.1, in UDP datagrams or over TCP.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use async_trait::async_trait;
use engine_shim::log::Stream;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use serde_json::{Map, Value, json};

use crate::connection::{Address, Connection};
use crate::driver::{ContainerInfo, Driver, DriverError, host_name, option};
use crate::lines::Entry;

/// Of a datagram, so that it travels in one piece.
const CHUNK: usize = 1420;
/// Two bytes of magic, eight of the message's number, which one of how many.
const CHUNK_HEAD: usize = 12;
/// The format has no more.
const MOST_CHUNKS: usize = 128;

/// Severities, as in syslog.
const ERROR: u8 = 3;
const INFORMATION: u8 = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pack {
    Gzip(Compression),
    Zlib(Compression),
    Plain,
}

#[derive(Debug)]
pub(crate) struct Gelf {
    address: Address,
    connection: Option<Connection>,
    pack: Pack,
    /// How often a lost connection over TCP is begun anew, and how long apart.
    reconnects: u32,
    pause: Duration,
    host: String,
    /// What all messages say.
    extra: Map<String, Value>,
}

impl Gelf {
    pub(crate) async fn begin(
        options: &BTreeMap<String, String>,
        container: &ContainerInfo,
    ) -> Result<Self, DriverError> {
        let text = option(options, "gelf-address")
            .ok_or_else(|| DriverError::new("gelf-address is a required parameter"))?;
        let address = Address::parse(text, 0, &["udp", "tcp"]).map_err(DriverError::new)?;
        let number = |name: &str| option(options, name).and_then(|text| text.parse::<i32>().ok());
        // As in dockerd: the fastest, unless one says otherwise.
        let level = match number("gelf-compression-level") {
            None => Compression::fast(),
            Some(level) => u32::try_from(level).map_or_else(|_| Compression::default(), Compression::new),
        };
        let pack = match (address.scheme.as_str(), option(options, "gelf-compression-type")) {
            ("tcp", _) | (_, Some("none")) => Pack::Plain,
            (_, Some("zlib")) => Pack::Zlib(level),
            _ => Pack::Gzip(level),
        };
        let seconds = number("gelf-tcp-reconnect-delay").and_then(|number| u64::try_from(number).ok());
        let reconnects = number("gelf-tcp-max-reconnect").and_then(|number| u32::try_from(number).ok());
        let connection = Connection::open(&address, None).await?;
        Ok(Self {
            address,
            connection: Some(connection),
            pack,
            reconnects: reconnects.unwrap_or(3),
            pause: Duration::from_secs(seconds.unwrap_or(1)),
            host: host_name(),
            extra: extra(container),
        })
    }

    fn message(&self, entry: &Entry) -> Result<Vec<u8>, DriverError> {
        let level = if entry.stream == Stream::Stderr { ERROR } else { INFORMATION };
        let seconds = f64::from(u32::try_from(entry.time.as_second()).unwrap_or(0));
        let milliseconds = f64::from(entry.time.subsec_millisecond());
        let mut message = json!({
            "version": "1.1",
            "host": self.host,
            "short_message": entry.text(),
            "timestamp": seconds + milliseconds / 1000.0,
            "level": level,
        });
        if let Some(message) = message.as_object_mut() {
            message.extend(self.extra.clone());
        }
        let text = message.to_string().into_bytes();
        let packed = match self.pack {
            Pack::Plain => Ok(text),
            Pack::Gzip(level) => {
                let mut encoder = GzEncoder::new(Vec::new(), level);
                encoder.write_all(&text).and_then(|()| encoder.finish())
            }
            Pack::Zlib(level) => {
                let mut encoder = ZlibEncoder::new(Vec::new(), level);
                encoder.write_all(&text).and_then(|()| encoder.finish())
            }
        };
        packed.map_err(|error| DriverError::new(error.to_string()))
    }

    async fn send_datagrams(&mut self, message: &[u8]) -> Result<(), DriverError> {
        let datagrams = datagrams(message, fastrand::u64(..))?;
        let failed = |error| DriverError::new(format!("Could not send to {}: {error}", self.address));
        if self.connection.is_none() {
            self.connection = Some(Connection::open(&self.address, None).await?);
        }
        let Some(connection) = &mut self.connection else { return Ok(()) };
        for datagram in datagrams {
            // A refusal tells of an earlier datagram: nobody was there then, nor at the second try.
            if let Err(error) = connection.send(&datagram).await
                && error.kind() != std::io::ErrorKind::ConnectionRefused
            {
                // Where the name leads may have changed.
                self.connection = None;
                return Err(failed(error));
            }
        }
        Ok(())
    }

    async fn send_stream(&mut self, mut message: Vec<u8>) -> Result<(), DriverError> {
        message.push(0);
        let mut attempts = 0;
        loop {
            let attempt = async {
                if let Some(connection) = &mut self.connection
                    && !connection.is_open().await
                {
                    self.connection = None;
                }
                let connection = match &mut self.connection {
                    Some(connection) => connection,
                    None => self.connection.insert(Connection::open(&self.address, None).await?),
                };
                let sent = connection.send(&message).await;
                sent.map_err(|error| DriverError::new(format!("Could not send to {}: {error}", self.address)))
            };
            let Err(error) = attempt.await else { return Ok(()) };
            self.connection = None;
            attempts += 1;
            if attempts > self.reconnects {
                return Err(error);
            }
            tokio::time::sleep(self.pause).await;
        }
    }
}

fn extra(container: &ContainerInfo) -> Map<String, Value> {
    let mut extra = Map::new();
    for (name, value) in [
        ("_container_id", container.id.clone()),
        ("_container_name", container.name.clone()),
        ("_image_id", container.image_id.clone()),
        ("_image_name", container.image_name.clone()),
        ("_command", container.command.clone()),
        ("_tag", container.tag.clone()),
        ("_created", container.created.to_string()),
    ] {
        extra.insert(name.to_owned(), value.into());
    }
    for (name, value) in &container.extra {
        let name = if name.starts_with('_') { name.clone() } else { format!("_{name}") };
        extra.insert(name, value.clone().into());
    }
    extra
}

/// The message in datagrams that travel in one piece.
fn datagrams(message: &[u8], number: u64) -> Result<Vec<Vec<u8>>, DriverError> {
    if message.len() <= CHUNK {
        return Ok(vec![message.to_vec()]);
    }
    let parts: Vec<&[u8]> = message.chunks(CHUNK - CHUNK_HEAD).collect();
    let count = u8::try_from(parts.len()).ok().filter(|count| usize::from(*count) <= MOST_CHUNKS);
    let Some(count) = count else {
        return Err(DriverError::new(format!(
            "a message of {} bytes is too long for GELF over UDP; use TCP for it",
            message.len()
        )));
    };
    let chunk = |(index, part): (u8, &&[u8])| {
        let mut datagram = vec![0x1e, 0x0f];
        datagram.extend_from_slice(&number.to_be_bytes());
        datagram.extend_from_slice(&[index, count]);
        datagram.extend_from_slice(part);
        datagram
    };
    Ok((0..count).zip(&parts).map(chunk).collect())
}

#[async_trait]
impl Driver for Gelf {
    async fn send(&mut self, entry: Entry) -> Result<(), DriverError> {
        // A server takes no message without text.
        if entry.line.is_empty() {
            return Ok(());
        }
        let message = self.message(&entry)?;
        if self.address.scheme == "tcp" {
            self.send_stream(message).await
        } else {
            self.send_datagrams(&message).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_come_in_chunks_and_too_long_ones_not_at_all() {
        assert_eq!(datagrams(b"short", 1).unwrap(), [b"short".to_vec()]);
        let message: Vec<u8> = (0..4000u32).map(|number| (number % 251) as u8).collect();
        let chunks = datagrams(&message, 0x0102_0304_0506_0708).unwrap();
        let heads: Vec<&[u8]> = chunks.iter().map(|chunk| &chunk[..CHUNK_HEAD]).collect();
        assert_eq!(heads[0], [0x1e, 0x0f, 1, 2, 3, 4, 5, 6, 7, 8, 0, 3]);
        assert_eq!(heads[2], [0x1e, 0x0f, 1, 2, 3, 4, 5, 6, 7, 8, 2, 3]);
        assert!(chunks.iter().all(|chunk| chunk.len() <= CHUNK));
        let joined: Vec<u8> = chunks.iter().flat_map(|chunk| chunk[CHUNK_HEAD..].to_vec()).collect();
        assert_eq!(joined, message);
        assert!(datagrams(&vec![0; MOST_CHUNKS * CHUNK], 1).is_err());
    }

    #[test]
    fn extra_fields_get_one_underscore() {
        let container = ContainerInfo {
            name: "web".to_owned(),
            extra: [("a", "1"), ("_b", "2")].map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            ..ContainerInfo::default()
        };
        let extra = extra(&container);
        assert_eq!(
            (&extra["_container_name"], &extra["_a"], &extra["_b"]),
            (&json!("web"), &json!("1"), &json!("2"))
        );
    }
}
