//! The `json-file` log: one JSON object a line, rotated by size.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::protocol::LogConfig;
use older::Packing;
pub use older::{Identity, Piece, numbered};

mod older;

/// A longer line is logged in pieces, as docker does.
pub const LONGEST_LINE: usize = 16 * 1024;

/// One line of the file.
#[derive(Debug, Serialize, Deserialize)]
pub struct LogLine<'a> {
    #[serde(borrow)]
    pub log: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    pub stream: std::borrow::Cow<'a, str>,
    /// What the log's options want said of the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attrs: Option<std::borrow::Cow<'a, BTreeMap<String, String>>>,
    pub time: Timestamp,
}

/// Which of the two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout = 1,
    Stderr = 2,
}

impl Stream {
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// The log file that is being written.
#[derive(Debug)]
pub struct LogFile {
    config: LogConfig,
    file: File,
    /// Of the whole lines in it.
    size: u64,
    /// A write has failed, and what it left behind these could not be taken away.
    is_torn: bool,
    /// What was full last, where old files are packed.
    packing: Option<Packing>,
    /// The unfinished lines of standard output and standard error.
    unfinished: [Vec<u8>; 2],
    batch: Vec<u8>,
}

impl LogFile {
    pub fn open(config: LogConfig) -> io::Result<Self> {
        let file = open(&config.path, false)?;
        // A power cut may have torn the last line that was written before.
        let size = end_of_lines(&file)?;
        if size < file.metadata()?.len() {
            file.set_len(size)?;
        }
        let mut log = Self {
            config,
            file,
            size,
            is_torn: false,
            packing: None,
            unfinished: [Vec::new(), Vec::new()],
            batch: Vec::new(),
        };
        log.begin_packing();
        Ok(log)
    }

    /// Takes output as it comes; whole lines reach the file. What cannot be written is lost, and nothing else.
    pub fn write(&mut self, stream: Stream, mut bytes: &[u8]) -> io::Result<()> {
        let now = Timestamp::now();
        let slot = stream as usize - 1;
        let mut result = Ok(());
        while !bytes.is_empty() {
            let room = LONGEST_LINE - self.unfinished[slot].len();
            let window = &bytes[..bytes.len().min(room)];
            let (taken, complete) = match window.iter().position(|&byte| byte == b'\n') {
                Some(end) => (end + 1, true),
                None => (window.len(), window.len() == room),
            };
            self.unfinished[slot].extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if complete {
                result = self.finish_line(stream, now).and(result);
            }
        }
        self.flush().and(result)
    }

    /// Writes a line that is whole, or a part of one, as of this time.
    pub fn write_line(&mut self, stream: Stream, time: Timestamp, line: &[u8]) -> io::Result<()> {
        self.unfinished[stream as usize - 1].extend_from_slice(line);
        self.finish_line(stream, time).and_then(|()| self.flush())
    }

    /// Writes what has no end of line yet.
    pub fn finish(&mut self) -> io::Result<()> {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if !self.unfinished[stream as usize - 1].is_empty() {
                self.finish_line(stream, Timestamp::now())?;
            }
        }
        self.flush()
    }

    fn finish_line(&mut self, stream: Stream, time: Timestamp) -> io::Result<()> {
        let mut line = std::mem::take(&mut self.unfinished[stream as usize - 1]);
        let attributes = &self.config.attributes;
        let entry = LogLine {
            log: String::from_utf8_lossy(&line),
            stream: stream.name().into(),
            attrs: (!attributes.is_empty()).then_some(std::borrow::Cow::Borrowed(attributes)),
            time,
        };
        serde_json::to_writer(&mut self.batch, &entry)?;
        self.batch.push(b'\n');
        line.clear();
        self.unfinished[stream as usize - 1] = line;
        let full = self.config.max_size.is_some_and(|limit| self.size + self.batch.len() as u64 >= limit);
        if full || self.batch.len() > 256 * 1024 {
            self.flush()?;
        }
        if full { self.rotate() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.append();
        // Faster than the log grows, and nobody waits for long.
        self.pack(4 * self.batch.len() as u64);
        self.batch.clear();
        result
    }

    fn begin_packing(&mut self) {
        if self.config.compress && self.config.max_files > 1 {
            self.packing = Packing::begin(&self.config.path).ok().flatten();
        }
    }

    /// Packs some more of what was full last. If that fails, as on a full disk, it stays as it is.
    fn pack(&mut self, bytes: u64) {
        let Some(packing) = self.packing.take() else { return };
        match packing.go_on(bytes) {
            Ok(left) => self.packing = left,
            Err(_) => Packing::give_up(&self.config.path),
        }
    }

    /// Writes what was gathered, wholly or not at all: half a line would spoil the one after it.
    fn append(&mut self) -> io::Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        // Whoever had no room may have emptied the file: it is never made longer than it is.
        let before = self.file.metadata()?.len();
        if self.is_torn {
            self.file.set_len(self.size.min(before))?;
            self.is_torn = false;
        }
        self.size = self.size.min(before);
        match self.file.write_all(&self.batch) {
            Ok(()) => {
                self.size += self.batch.len() as u64;
                Ok(())
            }
            Err(error) => {
                self.is_torn = self.file.set_len(self.size).is_err();
                Err(error)
            }
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        while self.packing.is_some() {
            self.pack(u64::MAX);
        }
        older::shift(&self.config.path, self.config.max_files)?;
        self.file = open(&self.config.path, true)?;
        self.size = 0;
        self.begin_packing();
        Ok(())
    }
}

fn open(path: &Path, fresh: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).mode(0o640);
    if fresh {
        options.create_new(true)
    } else {
        options.create(true)
    };
    options.open(path)
}

/// Where the last whole line of a file ends.
fn end_of_lines(file: &File) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    let mut buffer = [0; 4096];
    while end > 0 {
        let start = end.saturating_sub(buffer.len() as u64);
        let part = &mut buffer[..usize::try_from(end - start).unwrap_or(0)];
        file.read_exact_at(part, start)?;
        if let Some(at) = part.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;

    fn config(folder: &Path, max_size: Option<u64>, max_files: u32) -> LogConfig {
        LogConfig {
            path: folder.join("x.log"),
            max_size,
            max_files,
            compress: false,
            attributes: BTreeMap::new(),
        }
    }

    fn texts(path: &Path) -> Vec<String> {
        let content = fs::read_to_string(path).unwrap();
        content.lines().map(|line| serde_json::from_str::<LogLine>(line).unwrap().log.into_owned()).collect()
    }

    #[test]
    fn lines_are_joined_and_long_ones_split() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), None, 1);
        let mut log = LogFile::open(config.clone()).unwrap();
        log.write(Stream::Stdout, b"one\ntw").unwrap();
        log.write(Stream::Stderr, b"other\n").unwrap();
        log.write(Stream::Stdout, b"o\n").unwrap();
        log.write(Stream::Stdout, &vec![b'x'; LONGEST_LINE + 10]).unwrap();
        log.write(Stream::Stdout, b"\xff\"").unwrap();
        log.finish().unwrap();
        let lines = texts(&config.path);
        assert_eq!(lines[..3], ["one\n", "other\n", "two\n"]);
        assert_eq!(lines[3].len(), LONGEST_LINE);
        assert_eq!(lines[4], format!("{}\u{fffd}\"", "x".repeat(10)));
    }

    #[test]
    fn old_files_are_renamed_and_the_oldest_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), Some(200), 3);
        let mut log = LogFile::open(config.clone()).unwrap();
        for number in 0..40 {
            log.write(Stream::Stdout, format!("line {number}\n").as_bytes()).unwrap();
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
        let older = texts(&numbered(&config.path, 1));
        let oldest = texts(&numbered(&config.path, 2));
        let current = texts(&config.path);
        let all: Vec<String> = oldest.into_iter().chain(older).chain(current).collect();
        assert_eq!(all.last().unwrap(), "line 39\n");
        let numbers: Vec<u32> = all.iter().map(|line| line.trim()[5..].parse().unwrap()).collect();
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
    }

    #[test]
    fn a_line_that_was_torn_is_taken_away() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), None, 1);
        for (left, expected) in [
            (String::new(), &["next\n"][..]),
            ("{\"log\":\"ha".to_owned(), &["next\n"]),
            (format!("{{\"log\":\"{}", "x".repeat(20_000)), &["next\n"]),
            (
                format!(
                    "{{\"log\":\"one\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-02T03:04:05Z\"}}\n{{\"log\":\"{}",
                    "y".repeat(9000)
                ),
                &["one\n", "next\n"],
            ),
        ] {
            fs::write(&config.path, &left).unwrap();
            LogFile::open(config.clone()).unwrap().write(Stream::Stdout, b"next\n").unwrap();
            assert_eq!(texts(&config.path), expected, "{left:.30}");
        }
    }

    #[test]
    fn a_file_that_somebody_emptied_stays_a_log() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), None, 1);
        let mut log = LogFile::open(config.clone()).unwrap();
        log.write(Stream::Stdout, b"before\n").unwrap();
        fs::File::options().write(true).open(&config.path).unwrap().set_len(0).unwrap();
        // As after a write for which there was no room.
        log.is_torn = true;
        log.write(Stream::Stdout, b"after\n").unwrap();
        assert_eq!(texts(&config.path), ["after\n"]);
    }

    /// The lines of all files, oldest first.
    fn all_texts(path: &Path) -> Vec<String> {
        let mut pieces: Vec<Piece> = (1..).map_while(|number| Piece::older(path, number).ok()).collect();
        pieces.reverse();
        pieces.push(Piece::plain(File::open(path).unwrap()).unwrap());
        let mut lines = Vec::new();
        for mut piece in pieces {
            piece.unpack(path.parent().unwrap()).unwrap();
            let text = std::io::read_to_string(&piece.file).unwrap();
            lines.extend(
                text.lines()
                    .map(|line| serde_json::from_str::<LogLine>(line).unwrap().log.trim_end().to_owned()),
            );
        }
        lines
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn old_files_are_packed_and_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let config = LogConfig { compress: true, ..config(folder.path(), Some(300_000), 4) };
        let mut log = LogFile::open(config.clone()).unwrap();
        let filling = "x".repeat(1000);
        let mut written = Vec::new();
        for number in 0..900 {
            let line = format!("{number} {filling}");
            log.write(Stream::Stdout, format!("{line}\n").as_bytes()).unwrap();
            written.push(line);
            if number == 700 {
                // Left in the middle of packing, and of what had no name yet.
                fs::write(folder.path().join("x.log.1.gz.part"), "half").unwrap();
                log = LogFile::open(config.clone()).unwrap();
            }
        }
        assert_eq!(names(folder.path()), ["x.log", "x.log.1.gz", "x.log.2.gz", "x.log.3.gz"]);
        let found = all_texts(&config.path);
        assert_eq!(found.len(), 900);
        assert_eq!(found, written);
        assert!(fs::metadata(folder.path().join("x.log.2.gz")).unwrap().len() < 30_000);
        // The oldest goes, whatever form it has.
        for number in 900..1500 {
            log.write(Stream::Stdout, format!("{number} {filling}\n").as_bytes()).unwrap();
        }
        assert_eq!(names(folder.path()).len(), 4);
        assert!(all_texts(&config.path).len() < 1200);
        assert!(all_texts(&config.path).last().unwrap().starts_with("1499 "));
    }

    #[test]
    fn what_cannot_be_packed_stays() {
        let folder = tempfile::tempdir().unwrap();
        let config = LogConfig { compress: true, ..config(folder.path(), Some(200), 3) };
        // Nobody can write a directory.
        fs::create_dir(folder.path().join("x.log.1.gz.part")).unwrap();
        let mut log = LogFile::open(config.clone()).unwrap();
        for number in 0..6 {
            log.write(Stream::Stdout, format!("{number} {}\n", "y".repeat(60)).as_bytes()).unwrap();
        }
        assert_eq!(names(folder.path()), ["x.log", "x.log.1", "x.log.1.gz.part", "x.log.2"]);
    }

    #[test]
    fn a_single_file_starts_anew() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), Some(100), 1);
        let mut log = LogFile::open(config.clone()).unwrap();
        for _ in 0..20 {
            log.write(Stream::Stdout, b"some words\n").unwrap();
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(fs::metadata(&config.path).unwrap().len() <= 200);
    }
}
