//! What a run of all tests comes to: every part with its time and its outcome, and everything that was skipped.

use std::{
    fs, io,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use skipped::Skip;

use crate::run::{say, skipped_file};

/// What even CI may lack: the list of advisories when it cannot be reached, loop devices for a disk whose power fails, kinds of
/// interfaces that its kernel was built without, the release of Debian that has buildx, the tests of bollard, which take minutes to
/// build, and the real VBoxManage. Anything else that is skipped there is a failure.
const MAY_BE_LACKING: [&str; 11] = [
    "dockerd-recorded",
    "advisories",
    "power-loss",
    "macvlan",
    "ipvlan",
    "vlan",
    "buildx",
    "bfq",
    "project-quotas",
    "bollard",
    "vboxmanage",
];

/// The parts of a run so far.
#[derive(Debug)]
pub(crate) struct Report {
    parts: Vec<Part>,
    /// Where the parts write what they skip.
    skipped: PathBuf,
    /// Whether what is skipped has to be something that may be lacking.
    strict: bool,
}

#[derive(Debug)]
struct Part {
    title: String,
    time: Duration,
    outcome: Outcome,
    skips: Vec<Skip>,
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed(String),
    NotRun(String),
}

impl Report {
    /// Strict in CI, which says so with `CI=true`.
    pub(crate) fn new() -> Result<Self> {
        let strict = std::env::var_os("CI").is_some_and(|value| value == "true");
        let report = Self { parts: Vec::new(), skipped: skipped_file(), strict };
        report.forget_skips()?;
        Ok(report)
    }

    /// Says what begins, does it, and keeps its time and outcome. `None` if it failed: the parts that do not need it
    /// can go on.
    pub(crate) fn part<T>(&mut self, title: &str, work: impl FnOnce() -> Result<T>) -> Option<T> {
        say(&format!("── {title}"));
        let began = Instant::now();
        let done = work();
        let time = began.elapsed();
        let (done, skips) = match (done, self.take_skips()) {
            (Ok(done), Ok(skips)) => match self.refuse(&skips) {
                Ok(()) => (Ok(done), skips),
                Err(error) => (Err(error), skips),
            },
            (Ok(_), Err(error)) => (Err(error), Vec::new()),
            (Err(error), skips) => (Err(error), skips.unwrap_or_default()),
        };
        let (outcome, value) = match done {
            Ok(value) => (Outcome::Passed, Some(value)),
            Err(error) => {
                say(&format!("── {title}: FAILED: {error:#}"));
                (Outcome::Failed(format!("{error:#}")), None)
            }
        };
        self.parts.push(Part { title: title.to_owned(), time, outcome, skips });
        value
    }

    /// Notes a part that needs something that failed.
    pub(crate) fn not_run(&mut self, title: &str, why: &str) {
        let outcome = Outcome::NotRun(why.to_owned());
        self.parts.push(Part { title: title.to_owned(), time: Duration::ZERO, outcome, skips: Vec::new() });
    }

    /// Whether nothing has failed so far.
    pub(crate) fn is_good(&self) -> bool {
        self.parts.iter().all(|part| part.outcome == Outcome::Passed)
    }

    /// Prints all parts; an error unless all of them passed.
    pub(crate) fn finish(self) -> Result<()> {
        say(&format!("\n{}", self.summary()));
        if self.is_good() {
            return Ok(());
        }
        let failed: Vec<&str> = self
            .parts
            .iter()
            .filter(|part| part.outcome != Outcome::Passed)
            .map(|part| part.title.as_str())
            .collect();
        bail!("Failed, or could not be run: {}", failed.join("; "))
    }

    /// The closing lines; the last one counts the parts.
    fn summary(&self) -> String {
        let mut lines = Vec::new();
        for part in &self.parts {
            let outcome = match &part.outcome {
                Outcome::Passed => String::new(),
                Outcome::Failed(why) => format!("  FAILED: {}", why.lines().next().unwrap_or_default()),
                Outcome::NotRun(why) => format!("  NOT RUN: {why}"),
            };
            lines.push(format!("{:>8.1} s  {}{outcome}", part.time.as_secs_f64(), part.title));
        }
        let sum: Duration = self.parts.iter().map(|part| part.time).sum();
        lines.push(format!("{:>8.1} s  in all", sum.as_secs_f64()));
        for skip in self.parts.iter().flat_map(|part| &part.skips) {
            lines.push(format!("SKIPPED  {}: {}", skip.what, skip.why));
        }
        let count =
            |wanted: fn(&Outcome) -> bool| self.parts.iter().filter(|part| wanted(&part.outcome)).count();
        lines.push(format!(
            "parts: {} passed, {} failed, {} skipped",
            count(|outcome| matches!(outcome, Outcome::Passed)),
            count(|outcome| matches!(outcome, Outcome::Failed(_))),
            count(|outcome| matches!(outcome, Outcome::NotRun(_))),
        ));
        lines.join("\n")
    }

    fn refuse(&self, skips: &[Skip]) -> Result<()> {
        let lacking: Vec<&str> = skips
            .iter()
            .map(|skip| skip.what.as_str())
            .filter(|what| self.strict && !MAY_BE_LACKING.contains(what))
            .collect();
        if lacking.is_empty() {
            return Ok(());
        }
        bail!("Skipped what CI has to try: {}", lacking.join(", "))
    }

    /// What was skipped since the last time.
    fn take_skips(&self) -> Result<Vec<Skip>> {
        let skips = skipped::read(&self.skipped)
            .with_context(|| format!("Could not read `{}`", self.skipped.display()))?;
        self.forget_skips()?;
        Ok(skips)
    }

    fn forget_skips(&self) -> Result<()> {
        match fs::remove_file(&self.skipped) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("Could not remove `{}`", self.skipped.display()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(name: &str, strict: bool) -> Report {
        let name = format!("skipped-{}-{name}", std::process::id());
        Report { parts: Vec::new(), skipped: std::env::temp_dir().join(name), strict }
    }

    #[test]
    fn the_summary_names_every_part_and_every_skip() {
        let part = |title: &str, outcome: Outcome, skips: Vec<Skip>| Part {
            title: title.to_owned(),
            time: Duration::from_millis(1500),
            outcome,
            skips,
        };
        let skip = Skip { what: "sudo".to_owned(), why: "not here".to_owned() };
        let mut report = report("summary", false);
        report.parts = vec![
            part("Format", Outcome::Passed, vec![]),
            part("Unit tests", Outcome::Passed, vec![skip]),
            part("Engine", Outcome::Failed("no compiler\nmore".to_owned()), vec![]),
            part("VMs", Outcome::NotRun("an earlier part failed".to_owned()), vec![]),
        ];
        assert_eq!(
            report.summary(),
            "     1.5 s  Format\n     1.5 s  Unit tests\n     1.5 s  Engine  FAILED: no compiler\n     \
             1.5 s  VMs  NOT RUN: an earlier part failed\n     6.0 s  in all\nSKIPPED  sudo: not here\n\
             parts: 2 passed, 1 failed, 1 skipped"
        );
        assert_eq!(report.finish().unwrap_err().to_string(), "Failed, or could not be run: Engine; VMs");
    }

    #[test]
    fn ci_may_lack_only_what_is_listed() {
        for (strict, what, passes) in
            [(false, "sudo", true), (true, "advisories", true), (true, "sudo", false)]
        {
            let mut report = report(what, strict);
            let file = report.skipped.clone();
            let done = report.part("a part", || Ok(skipped::append(&file, what, "not here")?));
            assert_eq!(done.is_some(), passes, "{what}");
            assert!(report.summary().contains(&format!("SKIPPED  {what}: not here")), "{}", report.summary());
            assert_eq!(report.is_good(), passes);
            // What one part skipped is not held against the next.
            assert_eq!(report.part("another", || Ok(1)), Some(1));
        }
    }

    #[test]
    fn a_failure_does_not_end_the_run() {
        let mut report = report("failure", false);
        assert_eq!(report.part("good", || Ok(1)), Some(1));
        assert_eq!(report.part::<()>("bad", || bail!("it broke")), None);
        assert_eq!(report.part("later", || Ok(2)), Some(2));
        assert!(report.finish().is_err());
    }
}
