//! Where the content of a file with holes belongs, in the four ways in which GNU tar writes that down.
//!
//! ```text
//! old GNU   type `S`, four chunks in the header, more in blocks after it
//! pax 0.0   GNU.sparse.offset and .numbytes, again and again, .size
//! pax 0.1   GNU.sparse.map, .size, .name
//! pax 1.0   GNU.sparse.major=1, .realsize, .name, and the chunks as decimal lines before the content
//! ```

use std::io;

use super::fields::{invalid, number};

const BLOCK: usize = 512;
/// A file in as many pieces is nobody's honest file.
const MOST_CHUNKS: usize = 1 << 18;

/// A piece of content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// A file with holes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Map {
    pub(super) chunks: Vec<Chunk>,
    /// Of the file, holes included.
    pub(super) size: u64,
}

impl Map {
    fn add(&mut self, offset: u64, length: u64) -> io::Result<()> {
        if self.chunks.len() == MOST_CHUNKS {
            return Err(invalid(format!("A sparse file has more than {MOST_CHUNKS} pieces")));
        }
        self.chunks.push(Chunk { offset, length });
        Ok(())
    }

    /// Refuses pieces that are not in order, that lead out of the file, or that are not what the archive holds of it.
    pub(super) fn check(&self, held: u64) -> io::Result<()> {
        let wrong = || invalid("The pieces of a sparse file do not fit together");
        let (mut end, mut sum) = (0_u64, 0_u64);
        for chunk in &self.chunks {
            if chunk.offset < end {
                return Err(wrong());
            }
            end = chunk.offset.checked_add(chunk.length).ok_or_else(wrong)?;
            sum += chunk.length;
        }
        if end > self.size || sum != held { Err(wrong()) } else { Ok(()) }
    }
}

/// The map of an entry of type `S`; `next` reads a block after its header.
pub(super) fn after_header(
    header: &tar::Header,
    mut next: impl FnMut() -> io::Result<[u8; BLOCK]>,
) -> io::Result<Map> {
    let gnu = header.as_gnu().ok_or_else(|| invalid("A sparse file without the header of GNU tar"))?;
    let mut map = Map { size: gnu.real_size()?, ..Map::default() };
    let mut add = |chunks: &[tar::GnuSparseHeader]| -> io::Result<()> {
        for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
            map.add(chunk.offset()?, chunk.length()?)?;
        }
        Ok(())
    };
    add(&gnu.sparse)?;
    let mut is_extended = gnu.is_extended();
    while is_extended {
        let mut more = tar::GnuExtSparseHeader::new();
        more.as_mut_bytes().copy_from_slice(&next()?);
        add(more.sparse())?;
        is_extended = more.is_extended();
    }
    Ok(map)
}

/// What the records `GNU.sparse.…` of an extended header say.
#[derive(Clone, Debug, Default)]
pub(super) struct Extension {
    /// The name of the file, when the entry has one of its own.
    pub(super) name: Option<Vec<u8>>,
    size: Option<u64>,
    map: Map,
    offset: Option<u64>,
    has_map: bool,
    is_in_content: bool,
}

impl Extension {
    /// Reads one record, whose key has lost its prefix.
    pub(super) fn read(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let wrong = || invalid("The map of a sparse file is malformed");
        let count = |text: &[u8]| number::<u64>(text).ok_or_else(wrong);
        match key {
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size = Some(count(value)?),
            b"offset" => self.offset = Some(count(value)?),
            b"numbytes" => {
                let offset = self.offset.take().ok_or_else(wrong)?;
                self.map.add(offset, count(value)?)?;
            }
            b"map" => {
                let numbers: Vec<u64> =
                    value.split(|byte| *byte == b',').map(count).collect::<io::Result<_>>()?;
                for pair in numbers.chunks(2) {
                    let [offset, length] = pair else { return Err(wrong()) };
                    self.map.add(*offset, *length)?;
                }
            }
            b"numblocks" => {
                count(value)?;
            }
            b"major" if value == b"1" => self.is_in_content = true,
            b"major" | b"minor" if value == b"0" => {}
            b"minor" if value == b"1" && !self.is_in_content => {}
            _ => return Err(invalid(format!("Sparse files with `{}` are not known", key.escape_ascii()))),
        }
        self.has_map = true;
        Ok(())
    }

    /// The map, if the entry has one. That of format 1.0 lies before the content: `next` reads a block of it, and what is left
    /// is put into `content`.
    pub(super) fn map(
        self,
        content: &mut u64,
        mut next: impl FnMut() -> io::Result<[u8; BLOCK]>,
    ) -> io::Result<Option<Map>> {
        if !self.has_map {
            return Ok(None);
        }
        let wrong = || invalid("The map of a sparse file is malformed");
        let mut map = Map { size: self.size.ok_or_else(wrong)?, ..self.map };
        if !self.is_in_content {
            return Ok(Some(map));
        }
        let (mut block, mut at) = ([0; BLOCK], BLOCK);
        let mut line = || -> io::Result<u64> {
            let mut value = 0_u64;
            for digits in 0..=20 {
                if at == BLOCK {
                    *content = content.checked_sub(BLOCK as u64).ok_or_else(wrong)?;
                    (block, at) = (next()?, 0);
                }
                let byte = block[at];
                at += 1;
                match byte {
                    b'\n' if digits > 0 => return Ok(value),
                    b'0'..=b'9' => {
                        let shifted = value.checked_mul(10).ok_or_else(wrong)?;
                        value = shifted.checked_add(u64::from(byte - b'0')).ok_or_else(wrong)?;
                    }
                    _ => return Err(wrong()),
                }
            }
            Err(wrong())
        };
        for _ in 0..line()? {
            map.add(line()?, line()?)?;
        }
        Ok(Some(map))
    }
}
