//! The loop of the supervising process: streams in and out, requests, and the end of the process.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, WaitOptions};

use super::branch;
use super::children;
use super::log::Stream;
use super::logging::Log;
use super::outlet::Outlet;
use super::peer::{Mode, PATIENCE, Peer};
use super::protocol::{self, ExitRecord, Reply, Request, ShimConfig, Task};
use super::task::{Running, Streams};
use super::terminal::resize;

/// How long output may still come after the process has ended.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long a client may take to read what is left; somebody may be looking at it in a pager.
const FAREWELL: Duration = Duration::from_hours(1);
/// How long the log process may take for what is left.
const LOGGING: Duration = Duration::from_secs(10);
/// How long a container may take to end when the host does: first processes of a container are deaf to signals that
/// they do not handle.
const SHUTDOWN: Duration = Duration::from_secs(8);
/// How often processes are looked for that were left to this one.
const REAPING: Duration = Duration::from_secs(10);
/// How long that is done more often, when a copy of this process has ended.
const ORPHANS: Duration = Duration::from_secs(1);
/// How often something is looked at that happens about now.
const SOON: Duration = Duration::from_millis(100);
/// Input that the container has not read yet.
const MOST_INPUT: usize = 64 * 1024;

/// Begins the process; called once, at the request of the daemon.
pub(crate) type Begin<'a> = Box<dyn FnMut() -> Result<Option<Running>, String> + 'a>;

pub(crate) struct Server<'a> {
    config: &'a ShimConfig,
    listener: UnixListener,
    peers: Vec<Peer>,
    log: Log,
    begin: Option<Begin<'a>>,
    /// What is left to do that nobody is to wait for, once the process has begun.
    later: Option<Box<dyn FnOnce() + 'a>>,
    process: Option<Process>,
    /// Copies of this process, which supervise further processes.
    branches: Vec<OwnedFd>,
    /// Until when children are looked for often: what a copy leaves behind ends a moment after it.
    orphans: Option<Instant>,
    buffer: Vec<u8>,
}

struct Process {
    pid: i32,
    handle: OwnedFd,
    streams: Streams,
    /// Input on its way, and whether it ends after that.
    input: Vec<u8>,
    input_ends: bool,
    started: bool,
}

/// What one descriptor in the poll set stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Listener,
    Exit,
    Stdin,
    Output(Stream),
    Terminal,
    Branch(usize),
    Outlet,
    LogSigns,
    Peer(usize),
}

impl<'a> Server<'a> {
    pub(crate) fn new(
        config: &'a ShimConfig,
        listener: UnixListener,
        first: Peer,
        outlet: Option<Outlet>,
        begin: Begin<'a>,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let log = Log::open(config.log.clone(), outlet)?;
        Ok(Self {
            config,
            listener,
            peers: vec![first],
            log,
            begin: Some(begin),
            later: None,
            process: None,
            branches: Vec::new(),
            orphans: None,
            buffer: vec![0; 32 * 1024],
        })
    }

    /// To be done once the process has begun, and whoever let it has been told.
    pub(crate) fn afterwards(&mut self, later: Box<dyn FnOnce() + 'a>) {
        self.later = Some(later);
    }

    /// Takes over a process that exists but has not begun.
    pub(crate) fn adopt(&mut self, running: Running) -> io::Result<()> {
        self.process = Some(Process {
            pid: running.pid,
            handle: running.handle()?,
            streams: running.streams,
            input: Vec::new(),
            input_ends: false,
            started: false,
        });
        Ok(())
    }

    /// Serves until the process has ended and its output is read. `None`: it never began and nobody is left who could
    /// ask for it.
    pub(crate) fn run(&mut self, kill_rest: &dyn Fn()) -> Option<i32> {
        let mut code = None;
        let mut deadline = None;
        let mut shutdown = None;
        loop {
            if code.is_none() && super::HOST_ENDS.load(Ordering::Relaxed) {
                let at = *shutdown.get_or_insert_with(|| Instant::now() + SHUTDOWN);
                if Instant::now() > at {
                    let _ = self.kill(libc::SIGKILL);
                }
            }
            if code.is_some()
                && (!self.has_output() || deadline.is_some_and(|deadline| Instant::now() > deadline))
            {
                break;
            }
            // Whoever made this process is gone before it began: there is nothing to wait for.
            let started = self.process.as_ref().is_some_and(|process| process.started);
            if !started && self.peers.is_empty() {
                return code;
            }
            if started && let Some(later) = self.later.take() {
                later();
            }
            let orphans = self.orphans.is_some_and(|until| Instant::now() < until);
            let patience = match (code, shutdown) {
                (Some(_), _) => SOON,
                (None, _) if orphans => SOON,
                (None, Some(_)) => Duration::from_secs(1),
                (None, None) => REAPING,
            };
            self.step(patience, code.is_some());
            if code.is_none()
                && let Some(ended) = self.reap()
            {
                code = Some(ended);
                kill_rest();
                deadline = Some(Instant::now() + LAST_WORDS);
            }
        }
        self.log.finish_lines();
        self.nudge();
        code
    }

    /// Tells everybody how it ended and lets them read what is left.
    pub(crate) fn farewell(&mut self, exit: &ExitRecord) {
        self.process = None;
        self.begin = None;
        for peer in self.peers.iter_mut().filter(|peer| peer.waiting) {
            peer.reply(&Reply::Exited(exit.clone()));
        }
        let now = Instant::now();
        // Nothing more will be sent on these, so their end tells that all is read.
        self.peers.retain(|peer| !peer.dead && peer.unsent() > 0);
        loop {
            self.log.close();
            let is_late = self.log.has_more() && now.elapsed() < LOGGING;
            if !is_late && (self.peers.is_empty() || now.elapsed() >= FAREWELL) {
                break;
            }
            self.step(if is_late { SOON } else { REAPING }, true);
            self.peers.retain(|peer| !peer.dead && peer.unsent() > 0);
        }
    }

    /// Waits until the log file has all of it, if another process writes that one: the next run begins where this one ends.
    pub(crate) fn finish_file(&mut self) {
        if self.log.finish_file(LOGGING) {
            self.nudge();
        }
    }

    /// Whoever follows the log is told that it has grown.
    fn nudge(&mut self) {
        for peer in &mut self.peers {
            peer.nudge();
        }
    }

    fn has_output(&self) -> bool {
        self.process.as_ref().is_some_and(|process| {
            let streams = &process.streams;
            streams.terminal.is_some() || streams.stdout.is_some() || streams.stderr.is_some()
        })
    }

    fn step(&mut self, timeout: Duration, ended: bool) {
        let ready = self.wait(timeout, ended);
        let is_over = |index: &usize| ready.iter().any(|(source, _)| *source == Source::Branch(*index));
        let over: Vec<usize> = (0..self.branches.len()).filter(is_over).collect();
        if !over.is_empty() {
            self.orphans = Some(Instant::now() + ORPHANS);
        }
        // They are collected with all other children.
        for index in over.into_iter().rev() {
            self.branches.swap_remove(index);
        }
        for (source, flags) in ready {
            match source {
                Source::Listener => self.accept(),
                Source::Stdin => self.feed(flags.intersects(PollFlags::ERR)),
                Source::Output(stream) => self.read_output(stream),
                Source::Terminal => {
                    if flags.intersects(PollFlags::OUT) {
                        self.feed(false);
                    }
                    if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                        self.read_output(Stream::Stdout);
                    }
                }
                Source::Outlet => self.log.pass_on(),
                Source::LogSigns if self.log.heed() => self.nudge(),
                Source::LogSigns | Source::Exit | Source::Branch(_) => {}
                Source::Peer(index) => self.serve_peer(index, flags),
            }
        }
        self.peers.retain(|peer| !peer.dead);
    }

    /// Waits for something to happen. Output is not read while a client, or a log that is to miss nothing, lags behind with
    /// what it has got.
    fn wait(&self, timeout: Duration, ended: bool) -> Vec<(Source, PollFlags)> {
        // What an ended process has left in its pipes is little, and would be lost.
        let is_late = |peer: &Peer| peer.is_attached() && peer.unsent() > PATIENCE;
        let held_up = !ended && (self.log.is_full() || self.peers.iter().any(is_late));
        let mut sources = vec![Source::Listener];
        let mut descriptors = vec![PollFd::new(&self.listener, PollFlags::IN)];
        let mut full = false;
        if let Some(process) = &self.process {
            full = process.input.len() >= MOST_INPUT;
            if !ended {
                sources.push(Source::Exit);
                descriptors.push(PollFd::new(&process.handle, PollFlags::IN));
            }
            let streams = &process.streams;
            let out = if process.input.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            if let Some(stdin) = &streams.stdin {
                sources.push(Source::Stdin);
                descriptors.push(PollFd::new(stdin, out));
            }
            if let Some(terminal) = &streams.terminal {
                let read = if held_up { PollFlags::empty() } else { PollFlags::IN };
                if !held_up || !out.is_empty() {
                    sources.push(Source::Terminal);
                    descriptors.push(PollFd::new(terminal, out | read));
                }
            }
            for (output, stream) in [(&streams.stdout, Stream::Stdout), (&streams.stderr, Stream::Stderr)] {
                if let Some(output) = output
                    && !held_up
                {
                    sources.push(Source::Output(stream));
                    descriptors.push(PollFd::new(output, PollFlags::IN));
                }
            }
        }
        for (index, branch) in self.branches.iter().enumerate() {
            sources.push(Source::Branch(index));
            descriptors.push(PollFd::new(branch, PollFlags::IN));
        }
        for (source, descriptor, flags) in [
            (Source::Outlet, self.log.input(), PollFlags::OUT),
            (Source::LogSigns, self.log.signs(), PollFlags::IN),
        ] {
            if let Some(descriptor) = descriptor {
                sources.push(source);
                descriptors.push(PollFd::from_borrowed_fd(descriptor, flags));
            }
        }
        for (index, peer) in self.peers.iter().enumerate() {
            let mut flags = PollFlags::empty();
            if !(peer.finished_sending || (full && peer.gives_stdin())) {
                flags |= PollFlags::IN;
            }
            if peer.unsent() > 0 {
                flags |= PollFlags::OUT;
            }
            sources.push(Source::Peer(index));
            descriptors.push(PollFd::new(&peer.socket, flags));
        }
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        if rustix::event::poll(&mut descriptors, Some(&timeout)).is_err() {
            return Vec::new();
        }
        let events = descriptors.iter().map(PollFd::revents);
        sources.into_iter().zip(events).filter(|(_, flags)| !flags.is_empty()).collect()
    }

    fn accept(&mut self) {
        while let Ok((socket, _)) = self.listener.accept() {
            match Peer::new(socket) {
                Ok(peer) => self.peers.push(peer),
                Err(error) => tracing::error!(%error, "Could not take a connection"),
            }
        }
    }

    /// Gives the process its input.
    fn feed(&mut self, broken: bool) {
        let Some(process) = &mut self.process else { return };
        let Some(sink) = process.streams.stdin.as_ref().or(process.streams.terminal.as_ref()) else { return };
        let mut closed = broken;
        while !process.input.is_empty() && !closed {
            match rustix::io::write(sink, &process.input) {
                Ok(count) => drop(process.input.drain(..count)),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return,
                Err(_) => closed = true,
            }
        }
        if closed || process.input_ends {
            process.input.clear();
            process.streams.stdin = None;
        }
    }

    fn read_output(&mut self, stream: Stream) {
        let Some(process) = &mut self.process else { return };
        let streams = &mut process.streams;
        let terminal = streams.terminal.is_some();
        let slot = match stream {
            _ if terminal => &mut streams.terminal,
            Stream::Stdout => &mut streams.stdout,
            Stream::Stderr => &mut streams.stderr,
        };
        let Some(output) = slot else { return };
        let count = match rustix::io::read(&*output, &mut self.buffer[..]) {
            Ok(count) => count,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return,
            // A terminal says so when its last user is gone.
            Err(_) => 0,
        };
        if count == 0 {
            *slot = None;
            return;
        }
        let bytes = &self.buffer[..count];
        let is_written = self.log.write(stream, bytes);
        for peer in &mut self.peers {
            peer.pass(stream, bytes, terminal);
            if is_written {
                peer.nudge();
            }
        }
    }

    fn serve_peer(&mut self, index: usize, flags: PollFlags) {
        if flags.intersects(PollFlags::OUT) {
            self.peers[index].send();
        }
        if flags.intersects(PollFlags::IN) {
            let count = self.peers[index].receive(&mut self.buffer);
            if count > 0 {
                if self.peers[index].mode == Mode::Commands {
                    let bytes = self.buffer[..count].to_vec();
                    self.peers[index].take(&bytes);
                    self.obey(index);
                } else if self.peers[index].gives_stdin() {
                    let bytes = self.buffer[..count].to_vec();
                    self.give_input(&bytes);
                }
            } else if self.peers[index].finished_sending {
                match self.peers[index].mode {
                    Mode::Attached { stdin: true, .. } => self.end_input(),
                    Mode::Attached { .. } | Mode::Following => {}
                    Mode::Commands => self.peers[index].dead = true,
                }
            }
        } else if flags.intersects(PollFlags::HUP | PollFlags::ERR) {
            if self.peers[index].gives_stdin() && !self.peers[index].finished_sending {
                self.end_input();
            }
            self.peers[index].dead = true;
        }
    }

    fn give_input(&mut self, bytes: &[u8]) {
        if let Some(process) = &mut self.process
            && (process.streams.stdin.is_some() || process.streams.terminal.is_some())
            && !process.input_ends
        {
            process.input.extend_from_slice(bytes);
            self.feed(false);
        }
    }

    fn end_input(&mut self) {
        // Whoever detached from a terminal may come back to it.
        if self.config.stdin_once
            && !self.config.terminal
            && let Some(process) = &mut self.process
        {
            process.input_ends = true;
            self.feed(false);
        }
    }

    fn obey(&mut self, index: usize) {
        while self.peers[index].mode == Mode::Commands && !self.peers[index].dead {
            let Some(request) = self.peers[index].next_request() else { return };
            let reply = match request {
                Ok(request) => self.answer(index, &request),
                Err(name) => {
                    Some(Reply::Failed { message: format!("The request `{name}` is not understood") })
                }
            };
            if let Some(reply) = reply {
                self.peers[index].reply(&reply);
            }
        }
        let leftover = self.peers[index].leftover();
        if !leftover.is_empty() && self.peers[index].gives_stdin() {
            self.give_input(&leftover);
        }
    }

    /// The answer, if there is one at once.
    fn answer(&mut self, index: usize, request: &Request) -> Option<Reply> {
        let reply = match *request {
            Request::Exec { ref directory } => match self.branch(index, directory) {
                // From here on it answers.
                Ok(()) => return None,
                Err(message) => Reply::Failed { message },
            },
            Request::Hello { .. } => {
                let requests = protocol::REQUESTS.map(str::to_owned).to_vec();
                let reply = Reply::Hello { version: protocol::VERSION, requests };
                let Some(process) = &self.process else { return Some(reply) };
                self.peers[index].hand_over(&reply, process.handle.as_fd());
                return None;
            }
            Request::Start => self.start(),
            Request::Wait => {
                self.peers[index].waiting = true;
                return None;
            }
            Request::Kill { signal } => self.kill(signal),
            Request::Resize { rows, columns } => self.resize(rows, columns),
            Request::Attach { stdin, stdout, stderr } => {
                self.peers[index].mode = Mode::Attached { stdin, stdout, stderr };
                Reply::Done
            }
            Request::Follow => {
                self.peers[index].mode = Mode::Following;
                Reply::Done
            }
        };
        Some(reply)
    }

    fn branch(&mut self, index: usize, directory: &Path) -> Result<(), String> {
        let process = self.process.as_ref().filter(|process| process.started);
        let (Some(process), Task::Container(_)) = (process, &self.config.task) else {
            return Err("There is no container that runs".to_owned());
        };
        let (peer, container) = (&mut self.peers[index], process.pid);
        let run = |connection, handle| super::branch(directory, connection, handle, container);
        let branch = branch::fork(peer.socket.as_fd(), process.handle.as_fd(), run)
            .map_err(|error| format!("Could not make another supervising process: {error}"))?;
        peer.dead = true;
        self.branches.extend(branch);
        Ok(())
    }

    fn start(&mut self) -> Reply {
        let Some(mut begin) = self.begin.take() else {
            return Reply::Failed { message: "It has been started already".to_owned() };
        };
        match begin() {
            Ok(None) => {}
            Ok(Some(running)) => {
                if let Err(error) = self.adopt(running) {
                    return Reply::Failed { message: format!("Could not watch the process: {error}") };
                }
            }
            Err(message) => return Reply::Failed { message },
        }
        let Some(process) = &mut self.process else {
            return Reply::Failed { message: "There is no process to start".to_owned() };
        };
        process.started = true;
        Reply::Started { pid: process.pid }
    }

    #[expect(unsafe_code, reason = "rustix has no numbers for real-time signals")]
    fn kill(&self, signal: i32) -> Reply {
        let Some(process) = &self.process else {
            return Reply::Failed { message: "It is not running".to_owned() };
        };
        let (handle, nothing) = (process.handle.as_raw_fd(), std::ptr::null::<libc::siginfo_t>());
        // SAFETY: the descriptor is open, and without a pointer the kernel fills in what kill(2) would.
        if unsafe { libc::syscall(libc::SYS_pidfd_send_signal, handle, signal, nothing, 0) } == 0 {
            Reply::Done
        } else {
            Reply::Failed { message: io::Error::last_os_error().to_string() }
        }
    }

    fn resize(&self, rows: u16, columns: u16) -> Reply {
        match self.process.as_ref().and_then(|process| process.streams.terminal.as_ref()) {
            Some(terminal) => match resize(terminal, rows, columns) {
                Ok(()) => Reply::Done,
                Err(error) => Reply::Failed { message: error.to_string() },
            },
            None => Reply::Failed { message: "It has no terminal".to_owned() },
        }
    }

    /// Collects children that have ended; the exit code if the process is among them. That one is not collected: until
    /// everybody knows that it has ended, its number must not become another's.
    fn reap(&mut self) -> Option<i32> {
        while let Some((pid, code)) = children::ended() {
            if self.process.as_ref().is_some_and(|process| process.pid == pid.as_raw_nonzero().get()) {
                return Some(code);
            }
            if rustix::process::waitpid(Some(pid), WaitOptions::NOHANG).is_err() {
                break;
            }
        }
        None
    }

    /// Gives the number of the process back. Others in its process namespace may wait for that: the first one there does not
    /// end before.
    pub(crate) fn collect(&self) {
        let pid = self.process.as_ref().and_then(|process| Pid::from_raw(process.pid));
        if let Some(pid) = pid
            && let Err(error) = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG)
        {
            tracing::error!(%error, "Could not collect the process");
        }
    }
}

/// The record of an exit that happened now.
pub(crate) fn exit_record(code: i32, out_of_memory: bool) -> ExitRecord {
    ExitRecord { code, out_of_memory, finished_at: Timestamp::now() }
}

impl std::fmt::Debug for Server<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Server").field("peers", &self.peers).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
