//! Output whose client expects it framed in another way than its process's supervisor sends it.
//!
//! Frames are those of the Docker Engine API, "Attach to a container": the stream's number, three zeros, a length of four bytes in
//! big-endian order, and so many bytes.

use std::io;

const HEADER: usize = 8;
const STDOUT: u8 = 1;

/// What is done to output on its way to a client.
#[derive(Debug)]
pub enum Reframe {
    /// The client expects what is sent.
    Keep,
    /// What a terminal shows is put into frames of standard output.
    Wrap,
    /// Frames are taken off.
    Unwrap {
        /// Of the next frame, as far as it has come.
        header: Vec<u8>,
        /// How much of a frame is still to come.
        left: usize,
    },
}

impl Reframe {
    /// From a process with or without a terminal to a client that asked for output of one, or of none.
    pub fn new(terminal: bool, asked_for_terminal: bool) -> Self {
        match (terminal, asked_for_terminal) {
            (true, false) => Self::Wrap,
            (false, true) => Self::Unwrap { header: Vec::with_capacity(HEADER), left: 0 },
            (true, true) | (false, false) => Self::Keep,
        }
    }

    /// A piece of output as the client is to get it.
    pub fn convert<'a>(&mut self, mut bytes: &'a [u8]) -> io::Result<std::borrow::Cow<'a, [u8]>> {
        match self {
            Self::Keep => Ok(bytes.into()),
            Self::Wrap => {
                let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
                let mut framed = Vec::with_capacity(HEADER + bytes.len());
                framed.extend_from_slice(&[STDOUT, 0, 0, 0]);
                framed.extend_from_slice(&length.to_be_bytes());
                framed.extend_from_slice(bytes);
                Ok(framed.into())
            }
            Self::Unwrap { header, left } => {
                let mut bare = Vec::with_capacity(bytes.len());
                while !bytes.is_empty() {
                    if *left > 0 {
                        let (now, later) = bytes.split_at(bytes.len().min(*left));
                        bare.extend_from_slice(now);
                        *left -= now.len();
                        bytes = later;
                        continue;
                    }
                    let (now, later) = bytes.split_at(bytes.len().min(HEADER - header.len()));
                    header.extend_from_slice(now);
                    bytes = later;
                    if let [_, _, _, _, a, b, c, d] = header[..] {
                        *left =
                            usize::try_from(u32::from_be_bytes([a, b, c, d])).map_err(io::Error::other)?;
                        header.clear();
                    }
                }
                Ok(bare.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn frames_are_put_on_and_taken_off_wherever_they_are_cut() {
        let mut framed = Vec::new();
        let mut wrap = Reframe::new(true, false);
        for piece in ["one\r\n", "", "two"] {
            framed.extend_from_slice(&wrap.convert(piece.as_bytes()).unwrap());
        }
        assert_eq!(framed, b"\x01\0\0\0\0\0\0\x05one\r\n\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\x03two");
        for size in 1..framed.len() {
            let mut unwrap = Reframe::new(false, true);
            let mut bare = Vec::new();
            for piece in framed.chunks(size) {
                bare.extend_from_slice(&unwrap.convert(piece).unwrap());
            }
            assert_eq!(bare, b"one\r\ntwo", "in pieces of {size}");
        }
        for same in [true, false] {
            assert_eq!(*Reframe::new(same, same).convert(&framed).unwrap(), framed);
        }
    }
}
