//! The driver `journald`: entries in systemd's journal, by its native protocol.
//!
//! The protocol is systemd's "Native Journal Protocol"; the fields are dockerd's.

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::Path;

use async_trait::async_trait;
use engine_shim::log::Stream;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::Interest;
use tokio::net::UnixDatagram;

use crate::driver::{ContainerInfo, Driver, DriverError};
use crate::lines::Entry;

const SOCKET: &str = "/run/systemd/journal/socket";

#[derive(Debug)]
pub(crate) struct Journald {
    socket: UnixDatagram,
    /// What all entries say.
    fields: Vec<u8>,
    /// Of entries of this run.
    ordinal: u64,
}

impl Journald {
    pub(crate) fn begin(container: &ContainerInfo) -> Result<Self, DriverError> {
        Self::at(Path::new(SOCKET), container)
    }

    fn at(path: &Path, container: &ContainerInfo) -> Result<Self, DriverError> {
        let connect = || {
            let socket = UnixDatagram::unbound()?;
            socket.connect(path)?;
            std::io::Result::Ok(socket)
        };
        let socket = connect()
            .map_err(|error| DriverError::new(format!("journald is not enabled on this host: {error}")))?;
        let mut fields = Vec::new();
        let epoch = format!("{:032x}", fastrand::u128(..));
        for (name, value) in [
            ("CONTAINER_ID", container.short_id()),
            ("CONTAINER_ID_FULL", &container.id),
            ("CONTAINER_NAME", &container.name),
            ("CONTAINER_TAG", &container.tag),
            ("IMAGE_NAME", &container.image_name),
            ("SYSLOG_IDENTIFIER", &container.tag),
            ("CONTAINER_LOG_EPOCH", &epoch),
        ] {
            add(&mut fields, name, value.as_bytes());
        }
        for (name, value) in &container.extra {
            if let Some(name) = field(name) {
                add(&mut fields, &name, value.as_bytes());
            }
        }
        Ok(Self { socket, fields, ordinal: 0 })
    }

    fn message(&mut self, entry: &Entry) -> Vec<u8> {
        self.ordinal += 1;
        let mut message = self.fields.clone();
        let priority: &[u8] = if entry.stream == Stream::Stderr { b"3" } else { b"6" };
        add(&mut message, "PRIORITY", priority);
        add(&mut message, "CONTAINER_LOG_ORDINAL", self.ordinal.to_string().as_bytes());
        add(&mut message, "SYSLOG_TIMESTAMP", format!("{:.9}", entry.time).as_bytes());
        if let Some(partial) = &entry.partial {
            add(&mut message, "CONTAINER_PARTIAL_ID", partial.id.as_bytes());
            add(&mut message, "CONTAINER_PARTIAL_ORDINAL", partial.ordinal.to_string().as_bytes());
            add(&mut message, "CONTAINER_PARTIAL_LAST", partial.last.to_string().as_bytes());
            if !partial.last {
                add(&mut message, "CONTAINER_PARTIAL_MESSAGE", b"true");
            }
        }
        add(&mut message, "MESSAGE", &entry.line);
        message
    }
}

/// What does not fit into one line is told by its length.
fn add(message: &mut Vec<u8>, name: &str, value: &[u8]) {
    message.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        message.push(b'\n');
        message.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        message.push(b'=');
    }
    message.extend_from_slice(value);
    message.push(b'\n');
}

/// A name that the journal takes: capital letters, digits and `_`, which it must not begin with, and 64 at most.
fn field(name: &str) -> Option<String> {
    let allowed =
        |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_uppercase() } else { '_' };
    let name: String = name.chars().map(allowed).skip_while(|letter| *letter == '_').take(64).collect();
    (!name.is_empty() && !name.starts_with(|first: char| first.is_ascii_digit())).then_some(name)
}

#[async_trait]
impl Driver for Journald {
    async fn send(&mut self, entry: Entry) -> Result<(), DriverError> {
        let message = self.message(&entry);
        let sent = match self.socket.send(&message).await {
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                send_file(&self.socket, &message).await
            }
            // The journal has begun anew.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                match self.socket.connect(SOCKET) {
                    Ok(()) => self.socket.send(&message).await.map(drop),
                    Err(error) => Err(error),
                }
            }
            other => other.map(drop),
        };
        sent.map_err(|error| DriverError::new(format!("Could not send to the journal: {error}")))
    }
}

/// What is too long for a datagram goes as a sealed file in memory.
async fn send_file(socket: &UnixDatagram, message: &[u8]) -> std::io::Result<()> {
    let file = rustix::fs::memfd_create(c"entry", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = std::fs::File::from(file);
    file.write_all(message)?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    socket
        .async_io(Interest::WRITABLE, || {
            let descriptors = [file.as_fd()];
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
            rustix::net::sendmsg(socket, &[], &mut ancillary, SendFlags::empty())?;
            Ok(())
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lines::Partial;

    #[test]
    fn an_entry_as_the_journal_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let journal = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _entered = runtime.enter();
        let container = ContainerInfo {
            id: "0123456789abcdef".to_owned(),
            name: "web".to_owned(),
            tag: "t".to_owned(),
            extra: [("com.example/a-b", "1\n2"), ("__", "lost"), ("9", "lost")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            ..ContainerInfo::default()
        };
        let mut driver = Journald::at(&path, &container).unwrap();
        let entry = Entry {
            time: "2026-01-02T03:04:05Z".parse().unwrap(),
            stream: Stream::Stderr,
            line: b"oh\xff".to_vec(),
            partial: Some(Partial { id: "p".to_owned(), ordinal: 2, last: true }),
        };
        runtime.block_on(driver.send(entry.clone())).unwrap();
        let mut buffer = vec![0; 64 * 1024];
        let count = journal.recv(&mut buffer).unwrap();
        let seen = String::from_utf8_lossy(&buffer[..count]).into_owned();
        for expected in [
            "CONTAINER_ID=0123456789ab\nCONTAINER_ID_FULL=0123456789abcdef\nCONTAINER_NAME=web\nCONTAINER_TAG=t\n",
            "SYSLOG_IDENTIFIER=t\n",
            "COM_EXAMPLE_A_B\n\u{3}\0\0\0\0\0\0\x001\n2\n",
            "PRIORITY=3\nCONTAINER_LOG_ORDINAL=1\nSYSLOG_TIMESTAMP=2026-01-02T03:04:05.000000000Z\n",
            "CONTAINER_PARTIAL_ID=p\nCONTAINER_PARTIAL_ORDINAL=2\nCONTAINER_PARTIAL_LAST=true\nMESSAGE=oh\u{fffd}\n",
        ] {
            assert!(seen.contains(expected), "{seen}");
        }
        assert!(!seen.contains("lost") && !seen.contains("PARTIAL_MESSAGE"), "{seen}");
        // More than a datagram may hold.
        let long = Entry { line: vec![b'x'; 4 << 20], ..entry };
        runtime.block_on(driver.send(long)).unwrap();
        assert_eq!(journal.recv(&mut buffer).unwrap(), 0, "it comes as a file");
    }
}
