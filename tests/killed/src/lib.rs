//! Kills a program with -9 at a write of its choice, as a power cut would, and at every one of them in turn.
//!
//! ```text
//! rehearse ── the command runs to its end; every change of the folder is written down ──▶ points
//! each     ── for every point: the command again, killed there; the caller looks at what became of it
//! ```
//!
//! A *write* is a system call that changes a folder so that others see it: something gets a name, another one, or none, or
//! the content of a file that has its name already changes. A program is killed right before a write is made or right
//! after; right before only where it has told something to the world outside (a provider, a host, a child process)
//! since the write before, because otherwise it is the same as right after that one. A write of the rehearsal is found
//! again by what it is: the how manieth of its kind.
//!
//! strace could kill, too, but counts each thread and each kind of call for itself, kills only before a call, and traces
//! the children with it, which are to live on.

#![cfg(target_os = "linux")]

mod each;
mod point;
mod store;
mod tracer;
mod write;

pub use each::{each, each_of_some, loops_over, rounds};
pub use point::{Point, Side, all, chosen, seed};
pub use store::Store;
pub use write::Write;

use std::{
    collections::BTreeMap,
    io::{Read as _, Seek as _},
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use point::Which;

/// No command takes longer, unless it hangs.
const LONGEST: Duration = Duration::from_mins(5);

/// Which writes count: those below a folder, or some of them.
#[derive(Debug, Clone)]
pub struct Watch {
    folder: PathBuf,
    count: Count,
}

#[derive(Debug, Clone, Copy)]
enum Count {
    Everything,
    Named,
}

impl Watch {
    /// Every write below a folder.
    pub fn everything(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), count: Count::Everything }
    }

    /// Only those that others look for: not the making of what has a temporary name, which is the same for all files of a
    /// store. [`all`] makes it every write.
    pub fn named(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), count: if all() { Count::Everything } else { Count::Named } }
    }

    fn counts(&self, write: &Write) -> bool {
        let wanted = match self.count {
            Count::Everything => true,
            Count::Named => !write.is_temporary(),
        };
        wanted && write.is_below(&self.folder)
    }
}

/// What came of a command.
#[derive(Debug)]
pub struct Run {
    pub status: ExitStatus,
    /// Whether it was killed where it was to be killed. It may have come to its end before.
    pub killed: bool,
    /// What it changed, in order.
    writes: Vec<Made>,
    /// What it printed, on both ways.
    pub said: String,
}

/// A write that was made.
#[derive(Debug)]
struct Made {
    write: Write,
    which: Which,
    /// Whether anything was told to the world outside since the one before.
    told: bool,
}

impl Run {
    /// The points at which it is worth being killed.
    pub fn points(&self) -> Vec<Point> {
        let mut points = Vec::new();
        for (number, made) in (1..).zip(&self.writes) {
            let sides =
                if made.told || number == 1 { &[Side::Before, Side::After][..] } else { &[Side::After] };
            let point = |side: &Side| Point {
                number,
                side: *side,
                what: made.write.clone(),
                which: made.which.clone(),
            };
            points.extend(sides.iter().map(point));
        }
        points
    }
}

/// Runs a command to its end, which has to be a good one, and returns the points at which it can be killed.
pub fn rehearse(command: &mut Command, watch: &Watch) -> Vec<Point> {
    let run = run(command, watch, None);
    assert!(run.status.success(), "{command:?}: {}\n{}", run.status, run.said);
    run.points()
}

/// Runs a command, and kills it at a point.
pub fn at(command: &mut Command, watch: &Watch, point: &Point) -> Run {
    run(command, watch, Some(point))
}

/// Runs a command, and kills it at a point if there is one. Its children, and theirs, go on.
fn run(command: &mut Command, watch: &Watch, point: Option<&Point>) -> Run {
    let mut said = tempfile::tempfile().expect("a temporary file can be made");
    let output = || said.try_clone().expect("a descriptor can be copied");
    command.stdin(std::process::Stdio::null()).stdout(output()).stderr(output());
    let mut writes: Vec<Made> = Vec::new();
    let mut killed = false;
    let status = {
        let mut recorder = write::Recorder::new(watch);
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        let mut kill = |made: &Made, side| {
            killed = point.is_some_and(|point| point.which == made.which && point.side == side);
            killed
        };
        tracer::run(command, LONGEST, |stop| match recorder.see(stop) {
            write::Seen::Nothing => false,
            write::Seen::Begins(write, told) => {
                let kind = write.kind(&watch.folder);
                let nth = counts.entry(kind.clone()).or_default();
                *nth += 1;
                let made = Made { write, which: Which { kind, nth: *nth }, told };
                let is_killed = kill(&made, Side::Before);
                writes.push(made);
                is_killed
            }
            write::Seen::Ended(index) => kill(&writes[index], Side::After),
        })
        .unwrap_or_else(|error| panic!("{command:?} could not be traced: {error}"))
    };
    let mut text = Vec::new();
    said.rewind().and_then(|()| said.read_to_end(&mut text)).expect("its output can be read");
    Run { status, killed, writes, said: String::from_utf8_lossy(&text).into_owned() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use each::SOME;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn every_write_has_a_before_where_something_was_told_and_an_after() {
        let folder = tempfile::tempdir().unwrap();
        let command = |program: &str, words: &[&str]| {
            let mut command = Command::new(program);
            command.args(words).current_dir(folder.path());
            command
        };
        let watch = Watch::everything(folder.path());
        let points = rehearse(&mut command("mkdir", &["a", "b", "c"]), &watch);
        let said: Vec<String> = points.iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), 4, "{said:?}");
        assert!(said[0].starts_with("killed before write 1, mkdir ") && said[0].ends_with("/a"), "{said:?}");
        for (point, left) in points.iter().zip([&[][..], &["a"], &["a", "b"], &["a", "b", "c"]]) {
            std::fs::remove_dir_all(folder.path()).unwrap();
            std::fs::create_dir(folder.path()).unwrap();
            let run = at(&mut command("mkdir", &["a", "b", "c"]), &watch, point);
            assert!(run.killed && !run.status.success(), "{point}: {run:?}");
            assert_eq!(names(folder.path()), left, "{point}");
        }
        // What fails changes nothing, and what is elsewhere does not count.
        assert!(run(&mut command("mkdir", &["a"]), &watch, None).points().is_empty());
        let elsewhere = tempfile::tempdir().unwrap();
        let path = elsewhere.path().join("x").display().to_string();
        assert!(run(&mut command("touch", &[&path]), &watch, None).points().is_empty());
        // A command that ends before its point was not killed.
        let run = at(&mut command("rmdir", &["b"]), &watch, &points[3]);
        assert!(!run.killed && run.status.success(), "{run:?}");
        // What speaks to somebody else may have been heard: killed before the next write is another thing.
        let script = "use Socket; mkdir 'd'; socket(S, PF_INET, SOCK_DGRAM, 17); \
                      send(S, 'x', 0, sockaddr_in(9, INADDR_LOOPBACK)); mkdir 'e'";
        let points = rehearse(&mut command("perl", &["-e", script]), &watch);
        let sides: Vec<(u32, Side)> = points.iter().map(|point| (point.number, point.side)).collect();
        assert_eq!(sides, [(1, Side::Before), (1, Side::After), (2, Side::Before), (2, Side::After)]);
    }

    /// Another folder, other numbers, names by chance, and something that the rehearsal did not make.
    #[test]
    fn a_write_is_found_again_by_what_it_is() {
        let make = |names: &[&str]| {
            let folder = tempfile::tempdir().unwrap();
            let mut command = Command::new("mkdir");
            command.args(names).current_dir(folder.path());
            (command, Watch::everything(folder.path()), folder)
        };
        let (mut command, watch, _folder) = make(&["127.0.0.1", ".tmp-abc", ".tmp-xyz", "id-7f"]);
        let points = rehearse(&mut command, &watch);
        let (mut command, watch, folder) =
            make(&["other", "127.0.0.2", ".tmp-k1", "more", ".tmp-k2", ".tmp-k3", "id-2c"]);
        let run = at(&mut command, &watch, &points[3]);
        assert!(run.killed, "{}: {run:?}", points[3]);
        assert_eq!(names(folder.path()), [".tmp-k1", ".tmp-k2", "127.0.0.2", "more", "other"]);
        let (mut command, watch, _folder) = make(&["127.0.0.1", ".tmp-abc"]);
        assert!(!at(&mut command, &watch, &points[3]).killed, "there is no second one");
        // A part of an identifier may have no number in it.
        let (mut command, watch, _folder) = make(&["cb3ec900-1869-4359-bbca-6f65cfaa300b"]);
        let points = rehearse(&mut command, &watch);
        for point in &points {
            let (mut command, watch, _folder) = make(&["deadbeef-0000-4aaa-8aaa-6f65cfaa300b"]);
            assert!(at(&mut command, &watch, point).killed, "{point}");
        }
    }

    #[test]
    fn rounds_in_which_nothing_is_killed_are_no_rounds() {
        let (write, which) =
            (Write { call: "mkdir", path: "/a".into(), from: None }, Which { kind: String::new(), nth: 1 });
        let point = |number| Point { number, side: Side::After, what: write.clone(), which: which.clone() };
        let points: Vec<Point> = (1..=20).map(point).collect();
        let rounds_with = |missed: usize| {
            let mut number = 0;
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                rounds("test", [&points], |_| {
                    number += 1;
                    [number > missed]
                });
            }))
        };
        assert!(rounds_with(0).is_ok() && rounds_with(1).is_ok());
        let panicked = rounds_with(SOME).unwrap_err();
        assert!(panicked.downcast_ref::<String>().unwrap().contains("came to its end"));
    }

    #[test]
    fn a_seed_chooses_the_same_points_again() {
        let write = Write { call: "mkdir", path: "/a".into(), from: None };
        let which = Which { kind: String::new(), nth: 1 };
        let point = |number| Point { number, side: Side::After, what: write.clone(), which: which.clone() };
        let points: Vec<Point> = (1..=20).map(point).collect();
        let numbers = |seed| chosen(&points, seed, 3).iter().map(|point| point.number).collect::<Vec<_>>();
        assert_eq!(numbers(7), numbers(7));
        assert_ne!(numbers(7), numbers(8));
        assert_eq!(numbers(7).len(), 3);
        assert_eq!(chosen(&points, 7, 100).len(), 20);
    }

    #[test]
    fn what_goes_wrong_at_one_point_is_not_lost_among_many() {
        let numbers: Vec<u32> = (1..=20).collect();
        let panicked = std::panic::catch_unwind(|| {
            loops_over(&numbers, || (), |(), number| assert_ne!(*number, 13, "this one"));
        });
        assert!(panicked.unwrap_err().downcast_ref::<String>().unwrap().contains("this one"));
        let count = std::sync::atomic::AtomicU32::new(0);
        loops_over(
            &numbers,
            || (),
            |(), number| _ = count.fetch_add(*number, std::sync::atomic::Ordering::Relaxed),
        );
        assert_eq!(count.into_inner(), 210);
    }
}
