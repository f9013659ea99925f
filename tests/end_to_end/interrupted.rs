//! `create` and its caller die at some point: the same command goes on, `rm` removes every trace, others are untouched.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::Stdio,
    time::Duration,
};

use crate::bench::{Bench, until};

/// The steps of a creation at which its process is killed.
const STEPS: [&str; 4] = ["Creating machine", "Waiting for SSH", "Provisioning", "Checking connection"];

/// Runs `machine create` and kills it (-9) as soon as it says a step.
fn create_until(bench: &Bench, name: &str, step: &str) {
    eprintln!("$ machine create {name}   # killed at `{step}`");
    let mut child =
        bench.command(&["create", name]).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
    let reader = BufReader::new(child.stdout.take().unwrap());
    let seen = reader.lines().map_while(Result::ok).any(|line| {
        eprintln!("  {line}");
        line.contains(step)
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(seen, "`{step}` never came");
}

#[test]
#[ignore = "boots VMs; `cargo xtask test` runs it"]
fn a_killed_create_goes_on_and_rm_removes_every_trace() {
    let bench = Bench::new();
    bench.machine(&["create", "-d", "none", "--url", "tcp://192.0.2.1:2376", "bystander"]);
    let bystander = fs::read(bench.host_folder("bystander").join("config.json")).unwrap();
    for step in STEPS {
        create_until(&bench, "half", step);
        bench.machine(&["rm", "-y", "half"]);
        assert!(!bench.host_folder("half").exists());
        until("the processes end", Duration::from_secs(20), || bench.processes().is_empty().then_some(()));
    }
    // All of them, one after the other, on one host.
    for step in STEPS {
        create_until(&bench, "half", step);
    }
    bench.machine(&["create", "half"]);
    let list = bench.machine(&["ls", "-f", "{{.Name}} {{.State}} {{.Error}}", "--filter", "driver=qemu"]);
    assert_eq!(list, "half Running \n");
    assert_eq!(bench.processes().iter().filter(|line| line.contains("qemu-system")).count(), 1);
    bench.load_image("half");
    assert_eq!(bench.docker("half", &["run", "--rm", "busybox", "echo", "whole"]), "whole\n");
    bench.machine(&["rm", "-y", "half"]);
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
