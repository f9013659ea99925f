//! Who may reach a host: exactly these, from the first rule to the last.

use std::{collections::BTreeSet, time::Duration};

use serde_json::json;

use crate::{
    cloud::{Cloud, REGION, ask},
    store::until,
};

fn set<const N: usize>(rules: [&str; N]) -> BTreeSet<String> {
    rules.map(str::to_owned).into()
}

fn groups(cloud: &Cloud, name: &str) -> Vec<String> {
    let record = cloud.record(name);
    let groups = record["Driver"]["State"]["groups"].as_array().unwrap().clone();
    groups.iter().map(|group| group.as_str().unwrap().to_owned()).collect()
}

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn a_plain_host_lets_the_caller_in_and_nobody_else() {
    let cloud = Cloud::without_vms();
    cloud.store.begin(&[], &["mc1"]);
    let groups = groups(&cloud, "mc1");
    assert_eq!(groups.len(), 1);
    let expected = ["tcp 22-22 from 127.0.0.1/32", "tcp 2376-2376 from 127.0.0.1/32"];
    assert_eq!(cloud.rules(&groups[0]), set(expected));
}

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn members_of_a_swarm_reach_one_another_on_its_ports_and_nobody_else_does() {
    let cloud = Cloud::without_vms();
    cloud.store.begin(&["--aws-swarm", "prod", "--aws-swarm-manager"], &["m1"]);
    cloud.store.begin(&["--aws-swarm", "prod"], &["m2"]);
    let (first, second) = (groups(&cloud, "m1"), groups(&cloud, "m2"));
    assert_eq!((first.len(), second.len()), (2, 2));
    assert_eq!(first[1], second[1], "the members share a group");
    let caller = "127.0.0.1/32";
    let manager = ["22-22", "2376-2376", "3376-3376"].map(|ports| format!("tcp {ports} from {caller}"));
    assert_eq!(cloud.rules(&first[0]), BTreeSet::from(manager));
    let member = ["22-22", "2376-2376"].map(|ports| format!("tcp {ports} from {caller}"));
    assert_eq!(cloud.rules(&second[0]), BTreeSet::from(member));
    let shared = &first[1];
    let between = ["tcp 2377-2377", "tcp 7946-7946", "udp 7946-7946", "udp 4789-4789", "50 -1--1"];
    assert_eq!(cloud.rules(shared), BTreeSet::from(between.map(|rule| format!("{rule} from {shared}"))));
    cloud.machine(&["rm", "-y", "m1", "m2"]);
    cloud.assert_nothing_left();
}

/// A creation that goes on from elsewhere: the address that it began at has no business there any more.
#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn who_moves_leaves_no_door_open() {
    let cloud = Cloud::without_vms();
    cloud.aws.settings(json!({ "caller": "198.51.100.1" })).unwrap();
    cloud.store.begin(&[], &["mc1"]);
    // What somebody opened by hand stays.
    let group = cloud.record("mc1")["Driver"]["State"]["own_group"].as_str().unwrap().to_owned();
    let by_hand = format!(
        "Action=AuthorizeSecurityGroupIngress&GroupId={group}&IpPermissions.1.IpProtocol=tcp&\
         IpPermissions.1.FromPort=8080&IpPermissions.1.ToPort=8080&IpPermissions.1.IpRanges.1.CidrIp=203.0.113.9/32"
    );
    ask(&cloud, REGION, &by_hand);
    let from = |address: &str| {
        let ports = ["22-22", "2376-2376"].map(|ports| format!("tcp {ports} from {address}/32"));
        ports.into_iter().chain(["tcp 8080-8080 from 203.0.113.9/32".to_owned()]).collect::<BTreeSet<_>>()
    };
    assert_eq!(cloud.rules(&group), from("198.51.100.1"));
    cloud.aws.settings(json!({ "caller": "198.51.100.2" })).unwrap();
    let creation = cloud.store.under_way(&["create", "-d", "aws", "mc1"]);
    until("the door has moved", Duration::from_mins(2), || {
        (cloud.rules(&group) == from("198.51.100.2")).then_some(())
    });
    drop(creation);
    cloud.machine(&["rm", "-y", "mc1"]);
    cloud.assert_nothing_left();
}

/// Whoever is not let in cannot see that the host goes down, before it comes back.
#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn who_has_moved_is_let_in_before_a_restart() {
    let Some(cloud) = Cloud::with_guests() else { return };
    cloud.machine(&["create", "-d", "aws", "mc1"]);
    let group = groups(&cloud, "mc1").remove(0);
    cloud.aws.settings(json!({ "caller": "198.51.100.2" })).unwrap();
    cloud.aws.clear_calls().unwrap();
    let restart = cloud.store.under_way(&["restart", "mc1"]);
    until("it is rebooted", Duration::from_mins(2), || (cloud.count("RebootInstances") > 0).then_some(()));
    drop(restart);
    let actions = cloud.aws.actions().unwrap();
    let when = |action: &str| actions.iter().position(|one| one == action);
    assert!(when("AuthorizeSecurityGroupIngress").is_some(), "{actions:?}");
    assert!(when("AuthorizeSecurityGroupIngress") < when("RebootInstances"), "{actions:?}");
    let expected = ["22-22", "2376-2376"].map(|ports| format!("tcp {ports} from 198.51.100.2/32"));
    assert_eq!(cloud.rules(&group), BTreeSet::from(expected));
    cloud.machine(&["rm", "-y", "mc1"]);
    cloud.assert_nothing_left();
}
