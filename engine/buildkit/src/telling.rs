//! What the builder tells, as clients of BuildKit are shown it.

use std::collections::BTreeMap;

use engine_build::{BuildError, Event, StepId, Told};
use engine_model::Failure;
use serde_json::Value;
use tokio::sync::mpsc;

use super::grpc::{Code, Status};
use super::progress::{Progress, Step};

/// In the words that users of BuildKit know.
pub(crate) fn status(error: &BuildError) -> Status {
    match error {
        BuildError::Command { command, code } => {
            let message = format!("process {command:?} did not complete successfully: exit code: {code}");
            Status::new(Code::Unknown, message)
        }
        other => Failure::from(other.clone()).into(),
    }
}

/// Shows what becomes of steps, and returns the lines of the first instruction that failed.
pub(crate) async fn show(progress: &Progress, mut events: mpsc::Receiver<Event>) -> Option<(usize, usize)> {
    let mut steps: BTreeMap<StepId, Step> = BTreeMap::new();
    let (mut failed, mut warned) = (None, None);
    while let Some(event) = events.recv().await {
        match event {
            Event::Began { step, title } => drop(steps.insert(step, progress.begin(&title))),
            Event::Said { step, said } => {
                if let Some(step) = steps.get(&step) {
                    say(step, said);
                }
            }
            Event::Ended { step, is_cached } => {
                if let Some(step) = steps.remove(&step) {
                    step.end(is_cached, None);
                }
            }
            Event::Failed { step, lines, error } => {
                failed.get_or_insert(lines);
                if let Some(step) = step.and_then(|step| steps.remove(&step)) {
                    step.end(false, Some(&status(&error).message));
                }
            }
            Event::Warning(text) => {
                let step = warned.get_or_insert_with(|| progress.begin("[internal] warnings"));
                step.warn(&text);
            }
        }
    }
    if let Some(step) = warned {
        step.end(false, None);
    }
    failed
}

pub(crate) fn say(step: &Step, said: Told) {
    match said {
        Told::Text(text) => step.output(false, text.as_bytes()),
        Told::Errors(text) => step.output(true, text.as_bytes()),
        Told::Line(line) => pulled(step, &line),
        Told::Image(_) => {}
    }
}

/// A line of the API, as a pull tells it.
fn pulled(step: &Step, line: &Value) {
    let text = |key: &str| line[key].as_str().unwrap_or_default();
    let (id, status) = (text("id"), text("status"));
    if id.is_empty() || status.is_empty() {
        return;
    }
    let number = |key: &str| line["progressDetail"][key].as_u64().unwrap_or(0);
    let is_done = matches!(status, "Pull complete" | "Already exists");
    step.part(id, number("current"), number("total"), is_done);
}
