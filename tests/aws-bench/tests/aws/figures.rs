//! How often AWS is asked: figures, printed, and the bounds that the design sets.

use std::collections::BTreeMap;

use crate::cloud::Cloud;

fn counts(cloud: &Cloud) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for action in cloud.aws.actions().unwrap() {
        *counts.entry(action).or_default() += 1;
    }
    counts
}

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn many_hosts_are_made_and_listed_with_few_calls() {
    const HOSTS: usize = 20;
    let cloud = Cloud::without_vms();
    let names: Vec<String> = (1..=HOSTS).map(|number| format!("m{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let creation = cloud.store.creating(&[], &names);
    let made = counts(&cloud);
    drop(creation);
    eprintln!("-- calls for {HOSTS} hosts: {made:?}");
    for once in [
        "DescribeInstanceTypes",
        "GetParameter",
        "DescribeImages",
        "DescribeVpcs",
        "DescribeSubnets",
        "DescribeInstanceTypeOfferings",
    ] {
        assert_eq!(made[once], 1, "{once}");
    }
    for each in ["ImportKeyPair", "CreateSecurityGroup", "AuthorizeSecurityGroupIngress"] {
        assert_eq!(made[each], HOSTS, "{each}");
    }
    // One more, which is a rehearsal.
    assert_eq!(made["RunInstances"], HOSTS + 1);

    cloud.aws.clear_calls().unwrap();
    let rows = cloud.machine(&["ls", "-f", "{{.Name}} {{.State}}"]);
    assert_eq!(rows.lines().filter(|row| row.ends_with("Running")).count(), HOSTS);
    let listed = counts(&cloud);
    eprintln!("-- calls for `ls` of {HOSTS} hosts: {listed:?}");
    assert_eq!(listed, BTreeMap::from([("DescribeInstances".to_owned(), 1)]));

    cloud.aws.clear_calls().unwrap();
    cloud.machine(&[&["rm", "-y"], names.as_slice()].concat());
    eprintln!("-- calls for `rm` of {HOSTS} hosts: {:?}", counts(&cloud));
    cloud.assert_nothing_left();
    cloud.store.assert_nothing_left();
}
