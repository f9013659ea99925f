//! `create` is killed with -9 at some of its writes, its instance being a VM: the same command ends with a host that is
//! ready, and one VM.

use crate::{
    cloud::Cloud,
    kill::{self, At, End},
};

/// What a creation writes from its beginning to `Ready`, at least.
const WRITES: u32 = 16;

/// Another seed is tried with `MACHINE_TEST_SEED`.
fn seed() -> u64 {
    std::env::var("MACHINE_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(7)
}

#[test]
#[ignore = "boots VMs; `cargo xtask test` runs it"]
fn killed_at_a_write_the_same_create_ends_ready_with_one_instance() {
    let cloud = Cloud::new();
    for number in kill::chosen(seed(), 3, WRITES) {
        let at = At::AfterWrite(number);
        let command = cloud.store.command(&["create", "-d", "aws", "mc1"]);
        let end = kill::run(&command, &cloud.store.host_folder("mc1"), at, || false);
        assert!(matches!(end, End::Killed), "{at:?}: {end:?}");
        eprintln!("-- killed at {at:?}, in the phase {}, seed {}", cloud.store.phase("mc1"), seed());
        if cloud.store.phase("mc1") != "Ready" {
            cloud.machine(&["create", "-d", "aws", "mc1"]);
        }
        assert_eq!(cloud.store.phase("mc1"), "Ready");
        assert_eq!(cloud.living().len(), 1, "{at:?}");
        assert_eq!(cloud.machine(&["ssh", "mc1", "echo there"]), "there\n");
        cloud.machine(&["rm", "-y", "mc1"]);
        cloud.assert_nothing_left();
        cloud.store.assert_nothing_left();
    }
}
