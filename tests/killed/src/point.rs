//! Where a command is killed.

use std::{fmt, time::SystemTime};

use crate::Write;

/// All points are tried where there is time for a few only, if this is set to `all`.
const POINTS: &str = "MACHINE_TEST_KILLS";
/// Another seed than the time is taken from here.
const SEED: &str = "MACHINE_TEST_SEED";

/// On which side of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// What it records has been done, and nobody will know.
    Before,
    /// What it announces has not been done.
    After,
}

/// Which of a command's writes: the how manieth of its kind. A run that makes more of others, or fewer, or in another
/// order, has it all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Which {
    pub(crate) kind: String,
    /// Counted from 1.
    pub(crate) nth: u32,
}

/// A point at which a command is killed.
#[derive(Debug, Clone)]
pub struct Point {
    /// In the rehearsal, counted from 1.
    pub(crate) number: u32,
    pub(crate) side: Side,
    /// What the write was in the rehearsal.
    pub(crate) what: Write,
    /// By this it is found.
    pub(crate) which: Which,
}

impl fmt::Display for Point {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = match self.side {
            Side::Before => "before",
            Side::After => "after",
        };
        write!(formatter, "killed {side} write {}, {}", self.number, self.what)
    }
}

/// Whether all points are tried, however long that takes: `cargo xtask kills`.
pub fn all() -> bool {
    std::env::var(POINTS).is_ok_and(|value| value == "all")
}

/// What decides which points are tried where there is no time for all: printed, and repeated by `MACHINE_TEST_SEED`.
pub fn seed() -> u64 {
    let given = std::env::var(SEED).ok().and_then(|text| text.parse().ok());
    let now = || SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs());
    given.unwrap_or_else(now)
}

/// Some of these points, in their order; the same ones for the same seed.
pub fn chosen(points: &[Point], seed: u64, count: usize) -> Vec<Point> {
    let mut state = seed;
    let mut numbers: Vec<usize> = Vec::new();
    while numbers.len() < count.min(points.len()) {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        let number = usize::try_from(word % points.len() as u64).unwrap_or_default();
        if !numbers.contains(&number) {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    numbers.into_iter().map(|number| points[number].clone()).collect()
}
