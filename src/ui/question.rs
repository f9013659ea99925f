//! Questions to the person at the terminal: one at a time, and nothing is drawn over them.

use std::{
    io::{self, Write as _},
    sync::{Arc, Mutex, PoisonError},
};

use indicatif::{MultiProgress, ProgressDrawTarget};

use crate::terminal;

/// Asks. Clones take turns.
#[derive(Debug, Clone)]
pub struct Questions {
    bars: MultiProgress,
    /// Held by whoever is asking.
    turn: Arc<Mutex<()>>,
    /// The lines that wait for an answer to come first; nothing while nobody is asked.
    held: Arc<Mutex<Option<Vec<String>>>>,
}

impl Questions {
    pub(super) fn new(bars: MultiProgress) -> Self {
        Self { bars, turn: Arc::default(), held: Arc::default() }
    }

    /// A line of text. The answer is none where nobody is.
    pub fn ask(&self, question: &str) -> Option<String> {
        self.alone(|| terminal::ask(question))
    }

    /// A line of text that is not shown while it is typed.
    pub fn ask_hidden(&self, question: &str) -> Option<String> {
        self.alone(|| terminal::ask_hidden(question))
    }

    /// Keeps a line of a terminal for after the question that is being asked, if there is one.
    pub(super) fn hold(&self, line: &str) -> bool {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.as_mut().is_some_and(|lines| {
            lines.push(line.to_owned());
            true
        })
    }

    /// The bars are hidden rather than suspended: those who move them must not wait for a person.
    fn alone<T>(&self, ask: impl FnOnce() -> T) -> T {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let drawn = !self.bars.is_hidden();
        if drawn {
            *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
            let _ = self.bars.clear();
            self.bars.set_draw_target(ProgressDrawTarget::hidden());
        }
        let answer = ask();
        if drawn {
            let lines = self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
            let mut stderr = io::stderr().lock();
            for line in lines.into_iter().flatten() {
                let _ = writeln!(stderr, "{line}");
            }
            self.bars.set_draw_target(ProgressDrawTarget::stderr());
        }
        answer
    }
}
