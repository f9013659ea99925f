//! `rm` finds whatever may have been made, and takes nothing that we did not make.

use std::time::Duration;

use serde_json::json;

use crate::{
    cloud::{Cloud, REGION, ask, ask_for, encoded},
    store::until,
};

const SOON: Duration = Duration::from_mins(1);

/// Its tags are gone with it, and our own policy allows nothing on what has no tags.
#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn rm_after_an_interruption_works_when_nothing_is_known_of_the_instance_any_more() {
    let cloud = Cloud::without_vms();
    cloud.obey_our_policy(json!({}));
    cloud.store.begin(&["--aws-spot"], &["mc1"]);
    let id = cloud.the_instance();
    let journal = cloud.record("mc1")["Journal"].to_string();
    assert!(journal.contains("spot-request"), "{journal}");
    cloud.aws.interrupt(&id, Duration::from_millis(10)).unwrap();
    until("it is gone", SOON, || cloud.living().is_empty().then_some(()));
    cloud.aws.forget(&id).unwrap();
    cloud.machine(&["rm", "-y", "mc1"]);
    cloud.assert_nothing_left();
    cloud.store.assert_nothing_left();
}

/// What was made a moment ago is listed only later, and the reply that named it was lost.
#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn rm_waits_for_groups_keys_and_instances_that_may_have_been_made() {
    for action in ["ImportKeyPair", "CreateSecurityGroup", "RunInstances"] {
        let cloud = Cloud::without_vms();
        cloud.aws.faults(json!({ "lose_next": { (action): 1 }, "not_found": 6000 })).unwrap();
        let output = cloud.try_machine(&["create", "-d", "aws", "--aws-retries", "1", "mc1"]);
        assert!(!output.status.success(), "{action}");
        assert_ne!(cloud.aws.left().unwrap(), json!({}), "{action} was not done");
        cloud.machine(&["rm", "-y", "mc1"]);
        cloud.assert_nothing_left();
        cloud.store.assert_nothing_left();
    }
}

/// A copy of a host's disk that was restored from a backup carries the tags of the disk.
#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn a_restored_copy_of_a_disk_is_nobodys_but_the_users() {
    let cloud = Cloud::without_vms();
    cloud.store.begin(&[], &["mc1"]);
    let described = ask(&cloud, REGION, "Action=DescribeVolumes");
    let mut query =
        "Action=CreateVolume&AvailabilityZone=eu-west-1a&Size=16&TagSpecification.1.ResourceType=volume"
            .to_owned();
    let tags = described.split("<key>").skip(1).zip(1..).map(|(rest, number)| {
        let (key, rest) = rest.split_once("</key>").unwrap();
        let value = rest.split("<value>").nth(1).unwrap().split("</value>").next().unwrap();
        (number, key.to_owned(), value.to_owned())
    });
    let mut ours = 0;
    for (number, key, value) in tags {
        ours += usize::from(key.starts_with("machine:"));
        let (key, value) = (encoded(&key), encoded(&value));
        query.push_str(&format!(
            "&TagSpecification.1.Tag.{number}.Key={key}&TagSpecification.1.Tag.{number}.Value={value}"
        ));
    }
    assert!(ours >= 3, "{described}");
    let copy = ask_for(&cloud, REGION, &query, "volumeId").remove(0);
    cloud.machine(&["rm", "-y", "mc1"]);
    let left = cloud.aws.left().unwrap();
    assert_eq!(left, json!({ (REGION): { "volumes": [copy] } }), "the disk itself goes with its instance");
    cloud.machine(&["gc", "-d", "aws", "--yes", "--any-owner"]);
    assert_eq!(cloud.aws.left().unwrap(), left);
}
