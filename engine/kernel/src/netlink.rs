//! Netlink messages: writing them, sending them, reading the kernel's answer.
//!
//! Both users of this, links and packet filter rules, need a handful of requests, whose attributes are numbers, addresses
//! and short texts. A socket lives for one piece of work and belongs to the network namespace in which it was opened.
//!
//! No crate speaks the packet filter's part of it. netlink-packet-route speaks that of links, and refuses a message for one
//! attribute whose form it does not expect: the links of a newer kernel would not be there. Here nothing is read but what is asked for.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink, recv, sendto,
    socket_with,
};

/// The kernel answers at once; this is for a kernel that does not.
const PATIENCE: Duration = Duration::from_secs(10);
/// The kernel cuts its dumps into parts of at most 32 KiB.
const BUFFER: usize = 64 * 1024;

const HEADER: usize = 16;
const ATTRIBUTE: usize = 4;

const KIND_ERROR: u16 = 2;
const KIND_DONE: u16 = 3;

const FLAG_REQUEST: u16 = 0x1;
const FLAG_ACKNOWLEDGE: u16 = 0x4;
pub const FLAG_DUMP: u16 = 0x300;
pub const FLAG_REPLACE: u16 = 0x100;
pub const FLAG_EXCLUSIVE: u16 = 0x200;
pub const FLAG_CREATE: u16 = 0x400;
pub const FLAG_APPEND: u16 = 0x800;

const NESTED: u16 = 0x8000;
const KIND_MASK: u16 = 0x3fff;

/// A request while it is written.
#[derive(Clone, Debug)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    pub fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | FLAG_REQUEST).to_ne_bytes());
        Self { bytes }
    }

    /// Appends bytes that are no attribute: the fixed part of a request.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    pub fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let start = self.begin(kind);
        self.bytes.extend_from_slice(value);
        self.end(start);
        self
    }

    /// A number in the machine's order, as links have them.
    pub fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// A number in the network's order, as packet filters have them.
    pub fn network_number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let start = self.begin(kind);
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.end(start);
        self
    }

    pub fn nest(&mut self, kind: u16, inside: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.begin(kind | NESTED);
        inside(self);
        self.end(start);
        self
    }

    fn begin(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&0_u16.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    fn end(&mut self, start: usize) {
        // Too long for its header can only be a list of elements; the kernel refuses what does not add up.
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(0);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn set_flag(&mut self, flag: u16) {
        let flags = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | flag;
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// The attributes in these bytes, as far as they are well formed.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes([*bytes.first()?, *bytes.get(1)?]));
        let kind = u16::from_ne_bytes([*bytes.get(2)?, *bytes.get(3)?]) & KIND_MASK;
        let value = bytes.get(ATTRIBUTE..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The attribute of this kind, if it is there.
pub fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// The number in the first four bytes, in the machine's order.
pub fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

/// The text up to its end mark.
pub fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes.split(|byte| *byte == 0).next()?).ok()
}

/// A conversation with the kernel.
/// Every system lets a socket send this many bytes at once.
const ROOMY: usize = 100_000;

#[derive(Debug)]
pub struct Socket {
    descriptor: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// For links, addresses and routes.
    pub fn route() -> io::Result<Self> {
        // NETLINK_ROUTE is 0, which is what no protocol says.
        Self::open(None)
    }

    /// For packet filters and connection tracking.
    pub fn netfilter() -> io::Result<Self> {
        Self::open(Some(netlink::NETFILTER))
    }

    fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let descriptor =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        set_socket_timeout(&descriptor, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self { descriptor, sequence: 0 })
    }

    /// Lets the socket send this much at once, past what the system allows to everybody.
    #[expect(unsafe_code, reason = "there is no safe form of this option")]
    fn make_room(&self, bytes: usize) -> io::Result<()> {
        // The kernel takes it twice, for its own accounts.
        let size = libc::c_int::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        let length = libc::socklen_t::try_from(size_of_val(&size)).unwrap_or_default();
        // SAFETY: the pointer leads to as many bytes as are named, and only for the call.
        let result = unsafe {
            libc::setsockopt(
                self.descriptor.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_SNDBUFFORCE,
                (&raw const size).cast(),
                length,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > ROOMY {
            self.make_room(bytes.len())?;
        }
        let kernel = SocketAddrNetlink::new(0, 0);
        let sent =
            rustix::io::retry_on_intr(|| sendto(&self.descriptor, bytes, SendFlags::empty(), &kernel))?;
        if sent != bytes.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(())
    }

    /// Sends one request and waits until the kernel has carried it out.
    pub fn request(&mut self, message: Message) -> io::Result<()> {
        self.query(message, |_, _| ())
    }

    /// Sends one request, hands over each answer's kind and content, and waits for the end.
    pub fn query(&mut self, mut message: Message, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        message.set_flag(FLAG_ACKNOWLEDGE);
        let sequence = self.next_sequence();
        self.send(&message.finish(sequence))?;
        self.receive(|answer, kind, body| {
            if answer != sequence {
                return None;
            }
            match kind {
                KIND_ERROR | KIND_DONE => Some(outcome(body)),
                _ => {
                    each(kind, body);
                    None
                }
            }
        })
    }

    /// Sends messages that are carried out together or not at all.
    pub fn transaction(&mut self, begin: Message, messages: Vec<Message>, end: Message) -> io::Result<()> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = begin.finish(self.next_sequence());
        let mut last = first;
        let count = messages.len();
        for (index, mut message) in messages.into_iter().enumerate() {
            if index + 1 == count {
                message.set_flag(FLAG_ACKNOWLEDGE);
            }
            last = self.next_sequence();
            bytes.extend(message.finish(last));
        }
        let end_sequence = self.next_sequence();
        bytes.extend(end.finish(end_sequence));
        self.send(&bytes)?;
        self.receive(|answer, kind, body| {
            if kind != KIND_ERROR || !(first..=end_sequence).contains(&answer) {
                return None;
            }
            match outcome(body) {
                Ok(()) => (answer == last).then_some(Ok(())),
                Err(error) => Some(Err(error)),
            }
        })
    }

    /// Reads answers until one of them ends the conversation.
    fn receive(&self, mut each: impl FnMut(u32, u16, &[u8]) -> Option<io::Result<()>>) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let (length, _) =
                rustix::io::retry_on_intr(|| recv(&self.descriptor, &mut buffer[..], RecvFlags::empty()))?;
            let mut rest = &buffer[..length];
            while let Some(header) = rest.get(..HEADER) {
                let word = |at: usize| number(&header[at..]).unwrap_or(0);
                // An error repeats the request, which may not fit; its own content comes first.
                let length = usize::try_from(word(0)).unwrap_or(0).clamp(HEADER, rest.len());
                let kind = u16::from_ne_bytes([header[4], header[5]]);
                let body = &rest[HEADER..length];
                if let Some(result) = each(word(8), kind, body) {
                    return result;
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

/// What the kernel tells everybody of changes to its packet filters. It belongs to the network namespace in which it was opened.
#[derive(Debug)]
pub struct FilterChanges {
    descriptor: OwnedFd,
}

impl FilterChanges {
    pub fn open() -> io::Result<Self> {
        /// `NFNLGRP_NFTABLES`, the seventh.
        const GROUPS: u32 = 1 << 6;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let descriptor =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::NETFILTER))?;
        bind(&descriptor, &SocketAddrNetlink::new(0, GROUPS))?;
        Ok(Self { descriptor })
    }

    /// The kinds of the messages that have come together. Where there were too many, that they are lost is an error
    /// (`ENOBUFS`); where there are none, it would block.
    pub fn kinds(&self) -> io::Result<Vec<u16>> {
        let mut buffer = vec![0; BUFFER];
        let (length, _) =
            rustix::io::retry_on_intr(|| recv(&self.descriptor, &mut buffer[..], RecvFlags::empty()))?;
        let mut kinds = Vec::new();
        let mut rest = &buffer[..length.min(BUFFER)];
        while let Some(header) = rest.get(..HEADER) {
            kinds.push(u16::from_ne_bytes([header[4], header[5]]));
            let length = usize::try_from(number(header).unwrap_or(0)).unwrap_or(0).clamp(HEADER, rest.len());
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(kinds)
    }
}

impl AsRawFd for FilterChanges {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}

fn outcome(body: &[u8]) -> io::Result<()> {
    match number(body).map(u32::cast_signed) {
        Some(0) | None => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let mut message = Message::new(16, FLAG_CREATE);
        message.raw(&[1, 2, 3, 4]).text(3, "docker0").nest(18, |inside| {
            inside.text(1, "veth").number(2, 7);
        });
        let bytes = message.finish(5);
        assert_eq!(number(&bytes), Some(u32::try_from(bytes.len()).unwrap()));
        let content = &bytes[HEADER + 4..];
        assert_eq!(text(attribute(content, 3).unwrap()), Some("docker0"));
        let nested = attribute(content, 18).unwrap();
        assert_eq!(text(attribute(nested, 1).unwrap()), Some("veth"));
        assert_eq!(number(attribute(nested, 2).unwrap()), Some(7));
    }

    #[test]
    fn broken_attributes_end_the_list() {
        for bytes in [&[1, 0, 0][..], &[0, 0, 1, 0], &[3, 0, 1, 0], &[200, 0, 1, 0, 1], &[]] {
            assert_eq!(attributes(bytes).count(), 0, "{bytes:?}");
        }
    }

    #[test]
    fn the_kernel_refuses_what_is_no_request() {
        let mut socket = Socket::route().unwrap();
        let mut message = Message::new(18, 0);
        message.raw(&[0; 16]).text(3, "absent-link");
        assert_eq!(socket.request(message).unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }
}
