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
//! since the write before, because otherwise it is the same as right after that one.
//!
//! strace could kill, too, but counts each thread and each kind of call for itself, kills only before a call, and traces
//! the children with it, which are to live on.

#![cfg(target_os = "linux")]

mod each;
mod point;
mod store;
mod tracer;
mod write;

pub use each::{each, loops_over, rounds};
pub use point::{Point, Side, all, chosen, seed};
pub use store::Store;
pub use write::Write;

use std::{
    io::{Read as _, Seek as _},
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

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
    Records,
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

    /// Only those of the records of hosts, and so of the journals in them. [`all`] makes it every write.
    pub fn records(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), count: if all() { Count::Everything } else { Count::Records } }
    }

    fn counts(&self, write: &Write) -> bool {
        let wanted = match self.count {
            Count::Everything => true,
            Count::Named => !write.is_temporary(),
            Count::Records => write.is_of_a_record() && !write.is_temporary(),
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
    /// What it changed, in order, each with whether it told anything to the world outside since the one before.
    pub writes: Vec<(Write, bool)>,
    /// What it printed, on both ways.
    pub said: String,
}

impl Run {
    /// The points at which it is worth being killed.
    pub fn points(&self) -> Vec<Point> {
        let mut points = Vec::new();
        for (number, (write, told)) in (1..).zip(&self.writes) {
            let sides = if *told || number == 1 { &[Side::Before, Side::After][..] } else { &[Side::After] };
            points.extend(sides.iter().map(|side| Point { number, side: *side, what: write.clone() }));
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
    let mut writes: Vec<(Write, bool)> = Vec::new();
    let mut killed = false;
    let status = {
        let mut recorder = write::Recorder::new(watch);
        let mut kill = |number: u32, side| {
            killed = point.is_some_and(|point| point.number == number && point.side == side);
            killed
        };
        tracer::run(command, LONGEST, |stop| match recorder.see(stop) {
            write::Seen::Nothing => false,
            write::Seen::Begins(write, told) => {
                writes.push((write, told));
                kill(u32::try_from(writes.len()).unwrap_or(u32::MAX), Side::Before)
            }
            write::Seen::Ended(number) => kill(number, Side::After),
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

    #[test]
    fn only_records_count_if_only_they_are_watched() {
        let folder = tempfile::tempdir().unwrap();
        let script = "mkdir 'machines'; mkdir 'machines/.new-1'; rename 'machines/.new-1', 'machines/mc1'; \
                      open F, '>machines/mc1/.tmp-1'; close F; rename 'machines/mc1/.tmp-1', 'machines/mc1/config.json'";
        let mut command = Command::new("perl");
        command.args(["-e", script]).current_dir(folder.path());
        let points = rehearse(&mut command, &Watch::records(folder.path()));
        let sides: Vec<(u32, Side)> = points.iter().map(|point| (point.number, point.side)).collect();
        assert_eq!(sides, [(1, Side::Before), (1, Side::After), (2, Side::After)]);
    }

    #[test]
    fn a_seed_chooses_the_same_points_again() {
        let write = Write { call: "mkdir", path: "/a".into(), from: None };
        let points: Vec<Point> =
            (1..=20).map(|number| Point { number, side: Side::After, what: write.clone() }).collect();
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
