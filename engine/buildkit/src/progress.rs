//! How a build goes on, as its client is shown it: steps, their output, warnings. Whoever asks late is told all of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::messages::Timestamp;
use super::messages::control::{StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning};

/// As much of one step's output is kept; more is said to be cut, as BuildKit does.
const MOST_OF_ONE: usize = 2 << 20;
/// As much of all, with some for each message's own weight.
const MOST_OF_ALL: usize = 64 << 20;
const WEIGHT: usize = 256;
/// Shown in one line, so longer is of no use.
const LONGEST_NAME: usize = 4096;

/// The progress of one build. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Progress(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    seed: String,
    steps: AtomicUsize,
    told: Mutex<Told>,
    /// How many messages there are, and whether that is all.
    state: watch::Sender<(usize, bool)>,
}

#[derive(Debug, Default)]
struct Told {
    messages: Vec<Arc<StatusResponse>>,
    weight: usize,
    is_cut: bool,
}

/// Says that nothing but the ends of steps is told from here on.
fn cut(message: &StatusResponse) -> StatusResponse {
    let vertex = message.logs.first().map(|log| &log.vertex);
    let vertex = vertex.or_else(|| message.statuses.first().map(|part| &part.vertex));
    let vertex = vertex.or_else(|| message.warnings.first().map(|warning| &warning.vertex));
    let text = format!("\n[output clipped, log limit {} MiB of the build reached]\n", MOST_OF_ALL >> 20);
    let log = VertexLog {
        vertex: vertex.cloned().unwrap_or_default(),
        timestamp: Some(Timestamp::now()),
        stream: 2,
        message: text.into_bytes(),
    };
    StatusResponse { logs: vec![log], ..StatusResponse::default() }
}

/// A step that has begun.
#[derive(Debug)]
pub(crate) struct Step {
    progress: Progress,
    vertex: Mutex<Vertex>,
    output: AtomicUsize,
    parts: Mutex<BTreeMap<String, VertexStatus>>,
}

impl Progress {
    pub(crate) fn new(seed: &str) -> Self {
        let inner = Inner {
            seed: seed.to_owned(),
            steps: AtomicUsize::new(0),
            told: Mutex::default(),
            state: watch::channel((0, false)).0,
        };
        Self(Arc::new(inner))
    }

    fn tell(&self, message: StatusResponse, weight: usize) {
        let mut told = self.0.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.weight += weight + WEIGHT;
        // What ends a step is always told: there are not many of those.
        let message = if told.weight > MOST_OF_ALL && message.vertexes.is_empty() {
            if std::mem::replace(&mut told.is_cut, true) {
                return;
            }
            cut(&message)
        } else {
            message
        };
        told.messages.push(Arc::new(message));
        let count = told.messages.len();
        self.0.state.send_modify(|state| state.0 = count);
    }

    /// A step begins.
    pub(crate) fn begin(&self, name: &str) -> Step {
        let number = self.0.steps.fetch_add(1, Ordering::Relaxed);
        let digest = format!("sha256:{:x}", Sha256::digest(format!("{} {number}", self.0.seed)));
        let name = name[..name.floor_char_boundary(LONGEST_NAME)].to_owned();
        let vertex = Vertex { digest, name, started: Some(Timestamp::now()), ..Vertex::default() };
        let told = StatusResponse { vertexes: vec![vertex.clone()], ..StatusResponse::default() };
        self.tell(told, vertex.name.len());
        Step {
            progress: self.clone(),
            vertex: Mutex::new(vertex),
            output: AtomicUsize::new(0),
            parts: Mutex::default(),
        }
    }

    /// Nothing more is told.
    pub(crate) fn end(&self) {
        self.0.state.send_modify(|state| state.1 = true);
    }

    /// Messages from this one on, as soon as there are any; `None` after the last.
    pub(crate) async fn after(&self, seen: usize) -> Option<Vec<Arc<StatusResponse>>> {
        let mut state = self.0.state.subscribe();
        let (count, _) = *state.wait_for(|(count, is_all)| *count > seen || *is_all).await.ok()?;
        if count <= seen {
            return None;
        }
        let told = self.0.told.lock().unwrap_or_else(PoisonError::into_inner);
        Some(told.messages[seen..].to_vec())
    }
}

impl Step {
    fn vertex(&self) -> Vertex {
        self.vertex.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It is over.
    pub(crate) fn end(&self, is_cached: bool, error: Option<&str>) {
        let vertex = {
            let mut vertex = self.vertex.lock().unwrap_or_else(PoisonError::into_inner);
            if vertex.completed.is_some() {
                return;
            }
            vertex.completed = Some(Timestamp::now());
            vertex.cached = is_cached;
            error.unwrap_or_default().clone_into(&mut vertex.error);
            vertex.clone()
        };
        let weight = vertex.error.len();
        self.progress.tell(StatusResponse { vertexes: vec![vertex], ..StatusResponse::default() }, weight);
    }

    /// What a command has written.
    pub(crate) fn output(&self, is_error: bool, text: &[u8]) {
        let before = self.output.fetch_add(text.len(), Ordering::Relaxed);
        if before >= MOST_OF_ONE {
            return;
        }
        let mut message = text.to_vec();
        if before + text.len() >= MOST_OF_ONE {
            message.truncate(MOST_OF_ONE - before);
            message.extend_from_slice(
                format!("\n[output clipped, log limit {} MiB reached]\n", MOST_OF_ONE >> 20).as_bytes(),
            );
        }
        let weight = message.len();
        let log = VertexLog {
            vertex: self.vertex().digest,
            timestamp: Some(Timestamp::now()),
            stream: if is_error { 2 } else { 1 },
            message,
        };
        self.progress.tell(StatusResponse { logs: vec![log], ..StatusResponse::default() }, weight);
    }

    /// How far a part of it has come: `total` may be unknown, which is 0.
    pub(crate) fn part(&self, id: &str, current: u64, total: u64, is_done: bool) {
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let part = {
            let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
            let (vertex, now) = (self.vertex().digest, Timestamp::now());
            let part = parts.entry(id.to_owned()).or_insert_with(|| VertexStatus {
                id: id.to_owned(),
                vertex,
                started: Some(now.clone()),
                ..VertexStatus::default()
            });
            (part.current, part.total) = (number(current), number(total));
            part.timestamp = Some(now.clone());
            part.completed = is_done.then_some(now);
            part.clone()
        };
        let weight = part.id.len();
        self.progress.tell(StatusResponse { statuses: vec![part], ..StatusResponse::default() }, weight);
    }

    pub(crate) fn warn(&self, text: &str) {
        let warning =
            VertexWarning { vertex: self.vertex().digest, level: 1, short: text.as_bytes().to_vec() };
        self.progress
            .tell(StatusResponse { warnings: vec![warning], ..StatusResponse::default() }, text.len());
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.end(false, Some("context canceled"));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn the_end_of_all_output_is_told_once() {
        let progress = Progress::new("x");
        for _ in 0..40 {
            progress.begin("RUN yes").output(false, &vec![b'y'; MOST_OF_ONE - 1]);
        }
        let told = progress.after(0).await.unwrap();
        let logs = told.iter().flat_map(|told| &told.logs);
        let cuts = logs.filter(|log| log.message.ends_with(b"of the build reached]\n")).count();
        assert_eq!(cuts, 1);
    }

    #[tokio::test]
    async fn who_asks_late_is_told_all_and_output_is_bounded() {
        let progress = Progress::new("x");
        let step = progress.begin("[1/1] RUN yes");
        for _ in 0..5 {
            step.output(false, &vec![b'y'; 1 << 20]);
        }
        step.end(false, None);
        drop(step);
        progress.end();
        let told = progress.after(0).await.unwrap();
        let output: usize = told.iter().flat_map(|told| &told.logs).map(|log| log.message.len()).sum();
        assert!((MOST_OF_ONE..MOST_OF_ONE + 100).contains(&output), "{output}");
        let ends = told.iter().flat_map(|told| &told.vertexes).filter(|vertex| vertex.completed.is_some());
        assert_eq!(ends.map(|vertex| vertex.error.as_str()).collect::<Vec<_>>(), [""]);
        assert!(progress.after(told.len()).await.is_none());
    }
}
