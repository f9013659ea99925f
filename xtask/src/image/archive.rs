//! Writes the initramfs: a cpio archive of the `newc` kind, with fixed owners, times and numbers.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};

/// Only the files an early boot needs: no links, no devices.
pub(super) struct Archive {
    output: BufWriter<File>,
    written: u64,
    entries: u32,
    time: u64,
}

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;

impl Archive {
    pub(super) fn create(path: &Path, time: u64) -> Result<Archive> {
        let file = File::create(path).with_context(|| format!("Could not create `{}`", path.display()))?;
        Ok(Archive { output: BufWriter::new(file), written: 0, entries: 0, time })
    }

    pub(super) fn folder(&mut self, name: &str) -> Result<()> {
        Ok(self.header(name, FOLDER, 0)?)
    }

    pub(super) fn file(&mut self, name: &str, from: &Path, is_program: bool) -> Result<()> {
        let mut source = File::open(from).with_context(|| format!("Could not read `{}`", from.display()))?;
        let size = source.metadata()?.len();
        self.header(name, if is_program { PROGRAM } else { FILE }, size)?;
        self.written += io::copy(&mut source, &mut self.output)?;
        Ok(self.pad(4)?)
    }

    pub(super) fn finish(mut self) -> Result<()> {
        self.time = 0;
        self.header("TRAILER!!!", 0, 0)?;
        self.pad(512)?;
        self.output.flush()?;
        Ok(())
    }

    fn header(&mut self, name: &str, mode: u32, size: u64) -> io::Result<()> {
        self.entries += 1;
        let links = if mode == FOLDER { 2 } else { 1 };
        let header = format!(
            "070701{:08x}{mode:08x}{:08x}{:08x}{links:08x}{:08x}{size:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{name}\0",
            self.entries,
            0,
            0,
            self.time,
            0,
            0,
            0,
            0,
            name.len() + 1,
            0
        );
        self.output.write_all(header.as_bytes())?;
        self.written += header.len() as u64;
        self.pad(4)
    }

    fn pad(&mut self, unit: u64) -> io::Result<()> {
        let zeros = self.written.next_multiple_of(unit) - self.written;
        self.written += zeros;
        self.output.write_all(&[0; 512][..usize::try_from(zeros).unwrap_or_default()])
    }
}
