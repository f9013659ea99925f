//! The commands of the supervisor: `service`, `poweroff`, `halt`, `reboot` and `shutdown`.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use rustix::system::RebootCommand;

use crate::console;
use crate::supervisor::protocol::{self, Reply};

/// Longer than the supervisor's own deadline, so that its verdict is heard.
const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);
const USAGE: &str = "Usage: service NAME start|stop|restart|reload|status\n       service --status-all";

/// `service NAME COMMAND`, with the exit codes of the LSB.
pub(crate) fn service(arguments: &[String]) -> ExitCode {
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--status-all"] => protocol::ask("list"),
        [name, "stop"] => stop(name),
        [name, "restart" | "force-reload"] => restart(name),
        [name, command] => protocol::ask(&format!("{command} {name}")),
        _ => {
            console::complain(USAGE);
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(reply) if reply.code == 0 || reply.code == 3 => {
            console::answer(&reply.text);
            ExitCode::from(reply.code)
        }
        Ok(reply) => {
            console::complain(&reply.text);
            ExitCode::from(reply.code)
        }
        Err(failure) => {
            let advice = if failure.kind() == std::io::ErrorKind::PermissionDenied {
                "; only root may ask"
            } else {
                ""
            };
            console::complain(&format!("Could not reach the supervisor: {failure}{advice}"));
            ExitCode::from(4)
        }
    }
}

fn stop(name: &str) -> std::io::Result<Reply> {
    let asked = protocol::ask(&format!("stop {name}"))?;
    if asked.code > 3 || asked.code == 1 {
        return Ok(asked);
    }
    let last = poll(name, |reply| reply.code == 3)?;
    let code = u8::from(last.code != 3);
    Ok(Reply { code, text: last.text })
}

fn restart(name: &str) -> std::io::Result<Reply> {
    let before = protocol::ask(&format!("status {name}"))?;
    let asked = protocol::ask(&format!("restart {name}"))?;
    if asked.code != 0 {
        return Ok(asked);
    }
    let old = process(&before.text);
    poll(name, |reply| reply.code == 0 && process(&reply.text) != old)
}

fn poll(name: &str, done: impl Fn(&Reply) -> bool) -> std::io::Result<Reply> {
    let until = Instant::now() + PATIENCE;
    loop {
        let reply = protocol::ask(&format!("status {name}"))?;
        if done(&reply) || Instant::now() >= until {
            return Ok(reply);
        }
        thread::sleep(POLL);
    }
}

/// The process in a status line.
fn process(status: &str) -> Option<&str> {
    status.split_once("pid ")?.1.split(',').next()
}

/// `poweroff`, `halt`, `reboot` and `shutdown [-r]`; `-f` asks the kernel itself.
pub(crate) fn power(name: &str, arguments: &[String]) -> ExitCode {
    let flag = |wanted: &str| arguments.iter().any(|argument| argument == wanted);
    let again = name == "reboot" || (name == "shutdown" && flag("-r"));
    if flag("-f") {
        rustix::fs::sync();
        let command = if again { RebootCommand::Restart } else { RebootCommand::PowerOff };
        return match rustix::system::reboot(command) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                console::complain(&format!("The kernel refused: {failure}"));
                ExitCode::FAILURE
            }
        };
    }
    match protocol::ask(if again { "reboot" } else { "poweroff" }) {
        Ok(_) => ExitCode::SUCCESS,
        Err(failure) => {
            console::complain(&format!("Could not reach the supervisor: {failure}"));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_found_in_a_status() {
        assert_eq!(process("`engine` is running, pid 123, for 4 s"), Some("123"));
        assert_eq!(process("`engine` is stopped"), None);
    }
}
