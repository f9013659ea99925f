//! Figures for Prometheus, and the dashboard that shows them.

use std::collections::BTreeSet;

use super::*;

/// The figures, asked for where the engine is.
fn page(engine: &Engine) -> String {
    engine.inside("curl", ["-sS", "--fail", "http://127.0.0.1:9323/metrics"]).ok()
}

/// The value of a figure whose labels have these words in them.
fn value(page: &str, name: &str, words: &[&str]) -> Option<f64> {
    let mut lines = page.lines().filter(|line| {
        let rest = line.strip_prefix(name).unwrap_or_default();
        rest.starts_with(['{', ' ']) && words.iter().all(|word| rest.contains(word))
    });
    let line = lines.next()?;
    assert_eq!(lines.next(), None, "{name}");
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn figures_say_what_containers_use() {
    let engine = Engine::start_with(r#"{"metrics-addr": "127.0.0.1:9323"}"#, &[]);
    engine.load_busybox();
    engine.docker(["network", "create", "front"]).ok();
    let check = ["--health-cmd", "true", "--health-interval", "50ms", "--memory", "64m"];
    let run = ["run", "-d", "--name", "web", "--network", "front", "--label", "odd=\"\n\\"].into_iter();
    let serve = "echo page > /index.html; head -c 1000000 /dev/zero > /big; i=0; \
        while [ $i -lt 100000 ]; do i=$((i+1)); done; exec httpd -f -h /";
    engine.docker(run.chain(check).chain(["busybox", "sh", "-c", serve])).ok();
    engine.docker(["create", "--name", "idle", "busybox"]).ok();
    wait_for("health", || {
        value(&page(&engine), "engine_container_health", &["\"web\"", "\"healthy\""]) == Some(1.0)
    });
    let fetch = ["run", "--rm", "--network", "front", "busybox", "wget", "-qO", "-", "web/big"];
    wait_for("the page", || engine.docker(fetch).code == Some(0));
    let page = page(&engine);
    let of = |name: &str| value(&page, name, &["name=\"web\"", "image=\"busybox\""]);
    assert!(of("container_cpu_usage_seconds_total") > Some(0.0), "{page}");
    assert!(of("container_memory_usage_bytes") > Some(4096.0), "{page}");
    assert!(of("container_memory_working_set_bytes") <= of("container_memory_usage_bytes"), "{page}");
    assert_eq!(of("container_spec_memory_limit_bytes"), Some(64.0 * 1024.0 * 1024.0));
    assert!(of("container_start_time_seconds") > Some(1e9), "{page}");
    assert!(of("container_processes") >= Some(1.0), "{page}");
    let sent = value(&page, "container_network_transmit_bytes_total", &["\"web\"", "interface=\"eth0\""]);
    assert!(sent > Some(1e6), "{page}");
    assert_eq!(of("engine_container_restarts_total"), Some(0.0));
    assert_eq!(value(&page, "engine_daemon_container_states_containers", &["\"running\""]), Some(1.0));
    assert_eq!(value(&page, "engine_daemon_container_states_containers", &["\"stopped\""]), Some(1.0));
    assert_eq!(value(&page, "container_memory_usage_bytes", &["\"idle\""]), None);
    assert_eq!(value(&page, "engine_networks", &[]), Some(4.0));
    assert_eq!(value(&page, "engine_images", &[]), Some(1.0));
    assert!(value(&page, "engine_layers_bytes", &[]) > Some(100_000.0), "{page}");
    assert!(value(&page, "engine_daemon_health_checks_total", &[]) > Some(0.0), "{page}");
    assert_eq!(value(&page, "engine_daemon_health_checks_failed_total", &[]), Some(0.0));
    assert!(value(&page, "engine_daemon_events_total", &[]) > Some(5.0), "{page}");
    assert!(value(&page, "process_resident_memory_bytes", &[]) > Some(1e6), "{page}");
    assert!(value(&page, "process_cpu_seconds_total", &[]).is_some(), "{page}");
    assert!(page.ends_with("# EOF\n"), "{page}");

    // Times are all in the same unit.
    let parts = ["user", "system"].map(|part| of(&format!("container_cpu_{part}_seconds_total")).unwrap());
    let all = of("container_cpu_usage_seconds_total").unwrap();
    assert!(parts.iter().sum::<f64>() > all / 2.0 - 0.03, "{parts:?} {all}");

    // Nothing else is served there.
    let status = |arguments: &[&str]| {
        let fixed = ["-s", "-o", "/dev/null", "-w", "%{http_code}"];
        engine.inside("curl", fixed.iter().chain(arguments)).ok()
    };
    assert_eq!(status(&["http://127.0.0.1:9323/containers/json"]), "404");
    assert_eq!(status(&["-X", "POST", "http://127.0.0.1:9323/metrics"]), "405");

    // The dashboard asks for nothing that there is not. (What goes to disks shows only where the kernel counts it.)
    let dashboard = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/grafana/engine.json");
    let dashboard: serde_json::Value = serde_json::from_str(&fs::read_to_string(dashboard).unwrap()).unwrap();
    let mut asked = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let words =
                target["expr"].as_str().unwrap().split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let ours = ["engine_", "container_", "process_"];
            asked.extend(
                words.filter(|word| ours.iter().any(|prefix| word.starts_with(prefix))).map(str::to_owned),
            );
        }
    }
    assert!(asked.len() > 10, "{asked:?}");
    for name in asked.iter().filter(|name| !name.starts_with("container_fs_")) {
        let is_there = page
            .lines()
            .any(|line| line.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with(['{', ' '])));
        assert!(is_there, "{name}");
    }
}

#[test]
fn an_address_that_is_none_or_taken_is_refused_by_name() {
    let mut engine = Engine::prepare(r#"{"metrics-addr": "localhost:9323"}"#, &[]);
    engine.spawn();
    assert_eq!(engine.wait(), Some(1));
    assert!(engine.log().contains("metrics-addr"), "{}", engine.log());
    let mut engine = Engine::prepare(r#"{"metrics-addr": "192.0.2.1:9323"}"#, &[]);
    engine.spawn();
    assert_eq!(engine.wait(), Some(1));
    assert!(engine.log().contains("192.0.2.1:9323 (metrics-addr)"), "{}", engine.log());
}
