//! Images and registries: pull, push, login and search with the stock client, from Debian's registry and from hostile ones.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::Stdio;

use serde_json::{Value, json};

mod context;
mod harness;
#[path = "registry/hostile.rs"]
mod hostile;
#[path = "registry/logins.rs"]
mod logins;
#[path = "registry/servers.rs"]
mod servers;
mod web;

use harness::{Engine, run, wait_for};
use servers::{Fake, Fixture, Registry, Reply, denial, digest};

/// Tries again quickly, as time is not what is tested.
const CONFIGURATION: &str = r#"{"max-download-attempts": 3}"#;

/// A layer with one file of this many bytes that cannot be packed well.
fn layer(name: &str, size: usize) -> Vec<u8> {
    let mut content = Vec::with_capacity(size + 32);
    let mut number = 0_u64;
    while content.len() < size {
        content.extend_from_slice(digest(format!("{name} {number}").as_bytes()).as_bytes());
        number += 1;
    }
    content.truncate(size);
    let mut layer = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    layer.append_data(&mut header, name, &content[..]).unwrap();
    layer.into_inner().unwrap()
}

fn ids(engine: &Engine) -> String {
    engine.docker(["images", "--quiet", "--no-trunc"]).ok()
}

fn left_over(engine: &Engine, directory: &str) -> Vec<String> {
    let entries = fs::read_dir(engine.data_root().join("images").join(directory)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn an_image_is_pushed_removed_and_pulled_back() {
    let engine = Engine::start();
    let _registry = Registry::start(&engine, "registry", "127.0.0.1:5000", &json!({}));
    engine.load_busybox();
    let id = ids(&engine);
    engine.docker(["tag", "busybox", "localhost:5000/my-app"]).ok();
    let pushed = engine.docker(["push", "localhost:5000/my-app"]).ok();
    assert!(pushed.contains("The push refers to repository [localhost:5000/my-app]"), "{pushed}");
    assert!(pushed.contains(": Pushed\n"), "{pushed}");
    let digest = pushed.split("digest: ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    let digests = |name: &str| {
        let format = "{{range .RepoDigests}}{{println .}}{{end}}";
        engine.docker(["image", "inspect", "--format", format, name]).ok()
    };
    assert_eq!(digests("busybox").trim(), format!("localhost:5000/my-app@{digest}"));
    let again = engine.docker(["push", "localhost:5000/my-app"]).ok();
    assert!(again.contains("Layer already exists"), "{again}");
    assert!(again.contains(&digest), "{again}");

    engine.docker(["rmi", "localhost:5000/my-app", "busybox"]).ok();
    assert_eq!(ids(&engine), "");
    let pulled = engine.docker(["pull", "localhost:5000/my-app"]).ok();
    for line in [
        "latest: Pulling from my-app",
        "Pull complete",
        &format!("Digest: {digest}"),
        "Status: Downloaded newer image for localhost:5000/my-app:latest",
    ] {
        assert!(pulled.contains(line), "{line} is not in\n{pulled}");
    }
    assert_eq!(ids(&engine), id);
    assert_eq!(digests("localhost:5000/my-app").trim(), format!("localhost:5000/my-app@{digest}"));
    let again = engine.docker(["pull", "localhost:5000/my-app:latest"]).ok();
    assert!(again.contains("Status: Image is up to date for localhost:5000/my-app:latest"), "{again}");
    let said =
        engine.docker(["run", "--rm", &format!("localhost:5000/my-app@{digest}"), "echo", "back"]).ok();
    assert_eq!(said, "back\n");
    assert_eq!(left_over(&engine, "tmp"), Vec::<String>::new());
    assert_eq!(left_over(&engine, "downloads"), Vec::<String>::new());

    // By digest alone, an image has no tag; what is pulled by its digest is what was pushed.
    engine.docker(["rmi", "-f", id.trim()]).ok();
    engine.docker(["pull", &format!("localhost:5000/my-app@{digest}")]).ok();
    assert_eq!(ids(&engine), id);
    assert_eq!(
        engine.docker(["images", "--format", "{{.Repository}} {{.Tag}}"]).ok(),
        "localhost:5000/my-app <none>\n"
    );
    // A run pulls what is not there.
    engine.docker(["rmi", "-f", id.trim()]).ok();
    let run = engine.docker(["run", "--rm", "localhost:5000/my-app", "echo", "from afar"]);
    assert_eq!(run.clone().ok(), "from afar\n");
    assert!(
        run.stderr.contains("Unable to find image 'localhost:5000/my-app:latest' locally"),
        "{}",
        run.stderr
    );
}

#[test]
fn another_repository_of_the_registry_gets_its_layers_from_there() {
    let engine = Engine::start();
    let _registry = Registry::start(&engine, "registry", "127.0.0.1:5000", &json!({}));
    engine.load_busybox();
    engine.docker(["tag", "busybox", "localhost:5000/first"]).ok();
    engine.docker(["tag", "busybox", "localhost:5000/team/second:v2"]).ok();
    engine.docker(["push", "-q", "localhost:5000/first"]).ok();
    let second = engine.docker(["push", "localhost:5000/team/second:v2"]).ok();
    assert!(second.contains("Mounted from"), "{second}");
    // All tags of a repository, there and back.
    engine.docker(["tag", "busybox", "localhost:5000/first:two"]).ok();
    engine.docker(["push", "--all-tags", "localhost:5000/first"]).ok();
    engine.docker(["rmi", "-f", "busybox", "localhost:5000/first", "localhost:5000/first:two"]).ok();
    engine.docker(["pull", "--all-tags", "localhost:5000/first"]).ok();
    let names = engine.docker(["images", "--format", "{{.Tag}}", "localhost:5000/first"]).ok();
    let mut names: Vec<&str> = names.lines().collect();
    names.sort_unstable();
    assert_eq!(names, ["latest", "two"]);
    // The client may take the end of the stream before the last of its lines, and shows those no more.
    for event in ["image push localhost:5000/team/second:v2", "image pull localhost:5000/first:two"] {
        let told = ["events", "--since", "5m", "--until", "0s", "--filter", "type=image"];
        wait_for(event, || engine.docker(told).ok().contains(event));
    }
}

#[test]
fn what_is_not_there_is_said_in_dockers_words() {
    let engine = Engine::start();
    let _registry = Registry::start(&engine, "registry", "127.0.0.1:5000", &json!({}));
    engine.load_busybox();
    engine.docker(["tag", "busybox", "localhost:5000/app"]).ok();
    engine.docker(["push", "localhost:5000/app"]).ok();
    let error = engine.docker(["pull", "localhost:5000/app:nope"]).failed();
    assert!(
        error.contains("manifest for localhost:5000/app:nope not found: manifest unknown: manifest unknown"),
        "{error}"
    );
    let answer = engine.http("POST", "/images/create?fromImage=localhost:5000/app&tag=nope", b"");
    assert_eq!(answer.status, 404);
    let error = engine.docker(["push", "localhost:5000/app:other"]).failed();
    assert!(error.contains("An image does not exist locally with the tag: localhost:5000/app"), "{error}");
    let error = engine.docker(["pull", "127.0.0.1:1/nothing"]).failed();
    assert!(error.contains("127.0.0.1:1"), "{error}");
    let wrong = [
        ("/images/create?fromImage=x/UPPER", 400),
        ("/images/create?fromImage=x&platform=a/b/c/d", 400),
        ("/images/create?fromImage=x&fromSrc=-", 400),
        ("/images/create", 400),
        ("/images/create?fromImage=x&changes=ENV", 400),
    ];
    for (path, status) in wrong {
        let answer = engine.http("POST", path, b"");
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
    }
    let error = engine.docker(["search", "localhost:5000/app"]).failed();
    assert!(error.contains("not found"), "{error}");
}

#[test]
fn the_platform_of_several_is_chosen() {
    let engine = Engine::start();
    let own = Fixture::of(&[layer("own", 100)]);
    let mut other = Fixture::of(&[layer("other", 100)]);
    let config: Value = serde_json::from_slice(&other.blobs[&other.config]).unwrap();
    let mut config = config;
    config["architecture"] = json!("s390x");
    let bytes = config.to_string().into_bytes();
    let manifest = String::from_utf8(other.manifest.clone()).unwrap();
    let manifest = manifest.replace(&other.config, &digest(&bytes));
    let old = other.blobs.remove(&other.config).unwrap().len();
    other.manifest =
        manifest.replace(&format!("\"size\":{old}"), &format!("\"size\":{}", bytes.len())).into();
    other.blobs.insert(digest(&bytes), bytes);
    let entry = |fixture: &Fixture, architecture: &str| {
        json!({
            "mediaType": servers::MANIFEST,
            "digest": digest(&fixture.manifest),
            "size": fixture.manifest.len(),
            "platform": {"os": "linux", "architecture": architecture},
        })
    };
    let host = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    };
    let index_type = "application/vnd.oci.image.index.v1+json";
    let index = json!({
        "schemaVersion": 2,
        "mediaType": index_type,
        "manifests": [entry(&other, "s390x"), entry(&own, "unknown"), entry(&own, host)],
    });
    let index = index.to_string().into_bytes();
    let (first, second) = (own.clone(), other.clone());
    let served = index.clone();
    let _fake = Fake::start(&engine, "127.0.0.1:5001", move |asked| {
        let last = asked.path.rsplit('/').next().unwrap();
        if asked.path.contains("/manifests/") && (last == "latest" || last == digest(&served)) {
            return Reply::new(200, served.clone()).with("Content-Type", index_type);
        }
        let reply = first.answer(asked);
        if reply.status == 404 { second.answer(asked) } else { reply }
    });
    engine.docker(["pull", "127.0.0.1:5001/many"]).ok();
    let show =
        |format: &str| engine.docker(["image", "inspect", "--format", format, "127.0.0.1:5001/many"]).ok();
    assert_eq!(show("{{.Architecture}}").trim(), host);
    assert_eq!(show("{{index .RepoDigests 0}}").trim(), format!("127.0.0.1:5001/many@{}", digest(&index)));
    engine.docker(["pull", "--platform", "linux/s390x", "127.0.0.1:5001/many"]).ok();
    assert_eq!(show("{{.Architecture}}").trim(), "s390x");
    let error = engine.docker(["pull", "--platform", "linux/riscv64", "127.0.0.1:5001/many"]).failed();
    assert!(error.contains("no matching manifest for linux/riscv64 in the manifest list entries"), "{error}");
    let answer = engine.http("GET", "/distribution/127.0.0.1:5001/many/json", b"").json();
    assert_eq!(answer["Descriptor"]["digest"], digest(&index));
    assert_eq!(answer["Platforms"].as_array().unwrap().len(), 3);
    let missing = engine.http("GET", "/distribution/127.0.0.1:1/none/json", b"");
    assert_eq!(missing.status, 500, "{}", missing.text());
}

#[test]
fn mirrors_are_asked_first_and_not_told_who_the_caller_is() {
    let engine =
        Engine::prepare(r#"{"registry-mirrors": ["http://127.0.0.1:5001", "http://127.0.0.1:5000/"]}"#, &[]);
    let mut engine = engine;
    engine.launch();
    let _registry = Registry::start(&engine, "registry", "127.0.0.1:5000", &json!({}));
    let fake = Fake::start(&engine, "127.0.0.1:5001", |asked| match asked.path.as_str() {
        "/v2/" => Reply::new(200, "{}"),
        _ => denial(404, "MANIFEST_UNKNOWN", "manifest unknown"),
    });
    engine.load_busybox();
    engine.docker(["tag", "busybox", "localhost:5000/library/box"]).ok();
    engine.docker(["push", "-q", "localhost:5000/library/box"]).ok();
    engine.docker(["rmi", "busybox", "localhost:5000/library/box"]).ok();
    let secret = "eyJ1c2VybmFtZSI6Im1lIiwicGFzc3dvcmQiOiJzIn0=";
    let mut command = engine.enter("curl");
    command.args(["-sS", "--unix-socket"]).arg(engine.socket());
    command.args(["-X", "POST", "-H", &format!("X-Registry-Auth: {secret}")]);
    command.arg("http://engine/images/create?fromImage=box&tag=latest");
    let pulled = run(&mut command, b"").ok();
    assert!(pulled.contains("Status: Downloaded newer image for box:latest"), "{pulled}");
    assert_eq!(engine.docker(["run", "--rm", "box", "echo", "mirrored"]).ok(), "mirrored\n");
    // All tags are those of a mirror that lists them.
    engine.docker(["rmi", "box"]).ok();
    let pulled = engine.docker(["pull", "-a", "box"]).ok();
    assert!(pulled.contains("Status: Downloaded newer image for box"), "{pulled}");
    let asked = fake.asked.lock().unwrap();
    assert!(asked.iter().any(|one| one.path == "/v2/library/box/manifests/latest"), "{asked:?}");
    assert!(asked.iter().all(|one| !one.headers.contains_key("authorization")), "{asked:?}");
}

#[test]
fn a_pull_goes_on_where_the_killed_daemon_was() {
    let mut engine = Engine::start_with(CONFIGURATION, &[]);
    let fixture = Fixture::of(&[layer("big", 8 << 20)]);
    let served = fixture.clone();
    let fake = Fake::start(&engine, "127.0.0.1:5001", move |asked| {
        let mut reply = served.answer(asked);
        if reply.body.len() > 1 << 20 && !asked.headers.contains_key("range") {
            reply.pace = std::time::Duration::from_millis(20);
        }
        reply
    });
    let mut client = engine.docker_command(["pull", "127.0.0.1:5001/big"]);
    let mut client = client.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let part = engine.data_root().join("images/downloads").join(&fixture.layers[0]["sha256:".len()..]);
    wait_for("a part of the layer", || fs::metadata(&part).is_ok_and(|file| file.len() > 1 << 20));
    engine.kill();
    client.wait().unwrap();
    engine.launch();
    assert_eq!(ids(&engine), "");
    let before = fs::metadata(&part).unwrap().len();
    engine.docker(["pull", "127.0.0.1:5001/big"]).ok();
    let asked = fake.asked.lock().unwrap();
    let ranges: Vec<&String> = asked.iter().filter_map(|one| one.headers.get("range")).collect();
    assert_eq!(ranges, [&format!("bytes={before}-")]);
    drop(asked);
    assert_eq!(left_over(&engine, "downloads"), Vec::<String>::new());
    assert_eq!(left_over(&engine, "tmp"), Vec::<String>::new());
}

#[test]
fn a_client_that_goes_away_ends_its_pull() {
    let engine = Engine::start_with(CONFIGURATION, &[]);
    let fixture = Fixture::of(&[layer("slow", 4 << 20)]);
    let served = fixture.clone();
    let _fake = Fake::start(&engine, "127.0.0.1:5001", move |asked| {
        let mut reply = served.answer(asked);
        if reply.body.len() > 1 << 20 {
            reply.pace = std::time::Duration::from_millis(200);
        }
        reply
    });
    let mut client = engine.docker_command(["pull", "127.0.0.1:5001/slow"]);
    let mut client = client.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let part = engine.data_root().join("images/downloads").join(&fixture.layers[0]["sha256:".len()..]);
    wait_for("a part of the layer", || fs::metadata(&part).is_ok_and(|file| file.len() > 0));
    client.kill().unwrap();
    client.wait().unwrap();
    wait_for("the end of the pull", || engine.log().contains("as its client is gone"));
    wait_for("nothing in progress", || left_over(&engine, "tmp").is_empty());
    assert_eq!(ids(&engine), "");
}

#[test]
fn pulls_of_one_image_at_once_are_all_served() {
    let engine = Engine::start();
    let (base, shared) = (layer("base", 3 << 20), layer("shared", 2 << 20));
    // A layer that is there twice has two places in the store and one download.
    let fixture = Fixture::of(&[base, shared.clone(), shared]);
    let served = fixture.clone();
    let fake = Fake::start(&engine, "127.0.0.1:5001", move |asked| served.answer(asked));
    let pulls: Vec<_> = (0..4)
        .map(|number| {
            let name = format!("127.0.0.1:5001/same:{number}");
            let mut command = engine.docker_command(["pull", &name]);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for pull in pulls {
        let output = pull.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let names = engine.docker(["images", "--format", "{{.Tag}} {{.ID}}"]).ok();
    assert_eq!(names.lines().count(), 4, "{names}");
    assert!(fake.count("GET", &fixture.layers[0]) <= 4);
    assert_eq!(left_over(&engine, "downloads"), Vec::<String>::new());
    assert_eq!(left_over(&engine, "layers").len(), 3);
    let restarted = {
        let mut engine = engine;
        assert_eq!(engine.stop(), Some(0));
        engine.launch();
        engine
    };
    assert_eq!(restarted.docker(["images", "--format", "{{.Tag}} {{.ID}}"]).ok().lines().count(), 4);
}

#[test]
fn a_search_is_shown_and_filtered() {
    let engine = Engine::start();
    let fake = Fake::start(&engine, "127.0.0.1:5001", |_| {
        let results = json!([
            {"name": "box", "description": "A box", "is_official": true, "star_count": 5},
            {"name": "me/box", "description": null, "star_count": 1},
        ]);
        Reply::new(200, json!({"num_results": 2, "results": results}).to_string())
    });
    let found = engine.docker([
        "search",
        "--format",
        "{{.Name}} {{.StarCount}} {{.IsOfficial}}",
        "127.0.0.1:5001/box",
    ]);
    assert_eq!(found.ok(), "box 5 [OK]\nme/box 1 \n");
    let official = engine.docker([
        "search",
        "--filter",
        "is-official=true",
        "--format",
        "{{.Name}}",
        "127.0.0.1:5001/box",
    ]);
    assert_eq!(official.ok(), "box\n");
    let stars =
        engine.docker(["search", "--filter", "stars=2", "--format", "{{.Name}}", "127.0.0.1:5001/box"]);
    assert_eq!(stars.ok(), "box\n");
    assert!(fake.asked.lock().unwrap().iter().any(|one| one.path == "/v1/search?q=box&n=25"));
    assert_eq!(engine.http("GET", "/images/search", b"").status, 400);
    assert_eq!(engine.http("GET", "/images/search?term=x&limit=101", b"").status, 400);
}

/// A registry in a container of the same engine, as people run one: an image of Debian's program and the libraries it takes.
#[test]
fn a_registry_runs_as_a_container_and_keeps_what_is_pushed_to_it() {
    let engine = Engine::start();
    engine.load_busybox();
    engine.docker_with_input(["load"], &registry_image()).ok();
    engine
        .docker([
            "run",
            "-d",
            "--name",
            "registry",
            "-p",
            "5000:5000",
            "-v",
            "kept:/var/lib/registry",
            "registry:2",
        ])
        .ok();
    wait_for("the registry", || engine.inside("curl", ["-sf", "http://localhost:5000/v2/"]).code == Some(0));
    engine.docker(["tag", "busybox", "localhost:5000/my-app"]).ok();
    engine.docker(["push", "localhost:5000/my-app"]).ok();
    engine.docker(["rmi", "localhost:5000/my-app", "busybox"]).ok();
    // Another container on the same data, and no way to anywhere else.
    engine.docker(["rm", "-f", "registry"]).ok();
    engine
        .docker([
            "run",
            "-d",
            "--name",
            "again",
            "-p",
            "5000:5000",
            "-v",
            "kept:/var/lib/registry",
            "registry:2",
        ])
        .ok();
    wait_for("the registry", || engine.inside("curl", ["-sf", "http://localhost:5000/v2/"]).code == Some(0));
    let said = engine.docker(["run", "--rm", "localhost:5000/my-app", "echo", "kept"]);
    assert_eq!(said.ok(), "kept\n");
}

/// What a Dockerfile begins with is pulled where it is not there, as who the client is to the registry.
#[test]
fn a_build_pulls_what_it_begins_with() {
    let engine = Engine::start();
    let _registry = Registry::start(&engine, "registry", "127.0.0.1:5000", &logins::passwords(&engine));
    engine.load_busybox();
    engine.docker_with_input(["login", "-u", "me", "--password-stdin", "localhost:5000"], b"word").ok();
    engine.docker(["tag", "busybox", "localhost:5000/base"]).ok();
    engine.docker(["push", "-q", "localhost:5000/base"]).ok();
    engine.docker(["rmi", "localhost:5000/base", "busybox"]).ok();
    let folder = engine.path("context");
    fs::create_dir(&folder).unwrap();
    let dockerfile = "FROM localhost:5000/base\nWORKDIR /app\nCOPY . /app\nRUN cat said > done\nENV NAME=World\nEXPOSE 80\nCMD [\"cat\", \"done\"]\n";
    fs::write(folder.join("Dockerfile"), dockerfile).unwrap();
    fs::write(folder.join("said"), "built\n").unwrap();
    let build = |more: &[&str]| {
        let mut arguments = vec!["build", "-t", "app"];
        arguments.extend(more);
        arguments.push(folder.to_str().unwrap());
        let mut command = engine.docker_command(arguments);
        run(command.env("DOCKER_BUILDKIT", "0"), b"")
    };
    let said = build(&[]).ok();
    assert!(said.contains("Downloaded newer image for localhost:5000/base:latest"), "{said}");
    assert_eq!(engine.docker(["run", "--rm", "app"]).ok(), "built\n");
    let again = build(&["--pull"]).ok();
    assert!(again.contains("Image is up to date for localhost:5000/base:latest"), "{again}");
    engine.docker(["logout", "localhost:5000"]).ok();
    let error = build(&["--pull"]).failed();
    assert!(error.contains("pull access denied for localhost:5000/base"), "{error}");
}

/// With buildx, the client is asked who it is when it comes to that.
#[test]
fn a_build_by_buildx_asks_its_client_who_it_is() {
    let engine = Engine::start();
    if !engine.with_plugins() {
        skipped::say(
            "buildx",
            "there are no plug-ins buildx and compose here: `cargo xtask test` fetches them",
        );
        return;
    }
    let _registry = Registry::start(&engine, "registry", "127.0.0.1:5000", &logins::passwords(&engine));
    engine.load_busybox();
    engine.docker_with_input(["login", "-u", "me", "--password-stdin", "localhost:5000"], b"word").ok();
    engine.docker(["tag", "busybox", "localhost:5000/base"]).ok();
    engine.docker(["push", "-q", "localhost:5000/base"]).ok();
    engine.docker(["rmi", "localhost:5000/base", "busybox"]).ok();
    let build = |more: &[&str]| {
        let arguments = [&["build", "--progress", "plain", "-t", "app"], more, &["-"]].concat();
        engine.docker_with_input(arguments, b"FROM localhost:5000/base\nRUN echo built > /done\n")
    };
    let built = build(&[]);
    assert!(built.stderr.contains("[1/2] FROM localhost:5000/base:latest"), "{}", built.stderr);
    built.ok();
    assert_eq!(engine.docker(["run", "--rm", "app", "cat", "/done"]).ok(), "built\n");
    build(&["--pull"]).ok();
    engine.docker(["logout", "localhost:5000"]).ok();
    let error = build(&["--pull"]).failed();
    assert!(error.contains("pull access denied for localhost:5000/base"), "{error}");
    assert!(!engine.log().contains("word"), "a password is in the log");
}

fn registry_image() -> Vec<u8> {
    let program = "/usr/bin/docker-registry";
    let libraries = run(std::process::Command::new("ldd").arg(program), b"").stdout;
    let libraries = libraries.split_whitespace().filter(|word| word.starts_with('/'));
    let config =
        "version: 0.1\nstorage: {filesystem: {rootdirectory: /var/lib/registry}}\nhttp: {addr: ':5000'}\n";
    let mut layer = tar::Builder::new(Vec::new());
    let mut add = |path: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        layer.append_data(&mut header, path.trim_start_matches('/'), content).unwrap();
    };
    add("/registry.yml", config.as_bytes());
    for path in libraries.chain([program]) {
        add(path, &fs::read(path).unwrap());
    }
    let layer = layer.into_inner().unwrap();
    harness::image(
        "registry:2",
        &[layer],
        &json!({"Entrypoint": [program], "Cmd": ["serve", "/registry.yml"], "Env": ["OTEL_TRACES_EXPORTER=none"]}),
    )
}

/// What a base wants done is known once it is here, and may be about stages that nothing else names.
#[test]
fn a_base_that_is_pulled_may_name_stages() {
    let engine = Engine::start();
    let _registry = Registry::start(&engine, "registry", "127.0.0.1:5000", &json!({}));
    engine.load_busybox();
    let build = |dockerfile: &str, name: &str| {
        context::write(&engine, "Dockerfile", dockerfile);
        engine.docker(["build", "-t", name, engine.path("context").to_str().unwrap()])
    };
    context::write(&engine, "own", "of the context\n");
    let base = "localhost:5000/base";
    build("FROM busybox\nONBUILD COPY --from=b /b /copied\nONBUILD COPY own /own\nONBUILD COPY --from=b /b /again\n", base).ok();
    engine.docker(["push", base]).ok();
    engine.docker(["rmi", base]).ok();
    engine.docker(["builder", "prune", "-af"]).ok();
    let stages = "FROM busybox AS z\nRUN echo of z > /z\nFROM z AS b\nRUN cp /z /b\nFROM busybox AS never\nRUN exit 3\n";
    let built = build(&format!("{stages}FROM {base}\nRUN cat /copied /own /again > /all\n"), "result").ok();
    assert_eq!(engine.docker(["run", "--rm", "result", "cat", "/all"]).ok(), "of z\nof the context\nof z\n");
    assert!(built.contains("Step 6/6 : RUN cat") && !built.contains("exit 3"), "{built}");
    engine.docker(["rmi", "-f", "result", base]).ok();
    engine.docker(["builder", "prune", "-af"]).ok();
    let failed = stages.replace("cp /z /b", "exit 7");
    let output = build(&format!("{failed}FROM {base}\n"), "result");
    assert!(output.code == Some(7) && output.stderr.contains("returned a non-zero code: 7"), "{output:?}");
}
