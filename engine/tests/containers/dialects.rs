//! Daemons and supervising processes of different versions speak with one another.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// The folder of a container's supervising process, as it is reached from outside of the engine's namespaces.
fn folder(engine: &Engine, id: &str) -> PathBuf {
    engine.within(Path::new(engine.exec_root()).join("containers").join(id))
}

/// Calls something with the path of the socket in there, which has to be short.
pub(crate) fn with_socket<T>(engine: &Engine, id: &str, call: impl FnOnce(String) -> T) -> T {
    let folder = fs::File::open(folder(engine, id)).unwrap();
    call(format!("/proc/self/fd/{}/shim.sock", folder.as_raw_fd()))
}

/// What a played supervising process does with a line that it is sent; says whether it goes on with the connection.
type Play = dyn Fn(&str, &mut UnixStream) -> bool + Send + Sync;

/// Plays the supervising process of a container that no daemon knows to be running yet, with `process` as its first one.
pub(crate) fn play(
    engine: &Engine,
    id: &str,
    process: u32,
    play: impl Fn(&str, &mut UnixStream) -> bool + Send + Sync + 'static,
) {
    let path = engine.data_root().join("containers").join(id).join("state.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    state["status"] = "running".into();
    state["pid"] = process.into();
    state["started_at"] = "2026-01-02T03:04:05Z".into();
    fs::write(&path, state.to_string()).unwrap();
    fs::create_dir_all(folder(engine, id)).unwrap();
    let listener = with_socket(engine, id, UnixListener::bind).unwrap();
    let play: Arc<Play> = Arc::new(play);
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let (mut socket, play) = (socket.unwrap(), Arc::clone(&play));
            std::thread::spawn(move || {
                let lines = BufReader::new(socket.try_clone().unwrap()).lines();
                for line in lines.map_while(Result::ok) {
                    if !play(&line, &mut socket) {
                        break;
                    }
                }
                // Copies of the socket are open until the lines are dropped.
                let _ = socket.shutdown(Shutdown::Both);
            });
        }
    });
}

/// A process that is deaf to hang-ups, and that ends with the test.
pub(crate) struct Sleeper(std::process::Child);

impl Sleeper {
    pub(crate) fn begin() -> Self {
        // What a daemon does in a container's network is not to happen in that of this machine.
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "ip link set lo up; trap '' HUP; exec sleep 1000"]);
        let sleeper =
            Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let name = format!("/proc/{}/comm", sleeper.number());
        wait_for("its sleep", || fs::read_to_string(&name).is_ok_and(|name| name == "sleep\n"));
        sleeper
    }

    pub(crate) fn number(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn say(socket: &mut UnixStream, line: &str) {
    // The daemon may have gone.
    let _ = socket.write_all(format!("{line}\n").as_bytes());
}

#[test]
fn a_supervising_process_says_what_it_speaks() {
    let engine = engine();
    let id = engine.docker(["run", "-d", "busybox", "sleep", "1000"]).ok().trim().to_owned();
    let mut connection = BufReader::new(with_socket(&engine, &id, UnixStream::connect).unwrap());
    let mut ask = |line: &str| {
        say(connection.get_mut(), line);
        let mut answer = String::new();
        connection.read_line(&mut answer).unwrap();
        serde_json::from_str::<Value>(&answer).unwrap()
    };
    // Later daemons may say more in theirs.
    let hello = &ask(r#"{"Hello":{"version":99,"mood":"good"}}"#)["Hello"];
    let known = ["Hello", "Start", "Wait", "Kill", "Resize", "Attach", "Follow", "Exec"];
    assert_eq!((&hello["version"], &hello["requests"]), (&json!(3), &json!(known)));
    let unknown = ask(r#"{"Checkpoint":{"folder":"/x"}}"#)["Failed"]["message"].to_string();
    assert!(unknown.contains("`Checkpoint` is not understood"), "{unknown}");
    assert_eq!(ask(r#"{"Kill":{"signal":9}}"#), "Done", "the connection goes on");
    assert_eq!(engine.docker(["wait", &id]).ok(), "137\n");
}

#[test]
fn a_newer_supervising_process_keeps_its_container() {
    let mut engine = engine();
    let create = ["create", "--name", "late", "--tty", "busybox", "sleep", "1000"];
    let id = engine.docker(create).ok().trim().to_owned();
    engine.kill();
    // By its number it would be the child of another, which nobody signals.
    let ends = Arc::new(AtomicBool::new(false));
    let end = Arc::clone(&ends);
    play(&engine, &id, 1, move |line, socket| {
        if line.contains("Hello") {
            say(socket, r#"{"Hello":{"version":99,"requests":["Hello","Wait","Weather"],"mood":"good"}}"#);
            return true;
        }
        assert_eq!(line, "\"Wait\"", "only what it knows is asked");
        say(socket, r#"{"Weather":{"rain":true}}"#);
        while !ends.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(5));
        }
        say(
            socket,
            r#"{"Exited":{"code":7,"out_of_memory":false,"finished_at":"2026-01-02T03:04:06Z","why":"x"}}"#,
        );
        true
    });
    engine.launch();
    wait_for("what the daemon makes of it", || engine.log().contains("Weather"));
    for command in [&["kill", "-s", "HUP", "late"][..], &["stop", "late"]] {
        let refused = engine.docker(command).failed();
        assert!(refused.contains("(protocol 99) does not know the request `Kill`"), "{refused}");
    }
    assert_eq!(post(&engine, "/containers/late/kill?signal=HUP"), 501);
    assert_eq!(post(&engine, "/containers/late/resize?h=10&w=10"), 501);
    assert_eq!(status(&engine, "late"), "running");
    // A daemon that comes later finds it as well.
    engine.kill();
    engine.launch();
    assert_eq!(status(&engine, "late"), "running");
    end.store(true, Ordering::Release);
    assert_eq!(engine.docker(["wait", "late"]).ok(), "7\n");
}

#[test]
fn a_stuck_supervising_process_does_not_keep_a_daemon_from_starting() {
    let mut engine = engine();
    let id = engine.docker(["create", "--name", "stuck", "busybox", "sleep", "1000"]).ok().trim().to_owned();
    engine.kill();
    play(&engine, &id, std::process::id(), |line, socket| {
        if line.contains("Kill") {
            say(socket, "\"Done\"");
        }
        true
    });
    engine.launch();
    assert_eq!(status(&engine, "stuck"), "running");
    engine.docker(["kill", "-s", "HUP", "stuck"]).ok();
}

/// Where a number was written down there may be another process by now.
#[test]
fn a_number_on_record_is_not_believed() {
    let mut engine = engine();
    let id = engine.docker(["run", "-d", "--name", "own", "busybox", "sleep", "1000"]).ok().trim().to_owned();
    let pid = inspect(&engine, "own")["State"]["Pid"].clone();
    engine.kill();
    let mut stranger = Sleeper::begin();
    let path = engine.data_root().join("containers").join(id).join("state.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    state["pid"] = stranger.number().into();
    fs::write(&path, state.to_string()).unwrap();
    engine.launch();
    assert_eq!(inspect(&engine, "own")["State"]["Pid"], pid);
    // In whose network it would be otherwise.
    let joined = ["run", "--rm", "--network", "container:own", "busybox", "ip", "address", "show", "eth0"];
    engine.docker(joined).ok();
    engine.docker(["network", "create", "more"]).ok();
    engine.docker(["network", "connect", "more", "own"]).ok();
    engine.docker(["exec", "own", "ip", "address", "show", "eth1"]).ok();
    engine.docker(["kill", "own"]).ok();
    assert_eq!(inspect(&engine, "own")["State"]["ExitCode"], 137);
    assert!(!stranger.has_ended(), "it has nothing to do with it");
}

#[test]
fn a_signal_needs_no_supervising_process() {
    let mut engine = engine();
    let script =
        "trap 'echo heard >> /data/file' HUP; echo ready > /data/file; while true; do sleep 0.1; done";
    engine.docker(["run", "-d", "--name", "own", "-v", "kept:/data", "busybox", "sh", "-c", script]).ok();
    let file = engine.data_root().join("volumes/kept/_data/file");
    let heard = || fs::read_to_string(&file).unwrap_or_default().lines().count();
    wait_for("the program", || heard() == 1);
    let pid = inspect(&engine, "own")["State"]["Pid"].as_i64().unwrap();
    let status_file = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let shim = status_file.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().to_owned();
    let tell_shim = |signal: &str| harness::run(Command::new("kill").args([signal, &shim]), b"").ok();
    // The process was handed over to the daemon that made it, and to the one that found it.
    for round in 2..4 {
        tell_shim("-STOP");
        engine.docker(["kill", "-s", "HUP", "own"]).ok();
        wait_for("the signal", || heard() == round);
        tell_shim("-CONT");
        engine.kill();
        engine.launch();
    }
    engine.docker(["stop", "-t", "0", "own"]).ok();
}
