//! Both places that a container's output may be kept in: a file here, and whatever its log process makes of it.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::log::{LogFile, Stream};
use super::outlet::Outlet;
use super::protocol::LogConfig;

/// How often it is said that the log cannot be written: where it is said is memory.
const MOST_COMPLAINTS: u32 = 10;

#[derive(Debug)]
pub(crate) struct Log {
    file: Option<LogFile>,
    outlet: Option<Outlet>,
    /// Whether the last write to the file has failed, and how often that was said.
    fails: bool,
    complaints: u32,
}

impl Log {
    pub(crate) fn open(file: Option<LogConfig>, outlet: Option<Outlet>) -> io::Result<Self> {
        let file = file.map(LogFile::open).transpose()?;
        Ok(Self { file, outlet, fails: false, complaints: 0 })
    }

    /// Takes a piece of output; whether the file has it now.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8]) -> bool {
        if let Some(outlet) = &mut self.outlet {
            outlet.add(stream, bytes);
        }
        self.pass_on();
        let Some(file) = &mut self.file else { return false };
        let written = file.write(stream, bytes);
        if let Err(error) = &written
            && !self.fails
            && self.complaints < MOST_COMPLAINTS
        {
            self.complaints += 1;
            tracing::error!(%error, "Could not write the log; what is written until it can be is lost");
        }
        self.fails = written.is_err();
        true
    }

    /// Nothing more comes.
    pub(crate) fn finish_lines(&mut self) {
        if let Some(file) = &mut self.file
            && let Err(error) = file.finish()
        {
            tracing::error!(%error, "Could not write the log");
        }
    }

    /// Gives the log process what it takes now.
    pub(crate) fn pass_on(&mut self) {
        if let Some(outlet) = &mut self.outlet
            && let Err(error) = outlet.send()
        {
            tracing::error!(%error, "The log process is gone; what the container says from now on is not logged by it");
        }
    }

    /// Reads what the log process tells; whether it has written something, or has ended.
    pub(crate) fn heed(&mut self) -> bool {
        self.outlet.as_mut().is_some_and(Outlet::heed)
    }

    /// If the log process writes the file: waits until it has ended. Whether that is so.
    pub(crate) fn finish_file(&mut self, patience: Duration) -> bool {
        let outlet = self.outlet.take_if(|outlet| outlet.writes_file());
        outlet.map(|outlet| outlet.finish(patience)).is_some()
    }

    /// Whether the container's output has to wait.
    pub(crate) fn is_full(&self) -> bool {
        self.outlet.as_ref().is_some_and(Outlet::is_full)
    }

    /// Nothing more comes: the log process has all, or gets it now.
    pub(crate) fn close(&mut self) {
        if let Some(outlet) = &mut self.outlet
            && !outlet.has_more()
        {
            outlet.close();
        }
    }

    pub(crate) fn has_more(&self) -> bool {
        self.outlet.as_ref().is_some_and(Outlet::has_more)
    }

    /// Where the log process takes more, if there is more for it.
    pub(crate) fn input(&self) -> Option<BorrowedFd<'_>> {
        self.outlet.as_ref().and_then(Outlet::input)
    }

    pub(crate) fn signs(&self) -> Option<BorrowedFd<'_>> {
        self.outlet.as_ref().and_then(Outlet::signs)
    }
}
