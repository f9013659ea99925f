//! User data of the user's own, on hosts of other shapes than the usual one.

use std::{fs, process::Command, time::Duration};

use crate::{cloud::Cloud, store::until};

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
        "--aws-host-key",
        "console",
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
    assert_eq!(record["SSHHostKeys"].as_array().unwrap().len(), 1, "the console showed it");

    // AWS takes the instance away.
    let id = cloud.the_instance();
    cloud.aws.terminate(&id).unwrap();
    until("the end is noticed", Duration::from_secs(30), || {
        (cloud.machine(&["status", "mc1"]) == "\n").then_some(())
    });
    let said = cloud.store.machine_fails(1, &["start", "mc1"]);
    assert!(said.contains(&id) && said.contains("machine rm mc1"), "{said}");
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
