//! What the engine has promised is there after the power has gone, at any moment.
//!
//! The data lies on a file system whose disk is a file. While a client works, that file is cloned again and again, which
//! takes what has reached the disk and nothing else: content that was never brought there is as lost as on a real
//! machine, and the file system gets no chance to write any more of itself. An engine is then started on each clone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::*;

/// How many clones are tried; as many are taken as there is time for.
const TRIED: usize = 24;

/// Something that a client asked for, and when: before `begun`, nothing is expected, and after `done`, it is promised.
struct Deed {
    begun: Instant,
    done: Instant,
    /// What it is about, such as `volume v1`.
    thing: String,
    exists: bool,
}

/// The disk at a moment between two.
struct Snapshot {
    path: PathBuf,
    begun: Instant,
    done: Instant,
}

#[test]
fn what_a_client_was_told_outlives_a_power_cut() {
    let mut engine = Engine::prepare("{}", &[]);
    if !make_disk(&engine) {
        return;
    }
    engine.launch();
    engine.load_busybox();
    let (deeds, snapshots) = work_under_observation(&engine);
    engine.docker(["ps", "-aq"]).ok().split_whitespace().for_each(|id| {
        engine.docker(["rm", "-f", id]).ok();
    });
    engine.kill();
    let step = snapshots.len().div_ceil(TRIED).max(1);
    let mut promised = 0;
    for snapshot in snapshots.iter().step_by(step) {
        power_up(&mut engine, snapshot);
        let found = things(&engine);
        for (thing, exists) in expected(&deeds, snapshot) {
            // What was removed may be back, but never as half of it.
            assert!(
                !exists || found.contains(&thing),
                "{thing} is lost; there are {found:?}\n{}",
                engine.log()
            );
            promised += usize::from(exists);
        }
        let warnings = engine.http("GET", "/info", b"").json()["Warnings"].to_string();
        assert!(!warnings.contains("left out"), "{warnings}");
        for container in found.iter().filter_map(|thing| thing.strip_prefix("container ")) {
            engine.docker(["start", container]).ok();
            engine.docker(["rm", "-f", container]).ok();
        }
        engine.kill();
    }
    assert!(snapshots.len() >= 10 && promised > 100, "{} snapshots, {promised} promises", snapshots.len());
}

/// The disk of the engine's data: a file on a file system that can clone files. Nothing reaches it by itself.
fn make_disk(engine: &Engine) -> bool {
    let script = "set -e
        truncate -s 2G outer.img
        mkfs.xfs -q outer.img
        mkdir -p outer data
        mount -o loop outer.img outer
        truncate -s 512M outer/disk
        mkfs.ext4 -q outer/disk
        mount -o loop,commit=300 outer/disk data";
    let mut command = engine.enter("sh");
    command.args(["-c", &format!("cd '{}' && {script}", engine.path("").display())]);
    if !Path::new("/dev/loop-control").exists() {
        skipped::say("power-loss", "there are no loop devices");
        return false;
    }
    run(&mut command, b"").ok();
    true
}

/// Puts the disk back as it was at a moment, and starts an engine there.
fn power_up(engine: &mut Engine, snapshot: &Snapshot) {
    let script = format!(
        "cd '{}' && umount data && mount -o loop '{}' data",
        engine.path("").display(),
        snapshot.path.display()
    );
    engine.inside("sh", ["-c", &script]).ok();
    let gone = format!("umount --lazy '{0}/netns' 2>/dev/null; rm -rf '{0}'", engine.exec_root());
    engine.inside("sh", ["-c", &gone]).ok();
    engine.launch();
}

/// A client makes, renames and removes things of every kind, while the disk is cloned.
fn work_under_observation(engine: &Engine) -> (Vec<Deed>, Vec<Snapshot>) {
    let working = AtomicBool::new(true);
    let loaded = Instant::now();
    std::thread::scope(|scope| {
        let observer = scope.spawn(|| {
            let mut snapshots = Vec::new();
            while working.load(Ordering::Relaxed) {
                let path = engine.path(format!("outer/snapshot{}", snapshots.len()));
                let begun = Instant::now();
                let disk = engine.path("outer/disk");
                let cloned = engine.enter("cp").arg("--reflink=always").args([&disk, &path]).status();
                assert!(cloned.unwrap().success());
                snapshots.push(Snapshot { path, begun, done: Instant::now() });
                std::thread::sleep(Duration::from_millis(20));
            }
            snapshots
        });
        let thing = "image busybox:latest".to_owned();
        let mut deeds = vec![Deed { begun: loaded, done: loaded, thing, exists: true }];
        for number in 0..8 {
            round(engine, number, &mut deeds);
        }
        working.store(false, Ordering::Relaxed);
        (deeds, observer.join().unwrap())
    })
}

fn round(engine: &Engine, number: usize, deeds: &mut Vec<Deed>) {
    let mut deed = |arguments: &[&str], made: &[String], gone: &[String]| {
        let begun = Instant::now();
        engine.docker(arguments).ok();
        let done = Instant::now();
        let things = made.iter().map(|thing| (thing, true)).chain(gone.iter().map(|thing| (thing, false)));
        deeds.extend(things.map(|(thing, exists)| Deed { begun, done, thing: thing.clone(), exists }));
    };
    let name = |kind: &str| format!("{kind}{number}");
    let thing = |kind: &str, name: &str| format!("{kind} {name}");
    let (tag, volume, network) = (name("tag") + ":1", name("v"), name("n"));
    let (container, renamed) = (name("c"), name("r"));
    deed(&["tag", "busybox", &tag], &[thing("image", &tag)], &[]);
    deed(&["volume", "create", "--label", "kept=yes", &volume], &[thing("volume", &volume)], &[]);
    deed(&["network", "create", &network], &[thing("network", &network)], &[]);
    let mount = format!("{volume}:/v");
    let create =
        ["create", "--name", &container, "-v", &mount, "--network", &network, "busybox", "sleep", "1000"];
    deed(&create, &[thing("container", &container)], &[]);
    deed(&["start", &container], &[], &[]);
    let (old, new) = (thing("container", &container), thing("container", &renamed));
    deed(&["rename", &container, &renamed], std::slice::from_ref(&new), &[old]);
    deed(&["stop", "-t", "0", &renamed], &[], &[]);
    if number.is_multiple_of(2) {
        deed(&["rm", &renamed], &[], &[new]);
        deed(&["network", "rm", &network], &[], &[thing("network", &network)]);
        deed(&["volume", "rm", &volume], &[], &[thing("volume", &volume)]);
        deed(&["rmi", &tag], &[], &[thing("image", &tag)]);
    }
}

/// What has to be so on a disk: the last that a client was told, where nothing else was under way.
fn expected(deeds: &[Deed], snapshot: &Snapshot) -> BTreeMap<String, bool> {
    let mut expected = BTreeMap::new();
    for deed in deeds.iter().filter(|deed| deed.begun < snapshot.done) {
        if deed.done < snapshot.begun {
            expected.insert(deed.thing.clone(), deed.exists);
        } else {
            expected.remove(&deed.thing);
        }
    }
    expected
}

/// What there is, in the words of [`round`].
fn things(engine: &Engine) -> BTreeSet<String> {
    let list = |path: &str| engine.http("GET", path, b"").json();
    let mut found = BTreeSet::new();
    let mut add = |kind: &str, name: &Value| {
        let name = name.as_str().unwrap_or_default().trim_start_matches('/');
        found.insert(format!("{kind} {name}"));
    };
    for container in list("/containers/json?all=1").as_array().unwrap() {
        add("container", &container["Names"][0]);
    }
    for network in list("/networks").as_array().unwrap() {
        add("network", &network["Name"]);
    }
    for volume in list("/volumes")["Volumes"].as_array().unwrap() {
        assert_eq!(volume["Labels"]["kept"], "yes", "half a volume: {volume}");
        add("volume", &volume["Name"]);
    }
    for image in list("/images/json").as_array().unwrap() {
        for tag in image["RepoTags"].as_array().unwrap() {
            add("image", tag);
        }
    }
    found
}
