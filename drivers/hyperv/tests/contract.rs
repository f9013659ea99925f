//! The conformance suite, with the plug pulled at every write to the journal.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use machine_driver::conformance::{Crashes, Suite};

mod support;

use support::World;

#[tokio::test]
async fn keeps_the_contract_at_every_crash() {
    let world = World::new();
    let driver = world.driver();
    let report = Suite::new(&driver, &world)
        .option("hyperv-image", "tiny")
        .refuses("hyperv-memory", "1")
        .refuses("hyperv-memory", "-1024")
        .refuses("hyperv-cpu-count", "0")
        .refuses("hyperv-disk-size", "0")
        .refuses("hyperv-image", "..")
        .refuses("hyperv-image", "-x")
        .refuses("hyperv-vlan-id", "4095")
        .refuses("hyperv-static-macaddress", "01:00:5e:00:00:01")
        .refuses("hyperv-virtual-switch", "a\u{7}b")
        .refuses("hyperv-ssh-user", "Root!")
        .crashes(Crashes::Everywhere)
        .limit(Duration::from_mins(1))
        .run()
        .await
        .unwrap_or_else(|violation| panic!("{violation}"));
    assert!(report.crashes > 50, "{report:?}");
}
