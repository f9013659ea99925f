//! What goes wrong on a machine with Hyper-V: one clear error each, and nothing left behind.

#![allow(clippy::unwrap_used)]

use std::{fs, time::Duration};

use machine_driver::{Driver as _, DriverError, ErrorKind, Journal as _, Silent, State};
use serde_json::json;

mod support;

use support::{Fixture, chain, files};

fn needs_elevation(error: &DriverError) -> bool {
    matches!(error.kind(), ErrorKind::NeedsElevation { .. }) && error.hint().unwrap().contains("S-1-5-32-578")
}

#[tokio::test]
async fn what_is_missing_is_said_with_what_to_type() {
    let cases = [
        (
            "/module",
            json!(false),
            "Hyper-V's module for PowerShell is not installed",
            "Microsoft-Hyper-V -All",
        ),
        ("/feature", json!(false), "Hyper-V is not turned on", "Enable-WindowsOptionalFeature"),
        ("/hypervisor", json!(false), "The hypervisor of Hyper-V does not run", "hypervisorlaunchtype auto"),
        ("/service", json!(false), "The service of Hyper-V, `vmms`, does not run", "Start-Service vmms"),
        (
            "/groups",
            json!([]),
            "Hyper-V serves its administrators only, and you are none of them",
            "Add-LocalGroupMember -SID S-1-5-32-578",
        ),
        ("/switches", json!([]), "There is no such virtual switch", "New-VMSwitch"),
    ];
    for (place, value, message, hint) in cases {
        let host = Fixture::new(&[]).await;
        host.check().await.unwrap();
        host.world.set(place, value);
        let error = host.check().await.unwrap_err();
        assert_eq!(error.to_string(), message);
        assert!(error.hint().unwrap().contains(hint), "{error:?}");
        let refused = matches!(error.kind(), ErrorKind::Refused | ErrorKind::NeedsElevation { .. });
        assert!(refused && host.is_gone().await, "{error:?}");
    }
}

#[tokio::test]
async fn a_switch_that_is_named_and_missing_comes_with_those_that_are_there() {
    let host = Fixture::new(&[("hyperv-virtual-switch", "my \"$(calc)\" switch")]).await;
    let error = host.check().await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Refused);
    let hint = error.hint().unwrap();
    assert!(hint.ends_with("`myswitch`, `Standardswitch für Gäste`"), "{hint}");
}

#[tokio::test]
async fn a_switch_that_goes_before_the_vm_is_made_leaves_nothing_in_hyperv() {
    let mut host = Fixture::new(&[("hyperv-virtual-switch", "myswitch")]).await;
    host.check().await.unwrap();
    let switches = host.world.facts()["switches"].clone();
    host.world.set("/switches", json!([switches[1]]));
    let error = host.create().await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Refused);
    assert!(host.world.vms().is_empty());
    host.world.set("/switches", switches);
    host.create().await.unwrap();
    host.remove().await.unwrap();
    assert!(host.is_gone().await);
}

#[tokio::test]
async fn a_vm_that_is_larger_than_the_machine_is_refused() {
    let host = Fixture::new(&[("hyperv-memory", "100000")]).await;
    let error = host.check().await.unwrap_err();
    assert_eq!(error.to_string(), "The VM is to have 100000 MiB of memory, and this machine has 16384");
    let host = Fixture::new(&[("hyperv-cpu-count", "9")]).await;
    let error = host.check().await.unwrap_err();
    assert_eq!(error.to_string(), "The VM is to have 9 CPUs, and this machine has 8");
}

#[tokio::test]
async fn access_that_is_denied_is_known_in_any_language() {
    for cmdlet in ["New-VHD", "New-VM", "Set-VM", "Add-VMDvdDrive", "Start-VM"] {
        let mut host = Fixture::new(&[]).await;
        host.check().await.unwrap();
        host.world.set("/faults/denied", json!([cmdlet]));
        let error = host.create().await.unwrap_err();
        assert!(needs_elevation(&error), "{error:?}");
        assert!(chain(&error).contains("Der Vorgang ist fehlgeschlagen"), "{error:?}");
        // What could be made is taken away again, once that is possible.
        host.world.set("/faults/denied", json!([]));
        host.remove().await.unwrap();
        assert!(host.is_gone().await, "{cmdlet}");
    }
}

#[tokio::test]
async fn who_lost_the_rights_is_not_told_that_the_vm_is_gone() {
    let mut host = Fixture::new(&[]).await;
    host.create().await.unwrap();
    let before = (host.journal.entries.clone(), host.journal.state.clone());
    host.world.set("/groups", json!([]));
    assert!(needs_elevation(&host.state().await.unwrap_err()));
    assert!(needs_elevation(&host.start().await.unwrap_err()));
    assert!(needs_elevation(&host.remove().await.unwrap_err()));
    assert_eq!((host.journal.entries.clone(), host.journal.state.clone()), before);
    host.world.set("/groups", json!(["S-1-5-32-544"]));
    host.remove().await.unwrap();
    assert!(host.is_gone().await);
}

#[tokio::test]
async fn a_stop_that_is_denied_says_so_and_leaves_the_vm_running() {
    let mut host = Fixture::new(&[]).await;
    host.create().await.unwrap();
    host.world.set("/faults/denied", json!(["Stop-VM"]));
    assert!(needs_elevation(&host.stop().await.unwrap_err()));
    assert!(needs_elevation(&host.kill().await.unwrap_err()));
    assert!(needs_elevation(&host.remove().await.unwrap_err()));
    assert_eq!(host.state().await.unwrap(), State::Running);
    host.world.set("/faults/denied", json!([]));
    host.remove().await.unwrap();
    assert!(host.is_gone().await);
}

#[tokio::test]
async fn a_disk_or_a_memory_that_is_full_is_said() {
    let mut host = Fixture::new(&[]).await;
    host.check().await.unwrap();
    host.world.set("/faults/disk_full", json!(true));
    let error = host.create().await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::NoCapacity);
    assert!(error.hint().unwrap().contains("The disk is full"), "{error:?}");
    host.world.set("/faults/disk_full", json!(false));
    host.world.set("/faults/no_memory", json!(true));
    let error = host.create().await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::NoCapacity);
    assert!(error.hint().unwrap().contains("--hyperv-memory"), "{error:?}");
    host.world.set("/faults/no_memory", json!(false));
    host.create().await.unwrap();
    host.remove().await.unwrap();
    assert!(host.is_gone().await);
}

#[tokio::test]
async fn a_vm_that_does_not_come_up_is_bounded_and_can_be_killed() {
    let mut host = Fixture::new(&[]).await;
    host.check().await.unwrap();
    host.world.set("/faults/starts_as", json!("Starting"));
    let error = host.create().await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::NotReady);
    assert_eq!(error.to_string(), "The VM does not come up: it is `Starting`");
    assert_eq!(host.state().await.unwrap(), State::Starting);
    host.kill().await.unwrap();
    assert_eq!(host.state().await.unwrap(), State::Stopped);
    host.world.set("/faults/starts_as", json!(null));
    host.start().await.unwrap();
    host.remove().await.unwrap();
    assert!(host.is_gone().await);
}

#[tokio::test]
async fn a_guest_that_is_silent_is_found_by_the_neighbours() {
    let mut host = Fixture::new(&[]).await;
    host.check().await.unwrap();
    host.world.set("/faults/addresses", json!("neighbours"));
    host.create().await.unwrap();
    assert_eq!(host.address().await, "172.20.0.1");
    host.remove().await.unwrap();
}

#[tokio::test]
async fn no_address_is_said_in_time_and_the_vm_stays() {
    let mut host = Fixture::new(&[]).await;
    host.check().await.unwrap();
    host.world.set("/faults/addresses", json!("none"));
    let error = host.create().await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::NotReady);
    assert_eq!(error.to_string(), "The VM of `mc1` runs, and has no address so far");
    assert_eq!(host.state().await.unwrap(), State::Running);
    let view = host.view();
    let error = host.driver.endpoint(&view, &host.journal.state()).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::NotReady);
    host.world.set("/faults/addresses", json!("told"));
    host.create().await.unwrap();
    host.remove().await.unwrap();
    assert!(host.is_gone().await);
}

#[tokio::test]
async fn ipv6_is_taken_where_there_is_nothing_else() {
    let mut host = Fixture::new(&[]).await;
    host.check().await.unwrap();
    host.world.set("/faults/addresses", json!("ipv6"));
    host.create().await.unwrap();
    let endpoint = host.driver.endpoint(&host.view(), &host.journal.state()).await.unwrap();
    assert_eq!(endpoint.url(), "tcp://[2001:db8::1]:2376");
    host.remove().await.unwrap();
}

#[tokio::test]
async fn an_address_that_changes_is_followed() {
    let mut host = Fixture::new(&[]).await;
    host.create().await.unwrap();
    assert_eq!(host.address().await, "172.20.0.1");
    // The Default Switch has another network after each restart of Windows.
    host.world.set("/faults/network", json!(5));
    assert_eq!(host.address().await, "172.25.0.1");
    // What is not told now is what was told last.
    host.stop().await.unwrap();
    assert_eq!(host.address().await, "172.20.0.1");
    host.start().await.unwrap();
    host.stop().await.unwrap();
    assert_eq!(host.address().await, "172.25.0.1");
    host.remove().await.unwrap();
}

#[tokio::test]
async fn what_is_no_answer_is_shown_and_nothing_is_forgotten() {
    for (says, shown) in [
        ("garbage", "WARNUNG: [31mkein JSON"),
        ("nothing", "PowerShell ended without an answer"),
        ("complaint", "Die Datei wurde nicht gefunden"),
        ("huge", "It answered with more than 4194304 bytes"),
    ] {
        let mut host = Fixture::new(&[]).await;
        host.create().await.unwrap();
        let before = host.journal.entries.clone();
        host.world.set("/faults/says", json!(says));
        let error = host.check().await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Refused, "{error:?}");
        assert!(chain(&error).contains(shown), "{}", chain(&error));
        for error in [host.stop().await.unwrap_err(), host.remove().await.unwrap_err()] {
            assert_eq!(*error.kind(), ErrorKind::Unknown, "{error:?}");
            assert!(chain(&error).contains(shown), "{}", chain(&error));
        }
        assert_eq!(host.journal.entries, before);
        host.world.set("/faults/says", json!(null));
        host.remove().await.unwrap();
        assert!(host.is_gone().await);
    }
}

#[tokio::test]
async fn answers_may_be_slow() {
    let mut host = Fixture::new(&[]).await;
    host.check().await.unwrap();
    host.world.set("/faults/slow", json!(300));
    host.create().await.unwrap();
    host.remove().await.unwrap();
    assert!(host.is_gone().await);
}

#[tokio::test]
async fn a_guest_that_still_boots_is_asked_again_and_a_deaf_one_can_be_killed() {
    let mut host = Fixture::new(&[]).await;
    host.create().await.unwrap();
    host.world.set("/faults/booting", json!(3));
    host.stop().await.unwrap();
    assert_eq!(host.state().await.unwrap(), State::Stopped);
    host.start().await.unwrap();
    host.world.set("/faults/booting", json!(1000));
    let error = host.stop().await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Failed);
    assert_eq!(error.hint(), Some("`machine kill mc1` stops it as if the power was cut"));
    host.world.set("/faults/booting", json!(0));
    host.world.set("/faults/deaf", json!(true));
    let view = host.view();
    let stop = host.driver.stop(&view, &mut host.journal, &Silent);
    assert!(tokio::time::timeout(Duration::from_secs(1), stop).await.is_err(), "it stopped all the same");
    // Whoever gives up takes PowerShell along, and keeps nobody from the next call.
    host.kill().await.unwrap();
    assert_eq!(host.state().await.unwrap(), State::Stopped);
    host.remove().await.unwrap();
}

#[tokio::test]
async fn the_power_is_cut_under_one_who_waits_for_the_guest() {
    let mut host = Fixture::new(&[]).await;
    host.create().await.unwrap();
    host.world.set("/faults/deaf", json!(true));
    let (view, mut other) = (host.view(), host.journal.clone());
    let driver = host.world.driver();
    let before = host.world.runs();
    let stop = driver.stop(&view, &mut other, &Silent);
    let kill = async {
        while host.world.runs() == before {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        host.driver.kill(&view, &mut host.journal, &Silent).await
    };
    tokio::select! {
        stopped = stop => panic!("it stopped all the same: {stopped:?}"),
        killed = kill => killed.unwrap(),
    }
    assert_eq!(host.state().await.unwrap(), State::Stopped);
    host.remove().await.unwrap();
    assert!(host.is_gone().await);
}

#[tokio::test]
async fn a_vm_between_two_states_is_removed_when_it_can_be() {
    let mut host = Fixture::new(&[]).await;
    host.create().await.unwrap();
    host.world.set("/faults/unruly", json!(3));
    host.remove().await.unwrap();
    assert!(host.is_gone().await);
    let mut host = Fixture::new(&[]).await;
    host.create().await.unwrap();
    host.world.set("/faults/unruly", json!(100_000));
    for error in [host.kill().await.unwrap_err(), host.remove().await.unwrap_err()] {
        assert_eq!(*error.kind(), ErrorKind::NotReady, "{error:?}");
    }
    assert_eq!(host.state().await.unwrap(), State::Running);
    host.world.set("/faults/unruly", json!(0));
    host.remove().await.unwrap();
    assert!(host.is_gone().await);
}

#[tokio::test]
async fn a_guest_that_takes_longer_than_it_may_and_is_off_then_is_off() {
    let mut host = Fixture::new(&[]).await;
    host.create().await.unwrap();
    host.world.set("/faults/shutdown", json!(1500));
    host.stop().await.unwrap();
    assert_eq!(host.state().await.unwrap(), State::Stopped);
    host.remove().await.unwrap();
}

#[tokio::test]
async fn a_run_that_dies_anywhere_leaves_what_the_next_one_makes_whole() {
    let mut points = 0;
    for after in 0.. {
        let mut host =
            Fixture::new(&[("hyperv-vlan-id", "7"), ("hyperv-static-macaddress", "00155d0a0b0c")]).await;
        host.check().await.unwrap();
        host.world.set("/faults/dies_after", json!(after));
        let died = host.create().await.is_err();
        host.world.set("/faults/dies_after", json!(null));
        host.create().await.unwrap();
        let vm = host.world.vm();
        assert_eq!(vm["state"], "Running", "{after}");
        assert_eq!((vm["disks"].as_array().unwrap().len(), vm["vlan"].clone()), (2, json!(7)), "{after}");
        assert_eq!(files(&host.view().folder).len(), 4, "{after}");
        host.remove().await.unwrap();
        assert!(host.is_gone().await, "{after}");

        let mut host = Fixture::new(&[]).await;
        host.check().await.unwrap();
        host.world.set("/faults/dies_after", json!(after));
        let _ = host.create().await;
        host.world.set("/faults/dies_after", json!(null));
        host.remove().await.unwrap();
        assert!(host.is_gone().await, "{after}");
        points += u32::from(died);
        if !died {
            break;
        }
    }
    assert!(points > 10, "{points}");
}

#[tokio::test]
async fn a_vm_removed_behind_our_back_is_gone_and_its_disk_is_not_replaced() {
    let mut host = Fixture::new(&[]).await;
    host.create().await.unwrap();
    host.world.set("/vms", json!([]));
    assert_eq!(host.state().await.unwrap(), State::None);
    let disk = fs::read(host.view().folder.join("data.vhdx")).unwrap();
    fs::write(host.view().folder.join("data.vhdx"), [&disk[..], b"kept"].concat()).unwrap();
    for error in
        [host.start().await.unwrap_err(), host.create().await.unwrap_err(), host.stop().await.unwrap_err()]
    {
        assert_eq!(*error.kind(), ErrorKind::Gone, "{error:?}");
        assert!(error.hint().unwrap().contains("machine rm mc1"), "{error:?}");
    }
    assert!(fs::read(host.view().folder.join("data.vhdx")).unwrap().ends_with(b"kept"));
    host.remove().await.unwrap();
    assert!(host.is_gone().await);
}

#[tokio::test]
async fn a_base_that_is_gone_is_made_again_and_the_same() {
    let mut host = Fixture::new(&[]).await;
    host.create().await.unwrap();
    host.stop().await.unwrap();
    let images = host.view().cache.join("hyperv/images");
    let base = fs::read_dir(&images).unwrap().flatten().find(|entry| entry.path().is_dir()).unwrap().path();
    let before = fs::read(base.join("base.vhdx")).unwrap();
    fs::remove_dir_all(&base).unwrap();
    host.start().await.unwrap();
    assert!(fs::read(base.join("base.vhdx")).unwrap() == before, "its ids are others");
    host.stop().await.unwrap();
    fs::remove_dir_all(&base).unwrap();
    let driver = host.world.driver().with_images(Vec::new());
    let error = driver.start(&host.view(), &mut host.journal, &Silent).await.unwrap_err();
    assert!(error.to_string().contains("of the image is gone; the VM's own disk is there"), "{error}");
    host.remove().await.unwrap();
}

#[tokio::test]
async fn a_powershell_that_is_not_there_is_named() {
    let host = Fixture::new(&[]).await;
    let driver = host.world.driver().with_powershell("/nonexistent/powershell.exe".into());
    let error = driver.check(&host.view()).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Refused);
    assert_eq!(error.to_string(), "Could not run PowerShell as `/nonexistent/powershell.exe`");
}
