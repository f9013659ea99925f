//! In which control groups containers lie, and that an engine finds those that another has put elsewhere.

use super::*;

/// The groups of a container, from the root of their hierarchies; none is named twice.
fn groups(id: &str) -> BTreeSet<PathBuf> {
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    folders(id)
        .iter()
        .map(|folder| {
            let relative = folder.strip_prefix("/sys/fs/cgroup").unwrap();
            // The first part is the controller's.
            Path::new("/").join(relative.iter().skip(usize::from(!unified)).collect::<PathBuf>())
        })
        .collect()
}

fn folders(id: &str) -> Vec<PathBuf> {
    let found = harness::run(Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-name", id]), b"");
    found.stdout.lines().map(PathBuf::from).collect()
}

fn limit(id: &str) -> String {
    let files = ["memory.limit_in_bytes", "memory.max"];
    let texts = folders(id)
        .into_iter()
        .flat_map(|folder| files.map(|file| fs::read_to_string(folder.join(file)).unwrap_or_default()));
    texts.filter(|text| !text.is_empty()).collect::<String>().trim().to_owned()
}

fn running(engine: &Engine, name: &str) -> String {
    let run = ["run", "-d", "--name", name, "-m", "32m", "busybox", "sleep", "1000"];
    engine.docker(run).ok().trim().to_owned()
}

#[test]
fn a_run_stays_where_it_began_and_a_group_that_was_named_is_left() {
    let mut engine = engine();
    let own = engine.control_group();
    // Below the engine's own, so that it goes with the test; whose it is does not matter.
    let name = format!("{}.service", own.file_name().unwrap().to_str().unwrap());
    let unit = own.join("system.slice").join(&name);
    let below = |parent: &Path, id: &str| BTreeSet::from([parent.join(id)]);
    let old = running(&engine, "old");
    assert_eq!(groups(&old), below(&own, &old));

    engine.kill();
    let tell = |engine: &mut Engine, parent: &Value| {
        let configuration = json!({ "prune": { "enabled": false }, "cgroup-parent": parent });
        fs::write(engine.path("daemon.json"), configuration.to_string()).unwrap();
        engine.launch();
    };
    tell(&mut engine, &json!(unit));
    let new = running(&engine, "new");
    assert_eq!(groups(&new), below(&unit, &new));
    // What is done to the old one is done where it lies.
    assert_eq!(groups(&old), below(&own, &old));
    engine.docker(["update", "-m", "48m", "--memory-swap", "96m", "old"]).ok();
    assert_eq!(limit(&old), "50331648");
    engine.docker(["pause", "old"]).ok();
    engine.kill();
    engine.launch();
    assert_eq!(status(&engine, "old"), "paused");
    engine.docker(["unpause", "old"]).ok();
    assert!(engine.docker(["top", "old"]).ok().contains("sleep 1000"));
    let used = engine.docker(["stats", "--no-stream", "--format", "{{.PIDs}} {{.MemUsage}}", "old"]).ok();
    assert!(used.starts_with("1 ") && used.contains("/ 48MiB"), "{used}");
    assert_eq!(engine.docker(["exec", "old", "echo", "here"]).ok(), "here\n");

    // Its next run belongs where everybody is.
    engine.docker(["kill", "old"]).ok();
    wait_for("the end of its group", || groups(&old).is_empty());
    engine.docker(["start", "old"]).ok();
    assert_eq!(groups(&old), below(&unit, &old));
    assert_eq!(limit(&old), "50331648");
    // It ends with its supervisor while no daemon is there.
    let pid = inspect(&engine, "old")["State"]["Pid"].as_i64().unwrap();
    let about = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let shim = about.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().to_owned();
    engine.kill();
    harness::run(Command::new("kill").args(["-KILL", &shim]), b"").ok();
    tell(&mut engine, &Value::Null);
    wait_for("the end of its group", || groups(&old).is_empty());

    engine.kill();
    tell(&mut engine, &json!(unit));
    engine.docker(["rm", "-f", "old", "new"]).ok();
    let left = groups(&name);
    assert_eq!(left, BTreeSet::from([unit]), "it is not the engine's to remove");
}
