//! What a host is made of, how many are asked about at once, and hosts that docker-machine made.

#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

use futures_util::StreamExt as _;
use machine_driver::{Driver as _, ErrorKind, HostId, Journal as _, MemoryJournal, Silent, SshKey, State};
use serde_json::{Value, json};

mod support;

use support::{Fixture, files};

const MIB: u64 = 1 << 20;

#[tokio::test]
async fn a_vm_is_as_its_options_say() {
    let mut host = Fixture::new(&[
        ("hyperv-virtual-switch", "myswitch"),
        ("hyperv-memory", "2049"),
        ("hyperv-cpu-count", "3"),
        ("hyperv-static-macaddress", "00:15:5d:aa:bb:cc"),
        ("hyperv-vlan-id", "42"),
        ("hyperv-disable-dynamic-memory", "true"),
    ])
    .await;
    host.create().await.unwrap();
    let vm = host.world.vm();
    assert_eq!(vm["name"], format!("mc1-{}", host.id));
    assert_eq!(vm["memory"], 2050 * MIB);
    assert_eq!((&vm["processors"], &vm["dynamic"]), (&json!(3), &json!(false)));
    assert_eq!((&vm["mac"], &vm["vlan"]), (&json!("00155DAABBCC"), &json!(42)));
    assert_eq!((&vm["generation"], &vm["secure_boot"]), (&json!(2), &json!(false)));
    assert_eq!((&vm["checkpoints"], &vm["stop_action"]), (&json!("Disabled"), &json!("ShutDown")));
    assert_eq!(vm["switch"], "11111111-2222-3333-4444-555555555555");
    assert_eq!(vm["console"], format!(r"\\.\pipe\machine-{}", host.id));
    let folder = host.view().folder;
    assert_eq!(vm["first"], folder.join("disk.vhdx").to_str().unwrap());
    assert_eq!(vm["discs"], json!([folder.join("seed.iso")]));
    assert!(vm["notes"].as_str().unwrap().contains(support::OWNER));
    let disk = fs::read_to_string(folder.join("disk.vhdx")).unwrap();
    assert!(Path::new(disk.lines().nth(1).unwrap()).ends_with("base.vhdx"), "{disk}");
    host.remove().await.unwrap();
    assert!(files(&folder).is_empty());
}

#[tokio::test]
async fn without_options_it_is_on_the_default_switch_with_dynamic_memory() {
    let mut host = Fixture::new(&[]).await;
    host.create().await.unwrap();
    let vm = host.world.vm();
    assert_eq!(vm["switch"], "C08CB7B8-9B3C-408E-8E30-5E16A3AEB444");
    assert_eq!((&vm["dynamic"], &vm["least"]), (&json!(true), &json!(512 * MIB)));
    assert_eq!(vm["vlan"], 0);
    host.remove().await.unwrap();
}

#[tokio::test]
async fn an_image_with_everything_on_its_disk_gets_no_second_one() {
    let mut host = Fixture::new(&[("hyperv-image", "whole")]).await;
    host.create().await.unwrap();
    assert_eq!(host.world.vm()["disks"].as_array().unwrap().len(), 1);
    host.remove().await.unwrap();
    assert!(host.is_gone().await);
}

#[tokio::test]
async fn a_long_name_and_a_folder_with_all_kinds_of_characters_do() {
    let mut host = Fixture::named(&"long-name.".repeat(12), &[]).await;
    let odd = host.root.path().join("Größe 日本 '$(calc)' `x` ; & %TEMP%");
    fs::create_dir(&odd).unwrap();
    let view = machine_driver::HostView { folder: odd.clone(), ..host.view() };
    host.driver.create(&view, &mut host.journal, &Silent).await.unwrap();
    let vm = host.world.vm();
    assert_eq!(vm["name"].as_str().unwrap().chars().count(), 100);
    assert_eq!(vm["first"], odd.join("disk.vhdx").to_str().unwrap());
    host.driver.remove(&view, &mut host.journal, &Silent).await.unwrap();
    assert!(files(&odd).is_empty());
}

#[tokio::test]
async fn many_hosts_are_described_by_one_run() {
    let mut host = Fixture::new(&[]).await;
    host.create().await.unwrap();
    let mut views = vec![(host.view(), host.journal.state())];
    // One that was never made, one whose VM is gone, and one whose record is no good.
    let other = |config: Value, state: Value| {
        let view = machine_driver::HostView { id: HostId::random(), config, ..host.view() };
        (view, state)
    };
    views.push(other(host.config.clone(), Value::Null));
    views.push(other(host.config.clone(), json!({"vm": "aaaaaaaa-0000-4000-8000-999999999999"})));
    views.push(other(json!({"nonsense": true}), Value::Null));
    let before = host.world.runs();
    let mut rows: Vec<_> = host.driver.describe_many(&views).collect().await;
    assert_eq!(host.world.runs() - before, 1);
    rows.sort_by_key(|(index, _)| *index);
    let states: Vec<Option<State>> =
        rows.iter().map(|(_, row)| row.as_ref().ok().map(|description| description.state)).collect();
    assert_eq!(states, [Some(State::Running), Some(State::None), Some(State::None), None]);
    let endpoint = rows[0].1.as_ref().unwrap().endpoint.as_ref().unwrap();
    assert_eq!((endpoint.address.as_str(), endpoint.engine_port), ("172.20.0.1", 2376));
    host.remove().await.unwrap();
}

#[tokio::test]
async fn a_host_whose_record_is_lost_is_salvaged_and_no_other() {
    let mut host = Fixture::new(&[]).await;
    host.create().await.unwrap();
    let mut nothing = MemoryJournal::default();
    let stranger =
        machine_driver::HostView { id: HostId::random(), folder: "/nonexistent".into(), ..host.view() };
    host.driver.salvage(&stranger, &mut nothing, &Silent).await.unwrap();
    assert_eq!(host.world.vms().len(), 1);
    host.driver.salvage(&host.view(), &mut nothing, &Silent).await.unwrap();
    assert!(host.world.vms().is_empty() && files(&host.view().folder).is_empty());
}

#[tokio::test]
async fn a_host_that_docker_machine_made_is_used_and_only_the_one_in_its_folder() {
    let mut host = Fixture::new(&[]).await;
    host.check().await.unwrap();
    let folder = host.view().folder;
    let vm = |id: &str, path: &Path| {
        json!({
            "id": id, "name": "mc1", "path": path, "state": "Off", "notes": "", "mac": "00155D000009", "number": 9,
            "disks": [], "discs": [], "generation": 1,
        })
    };
    let elsewhere = host.root.path().join("elsewhere/mc1");
    let theirs = vm("bbbbbbbb-0000-4000-8000-000000000001", &elsewhere);
    host.world.set("/vms", json!([theirs, vm("bbbbbbbb-0000-4000-8000-000000000002", &folder.join("mc1"))]));
    host.config = json!({
        "IPAddress": "192.0.2.7", "MachineName": "mc1", "SSHUser": "docker", "SSHPort": 22,
        "SSHKeyPath": "/store/machines/mc1/id_rsa", "StorePath": "/store", "SwarmMaster": false, "SwarmHost": "",
        "SwarmDiscovery": "", "Boot2DockerURL": "", "VSwitch": "ext", "DiskSize": 20000, "MemSize": 1024, "CPU": 1,
        "MacAddr": "", "VLanID": 0, "DisableDynamicMemory": false,
    });
    assert_eq!(host.state().await.unwrap(), State::Stopped);
    assert_eq!(host.address().await, "192.0.2.7");
    host.start().await.unwrap();
    let endpoint = host.driver.endpoint(&host.view(), &host.journal.state()).await.unwrap();
    assert_eq!(endpoint.address, "172.20.0.9");
    assert_eq!(endpoint.ssh.unwrap().key, SshKey::File("/store/machines/mc1/id_rsa".into()));
    host.stop().await.unwrap();
    host.kill().await.unwrap();
    assert_eq!(*host.create().await.unwrap_err().kind(), ErrorKind::Unsupported);
    host.remove().await.unwrap();
    let left = host.world.vm();
    assert_eq!(left["path"], elsewhere.to_str().unwrap());
    assert_eq!(host.state().await.unwrap(), State::None);
}
