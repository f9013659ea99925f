//! `rm` takes nothing that we did not make.

use serde_json::json;

use crate::cloud::{Cloud, REGION, ask, ask_for, encoded};

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
