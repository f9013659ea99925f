//! `create` is killed.

use killed::{Point, each, rehearse};

use crate::bench::{Bench, Kind};

/// Kills a creation at a point, as if a while ago.
fn kill(bench: &Bench, point: &Point) -> String {
    let run = killed::at(&mut bench.create(), &bench.watch(), point);
    assert!(run.killed, "{point}: it came to its end: {}\n{}", run.status, run.said);
    bench.store().age();
    format!("{point}, in the phase {}", bench.phase())
}

/// Every point of the creation of a host; with that of the store's authority, if this is the first one.
fn points(prepare: impl Fn() -> Bench) -> Vec<Point> {
    let bench = prepare();
    let points = rehearse(&mut bench.create(), &bench.watch());
    bench.assert_whole("after the rehearsal");
    bench.remove("after the rehearsal");
    points
}

fn goes_on(title: &str, at_least: usize, prepare: impl Fn() -> Bench + Sync) {
    each(
        &format!("{title}, again"),
        &points(&prepare),
        at_least,
        || (),
        |(), point| {
            let bench = prepare();
            let when = kill(&bench, point);
            bench.finish(&when);
            bench.assert_whole(&when);
            bench.remove(&when);
        },
    );
}

fn is_undone(title: &str, at_least: usize, prepare: impl Fn() -> Bench + Sync) {
    each(
        &format!("{title}, undone"),
        &points(&prepare),
        at_least,
        || (),
        |(), point| {
            let bench = prepare();
            let when = kill(&bench, point);
            bench.remove(&when);
            // Another one takes its place.
            bench.finish(&when);
            bench.assert_whole(&when);
        },
    );
}

#[test]
fn the_first_host_of_a_store_with_its_authority_goes_on() {
    goes_on("The first `create` of a store", 36, || Bench::without_authority(Kind::None));
}

#[test]
fn the_first_host_of_a_store_with_its_authority_is_undone() {
    is_undone("The first `create` of a store", 36, || Bench::without_authority(Kind::None));
}

/// Whatever there is of the first host, and of the authority, others can be made.
#[test]
fn the_first_host_of_a_store_with_its_authority_is_in_nobodys_way() {
    let prepare = || Bench::without_authority(Kind::None);
    each(
        "The first `create` of a store, then another",
        &points(prepare),
        36,
        || (),
        |(), point| {
            let bench = prepare();
            let when = kill(&bench, point);
            bench.ok(&["create", "-d", "none", "--url", "tcp://192.0.2.7:2376", "mc2"]);
            bench.store().assert_one_authority(&when);
            bench.ok(&["rm", "-y", "mc2"]);
            bench.remove(&when);
        },
    );
}

#[test]
fn a_server_that_was_there_goes_on() {
    if Kind::Generic.is_lacking() {
        return;
    }
    goes_on("`create -d generic`", 40, || Bench::new(Kind::Generic));
}

#[test]
fn a_server_that_was_there_is_left_alone() {
    if Kind::Generic.is_lacking() {
        return;
    }
    is_undone("`create -d generic`", 40, || Bench::new(Kind::Generic));
}

#[test]
fn a_vm_goes_on() {
    if Kind::Qemu.is_lacking() {
        return;
    }
    goes_on("`create -d qemu`", 60, || Bench::new(Kind::Qemu));
}

#[test]
fn a_vm_is_undone() {
    if Kind::Qemu.is_lacking() {
        return;
    }
    is_undone("`create -d qemu`", 60, || Bench::new(Kind::Qemu));
}
