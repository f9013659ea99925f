//! Reads a tar stream entry by entry, with every size bounded and the bytes around file contents handed on.
//!
//! The bytes that are not file contents (headers, padding, the end) go to a sink, so that a layer can be written out
//! again exactly as it came.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use super::fields::{invalid, number};
use super::sparse::{self, Map};

const BLOCK: usize = 512;
/// Bytes of a file that are worth a hole.
const LONG_NOTHING: usize = 16 * 1024;
/// Long names and extended headers: generous for real ones, which hold some paths and attributes.
const LONGEST_EXTENSION: u64 = 1 << 20;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink,
    SymbolicLink,
    CharacterDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// One entry's header, extensions applied.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    /// Seconds and nanoseconds.
    pub(super) modified: (i64, u32),
    pub(super) size: u64,
    pub(super) device: (u32, u32),
    pub(super) attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// Of a file with holes: where its content belongs. Its `size` is that of what the archive holds.
    pub(super) holes: Option<Map>,
}

impl Entry {
    /// Writes the content to a new file, with the holes that it has.
    pub(super) fn write(&self, content: &mut impl Read, file: &mut File) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        let mut copy = |count: u64, file: &mut File| -> io::Result<()> {
            let mut part = content.take(count);
            loop {
                match part.read(&mut buffer)? {
                    0 => return Ok(()),
                    // Long nothing becomes a hole: a file may have been one for the most part before it was packed.
                    read if read >= LONG_NOTHING && buffer[..read].iter().all(|byte| *byte == 0) => {
                        file.seek_relative(i64::try_from(read).map_err(io::Error::other)?)?;
                    }
                    read => file.write_all(&buffer[..read])?,
                }
            }
        };
        let Some(map) = &self.holes else {
            copy(self.size, file)?;
            // A hole at the end, or an archive that ends too early: whoever reads on finds that.
            let end = file.stream_position()?;
            return file.set_len(end);
        };
        for chunk in &map.chunks {
            file.seek(SeekFrom::Start(chunk.offset))?;
            copy(chunk.length, file)?;
        }
        file.set_len(map.size)
    }
}

/// What extension headers say about the entry after them.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    modified: Option<(i64, u32)>,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
    holes: sparse::Extension,
}

/// A tar stream. After `next_entry`, reading gives the content of that entry.
pub(super) struct TarReader<R, S> {
    source: R,
    sink: S,
    content: u64,
    padding: u64,
    ended: bool,
}

impl<R: Read, S: FnMut(&[u8]) -> io::Result<()>> TarReader<R, S> {
    pub(super) fn new(source: R, sink: S) -> Self {
        Self { source, sink, content: 0, padding: 0, ended: false }
    }

    /// The next entry, or `None` at the end, when the whole source has been read.
    pub(super) fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        let mut extensions = Extensions::default();
        loop {
            self.pass_on(self.content + self.padding)?;
            (self.content, self.padding) = (0, 0);
            let Some(block) = self.header_block()? else { return Ok(None) };
            let header = tar::Header::from_byte_slice(&block);
            check_sum(&block, header)?;
            let kind = header.as_bytes()[156];
            let size = header.entry_size()?;
            match kind {
                b'L' => extensions.path = Some(without_nul(self.extension(size)?)),
                b'K' => extensions.link = Some(without_nul(self.extension(size)?)),
                b'x' => extensions.read_pax(&self.extension(size)?)?,
                // Global headers carry remarks such as a commit id.
                b'g' => {
                    self.extension(size)?;
                }
                _ => return self.entry(header, kind, extensions).map(Some),
            }
        }
    }

    /// Bytes of the current entry's content that are still unread.
    pub(super) fn remaining(&self) -> u64 {
        self.content
    }

    fn entry(&mut self, header: &tar::Header, kind: u8, mut extensions: Extensions) -> io::Result<Entry> {
        let is_gnu_sparse = kind == b'S';
        let Extensions { path, holes, .. } = &mut extensions;
        let path =
            holes.name.take().or_else(|| path.take()).unwrap_or_else(|| header.path_bytes().into_owned());
        let kind = match kind {
            b'0' | b'\0' | b'7' if path.ends_with(b"/") => Kind::Directory,
            b'0' | b'\0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::SymbolicLink,
            b'3' => Kind::CharacterDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => {
                return Err(invalid(format!("Entries of type `{}` are not known", other.escape_ascii())));
            }
        };
        let size = match extensions.size {
            Some(size) => size,
            None => header.entry_size()?,
        };
        // Only files have content; some writers give links the size of what they point to.
        let size = if kind == Kind::File { size } else { 0 };
        self.content = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        let holes = match kind {
            Kind::File if is_gnu_sparse => Some(sparse::after_header(header, || self.block())?),
            Kind::File => {
                let mut content = self.content;
                let map = extensions.holes.map(&mut content, || self.block())?;
                self.content = content;
                map
            }
            _ => None,
        };
        let size = self.content;
        if let Some(map) = &holes {
            map.check(size)?;
        }
        // Some writers leave out what they have nothing to say about.
        let blank = |field: std::ops::Range<usize>| {
            header.as_bytes()[field].iter().all(|byte| matches!(byte, 0 | b' '))
        };
        let number = |value: io::Result<Option<u32>>| value.ok().flatten().unwrap_or(0);
        Ok(Entry {
            path,
            link: extensions.link.unwrap_or_else(|| {
                header.link_name_bytes().map(std::borrow::Cow::into_owned).unwrap_or_default()
            }),
            kind,
            mode: if blank(100..108) { 0 } else { header.mode()? & 0o7777 },
            uid: extensions.uid.map_or_else(|| if blank(108..116) { Ok(0) } else { header.uid() }, Ok)?,
            gid: extensions.gid.map_or_else(|| if blank(116..124) { Ok(0) } else { header.gid() }, Ok)?,
            modified: match extensions.modified {
                Some(modified) => modified,
                None if blank(136..148) => (0, 0),
                None => (i64::try_from(header.mtime()?).unwrap_or(0), 0),
            },
            size,
            device: (number(header.device_major()), number(header.device_minor())),
            attributes: extensions.attributes,
            holes,
        })
    }

    /// One more block, passed on.
    fn block(&mut self) -> io::Result<[u8; BLOCK]> {
        let mut block = [0; BLOCK];
        self.source.read_exact(&mut block)?;
        (self.sink)(&block)?;
        Ok(block)
    }

    /// Reads one block; `None` at the end of the archive.
    fn header_block(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        if self.ended {
            return Ok(None);
        }
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.source.read(&mut block[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        (self.sink)(&block[..filled])?;
        if filled == BLOCK && block.iter().any(|byte| *byte != 0) {
            return Ok(Some(block));
        }
        if filled != 0 && filled != BLOCK {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "The archive ends in the middle of a header",
            ));
        }
        self.ended = true;
        if filled == BLOCK {
            self.pass_on_rest()?;
        }
        Ok(None)
    }

    /// Reads the content of an extension header.
    fn extension(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > LONGEST_EXTENSION {
            return Err(invalid(format!("An extension header of {size} bytes is too long")));
        }
        let mut bytes = Vec::new();
        (&mut self.source).take(size.next_multiple_of(BLOCK as u64)).read_to_end(&mut bytes)?;
        (self.sink)(&bytes)?;
        let size = usize::try_from(size).map_err(|_| invalid("An extension header is too long"))?;
        if bytes.len() < size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.truncate(size);
        Ok(bytes)
    }

    fn pass_on(&mut self, mut count: u64) -> io::Result<()> {
        let mut buffer = [0; 8192];
        while count > 0 {
            let wanted = usize::try_from(count).unwrap_or(usize::MAX).min(buffer.len());
            let read = self.source.read(&mut buffer[..wanted])?;
            if read == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "The archive ends in the middle of a file",
                ));
            }
            (self.sink)(&buffer[..read])?;
            count -= read as u64;
        }
        Ok(())
    }

    fn pass_on_rest(&mut self) -> io::Result<()> {
        let mut buffer = [0; 8192];
        loop {
            match self.source.read(&mut buffer)? {
                0 => return Ok(()),
                read => (self.sink)(&buffer[..read])?,
            }
        }
    }
}

/// Content does not go to the sink.
impl<R: Read, S> Read for TarReader<R, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.content == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let wanted = usize::try_from(self.content).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.source.read(&mut buffer[..wanted])?;
        if read == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "The archive ends in the middle of a file",
            ));
        }
        self.content -= read as u64;
        Ok(read)
    }
}

impl Extensions {
    /// Records of the form `LENGTH KEY=VALUE\n`.
    fn read_pax(&mut self, mut records: &[u8]) -> io::Result<()> {
        let malformed = || invalid("An extended header is malformed");
        while !records.is_empty() {
            let space = records.iter().position(|byte| *byte == b' ').ok_or_else(malformed)?;
            let length = number::<usize>(&records[..space]).ok_or_else(malformed)?;
            if length <= space + 1 || length > records.len() {
                return Err(malformed());
            }
            let record = records[space + 1..length].strip_suffix(b"\n").ok_or_else(malformed)?;
            records = &records[length..];
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(malformed)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(number(value).ok_or_else(malformed)?),
                b"uid" => self.uid = Some(number(value).ok_or_else(malformed)?),
                b"gid" => self.gid = Some(number(value).ok_or_else(malformed)?),
                b"mtime" => self.modified = Some(seconds(value).ok_or_else(malformed)?),
                _ => {
                    if let Some(name) = key.strip_prefix(b"GNU.sparse.") {
                        self.holes.read(name, value)?;
                    } else if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        self.attributes.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        Ok(())
    }
}

/// `1700000000.25`, perhaps negative.
fn seconds(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: i64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    if text.starts_with('-') && nanoseconds > 0 {
        return Some((whole.checked_sub(1)?, 1_000_000_000 - nanoseconds));
    }
    Some((whole, nanoseconds))
}

fn without_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

/// The sum of all bytes with the field itself taken as spaces.
fn check_sum(block: &[u8; BLOCK], header: &tar::Header) -> io::Result<()> {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    let found = sum(&block[..148]) + 8 * 32 + sum(&block[156..]);
    let said = header.cksum().map_err(|_| invalid("This is not a tar archive"))?;
    if found == said { Ok(()) } else { Err(invalid("The checksum of a tar header is wrong")) }
}
