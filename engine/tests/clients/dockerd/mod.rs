//! dockerd as a judge: the same calls, and its answers and ours compared field by field.
//!
//! ```text
//! calls/*.txt ─ script ─▶ dockerd 28 ─ answer ─▶ recorded.jsonl ─┐
//!             └ script ─▶ engine ───── answer ───────────────────┴─ compare ─▶ differences = listed.txt
//! ```
//!
//! CI compares with what dockerd has answered; `cargo xtask dockerd` asks a dockerd that runs, and `--record` records it.

mod answer;
mod compare;
mod script;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::Engine;
use crate::say;
use answer::Normal;
use compare::{Difference, Listed};

/// Answers by the names of calls.
type Answers = BTreeMap<String, Normal>;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/dockerd")
}

fn ours() -> Answers {
    let engine = Engine::start();
    let root = engine.data_root().display().to_string();
    script::run(&engine.socket(), [&root, engine.exec_root()])
}

fn recorded() -> Answers {
    let text = fs::read_to_string(folder().join("recorded.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str::<(String, Normal)>(line).unwrap()).collect()
}

fn record(answers: &Answers) {
    let lines: String = answers.iter().map(|answer| serde_json::to_string(&answer).unwrap() + "\n").collect();
    fs::write(folder().join("recorded.jsonl"), lines).unwrap();
}

fn differences(theirs: &Answers, ours: &Answers) -> Vec<Difference> {
    let calls: BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
    let mut found = Vec::new();
    for call in calls {
        match (theirs.get(call), ours.get(call)) {
            (Some(theirs), Some(ours)) => compare::answers(call, theirs, ours, &mut found),
            _ => panic!(
                "The call `{call}` is not in the recording, or no longer in the script: `cargo xtask dockerd --record`"
            ),
        }
    }
    found
}

/// Fails on a difference that is not listed, and on a line that is of no difference.
fn judge(who: &str, theirs: &Answers, ours: &Answers) {
    let found = differences(theirs, ours);
    let listed = Listed::read(&fs::read_to_string(folder().join("listed.txt")).unwrap());
    let (unlisted, stale) = listed.judge(&found);
    let fields: usize = theirs.values().map(Normal::fields).sum();
    say(&format!(
        "{who}: {} calls, {fields} fields, {} differ for {} listed reasons, {} for none",
        theirs.len(),
        found.len() - unlisted.len(),
        listed.len() - stale.len(),
        unlisted.len()
    ));
    let unlisted: Vec<String> = unlisted.iter().map(ToString::to_string).collect();
    assert!(
        unlisted.is_empty() && stale.is_empty(),
        "Answers differ and `listed.txt` has no reason:\n{}\n\nLines of `listed.txt` that are of no difference:\n{}",
        unlisted.join("\n"),
        stale.join("\n")
    );
}

/// dockerd's answers are those of a host with this version of control groups: some tell of limits that the other has not.
const RECORDED_UNIFIED: bool = false;

#[test]
fn answers_are_dockerds_field_by_field() {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() != RECORDED_UNIFIED {
        return skipped::say(
            "dockerd-recorded",
            "dockerd's answers were recorded with the other version of control groups; `cargo xtask dockerd` asks one",
        );
    }
    judge("dockerd 28, as recorded", &recorded(), &ours());
}

/// `ENGINE_TEST_DOCKERD` is the socket of a dockerd without anything in it, whose data root is `/data`.
#[test]
#[ignore = "`cargo xtask dockerd` runs it, with a dockerd"]
fn a_dockerd_that_runs_is_asked() {
    let socket = std::env::var_os("ENGINE_TEST_DOCKERD").expect("the socket of a dockerd");
    let theirs = script::run(Path::new(&socket), ["/data", "/var/run/docker"]);
    if std::env::var_os("ENGINE_TEST_RECORD").is_some() {
        record(&theirs);
    }
    let unsteady: Vec<String> = differences(&recorded(), &theirs).iter().map(ToString::to_string).collect();
    say(&format!("dockerd now and as recorded: {} differences", unsteady.len()));
    assert!(unsteady.is_empty(), "dockerd does not answer as recorded:\n{}", unsteady.join("\n"));
    judge("dockerd 28", &theirs, &ours());
}
