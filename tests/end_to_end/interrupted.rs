//! `machine` or a VM dies at some point: the same command goes on, `rm` removes every trace, others are untouched.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::PathBuf,
    time::Duration,
};

use killed::{Point, Store, Watch};

use crate::bench::{Bench, show, until};

const CREATE: [&str; 2] = ["create", "half"];
const RENEW: [&str; 3] = ["regenerate-certs", "-f", "half"];
const RM: [&str; 3] = ["rm", "-y", "half"];

/// In how many rounds an emulated guest may stop for good, both of its processors in its own kernel: QEMU's software
/// emulation does that, rarely, when the machine it runs on is busy.
const MAY_STAND_STILL: usize = 3;

/// Kills a command at a point, as if a while ago, and says whether that came to be: beside a VM, a run may need fewer
/// writes than the rehearsal did, and then has to end well.
fn kill(bench: &Bench, watch: &Watch, point: &Point, words: &[&str]) -> (String, bool) {
    let run = killed::at(&mut bench.command(words), watch, point);
    assert!(run.killed || run.status.success(), "{point}: {}\n{}", run.status, run.said);
    Store::at(&bench.store()).age();
    let when = if run.killed { point.to_string() } else { format!("never {point}") };
    eprintln!("-- {}: {when}", words[0]);
    (when, run.killed)
}

fn assert_whole(bench: &Bench, when: &str) {
    let list = bench.machine(&["ls", "-f", "{{.Name}} {{.State}} {{.Error}}", "--filter", "driver=qemu"]);
    assert_eq!(list, "half Running \n", "{when}");
    let vms = bench.processes().iter().filter(|line| line.contains("qemu-system")).count();
    assert_eq!(vms, 1, "{when}");
    let store = Store::at(&bench.store());
    store.assert_one_authority(when);
    store.assert_copies("half", when);
    store.assert_engine_trusts("half", &bench.machine(&["url", "half"]), when);
    assert_eq!(store.leftovers(), Vec::<PathBuf>::new(), "{when}");
}

/// Creates, renews and removes, each killed once.
fn killed_round(bench: &Bench, watch: &Watch, [create, renew, rm]: [&Point; 3]) -> [bool; 3] {
    let (when, create_killed) = kill(bench, watch, create, &CREATE);
    let record = fs::read_to_string(bench.host_folder("half").join("config.json")).unwrap_or_default();
    if !record.contains("\"Ready\"") {
        bench.machine(&CREATE);
    }
    assert_whole(bench, &when);
    let (when, renew_killed) = kill(bench, watch, renew, &RENEW);
    bench.machine(&RENEW);
    assert_whole(bench, &when);
    let (when, rm_killed) = kill(bench, watch, rm, &RM);
    let there = bench.host_folder("half").exists();
    let output = bench.try_machine(&RM);
    assert_eq!(output.status.success(), there, "{when}: {}", show(&output));
    assert!(!bench.host_folder("half").exists(), "{when}");
    until("the processes end", Duration::from_secs(20), || bench.processes().is_empty().then_some(()));
    [create_killed, renew_killed, rm_killed]
}

/// At every write, without VMs, in `tests/kills`.
#[test]
#[ignore = "boots VMs; `cargo xtask test` runs it"]
fn killed_at_a_write_the_same_command_ends_well() {
    let bench = Bench::new();
    bench.machine(&["create", "-d", "none", "--url", "tcp://192.0.2.1:2376", "bystander"]);
    let bystander = fs::read(bench.host_folder("bystander").join("config.json")).unwrap();
    let watch = Watch::everything(&bench.store());
    let rehearse = |words: &[&str]| killed::rehearse(&mut bench.command(words), &watch);
    // The first one also fetches the image.
    bench.machine(&CREATE);
    bench.machine(&RM);
    let (create, renew, rm) = (rehearse(&CREATE), rehearse(&RENEW), rehearse(&RM));
    let mut stood_still = 0;
    killed::rounds("qemu, with VMs", [&create, &renew, &rm], |points| {
        loop {
            let panic = match catch_unwind(AssertUnwindSafe(|| killed_round(&bench, &watch, points))) {
                Ok(killed) => return killed,
                Err(panic) => panic,
            };
            // That is the emulator's, not what is tested here: rare, said, and not for ever.
            let console =
                fs::read_to_string(bench.host_folder("half").join("console.log")).unwrap_or_default();
            if stood_still == MAY_STAND_STILL || !console.contains("soft lockup") {
                resume_unwind(panic);
            }
            stood_still += 1;
            eprintln!(
                "-- the emulated guest stood still (its kernel says `soft lockup`): this round once more"
            );
            bench.machine(&["rm", "-f", "half"]);
        }
    });
    eprintln!("-- rounds that were repeated because an emulated guest stood still: {stood_still}");
    assert_eq!(fs::read(bench.host_folder("bystander").join("config.json")).unwrap(), bystander);
    bench.machine(&["rm", "-y", "bystander"]);
    bench.assert_nothing_left();
}

#[test]
#[ignore = "boots VMs; `cargo xtask test` runs it"]
fn a_killed_vm_is_noticed_and_started_again() {
    let bench = Bench::new();
    bench.machine(&["create", "mc"]);
    let pid = |needle: &str| {
        bench
            .processes()
            .iter()
            .find(|line| line.contains(needle))
            .map(|line| line.split(':').next().unwrap().to_owned())
    };
    let qemu = pid("qemu-system").expect("a VM runs");
    assert!(std::process::Command::new("kill").args(["-9", &qemu]).status().unwrap().success());
    until("the state is noticed", Duration::from_secs(20), || {
        (bench.machine(&["status", "mc"]) == "Stopped\n").then_some(())
    });
    let said = bench.machine_fails(255, &["ssh", "mc", "true"]);
    assert!(said.contains("is not running"), "{said}");
    bench.machine(&["start", "mc"]);
    bench.machine(&["ssh", "mc", "true"]);
    // A record that is cut off, while the VM runs: force removes the VM all the same.
    let config = bench.host_folder("mc").join("config.json");
    let record = fs::read(&config).unwrap();
    fs::write(&config, &record[..record.len() / 2]).unwrap();
    bench.machine_fails(1, &["rm", "-y", "mc"]);
    bench.machine(&["rm", "-f", "mc"]);
    bench.assert_nothing_left();
}
