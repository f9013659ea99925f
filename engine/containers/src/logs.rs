//! Reading the logs of containers, over all files that rotation has left, and on as they grow.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use engine_model::executor::{LogRequest, LogStream};
use engine_shim::log::{Identity, LogLine, Piece, Stream};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use super::{Container, ContainerError, Containers};

/// As much is read at a time.
const PORTION: usize = 128 * 1024;
/// A line of the file that is longer was not written by this engine.
const LONGEST_LINE: u64 = 1024 * 1024;

impl Containers {
    /// The log as a stream of frames, or of bare text if the container has a terminal.
    pub async fn logs(
        &self,
        container: &Arc<Container>,
        request: LogRequest,
    ) -> Result<LogStream, ContainerError> {
        let Some(path) = container.log_path() else {
            let message = "configured logging driver does not support reading";
            return Err(ContainerError::Refused(message.to_owned()));
        };
        let terminal = container.spec()?.process.terminal;
        // Connected first, so that nothing falls between reading and following.
        let mut growth = match (request.follow, container.status().is_alive()) {
            (true, true) => container.shim().follow().await.ok(),
            _ => None,
        };
        let open = {
            let request = request.clone();
            tokio::task::spawn_blocking(move || Reader::open(&path, request, terminal))
        };
        let mut reader = open
            .await?
            .map_err(|source| ContainerError::Read { path: container.directory.clone(), source })?;
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            loop {
                let work = tokio::task::spawn_blocking(move || reader.portion());
                let Ok((back, portion)) = work.await else { return };
                reader = back;
                match portion {
                    Ok(Portion::More(bytes)) => {
                        if sender.send(Ok(bytes)).await.is_err() {
                            return;
                        }
                        continue;
                    }
                    Ok(Portion::Finished) => return,
                    Ok(Portion::EndOfFile) => {}
                    Err(error) => {
                        let _ = sender.send(Err(error)).await;
                        return;
                    }
                }
                let Some(stream) = &mut growth else { return };
                let mut signs = [0; 64];
                tokio::select! {
                    read = stream.read(&mut signs) => {
                        if !matches!(read, Ok(count) if count > 0) {
                            // The container has ended; what is there is all there will be.
                            growth = None;
                        }
                    }
                    () = sender.closed() => return,
                }
            }
        });
        Ok(receiver)
    }
}

enum Portion {
    More(Bytes),
    EndOfFile,
    /// Nothing that comes later can be wanted.
    Finished,
}

struct Reader {
    path: PathBuf,
    request: LogRequest,
    terminal: bool,
    /// Older files that are still to be read, oldest first.
    older: VecDeque<Piece>,
    current: BufReader<File>,
    identity: Identity,
    /// The beginning of a line that is not finished.
    line: Vec<u8>,
}

impl Reader {
    fn open(path: &Path, request: LogRequest, terminal: bool) -> io::Result<Self> {
        let current = match File::open(path) {
            // Nothing was written yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let flags = std::fs::OpenOptions::new().create(true).append(true).read(true).open(path);
                flags?
            }
            other => other?,
        };
        let mut pieces = vec![Piece::plain(current)?];
        for number in 1.. {
            match Piece::older(path, number) {
                Ok(piece) => pieces.push(piece),
                Err(_) => break,
            }
        }
        if let Some(tail) = request.tail {
            skip_to_tail(&mut pieces, tail, path)?;
        }
        let mut pieces: VecDeque<Piece> = pieces.into_iter().rev().collect();
        let mut first = pieces.pop_front().ok_or(io::ErrorKind::NotFound)?;
        first.unpack(folder(path))?;
        Ok(Self {
            path: path.to_owned(),
            request,
            terminal,
            older: pieces,
            identity: first.identity,
            current: BufReader::new(first.file),
            line: Vec::new(),
        })
    }

    fn portion(mut self) -> (Self, io::Result<Portion>) {
        let result = self.read();
        (self, result)
    }

    fn read(&mut self) -> io::Result<Portion> {
        let mut output = Vec::new();
        while output.len() < PORTION {
            let room = LONGEST_LINE - self.line.len() as u64;
            let count = (&mut self.current).take(room).read_until(b'\n', &mut self.line)?;
            if self.line.ends_with(b"\n") || self.line.len() as u64 == LONGEST_LINE {
                let line = std::mem::take(&mut self.line);
                if self.add(&line, &mut output) {
                    return Ok(if output.is_empty() {
                        Portion::Finished
                    } else {
                        Portion::More(output.into())
                    });
                }
            } else if count == 0 && !self.next_file()? {
                break;
            }
        }
        Ok(if output.is_empty() { Portion::EndOfFile } else { Portion::More(output.into()) })
    }

    /// Goes on to the file that continues the one read to its end, if there is one.
    fn next_file(&mut self) -> io::Result<bool> {
        let mut next = match self.older.pop_front() {
            Some(piece) => piece,
            None => match self.successor()? {
                Some(piece) => piece,
                None => return Ok(false),
            },
        };
        next.unpack(folder(&self.path))?;
        self.identity = next.identity;
        self.current = BufReader::new(next.file);
        self.line.clear();
        Ok(true)
    }

    /// The file that was begun when the one being read was renamed.
    fn successor(&mut self) -> io::Result<Option<Piece>> {
        let Ok(newest) = File::open(&self.path) else { return Ok(None) };
        let newest = Piece::plain(newest)?;
        if newest.identity == self.identity {
            return Ok(None);
        }
        // More may have been written between the end of the file and its renaming.
        if !self.current.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let mut successor = newest;
        for number in 1.. {
            let Ok(piece) = Piece::older(&self.path, number) else { break };
            if piece.identity == self.identity {
                break;
            }
            successor = piece;
        }
        Ok(Some(successor))
    }

    /// Adds a line if it is wanted; true if none that follows can be.
    fn add(&self, line: &[u8], output: &mut Vec<u8>) -> bool {
        // A line cut off by a power failure is no reason to hide the others.
        let Ok(entry) = serde_json::from_slice::<LogLine>(line) else { return false };
        if self.request.until.is_some_and(|until| entry.time > until) {
            return true;
        }
        let stream = if entry.stream == "stderr" { Stream::Stderr } else { Stream::Stdout };
        let wanted = if stream == Stream::Stdout { self.request.stdout } else { self.request.stderr };
        if !wanted || self.request.since.is_some_and(|since| entry.time < since) {
            return false;
        }
        let time = if self.request.timestamps { format!("{:.9} ", entry.time) } else { String::new() };
        let details = if self.request.details { details(entry.attrs.as_deref()) } else { String::new() };
        let length = time.len() + details.len() + entry.log.len();
        if !self.terminal {
            let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
            output.extend_from_slice(&[stream as u8, 0, 0, 0, a, b, c, d]);
        }
        output.extend_from_slice(time.as_bytes());
        output.extend_from_slice(details.as_bytes());
        output.extend_from_slice(entry.log.as_bytes());
        false
    }
}

/// `name=value,other=value `, with what would confuse a reader escaped as in a URL; a lone space where there is nothing to say.
fn details(attributes: Option<&BTreeMap<String, String>>) -> String {
    let escaped = |text: &str| {
        let escape = |byte: u8| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            b' ' => "+".to_owned(),
            byte => format!("%{byte:02X}"),
        };
        text.bytes().map(escape).collect::<String>()
    };
    let pairs: Vec<String> = attributes
        .into_iter()
        .flatten()
        .map(|(name, value)| format!("{}={}", escaped(name), escaped(value)))
        .collect();
    format!("{} ", pairs.join(","))
}

/// Where a packed file of this log is unpacked.
fn folder(log: &Path) -> &Path {
    log.parent().unwrap_or(log)
}

/// Leaves out files before the last `tail` lines and seeks to the first of these. The newest file is the first.
fn skip_to_tail(pieces: &mut Vec<Piece>, tail: usize, log: &Path) -> io::Result<()> {
    let mut left = tail;
    for (index, piece) in pieces.iter_mut().enumerate() {
        piece.unpack(folder(log))?;
        let size = piece.file.metadata()?.len();
        let (found, position) = last_lines(&piece.file, size, left)?;
        piece.file.seek(SeekFrom::Start(position))?;
        left -= found;
        if left == 0 {
            pieces.truncate(index + 1);
            return Ok(());
        }
    }
    Ok(())
}

/// How many of the last `wanted` lines a file has, and where they begin.
fn last_lines(file: &File, size: u64, wanted: usize) -> io::Result<(usize, u64)> {
    const BLOCK: u64 = 64 * 1024;
    if wanted == 0 {
        return Ok((0, size));
    }
    let mut found = 0;
    let mut end = size;
    let mut block = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        block.resize(usize::try_from(end - start).unwrap_or(0), 0);
        file.read_exact_at(&mut block, start)?;
        for (offset, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let after = start + offset as u64 + 1;
            // The end of the last line begins none.
            if after == size {
                continue;
            }
            found += 1;
            if found == wanted {
                return Ok((found, after));
            }
        }
        end = start;
    }
    // What is before the first line end is a line, too.
    Ok((if size > 0 { found + 1 } else { 0 }, 0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use engine_shim::log::LogFile;
    use engine_shim::protocol::LogConfig;

    fn all() -> LogRequest {
        LogRequest { stdout: true, stderr: true, ..LogRequest::default() }
    }

    fn text(reader: Reader) -> (Reader, String) {
        let mut reader = reader;
        let mut text = Vec::new();
        loop {
            let (back, portion) = reader.portion();
            reader = back;
            match portion.unwrap() {
                Portion::More(bytes) => text.extend_from_slice(&bytes),
                Portion::EndOfFile | Portion::Finished => return (reader, String::from_utf8(text).unwrap()),
            }
        }
    }

    #[test]
    fn rotated_files_are_read_in_order_and_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let config = LogConfig {
            path: path.clone(),
            max_size: Some(400),
            max_files: 4,
            compress: false,
            attributes: BTreeMap::new(),
        };
        let mut log = LogFile::open(config).unwrap();
        for number in 0..8 {
            log.write(Stream::Stdout, format!("{number},").as_bytes()).unwrap();
            log.write(Stream::Stdout, b"\n").unwrap();
        }
        let (reader, first) = text(Reader::open(&path, all(), true).unwrap());
        assert_eq!(first.replace('\n', ""), "0,1,2,3,4,5,6,7,");
        for number in 8..17 {
            log.write(Stream::Stdout, format!("{number},\n").as_bytes()).unwrap();
        }
        let (_, more) = text(reader);
        assert_eq!(more.replace('\n', ""), "8,9,10,11,12,13,14,15,16,");
    }

    #[test]
    fn the_tail_reaches_over_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let config = LogConfig {
            path: path.clone(),
            max_size: Some(300),
            max_files: 5,
            compress: false,
            attributes: BTreeMap::new(),
        };
        let mut log = LogFile::open(config).unwrap();
        for number in 0..12 {
            log.write(Stream::Stderr, format!("{number}\n").as_bytes()).unwrap();
        }
        for (tail, expected) in
            [(0, ""), (1, "11 "), (2, "10 11 "), (7, "5 6 7 8 9 10 11 "), (99, "0 1 2 3 4 5 6 7 8 9 10 11 ")]
        {
            let request = LogRequest { tail: Some(tail), ..all() };
            assert_eq!(
                text(Reader::open(&path, request, true).unwrap()).1.replace('\n', " "),
                expected,
                "{tail}"
            );
        }
        let none = LogRequest { stderr: false, ..all() };
        assert_eq!(text(Reader::open(&path, none, true).unwrap()).1, "");
    }

    #[test]
    fn packed_files_are_read_like_others_and_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let config = LogConfig {
            path: path.clone(),
            max_size: Some(100_000),
            max_files: 6,
            compress: true,
            attributes: BTreeMap::new(),
        };
        let mut log = LogFile::open(config).unwrap();
        let write = |log: &mut LogFile, numbers: std::ops::Range<u32>| {
            for number in numbers {
                log.write(Stream::Stdout, format!("{number:05} {}\n", "z".repeat(500)).as_bytes()).unwrap();
            }
        };
        let numbers = |text: &str| -> Vec<u32> {
            text.lines().map(|line| line.get(..5).unwrap().parse().unwrap()).collect()
        };
        write(&mut log, 0..500);
        assert!(folder.path().join("log.2.gz").exists());
        let tail = LogRequest { tail: Some(450), ..all() };
        assert!(numbers(&text(Reader::open(&path, tail, true).unwrap()).1).into_iter().eq(50..500));
        let (reader, first) = text(Reader::open(&path, all(), true).unwrap());
        assert!(numbers(&first).into_iter().eq(0..500));
        // What it was reading is packed meanwhile, once and three times over.
        write(&mut log, 500..650);
        let (reader, more) = text(reader);
        assert!(numbers(&more).into_iter().eq(500..650), "{:?}", numbers(&more));
        write(&mut log, 650..1200);
        let (_, more) = text(reader);
        assert!(numbers(&more).into_iter().eq(650..1200), "{:?}", numbers(&more));
        // A damaged one hides nothing but itself.
        let damaged = folder.path().join("log.2.gz");
        let half = std::fs::metadata(&damaged).unwrap().len() / 2;
        File::options().write(true).open(&damaged).unwrap().set_len(half).unwrap();
        let left = numbers(&text(Reader::open(&path, all(), true).unwrap()).1);
        assert_eq!(left.last(), Some(&1199));
        assert!(left.len() > 300 && left.is_sorted());
    }

    #[test]
    fn frames_and_times() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(
            &path,
            "{\"log\":\"a\\n\",\"stream\":\"stderr\",\"time\":\"2026-01-02T03:04:05.5Z\"}\nbroken\n{\"log\":\"b\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-02T03:04:06Z\"}\n",
        )
        .unwrap();
        let request = LogRequest { timestamps: true, until: "2026-01-02T03:04:05.6Z".parse().ok(), ..all() };
        let (_, text) = text(Reader::open(&path, request, false).unwrap());
        assert_eq!(text, "\u{2}\0\0\0\0\0\0\u{21}2026-01-02T03:04:05.500000000Z a\n");
    }
}
