//! The driver held to its contract on the bench, whose instances do not boot: every write of the journal is killed and
//! repeated, and what AWS may do to it besides is done.
//!
//! `cargo xtask test` runs it, and names the bench's program, its emulator and credentials that are good there.

#![allow(clippy::unwrap_used)]
#![allow(clippy::print_stderr, reason = "the figures that are measured are shown")]

use std::time::Instant;

use machine_driver::conformance::Suite;
use serde_json::json;

use crate::cloud::{Cloud, driver, host_key, login};

mod cloud;
mod groups;
mod launch;
mod removal;
mod rules;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
async fn keeps_the_contract() {
    let began = Instant::now();
    let (driver, cloud) = (driver(), Cloud::new());
    let mut suite = Suite::new(&driver, &cloud);
    for (name, value) in cloud.options() {
        suite = suite.option(name, &value);
    }
    let report = suite
        .option("aws-use-private-address", "true")
        .option("aws-open-to", "127.0.0.0/8")
        .refuses("aws-volume-type", "gp4")
        .refuses("aws-open-port", "http")
        .refuses("aws-root-size", "0")
        .keys(login(), host_key())
        .run()
        .await
        .unwrap_or_else(|violation| panic!("{violation}"));
    assert!(report.crashes > 40, "{report:?}");
    assert_eq!(cloud.aws.left().unwrap(), json!({}));
    eprintln!(
        "-- {} crashes, {} rules, {:.0} s",
        report.crashes,
        report.kept.len(),
        began.elapsed().as_secs_f32()
    );
}
