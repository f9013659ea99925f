//! What is asked of AWS, and what reaches the host: careful defaults, user data, networks, groups.

use std::{fs, process::Command, time::Duration};

use serde_json::{Value, json};

use crate::{cloud::Cloud, store::until};

/// Begins a host without a VM; the parameters of its RunInstances call.
fn launched(options: &[&str]) -> (Cloud, Value) {
    let cloud = Cloud::without_vms();
    let arguments = [&["create", "-d", "aws"], options, &["mc1"]].concat();
    let mut child = cloud.store.command(&arguments).spawn().unwrap();
    until("the instance runs", Duration::from_secs(60), || (cloud.living().len() == 1).then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();
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
    let rules: Vec<Value> = cloud
        .aws
        .calls()
        .unwrap()
        .into_iter()
        .filter(|call| call["action"] == "AuthorizeSecurityGroupIngress")
        .collect();
    let text = json!(rules).to_string();
    assert!(text.contains("127.0.0.1/32") && !text.contains("0.0.0.0/0"), "{text}");
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
    let cloud = Cloud::without_vms();
    let mut child = cloud
        .store
        .command(&[
            "create",
            "-d",
            "aws",
            "--aws-security-group",
            "default",
            "--aws-security-group-readonly",
            "mc1",
        ])
        .spawn()
        .unwrap();
    until("the instance runs", Duration::from_secs(60), || (cloud.living().len() == 1).then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();
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
#[ignore = "boots VMs; `cargo xtask test` runs it"]
fn user_data_is_merged_with_ours_on_a_private_host_of_a_swarm_with_a_key_of_the_user() {
    let cloud = Cloud::new();
    let key = cloud.store.folder().join("mine");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
    assert!(made.unwrap().success());
    let script = cloud.store.folder().join("script");
    fs::write(&script, "#!/bin/sh\necho from the script >/var/log/from-script\n").unwrap();
    cloud.machine(&[
        "create",
        "-d",
        "amazonec2",
        "--amazonec2-userdata",
        script.to_str().unwrap(),
        "--amazonec2-use-private-address",
        "--aws-open-to",
        "127.0.0.0/8",
        "--aws-swarm",
        "prod",
        "--aws-swarm-manager",
        "--amazonec2-ssh-keypath",
        key.to_str().unwrap(),
        "mc1",
    ]);
    let record = cloud.record("mc1");
    assert_eq!(record["Driver"]["SSHKeyPath"], key.to_str().unwrap());
    assert!(!cloud.store.host_folder("mc1").join("id_ed25519").exists());
    assert_eq!(record["Driver"]["IPAddress"], record["Driver"]["State"]["private_address"]);
    assert_eq!(cloud.machine(&["ssh", "mc1", "sudo cat /var/log/from-script"]), "from the script\n");
    assert!(!cloud.store.host_folder("mc1").join("ssh_host_ed25519_key").exists());
    let text = json!(cloud.aws.calls().unwrap()).to_string();
    for port in ["2377", "7946", "4789", "3376"] {
        assert!(text.contains(port), "{port} was not opened");
    }
    cloud.machine(&["rm", "-y", "mc1"]);
    cloud.assert_nothing_left();
    cloud.store.assert_nothing_left();
}

#[test]
#[ignore = "boots VMs; `cargo xtask test` runs it"]
fn a_stock_debian_with_cloud_init_takes_it_for_ec2() {
    let cloud = Cloud::with(&["--debian-ami-real"]);
    let data = cloud.store.folder().join("data");
    fs::write(&data, "#cloud-config\nwrite_files:\n  - path: /etc/from-user-data\n    content: hello\n")
        .unwrap();
    cloud.machine(&["create", "-d", "aws", "--aws-userdata", data.to_str().unwrap(), "deb"]);
    assert_eq!(cloud.machine(&["ssh", "deb", "cat /etc/from-user-data"]), "hello");
    let seen = cloud.machine(&["ssh", "deb", "cloud-init query platform; cloud-init query cloud_name"]);
    assert!(seen.contains("ec2") && seen.contains("aws"), "{seen}");
    assert!(!cloud.store.host_folder("deb").join("ssh_host_ed25519_key").exists());
    cloud.store.load_image("deb");
    assert_eq!(cloud.store.docker("deb", &["run", "--rm", "busybox", "echo", "hello"]), "hello\n");
    cloud.machine(&["rm", "-y", "deb"]);
    cloud.assert_nothing_left();
    cloud.store.assert_nothing_left();
}
