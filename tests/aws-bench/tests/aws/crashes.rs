//! `create`, `rm` and `regenerate-certs` are killed with -9 before and after their writes: the same command goes on, and
//! `rm` leaves nothing.
//!
//! Instances are guests here: a third of all writes is tried, and `cargo xtask kills aws` tries all of them. In `boots` some
//! are tried with VMs.

use std::path::PathBuf;

use killed::{Point, Store, Watch, each_of_some, rehearse};
use serde_json::json;

use crate::{cloud::Cloud, store::show};

/// A host with all that one can have at AWS: a spot request, and a group that it shares with others.
pub(crate) const CREATE: [&str; 7] = ["create", "-d", "aws", "--aws-spot", "--aws-swarm", "prod", "mc1"];
pub(crate) const RENEW: [&str; 3] = ["regenerate-certs", "-f", "mc1"];
pub(crate) const RM: [&str; 3] = ["rm", "-y", "mc1"];

impl Cloud {
    fn watch(&self) -> Watch {
        Watch::everything(&self.store.store())
    }

    fn checks(&self) -> Store {
        Store::at(&self.store.store())
    }

    /// Has the store an authority, as all commands but the first one find it: what they are killed at is not its making.
    pub(crate) fn make_authority(&self) {
        self.machine(&["create", "-d", "none", "--url", "tcp://192.0.2.1:2376", "warm"]);
        self.machine(&["rm", "-y", "warm"]);
    }

    /// Kills a command at a point, as if a while ago.
    fn kill(&self, point: &Point, words: &[&str]) -> String {
        let (when, killed) = self.kill_or_finish(point, &self.watch(), words);
        assert!(killed, "{when}: it came to its end");
        when
    }

    /// The same where a command may end well before it comes to the point, and whether it was killed: a VM takes its time as
    /// it likes, and a run beside one may need fewer writes than the rehearsal did.
    pub(crate) fn kill_or_finish(&self, point: &Point, watch: &Watch, words: &[&str]) -> (String, bool) {
        let run = killed::at(&mut self.store.command(words), watch, point);
        assert!(run.killed || run.status.success(), "{point}: {}\n{}", run.status, run.said);
        self.checks().age();
        let never = if run.killed { "" } else { "never " };
        let when = format!("{never}{point}, in the phase {}", self.store.phase("mc1"));
        eprintln!("-- {}: {when}", words[0]);
        (when, run.killed)
    }

    /// Makes the host, or goes on making it.
    pub(crate) fn finish(&self) {
        if self.store.phase("mc1") != "Ready" {
            self.machine(&CREATE);
        }
    }

    /// The host is finished, and clients and engine trust each other.
    pub(crate) fn assert_whole(&self, when: &str) {
        assert_eq!(self.store.phase("mc1"), "Ready", "{when}");
        assert_eq!(self.living().len(), 1, "{when}");
        self.checks().assert_one_authority(when);
        self.checks().assert_copies("mc1", when);
        self.checks().assert_engine_trusts("mc1", &self.machine(&["url", "mc1"]), when);
        assert_eq!(self.checks().leftovers(), Vec::<PathBuf>::new(), "{when}");
    }

    /// Whatever there is goes, with its record.
    pub(crate) fn remove(&self, when: &str) {
        let there = self.store.host_folder("mc1").exists();
        let output = self.try_machine(&RM);
        assert_eq!(output.status.success(), there, "{when}: {}", show(&output));
        self.assert_nothing_left();
        self.checks().assert_nothing_left(when);
    }
}

/// A cloud with an authority in its store, as all hosts but the first one find it.
fn cloud() -> Option<Cloud> {
    let cloud = Cloud::with_guests()?;
    cloud.make_authority();
    Some(cloud)
}

/// The points of a command that makes of a host what `prepare` does not.
fn points(words: &[&str], prepare: impl Fn(&Cloud)) -> Option<Vec<Point>> {
    let cloud = cloud()?;
    prepare(&cloud);
    let points = rehearse(&mut cloud.store.command(words), &cloud.watch());
    cloud.remove("after the rehearsal");
    Some(points)
}

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn a_create_that_was_killed_goes_on() {
    let Some(points) = points(&CREATE, |_| {}) else { return };
    each_of_some(
        "`create -d aws`, again",
        &points,
        90,
        || cloud().unwrap(),
        |cloud, point| {
            let when = cloud.kill(point, &CREATE);
            cloud.finish();
            cloud.assert_whole(&when);
            cloud.remove(&when);
        },
    );
}

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn a_create_that_was_killed_is_undone() {
    let Some(points) = points(&CREATE, |_| {}) else { return };
    // What was made a moment ago is in no list yet: only whoever has it on record, or what may have been made, waits for it.
    let prepare = || {
        let cloud = cloud().unwrap();
        cloud.aws.faults(json!({ "not_found": 700 })).unwrap();
        cloud
    };
    each_of_some("`create -d aws`, undone", &points, 90, prepare, |cloud, point| {
        let when = cloud.kill(point, &CREATE);
        cloud.remove(&when);
    });
}

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn an_rm_that_was_killed_is_finished_by_the_next_one() {
    let Some(points) = points(&RM, Cloud::finish) else { return };
    each_of_some(
        "`rm` of a host on AWS",
        &points,
        28,
        || cloud().unwrap(),
        |cloud, point| {
            cloud.finish();
            let when = cloud.kill(point, &RM);
            cloud.remove(&when);
        },
    );
}

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn a_renewal_that_was_killed_goes_on_or_is_over() {
    let Some(points) = points(&RENEW, Cloud::finish) else { return };
    each_of_some(
        "`regenerate-certs` on AWS",
        &points,
        20,
        || cloud().unwrap(),
        |cloud, point| {
            cloud.finish();
            let when = cloud.kill(point, &RENEW);
            // At any time, a client that `env` leads to the host is trusted by it.
            cloud.machine(&["env", "--shell", "bash", "mc1"]);
            cloud.checks().assert_engine_trusts("mc1", &cloud.machine(&["url", "mc1"]), &when);
            cloud.machine(&RENEW);
            cloud.assert_whole(&when);
            let when = cloud.kill(point, &RENEW);
            cloud.remove(&when);
        },
    );
}
