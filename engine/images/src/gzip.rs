//! Packs a layer into gzip (RFC 1952). What would not become smaller is put in as it is, which costs next to nothing.

use std::io::{self, Write};

use flate2::{Compress, Compression, Crc, FlushCompress, Status};

/// Bytes in a block that is put in as it is (RFC 1951, section 3.2.4).
const STORED: u16 = u16::MAX;
/// Bytes that are packed in one way or the other.
const PIECE: usize = 2 * STORED as usize;
/// How many bytes of a piece are looked at, and in how many places.
const LOOKED_AT: usize = 16 * 1024;
const PLACES: usize = 4;
/// Bits in a byte from which on packing is a waste of time. Programs have about 6, what is packed already about 7.99.
const PACKED_ALREADY: f64 = 7.9;
/// zlib's; higher ones take much longer for a hundredth less.
const LEVEL: Compression = Compression::new(4);
/// No name, no time, no system: the same bytes in are the same bytes out.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// A stream that is packed on its way to `output`.
pub(super) struct Packer<W> {
    output: W,
    deflate: Compress,
    /// Whether what comes is put in as it is.
    plain: bool,
    piece: Vec<u8>,
    packed: Vec<u8>,
    sum: Crc,
}

impl<W: Write> Packer<W> {
    pub(super) fn new(mut output: W) -> io::Result<Self> {
        output.write_all(&HEADER)?;
        Ok(Self {
            output,
            deflate: Compress::new(LEVEL, false),
            plain: false,
            piece: Vec::with_capacity(PIECE),
            packed: Vec::with_capacity(PIECE),
            sum: Crc::new(),
        })
    }

    /// Writes the end, and gives the output back.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.pack()?;
        if self.plain {
            self.deflate.reset();
        }
        self.deflate(&[], FlushCompress::Finish)?;
        self.output.write_all(&self.sum.sum().to_le_bytes())?;
        self.output.write_all(&self.sum.amount().to_le_bytes())?;
        Ok(self.output)
    }

    fn pack(&mut self) -> io::Result<()> {
        self.sum.update(&self.piece);
        let mut piece = std::mem::take(&mut self.piece);
        let plain = is_packed_already(&piece);
        if plain && !self.plain {
            // Up to a whole byte, from where on there is something else.
            self.deflate(&[], FlushCompress::Sync)?;
        } else if self.plain && !plain {
            // It knows nothing of what has come since, and must not refer to what was before.
            self.deflate.reset();
        }
        self.plain = plain;
        if plain {
            self.store(&piece)?;
        } else {
            self.deflate(&piece, FlushCompress::None)?;
        }
        piece.clear();
        self.piece = piece;
        Ok(())
    }

    fn store(&mut self, piece: &[u8]) -> io::Result<()> {
        for block in piece.chunks(STORED.into()) {
            let length = u16::try_from(block.len()).map_err(io::Error::other)?;
            self.output.write_all(&[0])?;
            self.output.write_all(&length.to_le_bytes())?;
            self.output.write_all(&(!length).to_le_bytes())?;
            self.output.write_all(block)?;
        }
        Ok(())
    }

    fn deflate(&mut self, mut bytes: &[u8], flush: FlushCompress) -> io::Result<()> {
        loop {
            self.packed.clear();
            let before = self.deflate.total_in();
            let status = self.deflate.compress_vec(bytes, &mut self.packed, flush)?;
            let taken = usize::try_from(self.deflate.total_in() - before).map_err(io::Error::other)?;
            bytes = &bytes[taken..];
            self.output.write_all(&self.packed)?;
            let has_room = self.packed.len() < self.packed.capacity();
            match status {
                Status::StreamEnd => return Ok(()),
                // With room left, it has nothing more to say.
                _ if bytes.is_empty() && has_room && flush != FlushCompress::Finish => return Ok(()),
                _ => {}
            }
        }
    }
}

impl<W: Write> Write for Packer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE {
            self.pack()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// By the entropy of its bytes, as if each came by chance (Shannon).
fn is_packed_already(piece: &[u8]) -> bool {
    let mut counts = [0_u32; 256];
    let step = (piece.len() / PLACES).max(1);
    for place in piece.chunks(step) {
        for &byte in &place[..place.len().min(LOOKED_AT / PLACES)] {
            counts[usize::from(byte)] += 1;
        }
    }
    let total: u32 = counts.iter().sum();
    // Of fewer, no entropy can be told.
    if (total as usize) < LOOKED_AT {
        return false;
    }
    let shares = counts.iter().filter(|&&count| count > 0).map(|&count| f64::from(count) / f64::from(total));
    shares.map(|share| -share * share.log2()).sum::<f64>() > PACKED_ALREADY
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn pack(pieces: &[&[u8]]) -> Vec<u8> {
        let mut packer = Packer::new(Vec::new()).unwrap();
        for piece in pieces {
            packer.write_all(piece).unwrap();
        }
        packer.finish().unwrap()
    }

    /// By this library, and by the program.
    fn unpack(packed: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        // One stream, and nothing after it.
        let mut decoder = flate2::bufread::GzDecoder::new(packed);
        decoder.read_to_end(&mut bytes).unwrap();
        assert!(decoder.into_inner().is_empty());
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(packed).unwrap();
        let out =
            std::process::Command::new("gzip").arg("-dc").stdin(file.reopen().unwrap()).output().unwrap();
        assert!(out.status.success() && out.stdout == bytes);
        bytes
    }

    /// Bytes that no packer makes smaller (xorshift).
    fn noise(length: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        };
        std::iter::repeat_with(&mut next).take(length).collect()
    }

    #[test]
    fn what_is_packed_is_found_again() {
        let text = b"every layer is a tar stream\n".repeat(20_000);
        let noise = noise(700_001);
        for pieces in [
            vec![],
            vec![&b"x"[..]],
            vec![&text[..]],
            vec![&noise[..]],
            vec![&text[..], &noise, &text, &noise[..PIECE], &text[..1]],
            vec![&noise[..], &text, &noise[..1]],
            // Whole pieces: the text after the noise is what the text before it was.
            vec![&text[..PIECE], &noise[..PIECE], &text[..PIECE]],
        ] {
            let whole = pieces.concat();
            let packed = pack(&pieces);
            assert!(unpack(&packed) == whole, "{} bytes", whole.len());
            // However it comes, it is packed in the same way.
            let little: Vec<&[u8]> = whole.chunks(1021).collect();
            assert!(pack(&little) == packed, "{} bytes", whole.len());
        }
    }

    #[test]
    fn only_what_becomes_smaller_is_packed() {
        let text = b"every layer is a tar stream\n".repeat(20_000);
        let noise = noise(700_000);
        assert!(is_packed_already(&noise[..PIECE]) && !is_packed_already(&text[..PIECE]));
        assert!(pack(&[&text]).len() < text.len() / 50);
        let packed = pack(&[&noise]).len();
        // Five bytes for each block of up to 65,535, and a little around it.
        assert!((700_000..700_200).contains(&packed), "{packed}");
    }
}
