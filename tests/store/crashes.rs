//! `create` and `rm` are killed with -9 at every write, on hosts without a driver: the same command goes on, or `rm`
//! leaves nothing.

use std::fs;

use crate::{
    home::{Home, show},
    killed,
};

fn names(folder: &std::path::Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Nothing is left of a host: what a killed process was about to write has no name yet, and is swept when it is old.
fn assert_gone(home: &Home, what: &str) {
    let hosts = names(&home.store().join("machines"));
    assert!(hosts.iter().all(|name| name.starts_with(".new-")), "{what}: {hosts:?}");
    assert_eq!(names(&home.store().join("locks")), Vec::<String>::new(), "{what}");
}

fn warmed() -> Home {
    let home = Home::new();
    assert!(home.create_none("warm").output().unwrap().status.success());
    home.ok(&["rm", "-y", "warm"]);
    home
}

#[test]
fn killed_at_any_write_the_same_create_goes_on_and_rm_leaves_nothing() {
    let home = warmed();
    let kills = killed::at_every_write(|call, number| {
        let what = format!("{call} {number}");
        let output = killed::at(&home.create_none("mc1"), call, None, number).output().unwrap();
        let killed = killed::was_killed(output.status);
        assert!(killed || output.status.success(), "{what}: {}", show(&output));
        let again = home.create_none("mc1").output().unwrap();
        // The last write may have been its last act.
        let taken = show(&again).contains("already exists");
        assert!(again.status.success() || taken, "{what}: {}", show(&again));
        assert_eq!(home.ok(&["url", "mc1"]), "tcp://192.0.2.7:2376\n", "{what}");
        home.ok(&["rm", "-y", "mc1"]);
        assert_gone(&home, &what);

        let output = killed::at(&home.create_none("mc1"), call, None, number).output().unwrap();
        if home.host("mc1").exists() {
            home.ok(&["rm", "-y", "mc1"]);
        } else {
            assert!(killed::was_killed(output.status), "{what}: {}", show(&output));
            // Its lock may have been made; whoever asks for the host takes that away.
            home.refused(&["rm", "-y", "mc1"]);
        }
        assert_gone(&home, &what);
        killed
    });
    assert!(kills > 15, "only {kills} writes: the trap does not work");
}

#[test]
fn killed_at_any_write_the_same_rm_leaves_nothing() {
    let home = warmed();
    let kills = killed::at_every_write(|call, number| {
        let what = format!("{call} {number}");
        assert!(home.create_none("mc1").output().unwrap().status.success(), "{what}");
        let output = killed::at(&home.command(&["rm", "-y", "mc1"]), call, None, number).output().unwrap();
        let killed = killed::was_killed(output.status);
        assert!(killed || output.status.success(), "{what}: {}", show(&output));
        if home.host("mc1").exists() {
            // It is what it was, or it is being removed: nothing between.
            let url = show(&home.machine(&["url", "mc1"]));
            assert!(
                url.contains("tcp://192.0.2.7:2376") || url.contains("is being removed"),
                "{what}: {url}"
            );
            home.ok(&["rm", "-y", "mc1"]);
        } else {
            home.refused(&["rm", "-y", "mc1"]);
        }
        assert_gone(&home, &what);
        killed
    });
    assert!(kills > 8, "only {kills} writes: the trap does not work");
}
