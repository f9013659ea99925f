//! `rm` is killed: the next one finishes.

use killed::{each, rehearse};

use crate::bench::{Bench, Kind};

const RM: [&str; 3] = ["rm", "-y", "mc1"];

fn is_finished(title: &str, kind: Kind, at_least: usize) {
    if kind.is_lacking() {
        return;
    }
    let bench = Bench::new(kind);
    bench.finish("rehearsal");
    let points = rehearse(&mut bench.command(&RM), &bench.watch());
    bench.assert_gone("after the rehearsal");
    // A server has been provisioned already the second time.
    each(
        title,
        &points,
        at_least,
        || Bench::new(kind),
        |bench, point| {
            bench.finish("to be removed");
            let run = killed::at(&mut bench.command(&RM), &bench.watch(), point);
            assert!(run.killed, "{point}: it came to its end: {}\n{}", run.status, run.said);
            bench.store().age();
            let when = format!("{point}, in the phase {}", bench.phase());
            if bench.phase() == "Ready" {
                // It is what it was, or it is being removed: nothing between.
                bench.assert_usable(&when);
            }
            bench.remove(&when);
        },
    );
}

#[test]
fn a_host_without_a_driver_goes() {
    is_finished("`rm` without a driver", Kind::None, 8);
}

#[test]
fn a_server_goes_from_the_store() {
    is_finished("`rm` of a server", Kind::Generic, 10);
}

#[test]
fn a_vm_goes() {
    is_finished("`rm` of a VM", Kind::Qemu, 20);
}
