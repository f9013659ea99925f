//! Images with the stock client: load, list, inspect, tag, save, remove, and what goes wrong.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::json;

mod harness;
#[path = "images/making.rs"]
mod making;

use harness::{Engine, busybox_image, image, wait_for};

/// A layer with one file.
fn layer(name: &str, content: &[u8]) -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    layer.append_data(&mut header, name, content).unwrap();
    layer.into_inner().unwrap()
}

fn names_in(engine: &Engine, directory: &str) -> Vec<String> {
    let entries = fs::read_dir(engine.data_root().join("images").join(directory)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[track_caller]
fn assert_nothing_left(engine: &Engine) {
    for directory in ["tmp", "layers", "l", "configs"] {
        assert_eq!(names_in(engine, directory), Vec::<String>::new(), "{directory}");
    }
    assert_eq!(engine.http("GET", "/images/json?all=1", b"").json(), json!([]));
}

#[test]
fn an_image_is_loaded_listed_tagged_and_removed() {
    let engine = Engine::start();
    engine.load_busybox();
    let id = engine.docker(["images", "--quiet", "--no-trunc"]).ok();
    assert!(id.starts_with("sha256:"));
    let list = engine.docker(["images", "--format", "{{.Repository}} {{.Tag}} {{.ID}}"]).ok();
    assert_eq!(list, format!("busybox latest {}\n", &id["sha256:".len()..][..12]));
    let inspected = engine.docker([
        "image",
        "inspect",
        "busybox",
        "--format",
        "{{.Config.Cmd}} {{.Os}}/{{.Architecture}}",
    ]);
    assert!(inspected.ok().starts_with("[sh] linux/"));
    let history = engine.docker(["history", "--quiet", "busybox"]).ok();
    assert_eq!(history, format!("{}\n", &id["sha256:".len()..][..12]));

    engine.docker(["tag", "busybox", "registry.test:5000/team/box:v1"]).ok();
    let repositories = engine.docker(["images", "--format", "{{.Repository}}:{{.Tag}}"]).ok();
    // The client prints the names of one image in any order.
    let mut repositories: Vec<&str> = repositories.lines().collect();
    repositories.sort_unstable();
    assert_eq!(repositories, ["busybox:latest", "registry.test:5000/team/box:v1"]);
    assert_eq!(
        engine.docker(["rmi", "registry.test:5000/team/box:v1"]).ok(),
        "Untagged: registry.test:5000/team/box:v1\n"
    );
    let removed = engine.docker(["rmi", "busybox"]).ok();
    let mut lines = removed.lines();
    assert_eq!(lines.next(), Some("Untagged: busybox:latest"));
    assert_eq!(lines.next(), Some(format!("Deleted: {}", id.trim()).as_str()));
    assert_nothing_left(&engine);
    let error = engine.docker(["rmi", "busybox"]).failed();
    assert!(error.contains("No such image: busybox:latest"), "{error}");
    let error = engine.docker(["tag", "busybox", "x"]).failed();
    assert!(error.contains("No such image: busybox:latest"), "{error}");
}

#[test]
fn the_list_is_filtered_as_docker_does() {
    let engine = Engine::start();
    for (name, label) in [("red/one:1", "colour=red"), ("blue/two:2", "colour=blue"), ("plain:1", "size")] {
        let (key, value) = label.split_once('=').unwrap_or((label, ""));
        let archive = image(
            name,
            &[layer(name.split(['/', ':']).next().unwrap(), b"x")],
            &json!({"Labels": {key: value}}),
        );
        engine.docker_with_input(["load"], &archive).ok();
    }
    let list = |filter: &str| {
        let output =
            engine.docker(["images", "--filter", filter, "--format", "{{.Repository}}:{{.Tag}}"]).ok();
        let mut names: Vec<String> = output.lines().map(str::to_owned).collect();
        names.sort();
        names
    };
    assert_eq!(list("reference=*/one"), ["red/one:1"]);
    assert_eq!(list("reference=plain"), ["plain:1"]);
    assert_eq!(list("label=colour"), ["blue/two:2", "red/one:1"]);
    assert_eq!(list("label=colour=red"), ["red/one:1"]);
    assert_eq!(list("dangling=true"), Vec::<String>::new());
    assert_eq!(list("dangling=false").len(), 3);
    let error = engine.docker(["images", "--filter", "shape=round"]).failed();
    assert!(error.contains("invalid filter 'shape'"), "{error}");
}

#[test]
fn saved_images_are_loaded_by_another_engine() {
    let (first, second) = (Engine::start(), Engine::start());
    first.load_busybox();
    let saved = first.path("saved.tar");
    let saved = saved.to_str().unwrap();
    first.docker(["save", "--output", saved, "busybox"]).ok();
    assert_eq!(second.docker(["load", "--input", saved]).ok(), "Loaded image: busybox:latest\n");
    let ids = |engine: &Engine| engine.docker(["images", "--quiet", "--no-trunc"]).ok();
    assert_eq!(ids(&first), ids(&second));
    let error = first.docker(["save", "--output", saved, "nothing"]).failed();
    assert!(error.contains("No such image: nothing:latest"), "{error}");
}

#[test]
fn an_image_in_use_stays() {
    let engine = Engine::start();
    engine.load_busybox();
    engine.docker(["create", "--name", "user", "busybox", "true"]).ok();
    let error = engine.docker(["rmi", "busybox"]).failed();
    assert!(error.contains("unable to remove repository reference \"busybox\" (must force)"), "{error}");
    let id = engine.docker(["images", "--quiet"]).ok();
    let error = engine.docker(["rmi", id.trim()]).failed();
    assert!(error.contains("image is being used by stopped container"), "{error}");
    // Forced away, the container can still be started.
    engine.docker(["rmi", "--force", "busybox"]).ok();
    assert_eq!(engine.docker(["images", "--quiet"]).ok(), "");
    engine.docker(["start", "--attach", "user"]).ok();
    engine.docker(["rm", "user"]).ok();
    let mut engine = engine;
    assert_eq!(engine.stop(), Some(0));
    engine.launch();
    assert_nothing_left(&engine);
}

#[test]
fn what_is_not_an_image_is_refused() {
    let engine = Engine::start();
    let evil = image("evil:1", &[layer("x", b"x")], &json!({}));
    let at = evil.windows(11).rposition(|bytes| bytes == b"0/layer.tar").unwrap();
    let mut renamed = evil.clone();
    renamed[at] = b'1';
    for (what, archive, expected) in [
        ("noise", vec![0x55; 4096], "This is not a tar archive"),
        ("nothing", Vec::new(), "neither `manifest.json` nor `index.json`"),
        ("half", evil[..evil.len() / 2].to_vec(), "ends in the middle"),
        ("lacking", renamed, "lacks `1/layer.tar`"),
    ] {
        let error = engine.docker_with_input(["load"], &archive).failed();
        assert!(error.contains(expected), "{what}: {error}");
        assert_nothing_left(&engine);
    }
}

/// Sends the head and the first half of a load.
fn half_a_load(engine: &Engine) -> UnixStream {
    let archive = image("half:1", &[layer("big", &vec![7; 4 << 20])], &json!({}));
    let mut stream = UnixStream::connect(engine.socket()).unwrap();
    let head =
        format!("POST /images/load?quiet=1 HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", archive.len());
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&archive[..archive.len() / 2]).unwrap();
    wait_for("the load to begin", || !names_in(engine, "tmp").is_empty());
    stream
}

#[test]
fn a_load_that_is_cut_off_leaves_nothing() {
    let engine = Engine::start();
    drop(half_a_load(&engine));
    wait_for("the load to end", || names_in(&engine, "tmp").is_empty());
    assert_nothing_left(&engine);
}

#[test]
fn a_load_that_is_killed_leaves_nothing() {
    let mut engine = Engine::start();
    engine.load_busybox();
    let _stream = half_a_load(&engine);
    engine.kill();
    assert!(!names_in(&engine, "tmp").is_empty(), "the kill came too late to prove anything");
    engine.launch();
    assert_eq!(engine.docker(["images", "--format", "{{.Repository}}"]).ok(), "busybox\n");
    assert_eq!(names_in(&engine, "tmp"), Vec::<String>::new());
    assert_eq!(names_in(&engine, "layers").len(), 1);
    engine.docker(["run", "--rm", "busybox", "true"]).ok();
}

#[test]
fn a_full_disk_fails_the_load_and_nothing_else() {
    let mut engine = Engine::prepare("{}", &[]);
    fs::create_dir(engine.data_root()).unwrap();
    let data = engine.data_root();
    engine.inside("mount", ["-t", "tmpfs", "-o", "size=6m", "tmpfs", data.to_str().unwrap()]).ok();
    engine.launch();
    let big = image("big:1", &[layer("big", &vec![7; 16 << 20])], &json!({}));
    let error = engine.docker_with_input(["load"], &big).failed();
    assert!(error.contains("No space left on device"), "{error}");
    assert_eq!(engine.http("GET", "/images/json", b"").json(), json!([]));
    let small = image("small:1", &[layer("small", b"fits")], &json!({}));
    assert_eq!(engine.docker_with_input(["load"], &small).ok(), "Loaded image: small:1\n");
}

#[test]
fn progress_is_told_while_loading_and_errors_come_in_the_stream() {
    let engine = Engine::start();
    let answer = engine.http("POST", "/images/load?quiet=0", &busybox_image());
    assert_eq!(answer.status, 200);
    let text = answer.text();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let layer = &lines[0];
    assert_eq!(layer["status"], "Loading layer");
    assert!(layer["progressDetail"]["total"].as_u64().unwrap() > 0);
    assert_eq!(lines.last().unwrap()["stream"], "Loaded image: busybox:latest\n");
    let answer = engine.http("POST", "/images/load", b"nonsense");
    assert!(answer.json()["errorDetail"]["message"].as_str().unwrap().contains("archive"));
}

#[test]
fn the_answers_have_the_fields_that_client_libraries_read() {
    let engine = Engine::start();
    engine.load_busybox();
    let list = engine.http("GET", "/v1.43/images/json", b"").json();
    for field in [
        "Id",
        "ParentId",
        "RepoTags",
        "RepoDigests",
        "Created",
        "Size",
        "SharedSize",
        "VirtualSize",
        "Labels",
        "Containers",
    ] {
        assert!(list[0].get(field).is_some(), "{field}");
    }
    let inspected = engine.http("GET", "/images/busybox/json", b"").json();
    for field in [
        "Id",
        "RepoTags",
        "RepoDigests",
        "Parent",
        "Comment",
        "Created",
        "DockerVersion",
        "Author",
        "Config",
        "Architecture",
        "Os",
        "Size",
        "GraphDriver",
        "RootFS",
        "Metadata",
    ] {
        assert!(inspected.get(field).is_some(), "{field}");
    }
    assert_eq!(inspected["RootFS"]["Layers"].as_array().unwrap().len(), 1);
    let missing = engine.http("GET", "/images/docker.io/library/nothing:1/json", b"");
    assert_eq!((missing.status, missing.json()), (404, json!({"message": "No such image: nothing:1"})));
    let bad = engine.http("GET", "/images/UPPER/json", b"");
    assert_eq!(bad.status, 400);
}

#[test]
fn a_thousand_small_files_arrive_whole() {
    let engine = Engine::start();
    let mut builder = tar::Builder::new(Vec::new());
    for number in 0..1000 {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(4);
        // Long names take another kind of header.
        let name = format!("{}/{number}", "directory-with-a-long-name/".repeat(5));
        builder.append_data(&mut header, name, &b"text"[..]).unwrap();
    }
    let archive = image("many:1", &[builder.into_inner().unwrap()], &json!({}));
    engine.docker_with_input(["load"], &archive).ok();
    let inspected = engine.http("GET", "/images/many:1/json", b"").json();
    assert_eq!(inspected["Size"], 4000);
    let mut saved = engine.docker_command(["save", "many:1"]);
    let mut child = saved.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut bytes = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut bytes).unwrap();
    assert!(child.wait().unwrap().success());
    let id = inspected["Id"].clone();
    engine.docker(["rmi", "many:1"]).ok();
    engine.docker_with_input(["load"], &bytes).ok();
    assert_eq!(engine.http("GET", "/images/many:1/json", b"").json()["Id"], id);
}
