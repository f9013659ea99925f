//! What an engine of commit adbbc57 leaves is taken over: its state on disk, and its supervising processes.
//!
//! The state and what such a process answers were recorded once and are tried here; `cargo xtask takeover` tries the old
//! engine itself, and `cargo xtask takeover --record` records them again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use super::dialects::{Sleeper, play, say, with_socket};
use super::*;

/// The old engine's binary, and whether to record what it leaves.
const OLD: &str = "ENGINE_TAKEOVER_OLD";
const RECORD: &str = "ENGINE_TAKEOVER_RECORD";
/// What was recorded.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/adbbc57");
/// What stands for the data root in there, which is another one each time.
const DATA_ROOT: &str = "@DATA_ROOT@";

/// Something in the data root.
#[derive(Deserialize, Serialize)]
enum Entry {
    Folder,
    Text(String),
    Link(PathBuf),
}

/// What a supervising process was asked on a connection of its own, and all that came back.
#[derive(Deserialize, Serialize)]
struct Exchange {
    container: String,
    asked: String,
    /// Nothing, if it closed the connection.
    answered: String,
}

/// What the old engine is asked to run: one of each kind.
fn populate(engine: &Engine) {
    engine.load_busybox();
    engine.docker(["tag", "busybox", "registry.example/tools/busybox:1"]).ok();
    engine.docker(["network", "create", "--subnet", "10.77.0.0/24", "--label", "of=me", "mine"]).ok();
    engine.docker(["network", "create", "--internal", "closed"]).ok();
    engine.docker(["volume", "create", "--label", "of=me", "kept"]).ok();
    let script = "trap 'exit 42' TERM; trap 'echo told' HUP; echo said; echo kept > /data/file
        while true; do sleep 0.1; done";
    let web =
        ["run", "-d", "--name", "web", "--restart", "unless-stopped", "-p", "8081:80", "-v", "kept:/data"];
    let more = ["-v", "/own", "--network", "mine", "--ip", "10.77.0.9", "busybox", "sh", "-c", script];
    engine.docker(web.iter().chain(&more)).ok();
    engine.docker(["run", "-d", "--name", "plain", "--restart", "always", "busybox", "sleep", "1000"]).ok();
    engine.docker(["run", "--name", "ended", "busybox", "sh", "-c", "echo last words; exit 3"]).failed();
    engine.docker(["create", "--name", "fresh", "--restart", "on-failure:2", "busybox", "echo", "new"]).ok();
    wait_for("the first words", || engine.docker(["logs", "web"]).ok() == "said\n");
}

/// What of it has to be there under the engine of today.
fn check_everything(engine: &Engine) {
    let expected = [
        ("web", "running", 0, "unless-stopped"),
        ("plain", "running", 0, "always"),
        ("ended", "exited", 3, "no"),
        ("fresh", "created", 0, "on-failure"),
    ];
    for (name, status, code, policy) in expected {
        let container = inspect(engine, name);
        assert_eq!(container["Name"], format!("/{name}"));
        let state = (&container["State"]["Status"], &container["State"]["ExitCode"]);
        assert_eq!(state, (&json!(status), &json!(code)), "{name}");
        assert_eq!(container["HostConfig"]["RestartPolicy"]["Name"], policy, "{name}");
    }
    let web = inspect(engine, "web");
    let endpoint = &web["NetworkSettings"]["Networks"]["mine"];
    assert_eq!((&endpoint["IPAddress"], &endpoint["Gateway"]), (&json!("10.77.0.9"), &json!("10.77.0.1")));
    assert_eq!(web["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"], "8081");
    let mounts: BTreeSet<&str> = web["Mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| mount["Destination"].as_str().unwrap())
        .collect();
    assert_eq!(mounts, BTreeSet::from(["/data", "/own"]));
    assert_eq!(inspect(engine, "plain")["NetworkSettings"]["IPAddress"], "172.17.0.2");
    assert_eq!(inspect(engine, "fresh")["HostConfig"]["RestartPolicy"]["MaximumRetryCount"], 2);
    let mine = engine.http("GET", "/networks/mine", b"").json();
    assert_eq!(
        (&mine["IPAM"]["Config"][0]["Subnet"], &mine["Labels"]["of"]),
        (&json!("10.77.0.0/24"), &json!("me"))
    );
    assert_eq!(mine["Containers"][web["Id"].as_str().unwrap()]["Name"], "web");
    assert_eq!(engine.http("GET", "/networks/closed", b"").json()["Internal"], true);
    assert_eq!(engine.docker(["volume", "ls", "-qf", "label=of=me"]).ok(), "kept\n");
    assert_eq!(engine.docker(["volume", "ls", "-q"]).ok().lines().count(), 2);
    assert_eq!(fs::read_to_string(engine.data_root().join("volumes/kept/_data/file")).unwrap(), "kept\n");
    for image in ["busybox:latest", "registry.example/tools/busybox:1"] {
        assert_eq!(engine.http("GET", &format!("/images/{image}/json"), b"").json()["Id"], web["Image"]);
    }
    assert_eq!(engine.docker(["logs", "ended"]).ok(), "last words\n");
    assert!(engine.docker(["logs", "web"]).ok().starts_with("said\n"));
    let warnings = engine.http("GET", "/info", b"").json()["Warnings"].to_string();
    assert!(!warnings.contains("cannot be read") && !warnings.contains("left out"), "{warnings}");
}

/// Ends what runs, and starts what the old engine had made.
fn check_the_end(engine: &Engine) {
    // It answers at once if it takes the container for ended.
    let waiter = super::waiting::begin(engine, "web", "not-running");
    engine.docker(["kill", "-s", "HUP", "web"]).ok();
    assert_eq!(status(engine, "web"), "running");
    engine.docker(["stop", "web"]).ok();
    assert_eq!(super::waiting::end(waiter), 42);
    engine.docker(["kill", "plain"]).ok();
    for (name, code) in [("web", 42), ("plain", 137)] {
        let state = inspect(engine, name)["State"].clone();
        assert_eq!((&state["Status"], &state["ExitCode"]), (&json!("exited"), &json!(code)), "{name}");
    }
    for name in ["web", "plain"] {
        engine.docker(["start", name]).ok();
        assert_eq!(engine.docker(["exec", name, "echo", "alive"]).ok(), "alive\n");
    }
    assert_eq!(inspect(engine, "web")["NetworkSettings"]["Networks"]["mine"]["IPAddress"], "10.77.0.9");
    assert_eq!(engine.docker(["start", "-a", "fresh"]).ok(), "new\n");
    engine.docker(["rm", "-fv", "web", "plain", "ended", "fresh"]).ok();
    assert_eq!(engine.docker(["volume", "ls", "-q"]).ok(), "kept\n");
    engine.docker(["network", "rm", "mine", "closed"]).ok();
    engine.docker(["rmi", "busybox", "registry.example/tools/busybox:1"]).ok();
}

fn fixture(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

#[test]
fn what_an_old_engine_left_is_taken_over() {
    let mut engine = Engine::prepare("{}", &[]);
    let data = engine.data_root();
    let entries: BTreeMap<PathBuf, Entry> =
        serde_json::from_slice(&fs::read(fixture("state.json")).unwrap()).unwrap();
    fs::create_dir(&data).unwrap();
    for (path, entry) in entries {
        let path = data.join(path);
        match entry {
            Entry::Folder => fs::create_dir(path).unwrap(),
            Entry::Text(text) => fs::write(path, text.replace(DATA_ROOT, data.to_str().unwrap())).unwrap(),
            Entry::Link(target) => symlink(target, path).unwrap(),
        }
    }
    // What was not recorded, as it is large.
    let bin = data.join("images/l/1/bin");
    fs::create_dir(&bin).unwrap();
    fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
    for applet in ["sh", "sleep", "echo"] {
        symlink("busybox", bin.join(applet)).unwrap();
    }
    let exchanges: Vec<Exchange> =
        serde_json::from_slice(&fs::read(fixture("dialogue.json")).unwrap()).unwrap();
    let mut sleepers = Vec::new();
    for name in ["web", "plain"] {
        let answers: Vec<(String, String)> = exchanges
            .iter()
            .filter(|exchange| exchange.container == name)
            .map(|exchange| (exchange.asked.clone(), exchange.answered.clone()))
            .collect();
        let id = identity(&data, name);
        let sleeper = Arc::new(Mutex::new(Sleeper::begin()));
        // Those who play go on for as long as the daemon is there; the process is not to.
        let process = Arc::downgrade(&sleeper);
        let number = sleeper.lock().unwrap().number();
        play(&engine, &id, number, move |line, socket| {
            let Some((_, answer)) = answers.iter().find(|(asked, _)| asked == line) else { return false };
            if line == "\"Wait\"" {
                while process.upgrade().is_some_and(|process| !process.lock().unwrap().has_ended()) {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            // The daemon may have gone.
            socket.write_all(answer.as_bytes()).is_ok() && !answer.is_empty()
        });
        sleepers.push(sleeper);
    }
    engine.launch();
    check_everything(&engine);
    let mut attached = takeover(&engine, "/containers/web/attach?stream=1&stdout=1&stderr=1", "");
    let mut frame = [0; 13];
    attached.read_exact(&mut frame).unwrap();
    assert_eq!(&frame, b"\x01\0\0\0\0\0\0\x05told\n");
    let resized = engine.http("POST", "/containers/web/resize?h=10&w=20", b"");
    assert_eq!(resized.status, 200, "it has no terminal: {}", resized.text());
    check_the_end(&engine);
    for sleeper in sleepers {
        assert!(sleeper.lock().unwrap().has_ended(), "it was the one that was told to end");
    }
}

/// The id of a container in a data root.
fn identity(data: &Path, name: &str) -> String {
    let folders = fs::read_dir(data.join("containers")).unwrap().flatten();
    let mut identities = folders.map(|folder| {
        let record = fs::read(folder.path().join("config.json")).unwrap();
        serde_json::from_slice::<Value>(&record).unwrap()
    });
    identities.find(|record| record["name"] == name).unwrap()["id"].as_str().unwrap().to_owned()
}

#[test]
#[ignore = "needs the old engine: `cargo xtask takeover`"]
fn an_old_engine_itself_is_replaced() {
    let mut engine = Engine::prepare("{}", &[]);
    let new = engine.program.clone();
    engine.program = std::env::var_os(OLD).expect("`cargo xtask takeover` names it").into();
    engine.launch();
    populate(&engine);
    let processes = ["web", "plain"].map(|name| inspect(&engine, name)["State"]["Pid"].clone());
    engine.stop();
    if std::env::var_os(RECORD).is_some() {
        fs::create_dir_all(FOLDER).unwrap();
        record_state(&engine);
        record_dialogue(&engine);
        return;
    }
    engine.program = new;
    engine.launch();
    check_everything(&engine);
    assert_eq!(processes, ["web", "plain"].map(|name| inspect(&engine, name)["State"]["Pid"].clone()));
    assert_eq!(engine.docker(["exec", "web", "cat", "/data/file"]).ok(), "kept\n");
    assert_eq!(engine.docker(["exec", "-u", "nobody", "plain", "id", "-un"]).ok(), "nobody\n");
    let mut attached = takeover(&engine, "/containers/web/attach?stream=1&stdout=1&stderr=1", "");
    engine.docker(["kill", "-s", "HUP", "web"]).ok();
    let mut frame = [0; 13];
    attached.read_exact(&mut frame).unwrap();
    assert_eq!(&frame, b"\x01\0\0\0\0\0\0\x05told\n");
    let mut follower =
        engine.docker_command(["logs", "-f", "--tail", "0", "web"]).stdout(Stdio::piped()).spawn().unwrap();
    engine.docker(["restart", "-t", "0", "plain"]).ok();
    engine.docker(["pause", "web"]).ok();
    engine.docker(["unpause", "web"]).ok();
    check_the_end(&engine);
    let mut followed = String::new();
    follower.stdout.take().unwrap().read_to_string(&mut followed).unwrap();
    assert!(followed.contains("told"), "{followed}");
    follower.wait().unwrap();
}

fn record_state(engine: &Engine) {
    let data = engine.data_root();
    let mut entries = BTreeMap::new();
    let mut folders = vec![data.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let inside = path.strip_prefix(&data).unwrap().to_owned();
            // The program, which is large, and how it lay in its archive.
            if inside.ends_with("diff/bin") || inside.ends_with("split.gz") {
                continue;
            }
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            let entry = if kind.is_symlink() {
                Entry::Link(fs::read_link(&path).unwrap())
            } else if kind.is_dir() {
                folders.push(path);
                Entry::Folder
            } else {
                Entry::Text(fs::read_to_string(&path).unwrap().replace(data.to_str().unwrap(), DATA_ROOT))
            };
            entries.insert(inside, entry);
        }
    }
    fs::write(fixture("state.json"), serde_json::to_string_pretty(&entries).unwrap() + "\n").unwrap();
}

/// Asks both supervising processes all that they understand, and a hello.
fn record_dialogue(engine: &Engine) {
    let mut exchanges = Vec::new();
    let ids = ["web", "plain"].map(|name| (name, identity(&engine.data_root(), name)));
    for (name, id) in &ids {
        let ask = |line: &str| {
            let mut socket = with_socket(engine, id, UnixStream::connect).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            say(&mut socket, line);
            socket
        };
        let mut exchange = |asked: &str, mut socket: UnixStream| {
            let mut answered = Vec::new();
            // What there is to be heard of a connection that stays has been heard after a while.
            let _ = socket.read_to_end(&mut answered);
            let answered = String::from_utf8(answered).unwrap();
            exchanges.push(Exchange { container: (*name).to_owned(), asked: asked.to_owned(), answered });
        };
        let waiting = ask("\"Wait\"");
        let (attach, follow) = (r#"{"Attach":{"stdin":false,"stdout":true,"stderr":true}}"#, "\"Follow\"");
        let (attached, following) = (ask(attach), ask(follow));
        let (hello, hangup) = (r#"{"Hello":{"version":2}}"#, r#"{"Kill":{"signal":1}}"#);
        let (resize, end) = (r#"{"Resize":{"rows":10,"columns":20}}"#, r#"{"Kill":{"signal":15}}"#);
        // One ends by itself, the other is made to.
        let asked = if *name == "web" {
            vec![hello, hangup, resize, end]
        } else {
            vec![hello, r#"{"Kill":{"signal":9}}"#]
        };
        for asked in asked {
            exchange(asked, ask(asked));
        }
        exchange(attach, attached);
        exchange(follow, following);
        exchange("\"Wait\"", waiting);
    }
    fs::write(fixture("dialogue.json"), serde_json::to_string_pretty(&exchanges).unwrap() + "\n").unwrap();
}
