//! Feeds a parser with inputs that are almost right: a corpus, mutated by a seeded generator.
//!
//! A target is a unit test called `fuzz::NAME` beside its parser that calls [`run`]. Among all other tests it tries a few
//! thousand inputs; `cargo xtask fuzz` has it try as many as [`INPUTS`] says. An input that the parser panics at, or does not come
//! to an end with, is told by its seed and number and kept in a file.

use std::env;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

mod mutate;

pub use mutate::Mutator;

/// Names how many inputs each target gets.
pub const INPUTS: &str = "FUZZ_INPUTS";
/// Names the seed; a failure tells the one to repeat it with.
pub const SEED: &str = "FUZZ_SEED";

/// In a run of all tests.
const FEW: u64 = 3000;
/// A parser that is still at one input by then does not come to its end.
const PATIENCE: Duration = Duration::from_mins(1);

fn number(name: &str) -> Option<u64> {
    env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("`{name}` is not a number: {text}")))
}

/// Gives a parser its corpus, and then mutations of it.
///
/// # Panics
///
/// If the parser does.
pub fn run(target: &str, corpus: &[&[u8]], parse: impl FnMut(&[u8])) {
    run_with(target, corpus, |_, _| {}, parse);
}

/// The same; `mend` makes an input right where a mutation cannot, such as in a checksum.
///
/// # Panics
///
/// If the parser does.
pub fn run_with(
    target: &str,
    corpus: &[&[u8]],
    mut mend: impl FnMut(&mut Mutator, &mut Vec<u8>),
    mut parse: impl FnMut(&[u8]),
) {
    let (inputs, seed) = (number(INPUTS).unwrap_or(FEW), number(SEED).unwrap_or(1));
    let mut mutator = Mutator::new(seed, corpus);
    let (current, at) = (Mutex::new(Vec::new()), AtomicU64::new(0));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(target, seed, &current, &at, &over));
        let mut failed = None;
        for index in 0..inputs {
            let whole = corpus.get(usize::try_from(index).unwrap_or(usize::MAX));
            let input = whole.map_or_else(
                || {
                    let mut input = mutator.input();
                    mend(&mut mutator, &mut input);
                    input
                },
                |whole| whole.to_vec(),
            );
            current.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&input);
            at.store(index, Ordering::Release);
            if catch_unwind(AssertUnwindSafe(|| parse(&input))).is_err() {
                failed = Some((index, keep(target, seed, index, &input)));
                break;
            }
        }
        over.store(true, Ordering::Release);
        watcher.thread().unpark();
        if let Some((index, path)) = failed {
            panic!(
                "`{target}` panics at input {index} with {SEED}={seed}; it is kept in `{}`",
                path.display()
            );
        }
    });
}

/// Ends the process when one input takes for ever.
fn watch(target: &str, seed: u64, current: &Mutex<Vec<u8>>, at: &AtomicU64, over: &AtomicBool) {
    let mut before = (at.load(Ordering::Acquire), Instant::now());
    while !over.load(Ordering::Acquire) {
        // It may wake early.
        std::thread::park_timeout(PATIENCE);
        let now = at.load(Ordering::Acquire);
        if before.0 != now {
            before = (now, Instant::now());
        } else if before.1.elapsed() >= PATIENCE && !over.load(Ordering::Acquire) {
            let input = current.lock().unwrap_or_else(PoisonError::into_inner);
            let path = keep(target, seed, now, &input);
            tell(&format!(
                "`{target}` does not end with input {now} with {SEED}={seed}: `{}`",
                path.display()
            ));
            std::process::abort();
        }
    }
}

#[expect(clippy::print_stderr, reason = "the last word before the process ends")]
fn tell(text: &str) {
    eprintln!("{text}");
}

fn keep(target: &str, seed: u64, index: u64, input: &[u8]) -> PathBuf {
    let path = env::temp_dir().join(format!("fuzz-{target}-{seed}-{index}"));
    // Without it, seed and number tell the same.
    let _ = fs::write(&path, input);
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parser_that_panics_is_found() {
        let found = catch_unwind(|| {
            run("self", &[b"{\"length\": 10}"], |input| assert!(!input.windows(2).any(|pair| pair == b"99")));
        });
        let message = found.unwrap_err();
        let message = message.downcast_ref::<String>().cloned().unwrap_or_default();
        assert!(message.contains("`self` panics at input"), "{message}");
    }

    #[test]
    fn the_corpus_comes_first_and_whole() {
        let mut seen: Vec<Vec<u8>> = Vec::new();
        run("self", &[b"one", b"two"], |input| seen.push(input.to_vec()));
        assert_eq!((seen[0].as_slice(), seen[1].as_slice()), (&b"one"[..], &b"two"[..]));
        let mut again: Vec<Vec<u8>> = Vec::new();
        run("self", &[b"one", b"two"], |input| again.push(input.to_vec()));
        assert_eq!(seen, again);
    }
}
