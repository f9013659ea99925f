//! The program of a driver while it runs: lines in, lines out, and an end that takes everything with it.

use std::{
    collections::VecDeque,
    io,
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    task::JoinHandle,
    time::timeout,
};

/// Longest line, in bytes.
const LINE: u64 = 1 << 20;
/// Most that is read of one call, in bytes.
const ALL: u64 = 64 << 20;
/// How much of standard error is kept: the last lines, each this long at most.
const ERROR_LINES: usize = 5;
const ERROR_LINE: usize = 300;
/// How long a program that has given its result may take to end.
const END: Duration = Duration::from_secs(2);

/// Why there is no next line.
#[derive(Debug)]
pub(crate) enum NoLine {
    Ended,
    TooLong,
    TooMuch,
    Silent(Duration),
    Failed(io::Error),
}

/// A running program. Dropped, it is killed with everything that it started and that stayed in its process group.
#[derive(Debug)]
pub(crate) struct Program {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    read: u64,
    /// What to end with it: its process group. `None` once it has ended as it should.
    #[cfg(unix)]
    group: Option<rustix::process::Pid>,
    /// It has ended; what is still in the pipe is the last.
    ended: bool,
    errors: Arc<Mutex<VecDeque<String>>>,
    listener: JoinHandle<()>,
}

impl Program {
    pub(crate) fn start(path: &Path) -> io::Result<Self> {
        let mut command = Command::new(path);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        // Of its own, so that Ctrl-C reaches us first and its children can be ended with it.
        #[cfg(unix)]
        command.process_group(0);
        let mut child = command.spawn()?;
        let missing = || io::Error::other("it has no standard streams");
        #[cfg(unix)]
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().ok_or_else(missing)?);
        let stderr = child.stderr.take().ok_or_else(missing)?;
        let errors: Arc<Mutex<VecDeque<String>>> = Arc::default();
        let kept = errors.clone();
        let listener = tokio::spawn(async move {
            let mut lines = BufReader::new(stderr);
            let mut line = Vec::new();
            loop {
                line.clear();
                match (&mut lines).take(LINE).read_until(b'\n', &mut line).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
                let text: String = String::from_utf8_lossy(&line).chars().take(ERROR_LINE).collect();
                let text = crate::check::text(&text);
                tracing::debug!(%text, "the driver's program");
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() == ERROR_LINES {
                    kept.pop_front();
                }
                kept.push_back(text);
            }
        });
        Ok(Self {
            child,
            input,
            output,
            read: 0,
            #[cfg(unix)]
            group,
            ended: false,
            errors,
            listener,
        })
    }

    /// Writes a line. A program that does not read it is noticed by its silence, so that a failure here is none.
    pub(crate) async fn write(&mut self, line: &str, limit: Duration) {
        let Some(input) = &mut self.input else { return };
        let written = async {
            input.write_all(line.as_bytes()).await?;
            input.write_all(b"\n").await?;
            input.flush().await
        };
        if !matches!(timeout(limit, written).await, Ok(Ok(()))) {
            self.input = None;
        }
    }

    /// The next line, without its end. A program that is dead is not waited for, whoever else holds its output open.
    pub(crate) async fn line(&mut self, silence: Duration) -> Result<Vec<u8>, NoLine> {
        let mut line = Vec::new();
        let mut limit = if self.ended { END } else { silence };
        loop {
            let left = (LINE + 1).saturating_sub(line.len() as u64);
            // Dropped before its end, what it has read is in `line`.
            let mut output = (&mut self.output).take(left);
            tokio::select! {
                biased;
                read = timeout(limit, output.read_until(b'\n', &mut line)) => match read {
                    Err(_) if self.ended => return Err(NoLine::Ended),
                    Err(_) => return Err(NoLine::Silent(silence)),
                    Ok(Err(error)) => return Err(NoLine::Failed(error)),
                    Ok(Ok(0)) if line.is_empty() => return Err(NoLine::Ended),
                    Ok(Ok(_)) => break,
                },
                _ = self.child.wait(), if !self.ended => {
                    self.ended = true;
                    limit = END;
                }
            }
        }
        let size = line.len() as u64;
        self.read += size;
        if size > LINE {
            return Err(NoLine::TooLong);
        }
        if self.read > ALL {
            return Err(NoLine::TooMuch);
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        Ok(line)
    }

    /// The end of what it wrote to standard error.
    pub(crate) async fn last_words(&mut self) -> Option<String> {
        // Its last line may still be on the way.
        let _ = timeout(END, &mut self.listener).await;
        let kept = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let words: Vec<&str> = kept.iter().map(String::as_str).filter(|line| !line.is_empty()).collect();
        (!words.is_empty()).then(|| words.join(" / "))
    }

    /// Lets a program that has given its result end by itself, for a moment. What it started lives on then, as a host
    /// may have to.
    pub(crate) async fn end(mut self) {
        self.input = None;
        if timeout(END, self.child.wait()).await.is_ok() {
            #[cfg(unix)]
            {
                self.group = None;
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.listener.abort();
        #[cfg(unix)]
        if let Some(group) = self.group {
            // Nobody else has the number: we have not waited for it, or only just now.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}
