//! Bad input: one clear error each, before anything is made, and nothing left behind.

use serde_json::json;

use crate::cloud::{Cloud, ask_for};

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn what_cannot_be_is_refused_before_anything_is_made() {
    let cloud = Cloud::without_vms();
    cloud.refuses(&["--aws-region", "mars"], &["`mars`", "eu-west-1"]);
    cloud.refuses(&["--aws-region", "mars-north-1"], &["`mars-north-1`", "a region"]);
    cloud.refuses(&["--aws-image", "windows"], &["`windows`", "debian-12"]);
    cloud.refuses(&["--aws-image", "ami-0123456789abcdef0"], &["ami-0123456789abcdef0", "eu-west-1"]);
    cloud.refuses(&["--aws-image", "/aws/service/nobody/has/this"], &["/aws/service/nobody/has/this"]);
    cloud.refuses(&["--aws-instance-type", "t99.huge"], &["t99.huge", "--aws-instance-type"]);
    cloud.refuses(
        &["--aws-instance-type", "c8a.2xlarge", "--aws-zone", "c"],
        &["c8a.2xlarge", "eu-west-1c", "It exists in eu-west-1a, eu-west-1b"],
    );
    cloud.refuses(&["--aws-open-port", "http"], &["`http`", "443/tcp"]);
    cloud.refuses(&["--aws-open-port", "70000"], &["`70000`"]);
    cloud.refuses(&["--aws-open-to", "example.org"], &["example.org", "203.0.113.0/24"]);
    cloud.refuses(&["--aws-security-group", "nobodys"], &["`nobodys`", "vpc-"]);
    cloud.refuses(&["--aws-subnet-id", "subnet-0000"], &["subnet-0000"]);
    cloud.refuses(&["--aws-zone", "z"], &["eu-west-1z", "eu-west-1a"]);
    cloud.refuses(&["--aws-keypair-name", "mine"], &["--aws-ssh-keypath"]);
    cloud.refuses(&["--aws-ssh-keypath", "/nowhere/id"], &["/nowhere/id"]);
    cloud.refuses(&["--aws-userdata", "/nowhere/data"], &["/nowhere/data"]);
    let data = cloud.store.folder().join("data");
    std::fs::write(&data, "hello\n").unwrap();
    cloud.refuses(&["--aws-userdata", data.to_str().unwrap()], &["cloud-init", "#cloud-config"]);
    cloud.refuses(&["--aws-tags", "a=1,b"], &["--aws-tags"]);
    cloud.refuses(&["--aws-profile", "nobodys"], &["nobodys"]);
    cloud.refuses(&["--aws-root-size", "1"], &["GiB", "--aws-root-size"]);
    cloud.refuses(&["--amazonec2-access-key", "AKIA"], &["AWS_ACCESS_KEY_ID"]);
    cloud.refuses(&["--amazonec2-block-duration-minutes", "60"], &["defined duration"]);
}

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn networks_that_do_not_fit_are_refused_with_the_choices() {
    let cloud = Cloud::without_vms();
    let subnet = ask_for(&cloud, "eu-west-1", "Action=DescribeSubnets", "subnetId").remove(0);
    let vpc = ask_for(&cloud, "eu-west-1", "Action=CreateVpc&CidrBlock=10.9.0.0/16", "vpcId").remove(0);
    cloud.refuses(&["--aws-subnet-id", &subnet, "--aws-vpc-id", &vpc], &[&subnet, &vpc]);
    cloud.refuses(&["--aws-vpc-id", &vpc], &["no subnet"]);
    for third in ["1", "2"] {
        let query = format!(
            "Action=CreateSubnet&VpcId={vpc}&AvailabilityZone=eu-west-1a&CidrBlock=10.9.{third}.0/24"
        );
        ask_for(&cloud, "eu-west-1", &query, "subnetId");
    }
    cloud.refuses(&["--aws-vpc-id", &vpc], &["several subnets", "10.9.1.0/24", "10.9.2.0/24"]);
    // No default VPC at all.
    let region = "eu-central-1";
    for subnet in ask_for(&cloud, region, "Action=DescribeSubnets", "subnetId") {
        ask_for(&cloud, region, &format!("Action=DeleteSubnet&SubnetId={subnet}"), "return");
    }
    let default = ask_for(&cloud, region, "Action=DescribeVpcs", "vpcId").remove(0);
    ask_for(&cloud, region, &format!("Action=DeleteVpc&VpcId={default}"), "return");
    cloud.refuses(&["--aws-region", region], &["no default VPC", region]);
}

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn who_may_not_is_told_what_is_missing() {
    let cloud = Cloud::without_vms();
    let error = |action: &str, code: &str, message: &str, status: u16| {
        cloud
            .aws
            .faults(json!({ "errors": { action: [{ "code": code, "message": message, "status": status }] } }))
            .unwrap();
    };
    error("DescribeInstanceTypes", "RequestExpired", "Request has expired.", 400);
    cloud.refuses(&[], &["RequestExpired", "expired"]);
    error(
        "DescribeInstanceTypes",
        "AuthFailure",
        "AWS was not able to validate the provided access credentials",
        401,
    );
    cloud.refuses(&[], &["AuthFailure", "credentials"]);
    error("RunInstances", "UnauthorizedOperation", "You are not authorized to perform this operation.", 403);
    cloud.refuses(&[], &["ec2:RunInstances", "machine iam-policy aws"]);
    error("GetParameter", "AccessDeniedException", "User: x is not authorized", 400);
    cloud.refuses(&[], &["ssm:GetParameter", "machine iam-policy aws"]);

    // No credentials at all.
    let mut command = cloud.store.command(&["create", "-d", "aws", "bad"]);
    let output =
        command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("no AWS credentials") && said.contains("--aws-profile"), "{said}");
    cloud.assert_nothing_left();
}

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn what_fails_on_the_way_is_undone_when_that_is_asked_for() {
    let cloud = Cloud::without_vms();
    let cases = [
        ("RunInstances", "VcpuLimitExceeded", "Service Quotas"),
        ("RunInstances", "InstanceLimitExceeded", "Service Quotas"),
        ("RunInstances", "InsufficientInstanceCapacity", "--aws-instance-type"),
        ("CreateSecurityGroup", "SecurityGroupLimitExceeded", "Service Quotas"),
        ("ImportKeyPair", "UnauthorizedOperation", "ec2:ImportKeyPair"),
        ("AuthorizeSecurityGroupIngress", "RulesPerSecurityGroupLimitExceeded", "Service Quotas"),
    ];
    for (action, code, hint) in cases {
        let real = json!({ "dry_run": false });
        let error = json!({ "code": code, "message": "No.", "when": real });
        cloud.aws.faults(json!({ "errors": { action: [error] } })).unwrap();
        let output = cloud.try_machine(&["create", "-d", "aws", "--on-failure", "undo", "bad"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{action} {code}");
        assert!(said.contains(code) && said.contains(hint), "{action} {code}:\n{said}");
        assert!(!cloud.store.host_folder("bad").exists(), "{action} {code} left a record");
        cloud.assert_nothing_left();
    }
    // Kept, it goes on.
    let error = json!({ "code": "VcpuLimitExceeded", "when": { "dry_run": false } });
    cloud.aws.faults(json!({ "errors": { "RunInstances": [error] } })).unwrap();
    assert!(!cloud.try_machine(&["create", "-d", "aws", "kept"]).status.success());
    assert!(cloud.store.host_folder("kept").exists());
    cloud.machine(&["rm", "-y", "kept"]);
    cloud.assert_nothing_left();
    cloud.store.assert_nothing_left();
}
