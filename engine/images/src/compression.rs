//! Plain, gzip or zstd: told by the first bytes.

use std::io::{self, BufRead, BufReader, Read};

/// The same content uncompressed.
pub(super) fn decompress<'a>(source: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut source = BufReader::with_capacity(64 * 1024, source);
    // A first read may be short; six bytes are enough for every format below.
    let mut head = Vec::with_capacity(6);
    (&mut source).take(6).read_to_end(&mut head)?;
    let source = io::Cursor::new(head.clone()).chain(source);
    Ok(match head.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::new(source))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(Zstd { source: Some(BufReader::new(source)), frame: None }),
        b"BZh91A" | [0xfd, b'7', b'z', b'X', b'Z', 0] => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "Only plain, gzip and zstd archives are supported, not bzip2 or xz",
            ));
        }
        _ => Box::new(source),
    })
}

type Frame<R> = ruzstd::decoding::StreamingDecoder<R, ruzstd::decoding::FrameDecoder>;

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
            let frame = Frame::new(source).map_err(|error| {
                io::Error::new(io::ErrorKind::InvalidData, format!("Bad zstd frame: {error}"))
            })?;
            self.frame = Some(Box::new(frame));
        }
    }
}
