//! `create` and `rm` are killed with -9 at each write of the record: `create` goes on, `rm` leaves nothing.
//!
//! Nothing boots here, so that all of them can be tried; in `boots` some are tried with VMs.

use crate::{
    cloud::Cloud,
    kill::{self, At, End},
};

/// Runs `create` with a trap, until its instance runs.
fn create(cloud: &Cloud, at: At) -> End {
    let command = cloud.store.command(&["create", "-d", "aws", "mc1"]);
    let folder = cloud.store.host_folder("mc1");
    kill::run(&command, &folder, at, || cloud.store.phase("mc1") == "Booting")
}

/// Runs `rm` with a trap.
fn remove(cloud: &Cloud, at: At) -> End {
    let command = cloud.store.command(&["rm", "-y", "mc1"]);
    kill::run(&command, &cloud.store.host_folder("mc1"), at, || false)
}

/// Whatever there is goes, with its record.
fn assert_goes(cloud: &Cloud) {
    if cloud.store.host_folder("mc1").exists() {
        cloud.machine(&["rm", "-y", "mc1"]);
    }
    cloud.assert_nothing_left();
    cloud.store.assert_nothing_left();
}

/// `create` is killed, and undone; killed there again, and finished.
fn create_killed_at(place: fn(u32) -> At, at_least: u32) {
    let cloud = Cloud::without_vms();
    let writes = kill::at_each(place, |at| {
        let end = create(&cloud, at);
        if !matches!(end, End::Killed) {
            return end;
        }
        eprintln!("-- killed at {at:?}, in the phase {}", cloud.store.phase("mc1"));
        if cloud.store.phase("mc1") == "Booting" {
            // The write that says so was the last one without a VM.
            return End::FarEnough;
        }
        assert_goes(&cloud);
        assert!(matches!(create(&cloud, at), End::Killed));
        cloud.store.begin(&[], &["mc1"]);
        assert_eq!(cloud.living().len(), 1, "{at:?}");
        assert_goes(&cloud);
        end
    });
    assert!(writes >= at_least, "only {writes} writes: the trap does not work");
    assert_goes(&cloud);
}

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn create_killed_after_any_write_goes_on_or_is_undone() {
    create_killed_at(At::AfterWrite, 10);
}

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn create_killed_before_any_write_goes_on_or_is_undone() {
    create_killed_at(At::BeforeWrite, 10);
}

/// `rm` is killed; the next one finishes.
fn remove_killed_at(place: fn(u32) -> At, at_least: u32) {
    let cloud = Cloud::without_vms();
    let writes = kill::at_each(place, |at| {
        cloud.store.begin(&["--aws-spot", "--aws-swarm", "prod"], &["mc1"]);
        let end = remove(&cloud, at);
        eprintln!("-- rm: {end:?} at {at:?}, in the phase {}", cloud.store.phase("mc1"));
        assert_goes(&cloud);
        end
    });
    assert!(writes >= at_least, "only {writes} places: the trap does not work");
}

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn rm_killed_after_any_write_is_finished_by_the_next_one() {
    remove_killed_at(At::AfterWrite, 5);
}

#[test]
#[ignore = "needs the emulator; `cargo xtask test` runs it"]
fn rm_killed_before_any_write_is_finished_by_the_next_one() {
    remove_killed_at(At::BeforeWrite, 5);
}
