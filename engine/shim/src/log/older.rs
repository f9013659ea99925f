//! The older files of a log: their names, and packing them.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use rustix::fs::OFlags;

/// At least as many bytes are packed at a time.
const STEP: u64 = 64 * 1024;
/// Marks the field of a packed file's header that says which file it was (RFC 1952, section 2.3.1.1).
const FIELD: [u8; 4] = [b'M', b'l', 16, 0];

/// The name of the `number`th older file.
pub fn numbered(path: &Path, number: u32) -> PathBuf {
    with_end(path, &format!(".{number}"))
}

fn packed(path: &Path, number: u32) -> PathBuf {
    with_end(path, &format!(".{number}.gz"))
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(end);
    name.into()
}

/// What stays the same of a file of the log when it is renamed and packed. The number of an inode alone may be another's later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    inode: u64,
    /// Nanoseconds since 1970, where the file system knows.
    born: u64,
}

impl Identity {
    pub fn of(metadata: &Metadata) -> Self {
        let born = metadata.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let born = born.and_then(|age| u64::try_from(age.as_nanos()).ok()).unwrap_or_default();
        Self { inode: metadata.ino(), born }
    }

    fn field(self) -> Vec<u8> {
        [&FIELD[..], &self.inode.to_le_bytes(), &self.born.to_le_bytes()].concat()
    }

    fn from_field(field: &[u8]) -> Option<Self> {
        let (inode, born) = field.strip_prefix(&FIELD)?.split_at_checked(8)?;
        Some(Self {
            inode: u64::from_le_bytes(inode.try_into().ok()?),
            born: u64::from_le_bytes(born.try_into().ok()?),
        })
    }
}

/// A file of the log, open to be read.
#[derive(Debug)]
pub struct Piece {
    pub file: File,
    pub identity: Identity,
    is_packed: bool,
}

impl Piece {
    pub fn plain(file: File) -> io::Result<Self> {
        let identity = Identity::of(&file.metadata()?);
        Ok(Self { file, identity, is_packed: false })
    }

    /// The `number`th older file.
    pub fn older(path: &Path, number: u32) -> io::Result<Self> {
        match File::open(numbered(path, number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return Self::plain(other?),
        }
        let file = File::open(packed(path, number))?;
        // One without the field was not packed by us; it is read like the others.
        let own = Identity::of(&file.metadata()?);
        let decoder = GzDecoder::new(BufReader::with_capacity(512, &file));
        let field = decoder.header().and_then(|header| header.extra()).and_then(Identity::from_field);
        Ok(Self { identity: field.unwrap_or(own), is_packed: true, file })
    }

    /// Has `file` be of lines, from its beginning: what is packed is unpacked into a file without a name, in `folder`. Of one
    /// that is damaged, what comes before that.
    pub fn unpack(&mut self, folder: &Path) -> io::Result<()> {
        if !self.is_packed {
            return Ok(());
        }
        let flags = i32::try_from(OFlags::TMPFILE.bits()).unwrap_or_default();
        let mut plain =
            File::options().read(true).write(true).mode(0o600).custom_flags(flags).open(folder)?;
        self.file.seek(SeekFrom::Start(0))?;
        let mut decoder = GzDecoder::new(BufReader::new(&self.file));
        if let Err(error) = io::copy(&mut decoder, &mut plain) {
            if !matches!(
                error.kind(),
                io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) {
                return Err(error);
            }
            tracing::warn!(%error, folder = %folder.display(), "A packed file of a log is damaged");
        }
        plain.seek(SeekFrom::Start(0))?;
        self.file = plain;
        self.is_packed = false;
        Ok(())
    }
}

/// Gives each file the next number, the one that is full the first, and takes the last one away.
pub(super) fn shift(path: &Path, max_files: u32) -> io::Result<()> {
    let last = max_files.saturating_sub(1);
    if last == 0 {
        return fs::remove_file(path);
    }
    for name in [numbered(path, last), packed(path, last)] {
        but_for_missing(fs::remove_file(name))?;
    }
    for number in (1..last).rev() {
        but_for_missing(fs::rename(numbered(path, number), numbered(path, number + 1)))?;
        but_for_missing(fs::rename(packed(path, number), packed(path, number + 1)))?;
    }
    but_for_missing(fs::rename(path, numbered(path, 1)))
}

fn but_for_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The first older file on its way into a packed one, a little at a time: whoever writes the log does it in between.
#[derive(Debug)]
pub(super) struct Packing {
    log: PathBuf,
    source: File,
    target: GzEncoder<File>,
}

impl Packing {
    /// `None` if there is nothing to pack.
    pub(super) fn begin(log: &Path) -> io::Result<Option<Self>> {
        let source = match File::open(numbered(log, 1)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let identity = Identity::of(&source.metadata()?);
        let mut options = File::options();
        let target =
            options.write(true).create(true).truncate(true).mode(0o640).open(Self::unfinished(log))?;
        let target = GzBuilder::new().extra(identity.field()).write(target, Compression::fast());
        Ok(Some(Self { log: log.to_owned(), source, target }))
    }

    fn unfinished(log: &Path) -> PathBuf {
        with_end(log, ".1.gz.part")
    }

    /// Packs some more, at least as much as this; `None` when all is done.
    pub(super) fn go_on(mut self, bytes: u64) -> io::Result<Option<Self>> {
        let bytes = bytes.max(STEP);
        if io::copy(&mut (&self.source).take(bytes), &mut self.target)? == bytes {
            return Ok(Some(self));
        }
        // The lines are in one file or the other, also after a power cut.
        self.target.finish()?.sync_data()?;
        fs::rename(Self::unfinished(&self.log), packed(&self.log, 1))?;
        fs::remove_file(numbered(&self.log, 1))?;
        Ok(None)
    }

    /// Takes away what was begun.
    pub(super) fn give_up(log: &Path) {
        let _ = fs::remove_file(Self::unfinished(log));
    }
}
