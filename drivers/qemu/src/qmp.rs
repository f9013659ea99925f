//! The QEMU Machine Protocol: JSON lines on a unix socket.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// Every answer that is asked for here has well under a kilobyte.
const LONGEST_LINE: u64 = 256 * 1024;

/// Why QEMU did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QmpError {
    #[error("Could not connect to the VM's monitor")]
    Connect { source: io::Error },
    #[error("The VM's monitor does not answer `{command}`")]
    Silent { command: String, source: io::Error },
    #[error("The VM's monitor closed the connection")]
    Closed,
    #[error("The VM's monitor said something that is not understood")]
    Garbled { source: serde_json::Error },
    #[error("The VM's monitor refused `{command}`: {reason}")]
    Refused { command: String, reason: String },
}

/// A connection to a monitor.
#[derive(Debug)]
pub(crate) struct Qmp {
    reader: BufReader<UnixStream>,
    limit: Duration,
    /// The beginning of a line whose rest has not come yet.
    line: Vec<u8>,
}

/// Connects to a socket in a folder whose path may be longer than a socket's address can be.
pub(crate) fn connect(folder: &Path, socket: &str) -> io::Result<UnixStream> {
    let folder = File::open(folder)?;
    UnixStream::connect(format!("/proc/self/fd/{}/{socket}", folder.as_raw_fd()))
}

impl Qmp {
    /// Connects, within the limit that also holds for each command.
    pub(crate) fn open(folder: &Path, socket: &str, limit: Duration) -> Result<Self, QmpError> {
        let stream = connect(folder, socket).map_err(|source| QmpError::Connect { source })?;
        let mut qmp = Self { reader: BufReader::new(stream), limit, line: Vec::new() };
        // A monitor greets one client at a time; the others wait.
        qmp.read_until("greeting", |message| message.get("QMP").is_some())?;
        qmp.execute("qmp_capabilities", None)?;
        Ok(qmp)
    }

    pub(crate) fn execute(&mut self, command: &str, arguments: Option<Value>) -> Result<Value, QmpError> {
        let mut message = json!({ "execute": command });
        if let Some(arguments) = arguments {
            message["arguments"] = arguments;
        }
        let mut line = message.to_string();
        line.push('\n');
        let limit = self.limit;
        let stream = self.reader.get_mut();
        stream
            .set_write_timeout(Some(limit))
            .and_then(|()| stream.write_all(line.as_bytes()))
            .map_err(|source| QmpError::Silent { command: command.to_owned(), source })?;
        let answer = self.read_until(command, |message| {
            message.get("return").is_some() || message.get("error").is_some()
        })?;
        match answer.get("error") {
            Some(error) => Err(QmpError::Refused {
                command: command.to_owned(),
                reason: error["desc"].as_str().unwrap_or("no reason given").to_owned(),
            }),
            None => Ok(answer["return"].clone()),
        }
    }

    /// A command of the human monitor; what it prints is the answer.
    pub(crate) fn human(&mut self, command: &str) -> Result<String, QmpError> {
        let answer = self.execute("human-monitor-command", Some(json!({ "command-line": command })))?;
        Ok(answer.as_str().unwrap_or_default().trim().to_owned())
    }

    /// Throws away the events that came, so that they do not pile up. `Closed`: QEMU has gone.
    pub(crate) fn drain(&mut self) -> Result<(), QmpError> {
        loop {
            match self.message(Duration::from_millis(1)) {
                Ok(_) => {}
                Err(QmpError::Silent { .. }) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn read_until(&mut self, command: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value, QmpError> {
        let deadline = Instant::now() + self.limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let source = io::ErrorKind::TimedOut.into();
                return Err(QmpError::Silent { command: command.to_owned(), source });
            }
            match self.message(left) {
                Ok(message) if wanted(&message) => return Ok(message),
                Ok(_) => {}
                Err(QmpError::Silent { source, .. }) => {
                    return Err(QmpError::Silent { command: command.to_owned(), source });
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn message(&mut self, limit: Duration) -> Result<Value, QmpError> {
        let silent = |source| QmpError::Silent { command: String::new(), source };
        // Zero would mean no limit at all.
        let limit = limit.max(Duration::from_millis(1));
        self.reader.get_ref().set_read_timeout(Some(limit)).map_err(silent)?;
        let room = LONGEST_LINE.saturating_sub(self.line.len() as u64);
        let count = match (&mut self.reader).take(room).read_until(b'\n', &mut self.line) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(QmpError::Closed),
            Err(error) => return Err(silent(error)),
        };
        if count == 0 && room > 0 {
            return Err(QmpError::Closed);
        }
        let message = serde_json::from_slice(&self.line).map_err(|source| QmpError::Garbled { source });
        self.line.clear();
        message
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{os::unix::net::UnixListener, thread};

    use super::*;

    const LIMIT: Duration = Duration::from_millis(300);

    /// A monitor that says the given lines, one for each line that it reads, the first one at once.
    fn monitor(lines: &'static [&'static str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("qmp.sock")).unwrap();
        thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            for line in lines {
                (&stream).write_all(line.as_bytes()).unwrap();
                if reader.read_line(&mut String::new()).unwrap_or(0) == 0 {
                    return;
                }
            }
        });
        folder
    }

    #[test]
    fn events_are_skipped_and_refusals_told() {
        let folder = monitor(&[
            "{\"QMP\": {}}\r\n",
            "{\"return\": {}}\r\n",
            "{\"event\": \"RESUME\"}\n{\"return\": {\"status\": \"running\"}}\n",
            "{\"error\": {\"class\": \"GenericError\", \"desc\": \"No such thing\"}}\n",
        ]);
        let mut qmp = Qmp::open(folder.path(), "qmp.sock", LIMIT).unwrap();
        assert_eq!(qmp.execute("query-status", None).unwrap()["status"], "running");
        let error = qmp.execute("fly", None).unwrap_err();
        assert_eq!(error.to_string(), "The VM's monitor refused `fly`: No such thing");
    }

    #[test]
    fn a_monitor_that_is_silent_garbled_or_gone_is_an_error() {
        let folder = monitor(&["", ""]);
        assert!(matches!(Qmp::open(folder.path(), "qmp.sock", LIMIT), Err(QmpError::Silent { .. })));
        let folder = monitor(&["hello\n"]);
        assert!(matches!(Qmp::open(folder.path(), "qmp.sock", LIMIT), Err(QmpError::Garbled { .. })));
        let folder = monitor(&[]);
        assert!(matches!(Qmp::open(folder.path(), "qmp.sock", LIMIT), Err(QmpError::Closed)));
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(Qmp::open(folder.path(), "qmp.sock", LIMIT), Err(QmpError::Connect { .. })));
    }

    #[test]
    fn a_folder_with_a_long_path_is_no_obstacle() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("x".repeat(120));
        std::fs::create_dir(&folder).unwrap();
        let bound = root.path().join("short.sock");
        let _listener = UnixListener::bind(&bound).unwrap();
        std::fs::rename(&bound, folder.join("qmp.sock")).unwrap();
        connect(&folder, "qmp.sock").unwrap();
    }
}
