//! One host's progress: the current step and its elapsed time on a terminal, plain lines or events elsewhere.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::{BinaryBytes, ProgressBar, ProgressStyle};
use machine_driver::Progress;
use serde_json::json;

use super::{Style, Ui, safe};

/// How a host's work ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Failed,
}

/// A host's lane. Dropped without [`Lane::finish`], it disappears.
#[derive(Debug)]
pub struct Lane<'a> {
    ui: &'a Ui,
    host: String,
    bar: ProgressBar,
    steps: Mutex<Steps>,
}

#[derive(Debug)]
struct Steps {
    began: Instant,
    /// Every step with the time that it took, for `--json` and the demo.
    timings: Vec<(String, Duration)>,
    current: Option<(String, Instant)>,
}

impl Steps {
    fn close(&mut self) {
        if let Some((text, began)) = self.current.take() {
            self.timings.push((text, began.elapsed()));
        }
    }
}

impl<'a> Lane<'a> {
    pub(super) fn new(ui: &'a Ui, host: &str) -> Self {
        let bar = ui.bars.add(ProgressBar::new_spinner());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix:.bold}  {wide_msg} {elapsed}") {
            bar.set_style(style);
        }
        bar.set_prefix(host.to_owned());
        if ui.style == Style::Terminal {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        Self {
            ui,
            host: host.to_owned(),
            bar,
            steps: Mutex::new(Steps { began: Instant::now(), timings: Vec::new(), current: None }),
        }
    }

    /// Ends the lane with a last word.
    pub fn finish(&self, outcome: Outcome, text: &str) {
        let mut steps = self.steps.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        steps.close();
        self.bar.finish_and_clear();
        let seconds = steps.began.elapsed().as_secs_f64();
        match self.ui.style {
            Style::Json => {
                let event = match outcome {
                    Outcome::Done => "done",
                    Outcome::Failed => "failed",
                };
                let timings: Vec<_> = steps
                    .timings
                    .iter()
                    .map(|(text, time)| json!({ "step": text, "seconds": time.as_secs_f64() }))
                    .collect();
                let time = jiff::Timestamp::now().to_string();
                let object = json!({
                    "event": event, "text": text, "host": self.host, "time": time,
                    "seconds": seconds, "steps": timings,
                });
                self.ui.event(&object);
            }
            Style::Terminal | Style::Plain => {
                if !text.is_empty() {
                    self.ui.line(Some(&self.host), "message", &format!("{text} ({seconds:.1} s)"));
                }
            }
        }
    }
}

impl Progress for Lane<'_> {
    fn step(&self, text: &str) {
        {
            let mut steps = self.steps.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if steps.current.as_ref().is_some_and(|(current, _)| current == text) {
                return;
            }
            steps.close();
            steps.current = Some((text.to_owned(), Instant::now()));
        }
        self.bar.set_message(safe::one_line(text).into_owned());
        self.bar.reset_elapsed();
        if self.ui.style != Style::Terminal {
            self.ui.line(Some(&self.host), "step", &format!("{text}..."));
        }
    }

    fn amount(&self, done: u64, total: u64) {
        let steps = self.steps.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((step, _)) = &steps.current {
            let step = safe::one_line(step);
            self.bar.set_message(format!("{step} ({} of {})", BinaryBytes(done), BinaryBytes(total)));
        }
    }

    fn note(&self, text: &str) {
        self.ui.line(Some(&self.host), "note", text);
    }
}
