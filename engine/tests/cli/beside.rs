//! The same questions to the stock client and to ours.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::harness::run;
use crate::stand_in::{StandIn, populated};
use crate::{ours, split, stock};

fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

#[test]
fn the_same_answers_are_shown_as_by_the_stock_client() {
    let now = now();
    let daemon = StandIn::start(move |request| populated(request, now));
    let host = daemon.host();
    let mut different = Vec::new();
    for line in include_str!("lines.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words: Vec<&str> = split(line);
        let theirs = run(&mut stock(&host, &words), b"");
        let mine = run(&mut ours(&host, &words), b"");
        if (theirs.code, &theirs.stdout, &theirs.stderr) != (mine.code, &mine.stdout, &mine.stderr) {
            different.push(format!("{line}\n  stock: {theirs:?}\n  ours:  {mine:?}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn the_requests_to_make_a_container_are_those_of_the_stock_client() {
    let now = now();
    let daemon = StandIn::start(move |request| populated(request, now));
    let folder = daemon.path("env");
    fs::write(&folder, "FROM_FILE=1\n# comment\n").unwrap();
    let file = folder.to_str().unwrap();
    for arguments in [
        vec!["create", "busybox"],
        vec![
            "create",
            "-it",
            "--name",
            "x",
            "--rm",
            "-e",
            "A=1",
            "--env-file",
            file,
            "busybox",
            "sh",
            "-c",
            "-x",
        ],
        vec!["create", "-p", "8080:80", "-p", "127.0.0.1:53:53/udp", "-P", "--expose", "90-91", "busybox"],
        vec![
            "create",
            "-v",
            "/a:/b:ro",
            "-v",
            "/again",
            "-v",
            "/anonymous",
            "--tmpfs",
            "/run:size=1m",
            "busybox",
        ],
        vec![
            "create",
            "--mount",
            "type=bind,src=/a,dst=/b,readonly",
            "--mount",
            "type=tmpfs,dst=/t,tmpfs-size=1m",
            "busybox",
        ],
        vec![
            "create",
            "-m",
            "64m",
            "--cpus",
            "1.5",
            "-c",
            "5",
            "--pids-limit",
            "9",
            "--shm-size",
            "1g",
            "busybox",
        ],
        vec![
            "create",
            "--cap-add",
            "NET_ADMIN",
            "--cap-drop=ALL",
            "--privileged",
            "--read-only",
            "--init",
            "busybox",
        ],
        vec![
            "create",
            "--restart",
            "on-failure:3",
            "--stop-signal",
            "INT",
            "--stop-timeout",
            "3",
            "-w",
            "/tmp",
            "busybox",
        ],
        vec![
            "create",
            "--network",
            "host",
            "-h",
            "h1",
            "-u",
            "1:2",
            "--add-host",
            "a:1.2.3.4",
            "--dns",
            "1.1.1.1",
            "busybox",
        ],
        vec![
            "create",
            "--ulimit",
            "nofile=1:2",
            "--sysctl",
            "net.core.somaxconn=9",
            "--security-opt",
            "no-new-privileges",
            "busybox",
        ],
        vec![
            "create",
            "--log-driver",
            "json-file",
            "--log-opt",
            "max-size=1m",
            "-l",
            "a=b",
            "--entrypoint",
            "/x",
            "busybox",
        ],
        vec![
            "create",
            "--device",
            "/dev/null:/dev/n:rw",
            "--ipc",
            "host",
            "--pid",
            "host",
            "--userns",
            "host",
            "busybox",
        ],
        vec!["create", "--health-cmd", "true", "--health-interval", "5s", "--health-retries", "2", "busybox"],
        vec!["create", "-a", "stdout", "--tty=false", "busybox", "--", "x"],
    ] {
        run(&mut stock(&daemon.host(), &arguments), b"").ok();
        run(&mut ours(&daemon.host(), &arguments), b"").ok();
        let requests = daemon.requests();
        let [.., theirs, mine] = requests.as_slice() else { panic!("two requests") };
        assert_eq!((&mine.path, &mine.query), (&theirs.path, &theirs.query), "{arguments:?}");
        let (theirs, mine) = (theirs.json(), mine.json());
        let mut wrong = Vec::new();
        compare("", &theirs, &mine, &mut wrong);
        assert!(wrong.is_empty(), "{arguments:?}: {wrong:#?}");
    }
}

/// Everything of theirs must be in ours; a value that says nothing may be left out.
fn compare(path: &str, theirs: &serde_json::Value, mine: &serde_json::Value, wrong: &mut Vec<String>) {
    use serde_json::Value;
    fn says_nothing(value: &Value) -> bool {
        match value {
            Value::Null => true,
            Value::Bool(value) => !value,
            Value::Number(number) => number.as_i64() == Some(0),
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.iter().all(says_nothing),
            Value::Object(map) => map.values().all(says_nothing),
        }
    }
    // They name the default network in vain.
    if path == "/NetworkingConfig/EndpointsConfig" && mine == &json!({}) {
        return;
    }
    match (theirs, mine) {
        (Value::Object(theirs), Value::Object(mine)) => {
            for (key, value) in theirs {
                let path = format!("{path}/{key}");
                compare(&path, value, mine.get(key).unwrap_or(&Value::Null), wrong);
            }
            for (key, value) in mine.iter().filter(|(key, _)| !theirs.contains_key(*key)) {
                compare(&format!("{path}/{key}"), &Value::Null, value, wrong);
            }
        }
        _ if theirs == mine || (says_nothing(theirs) && says_nothing(mine)) => {}
        _ => wrong.push(format!("{path}: theirs {theirs}, ours {mine}")),
    }
}
