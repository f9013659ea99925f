#![allow(clippy::unwrap_used)]

use std::io::Write;

use clap::Parser;

use super::*;

fn load(json: &str, arguments: &[&str]) -> Result<Config, String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(json.as_bytes()).unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let start = ["engine daemon", "--config-file", &path];
    let flags = Flags::try_parse_from(start.iter().chain(arguments)).map_err(|error| error.to_string())?;
    Config::load(&flags).map_err(|error| engine_model::chain(&error))
}

#[test]
fn defaults_rotate_logs_and_prune() {
    let config = load("{}", &[]).unwrap();
    assert_eq!(config.hosts, [Host::Unix("/var/run/docker.sock".into())]);
    assert_eq!(config.data_root, Path::new("/var/lib/engine"));
    assert_eq!(config.tls, None);
    let live = config.live();
    assert_eq!(live.log_driver, "json-file");
    assert_eq!((live.log_options["max-size"].as_str(), live.log_options["max-file"].as_str()), ("10m", "3"));
    let day = Duration::from_hours(24);
    let prune =
        Prune { enabled: true, schedule: day, disk_watermark: 85, until: day, containers_until: 7 * day };
    assert_eq!(live.prune, prune);
    let longer = load(r#"{"prune": {"until": "720h"}}"#, &[]).unwrap().live().prune.clone();
    assert_eq!((longer.until, longer.containers_until), (30 * day, 30 * day));
}

#[test]
fn strings_stand_for_numbers_and_booleans() {
    let config = load(
        r#"{"mtu": "1400", "debug": "true", "tlsverify": "true", "hosts": "tcp://0.0.0.0:2376",
            "log-opts": {"max-file": 5, "max-size": "1g"}, "prune": {"enabled": "false", "disk-watermark": 70},
            "default-ulimits": {"nofile": {"Name": "nofile", "Soft": "1024", "Hard": 4096}}}"#,
        &["--label", "a=b", "--label", "c=d"],
    )
    .unwrap();
    let live = config.live();
    assert_eq!((config.mtu, live.log_level), (Some(1400), Level::Debug));
    assert_eq!(config.hosts, [Host::Tcp("0.0.0.0:2376".parse().unwrap())]);
    assert_eq!(config.tls.unwrap().ca, Path::new("/etc/engine/tls/ca.pem"));
    assert_eq!(live.log_options["max-file"], "5");
    assert_eq!((live.prune.enabled, live.prune.disk_watermark), (false, 70));
    assert_eq!(
        config.default_ulimits["nofile"],
        Ulimit { name: "nofile".to_owned(), soft: 1024, hard: 4096 }
    );
    assert_eq!(live.labels, ["a=b", "c=d"]);
}

#[test]
fn mistakes_are_refused_by_name() {
    for (json, arguments, expected) in [
        (r#"{"lables": [], "x": 1}"#, &[][..], "don't match any configuration option: lables, x"),
        (r#"{"prune": {"when": "1h"}}"#, &[], "prune.when"),
        (r#"{"log-opts": {"compress": "true", "max-file": 1}}"#, &[], "compress cannot be true"),
        (r#"{"log-opts": {"max-size": "big"}}"#, &[], "'max-size': big"),
        (r#"{"log-opts": {"max-file": "0"}}"#, &[], "'max-file': 0"),
        (r#"{"labels": ["x"]}"#, &[], "`x` is not of the form"),
        (
            r#"{"labels": ["a=b"]}"#,
            &["--label", "c=d"],
            "specified both as a flag and in the configuration file: labels",
        ),
        (r#"{"debug": "yes"}"#, &[], "`debug`"),
        (r#"{"debug": {}}"#, &[], "expected true or false"),
        (r#"{"mtu": 10}"#, &[], "`mtu`"),
        (r#"{"bip": "172.17.0.1"}"#, &[], "`bip`"),
        (r#"{"dns": ["nowhere"]}"#, &[], "`nowhere` is not an IP address"),
        (r#"{"host-gateway-ip": "x"}"#, &[], "`x` is not an IP address"),
        ("{}", &["--host-gateway-ip", "10.0.0.1", "--host-gateway-ip", "10.0.0.2"], "one IPv4 and one IPv6"),
        (
            r#"{"default-address-pools": [{"base": "10.0.0.0/16", "size": 8}]}"#,
            &[],
            "`size` is a prefix length",
        ),
        (r#"{"default-address-pools": [{"base": "10.0.0.0", "size": 24}]}"#, &[], "`base` is not"),
        (r#"{"default-address-pools": [{"base": "10.0.0.0/16"}]}"#, &[], "`size` is a prefix length"),
        (
            r#"{"default-address-pools": [{"bas": "10.0.0.0/16", "size": 24}]}"#,
            &[],
            "default-address-pools.bas",
        ),
        (r#"{"default-address-pools": {}}"#, &[], "a list of objects"),
        (
            r#"{"default-address-pools": [{"base": "fd00::/48", "size": 127}]}"#,
            &[],
            "`size` is a prefix length between that of `base`, 8 at least, and 126",
        ),
        (r#"{"fixed-cidr-v6": "10.0.0.0/8"}"#, &[], "`10.0.0.0/8` is not a subnet of IPv6"),
        (r#"{"fixed-cidr-v6": "fd00::/127"}"#, &[], "is not a subnet of IPv6"),
        (r#"{"ipv6": "maybe"}"#, &[], "`ipv6`"),
        (r#"{"ip": "::1"}"#, &[], "`::1` is not an IPv4 address"),
        (r#"{"storage-driver": "btrfs"}"#, &[], "`btrfs` is none of overlay2"),
        (
            r#"{"log-driver": "splunk"}"#,
            &[],
            "`splunk` is none of awslogs, fluentd, gelf, journald, json-file, local, none, syslog",
        ),
        (r#"{"log-driver": "gelf", "log-opts": {"tag": "x"}}"#, &[], "gelf-address is a required parameter"),
        (r#"{"log-level": "loud"}"#, &[], "`loud`"),
        (r#"{"data-root": "relative"}"#, &[], "not an absolute path"),
        (r#"{"hosts": ["fd://"]}"#, &[], "systemd"),
        (r#"{"hosts": ["ssh://x"]}"#, &[], "neither `unix` nor `tcp`"),
        (r#"{"hosts": ["example.com:1"]}"#, &[], "does not begin with a protocol"),
        (r#"{"hosts": ["tcp://example.com:1"], "tlsverify": true}"#, &[], "not an IP address"),
        (r#"{"hosts": ["tcp://127.0.0.1:1"]}"#, &[], "without encryption"),
        (r#"{"hosts": ["tcp://0.0.0.0:1"], "tlsverify": false}"#, &[], "without encryption"),
        (r#"{"prune": {"schedule": "1s"}}"#, &[], "less than a minute"),
        (r#"{"prune": {"until": "soon"}}"#, &[], "`soon` is not a time"),
        (r#"{"prune": {"containers-until": "soon"}}"#, &[], "prune.containers-until"),
        (r#"{"prune": {"disk-watermark": "0%"}}"#, &[], "`0%` is not a share"),
        (r#"{"live-restore": false}"#, &[], "live-restore"),
        (r#"{"default-ulimits": {"nofile": {"Soft": 5, "Hard": 4}}}"#, &[], "above the hard limit"),
        ("[]", &[], "not a JSON object"),
        (r#"{"debug": tru"#, &[], "not a JSON object"),
    ] {
        let error = load(json, arguments).map(|config| format!("{config:?}")).unwrap_err();
        assert!(error.contains(expected), "{json}: {error}");
    }
    let flags = Flags { config_file: Some("/nonexistent/daemon.json".into()), ..Flags::default() };
    assert!(matches!(Config::load(&flags), Err(ConfigError::Read { .. })));
}

#[test]
fn plain_tcp_is_for_loopback_and_only_when_asked_for() {
    let config = load(r#"{"hosts": ["tcp://127.0.0.1:5000"], "tlsverify": false}"#, &[]).unwrap();
    assert_eq!(config.hosts, [Host::Tcp("127.0.0.1:5000".parse().unwrap())]);
    let config =
        load("{}", &["-H", "tcp://:2376", "-H", "tcp://[::]:1", "-H", "unix:///a", "--tlsverify"]).unwrap();
    let shown: Vec<String> = config.hosts.iter().map(Host::to_string).collect();
    assert_eq!(shown, ["tcp://127.0.0.1:2376", "tcp://[::]:1", "unix:///a"]);
}

#[test]
fn a_reload_takes_over_what_can_be_taken_over() {
    let config = load(r#"{"labels": ["a=1"], "mtu": 1500}"#, &[]).unwrap();
    let next = load(r#"{"labels": ["a=2"], "mtu": 1400}"#, &[]).unwrap();
    assert_eq!(config.reload(&next), ["mtu"]);
    assert_eq!(config.live().labels, ["a=2"]);
    assert_eq!(config.mtu, Some(1500));
}

#[test]
fn containers_lie_below_the_group_that_is_named() {
    let parent = |json: &str, arguments: &[&str]| load(json, arguments).unwrap().cgroup_parent;
    assert_eq!(parent("{}", &[]), None);
    assert_eq!(parent(r#"{"cgroup-parent": ""}"#, &[]), None);
    let unit = "/system.slice/engine-containers.service";
    let file = format!(r#"{{"cgroup-parent": "{unit}"}}"#);
    assert_eq!(parent(&file, &[]), Some(unit.into()));
    assert_eq!(parent("{}", &["--cgroup-parent", unit]), Some(unit.into()));
    let twice = load(&file, &["--cgroup-parent", "/x"]).unwrap_err();
    assert!(
        twice.contains("specified both as a flag and in the configuration file: cgroup-parent"),
        "{twice}"
    );
    assert_eq!(load(&file, &[]).unwrap().reload(&load("{}", &[]).unwrap()), ["cgroup-parent"]);
}

#[test]
fn names_are_resolved_as_the_daemon_is_told() {
    let config = load(r#"{"dns-search": ["lan"]}"#, &["--dns", "10.0.0.1", "--dns-opt", "rotate"]).unwrap();
    assert_eq!(
        (&config.names.servers[..], &config.names.search[..]),
        (&["10.0.0.1".to_owned()][..], &["lan".to_owned()][..])
    );
    assert_eq!(config.names.options, ["rotate"]);
    let config = load(r#"{"host-gateway-ip": "10.0.0.1"}"#, &[]).unwrap();
    assert_eq!(config.host_gateways, ["10.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(load("{}", &[]).unwrap().reload(&config), ["host-gateway-ip"]);
    let config = load("{}", &["--default-address-pool", "base=10.0.0.0/16,size=24"]).unwrap();
    let pools: Vec<_> = config.address_pools.iter().map(|pool| (pool.base, pool.size)).collect();
    assert_eq!(pools, [(([10, 0, 0, 0].into(), 16), 24)]);
}

#[test]
fn durations_and_sizes() {
    assert_eq!(duration("1h30m"), Some(Duration::from_mins(90)));
    assert_eq!(duration("7d"), Some(Duration::from_hours(7 * 24)));
    for bad in ["", "1", "h", "1x", "-1h", "1h ", "99999999999999999999h", "9999999999999999h"] {
        assert_eq!(duration(bad), None, "{bad}");
    }
    assert_eq!(
        (engine_model::size("10m"), engine_model::size("1GiB"), engine_model::size("5")),
        (Some(10 << 20), Some(1 << 30), Some(5))
    );
    for bad in ["", "m", "1x", "-1", "99999999999t"] {
        assert_eq!(engine_model::size(bad), None, "{bad}");
    }
}
