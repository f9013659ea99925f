//! Lines out of a container's output as it comes.

use engine_shim::log::Stream;
use jiff::Timestamp;

/// One line, or a part of one that is too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) time: Timestamp,
    pub(crate) stream: Stream,
    /// Without its end.
    pub(crate) line: Vec<u8>,
    pub(crate) partial: Option<Partial>,
}

impl Entry {
    pub(crate) fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.line)
    }
}

/// Which part of a line it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Partial {
    /// The same for all parts of a line.
    pub(crate) id: String,
    /// From 1 on.
    pub(crate) ordinal: u32,
    pub(crate) last: bool,
}

/// The unfinished lines of both streams.
#[derive(Debug)]
pub(crate) struct Lines {
    streams: [Unfinished; 2],
    /// Bytes of a line; a longer one comes in parts.
    longest: usize,
}

#[derive(Debug, Default)]
struct Unfinished {
    bytes: Vec<u8>,
    /// Of the part that was given out last, if the line goes on.
    part: Option<(String, u32)>,
    /// When its last byte came.
    time: Timestamp,
    /// The rest of a line whose beginning is lost.
    is_rest: bool,
}

impl Lines {
    pub(crate) fn new(longest: usize) -> Self {
        Self { streams: Default::default(), longest }
    }

    /// Adds what has come; what is complete by that.
    pub(crate) fn add(&mut self, stream: Stream, time: Timestamp, mut bytes: &[u8]) -> Vec<Entry> {
        let unfinished = &mut self.streams[stream as usize - 1];
        unfinished.time = time;
        if unfinished.is_rest {
            let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return Vec::new() };
            unfinished.is_rest = false;
            bytes = &bytes[end + 1..];
        }
        let mut complete = Vec::new();
        while !bytes.is_empty() {
            let room = self.longest - unfinished.bytes.len();
            let window = &bytes[..bytes.len().min(room)];
            if let Some(end) = window.iter().position(|byte| *byte == b'\n') {
                unfinished.bytes.extend_from_slice(&bytes[..end]);
                bytes = &bytes[end + 1..];
                complete.push(unfinished.take(stream, true));
            } else {
                unfinished.bytes.extend_from_slice(window);
                bytes = &bytes[window.len()..];
                if unfinished.bytes.len() == self.longest {
                    complete.push(unfinished.take(stream, false));
                }
            }
        }
        complete
    }

    /// Something of this stream is lost: with it goes the line that it was in the middle of, on both sides.
    pub(crate) fn lose(&mut self, stream: Stream) {
        self.streams[stream as usize - 1] = Unfinished { is_rest: true, ..Unfinished::default() };
    }

    /// What has no end and gets none any more.
    pub(crate) fn finish(&mut self) -> Vec<Entry> {
        [Stream::Stdout, Stream::Stderr]
            .into_iter()
            .filter_map(|stream| {
                let mut unfinished = std::mem::take(&mut self.streams[stream as usize - 1]);
                (!unfinished.bytes.is_empty()).then(|| unfinished.take(stream, true))
            })
            .collect()
    }
}

impl Unfinished {
    fn take(&mut self, stream: Stream, ends: bool) -> Entry {
        let partial = match (self.part.take(), ends) {
            (None, true) => None,
            (None, false) => Some((random_id(), 1)),
            (Some((id, ordinal)), _) => Some((id, ordinal + 1)),
        };
        if !ends {
            self.part.clone_from(&partial);
        }
        Entry {
            time: self.time,
            stream,
            line: std::mem::take(&mut self.bytes),
            partial: partial.map(|(id, ordinal)| Partial { id, ordinal, last: ends }),
        }
    }
}

fn random_id() -> String {
    (0..4).map(|_| format!("{:016x}", fastrand::u64(..))).collect()
}

#[cfg(test)]
mod tests {
    use engine_shim::log::LONGEST_LINE;

    use super::*;

    fn texts(entries: &[Entry]) -> Vec<String> {
        entries.iter().map(|entry| entry.text().into_owned()).collect()
    }

    #[test]
    fn lines_of_both_streams_are_joined() {
        let mut lines = Lines::new(LONGEST_LINE);
        let time = Timestamp::UNIX_EPOCH;
        assert_eq!(texts(&lines.add(Stream::Stdout, time, b"one\n\ntw")), ["one", ""]);
        assert_eq!(texts(&lines.add(Stream::Stderr, time, b"other\nrest")), ["other"]);
        let two = lines.add(Stream::Stdout, time, b"o\n");
        assert_eq!((texts(&two), two[0].partial.clone()), (vec!["two".to_owned()], None));
        assert_eq!(texts(&lines.finish()), ["rest"]);
        assert_eq!(lines.finish(), []);
    }

    #[test]
    fn parts_of_a_long_line_know_of_each_other() {
        let mut lines = Lines::new(LONGEST_LINE);
        let long = vec![b'x'; LONGEST_LINE * 2 + 5];
        let mut parts = lines.add(Stream::Stdout, Timestamp::UNIX_EPOCH, &long);
        parts.extend(lines.add(Stream::Stdout, Timestamp::UNIX_EPOCH, b"\nnext\n"));
        let lengths: Vec<usize> = parts.iter().map(|part| part.line.len()).collect();
        assert_eq!(lengths, [LONGEST_LINE, LONGEST_LINE, 5, 4]);
        let partial: Vec<_> = parts.iter().map(|part| part.partial.clone()).collect();
        let told: Vec<_> = partial.iter().flatten().map(|part| (part.ordinal, part.last)).collect();
        assert_eq!(told, [(1, false), (2, false), (3, true)]);
        assert_eq!(partial[0].as_ref().map(|part| &part.id), partial[2].as_ref().map(|part| &part.id));
        assert_eq!(partial[3], None);
    }

    #[test]
    fn a_line_that_is_lost_in_part_is_lost_as_a_whole() {
        let mut lines = Lines::new(LONGEST_LINE);
        let time = Timestamp::UNIX_EPOCH;
        lines.add(Stream::Stdout, time, b"begun");
        lines.add(Stream::Stderr, time, b"other ");
        lines.lose(Stream::Stdout);
        assert_eq!(texts(&lines.add(Stream::Stdout, time, b" and gone")), [""; 0]);
        assert_eq!(texts(&lines.add(Stream::Stdout, time, b"\nnext\n")), ["next"]);
        assert_eq!(texts(&lines.add(Stream::Stderr, time, b"stream\n")), ["other stream"]);
    }
}
