//! The request that options make.

#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;

fn options() -> Options {
    Options {
        image: "busybox".to_owned(),
        restart: "no".to_owned(),
        memory_swappiness: -1,
        ..Options::default()
    }
}

fn made(options: &Options) -> Value {
    request(options, Attached::new(options, false).unwrap()).unwrap()
}

fn strings(values: &[&str]) -> Vec<String> {
    values.iter().map(|&value| value.to_owned()).collect()
}

#[test]
fn a_plain_run_attaches_its_output() {
    let body = made(&options());
    assert_eq!(body["AttachStdout"], json!(true));
    assert_eq!(body["AttachStdin"], json!(false));
    assert_eq!(body["Cmd"], Value::Null);
    assert_eq!(body["Entrypoint"], Value::Null);
    assert_eq!(body["HostConfig"]["NetworkMode"], json!("default"));
    assert_eq!(body["HostConfig"]["RestartPolicy"], json!({"Name": "no", "MaximumRetryCount": 0}));
}

#[test]
fn limits_and_security() {
    let body = made(&Options {
        memory: Some("64m".to_owned()),
        memory_swap: Some("-1".to_owned()),
        cpus: Some("1.5".to_owned()),
        pids_limit: 7,
        ulimit: strings(&["nofile=10:20", "core=0"]),
        device: strings(&["/dev/null", "/dev/zero:/dev/z:r", "/dev/full:rm"]),
        cap_add: strings(&["NET_ADMIN"]),
        security_opt: strings(&["seccomp=unconfined", "no-new-privileges", "systempaths=unconfined"]),
        restart: "on-failure:3".to_owned(),
        ..options()
    });
    let host = &body["HostConfig"];
    assert_eq!(host["Memory"], json!(64 << 20));
    assert_eq!(host["MemorySwap"], json!(-1));
    assert_eq!(host["NanoCpus"], json!(1_500_000_000));
    assert_eq!(host["PidsLimit"], json!(7));
    assert_eq!(
        host["Ulimits"],
        json!([{"Name": "nofile", "Soft": 10, "Hard": 20}, {"Name": "core", "Soft": 0, "Hard": 0}])
    );
    assert_eq!(
        host["Devices"][1],
        json!({"PathOnHost": "/dev/zero", "PathInContainer": "/dev/z", "CgroupPermissions": "r"})
    );
    assert_eq!(
        host["Devices"][2],
        json!({"PathOnHost": "/dev/full", "PathInContainer": "/dev/full", "CgroupPermissions": "rm"})
    );
    assert_eq!(host["SecurityOpt"], json!(["seccomp=unconfined", "no-new-privileges"]));
    assert_eq!(host["MaskedPaths"], json!([]));
    assert_eq!(host["RestartPolicy"], json!({"Name": "on-failure", "MaximumRetryCount": 3}));
}

#[test]
fn streams() {
    let interactive = Options { interactive: true, tty: true, ..options() };
    let body = made(&interactive);
    for name in ["AttachStdin", "OpenStdin", "StdinOnce", "Tty"] {
        assert_eq!(body[name], json!(true), "{name}");
    }
    let detached = Attached::new(&interactive, true).unwrap();
    assert!(!detached.any());
    let body = request(&interactive, detached).unwrap();
    assert_eq!((&body["OpenStdin"], &body["StdinOnce"]), (&json!(true), &json!(false)));
    let only_error = Options { attach: strings(&["STDERR"]), ..options() };
    assert_eq!(
        Attached::new(&only_error, false).unwrap(),
        Attached { stdin: false, stdout: false, stderr: true }
    );
    assert!(Attached::new(&only_error, true).is_err());
    assert!(Attached::new(&Options { attach: strings(&["nose"]), ..options() }, false).is_err());
}

#[test]
fn networks_and_names() {
    let body = made(&Options {
        network: strings(&["front"]),
        network_alias: strings(&["web"]),
        ip: Some("10.0.0.5".to_owned()),
        add_host: strings(&["db:10.0.0.9", "six=[::1]"]),
        hostname: "h1".to_owned(),
        entrypoint: Some(String::new()),
        command: strings(&["sh", "-c", "true"]),
        ..options()
    });
    assert_eq!(body["HostConfig"]["NetworkMode"], json!("front"));
    assert_eq!(
        body["NetworkingConfig"]["EndpointsConfig"]["front"],
        json!({"IPAMConfig": {"IPv4Address": "10.0.0.5", "IPv6Address": ""}, "Aliases": ["web"]})
    );
    assert_eq!(body["HostConfig"]["ExtraHosts"], json!(["db:10.0.0.9", "six:::1"]));
    assert_eq!(body["Entrypoint"], json!([""]));
    assert_eq!(body["Cmd"], json!(["sh", "-c", "true"]));
    let body = made(&Options { network: strings(&["host"]), ..options() });
    assert_eq!(body["HostConfig"]["NetworkMode"], json!("host"));
    assert_eq!(body["NetworkingConfig"]["EndpointsConfig"], json!({}));
}

#[test]
fn every_key_of_a_network_is_sent_or_refused() {
    let network =
        "name=front,driver-opt=a=b,gw-priority=7,link-local-ip=169.254.1.1,mac-address=02:00:00:00:00:01";
    let body = made(&Options { network: strings(&[network]), ..options() });
    assert_eq!(
        body["NetworkingConfig"]["EndpointsConfig"]["front"],
        json!({"MacAddress": "02:00:00:00:00:01", "GwPriority": 7, "DriverOpts": {"a": "b"},
            "IPAMConfig": {"LinkLocalIPs": ["169.254.1.1"]}})
    );
    for (network, message) in [
        ("name=front,colour=red", "invalid field key colour"),
        ("name=front,colour", "invalid field colour"),
        ("name=front,gw-priority=high", "invalid gw-priority"),
    ] {
        let options = Options { network: strings(&[network]), ..options() };
        let attached = Attached::new(&options, true).unwrap();
        let error = request(&options, attached).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn health_checks() {
    let body = made(&Options {
        health_cmd: Some("true".to_owned()),
        health_interval: Some("1m30s".to_owned()),
        health_retries: 2,
        ..options()
    });
    assert_eq!(body["Healthcheck"]["Test"], json!(["CMD-SHELL", "true"]));
    assert_eq!(body["Healthcheck"]["Interval"], json!(90_000_000_000_i64));
    assert_eq!(
        made(&Options { no_healthcheck: true, ..options() })["Healthcheck"],
        json!({"Test": ["NONE"]})
    );
    assert_eq!(made(&options()).get("Healthcheck"), None);
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (options, message) in [
        (
            Options { memory: Some("1x".to_owned()), ..options() },
            "invalid argument \"1x\" for \"-m, --memory\" flag: invalid suffix: 'x'",
        ),
        (
            Options { rm: true, restart: "always".to_owned(), ..options() },
            "conflicting options: cannot specify both --restart and --rm",
        ),
        (
            Options { restart: "on-failure:x".to_owned(), ..options() },
            "invalid restart policy format: maximum retry count must be an integer: on-failure:x",
        ),
        (Options { publish: strings(&["x:1"]), ..options() }, "invalid hostPort: x"),
        (Options { device: strings(&["/a:/b:q"]), ..options() }, "invalid device specification: /a:/b:q"),
        (
            Options { memory_swappiness: 101, ..options() },
            "invalid value: 101. Valid memory swappiness range is 0-100",
        ),
        (
            Options { add_host: strings(&["nothing"]), ..options() },
            "invalid argument \"nothing\" for \"--add-host\" flag: bad format for add-host",
        ),
        (
            Options { security_opt: strings(&["seccomp=/nowhere/at/all"]), ..options() },
            "opening seccomp profile (/nowhere/at/all) failed: No such file or directory (os error 2)",
        ),
    ] {
        let attached = Attached::new(&options, false).unwrap();
        assert_eq!(request(&options, attached).unwrap_err().to_string(), message);
    }
}
