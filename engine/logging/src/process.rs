//! The process itself: output in through a pipe, lines out by the driver.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use engine_shim::outlet::{Head, READY};
use rustix::event::{PollFd, PollFlags};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::watch;

use crate::driver::{Driver, DriverError, Settings, complain};
use crate::drivers;
use crate::lines::{Entry, Lines};

/// How long a server may take for what is left when the container has ended.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// Settings are shorter.
const LONGEST_SETTINGS: u32 = 16 * 1024 * 1024;
/// The container's supervising process passes on what it reads at once.
const LONGEST_PIECE: u32 = 1024 * 1024;

/// Settings and output come on its standard input; a line on its standard output tells that the driver works, or why not.
/// Then each byte there says that something more was written.
pub fn main(_: &[OsString]) -> ExitCode {
    deaf();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.and_then(|runtime| {
        let result = runtime.block_on(run());
        // What hangs is left behind.
        runtime.shutdown_background();
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "The log process has failed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// When the host ends it asks every process to end. This one goes when the container has.
#[expect(unsafe_code, reason = "the C library's call about signals")]
fn deaf() {
    for signal in [libc::SIGINT, libc::SIGHUP, libc::SIGTERM, libc::SIGPIPE] {
        // SAFETY: ignoring is valid for these signals, and the process has one thread.
        unsafe {
            libc::signal(signal, libc::SIG_IGN);
        }
    }
}

async fn run() -> io::Result<()> {
    let input = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    rustix::io::ioctl_fionbio(&input, true)?;
    let mut input = pipe::Receiver::from_owned_fd(input)?;
    let length = input.read_u32_le().await?;
    if length > LONGEST_SETTINGS {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut text = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    input.read_exact(&mut text).await?;
    let settings: Settings = serde_json::from_slice(&text)?;
    let signs = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
    let driver = match drivers::begin(settings).await {
        Ok(driver) => driver,
        Err(error) => return tell(&signs, error.to_string().replace('\n', " ").as_bytes()),
    };
    tell(&signs, READY)?;
    let signs = Signs(signs);
    let ended = watch_end(signs.0.as_fd().try_clone_to_owned()?);
    let lines = Lines::new(driver.longest_line());
    let mut outlet = Outlet { driver, lines, signs };
    outlet.serve(&mut input, ended).await
}

fn tell(signs: &OwnedFd, line: &[u8]) -> io::Result<()> {
    let text = [line, b"\n"].concat();
    rustix::io::write(signs, &text)?;
    Ok(())
}

/// Becomes true when nobody reads the signs any more: the container has ended. A while after that this process ends, whatever
/// its driver hangs in.
#[expect(clippy::exit, reason = "whoever hangs cannot be asked to return")]
fn watch_end(signs: OwnedFd) -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    std::thread::spawn(move || {
        let mut descriptors = [PollFd::new(&signs, PollFlags::empty())];
        while matches!(rustix::event::poll(&mut descriptors, None), Err(rustix::io::Errno::INTR) | Ok(0)) {}
        sender.send_replace(true);
        std::thread::sleep(LAST_WORDS * 2);
        std::process::exit(1);
    });
    receiver
}

struct Signs(OwnedFd);

impl Signs {
    /// A pipe that is full says enough.
    fn give(&self) {
        let mut writable = [PollFd::new(&self.0, PollFlags::OUT)];
        if rustix::event::poll(&mut writable, Some(&rustix::event::Timespec::default())) == Ok(1) {
            let _ = rustix::io::write(&self.0, b".");
        }
    }
}

struct Outlet {
    driver: Box<dyn Driver>,
    lines: Lines,
    signs: Signs,
}

impl Outlet {
    /// Until all is passed on, or until the server has had its time for what was left.
    async fn serve(
        &mut self,
        input: &mut pipe::Receiver,
        mut ended: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let end = async {
            let _ = ended.wait_for(|ended| *ended).await;
            tokio::time::sleep(LAST_WORDS).await;
        };
        tokio::select! {
            biased;
            result = self.pass(input) => result,
            () = end => {
                complain(&DriverError::new("the server does not take what was left when the container ended; it is lost"));
                Ok(())
            }
        }
    }

    async fn pass(&mut self, input: &mut pipe::Receiver) -> io::Result<()> {
        loop {
            let first = match first_byte(input) {
                Ok(Some(first)) => first,
                Ok(None) => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    tokio::select! {
                        ready = input.readable() => ready?,
                        () = sleep_until(self.driver.due()) => note(self.driver.flush().await),
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            // Whoever wrote it is gone in the middle of a piece.
            let Some(head) = read_head(first, input).await? else { break };
            if head.length > LONGEST_PIECE {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut bytes = Vec::new();
            (&mut *input).take(u64::from(head.length)).read_to_end(&mut bytes).await?;
            if head.after_gap {
                self.lines.lose(head.stream);
            }
            let complete = self.lines.add(head.stream, head.time, &bytes);
            self.send(complete).await;
            if self.driver.due().is_some_and(|due| due <= Instant::now()) {
                note(self.driver.flush().await);
            }
        }
        let rest = self.lines.finish();
        self.send(rest).await;
        note(self.driver.finish().await);
        Ok(())
    }

    async fn send(&mut self, entries: Vec<Entry>) {
        if entries.is_empty() {
            return;
        }
        for entry in entries {
            note(self.driver.send(entry).await);
        }
        self.signs.give();
    }
}

fn note(result: Result<(), DriverError>) {
    if let Err(error) = result {
        complain(&error);
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// Of the next piece; `None`: nothing comes any more.
fn first_byte(input: &pipe::Receiver) -> io::Result<Option<u8>> {
    let mut byte = [0];
    Ok((input.try_read(&mut byte)? > 0).then_some(byte[0]))
}

/// The rest of a piece's head is there, or about to come; `None`: it never will.
async fn read_head(first: u8, input: &mut pipe::Receiver) -> io::Result<Option<Head>> {
    let mut bytes = [first; Head::SIZE];
    match input.read_exact(&mut bytes[1..]).await {
        Ok(_) => Head::parse(&bytes).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}
