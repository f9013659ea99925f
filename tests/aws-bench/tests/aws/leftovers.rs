//! `gc`: what is left of hosts whose store is lost, and groups that somebody else uses.

use std::time::Duration;

use serde_json::json;

use crate::{
    cloud::{Cloud, REGION},
    store::until,
};

/// Begins a host and kills the creation when the instance runs.
fn begin(cloud: &Cloud, store: &crate::store::Bench, name: &str) {
    let before = cloud.living().len();
    let mut child = store.command(&["create", "-d", "aws", "--aws-swarm", "prod", name]).spawn().unwrap();
    until("the instance runs", Duration::from_secs(60), || {
        (cloud.living().len() > before
            && store.machine(&["inspect", "-f", "{{.Phase}}", name]) == "Booting\n")
            .then_some(())
    });
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn what_belongs_to_no_record_is_found_and_removed() {
    let cloud = Cloud::without_vms();
    begin(&cloud, &cloud.store, "mine");
    let lost = cloud.another_store();
    begin(&cloud, &lost, "lost");
    std::fs::remove_dir_all(lost.store()).unwrap();

    let gc = ["gc", "-d", "aws", "--aws-region", REGION, "--aws-region", "us-east-1"];
    let listed = cloud.machine(&gc);
    assert!(listed.contains("lost") && !listed.contains("mine"), "{listed}");
    for kind in ["instance", "volume", "key pair", "security group"] {
        assert!(listed.contains(kind), "{kind} is not listed:\n{listed}");
    }
    assert_eq!(cloud.living().len(), 2, "listing removes nothing");

    // A colleague's hosts are not ours to remove.
    let mut command = cloud.store.command(&[gc.as_slice(), &["--yes"]].concat());
    let output = command.env("USER", "colleague").output().unwrap();
    assert!(output.status.success());
    assert_eq!(cloud.living().len(), 2);

    cloud.machine(&[gc.as_slice(), &["--yes"]].concat());
    assert_eq!(cloud.living().len(), 1);
    assert!(cloud.machine(&gc).contains("Nothing is left over"));
    cloud.machine(&["rm", "-y", "mine"]);
    cloud.assert_nothing_left();
}

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn a_group_that_somebody_else_uses_is_named_and_the_rest_goes() {
    let cloud = Cloud::without_vms();
    begin(&cloud, &cloud.store, "one");
    let group = cloud.record("one")["Driver"]["State"]["own_group"].as_str().unwrap().to_owned();
    let other = cloud.another_store();
    let mut child =
        other.command(&["create", "-d", "aws", "--aws-security-group", &group, "two"]).spawn().unwrap();
    until("both run", Duration::from_secs(60), || (cloud.living().len() == 2).then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();

    let said = cloud.store.machine_fails(1, &["rm", "-y", "one"]);
    assert!(said.contains(&group) && said.contains("in use by i-"), "{said}");
    assert_eq!(cloud.living().len(), 1);
    other.machine(&["rm", "-y", "two"]);
    // Nobody uses it any more: the same command again finishes.
    cloud.machine(&["rm", "-y", "one"]);
    cloud.assert_nothing_left();
    cloud.store.assert_nothing_left();
}

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn a_damaged_record_is_no_reason_to_leave_anything() {
    let cloud = Cloud::without_vms();
    begin(&cloud, &cloud.store, "mc1");
    std::fs::write(cloud.store.host_folder("mc1").join("config.json"), "{").unwrap();
    cloud.machine(&["rm", "-f", "mc1"]);
    // The shared group has nobody's id on it: it is found by its own tag.
    let left = cloud.aws.left().unwrap();
    assert!(left[REGION]["instances"].is_null(), "{left}");
    cloud.machine(&["gc", "-d", "aws", "--yes"]);
    assert_eq!(cloud.aws.left().unwrap(), json!({}));
}
