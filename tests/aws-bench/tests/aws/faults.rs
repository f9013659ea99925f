//! Lost replies, stale answers, ambiguous refusals, no capacity: there is one instance, and it is never lost.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{cloud::Cloud, store::until};

const SOON: Duration = Duration::from_mins(1);

/// The real calls of an action.
fn real_calls(cloud: &Cloud, action: &str) -> Vec<Value> {
    let calls = cloud.aws.calls().unwrap();
    calls
        .into_iter()
        .filter(|call| call["action"] == action && call["parameters"]["DryRun"] != "true")
        .collect()
}

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn a_lost_reply_makes_nothing_twice() {
    for action in ["ImportKeyPair", "CreateSecurityGroup", "AuthorizeSecurityGroupIngress", "RunInstances"] {
        let cloud = Cloud::without_vms();
        cloud.aws.faults(json!({ "lose_next": { (action): 1 } })).unwrap();
        cloud.store.begin(&[], &["mc1"]);
        let calls = real_calls(&cloud, action);
        assert!(calls[0]["lost"] == true && calls[0]["status"] == 200, "{action} was not lost: {calls:?}");
        assert!(calls.len() >= 2 && calls[1]["lost"] == false, "{action} was not asked again: {calls:?}");
        assert_eq!(cloud.living().len(), 1, "{action}");
        cloud.machine(&["rm", "-y", "mc1"]);
        cloud.assert_nothing_left();
    }
}

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn an_empty_answer_ends_no_creation() {
    let cloud = Cloud::without_vms();
    let mut creation = cloud.store.creating(&[], &["mc1"]);
    cloud.aws.faults(json!({ "blank_next": { "DescribeInstances": 2 } })).unwrap();
    until("it was looked for", SOON, || {
        let faults = cloud.aws.control("GET", "faults", None).unwrap();
        (faults["blank_next"]["DescribeInstances"] == 0).then_some(())
    });
    cloud.aws.clear_calls().unwrap();
    until("it is looked for again", SOON, || (cloud.count("DescribeInstances") > 1).then_some(()));
    assert!(creation.is_alive(), "an answer that did not know the instance ended its creation");
    drop(creation);
    assert_eq!(cloud.machine(&["status", "mc1"]), "Running\n");
    cloud.machine(&["rm", "-y", "mc1"]);
    cloud.assert_nothing_left();
}

/// As after an hour, when not even a terminated instance is listed.
#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn an_instance_that_is_unknown_again_and_again_is_gone() {
    let cloud = Cloud::without_vms();
    cloud.store.begin(&[], &["mc1"]);
    let id = cloud.the_instance();
    cloud.aws.terminate(&id).unwrap();
    until("it is gone", SOON, || cloud.living().is_empty().then_some(()));
    cloud.aws.forget(&id).unwrap();
    assert_eq!(cloud.machine(&["status", "mc1"]), "\n");
    cloud.store.begin(&[], &["mc1"]);
    assert_ne!(cloud.the_instance(), id, "it is made anew");
    cloud.machine(&["rm", "-y", "mc1"]);
    cloud.assert_nothing_left();
}

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn without_spot_capacity_an_ordinary_instance_is_taken() {
    let cloud = Cloud::without_vms();
    let short =
        json!({ "code": "InsufficientInstanceCapacity", "status": 500, "when": { "market": "spot" } });
    cloud.aws.faults(json!({ "errors": { "RunInstances": [short] } })).unwrap();
    cloud.store.begin(&["--aws-spot", "--aws-spot-price", "0.02"], &["mc1"]);
    let calls = real_calls(&cloud, "RunInstances");
    let last = &calls.last().unwrap()["parameters"];
    assert!(calls.len() == 4 && last["InstanceMarketOptions.MarketType"].is_null(), "{calls:?}");
    cloud.machine(&["rm", "-y", "mc1"]);
    cloud.assert_nothing_left();

    let options = ["create", "-d", "aws", "--aws-spot-only", "--on-failure", "undo", "mc2"];
    let output = cloud.try_machine(&options);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("InsufficientInstanceCapacity"), "{said}");
    cloud.assert_nothing_left();
    cloud.store.assert_nothing_left();
}
