//! The driver `syslog`: RFC 3164, RFC 5424 and what local daemons take, over UDP, TCP, TLS and unix sockets.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use engine_shim::log::Stream;
use jiff::tz::TimeZone;
use rustls::ClientConfig;

use crate::connection::{Address, Connection, Place};
use crate::driver::{ContainerInfo, Driver, DriverError, host_name, is_on, option};
use crate::lines::Entry;
use crate::tls;

pub(crate) const PORT: u16 = 514;
pub(crate) const SCHEMES: [&str; 5] = ["udp", "tcp", "tcp+tls", "unix", "unixgram"];
pub(crate) const FORMATS: [&str; 3] = ["rfc3164", "rfc5424", "rfc5424micro"];

/// Where the host's own daemon listens, if no address is given.
const LOCAL: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];

/// In the order of their numbers (RFC 5424, section 6.2.1).
const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "",
    "", "", "", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];
const DAEMON: u8 = 3;
/// Severities (the same section).
const ERROR: u8 = 3;
const INFORMATION: u8 = 6;

/// A facility's number by its name, or by itself.
pub(crate) fn facility(text: &str) -> Option<u8> {
    let named = FACILITIES.iter().position(|name| *name == text && !name.is_empty());
    let number = named.and_then(|number| u8::try_from(number).ok()).or_else(|| text.parse().ok())?;
    (number < 24).then_some(number)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// RFC 3164 without the host's name, as the host's own daemon expects it.
    Local,
    Rfc3164,
    Rfc5424 {
        micro: bool,
    },
}

/// How messages are told apart on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    EndOfLine,
    /// RFC 5425, section 4.3.1.
    Counted,
}

#[derive(Debug)]
pub(crate) struct Syslog {
    address: Address,
    tls: Option<Arc<ClientConfig>>,
    connection: Option<Connection>,
    writer: Writer,
}

/// How a message is written.
#[derive(Debug)]
struct Writer {
    format: Format,
    framing: Framing,
    facility: u8,
    host: String,
    tag: String,
    pid: u32,
    zone: TimeZone,
}

impl Syslog {
    pub(crate) async fn begin(
        options: &BTreeMap<String, String>,
        container: ContainerInfo,
    ) -> Result<Self, DriverError> {
        let address = match option(options, "syslog-address") {
            Some(text) => Address::parse(text, PORT, &SCHEMES).map_err(DriverError::new)?,
            None => local()?,
        };
        let files = tls::Files {
            authorities: option(options, "syslog-tls-ca-cert"),
            certificate: option(options, "syslog-tls-cert"),
            key: option(options, "syslog-tls-key"),
            anyone: is_on(options, "syslog-tls-skip-verify", false),
        };
        let is_secure = address.scheme == "tcp+tls";
        let tls = is_secure.then(|| tls::client(files)).transpose()?;
        let format = match option(options, "syslog-format") {
            Some("rfc3164") => Format::Rfc3164,
            Some("rfc5424") => Format::Rfc5424 { micro: false },
            Some("rfc5424micro") => Format::Rfc5424 { micro: true },
            _ => Format::Local,
        };
        let is_counted = is_secure && matches!(format, Format::Rfc5424 { .. });
        let writer = Writer {
            format,
            framing: if is_counted { Framing::Counted } else { Framing::EndOfLine },
            facility: option(options, "syslog-facility").and_then(facility).unwrap_or(DAEMON),
            host: host_name(),
            tag: container.tag,
            pid: std::process::id(),
            zone: TimeZone::system(),
        };
        let connection = Connection::open(&address, tls.clone()).await?;
        Ok(Self { address, tls, connection: Some(connection), writer })
    }

    async fn try_once(&mut self, message: &[u8]) -> Result<(), DriverError> {
        if let Some(connection) = &mut self.connection
            && !connection.is_open().await
        {
            self.connection = None;
        }
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => self.connection.insert(Connection::open(&self.address, self.tls.clone()).await?),
        };
        if let Err(error) = connection.send(message).await {
            self.connection = None;
            return Err(DriverError::new(format!("Could not send to {}: {error}", self.address)));
        }
        Ok(())
    }
}

/// The host's own daemon.
fn local() -> Result<Address, DriverError> {
    let path = LOCAL.iter().find(|path| Path::new(path).exists());
    let path = path.ok_or_else(|| {
        DriverError::new("Unix syslog delivery error: there is no syslog daemon on this host; name one with the log option `syslog-address`")
    })?;
    // Where daemons listen today; what takes streams is named by its address.
    Ok(Address { scheme: "unixgram".to_owned(), place: Place::Path(path.into()) })
}

#[async_trait]
impl Driver for Syslog {
    async fn send(&mut self, entry: Entry) -> Result<(), DriverError> {
        // There are servers that choke on them; dockerd leaves them out as well.
        if entry.line.is_empty() {
            return Ok(());
        }
        let message = self.writer.message(&entry);
        // A server that has begun anew is known again after one failure.
        match self.try_once(&message).await {
            Ok(()) => Ok(()),
            Err(_) => self.try_once(&message).await,
        }
    }
}

impl Writer {
    fn message(&self, entry: &Entry) -> Vec<u8> {
        let severity = if entry.stream == Stream::Stderr { ERROR } else { INFORMATION };
        let priority = self.facility * 8 + severity;
        let time = entry.time.to_zoned(self.zone.clone());
        let (host, tag, pid) = (&self.host, &self.tag, self.pid);
        let head = match self.format {
            Format::Local => format!("<{priority}>{} {tag}[{pid}]: ", time.strftime("%b %e %H:%M:%S")),
            Format::Rfc3164 => {
                format!("<{priority}>{} {host} {tag}[{pid}]: ", time.strftime("%b %e %H:%M:%S"))
            }
            Format::Rfc5424 { micro } => {
                let zone =
                    if time.offset().is_zero() { "Z".to_owned() } else { time.strftime("%:z").to_string() };
                let time = time.strftime(if micro { "%Y-%m-%dT%H:%M:%S.%6f" } else { "%Y-%m-%dT%H:%M:%S" });
                format!("<{priority}>1 {time}{zone} {host} {tag} {pid} {tag} - ")
            }
        };
        let length = head.len() + entry.line.len() + 1;
        let mut message = match self.framing {
            Framing::Counted => format!("{length} ").into_bytes(),
            Framing::EndOfLine => Vec::new(),
        };
        message.extend_from_slice(head.as_bytes());
        message.extend_from_slice(&entry.line);
        message.push(b'\n');
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: Format, framing: Framing, stream: Stream) -> String {
        let writer = Writer {
            format,
            framing,
            facility: 16,
            host: "host1".to_owned(),
            tag: "abc".to_owned(),
            pid: 7,
            zone: TimeZone::UTC,
        };
        let time = "2026-01-02T03:04:05.678901234Z".parse().unwrap();
        let entry = Entry { time, stream, line: b"a line".to_vec(), partial: None };
        String::from_utf8(writer.message(&entry)).unwrap()
    }

    #[test]
    fn each_format() {
        let rfc5424 = Format::Rfc5424 { micro: false };
        for (format, framing, stream, expected) in [
            (Format::Local, Framing::EndOfLine, Stream::Stdout, "<134>Jan  2 03:04:05 abc[7]: a line\n"),
            (
                Format::Rfc3164,
                Framing::EndOfLine,
                Stream::Stderr,
                "<131>Jan  2 03:04:05 host1 abc[7]: a line\n",
            ),
            (
                rfc5424,
                Framing::EndOfLine,
                Stream::Stdout,
                "<134>1 2026-01-02T03:04:05Z host1 abc 7 abc - a line\n",
            ),
            (
                Format::Rfc5424 { micro: true },
                Framing::Counted,
                Stream::Stdout,
                "60 <134>1 2026-01-02T03:04:05.678901Z host1 abc 7 abc - a line\n",
            ),
        ] {
            assert_eq!(written(format, framing, stream), expected);
        }
    }

    #[test]
    fn facilities_have_names_and_numbers() {
        assert_eq!(facility("kern"), Some(0));
        assert_eq!(facility("local7"), Some(23));
        assert_eq!(facility("3"), Some(3));
        for text in ["", "24", "-1", "Daemon"] {
            assert_eq!(facility(text), None, "{text}");
        }
    }
}
