//! One supervised service: started, respawned with growing pauses, stopped with a deadline.

use std::io::{self, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitStatus, kill_process};

use super::log::Log;
use super::protocol::Reply;

/// The first pause before a service is started again.
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A service that ran for this long was well: its pause starts over.
const WELL_AFTER: Duration = Duration::from_secs(10);
/// What does not end within this time of SIGTERM is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(15);
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Debug)]
pub(super) struct Service {
    name: String,
    run: PathBuf,
    /// Without one the service talks to the console itself.
    log: Option<Arc<Mutex<Log>>>,
    wanted: bool,
    running: Option<(Pid, Instant)>,
    /// When it is to be started again.
    next: Option<Instant>,
    pause: Duration,
    kill_at: Option<Instant>,
}

impl Service {
    pub(super) fn new(name: &str, run: PathBuf) -> Service {
        let log = Some(Arc::new(Mutex::new(Log::of(name))));
        Service { log, ..Service::on_console(name, run) }
    }

    pub(super) fn on_console(name: &str, run: PathBuf) -> Service {
        Service {
            name: name.to_owned(),
            run,
            log: None,
            wanted: false,
            running: None,
            next: None,
            pause: SHORTEST_PAUSE,
            kill_at: None,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Lets go of the log file; what the service still says is lost.
    pub(super) fn close_log(&self) {
        if let Some(log) = &self.log {
            log.lock().unwrap_or_else(PoisonError::into_inner).close();
        }
    }

    pub(super) fn start(&mut self) -> Reply {
        self.wanted = true;
        if self.running.is_some() {
            return self.status();
        }
        self.pause = SHORTEST_PAUSE;
        match self.spawn() {
            Ok(()) => self.status(),
            Err(failure) => {
                self.wanted = false;
                Reply::failed(&format!("Could not start `{}` ({}): {failure}", self.name, self.run.display()))
            }
        }
    }

    pub(super) fn stop(&mut self) -> Reply {
        self.wanted = false;
        self.next = None;
        self.end_process();
        self.status()
    }

    pub(super) fn restart(&mut self) -> Reply {
        if self.running.is_none() {
            return self.start();
        }
        self.wanted = true;
        // It is meant to end now, so it need not wait afterwards.
        self.pause = Duration::ZERO;
        self.end_process();
        self.status()
    }

    pub(super) fn reload(&mut self) -> Reply {
        match self.running {
            Some((pid, _)) => match kill_process(pid, Signal::HUP) {
                Ok(()) => self.status(),
                Err(failure) => Reply::failed(&format!("Could not signal `{}`: {failure}", self.name)),
            },
            None => self.status(),
        }
    }

    pub(super) fn status(&self) -> Reply {
        match (self.running, self.wanted) {
            (Some((pid, since)), _) => Reply::done(&format!(
                "`{}` is running, pid {}, for {} s",
                self.name,
                pid.as_raw_nonzero(),
                since.elapsed().as_secs()
            )),
            (None, true) => {
                Reply::stopped(&format!("`{}` is stopped, it ended and will be started again", self.name))
            }
            (None, false) => Reply::stopped(&format!("`{}` is stopped", self.name)),
        }
    }

    /// Takes note when the process that ended is this service's.
    pub(super) fn exited(&mut self, pid: Pid, how: &str) {
        let Some((own, since)) = self.running else { return };
        if own != pid {
            return;
        }
        self.running = None;
        self.kill_at = None;
        if !self.wanted {
            self.note(&format!("stopped ({how})"));
            return;
        }
        if since.elapsed() >= WELL_AFTER {
            self.pause = self.pause.min(SHORTEST_PAUSE);
        }
        self.note(&format!("ended ({how}), starts again in {} ms", self.pause.as_millis()));
        self.next = Some(Instant::now() + self.pause);
        self.pause = longer(self.pause);
    }

    pub(super) fn tick(&mut self, now: Instant) {
        if let (Some(deadline), Some((pid, _))) = (self.kill_at, self.running)
            && now >= deadline
        {
            self.note("did not stop in time and is killed");
            let _ = kill_process(pid, Signal::KILL);
            self.kill_at = None;
        }
        if self.next.is_some_and(|next| now >= next) {
            self.next = None;
            if let Err(failure) = self.spawn() {
                self.note(&format!("could not be started: {failure}"));
                self.next = Some(now + self.pause);
                self.pause = longer(self.pause);
            }
        }
    }

    fn end_process(&mut self) {
        if let Some((pid, _)) = self.running {
            let _ = kill_process(pid, Signal::TERM);
            self.kill_at = Some(Instant::now() + STOP_DEADLINE);
        }
    }

    fn spawn(&mut self) -> io::Result<()> {
        let mut command = Command::new(&self.run);
        command.env_clear().env("PATH", PATH).env("HOME", "/root").env("LANG", "C.UTF-8").current_dir("/");
        let mut output = None;
        if self.log.is_some() {
            let (reader, writer) = io::pipe()?;
            command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).process_group(0);
            output = Some(reader);
        }
        let child = command.spawn()?;
        self.next = None;
        self.running =
            i32::try_from(child.id()).ok().and_then(Pid::from_raw).map(|pid| (pid, Instant::now()));
        if let (Some(mut output), Some(log)) = (output, self.log.clone()) {
            // Lives until everyone who inherited the pipe is gone, which may be after the service itself.
            thread::spawn(move || {
                let mut buffer = [0; 8192];
                while let Ok(length) = output.read(&mut buffer) {
                    if length == 0 {
                        return;
                    }
                    log.lock().unwrap_or_else(PoisonError::into_inner).append(&buffer[..length]);
                }
            });
        }
        Ok(())
    }

    fn note(&self, what: &str) {
        if let Some(log) = &self.log {
            let line = format!("-- `{}` {what}\n", self.name);
            log.lock().unwrap_or_else(PoisonError::into_inner).append(line.as_bytes());
        }
    }
}

fn longer(pause: Duration) -> Duration {
    (pause * 2).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
}

/// How a process ended, in words.
pub(super) fn describe(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown end".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound() {
        let mut pause = Duration::ZERO;
        let mut seen = Vec::new();
        for _ in 0..10 {
            pause = longer(pause);
            seen.push(pause.as_millis());
        }
        assert_eq!(seen, [250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
    }

    #[test]
    fn a_missing_program_is_said() {
        let mut service = Service::on_console("x", PathBuf::from("/nonexistent/run"));
        let reply = service.start();
        assert_eq!(reply.code, 1);
        assert!(reply.text.contains("/nonexistent/run"), "{}", reply.text);
        assert_eq!(service.status(), Reply::stopped("`x` is stopped"));
    }
}
