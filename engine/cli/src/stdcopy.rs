//! Takes apart the frames in which a daemon mixes standard output and standard error.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// How much is held at a time, whatever the length that a frame announces.
const CHUNK: usize = 32 * 1024;
const HEADER: usize = 8;
/// A message of the daemon about the stream itself is short.
const SYSTEM_LIMIT: usize = 64 * 1024;

fn invalid(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.into())
}

/// Copies a raw stream, as a terminal has it, to its end.
pub(crate) async fn copy_raw(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..length]).await?;
        to.flush().await?;
    }
}

/// Copies a stream of frames to its end. A frame is its stream's number, three zeros, and its length in four bytes.
pub(crate) async fn copy_frames(
    from: &mut (impl AsyncRead + Unpin),
    out: &mut (impl AsyncWrite + Unpin),
    err: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    while let Some((stream, mut left)) = header(from).await? {
        if stream == 3 {
            return Err(system_message(from, left).await?);
        }
        while left > 0 {
            let wanted = left.min(CHUNK);
            let length = from.read(&mut buffer[..wanted]).await?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= length;
            if stream == 2 {
                err.write_all(&buffer[..length]).await?;
                err.flush().await?;
            } else {
                out.write_all(&buffer[..length]).await?;
                out.flush().await?;
            }
        }
    }
    Ok(())
}

/// The next frame's stream and length, or nothing at the end.
async fn header(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<(u8, usize)>> {
    let mut header = [0; HEADER];
    let mut filled = 0;
    while filled < HEADER {
        let length = from.read(&mut header[filled..]).await?;
        if length == 0 {
            return if filled == 0 { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        filled += length;
    }
    let [stream, .., a, b, c, d] = header;
    if stream > 3 {
        return Err(invalid(format!("Unrecognized input header: {stream}")));
    }
    let length =
        usize::try_from(u32::from_be_bytes([a, b, c, d])).map_err(|_| invalid("The frame is too long"))?;
    Ok(Some((stream, length)))
}

async fn system_message(from: &mut (impl AsyncRead + Unpin), length: usize) -> io::Result<io::Error> {
    let mut text = vec![0; length.min(SYSTEM_LIMIT)];
    from.read_exact(&mut text).await?;
    Ok(io::Error::other(format!("error from daemon in stream: {}", String::from_utf8_lossy(&text))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn frame(stream: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![stream, 0, 0, 0];
        frame.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
        frame.extend(payload);
        frame
    }

    async fn copied(input: Vec<u8>) -> (io::Result<()>, Vec<u8>, Vec<u8>) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let result = copy_frames(&mut input.as_slice(), &mut out, &mut err).await;
        (result, out, err)
    }

    #[tokio::test]
    async fn frames_are_taken_apart() {
        let big = vec![b'x'; CHUNK * 3 + 7];
        let input =
            [frame(1, b"out"), frame(2, b"err"), frame(1, b""), frame(0, b"in"), frame(1, &big)].concat();
        let (result, out, err) = copied(input).await;
        result.unwrap();
        assert_eq!(out, [b"outin".as_slice(), &big].concat());
        assert_eq!(err, b"err");
    }

    #[tokio::test]
    async fn what_is_no_frame_is_refused() {
        assert_eq!(copied(b"plain text".to_vec()).await.0.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(copied(vec![1, 0, 0]).await.0.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let cut = frame(1, b"abc")[..9].to_vec();
        assert_eq!(copied(cut).await.0.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let system = copied(frame(3, b"disk full")).await.0.unwrap_err();
        assert_eq!(system.to_string(), "error from daemon in stream: disk full");
    }

    #[tokio::test]
    async fn a_frame_of_four_gibibytes_takes_no_memory() {
        let mut input = vec![1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
        input.extend(b"little");
        let (result, out, _) = copied(input).await;
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(out, b"little");
    }
}
