//! Whether the host is there: its key file, its SSH port, its banner.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
    time::Duration,
};

use machine_driver::DriverError;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::TcpStream,
    time::timeout,
};

/// A host that needs longer for a TCP handshake is not one to provision.
const CONNECT: Duration = Duration::from_secs(10);
/// sshd may look up the caller's name before it speaks.
const BANNER: Duration = Duration::from_secs(20);
/// `ls` asks many hosts, and a switched-off host does not answer at all.
const STATE: Duration = Duration::from_secs(5);
/// The standard lets a server send lines before its banner; nobody sends this much.
const LONGEST_GREETING: u64 = 16 * 1024;
/// The largest private keys have a few kilobytes.
const LARGEST_KEY: u64 = 64 * 1024;

/// Refuses a key file that SSH could not use.
pub(crate) fn key_file(path: &str) -> Result<(), DriverError> {
    let metadata = fs::metadata(path).map_err(|error| {
        let message = if error.kind() == io::ErrorKind::NotFound {
            format!("SSH key does not exist: {path:?}")
        } else {
            format!("Could not look at the SSH key {path:?}")
        };
        DriverError::refused(message).with_source(error)
    })?;
    if !metadata.is_file() || metadata.len() > LARGEST_KEY {
        return Err(DriverError::refused(format!("{path:?} is no SSH key")));
    }
    let unreadable = |error: io::Error| {
        DriverError::refused(format!("Could not read the SSH key {path:?}")).with_source(error)
    };
    let mut file = File::open(path).map_err(unreadable)?;
    if let Some(exposure) = private_files::exposure(&file).map_err(unreadable)? {
        let permissions = exposure.permissions();
        return Err(DriverError::refused(format!("Permissions {permissions} for {path:?} are too open"))
            .with_hint(format!("Use `{}`", exposure.remedy(Path::new(path)))));
    }
    let mut text = Vec::new();
    file.by_ref().take(LARGEST_KEY).read_to_end(&mut text).map_err(unreadable)?;
    if text.starts_with(b"-----BEGIN ") {
        return Ok(());
    }
    let error = DriverError::refused(format!("{path:?} is no private SSH key"));
    Err(match path.strip_suffix(".pub") {
        Some(private) if text.starts_with(b"ssh-") || text.starts_with(b"ecdsa-") => {
            error.with_hint(format!("That is the public half; the private one is probably `{private}`"))
        }
        _ => error,
    })
}

/// Whether anything accepts connections there.
pub(crate) async fn answers(host: &str, port: u16) -> bool {
    matches!(timeout(STATE, TcpStream::connect((host, port))).await, Ok(Ok(_)))
}

/// Refuses a host on whose port no SSH server speaks.
pub(crate) async fn banner(host: &str, port: u16) -> Result<(), DriverError> {
    let addresses: Vec<_> = tokio::net::lookup_host((host, port))
        .await
        .map_err(|error| {
            DriverError::refused(format!("Could not find the address of `{host}`")).with_source(error)
        })?
        .collect();
    let connecting = TcpStream::connect(addresses.as_slice());
    let stream = timeout(CONNECT, connecting)
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, no_answer(CONNECT))))
        .map_err(|error| {
            DriverError::refused(format!("Could not connect to port {port} of `{host}`"))
                .with_source(error)
                .with_hint("Is the host on, and does its SSH server listen on that port?")
        })?;
    let silent = |error: io::Error| {
        DriverError::refused(format!("No SSH server speaks on port {port} of `{host}`")).with_source(error)
    };
    timeout(BANNER, read_banner(stream))
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, no_answer(BANNER))))
        .map_err(silent)
}

fn no_answer(limit: Duration) -> String {
    format!("No answer within {} seconds", limit.as_secs())
}

async fn read_banner(stream: TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream.take(LONGEST_GREETING));
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).await? > 0 {
        if line.starts_with(b"SSH-2.0-") || line.starts_with(b"SSH-1.99-") {
            return Ok(());
        }
        if line.starts_with(b"SSH-") {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "It speaks an old version of SSH only"));
        }
        line.clear();
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "It closed the connection without a word of SSH"))
}
