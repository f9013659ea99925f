//! Our docker command line: beside the stock one, on the wire, on a terminal, and against a real daemon.

#![recursion_limit = "256"]
#![allow(clippy::unwrap_used)]

mod harness;
mod stand_in;

#[path = "cli/beside.rs"]
mod beside;
#[path = "cli/building.rs"]
mod building;
#[path = "cli/network.rs"]
mod network;
#[path = "cli/real.rs"]
mod real;
#[path = "cli/terminal.rs"]
mod terminal;
#[path = "cli/wire.rs"]
mod wire;

use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, mpsc};

use serde_json::json;
use stand_in::{CONTAINER, Reply, Request, StandIn};

const VARIABLES: [&str; 7] = [
    "DOCKER_HOST",
    "DOCKER_TLS",
    "DOCKER_TLS_VERIFY",
    "DOCKER_CERT_PATH",
    "DOCKER_CONTEXT",
    "DOCKER_API_VERSION",
    "DOCKER_CONFIG",
];

fn clean(mut command: Command) -> Command {
    for variable in VARIABLES {
        command.env_remove(variable);
    }
    command.env("HOME", env!("CARGO_TARGET_TMPDIR"));
    command
}

/// Our command line, called as `docker`.
fn ours(host: &str, arguments: &[&str]) -> Command {
    let mut command = clean(Command::new(env!("CARGO_BIN_EXE_engine")));
    command.arg0("docker").args(arguments).env("DOCKER_HOST", host);
    command
}

/// The stock command line.
fn stock(host: &str, arguments: &[&str]) -> Command {
    let mut command = clean(Command::new("docker"));
    command.args(arguments).env("DOCKER_HOST", host);
    command
}

/// Words, of which those in single quotes may have spaces.
fn split(line: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() {
        let (word, after) = match rest.strip_prefix('\'') {
            Some(quoted) => quoted.split_once('\'').unwrap(),
            None => rest.split_once(' ').unwrap_or((rest, "")),
        };
        words.push(word);
        rest = after.trim_start();
    }
    words
}

/// A stand-in that makes and starts one container, whose streams are a conversation and whose exit code is given.
fn one_container(
    code: i64,
    conversation: impl Fn(std::io::BufReader<std::os::unix::net::UnixStream>) + Send + Sync + 'static,
) -> StandIn {
    let conversation = Arc::new(conversation);
    let (finished, ended) = mpsc::channel();
    let ended = Mutex::new(Some(ended));
    let finished = Mutex::new(finished);
    StandIn::start(move |request: &Request| match request.line().as_str() {
        "POST /containers/create" => Reply::Json(201, json!({"Id": CONTAINER, "Warnings": []})),
        line if line == format!("POST /containers/{CONTAINER}/attach") => {
            let conversation = Arc::clone(&conversation);
            let finished = finished.lock().unwrap().clone();
            Reply::upgrade(move |stream| {
                conversation(stream);
                let _ = finished.send(json!({"StatusCode": code}));
            })
        }
        line if line == format!("POST /containers/{CONTAINER}/wait") => {
            Reply::Later(ended.lock().unwrap().take().unwrap())
        }
        _ => Reply::Json(204, json!(null)),
    })
}

fn send(child: &Child, signal: &str) {
    let status =
        Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}
