//! Has a host make an SSH host key of its own, in place of one that travelled where others may read it.

use std::time::Duration;

use serde::Serialize;
use tokio::time::timeout;

use super::{ProvisionError, one_line, render::render, shell_quoted};
use crate::ssh::Session;

/// Making a key is a matter of a second, on emulated hosts too.
const AT_MOST: Duration = Duration::from_secs(120);
const ATTEMPT: &str = "Replacing the SSH host key";
/// A public key of the kind that is made has 80 characters.
const LONGEST_KEY: usize = 256;

#[derive(Serialize)]
struct Step {
    place: bool,
}

/// Has the host make a key, beside the one that it shows; the same one when it is asked again. Returns its public half
/// as a line of `known_hosts` without the host.
pub async fn prepare_host_key(session: &Session) -> Result<String, ProvisionError> {
    let answer = run(session, false).await?;
    let words: Vec<&str> = answer.split_whitespace().collect();
    match words[..] {
        [kind @ "ssh-ed25519", data, ..] if answer.len() <= LONGEST_KEY => Ok(format!("{kind} {data}")),
        _ => Err(ProvisionError::HostKey { output: clean(&answer) }),
    }
}

/// Has the host show that key from now on.
pub async fn place_host_key(session: &Session) -> Result<(), ProvisionError> {
    match run(session, true).await?.as_str() {
        "placed" => Ok(()),
        other => Err(ProvisionError::HostKey { output: clean(other) }),
    }
}

async fn run(session: &Session, place: bool) -> Result<String, ProvisionError> {
    let script = render("shell/host-key.sh", &Step { place })?;
    let command = format!("exec /bin/sh -c {}", shell_quoted(&one_line("shell/launch-probe.sh")?));
    let output = timeout(AT_MOST, session.output(&command, script.as_bytes()))
        .await
        .map_err(|_| ProvisionError::TooSlow { attempt: ATTEMPT, after: AT_MOST })?
        .map_err(|source| ProvisionError::Session { attempt: ATTEMPT, source })?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().find_map(|line| line.strip_prefix("host-key=")) {
        Some(answer) => Ok(answer.trim().to_owned()),
        None => Err(ProvisionError::HostKey { output: clean(&String::from_utf8_lossy(&output.stderr)) }),
    }
}

fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}
