//! The drivers `json-file` and `local` when nobody may be held up by the disk (`mode=non-blocking`).

use async_trait::async_trait;
use engine_shim::log::LogFile;
use engine_shim::protocol::LogConfig;

use crate::driver::{Driver, DriverError};
use crate::lines::Entry;

pub(crate) struct LogFileDriver(LogFile);

impl LogFileDriver {
    pub(crate) fn open(config: LogConfig) -> Result<Self, DriverError> {
        let path = config.path.clone();
        let file = LogFile::open(config).map_err(|error| {
            DriverError::new(format!("Could not open the log `{}`: {error}", path.display()))
        })?;
        Ok(Self(file))
    }
}

#[async_trait]
impl Driver for LogFileDriver {
    async fn send(&mut self, mut entry: Entry) -> Result<(), DriverError> {
        if entry.partial.as_ref().is_none_or(|part| part.last) {
            entry.line.push(b'\n');
        }
        self.0
            .write_line(entry.stream, entry.time, &entry.line)
            .map_err(|error| DriverError::new(format!("Could not write the log: {error}")))
    }
}
