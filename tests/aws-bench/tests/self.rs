//! The bench itself, by plain calls of the API: what it promises to a driver's tests.
//!
//! `MOTO_SERVER=… cargo test -p aws-bench --test self -- --ignored --test-threads 1`

#![allow(clippy::unwrap_used)]

use std::{
    io::Read as _,
    net::TcpStream,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, Instant},
};

use aws_bench::{Bench, Emulator};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::json;

const REGION: &str = "eu-west-1";
const DEBIAN: &str = "ami-0deb12a0000000001";
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl test";
const BOOT: Duration = Duration::from_mins(4);

/// The emulator that all benches share; it ends with this process.
fn emulator() -> &'static str {
    static EMULATOR: OnceLock<Emulator> = OnceLock::new();
    EMULATOR.get_or_init(|| Emulator::start(Path::new(env!("CARGO_BIN_EXE_aws-bench"))).unwrap()).address()
}

/// A bench whose instances have states and addresses only.
fn start_without_vms() -> Bench {
    start(&["--no-vms", "--emulator", emulator()])
}

fn start(arguments: &[&str]) -> Bench {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let images =
        std::env::var_os("AWS_BENCH_IMAGES").map_or_else(|| root.join("target/images"), PathBuf::from);
    Bench::start(Path::new(env!("CARGO_BIN_EXE_aws-bench")), &images, arguments).unwrap()
}

fn try_call(bench: &Bench, action: &str, parameters: &[(&str, &str)]) -> std::io::Result<(u16, String)> {
    let mut body = format!("Action={action}&Version=2016-11-15");
    for (name, value) in parameters {
        let value: String = value.bytes().map(|byte| format!("%{byte:02X}")).collect();
        body.push_str(&format!("&{name}={value}"));
    }
    let scope = format!(
        "AWS4-HMAC-SHA256 Credential=AKIA/20260101/{REGION}/ec2/aws4_request, SignedHeaders=host, Signature=0"
    );
    let headers = [("authorization", scope.as_str()), ("content-type", "application/x-www-form-urlencoded")];
    bench.request("POST", "/", &headers, &body)
}

fn call(bench: &Bench, action: &str, parameters: &[(&str, &str)]) -> String {
    let (status, body) = try_call(bench, action, parameters).unwrap();
    assert_eq!(status, 200, "{action}: {body}");
    body
}

/// The status of an answer and the code of its error.
fn refusal(bench: &Bench, action: &str, parameters: &[(&str, &str)]) -> (u16, String) {
    let (status, body) = try_call(bench, action, parameters).unwrap();
    (status, value(&body, "Code").unwrap_or_default())
}

/// The text of the first element of this name.
fn value(document: &str, name: &str) -> Option<String> {
    let from = document.split_once(&format!("<{name}>"))?.1;
    Some(from.split_once("</")?.0.to_owned())
}

fn until<T>(what: &str, bound: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + bound;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {} s until {what}", bound.as_secs());
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Waits for a state, and returns the description that has it.
fn until_state(bench: &Bench, id: &str, state: &str) -> String {
    until(state, BOOT, || {
        let described = call(bench, "DescribeInstances", &[("InstanceId.1", id)]);
        let found = described.split_once("<instanceState>")?.1;
        (value(found, "name").as_deref() == Some(state)).then_some(described)
    })
}

fn banner(address: &str) -> Option<String> {
    let mut stream = TcpStream::connect((address, 22)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let mut banner = [0; 8];
    stream.read_exact(&mut banner).ok()?;
    Some(String::from_utf8_lossy(&banner).into_owned())
}

fn until_ssh(address: &str) {
    until("SSH answers", BOOT, || banner(address).filter(|banner| banner == "SSH-2.0-"));
}

fn group(bench: &Bench, name: &str) -> String {
    let made = call(bench, "CreateSecurityGroup", &[("GroupName", name), ("GroupDescription", "test")]);
    value(&made, "groupId").unwrap()
}

fn rule<'a>(group: &'a str, port: &'a str, range: &'a str) -> [(&'static str, &'a str); 5] {
    [
        ("GroupId", group),
        ("IpPermissions.1.IpProtocol", "tcp"),
        ("IpPermissions.1.FromPort", port),
        ("IpPermissions.1.ToPort", port),
        ("IpPermissions.1.IpRanges.1.CidrIp", range),
    ]
}

fn instance<'a>(group: &'a str, token: &'a str) -> Vec<(&'static str, &'a str)> {
    vec![
        ("ImageId", DEBIAN),
        ("InstanceType", "t3.small"),
        ("MinCount", "1"),
        ("MaxCount", "1"),
        ("SecurityGroupId.1", group),
        ("ClientToken", token),
    ]
}

#[test]
#[ignore = "boots VMs, and takes `MOTO_SERVER`"]
fn an_instance_is_a_vm() {
    let bench = start(&[]);
    assert_eq!(bench.request("GET", "/_bench/checkip", &[], "").unwrap().1, "127.0.0.1\n");
    let key = BASE64_STANDARD.encode(KEY);
    call(&bench, "ImportKeyPair", &[("KeyName", "mine"), ("PublicKeyMaterial", &key)]);
    let group = group(&bench, "web");
    call(&bench, "AuthorizeSecurityGroupIngress", &rule(&group, "22", "127.0.0.1/32"));
    let mut wanted = instance(&group, "t1");
    wanted.push(("KeyName", "mine"));
    let run = call(&bench, "RunInstances", &wanted);
    let id = value(&run, "instanceId").unwrap();
    assert_eq!(value(&run, "ipAddress"), None, "the address comes later");

    let described = until_state(&bench, &id, "running");
    let first = value(&described, "ipAddress").unwrap();
    let private = value(&described, "privateIpAddress").unwrap();
    until_ssh(&first);
    until_ssh(&private);
    until("the console has the host key", BOOT, || {
        let output = value(&call(&bench, "GetConsoleOutput", &[("InstanceId", &id)]), "output")?;
        let text = String::from_utf8(BASE64_STANDARD.decode(output).ok()?).ok()?;
        text.contains("ssh-ed25519").then_some(())
    });
    bench.console(&id, json!({ "replace": [["ssh-ed25519", "ssh-wrong"]], "empty_calls": 1 })).unwrap();
    let output = || value(&call(&bench, "GetConsoleOutput", &[("InstanceId", &id)]), "output");
    assert_eq!(output(), None);
    let text = BASE64_STANDARD.decode(output().unwrap()).unwrap();
    assert!(String::from_utf8_lossy(&text).contains("ssh-wrong"));

    // Groups hold at once, and cannot go while they are used.
    call(&bench, "RevokeSecurityGroupIngress", &rule(&group, "22", "127.0.0.1/32"));
    assert_eq!(banner(&first), None);
    call(&bench, "AuthorizeSecurityGroupIngress", &rule(&group, "22", "203.0.113.0/24"));
    assert_eq!(banner(&first), None);
    call(&bench, "AuthorizeSecurityGroupIngress", &rule(&group, "22", "0.0.0.0/0"));
    until_ssh(&first);
    let delete = [("GroupId", group.as_str())];
    assert_eq!(refusal(&bench, "DeleteSecurityGroup", &delete), (400, "DependencyViolation".to_owned()));

    let named = [("InstanceId.1", id.as_str())];
    call(&bench, "RebootInstances", &named);
    until("the VM goes down", BOOT, || banner(&first).is_none().then_some(()));
    until_ssh(&first);

    let stopping = call(&bench, "StopInstances", &named);
    assert_eq!(value(stopping.split_once("<currentState>").unwrap().1, "name").unwrap(), "stopping");
    assert_eq!(refusal(&bench, "StartInstances", &named), (400, "IncorrectInstanceState".to_owned()));
    assert_eq!(value(&until_state(&bench, &id, "stopped"), "ipAddress"), None);
    assert_eq!(banner(&first), None);
    call(&bench, "StartInstances", &named);
    let described = until_state(&bench, &id, "running");
    let second = value(&described, "ipAddress").unwrap();
    assert_ne!(first, second);
    assert_eq!(value(&described, "privateIpAddress").unwrap(), private);
    until_ssh(&second);

    call(&bench, "TerminateInstances", &named);
    call(&bench, "TerminateInstances", &named);
    until_state(&bench, &id, "terminated");
    assert_eq!(banner(&second), None);
    call(&bench, "DeleteSecurityGroup", &delete);
    call(&bench, "DeleteKeyPair", &[("KeyName", "mine")]);
    assert_eq!(bench.left().unwrap(), json!({}));
}

#[test]
#[ignore = "takes `MOTO_SERVER`"]
fn what_goes_wrong_there_goes_wrong_here() {
    let bench = start_without_vms();
    let group = group(&bench, "web");

    // A lost reply, and the same call again.
    bench.faults(json!({ "lose_next": { "RunInstances": 1 } })).unwrap();
    assert!(try_call(&bench, "RunInstances", &instance(&group, "t1")).is_err());
    let run = call(&bench, "RunInstances", &instance(&group, "t1"));
    let id = value(&run, "instanceId").unwrap();
    assert_eq!(bench.instances().unwrap().len(), 1);
    let mut other = instance(&group, "t1");
    other[1].1 = "t3.micro";
    assert_eq!(refusal(&bench, "RunInstances", &other), (400, "IdempotentParameterMismatch".to_owned()));
    let lost: Vec<bool> = bench.calls().unwrap().iter().map(|call| call["lost"] == true).collect();
    assert_eq!(lost.iter().filter(|lost| **lost).count(), 1);

    // Errors, throttling and permissions.
    bench
        .faults(json!({ "errors": { "RunInstances": [
            { "code": "InsufficientInstanceCapacity", "status": 500, "times": 1 },
        ] } }))
        .unwrap();
    let capacity = refusal(&bench, "RunInstances", &instance(&group, "t2"));
    assert_eq!(capacity, (500, "InsufficientInstanceCapacity".to_owned()));
    bench.faults(json!({ "throttle": 1.0 })).unwrap();
    assert_eq!(refusal(&bench, "DescribeVpcs", &[]), (503, "RequestLimitExceeded".to_owned()));
    let statement = json!({ "Effect": "Allow", "Action": "ec2:Describe*", "Resource": "*" });
    bench.faults(json!({ "policy": { "Version": "2012-10-17", "Statement": [statement] } })).unwrap();
    call(&bench, "DescribeVpcs", &[]);
    let denied = refusal(&bench, "TerminateInstances", &[("InstanceId.1", &id)]);
    assert_eq!(denied, (403, "UnauthorizedOperation".to_owned()));

    // What was made a moment ago is not seen everywhere.
    bench.faults(json!({ "not_found": 3_600_000 })).unwrap();
    let new = value(&call(&bench, "RunInstances", &instance("default", "t3")[..4]), "instanceId").unwrap();
    let unseen = refusal(&bench, "DescribeInstances", &[("InstanceId.1", &new)]);
    assert_eq!(unseen, (400, "InvalidInstanceID.NotFound".to_owned()));
    assert!(!call(&bench, "DescribeInstances", &[]).contains(&new));
    bench.faults(json!({ "blank_next": { "DescribeInstances": 1 } })).unwrap();
    assert!(!call(&bench, "DescribeInstances", &[]).contains(&new));
    assert!(call(&bench, "DescribeInstances", &[]).contains(&new));

    // Spot requests, and an interruption.
    let mut spot = instance(&group, "t4");
    spot.push(("InstanceMarketOptions.MarketType", "spot"));
    spot.push(("TagSpecification.1.ResourceType", "spot-instances-request"));
    spot.push(("TagSpecification.1.Tag.1.Key", "owner"));
    spot.push(("TagSpecification.1.Tag.1.Value", "me"));
    let run = call(&bench, "RunInstances", &spot);
    let (spot, request) = (value(&run, "instanceId").unwrap(), value(&run, "spotInstanceRequestId").unwrap());
    until_state(&bench, &spot, "running");
    let found = call(
        &bench,
        "DescribeSpotInstanceRequests",
        &[("Filter.1.Name", "tag:owner"), ("Filter.1.Value.1", "me")],
    );
    assert!(found.contains(&request) && found.contains("active"));
    assert_eq!(
        refusal(&bench, "StopInstances", &[("InstanceId.1", &spot)]),
        (400, "UnsupportedOperation".to_owned())
    );
    bench.interrupt(&spot, Duration::from_millis(100)).unwrap();
    assert!(until_state(&bench, &spot, "terminated").contains("Server.SpotInstanceTermination"));
    bench.forget(&spot).unwrap();
    assert!(!call(&bench, "DescribeInstances", &[]).contains(&spot));
    let cancelled = refusal(&bench, "CancelSpotInstanceRequests", &[("SpotInstanceRequestId.1", &request)]);
    assert_eq!(cancelled.1, "InvalidSpotInstanceRequestID.NotFound");

    // Protection, and its end behind everybody's back.
    let mut protected = instance(&group, "t5");
    protected.push(("DisableApiTermination", "true"));
    let protected = value(&call(&bench, "RunInstances", &protected), "instanceId").unwrap();
    let modify = [("InstanceId", protected.as_str()), ("DisableApiTermination.Value", "true")];
    call(&bench, "ModifyInstanceAttribute", &modify);
    let refused = refusal(&bench, "TerminateInstances", &[("InstanceId.1", &protected)]);
    assert_eq!(refused, (400, "OperationNotPermitted".to_owned()));
    bench.terminate(&protected).unwrap();
    // It is forgotten when it has ended, however soon after.
    bench.forget(&protected).unwrap();
    assert!(!call(&bench, "DescribeInstances", &[]).contains(&protected));

    // A state is shown later than it is there.
    bench.faults(json!({ "stale": 3_600_000 })).unwrap();
    call(&bench, "StopInstances", &[("InstanceId.1", &id)]);
    until("it has stopped", BOOT, || {
        let all = bench.instances().unwrap();
        all.iter().any(|one| one["id"] == id.as_str() && one["state"] == "stopped").then_some(())
    });
    let described = call(&bench, "DescribeInstances", &[("InstanceId.1", &id)]);
    assert!(described.contains("<name>stopping</name>"), "{described}");
    bench.faults(json!({})).unwrap();

    let left = bench.left().unwrap();
    assert_eq!(left[REGION]["instances"].as_array().unwrap().len(), 2, "{left}");
    call(&bench, "TerminateInstances", &[("InstanceId.1", &id), ("InstanceId.2", &new)]);
    until_state(&bench, &new, "terminated");
    until_state(&bench, &id, "terminated");
    call(&bench, "DeleteSecurityGroup", &[("GroupId", &group)]);
    assert_eq!(bench.left().unwrap(), json!({}));
}

#[test]
#[ignore = "takes `MOTO_SERVER`"]
fn benches_that_share_an_emulator_know_nothing_of_one_another() {
    let (first, second) = (start_without_vms(), start_without_vms());
    let key = BASE64_STANDARD.encode(KEY);
    call(&first, "ImportKeyPair", &[("KeyName", "mine"), ("PublicKeyMaterial", &key)]);
    assert!(!call(&second, "DescribeKeyPairs", &[]).contains("mine"));
    call(&second, "ImportKeyPair", &[("KeyName", "mine"), ("PublicKeyMaterial", &key)]);
    second.reset().unwrap();
    assert_eq!(second.left().unwrap(), json!({}));
    assert!(call(&first, "DescribeKeyPairs", &[]).contains("mine"));
}

#[test]
#[ignore = "takes `MOTO_SERVER`"]
fn images_are_found_and_wrong_ones_refused() {
    let bench = start_without_vms();
    let scope = format!(
        "AWS4-HMAC-SHA256 Credential=AKIA/20260101/{REGION}/ssm/aws4_request, SignedHeaders=host, Signature=0"
    );
    let parameter = |name: &str| {
        let headers = [
            ("authorization", scope.as_str()),
            ("x-amz-target", "AmazonSSM.GetParameter"),
            ("content-type", "application/x-amz-json-1.1"),
        ];
        bench.request("POST", "/", &headers, &json!({ "Name": name }).to_string()).unwrap()
    };
    let (status, body) = parameter("/aws/service/debian/release/12/latest/amd64");
    assert!(status == 200 && body.contains(DEBIAN), "{body}");
    let (status, body) = parameter("/mine");
    assert!(status == 400 && body.contains("ParameterNotFound"), "{body}");
    let images = call(&bench, "DescribeImages", &[("ImageId.1", DEBIAN)]);
    assert_eq!(value(&images, "rootDeviceName").as_deref(), Some("/dev/xvda"));
    assert_eq!(value(&images, "imageOwnerAlias"), None);
    assert_eq!(value(&images, "imageOwnerId").as_deref(), Some("136693071363"));
    let debian = call(
        &bench,
        "DescribeImages",
        &[("Owner.1", "136693071363"), ("Filter.1.Name", "name"), ("Filter.1.Value.1", "debian-12-amd64-*")],
    );
    assert_eq!(debian.matches("<imageId>").count(), 2);
    let amazon = call(&bench, "DescribeImages", &[("Owner.1", "amazon")]);
    assert!(amazon.contains("al2023-ami") && !amazon.contains("debian"));
    let code = |changed: (&'static str, &str)| {
        let mut wanted = instance("x", "t");
        wanted.truncate(4);
        wanted.retain(|(name, _)| *name != changed.0);
        let mut wanted: Vec<(&str, &str)> = wanted;
        wanted.push(changed);
        refusal(&bench, "RunInstances", &wanted).1
    };
    assert_eq!(code(("ImageId", "ami-0123456789abcdef0")), "InvalidAMIID.NotFound");
    assert_eq!(code(("InstanceType", "t3.gigantic")), "InvalidParameterValue");
    assert_eq!(code(("InstanceType", "t4g.small")), "InvalidParameterValue");
    assert_eq!(code(("KeyName", "absent")), "InvalidKeyPair.NotFound");
    assert_eq!(code(("SecurityGroupId.1", "sg-0123456789abcdef0")), "InvalidGroup.NotFound");
    assert_eq!(code(("SubnetId", "subnet-0123456789abcdef0")), "InvalidSubnetID.NotFound");
    assert_eq!(code(("DryRun", "true")), "DryRunOperation");
    assert_eq!(bench.left().unwrap(), json!({}));
}
