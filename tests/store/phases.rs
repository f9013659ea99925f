//! What may be done to a host in which phase, through the real program.

use std::fs;

use crate::home::Home;

fn in_phase(home: &Home, phase: &str) {
    let path = home.host("mc1").join("config.json");
    let mut record: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    record["Phase"] = phase.into();
    fs::write(&path, record.to_string()).unwrap();
}

#[test]
fn a_host_that_is_being_removed_can_only_be_removed() {
    let home = Home::new();
    assert!(home.create_none("mc1").output().unwrap().status.success());
    in_phase(&home, "Removing");
    let before = fs::read(home.host("mc1").join("config.json")).unwrap();
    for command in [
        &["start", "mc1"][..],
        &["stop", "mc1"],
        &["restart", "mc1"],
        &["kill", "mc1"],
        &["provision", "mc1"],
        &["regenerate-certs", "-f", "mc1"],
        &["env", "mc1"],
        &["url", "mc1"],
        &["create", "-d", "none", "--url", "tcp://192.0.2.7:2376", "mc1"],
    ] {
        let said = home.refused(command);
        assert!(
            said.contains("`mc1` is being removed") && said.contains("machine rm mc1"),
            "{command:?}: {said}"
        );
    }
    assert_eq!(fs::read(home.host("mc1").join("config.json")).unwrap(), before, "something was recorded");
    home.ok(&["rm", "-y", "mc1"]);
    assert!(!home.host("mc1").exists());
}

#[test]
fn an_unfinished_host_is_finished_first() {
    let home = Home::new();
    assert!(home.create_none("mc1").output().unwrap().status.success());
    for phase in ["Planned", "Creating"] {
        in_phase(&home, phase);
        for command in ["start", "stop", "provision", "env"] {
            let said = home.refused(&[command, "mc1"]);
            assert!(
                said.contains(&format!("the phase {phase}")) && said.contains("machine create"),
                "{said}"
            );
        }
    }
    home.ok(&["create", "-d", "none", "--url", "tcp://192.0.2.7:2376", "mc1"]);
    home.ok(&["env", "mc1"]);
}
