//! What is asked of AWS, and what reaches the host: careful defaults, user data, networks, groups.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::cloud::Cloud;

/// Begins a host without a VM; the parameters of its RunInstances call.
fn launched(options: &[&str]) -> (Cloud, Value) {
    let cloud = Cloud::without_vms();
    cloud.store.begin(options, &["mc1"]);
    let calls = cloud.aws.calls().unwrap();
    let is_real = |call: &&Value| call["action"] == "RunInstances" && call["parameters"]["DryRun"] != "true";
    let run = calls.iter().find(is_real).unwrap()["parameters"].clone();
    (cloud, run)
}

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn the_defaults_are_careful() {
    let (cloud, run) = launched(&[]);
    assert_eq!(run["MetadataOptions.HttpTokens"], "required");
    assert_eq!(run["BlockDeviceMapping.1.Ebs.Encrypted"], "true");
    assert_eq!(run["BlockDeviceMapping.1.Ebs.VolumeType"], "gp3");
    assert_eq!(run["BlockDeviceMapping.1.Ebs.DeleteOnTermination"], "true");
    for (number, kind) in ["instance", "volume", "network-interface"].into_iter().enumerate() {
        assert_eq!(run[format!("TagSpecification.{}.ResourceType", number + 1)], kind);
    }
    cloud.machine(&["rm", "-y", "mc1"]);
    cloud.assert_nothing_left();
}

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn options_reach_the_call() {
    let (cloud, run) = launched(&[
        "--aws-tags",
        "team=web,env=dev",
        "--aws-root-size",
        "40",
        "--aws-root-iops",
        "4000",
        "--aws-root-throughput",
        "250",
        "--aws-monitoring",
        "--amazonec2-zone",
        "b",
        "--aws-instance-type",
        "t4g.small",
        "--engine-install-url",
        "https://get.docker.com",
        "--aws-private-address-only",
        "--aws-open-to",
        "127.0.0.0/8",
    ]);
    assert_eq!(run["BlockDeviceMapping.1.Ebs.VolumeSize"], "40");
    assert_eq!(run["BlockDeviceMapping.1.Ebs.Iops"], "4000");
    assert_eq!(run["BlockDeviceMapping.1.Ebs.Throughput"], "250");
    assert_eq!(run["Monitoring.Enabled"], "true");
    assert_eq!(run["NetworkInterface.1.AssociatePublicIpAddress"], "false");
    assert!(run.to_string().contains("team"), "{run}");
    let record = cloud.record("mc1");
    assert_eq!(record["Driver"]["State"]["plan"]["image"]["architecture"], "arm64");
    assert_eq!(record["Driver"]["State"]["plan"]["places"][0]["zone"], "eu-west-1b");
    cloud.machine(&["rm", "-y", "mc1"]);
    cloud.assert_nothing_left();
}

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn a_group_that_is_read_only_is_never_edited() {
    let (cloud, _) = launched(&["--aws-security-group", "default", "--aws-security-group-readonly"]);
    for action in ["AuthorizeSecurityGroupIngress", "CreateSecurityGroup", "RevokeSecurityGroupIngress"] {
        assert_eq!(cloud.count(action), 0, "{action}");
    }
    cloud.machine(&["rm", "-y", "mc1"]);
    assert_eq!(cloud.count("DeleteSecurityGroup"), 0);
    cloud.assert_nothing_left();
}

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn termination_protection_holds_rm_up() {
    let (cloud, _) = launched(&["--aws-termination-protection"]);
    let said = cloud.store.machine_fails(1, &["rm", "-y", "mc1"]);
    assert!(
        said.contains("protected against termination") && said.contains("--no-disable-api-termination"),
        "{said}"
    );
    assert_eq!(cloud.living().len(), 1);
    // Nothing was removed: the host is what it was.
    assert_ne!(cloud.machine(&["inspect", "-f", "{{.Phase}}", "mc1"]), "Removing\n");
}

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn hosts_of_one_command_are_spread_over_zones() {
    let cloud = Cloud::without_vms();
    cloud.store.begin(&[], &["m1", "m2", "m3"]);
    let zones: BTreeSet<String> =
        cloud.living().iter().map(|one| one["zone"].as_str().unwrap().to_owned()).collect();
    assert_eq!(zones.len(), 3, "{zones:?}");
    // Where one is named, they are all there.
    cloud.store.begin(&["--aws-zone", "b"], &["m4", "m5"]);
    let there = cloud.living().iter().filter(|one| one["zone"] == "eu-west-1b").count();
    assert_eq!(there, 3);
    cloud.machine(&["rm", "-y", "m1", "m2", "m3", "m4", "m5"]);
    cloud.assert_nothing_left();
}

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn a_type_that_our_engine_is_not_built_for_is_refused_before_anything_is_made() {
    let cloud = Cloud::without_vms();
    cloud.refuses(&["--aws-instance-type", "t4g.small"], &["aarch64", "--engine-install-url"]);
    cloud.store.begin(
        &["--aws-instance-type", "t4g.small", "--engine-install-url", "https://get.docker.com"],
        &["mc1"],
    );
    cloud.machine(&["rm", "-y", "mc1"]);
    cloud.assert_nothing_left();
}
