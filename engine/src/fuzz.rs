//! Hostile queries, keys and configuration files.

use clap::Parser;
use engine_model::event::EventFilters;

use crate::api::containers::parse_keys;
use crate::api::filters::{Filters, timestamp};
use crate::api::version;
use crate::config::{Config, Flags, duration};

#[test]
fn filters() {
    let corpus: [&[u8]; 4] = [
        br#"{"label":{"a":true,"b=1":true,"c":false},"dangling":["true"],"until":["24h"]}"#,
        br#"{"until":["1700000000.5"],"name":["^/a$"]}"#,
        br#"{"until":{"2024-01-01T00:00:00Z":true}}"#,
        b"{}",
    ];
    let labels = [("a".to_owned(), String::new()), ("b".to_owned(), "1".to_owned())].into();
    fuzz::run("filters", &corpus, |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let _ = (timestamp(text), duration(text));
        let Ok(filters) = Filters::parse(Some(text)) else { return };
        let _ = (filters.boolean("dangling"), filters.until(), filters.labels_fit(&labels));
        let _ = filters.only(&["label"]);
        let _ = EventFilters(filters.into_map());
    });
}

#[test]
fn paths_and_keys() {
    let corpus: [&[u8]; 4] =
        [b"/v1.44/containers/json?all=1", b"ctrl-p,ctrl-q", b"a,ctrl-],ctrl-@", b"/v1.99/x"];
    fuzz::run("paths_and_keys", &corpus, |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let _ = parse_keys(Some(text));
        if let Ok(uri) = text.parse() {
            let _ = version::strip(&uri);
        }
    });
}

#[test]
fn daemon_json() {
    let corpus: [&[u8]; 3] = [
        br#"{"hosts":["unix:///var/run/x.sock","tcp://127.0.0.1:5000"],"tlsverify":false,"group":"docker","labels":["a=b"]}"#,
        br#"{"log-driver":"json-file","log-opts":{"max-size":"10m","max-file":"3"},"log-level":"debug","bip":"10.1.0.1/16",
"mtu":1400,"default-ulimits":{"nofile":{"Name":"nofile","Soft":1024,"Hard":2048}}}"#,
        br#"{"prune":{"enabled":true,"schedule":"24h","until":"168h","disk-watermark":85},"data-root":"/var/lib/x","debug":true}"#,
    ];
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let path = folder.path().join("daemon.json");
    let flags = Flags::try_parse_from(["engine daemon", "--config-file", path.to_str().unwrap()]).unwrap();
    std::fs::write(&path, "{}").unwrap();
    let usual = Config::load(&flags).unwrap();
    fuzz::run("daemon_json", &corpus, |input| {
        std::fs::write(&path, input).unwrap();
        if let Ok(config) = Config::load(&flags) {
            usual.reload(&config);
        }
    });
}
