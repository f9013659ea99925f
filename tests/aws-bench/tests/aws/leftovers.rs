//! `gc`: what is left of hosts whose store is lost, and groups that somebody else uses.

use std::time::Duration;

use serde_json::json;

use crate::{
    cloud::{Cloud, REGION, ask_for},
    store::until,
};

/// Hosts of a swarm, so that there is a group which several share.
fn begin(store: &crate::store::Bench, name: &str) {
    store.begin(&["--aws-swarm", "prod"], &[name]);
}

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn what_belongs_to_no_record_is_found_and_removed() {
    let cloud = Cloud::without_vms();
    begin(&cloud.store, "mine");
    let other = cloud.another_store();
    begin(&other, "lost");

    // A host that lives in another store is not this one's to remove, whosever store it is.
    let gc = ["gc", "-d", "aws", "--aws-region", REGION, "--aws-region", "us-east-1", "--aws-region", REGION];
    let yes = [gc.as_slice(), &["--yes"]].concat();
    let listed = cloud.machine(&yes);
    assert!(listed.contains("lost") && !listed.contains("mine"), "{listed}");
    // Its own group, and that of its swarm: a swarm of the same name in another store is another one.
    for (kind, count) in [("instance", 1), ("key pair", 1), ("security group", 2)] {
        assert_eq!(listed.matches(kind).count(), count, "{kind}:\n{listed}");
    }
    assert_eq!(cloud.living().len(), 2);

    // The other store is lost. One that is made anew at its place is another one, and so is a copy.
    let away = other.store().with_extension("away");
    std::fs::rename(other.store(), &away).unwrap();
    other.machine(&yes);
    assert_eq!(cloud.living().len(), 2, "it belongs to a store that was there before");
    std::fs::copy(away.join("store-id"), other.store().join("store-id")).unwrap();
    other.machine(&yes);
    assert_eq!(cloud.living().len(), 2, "it belongs to the store that this one is a copy of");
    // Where only its records are lost, it is that store's to remove.
    std::fs::remove_dir_all(other.store()).unwrap();
    std::fs::rename(&away, other.store()).unwrap();
    std::fs::remove_dir_all(other.store().join("machines")).unwrap();
    assert!(other.says(&gc).contains("Nothing was removed"));
    assert_eq!(cloud.living().len(), 2, "listing removes nothing");
    other.machine(&yes);
    assert_eq!(cloud.living().len(), 1);
    assert!(cloud.store.says(&gc).contains("Nothing is left over"));
    cloud.machine(&["rm", "-y", "mine"]);
    cloud.assert_nothing_left();
}

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn a_group_that_somebody_else_uses_is_named_and_the_rest_goes() {
    let cloud = Cloud::without_vms();
    begin(&cloud.store, "one");
    let group = cloud.record("one")["Driver"]["State"]["own_group"].as_str().unwrap().to_owned();
    let other = cloud.another_store();
    other.begin(&["--aws-security-group", &group], &["two"]);
    assert_eq!(cloud.living().len(), 2);

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
    begin(&cloud.store, "mc1");
    std::fs::write(cloud.store.host_folder("mc1").join("config.json"), "{").unwrap();
    cloud.machine(&["rm", "-f", "mc1"]);
    // The shared group has nobody's id on it: it is found by its own tag.
    let left = cloud.aws.left().unwrap();
    assert!(left[REGION]["instances"].is_null(), "{left}");
    cloud.machine(&["gc", "-d", "aws", "--yes"]);
    assert_eq!(cloud.aws.left().unwrap(), json!({}));
}

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn a_host_of_docker_machine_is_removed_with_its_instance() {
    let cloud = Cloud::without_vms();
    let run = "Action=RunInstances&ImageId=ami-0deb12a0000000001&InstanceType=t3.small&MinCount=1&MaxCount=1";
    let id = ask_for(&cloud, REGION, run, "instanceId").remove(0);
    until("it runs", Duration::from_secs(60), || (cloud.living()[0]["state"] == "running").then_some(()));
    let folder = cloud.store.host_folder("old");
    std::fs::create_dir_all(&folder).unwrap();
    let record = json!({
        "ConfigVersion": 3, "DriverName": "amazonec2", "Name": "old",
        "Driver": {
            "IPAddress": "203.0.113.9", "MachineName": "old", "SSHUser": "ubuntu", "SSHPort": 22,
            "SSHKeyPath": folder.join("id_rsa"), "Region": REGION, "InstanceId": id, "KeyName": "old",
            "InstanceType": "t3.small", "Zone": "a", "Endpoint": cloud.aws.endpoint(),
        },
        "HostOptions": { "EngineOptions": { "TlsVerify": true }, "AuthOptions": {} },
    });
    std::fs::write(folder.join("config.json"), record.to_string()).unwrap();
    assert_eq!(cloud.machine(&["ip", "old"]), "203.0.113.9\n");
    assert_eq!(cloud.machine(&["status", "old"]), "Running\n");
    cloud.machine(&["rm", "-y", "old"]);
    cloud.assert_nothing_left();
}

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn an_instance_that_is_lost_while_it_boots_is_made_anew() {
    let cloud = Cloud::without_vms();
    begin(&cloud.store, "mc1");
    let first = cloud.the_instance();
    cloud.aws.terminate(&first).unwrap();
    until("it is gone", Duration::from_secs(30), || cloud.living().is_empty().then_some(()));
    begin(&cloud.store, "mc1");
    assert_ne!(cloud.the_instance(), first);
    cloud.machine(&["rm", "-y", "mc1"]);
    cloud.assert_nothing_left();
    cloud.store.assert_nothing_left();
}
