//! `create`, `rm` and `regenerate-certs` are killed with -9 before and after each write of the record: the same command
//! goes on, and `rm` leaves nothing.
//!
//! Instances are guests here, so that all of the writes can be tried; in `boots` some are tried with VMs. What a command
//! writes besides the record is the same with every driver, and is killed with others; `cargo xtask kills` does it here, too.

use std::path::{Path, PathBuf};

use killed::{Point, Store, Watch, each, rehearse};

use crate::{cloud::Cloud, store::show};

const CREATE: [&str; 4] = ["create", "-d", "aws", "mc1"];
const RENEW: [&str; 3] = ["regenerate-certs", "-f", "mc1"];
const RM: [&str; 3] = ["rm", "-y", "mc1"];

impl Cloud {
    fn records(&self) -> Watch {
        Watch::records(&self.store.store())
    }

    fn checks(&self) -> Store {
        Store::at(&self.store.store())
    }

    /// Kills a command at a point, as if a while ago.
    pub(crate) fn kill(&self, point: &Point, watch: &Watch, words: &[&str]) -> String {
        self.kill_or_finish(point, watch, words, false)
    }

    /// The same where a command may end well before it comes to the point, if `may_finish`: a VM takes its time as it
    /// likes, and a run beside one may need fewer writes than the rehearsal did.
    pub(crate) fn kill_or_finish(
        &self,
        point: &Point,
        watch: &Watch,
        words: &[&str],
        may_finish: bool,
    ) -> String {
        let run = killed::at(&mut self.store.command(words), watch, point);
        let is_over = may_finish && run.status.success();
        assert!(run.killed || is_over, "{point}: it came to its end: {}\n{}", run.status, run.said);
        self.checks().age();
        let when = format!("{point}, in the phase {}", self.store.phase("mc1"));
        eprintln!("-- {}: {when}", words[0]);
        when
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
    cloud.machine(&["create", "-d", "none", "--url", "tcp://192.0.2.1:2376", "warm"]);
    cloud.machine(&["rm", "-y", "warm"]);
    Some(cloud)
}

/// The points of a command that makes of a host what `prepare` does not.
fn points(words: &[&str], watch: &dyn Fn(&Path) -> Watch, prepare: impl Fn(&Cloud)) -> Option<Vec<Point>> {
    let cloud = cloud()?;
    prepare(&cloud);
    let points = rehearse(&mut cloud.store.command(words), &watch(&cloud.store.store()));
    cloud.remove("after the rehearsal");
    Some(points)
}

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn a_create_that_was_killed_goes_on() {
    let Some(points) = points(&CREATE, &Watch::records, |_| {}) else { return };
    each(
        "`create -d aws`, again",
        &points,
        28,
        || cloud().unwrap(),
        |cloud, point| {
            let when = cloud.kill(point, &cloud.records(), &CREATE);
            cloud.finish();
            cloud.assert_whole(&when);
            cloud.remove(&when);
        },
    );
}

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn a_create_that_was_killed_is_undone() {
    let Some(points) = points(&CREATE, &Watch::records, |_| {}) else { return };
    each(
        "`create -d aws`, undone",
        &points,
        28,
        || cloud().unwrap(),
        |cloud, point| {
            let when = cloud.kill(point, &cloud.records(), &CREATE);
            cloud.remove(&when);
        },
    );
}

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn an_rm_that_was_killed_is_finished_by_the_next_one() {
    // All that a host can have at AWS.
    let begin = |cloud: &Cloud| cloud.store.begin(&["--aws-spot", "--aws-swarm", "prod"], &["mc1"]);
    let rehearsal = Cloud::without_vms();
    begin(&rehearsal);
    let points = rehearse(&mut rehearsal.store.command(&RM), &rehearsal.records());
    rehearsal.assert_nothing_left();
    each("`rm` of a host on AWS", &points, 10, Cloud::without_vms, |cloud, point| {
        begin(cloud);
        let when = cloud.kill(point, &cloud.records(), &RM);
        cloud.remove(&when);
    });
}

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn a_renewal_that_was_killed_goes_on() {
    let Some(points) = points(&RENEW, &Watch::named, Cloud::finish) else { return };
    let prepare = || {
        let cloud = cloud().unwrap();
        cloud.finish();
        cloud
    };
    each("`regenerate-certs` on AWS", &points, 12, prepare, |cloud, point| {
        let when = cloud.kill(point, &Watch::named(&cloud.store.store()), &RENEW);
        cloud.machine(&RENEW);
        cloud.assert_whole(&when);
    });
}
