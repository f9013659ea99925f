//! Health checks: what they say, and whom they are asked of.

use super::*;

fn health(engine: &Engine, name: &str) -> Value {
    inspect(engine, name)["State"]["Health"].clone()
}

#[track_caller]
fn wait_for_health(engine: &Engine, name: &str, status: &str) {
    wait_for(&format!("{name} to be {status}"), || health(engine, name)["Status"] == status);
}

/// When the last check began.
fn last(engine: &Engine, name: &str) -> Value {
    let health = health(engine, name);
    health["Log"].as_array().and_then(|log| log.last()).map_or(Value::Null, |last| last["Start"].clone())
}

/// Waits for checks of a container whose checks are as frequent as those of others that are looked at.
#[track_caller]
fn wait_for_checks(engine: &Engine, clock: &str) {
    for _ in 0..3 {
        let before = last(engine, clock);
        wait_for("a check", || last(engine, clock) != before);
    }
}

fn shown(engine: &Engine, filter: &str) -> String {
    engine.docker(["ps", "--filter", filter, "--format", "{{.Names}}: {{.Status}}"]).ok()
}

/// Reads the actions of a container's events into a file, from now on.
struct Actions {
    client: std::process::Child,
    file: PathBuf,
}

impl Actions {
    fn of(engine: &Engine, name: &str) -> Self {
        let file = engine.path(format!("actions-{name}"));
        let filter = format!("container={name}");
        let mut command = engine.docker_command(["events", "--filter", &filter, "--format", "{{.Action}}"]);
        let client = command.stdout(fs::File::create(&file).unwrap()).spawn().unwrap();
        let listens = || !engine.docker(["info", "-f", "{{.NEventsListener}}"]).ok().starts_with('0');
        wait_for("a reader of events", listens);
        Self { client, file }
    }

    fn told(&self) -> Vec<String> {
        fs::read_to_string(&self.file).unwrap().lines().map(str::to_owned).collect()
    }

    fn wait_for(&self, action: &str) {
        wait_for(action, || self.told().iter().any(|told| told == action));
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        self.client.kill().unwrap();
        self.client.wait().unwrap();
    }
}

#[test]
fn health_is_what_the_checks_say() {
    let engine = engine();
    let actions = Actions::of(&engine, "some");
    let options = ["--health-interval", "50ms", "--health-retries", "2", "--health-start-interval", "40ms"];
    let options = options.into_iter().chain([
        "--health-start-period",
        "1h",
        "--health-cmd",
        "echo seen; test -e /well",
    ]);
    let run = ["run", "-d", "--name", "some", "--workdir", "/tmp", "-e", "A=b"].into_iter().chain(options);
    engine.docker(run.chain(["busybox", "sleep", "1000"])).ok();
    let check = json!({ "Test": ["CMD-SHELL", "echo seen; test -e /well"], "Interval": 50_000_000, "Retries": 2,
        "StartInterval": 40_000_000, "StartPeriod": 3_600_000_000_000_i64 });
    assert_eq!(inspect(&engine, "some")["Config"]["Healthcheck"], check);

    // While it starts, no failure counts.
    wait_for("checks", || health(&engine, "some")["Log"].as_array().is_some_and(|log| log.len() == 5));
    let starting = health(&engine, "some");
    assert_eq!((&starting["Status"], &starting["FailingStreak"]), (&json!("starting"), &json!(0)));
    for checked in starting["Log"].as_array().unwrap() {
        assert_eq!((&checked["ExitCode"], &checked["Output"]), (&json!(1), &json!("seen\n")));
        assert!(checked["Start"].as_str() <= checked["End"].as_str(), "{checked}");
    }
    assert!(shown(&engine, "health=starting").starts_with("some: Up "));
    assert!(shown(&engine, "health=starting").ends_with(" (health: starting)\n"));
    assert_eq!(shown(&engine, "health=healthy"), "");

    engine.docker(["exec", "some", "touch", "/well"]).ok();
    wait_for_health(&engine, "some", "healthy");
    assert!(shown(&engine, "health=healthy").ends_with(" (healthy)\n"));
    engine.docker(["exec", "some", "rm", "/well"]).ok();
    wait_for_health(&engine, "some", "unhealthy");
    assert!(shown(&engine, "health=unhealthy").ends_with(" (unhealthy)\n"));
    let unhealthy = health(&engine, "some");
    assert!(unhealthy["FailingStreak"].as_i64() >= Some(2), "{unhealthy}");
    assert_eq!(unhealthy["Log"].as_array().unwrap().len(), 5);

    let words = "/bin/sh -c echo seen; test -e /well";
    let of_checks = [format!("exec_create: {words}"), format!("exec_start: {words}"), "exec_die".to_owned()];
    for action in of_checks.iter().map(String::as_str).chain(["health_status: unhealthy"]) {
        actions.wait_for(action);
    }
    let told = actions.told();
    let changes: Vec<_> = told.iter().filter(|action| action.starts_with("health_status")).collect();
    assert_eq!(changes, ["health_status: healthy", "health_status: unhealthy"]);
    let stopped = engine.docker(["ps", "--filter", "health=sometimes"]).failed();
    assert!(stopped.contains("invalid value for health (sometimes)"), "{stopped}");

    // A run that is over is not asked, and counts as unwell; the next one begins anew.
    engine.docker(["exec", "some", "touch", "/well"]).ok();
    wait_for_health(&engine, "some", "healthy");
    engine.docker(["kill", "some"]).ok();
    let ended = health(&engine, "some");
    assert_eq!((&ended["Status"], ended["Log"].as_array().unwrap().len()), (&json!("unhealthy"), 5));
    assert!(shown(&engine, "name=some").is_empty());
    engine.docker(["start", "some"]).ok();
    wait_for_health(&engine, "some", "healthy");
}

#[test]
fn a_check_that_takes_too_long_is_killed() {
    let engine = engine();
    let slow = "echo slow; exec sleep 4321";
    let options = ["--health-interval", "20ms", "--health-timeout", "1s", "--health-retries", "1"];
    let run = ["run", "-d", "--name", "some", "--health-cmd", slow].into_iter().chain(options);
    engine.docker(run.chain(["busybox", "sleep", "1000"])).ok();
    wait_for_health(&engine, "some", "unhealthy");
    wait_for("checks", || health(&engine, "some")["Log"].as_array().unwrap().len() == 3);
    for checked in health(&engine, "some")["Log"].as_array().unwrap() {
        let expected = json!("Health check exceeded timeout (1s): slow\n");
        assert_eq!((&checked["ExitCode"], &checked["Output"]), (&json!(-1), &expected));
    }
    // Those before it are gone.
    let processes = engine.docker(["top", "some"]).ok();
    assert!(processes.matches("sleep 4321").count() <= 1, "{processes}");

    let loud = "yes | head -c 100000";
    let run = ["run", "-d", "--name", "loud", "--health-interval", "20ms", "--health-timeout", "5s"];
    engine.docker(run.into_iter().chain(["--health-cmd", loud, "busybox", "sleep", "1000"])).ok();
    let body = json!({ "Image": "busybox", "Cmd": ["sleep", "1000"],
        "Healthcheck": { "Test": ["CMD", "/not/there"], "Interval": 20_000_000, "Retries": 1 } });
    create(&engine, "missing", &body);
    engine.docker(["start", "missing"]).ok();
    wait_for("a loud check", || health(&engine, "loud")["Log"][0]["Output"].is_string());
    let output = health(&engine, "loud")["Log"][0]["Output"].as_str().unwrap().to_owned();
    assert_eq!((output.len(), output.ends_with("...")), (4096 + 3, true));
    wait_for_health(&engine, "missing", "unhealthy");
    let checked = health(&engine, "missing")["Log"][0].clone();
    assert_eq!(checked["ExitCode"], -1);
    assert!(checked["Output"].as_str().unwrap().contains("no such file or directory"), "{checked}");
}

#[test]
fn who_is_paused_or_stopped_is_not_asked() {
    let engine = engine();
    let checked = ["--health-interval", "50ms", "--health-cmd", "true", "busybox", "sleep", "1000"];
    for name in ["clock", "some"] {
        engine.docker(["run", "-d", "--name", name].into_iter().chain(checked)).ok();
        wait_for_health(&engine, name, "healthy");
    }
    engine.docker(["pause", "some"]).ok();
    let before = last(&engine, "some");
    wait_for_checks(&engine, "clock");
    assert_eq!(last(&engine, "some"), before);
    assert!(shown(&engine, "name=some").ends_with(" (Paused)\n"));
    engine.docker(["unpause", "some"]).ok();
    wait_for("a check", || last(&engine, "some") != before);
    wait_for_health(&engine, "some", "healthy");
    engine.docker(["stop", "--time", "0", "some"]).ok();
    let before = last(&engine, "some");
    wait_for_checks(&engine, "clock");
    assert_eq!(last(&engine, "some"), before);
}

#[test]
fn checks_go_on_with_the_next_daemon() {
    let mut engine = engine();
    let run = ["run", "-d", "--name", "some", "--health-interval", "50ms", "--health-cmd", "true"];
    engine.docker(run.into_iter().chain(["busybox", "sleep", "1000"])).ok();
    wait_for_health(&engine, "some", "healthy");
    // Somebody is being asked just when the daemon is killed.
    let run = ["run", "-d", "--name", "asked", "--health-interval", "50ms", "--health-timeout", "1h"];
    let asks = ["--health-cmd", "echo $$ > /pid.new; mv /pid.new /pid; exec sleep 4321"];
    engine.docker(run.into_iter().chain(asks).chain(["busybox", "sleep", "1000"])).ok();
    let number = |engine: &Engine| engine.docker(["exec", "asked", "cat", "/pid"]).stdout;
    wait_for("a check", || !number(&engine).is_empty());
    let first = number(&engine);
    engine.kill();
    engine.launch();
    let found = health(&engine, "some");
    assert_eq!(found["Status"], "healthy", "{found}");
    let actions = Actions::of(&engine, "some");
    for _ in 0..2 {
        let before = last(&engine, "some");
        wait_for("a check", || last(&engine, "some") != before);
    }
    actions.wait_for("exec_die");
    let told = actions.told();
    assert!(!told.iter().any(|action| action.starts_with("health_status")), "{told:?}");
    // Nobody waits for what was asked; it is asked again.
    wait_for("another check", || !number(&engine).is_empty() && number(&engine) != first);
    let gone = format!("test ! -e /proc/{}", first.trim());
    wait_for("the first one to be gone", || {
        engine.docker(["exec", "asked", "sh", "-c", &gone]).code == Some(0)
    });
    assert_eq!(health(&engine, "asked")["Status"], "starting");
}

#[test]
fn an_image_says_how_its_containers_are_asked() {
    let engine = engine();
    let own = engine.docker(["create", "busybox"]).ok();
    assert_eq!(health(&engine, own.trim()), Value::Null);
    let layer = tar::Builder::new(Vec::new()).into_inner().unwrap();
    let load = |name: &str, check: Value| {
        let config = json!({ "Cmd": ["/x"], "Shell": ["/ash", "-c"], "Healthcheck": check });
        engine.docker_with_input(["load"], &harness::image(name, std::slice::from_ref(&layer), &config)).ok();
    };
    load("probed", json!({ "Test": ["CMD-SHELL", "probe"], "Interval": 60_000_000_000_i64, "Retries": 7 }));
    let made = |options: &[&str]| {
        let id = engine.docker(["create"].iter().chain(options).chain(&["probed"])).ok();
        inspect(&engine, id.trim())["Config"]["Healthcheck"].clone()
    };
    let of_image = json!({ "Test": ["CMD-SHELL", "probe"], "Interval": 60_000_000_000_i64, "Retries": 7 });
    assert_eq!(made(&[]), of_image);
    let some = json!({ "Test": ["CMD-SHELL", "probe"], "Interval": 60_000_000_000_i64, "Retries": 2, "Timeout": 1_000_000_000 });
    assert_eq!(made(&["--health-retries", "2", "--health-timeout", "1s"]), some);
    assert_eq!(made(&["--no-healthcheck"])["Test"], json!(["NONE"]));
    load("strange", json!({ "Test": ["SOMETIMES", "x"] }));
    let warned = engine.docker(["create", "strange"]);
    assert_eq!(warned.code, Some(0), "{warned:?}");
    let why = "The image's health check is ignored: Unknown healthcheck type 'SOMETIMES'";
    assert!(warned.stderr.contains(why), "{warned:?}");
    for (check, said) in [
        (json!({ "Interval": 1 }), "Interval in Healthcheck cannot be less than 1ms"),
        (json!({ "Retries": -1 }), "Retries in Healthcheck cannot be negative"),
        (json!({ "Test": ["CMD"] }), "Test in Healthcheck names no command"),
    ] {
        let body = json!({ "Image": "busybox", "Healthcheck": check }).to_string();
        let answer = engine.http("POST", "/containers/create", body.as_bytes());
        assert_eq!((answer.status, answer.json()["message"].as_str()), (400, Some(said)));
    }
}
