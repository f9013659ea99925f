//! Asks running containers whether they are well: a program in each, time and again, while it runs and is not paused.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use engine_model::chain;
use engine_model::life::{Change, Life};
use engine_model::spec::HealthSpec;
use engine_model::task::vital;
use jiff::Timestamp;
use tokio::io::{AsyncReadExt, BufReader};
use tokio::net::UnixStream;

use super::exec::Exec;
use super::health::{Checked, HealthStatus};
use super::record::Status;
use super::{Container, ContainerError, Containers};

/// How many may be begun at a time: when a daemon finds a thousand containers, all are due.
pub(super) const AT_ONCE: usize = 32;
/// How long the beginning of one may take. It does not count as its own time.
const BEGINNING: Duration = Duration::from_secs(30);
/// How long one that is killed may take to be gone.
const KILLED: Duration = Duration::from_secs(10);
/// How much of what one says is told.
const MOST_OUTPUT: usize = 4096;
/// What is said of one that came to no end of its own.
const NO_END: i32 = -1;

/// One run of a container.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// How often it had ended before.
    exits: u64,
    started: Timestamp,
}

impl Run {
    fn is_over(self, life: &Life) -> bool {
        life.exits > self.exits || life.removed
    }
}

impl Containers {
    /// Asks a container that has just been started or found, as long as this run of it lasts.
    pub(super) fn check_health(&self, container: &Arc<Container>) {
        let Some(spec) = container.spec().ok().and_then(|spec| spec.health.clone()) else { return };
        let state = container.state();
        // Nobody asked when an engine before this one started it.
        let (Some(started), Some(health)) = (state.started_at, state.health) else { return };
        let run = Run { exits: container.life().borrow().exits, started };
        let pause = health.rest_of_pause(&spec, started, Timestamp::now());
        let (containers, container) = (self.clone(), Arc::clone(container));
        vital(async move { containers.go_on_asking(&container, &spec, run, pause).await });
    }

    async fn go_on_asking(
        &self,
        container: &Arc<Container>,
        spec: &HealthSpec,
        run: Run,
        mut pause: Duration,
    ) {
        loop {
            let over = container.wait_until(|life| run.is_over(life));
            if tokio::time::timeout(pause, over).await.is_ok() {
                return;
            }
            let is_paused = || container.status() == Status::Paused;
            if is_paused() {
                container.wait_until(|life| run.is_over(life) || !is_paused()).await;
            } else if !container.stopping.load(Ordering::Acquire) {
                let start = Timestamp::now();
                tokio::select! {
                    // What it would say then is not about how the container is.
                    _ = container.wait_until(|life| run.is_over(life) || is_paused()) => {}
                    (exit_code, output) = self.ask(container, spec) => {
                        self.count_check(exit_code);
                        let checked = Checked { start, end: Timestamp::now(), exit_code, output };
                        self.learn(container, spec, run, checked);
                    }
                }
            }
            let Some(health) = container.state().health else { return };
            pause = health.pause(spec, run.started, Timestamp::now());
        }
    }

    fn count_check(&self, exit_code: i32) {
        let [all, failed] = &self.0.checks_made;
        all.fetch_add(1, Ordering::Relaxed);
        if exit_code != 0 {
            failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Puts on record what was said, if it is about this run.
    fn learn(&self, container: &Container, spec: &HealthSpec, run: Run, checked: Checked) {
        let mut changed: Option<HealthStatus> = None;
        container.amend_state(|state| {
            if state.status != Status::Running || state.started_at != Some(run.started) {
                return false;
            }
            let Some(health) = &mut state.health else { return false };
            let health = Arc::make_mut(health);
            let before = health.status;
            let is_worth_writing = health.learn(checked, spec, run.started);
            changed = Some(health.status).filter(|status| *status != before);
            is_worth_writing
        });
        if let Some(status) = changed {
            container.tell(&self.0.events, &Change::HealthChanged { status: status.word() });
        }
    }

    /// Runs the program once: how it ended, and what it said.
    async fn ask(&self, container: &Arc<Container>, spec: &HealthSpec) -> (i32, String) {
        match self.try_to_ask(container, spec).await {
            Ok(answer) => answer,
            Err(error) => {
                let error = chain(&error);
                // Whoever looks at its health reads it there.
                tracing::debug!(container = container.id, error, "Could not check its health");
                (NO_END, error)
            }
        }
    }

    async fn try_to_ask(
        &self,
        container: &Arc<Container>,
        spec: &HealthSpec,
    ) -> Result<(i32, String), ContainerError> {
        let turn = self.0.checks.acquire().await;
        let running = Running { containers: self, exec: self.create_check(container, &spec.command)? };
        let exec = &running.exec;
        let begin = async {
            let (waiting, stream) = self.prepare_exec(exec, false, None).await?.into_parts();
            self.begin_exec(waiting).await?;
            Ok::<_, ContainerError>(stream)
        };
        let began = tokio::time::timeout(BEGINNING, begin).await;
        drop(turn);
        let too_slow = || format!("timed out starting health check for container {}", container.id);
        let stream = began.map_err(|_| ContainerError::Refused(too_slow()))??;
        let mut output = Output::default();
        let end = async {
            tokio::join!(exec.finished(), output.take(stream));
        };
        if tokio::time::timeout(spec.timeout, end).await.is_ok() {
            return Ok((exec.exit_code().unwrap_or(NO_END), output.text()));
        }
        if exec.has_begun()
            && let Err(error) = exec.kill().await
        {
            tracing::warn!(container = container.id, error = chain(&error), "Could not end a health check");
        }
        // They must not pile up.
        let _ = tokio::time::timeout(KILLED, exec.finished()).await;
        let (limit, said) = (go_duration(spec.timeout), output.text());
        let colon = if said.is_empty() { "" } else { ": " };
        Ok((NO_END, format!("Health check exceeded timeout ({limit}){colon}{said}")))
    }
}

/// A program that runs. Nobody knows of it once this is dropped, and it ends.
struct Running<'a> {
    containers: &'a Containers,
    exec: Arc<Exec>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.containers.forget_exec(&self.exec);
        if self.exec.has_begun() {
            let exec = Arc::clone(&self.exec);
            // It is gone already if its container is.
            tokio::spawn(async move { exec.kill().await });
        }
    }
}

/// What a program has said so far, up to a bound.
#[derive(Debug, Default)]
struct Output {
    bytes: Vec<u8>,
    is_cut: bool,
}

impl Output {
    /// Reads Docker's frames to their end: the stream's number, three zeros, a length, and so many bytes.
    async fn take(&mut self, stream: Option<BufReader<UnixStream>>) {
        let Some(mut stream) = stream else { return };
        let mut header = [0; 8];
        while stream.read_exact(&mut header).await.is_ok() {
            let [.., a, b, c, d] = header;
            let mut left = u64::from(u32::from_be_bytes([a, b, c, d]));
            let mut part = [0; 1024];
            while left > 0 {
                let most = usize::try_from(left).unwrap_or(usize::MAX).min(part.len());
                let Ok(count @ 1..) = stream.read(&mut part[..most]).await else { return };
                self.add(&part[..count]);
                left = left.saturating_sub(count as u64);
            }
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        let kept = bytes.len().min(MOST_OUTPUT - self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..kept]);
        self.is_cut |= kept < bytes.len();
    }

    fn text(&self) -> String {
        let more = if self.is_cut { "..." } else { "" };
        format!("{}{more}", String::from_utf8_lossy(&self.bytes))
    }
}

/// As Go writes it: `1m30s`, `2.5s`, `300ms`.
fn go_duration(duration: Duration) -> String {
    let fraction = |whole: u128, part: u128, digits: usize, unit: &str| {
        let part = format!("{part:0digits$}");
        let part = part.trim_end_matches('0');
        let dot = if part.is_empty() { "" } else { "." };
        format!("{whole}{dot}{part}{unit}")
    };
    let nanoseconds = duration.as_nanos();
    match nanoseconds {
        0 => return "0s".to_owned(),
        1..1_000 => return format!("{nanoseconds}ns"),
        1_000..1_000_000 => return fraction(nanoseconds / 1_000, nanoseconds % 1_000, 3, "µs"),
        1_000_000..1_000_000_000 => {
            return fraction(nanoseconds / 1_000_000, nanoseconds % 1_000_000, 6, "ms");
        }
        _ => {}
    }
    let seconds = duration.as_secs();
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let rest = fraction(u128::from(seconds % 60), u128::from(duration.subsec_nanos()), 9, "s");
    match (hours, minutes) {
        (0, 0) => rest,
        (0, _) => format!("{minutes}m{rest}"),
        _ => format!("{hours}h{minutes}m{rest}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn what_is_said_is_bounded() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let writer = tokio::spawn(async move {
            for (stream, text) in [(1, "out ".repeat(500)), (2, "err ".repeat(500)), (1, "more".repeat(500))]
            {
                theirs.write_all(&[stream, 0, 0, 0]).await.unwrap();
                theirs.write_all(&u32::try_from(text.len()).unwrap().to_be_bytes()).await.unwrap();
                theirs.write_all(text.as_bytes()).await.unwrap();
            }
            // One that breaks off, and lies about its length.
            theirs.write_all(&[1, 0, 0, 0, 255, 255, 255, 255, b'x']).await.unwrap();
        });
        let mut output = Output::default();
        output.take(Some(BufReader::new(ours))).await;
        writer.await.unwrap();
        let text = output.text();
        assert_eq!(text.len(), 4096 + 3);
        assert!(text.starts_with("out out ") && text.ends_with("more..."), "{text}");
        let mut short = Output::default();
        short.add(b"fine\xff");
        assert_eq!(short.text(), "fine\u{fffd}");
    }

    #[test]
    fn durations_are_gos() {
        for (milliseconds, text) in [
            (0, "0s"),
            (1, "1ms"),
            (1_500, "1.5s"),
            (30_000, "30s"),
            (90_000, "1m30s"),
            (3_600_000, "1h0m0s"),
            (3_661_250, "1h1m1.25s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(milliseconds)), text);
        }
        assert_eq!(go_duration(Duration::from_nanos(1_500)), "1.5µs");
        assert_eq!(go_duration(Duration::from_micros(2_030)), "2.03ms");
    }
}
