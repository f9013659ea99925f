//! The policy that `machine iam-policy aws` prints, held against every call with its resources and conditions.

use serde_json::json;

use crate::cloud::{Cloud, REGION, ask, ask_for, encoded};

/// Everything that hosts without a VM can go through, but power.
#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn it_is_enough() {
    let cloud = Cloud::without_vms();
    cloud.obey_our_policy(json!({}));
    cloud.store.begin(&["--aws-spot", "--aws-swarm", "prod", "--aws-tags", "a=b"], &["m1"]);
    cloud.store.begin(&["--aws-zone", "b", "--aws-ipv6"], &["m2"]);
    assert_eq!(cloud.machine(&["ls", "-f", "{{.State}}"]), "Running\nRunning\n");
    cloud.machine(&["rm", "-y", "m1"]);
    std::fs::remove_dir_all(cloud.store.host_folder("m2")).unwrap();
    cloud.machine(&["gc", "-d", "aws", "--yes"]);
    cloud.assert_nothing_left();
    let denied = cloud.aws.calls().unwrap();
    let denied: Vec<_> = denied.iter().filter(|call| call["error"] == "UnauthorizedOperation").collect();
    assert!(denied.is_empty(), "{denied:?}");
}

/// Whoever has this policy can do nothing to what we did not make.
#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn it_is_not_more_than_enough() {
    let cloud = Cloud::without_vms();
    let run = "Action=RunInstances&ImageId=ami-0deb12a0000000001&InstanceType=t3.small&MinCount=1&MaxCount=1";
    let instance = ask_for(&cloud, REGION, run, "instanceId").remove(0);
    let made = "Action=CreateSecurityGroup&GroupName=theirs&GroupDescription=x";
    let group = ask_for(&cloud, REGION, made, "groupId").remove(0);
    let key = format!("Action=ImportKeyPair&KeyName=theirs&PublicKeyMaterial={}", encoded(KEY));
    ask(&cloud, REGION, &key);
    cloud.obey_our_policy(json!({}));
    let open = format!(
        "GroupId={group}&IpPermissions.1.IpProtocol=tcp&IpPermissions.1.FromPort=22&IpPermissions.1.ToPort=22&\
         IpPermissions.1.IpRanges.1.CidrIp=0.0.0.0/0"
    );
    for call in [
        format!("Action=TerminateInstances&InstanceId.1={instance}"),
        format!("Action=StopInstances&InstanceId.1={instance}"),
        format!("Action=GetConsoleOutput&InstanceId={instance}"),
        format!("Action=ModifyInstanceAttribute&InstanceId={instance}&GroupId.1={group}"),
        format!("Action=DeleteSecurityGroup&GroupId={group}"),
        format!("Action=AuthorizeSecurityGroupIngress&{open}"),
        format!("Action=RevokeSecurityGroupIngress&{open}"),
        "Action=DeleteKeyPair&KeyName=theirs".to_owned(),
        format!("{run}&ClientToken=untagged"),
        "Action=CreateSecurityGroup&GroupName=untagged&GroupDescription=x".to_owned(),
        format!("Action=CreateTags&ResourceId.1={instance}&Tag.1.Key=machine%3Aname&Tag.1.Value=x"),
    ] {
        let (status, answer) = cloud.call(REGION, &call);
        assert_eq!(status, 403, "{call}: {answer}");
    }
}

const KEY: &str = "c3NoLWVkMjU1MTkgQUFBQUMzTnphQzFsWkRJMU5URTVBQUFBSU9NcXFua1Z6cm0wU2RHNlVPb3FLTHNhYmdINUM5b2tXaTBkaDJsOUdLSmw=";

/// To pass any role to an instance would be to become it.
#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn only_roles_that_are_meant_for_hosts_can_be_passed() {
    let cloud = Cloud::without_vms();
    cloud.obey_our_policy(json!({}));
    cloud.refuses(&["--aws-iam-instance-profile", "administrator"], &["iam:PassRole", "machine-"]);
    let output =
        cloud.try_machine(&["create", "-d", "aws", "--aws-iam-instance-profile", "machine-web", "bad"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("iam:PassRole"), "{said}");
}

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn a_group_of_the_users_is_opened_only_by_who_may() {
    let cloud = Cloud::without_vms();
    cloud.obey_our_policy(json!({}));
    let options = ["create", "-d", "aws", "--aws-security-group", "default", "--on-failure", "undo", "mc1"];
    let output = cloud.try_machine(&options);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    for needle in ["ec2:AuthorizeSecurityGroupIngress", "--aws-security-group-readonly"] {
        assert!(said.contains(needle), "{said}");
    }
    cloud.assert_nothing_left();
    cloud.store.begin(&["--aws-security-group", "default", "--aws-security-group-readonly"], &["mc1"]);
    cloud.machine(&["rm", "-y", "mc1"]);
    cloud.assert_nothing_left();
}
