//! `create`, `regenerate-certs` and `rm` are killed with -9 at some of their writes, the instance being a VM: the same
//! command ends well, and there is one VM.

use killed::{Point, Watch};

use crate::{
    cloud::Cloud,
    crashes::{CREATE, RENEW, RM},
};

#[test]
#[ignore = "boots VMs; `cargo xtask test` runs it"]
fn killed_at_a_write_the_same_command_ends_well() {
    let cloud = Cloud::new();
    cloud.make_authority();
    let watch = Watch::everything(&cloud.store.store());
    let rehearse = |words: &[&str]| killed::rehearse(&mut cloud.store.command(words), &watch);
    let (create, renew, rm) = (rehearse(&CREATE), rehearse(&RENEW), rehearse(&RM));
    cloud.assert_nothing_left();
    killed::rounds("AWS, with VMs", [&create, &renew, &rm], |[create, renew, rm]: [&Point; 3]| {
        let (when, create_killed) = cloud.kill_or_finish(create, &watch, &CREATE);
        cloud.finish();
        cloud.assert_whole(&when);
        let (when, renew_killed) = cloud.kill_or_finish(renew, &watch, &RENEW);
        cloud.machine(&RENEW);
        cloud.assert_whole(&when);
        assert_eq!(cloud.machine(&["ssh", "mc1", "echo there"]), "there\n");
        let (when, rm_killed) = cloud.kill_or_finish(rm, &watch, &RM);
        cloud.remove(&when);
        [create_killed, renew_killed, rm_killed]
    });
}
