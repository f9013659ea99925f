//! AWS on a bad day: throttled, losing replies, slow to know what it made, short of capacity.

use std::time::Duration;

use serde_json::json;

use crate::{cloud::Cloud, store::until};

#[test]
#[ignore = "boots VMs; `cargo xtask test` runs it"]
fn five_hosts_at_once_while_one_reply_in_ten_is_lost() {
    let cloud = Cloud::new();
    cloud.aws.faults(json!({ "seed": 7, "throttle": 0.2, "lose": 0.1, "not_found": 1500 })).unwrap();
    let said = cloud.machine(&["create", "-d", "aws", "m1", "m2", "m3", "m4", "m5"]);
    assert_eq!(said.matches("Docker is up and running!").count(), 5, "{said}");
    assert_eq!(cloud.living().len(), 5);
    assert!(said.contains("AWS asks for a slower pace"), "throttling is not said:\n{said}");
    let rows = cloud.machine(&["ls", "-f", "{{.Name}} {{.State}}{{.Error}}"]);
    assert_eq!(rows, "m1 Running\nm2 Running\nm3 Running\nm4 Running\nm5 Running\n");
    cloud.machine(&["rm", "-y", "m1", "m2", "m3", "m4", "m5"]);
    cloud.assert_nothing_left();
    cloud.store.assert_nothing_left();
}

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn a_lost_reply_makes_nothing_twice() {
    for action in ["ImportKeyPair", "CreateSecurityGroup", "AuthorizeSecurityGroupIngress", "RunInstances"] {
        let cloud = Cloud::without_vms();
        cloud.aws.faults(json!({ "lose_next": { (action): 1 } })).unwrap();
        let mut child = cloud.store.command(&["create", "-d", "aws", "mc1"]).spawn().unwrap();
        until("the instance runs", Duration::from_secs(60), || {
            (cloud.living().len() == 1
                && cloud.machine(&["inspect", "-f", "{{.Phase}}", "mc1"]) == "Booting\n")
                .then_some(())
        });
        child.kill().unwrap();
        child.wait().unwrap();
        let asked = cloud.count(action);
        assert!(asked >= 2, "{action} was asked {asked} times: nothing was lost");
        assert_eq!(cloud.living().len(), 1, "{action}");
        cloud.machine(&["rm", "-y", "mc1"]);
        cloud.assert_nothing_left();
    }
}

#[test]
#[ignore = "boots VMs; `cargo xtask test` runs it"]
fn without_spot_capacity_an_ordinary_instance_is_taken() {
    let cloud = Cloud::new();
    let short =
        json!({ "code": "InsufficientInstanceCapacity", "status": 500, "when": { "market": "spot" } });
    cloud.aws.faults(json!({ "errors": { "RunInstances": [short] } })).unwrap();
    let said = cloud.machine(&["create", "-d", "aws", "--aws-spot", "--aws-spot-price", "0.02", "mc1"]);
    assert!(said.contains("trying an instance on demand"), "{said}");
    cloud.machine(&["rm", "-y", "mc1"]);
    cloud.assert_nothing_left();

    let options = ["create", "-d", "aws", "--aws-spot-only", "--on-failure", "undo", "mc2"];
    let output = cloud.try_machine(&options);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("InsufficientInstanceCapacity"), "{said}");
    cloud.assert_nothing_left();

    // And where there is some, its request goes with the host.
    cloud.aws.faults(json!({})).unwrap();
    cloud.machine(&["create", "-d", "aws", "--aws-spot", "mc3"]);
    let record = cloud.record("mc3");
    let entries = record["Journal"]
        .as_array()
        .cloned()
        .unwrap_or_else(|| record["journal"].as_array().unwrap().clone());
    assert!(entries.iter().any(|entry| entry["kind"] == "spot-request"), "{entries:?}");
    // AWS takes it away, as it may.
    let id = cloud.living()[0]["id"].as_str().unwrap().to_owned();
    cloud.aws.interrupt(&id, Duration::from_millis(100)).unwrap();
    until("the interruption is noticed", Duration::from_secs(30), || {
        (cloud.machine(&["status", "mc3"]) == "\n").then_some(())
    });
    let said = cloud.store.machine_fails(1, &["start", "mc3"]);
    assert!(said.contains("is gone"), "{said}");
    cloud.machine(&["rm", "-y", "mc3"]);
    cloud.assert_nothing_left();
    cloud.store.assert_nothing_left();
}

#[test]
#[ignore = "boots VMs; `cargo xtask test` runs it"]
fn an_instance_that_is_taken_away_is_noticed() {
    let cloud = Cloud::new();
    cloud.machine(&["create", "-d", "aws", "mc1"]);
    let id = cloud.living()[0]["id"].as_str().unwrap().to_owned();
    cloud.aws.terminate(&id).unwrap();
    until("the end is noticed", Duration::from_secs(30), || {
        (cloud.machine(&["status", "mc1"]) == "\n").then_some(())
    });
    let said = cloud.store.machine_fails(1, &["start", "mc1"]);
    assert!(said.contains(&id) && said.contains("machine rm mc1"), "{said}");
    cloud.machine(&["rm", "-y", "mc1"]);
    cloud.assert_nothing_left();
    cloud.store.assert_nothing_left();
}
