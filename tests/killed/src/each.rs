//! The loop over points: on two workers, and no shorter than it has to be.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use crate::{Point, all, chosen, seed};

/// How many points of a command are tried where a round takes minutes.
pub(crate) const SOME: usize = 3;
/// Of how many points one is tried, where there is no time for all.
const ONE_OF: usize = 3;
/// One of so many commands, or one in all, may come to its end before it is killed.
const MAY_END: usize = 10;
/// How many points are tried at once.
const WORKERS: usize = 2;

/// Tries every point with what `prepare` makes for each of two workers, and says how many there were. Fewer than
/// `at_least` is a failure: then the loop does not kill what it is there for.
pub fn each<B>(
    title: &str,
    points: &[Point],
    at_least: usize,
    prepare: impl Fn() -> B + Sync,
    round: impl Fn(&B, &Point) + Sync,
) {
    assert_enough(title, points, at_least);
    let began = Instant::now();
    loops_over(points, prepare, round);
    say(&format!("{title}: killed at {} points in {:.1} s", points.len(), began.elapsed().as_secs_f32()));
}

/// The same at a third of the points, chosen by a seed, if not all are to be tried.
pub fn each_of_some<B>(
    title: &str,
    points: &[Point],
    at_least: usize,
    prepare: impl Fn() -> B + Sync,
    round: impl Fn(&B, &Point) + Sync,
) {
    assert_enough(title, points, at_least);
    if all() {
        return each(title, points, at_least, prepare, round);
    }
    let seed = seed();
    let tried = chosen(points, seed, points.len().div_ceil(ONE_OF));
    let title = format!("{title}, with MACHINE_TEST_SEED={seed}, of {}", points.len());
    each(&title, &tried, 1, prepare, round);
}

fn assert_enough(title: &str, points: &[Point], at_least: usize) {
    if points.len() < at_least {
        let all: Vec<String> = points.iter().map(ToString::to_string).collect();
        panic!("{title}: only {} points, not {at_least}:\n{}", points.len(), all.join("\n"));
    }
}

/// The same with anything that can be tried side by side.
pub fn loops_over<T: Sync, B>(items: &[T], prepare: impl Fn() -> B + Sync, round: impl Fn(&B, &T) + Sync) {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let first_panic = Mutex::new(None);
    thread::scope(|scope| {
        for _ in 0..WORKERS.min(items.len()) {
            scope.spawn(|| {
                let work = || {
                    let bench = prepare();
                    while !failed.load(Ordering::Relaxed) {
                        let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
                        round(&bench, item);
                    }
                };
                if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
                    failed.store(true, Ordering::Relaxed);
                    first_panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
                }
            });
        }
    });
    if let Some(panic) = first_panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
        std::panic::resume_unwind(panic);
    }
}

/// Rounds in each of which several commands are killed, one after the other, at a point of theirs: at three points of
/// each, chosen by a seed, or at all of them. A round says which of them were killed: a command may come to its end before
/// its point, because a VM takes its time as it likes, but not often.
pub fn rounds<const N: usize>(
    title: &str,
    points: [&[Point]; N],
    mut round: impl FnMut([&Point; N]) -> [bool; N],
) {
    let seed = seed();
    let tried = points.map(|points| if all() { points.to_vec() } else { chosen(points, seed, SOME) });
    let count = tried.iter().map(Vec::len).max().unwrap_or_default();
    say(&format!("{title}: {count} rounds, with MACHINE_TEST_SEED={seed}"));
    let began = Instant::now();
    let mut missed = [0; N];
    for number in 0..count {
        // A command with fewer points than another is killed at some of them again.
        let killed = round(std::array::from_fn(|command| &tried[command][number % tried[command].len()]));
        for (missed, killed) in missed.iter_mut().zip(killed) {
            *missed += usize::from(!killed);
        }
    }
    let most = (count / MAY_END).max(1);
    assert!(
        missed.iter().all(|missed| *missed <= most),
        "{title}: of {count} rounds, a command came to its end in {missed:?}, instead of {most} at most"
    );
    let of_all: Vec<String> = tried
        .iter()
        .zip(points)
        .zip(missed)
        .map(|((tried, all), missed)| format!("{} of {} ({missed} missed)", tried.len(), all.len()))
        .collect();
    say(&format!(
        "{title}: killed at {} points in {:.1} s",
        of_all.join(", "),
        began.elapsed().as_secs_f32()
    ));
}

#[expect(clippy::print_stderr, reason = "tests talk to whoever runs them")]
fn say(text: &str) {
    eprintln!("{text}");
}
