//! All of a layer's tar stream but the files' contents, kept so that the stream can be written again byte for byte. Where the
//! files do not tell what the stream held, all of it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use sha2::{Digest, Sha256};

const RAW: u8 = b'R';
const FILE: u8 = b'F';
/// Bytes of files that are among the raw ones.
const WITHIN: u8 = b'W';
/// Raw bytes are gathered up to this before they are written as one record.
const GATHERED: usize = 32 * 1024;

/// Writes the records: raw bytes, and references to files with their sizes.
pub(super) struct SplitWriter {
    output: GzEncoder<BufWriter<File>>,
    gathered: Vec<u8>,
}

impl SplitWriter {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let output = GzEncoder::new(BufWriter::new(File::create_new(path)?), Compression::fast());
        Ok(Self { output, gathered: Vec::new() })
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= GATHERED { self.flush_raw() } else { Ok(()) }
    }

    pub(super) fn content(&mut self, path: &[u8], size: u64) -> io::Result<()> {
        self.flush_raw()?;
        self.output.write_all(&[FILE])?;
        self.output.write_all(&size.to_le_bytes())?;
        self.output.write_all(&length(path)?)?;
        self.output.write_all(path)
    }

    /// Keeps a whole stream as it is, of which `size` bytes are files' contents.
    pub(super) fn keep(mut self, mut stream: impl Read, size: u64) -> io::Result<()> {
        self.output.write_all(&[WITHIN])?;
        self.output.write_all(&size.to_le_bytes())?;
        let mut buffer = vec![0; GATHERED];
        loop {
            match stream.read(&mut buffer)? {
                0 => return self.finish(),
                read => self.raw(&buffer[..read])?,
            }
        }
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        self.flush_raw()?;
        self.output.finish()?.flush()
    }

    fn flush_raw(&mut self) -> io::Result<()> {
        if !self.gathered.is_empty() {
            self.output.write_all(&[RAW])?;
            self.output.write_all(&length(&self.gathered)?)?;
            self.output.write_all(&self.gathered)?;
            self.gathered.clear();
        }
        Ok(())
    }
}

fn length(bytes: &[u8]) -> io::Result<[u8; 4]> {
    u32::try_from(bytes.len()).map(u32::to_le_bytes).map_err(io::Error::other)
}

/// A layer on disk: its directory and its split file.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) directory: PathBuf,
    pub(super) split: PathBuf,
}

/// What was written out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Replayed {
    /// Of the whole stream, `sha256:…`.
    pub(super) digest: String,
    /// Bytes in files.
    pub(super) content: u64,
}

/// Writes the tar stream of a layer.
pub(super) fn replay(layer: &Stored, output: &mut dyn Write) -> io::Result<Replayed> {
    let root = rustix::fs::open(
        &layer.directory,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut records = GzDecoder::new(BufReader::new(File::open(&layer.split)?));
    let mut digest = Sha256::new();
    let mut emit = |bytes: &[u8]| {
        digest.update(bytes);
        output.write_all(bytes)
    };
    let mut contents = 0;
    let mut kind = [0];
    let mut buffer = vec![0; 64 * 1024];
    while records.read(&mut kind)? == 1 {
        match kind[0] {
            RAW => {
                let bytes = read_counted(&mut records)?;
                emit(&bytes)?;
            }
            WITHIN => {
                let mut size = [0; 8];
                records.read_exact(&mut size)?;
                contents += u64::from_le_bytes(size);
            }
            FILE => {
                let mut size = [0; 8];
                records.read_exact(&mut size)?;
                let path = read_counted(&mut records)?;
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let confined = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
                let path = Path::new(OsStr::from_bytes(&path));
                let file = File::from(rustix::fs::openat2(&root, path, flags, Mode::empty(), confined)?);
                let size = u64::from_le_bytes(size);
                contents += size;
                let mut content = file.take(size);
                loop {
                    match content.read(&mut buffer)? {
                        0 => break,
                        read => emit(&buffer[..read])?,
                    }
                }
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    Ok(Replayed { digest: format!("sha256:{:x}", digest.finalize()), content: contents })
}

fn read_counted(records: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    records.read_exact(&mut length)?;
    let mut bytes = vec![0; u32::from_le_bytes(length) as usize];
    records.read_exact(&mut bytes)?;
    Ok(bytes)
}
