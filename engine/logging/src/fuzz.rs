//! Inputs at random for what reads what others wrote.

use crate::connection::Address;
use crate::lines::Lines;
use crate::{aws, fluentd, multiline};

#[test]
fn acknowledgements() {
    fuzz::run("acknowledgements", &[b"\x81\xa3ack\xa2xy", b"\x81\xa3ack\xd9\x02xy"], |bytes| {
        let _ = fluentd::parse_acknowledgement(bytes);
    });
}

#[test]
fn addresses_and_patterns() {
    fuzz::run("addresses", &[b"tcp://[::1]:601", b"unix:///dev/log", b"%Y-%m-%d %%"], |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let _ = Address::parse(&text, 1, &["tcp", "unix"]);
        let _ = regex_lite::Regex::new(&multiline::of_dates(&text));
        let _ = aws::of_profile(&text, "default");
    });
}

#[test]
fn lines_lose_nothing() {
    fuzz::run("lines", &[b"one\ntwo\n\nthree", &vec![b'x'; 70_000]], |bytes| {
        let mut lines = Lines::new(16 * 1024);
        let mut entries = Vec::new();
        for piece in bytes.chunks(1000) {
            entries.extend(lines.add(engine_shim::log::Stream::Stdout, jiff::Timestamp::UNIX_EPOCH, piece));
        }
        entries.extend(lines.finish());
        let length: usize = entries.iter().map(|entry| entry.line.len()).sum();
        assert_eq!(length, bytes.iter().filter(|byte| **byte != b'\n').count());
    });
}
