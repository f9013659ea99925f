//! What `service`, `poweroff` and `reboot` say to the supervisor: one line there, a code and text back.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::str::FromStr;
use std::time::Duration;

use super::End;

/// Only root may open it.
pub(crate) const SOCKET: &str = "/run/init.sock";
/// Names become file names in /var/log and folders in /etc/services.
const NAME_LENGTH: usize = 64;
const REPLY_SIZE: u64 = 1024 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    Start(String),
    Stop(String),
    Restart(String),
    Reload(String),
    Status(String),
    List,
    End(End),
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum RequestError {
    #[error("`{0}` is not a service name: letters, digits, `.`, `_` and `-`, not starting with `.` or `-`")]
    Name(String),
    #[error("There is no command `{0}`; there are start, stop, restart, reload and status")]
    Command(String),
}

impl FromStr for Request {
    type Err = RequestError;

    fn from_str(line: &str) -> Result<Request, RequestError> {
        let (command, name) = line.split_once(' ').unwrap_or((line, ""));
        match command {
            "list" => return Ok(Request::List),
            "poweroff" => return Ok(Request::End(End::PowerOff)),
            "reboot" => return Ok(Request::End(End::Reboot)),
            _ => {}
        }
        let make = match command {
            "start" => Request::Start,
            "stop" => Request::Stop,
            "restart" => Request::Restart,
            "reload" => Request::Reload,
            "status" => Request::Status,
            _ => return Err(RequestError::Command(command.to_owned())),
        };
        if !is_service_name(name) {
            return Err(RequestError::Name(name.to_owned()));
        }
        Ok(make(name.to_owned()))
    }
}

/// Whether a name can be a service: it can neither climb nor hide nor look like an option.
pub(crate) fn is_service_name(name: &str) -> bool {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
    !name.is_empty() && name.len() <= NAME_LENGTH && !name.starts_with(['.', '-']) && name.chars().all(plain)
}

/// The exit code for the command and what it prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) code: u8,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn done(text: &str) -> Reply {
        Reply { code: 0, text: text.to_owned() }
    }

    pub(crate) fn failed(text: &str) -> Reply {
        Reply { code: 1, text: text.to_owned() }
    }

    /// The service is not running; the code is the one of the LSB.
    pub(crate) fn stopped(text: &str) -> Reply {
        Reply { code: 3, text: text.to_owned() }
    }

    /// There is no such service; the code is the one of the LSB for an unknown status.
    pub(crate) fn unknown(name: &str) -> Reply {
        Reply {
            code: 4,
            text: format!("There is no service `{name}`: `/etc/services/{name}/run` is missing"),
        }
    }

    pub(crate) fn encode(&self) -> String {
        format!("{}\n{}", self.code, self.text)
    }

    fn decode(answer: &str) -> Option<Reply> {
        let (code, text) = answer.split_once('\n')?;
        Some(Reply { code: code.parse().ok()?, text: text.to_owned() })
    }
}

/// Sends one request line and waits for the reply.
pub(crate) fn ask(line: &str) -> io::Result<Reply> {
    let mut connection = UnixStream::connect(SOCKET)?;
    connection.set_read_timeout(Some(Duration::from_secs(30)))?;
    connection.write_all(format!("{line}\n").as_bytes())?;
    let mut answer = String::new();
    connection.take(REPLY_SIZE).read_to_string(&mut answer)?;
    Reply::decode(&answer)
        .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "The supervisor hung up"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn requests() {
        assert_eq!("start engine".parse(), Ok(Request::Start("engine".to_owned())));
        assert_eq!("poweroff".parse(), Ok(Request::End(End::PowerOff)));
        assert_eq!("explode engine".parse::<Request>(), Err(RequestError::Command("explode".to_owned())));
    }

    #[test]
    fn names_cannot_climb() {
        for name in ["", "..", "../x", "a/b", ".hidden", "-f", "a b", "a\0b", &"x".repeat(65)] {
            assert!(format!("start {name}").parse::<Request>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn replies_survive_the_wire() {
        let reply = Reply::stopped("`engine` is stopped\nand more");
        assert_eq!(Reply::decode(&reply.encode()), Some(reply));
        assert_eq!(Reply::decode("nonsense"), None);
    }
}
