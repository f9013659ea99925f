//! `start`, `stop`, `restart`, `kill`, `pause`, `unpause`, `rm`, `wait`, `rename`, `update`.

use clap::Args;
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use super::run::{attach_target, beside, exit_status, start as start_container, wait as begin_wait};
use crate::client::{Client, Target};
use crate::create::{self, Attached};
use crate::detach::DetachKeys;
use crate::failure::{Failure, Outcome, chain};
use crate::output;
use crate::session::{End, Session, SignalProxy};

/// How many containers are worked on at a time, as in the stock client.
const AT_ONCE: usize = 50;

/// Does something to each; prints its name when it worked and the error when not, in order.
pub(crate) async fn each(names: &[String], work: impl AsyncFn(&str) -> Outcome<String>) -> Outcome {
    let mut outcomes = futures_util::stream::iter(names).map(|name| work(name)).buffered(AT_ONCE);
    let mut failed = false;
    while let Some(outcome) = outcomes.next().await {
        match outcome {
            Ok(text) => output::line(text)?,
            Err(Failure::Unreachable { host }) => return Err(Failure::Unreachable { host }),
            Err(error) => {
                output::say(chain(&error));
                failed = true;
            }
        }
    }
    if failed { Err(Failure::Exit(1)) } else { Ok(()) }
}

/// Start one or more stopped containers
#[derive(Args, Debug)]
pub(crate) struct Start {
    /// Attach to the output and pass signals on
    #[arg(long, short)]
    attach: bool,
    /// Other keys that detach from the container
    #[arg(long, value_name = "string", default_value = "")]
    detach_keys: String,
    /// Attach the container's input
    #[arg(long, short)]
    interactive: bool,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

pub(crate) async fn start(client: &Client, options: Start) -> Outcome {
    let Start { attach, detach_keys, interactive, containers } = options;
    if attach || interactive {
        let [container] = containers.as_slice() else {
            return Err(Failure::refused("you cannot start and attach multiple containers at once"));
        };
        return start_attached(client, container, &detach_keys, interactive).await;
    }
    let mut failed = Vec::new();
    for name in &containers {
        match start_container(client, name).await {
            Ok(()) => output::line(name)?,
            Err(error @ Failure::Unreachable { .. }) => return Err(error),
            Err(error) => {
                output::say(chain(&error));
                failed.push(name.as_str());
            }
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::refused(format!("Error: failed to start containers: {}", failed.join(", "))))
}

async fn start_attached(client: &Client, name: &str, detach_keys: &str, interactive: bool) -> Outcome {
    let detach_keys = DetachKeys::parse(detach_keys).map_err(Failure::Refused)?;
    let container = client.get(&Target::new(["containers", name, "json"])).await?;
    let id = container["Id"].as_str().unwrap_or(name);
    let config = &container["Config"];
    let tty = config["Tty"].as_bool().unwrap_or(false);
    let stdin = interactive && config["OpenStdin"].as_bool().unwrap_or(false);
    let attached = Attached { stdin, stdout: true, stderr: true };
    let stream = client.hijack(&attach_target(id, attached), None).await?;
    let removed = container["HostConfig"]["AutoRemove"].as_bool().unwrap_or(false);
    let waiting = begin_wait(client, id, if removed { "removed" } else { "next-exit" }).await?;
    let signals = SignalProxy::new(!tty);
    start_container(client, id).await?;
    let session = Session { tty, input: stdin, output: true, detach_keys, signals_go_on: !tty };
    let work = async {
        match session.run(stream).await? {
            End::Detached => Ok(()),
            End::Closed => exit_status(waiting).await,
        }
    };
    tokio::select! {
        outcome = work => outcome,
        () = beside(client, id, tty, signals) => Ok(()),
    }
}

/// Stop or restart containers
#[derive(Args, Debug)]
pub(crate) struct Stop {
    /// Signal to send to the container
    #[arg(long, short, value_name = "string")]
    signal: Option<String>,
    /// Seconds to wait before killing the container
    #[arg(long, short, alias = "time", value_name = "int", allow_hyphen_values = true)]
    timeout: Option<i64>,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// `stop` or `restart`.
pub(crate) async fn stop(client: &Client, options: Stop, action: &str) -> Outcome {
    let timeout = options.timeout.map(|seconds| seconds.to_string());
    each(&options.containers, async |name| {
        let target = Target::new(["containers", name, action])
            .with_some("signal", options.signal.as_deref())
            .with_some("t", timeout.as_deref());
        client.post(&target, None).await.map(|_| name.to_owned())
    })
    .await
}

/// Kill one or more running containers
#[derive(Args, Debug)]
pub(crate) struct Kill {
    /// Signal to send to the container
    #[arg(long, short, value_name = "string")]
    signal: Option<String>,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

pub(crate) async fn kill(client: &Client, options: Kill) -> Outcome {
    each(&options.containers, async |name| {
        let target = Target::new(["containers", name, "kill"]).with_some("signal", options.signal.as_deref());
        client.post(&target, None).await.map(|_| name.to_owned())
    })
    .await
}

/// Work on one or more containers
#[derive(Args, Debug)]
pub(crate) struct Names {
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// `pause` or `unpause`.
pub(crate) async fn simple(client: &Client, options: Names, action: &str) -> Outcome {
    each(&options.containers, async |name| {
        client.post(&Target::new(["containers", name, action]), None).await.map(|_| name.to_owned())
    })
    .await
}

/// `wait`.
pub(crate) async fn wait(client: &Client, options: Names) -> Outcome {
    each(&options.containers, async |name| {
        let answer = client.post(&Target::new(["containers", name, "wait"]), None).await?;
        match answer["Error"]["Message"].as_str().filter(|message| !message.is_empty()) {
            Some(message) => Err(Failure::refused(message)),
            None => Ok(answer["StatusCode"].as_i64().unwrap_or(-1).to_string()),
        }
    })
    .await
}

/// Remove one or more containers
#[derive(Args, Debug)]
pub(crate) struct Remove {
    /// Remove it even if it runs (with SIGKILL)
    #[arg(long, short)]
    force: bool,
    /// Remove the specified link
    #[arg(long, short)]
    link: bool,
    /// Remove its anonymous volumes too
    #[arg(long, short)]
    volumes: bool,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

pub(crate) async fn remove(client: &Client, options: Remove) -> Outcome {
    let Remove { force, link, volumes, containers } = options;
    each(&containers, async |name| {
        if name.trim_matches('/').is_empty() {
            return Err(Failure::refused("Container name cannot be empty"));
        }
        let target = Target::new(["containers", name.trim_start_matches('/')])
            .with_flag("force", force)
            .with_flag("link", link)
            .with_flag("v", volumes);
        match client.delete(&target).await {
            // To be sure that it is gone is what force is for.
            Err(error) if force && error.is_not_found() => {
                output::say(error.to_string());
                Ok(name.to_owned())
            }
            outcome => outcome.map(|_| name.to_owned()),
        }
    })
    .await
}

/// Rename a container
#[derive(Args, Debug)]
pub(crate) struct Rename {
    #[arg(value_name = "CONTAINER")]
    container: String,
    #[arg(value_name = "NEW_NAME")]
    name: String,
}

pub(crate) async fn rename(client: &Client, options: Rename) -> Outcome {
    let (old, new) = (options.container.trim(), options.name.trim());
    if old.is_empty() || new.is_empty() {
        return Err(Failure::refused("Error: Neither old nor new names may be empty"));
    }
    let target = Target::new(["containers", old, "rename"]).with("name", new);
    client.post(&target, None).await.map(|_| ())
}

/// Update configuration of one or more containers
#[derive(Args, Debug)]
pub(crate) struct Update {
    /// Block IO weight, 10 to 1000
    #[arg(long, value_name = "uint16", default_value_t = 0)]
    blkio_weight: u16,
    /// Period of the CPU quota in microseconds
    #[arg(long, value_name = "int", default_value_t = 0)]
    cpu_period: i64,
    /// CPU quota in microseconds
    #[arg(long, value_name = "int", default_value_t = 0)]
    cpu_quota: i64,
    /// CPU shares (relative weight)
    #[arg(long, short, value_name = "int", default_value_t = 0)]
    cpu_shares: i64,
    /// Number of CPUs
    #[arg(long, value_name = "decimal")]
    cpus: Option<String>,
    /// CPUs on which to run (0-3, 0,1)
    #[arg(long, value_name = "string", default_value = "")]
    cpuset_cpus: String,
    /// Memory nodes to use (0-3, 0,1)
    #[arg(long, value_name = "string", default_value = "")]
    cpuset_mems: String,
    /// Memory limit
    #[arg(long, short, value_name = "bytes")]
    memory: Option<String>,
    /// Soft memory limit
    #[arg(long, value_name = "bytes")]
    memory_reservation: Option<String>,
    /// Memory and swap together; -1 for no limit of swap
    #[arg(long, value_name = "bytes")]
    memory_swap: Option<String>,
    /// Limit of processes (-1 for none)
    #[arg(long, value_name = "int")]
    pids_limit: Option<i64>,
    /// What to do when the container exits
    #[arg(long, value_name = "string")]
    restart: Option<String>,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

pub(crate) async fn update(client: &Client, options: Update) -> Outcome {
    let restart = match &options.restart {
        Some(policy) => create::restart_policy(policy)?,
        None => json!({"Name": "", "MaximumRetryCount": 0}),
    };
    let body = json!({
        "BlkioWeight": options.blkio_weight,
        "CpuPeriod": options.cpu_period,
        "CpuQuota": options.cpu_quota,
        "CpuShares": options.cpu_shares,
        "NanoCpus": create::cpus(options.cpus.as_deref())?,
        "CpusetCpus": options.cpuset_cpus,
        "CpusetMems": options.cpuset_mems,
        "Memory": create::memory(options.memory.as_deref(), "-m, --memory")?,
        "MemoryReservation": create::memory(options.memory_reservation.as_deref(), "--memory-reservation")?,
        "MemorySwap": create::swap(options.memory_swap.as_deref())?,
        "PidsLimit": options.pids_limit,
        "RestartPolicy": restart,
    });
    let warnings = std::cell::RefCell::new(Vec::new());
    let outcome = each(&options.containers, async |name| {
        let answer = client.post(&Target::new(["containers", name, "update"]), Some(&body)).await?;
        for warning in answer["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            warnings.borrow_mut().push(warning.to_owned());
        }
        Ok(name.to_owned())
    })
    .await;
    for warning in warnings.into_inner() {
        output::line(warning)?;
    }
    outcome
}
