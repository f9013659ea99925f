//! One question of a container: answered from the names of its networks, refused, or left for others to answer.
//!
//! What comes from a container is hostile until parsed. Nothing here keeps anything of it, or waits.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::names::Names;

/// Seconds that an answer may be kept, as with Docker.
const LIFETIME: u32 = 600;
const HEADER: usize = 12;
/// The bit of a header that says that it is an answer.
const IS_ANSWER: u8 = 0x80;
/// An address in an answer takes this many bytes, as its name is a reference.
const SMALLEST_RECORD: usize = 16;
/// What all can receive.
const SMALLEST_LIMIT: usize = 512;

/// By which way it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// What becomes of a message.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is nothing that one answers.
    Nothing,
    Answer(Vec<u8>),
    /// Nobody on the container's networks is called so.
    Forward(Question),
}

/// What is asked of others.
#[derive(Clone, Debug)]
pub(super) struct Question {
    header: Metadata,
    query: Query,
    edns: Option<Edns>,
}

/// Whose questions they are.
#[derive(Debug)]
pub(super) struct Asker<'a> {
    pub(super) container: &'a str,
    pub(super) names: &'a Names,
    /// Names without dots are not for others, as the container's configuration completes them.
    pub(super) has_dots: bool,
}

/// Looks at a message.
pub(super) fn consider(bytes: &[u8], transport: Transport, asker: &Asker<'_>) -> Outcome {
    let Some(header) = bytes.first_chunk::<HEADER>() else { return Outcome::Nothing };
    if header[2] & IS_ANSWER != 0 {
        return Outcome::Nothing;
    }
    let Ok(Message { metadata, queries, edns, .. }) = Message::from_vec(bytes) else {
        return Outcome::Answer(malformed(header));
    };
    let refuse = |code| {
        let mut message = reply(&metadata, edns.as_ref());
        message.metadata.response_code = code;
        encode(&message).map_or(Outcome::Nothing, Outcome::Answer)
    };
    if metadata.op_code != OpCode::Query {
        return refuse(ResponseCode::NotImp);
    }
    let Ok([query]) = <[Query; 1]>::try_from(queries) else { return refuse(ResponseCode::FormErr) };
    let question = Question { header: metadata, query, edns };
    let limit = match (transport, &question.edns) {
        (Transport::Tcp, _) => usize::from(u16::MAX),
        (Transport::Udp, Some(edns)) => usize::from(edns.max_payload()).max(SMALLEST_LIMIT),
        (Transport::Udp, None) => SMALLEST_LIMIT,
    };
    match question.records(asker, limit) {
        Some(records) => question.answer(records, limit).map_or(Outcome::Nothing, Outcome::Answer),
        None if asker.has_dots && question.is_plain_name() => {
            question.answer(Vec::new(), limit).map_or(Outcome::Nothing, Outcome::Answer)
        }
        None => Outcome::Forward(question),
    }
}

impl Question {
    /// What is known of it, perhaps that there is nothing of the kind that is asked for.
    fn records(&self, asker: &Asker<'_>, limit: usize) -> Option<Vec<RData>> {
        if self.query.query_class() != DNSClass::IN {
            return None;
        }
        let kind = self.query.query_type();
        if kind == RecordType::PTR
            && let Some(address) = reverse(self.query.name())
        {
            let name = asker.names.name_of(asker.container, address)?;
            return Some(vec![RData::PTR(PTR(Name::from_ascii(format!("{name}.")).ok()?))]);
        }
        let mut addresses = asker.names.addresses(asker.container, &text(self.query.name())?)?;
        addresses.retain(|address| match kind {
            RecordType::A => address.is_ipv4(),
            RecordType::AAAA => address.is_ipv6(),
            kind => kind == RecordType::ANY,
        });
        if addresses.len() > 1 {
            // Each of them is the first one as often as the others.
            let first = fastrand::usize(..addresses.len());
            addresses.rotate_left(first);
            // One more than fits, so that what is left out is told.
            addresses.truncate(limit / SMALLEST_RECORD + 1);
        }
        let record = |address| match address {
            IpAddr::V4(address) => RData::A(A(address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(address)),
        };
        Some(addresses.into_iter().map(record).collect())
    }

    /// An address is asked for, of a name without dots.
    fn is_plain_name(&self) -> bool {
        matches!(self.query.query_type(), RecordType::A | RecordType::AAAA)
            && self.query.name().num_labels() == 1
    }

    /// The answer with as many of the records as fit.
    fn answer(&self, records: Vec<RData>, limit: usize) -> Option<Vec<u8>> {
        let mut message = self.reply();
        for data in records {
            message.add_answer(Record::from_rdata(self.query.name().clone(), LIFETIME, data));
        }
        let mut bytes = encode(&message)?;
        while bytes.len() > limit && !message.answers.is_empty() {
            message.metadata.truncation = true;
            let excess = (bytes.len() - limit).div_ceil(SMALLEST_RECORD);
            message.answers.truncate(message.answers.len().saturating_sub(excess.div_ceil(2)));
            bytes = encode(&message)?;
        }
        Some(bytes)
    }

    fn reply(&self) -> Message {
        let mut message = reply(&self.header, self.edns.as_ref());
        message.add_query(self.query.clone());
        message
    }

    /// The answer that there will be none.
    pub(super) fn failure(&self, code: ResponseCode) -> Option<Vec<u8>> {
        let mut message = self.reply();
        message.metadata.response_code = code;
        encode(&message)
    }

    /// Whether these bytes are an answer to it, asked under this number; and what they say of how it went.
    pub(super) fn is_answered_by(&self, bytes: &[u8], number: u16) -> Option<ResponseCode> {
        use hickory_proto::op::Header;
        use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
        let mut decoder = BinDecoder::new(bytes);
        let Header { metadata, counts } = Header::read(&mut decoder).ok()?;
        if metadata.id != number || bytes.get(2)? & IS_ANSWER == 0 {
            return None;
        }
        // Who cannot read a question does not repeat it either.
        if counts.queries == 0 && metadata.response_code != ResponseCode::NoError {
            return Some(metadata.response_code);
        }
        let query = Query::read(&mut decoder).ok().filter(|_| counts.queries == 1)?;
        let is_same = query.name() == self.query.name()
            && query.query_type() == self.query.query_type()
            && query.query_class() == self.query.query_class();
        is_same.then_some(metadata.response_code)
    }

    pub(super) fn number(&self) -> u16 {
        self.header.id
    }
}

fn reply(header: &Metadata, edns: Option<&Edns>) -> Message {
    let mut message = Message::response(header.id, header.op_code);
    message.metadata.recursion_desired = header.recursion_desired;
    message.metadata.checking_disabled = header.checking_disabled;
    message.metadata.recursion_available = true;
    if let Some(asked) = edns {
        let mut edns = Edns::new();
        edns.set_max_payload(asked.max_payload().max(512)).set_version(0);
        message.set_edns(edns);
    }
    message
}

fn encode(message: &Message) -> Option<Vec<u8>> {
    message.to_vec().inspect_err(|error| tracing::debug!(%error, "An answer could not be written")).ok()
}

/// The answer to what cannot be read: its header, and that.
fn malformed(header: &[u8; HEADER]) -> Vec<u8> {
    const FORMAT_ERROR: u8 = 1;
    let mut answer = vec![0; HEADER];
    answer[..2].copy_from_slice(&header[..2]);
    // The kind of the request and whether recursion was wished for are as they were.
    answer[2] = IS_ANSWER | (header[2] & 0x79);
    answer[3] = FORMAT_ERROR;
    answer
}

/// The name as text in small letters, without a last dot, if it could be somebody's.
fn text(name: &Name) -> Option<String> {
    let mut text = String::with_capacity(name.len());
    for label in name {
        if !label.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'.') {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
    }
    (!text.is_empty()).then_some(text)
}

/// The whole address that a name of a reverse look-up stands for.
fn reverse(name: &Name) -> Option<IpAddr> {
    let net = name.parse_arpa_name().ok()?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}
