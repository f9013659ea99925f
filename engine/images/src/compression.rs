//! Plain, gzip or zstd: told by the first bytes.

use std::io::{self, BufRead, BufReader, Read};

/// The same content uncompressed, be it plain, gzip or zstd.
pub fn decompress<'a>(source: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut source = BufReader::with_capacity(64 * 1024, source);
    // A first read may be short; six bytes are enough for every format below.
    let mut head = Vec::with_capacity(6);
    (&mut source).take(6).read_to_end(&mut head)?;
    let source = io::Cursor::new(head.clone()).chain(source);
    Ok(match head.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::new(source))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            Box::new(Zstd { source: Some(BufReader::new(source)), frame: None })
        }
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41] => return Err(unknown("bzip2", "bunzip2")),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => return Err(unknown("xz", "unxz")),
        _ => Box::new(source),
    })
}

fn unknown(format: &str, tool: &str) -> io::Error {
    let message = format!(
        "It is compressed by {format}; only plain, gzip and zstd archives can be read: decompress it before, with {tool}"
    );
    io::Error::new(io::ErrorKind::InvalidData, message)
}

type Frame<R> = ruzstd::decoding::StreamingDecoder<R, ruzstd::decoding::FrameDecoder>;

/// The length of a frame that holds no content, such as an index or a note, if one begins here. What it begins with is read.
fn skippable(source: &mut impl BufRead) -> io::Result<Option<u64>> {
    // The first byte and the next tell: no other frame begins with these, and a buffer may hold just one byte.
    if !matches!(source.fill_buf()?.first(), Some(0x50..=0x5f)) {
        return Ok(None);
    }
    let mut head = [0; 8];
    source.read_exact(&mut head)?;
    if head[1..4] != [0x2a, 0x4d, 0x18] {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "Bad zstd frame: it is of no known kind"));
    }
    Ok(Some(u32::from_le_bytes([head[4], head[5], head[6], head[7]]).into()))
}

/// All frames of a zstd stream one after the other, as `zstd -T` and `cat` make them.
struct Zstd<R: BufRead> {
    source: Option<R>,
    frame: Option<Box<Frame<R>>>,
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(mut frame) = self.frame.take() {
                match frame.read(buffer)? {
                    0 => self.source = Some(frame.into_inner()),
                    read => {
                        self.frame = Some(frame);
                        return Ok(read);
                    }
                }
            }
            let Some(mut source) = self.source.take() else { return Ok(0) };
            if buffer.is_empty() || source.fill_buf()?.is_empty() {
                self.source = Some(source);
                return Ok(0);
            }
            if let Some(length) = skippable(&mut source)? {
                let skipped = io::copy(&mut (&mut source).take(length), &mut io::sink())?;
                if skipped < length {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.source = Some(source);
                continue;
            }
            let frame = Frame::new(source).map_err(|error| {
                io::Error::new(io::ErrorKind::InvalidData, format!("Bad zstd frame: {error}"))
            })?;
            self.frame = Some(Box::new(frame));
        }
    }
}
