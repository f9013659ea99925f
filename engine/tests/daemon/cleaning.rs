//! What is cleaned away without being asked, what a removal takes with it, and what neither does.

use serde_json::{Value, json};

use super::*;

/// An engine that holds one of each that may go, and of each that may not; it has stopped.
fn full() -> Engine {
    let mut engine = Engine::start_with(r#"{"prune": {"enabled": false}}"#, &[]);
    engine.docker_with_input(["load"], &harness::busybox_image_named("old:1")).ok();
    engine.load_busybox();
    for content in ["kept", "newer"] {
        let archive = harness::image("kept:1", &[tar_of(content)], &json!({}));
        engine.docker_with_input(["load"], &archive).ok();
    }
    assert_eq!(engine.docker(["images", "--quiet", "--filter", "dangling=true"]).ok().lines().count(), 1);
    for network in ["unused", "of-the-stopped", "of-the-fresh"] {
        engine.docker(["network", "create", network]).ok();
    }
    let run = |name: &str, more: &[&str], command: &[&str]| {
        let arguments: Vec<&str> = [&["run", "--name", name], more, &["busybox"], command].concat();
        engine.docker(arguments).ok()
    };
    run("stopped", &["--volume", "/data"], &["true"]);
    run("policy", &["--restart", "on-failure", "--network", "of-the-stopped"], &["true"]);
    run("running", &["--detach"], &["sleep", "1000"]);
    engine.docker(["create", "--name", "fresh", "--network", "of-the-fresh", "busybox", "true"]).ok();
    assert_eq!(engine.stop(), Some(0));
    engine
}

fn configure(engine: &Engine, prune: &Value) {
    fs::write(engine.path("daemon.json"), json!({ "prune": prune }).to_string()).unwrap();
}

/// What is there, sorted: networks that are not built in, containers, images with their names, and how many volumes.
fn inventory(engine: &Engine) -> (String, String, String, usize) {
    let sorted = |arguments: &[&str]| {
        let text = engine.docker(arguments).ok();
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        lines.join(" ")
    };
    (
        sorted(&["network", "ls", "--filter", "type=custom", "--format", "{{.Name}}"]),
        sorted(&["ps", "--all", "--format", "{{.Names}}"]),
        sorted(&["images", "--format", "{{.Repository}}"]),
        engine.docker(["volume", "ls", "--quiet"]).ok().lines().count(),
    )
}

const NETWORKS: &str = "of-the-fresh of-the-stopped unused";
const CONTAINERS: &str = "fresh policy running stopped";
const IMAGES: &str = "<none> busybox kept old";

fn all() -> (String, String, String, usize) {
    (NETWORKS.to_owned(), CONTAINERS.to_owned(), IMAGES.to_owned(), 1)
}

/// After everything that may go has gone.
fn what_stays() -> (String, String, String, usize) {
    (
        "of-the-fresh of-the-stopped".to_owned(),
        "fresh policy running".to_owned(),
        "busybox kept old".to_owned(),
        1,
    )
}

/// This engine's own command line.
fn own(engine: &Engine, arguments: &[&str]) -> String {
    let mut command = engine.enter(env!("CARGO_BIN_EXE_engine"));
    command.args(arguments).env("DOCKER_HOST", format!("unix://{}", engine.socket().display()));
    run(&mut command, b"").ok()
}

#[test]
fn a_full_disk_takes_images_before_containers_and_never_what_is_meant_to_stay() {
    let mut engine = full();
    configure(&engine, &json!({ "disk-watermark": "1%", "until": "0s", "containers-until": "0s" }));
    engine.launch();
    wait_for("the cleaning", || engine.log().contains("Cleaned up"));
    assert_eq!(inventory(&engine), what_stays());
    assert_eq!(engine.docker(["ps", "--format", "{{.Names}}"]).ok(), "running\n");
    // One line and one event for each.
    let log = engine.log();
    let line = |text: &str| {
        log.lines().position(|line| line.contains(text)).unwrap_or_else(|| panic!("{text}:\n{log}"))
    };
    assert!(line("Removed an image") < line("Removed a network"));
    assert!(line("Removed a network") < line("Removed a container"));
    let format = "{{.Type}} {{.Action}} {{.Actor.Attributes.name}}";
    // Whole seconds are asked for, so the second that is under way has to be over.
    let end = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 1;
    let events =
        engine.docker(["events", "--since", "1", "--until", &end.to_string(), "--format", format]).ok();
    for event in ["image delete", "network destroy unused", "container destroy stopped"] {
        assert_eq!(events.matches(event).count(), 1, "{event}:\n{events}");
    }
}

#[test]
fn containers_that_stopped_yesterday_stay_for_a_week() {
    let mut engine = full();
    configure(&engine, &json!({ "disk-watermark": "1%", "until": "0s" }));
    engine.launch();
    wait_for("the cleaning", || engine.log().contains("Cleaned up"));
    let (_, containers, images, volumes) = inventory(&engine);
    assert_eq!((containers.as_str(), images.as_str(), volumes), (CONTAINERS, "busybox kept old", 1));
}

#[test]
fn what_would_be_cleaned_away_is_shown_and_then_is_what_goes() {
    let mut engine = full();
    configure(&engine, &json!({ "enabled": false, "until": "0s" }));
    engine.launch();
    let plan = own(&engine, &["prune", "--dry-run", "--format", "{{.Kind}} {{.Name}}"]);
    assert_eq!(plan, "image \nnetwork unused\n");
    assert_eq!(engine.stop(), Some(0));
    configure(&engine, &json!({ "enabled": false, "until": "0s", "containers-until": "0s" }));
    engine.launch();
    let plan = own(&engine, &["prune", "--dry-run", "--format", "{{.Kind}} {{.Name}}"]);
    assert_eq!(plan, "image \nnetwork unused\ncontainer stopped\n");
    assert_eq!(inventory(&engine), all());
    let id = engine.docker(["inspect", "--format", "{{.Id}}", "stopped"]).ok();
    let said = own(&engine, &["prune"]);
    assert!(said.contains("deleted network: unused\n"), "{said}");
    assert!(said.contains(&format!("deleted container: {id}")), "{said}");
    assert_eq!(inventory(&engine), what_stays());
    assert_eq!(own(&engine, &["prune", "--dry-run", "--format", "{{.Kind}}"]), "");
}

#[test]
fn the_schedule_counts_from_the_last_cleaning_not_from_the_start() {
    let mut engine = Engine::start_with(r#"{"prune": {"enabled": false}}"#, &[]);
    for content in ["older", "newer"] {
        let archive = harness::image("kept:1", &[tar_of(content)], &json!({}));
        engine.docker_with_input(["load"], &archive).ok();
    }
    assert_eq!(engine.stop(), Some(0));
    let marker = fs::File::create(engine.data_root().join("last-prune")).unwrap();
    marker.set_modified(std::time::SystemTime::now() - std::time::Duration::from_hours(25)).unwrap();
    configure(&engine, &json!({ "disk-watermark": "100%", "until": "0s" }));
    engine.launch();
    wait_for("the cleaning", || engine.log().contains("Cleaned up why=\"schedule\""));
    assert_eq!(engine.docker(["images", "--quiet"]).ok().lines().count(), 1);
    let age = marker.metadata().unwrap().modified().unwrap().elapsed().unwrap();
    assert!(age < std::time::Duration::from_hours(1), "the time of the cleaning is noted");
}

#[test]
fn a_network_counts_as_used_for_as_long_after_its_last_container() {
    let mut engine = Engine::start();
    engine.load_busybox();
    engine.docker(["network", "create", "proxy"]).ok();
    assert_eq!(engine.stop(), Some(0));
    // It was made long ago.
    let path = engine.data_root().join("network/networks.json");
    let mut kept: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for network in kept["networks"].as_array_mut().unwrap() {
        network["created"] = json!("2020-01-01T00:00:00Z");
    }
    fs::write(&path, kept.to_string()).unwrap();
    engine.launch();
    let planned = |engine: &Engine| own(engine, &["prune", "--dry-run", "--format", "{{.Kind}} {{.Name}}"]);
    assert_eq!(planned(&engine), "network proxy\n");
    engine.docker(["run", "--rm", "--network", "proxy", "busybox", "true"]).ok();
    assert_eq!(planned(&engine), "");
    assert_eq!(engine.stop(), Some(0));
    engine.launch();
    assert_eq!(planned(&engine), "");
}

/// The list of images and their names was torn: that they have no name is no wish of a user.
#[test]
fn images_that_were_found_again_without_their_names_stay() {
    let mut engine = Engine::start();
    engine.load_busybox();
    let id = engine.docker(["images", "--quiet", "--no-trunc"]).ok();
    assert_eq!(engine.stop(), Some(0));
    fs::write(engine.data_root().join("images/state.json"), "{\"version\"").unwrap();
    configure(&engine, &json!({ "enabled": false, "until": "0s" }));
    engine.launch();
    assert_eq!(engine.docker(["images", "--quiet", "--no-trunc", "--filter", "dangling=true"]).ok(), id);
    assert_eq!(own(&engine, &["prune", "--dry-run", "--format", "{{.Kind}}"]), "");
    own(&engine, &["prune"]);
    assert_eq!(engine.docker(["images", "--quiet", "--no-trunc"]).ok(), id);
}

/// A removal that breaks off is finished by the next daemon as it was meant.
#[test]
fn a_removal_that_broke_off_takes_volumes_only_if_it_was_told_to() {
    let mut engine = Engine::start();
    engine.load_busybox();
    let volumes = |engine: &Engine| engine.docker(["volume", "ls", "--quiet"]).ok().lines().count();
    for (arguments, left) in [(&["rm", "one"][..], 1), (&["rm", "--volumes", "one"], 0)] {
        engine.docker(["volume", "prune", "--all", "--force"]).ok();
        engine.docker(["run", "--name", "one", "--volume", "/data", "busybox", "touch", "/data/mine"]).ok();
        let source = engine.docker(["inspect", "--format", "{{(index .Mounts 0).Source}}", "one"]).ok();
        let id = engine.docker(["inspect", "--format", "{{.Id}}", "one"]).ok();
        // What would go first cannot be removed for now.
        let blocked = format!("{}/containers/{}/blocked", engine.exec_root(), id.trim());
        engine.inside("mkdir", ["-p", &blocked]).ok();
        engine.inside("mount", ["-t", "tmpfs", "tmpfs", &blocked]).ok();
        engine.docker(arguments).failed();
        engine.kill();
        engine.inside("umount", [&blocked]).ok();
        assert_eq!(fs::read_dir(engine.data_root().join("volumes")).unwrap().count(), 1, "{arguments:?}");
        engine.launch();
        assert_eq!(engine.docker(["ps", "--all", "--quiet"]).ok(), "", "{arguments:?}");
        assert_eq!(volumes(&engine), left, "{arguments:?}");
        assert_eq!(PathBuf::from(source.trim()).join("mine").exists(), left == 1);
    }
}

#[test]
fn a_volume_of_another_kind_is_refused_and_its_labels_are_kept() {
    let engine = Engine::start();
    engine.load_busybox();
    let create = |mount: &str| engine.docker(["create", "--mount", mount, "busybox", "true"]);
    let said = create("type=volume,source=data,target=/d,volume-opt=type=nfs").failed();
    assert!(said.contains("missing required option: \"device\""), "{said}");
    let said = create("type=volume,source=data,target=/d,volume-driver=flocker").failed();
    assert!(said.contains("volume-driver=flocker"), "{said}");
    assert_eq!(engine.docker(["volume", "ls", "--quiet"]).ok(), "");
    create("type=volume,source=data,target=/d,volume-driver=local,volume-label=a=b").ok();
    assert_eq!(engine.docker(["volume", "inspect", "--format", "{{.Labels}}", "data"]).ok(), "map[a:b]\n");
}
