//! Questions to the person at the terminal: one at a time, and nothing is drawn or told over them.

use std::{
    io::{self, Write as _},
    sync::{Arc, Mutex, PoisonError},
};

use indicatif::{MultiProgress, ProgressDrawTarget};

use super::{Talk, safe};
use crate::terminal;

/// The question that is being asked. There is one terminal, and so one of these.
static BEING_ASKED: Mutex<Option<BeingAsked>> = Mutex::new(None);

/// What waits for an answer to come first.
struct BeingAsked {
    /// The bars that were drawn before, and are to be again.
    bars: Option<MultiProgress>,
    lines: Vec<(Talk, String)>,
}

/// Asks. Clones take turns.
#[derive(Debug, Clone)]
pub struct Questions {
    bars: MultiProgress,
    /// Held by whoever is asking.
    turn: Arc<Mutex<()>>,
}

impl Questions {
    pub(super) fn new(bars: MultiProgress) -> Self {
        Self { bars, turn: Arc::default() }
    }

    /// A line of text. The answer is none where nobody is.
    pub fn ask(&self, question: &str) -> Option<String> {
        self.alone(|| terminal::ask(&safe::printable(question)))
    }

    /// A line of text that is not shown while it is typed.
    pub fn ask_hidden(&self, question: &str) -> Option<String> {
        self.alone(|| terminal::ask_hidden(&safe::printable(question)))
    }

    /// The bars are hidden rather than suspended: those who move them must not wait for a person.
    fn alone<T>(&self, ask: impl FnOnce() -> T) -> T {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let bars = (!self.bars.is_hidden()).then(|| self.bars.clone());
        *being_asked() = Some(BeingAsked { bars: bars.clone(), lines: Vec::new() });
        if let Some(bars) = bars {
            let _ = bars.clear();
            bars.set_draw_target(ProgressDrawTarget::hidden());
        }
        let answer = ask();
        go_on();
        answer
    }
}

/// Keeps a line for after the question that is being asked, if there is one.
pub(super) fn hold(talk: Talk, line: &str) -> bool {
    being_asked().as_mut().is_some_and(|asked| {
        asked.lines.push((talk, line.to_owned()));
        true
    })
}

/// Tells what was held back, and draws again. Whoever interrupts a question calls it as well: the one who asked may wait
/// for an answer for ever.
pub(crate) fn go_on() {
    let Some(BeingAsked { bars, lines }) = being_asked().take() else { return };
    // No stream stays locked meanwhile: whoever draws locks the bars first, and a stream then.
    for (talk, line) in lines {
        let _ = match talk {
            Talk::Stdout => writeln!(io::stdout(), "{line}"),
            Talk::Stderr => writeln!(io::stderr(), "{line}"),
        };
    }
    if let Some(bars) = bars {
        bars.set_draw_target(ProgressDrawTarget::stderr());
    }
}

fn being_asked() -> std::sync::MutexGuard<'static, Option<BeingAsked>> {
    BEING_ASKED.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn lines_wait_for_an_answer_and_not_for_one_that_never_comes() {
        let questions = Questions::new(MultiProgress::with_draw_target(ProgressDrawTarget::hidden()));
        assert!(!hold(Talk::Stderr, "nobody is asked"));
        let (answer, answered) = channel::<()>();
        let (asked, being_asked) = channel();
        let asking = std::thread::spawn(move || {
            questions.alone(|| {
                asked.send(()).unwrap();
                answered.recv().unwrap();
            });
        });
        being_asked.recv().unwrap();
        assert!(hold(Talk::Stderr, "a line of another host"), "a line would land in the question");
        // Ctrl-C: the work is dropped, and the thread that reads stays where it is.
        go_on();
        assert!(!hold(Talk::Stderr, "Interrupted"), "what is told afterwards would be lost");
        answer.send(()).unwrap();
        asking.join().unwrap();
    }
}
