//! `run` and `create`.

use std::fs;
use std::io::Write as _;

use clap::Args;
use http_body_util::BodyExt as _;
use hyper::Method;
use hyper::Response;
use hyper::body::Incoming;
use serde_json::Value;

use super::pull;
use crate::client::{Client, Target, empty};
use crate::create::{self, Attached, Options};
use crate::detach::DetachKeys;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::session::{self, End, Session, SignalProxy};
use crate::terminal;

/// The longest answer to a wait.
const STATUS_LIMIT: usize = 1 << 20;

/// Create and run a new container from an image
#[derive(Args, Debug)]
#[command(disable_help_flag = true)]
pub(crate) struct Run {
    /// Run in the background and print the container's ID
    #[arg(long, short)]
    detach: bool,
    /// Other keys that detach from the container
    #[arg(long, value_name = "string", default_value = "")]
    detach_keys: String,
    /// Pass signals on to the process
    #[arg(long, value_name = "bool", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    sig_proxy: bool,
    #[command(flatten)]
    options: Options,
}

/// Create a new container
#[derive(Args, Debug)]
#[command(disable_help_flag = true)]
pub(crate) struct Create {
    #[command(flatten)]
    options: Options,
}

fn failed(command: &'static str) -> impl Fn(Failure) -> Failure {
    move |source| Failure::Run {
        source: Box::new(source),
        command,
        code: if command == "run" { 125 } else { 1 },
    }
}

/// Makes the container and prints its identifier.
pub(crate) async fn create(client: &Client, create: Create) -> Outcome {
    let attached = Attached::new(&create.options, false).map_err(failed("create"))?;
    let id = make(client, &create.options, attached).await.map_err(failed("create"))?;
    output::line(id)
}

/// Makes the container, starts it and, unless detached, stays with it to its end.
pub(crate) async fn run(client: &Client, run: Run) -> Outcome {
    let Run { detach, detach_keys, sig_proxy, options } = run;
    let attached = Attached::new(&options, detach).map_err(failed("run"))?;
    if options.tty && attached.stdin && !terminal::input_is_terminal() {
        return Err(Failure::refused("the input device is not a TTY"));
    }
    let detach_keys =
        DetachKeys::parse(&detach_keys).map_err(|message| failed("run")(Failure::Refused(message)))?;
    let id = make(client, &options, attached).await.map_err(failed("run"))?;
    if !attached.any() {
        start(client, &id).await.map_err(not_started)?;
        return output::line(id);
    }
    let stream = client.hijack(&attach_target(&id, attached), None).await.map_err(failed("run"))?;
    let condition = if options.rm { "removed" } else { "next-exit" };
    let waiting = wait(client, &id, condition).await.map_err(failed("run"))?;
    let signals = SignalProxy::new(sig_proxy);
    start(client, &id).await.map_err(not_started)?;
    let session = Session {
        tty: options.tty,
        input: attached.stdin,
        output: attached.stdout || attached.stderr,
        detach_keys,
        signals_go_on: sig_proxy,
    };
    let work = async {
        match session.run(stream).await? {
            End::Detached => Ok(()),
            End::Closed => exit_status(waiting).await,
        }
    };
    tokio::select! {
        outcome = work => outcome,
        () = beside(client, &id, options.tty, signals) => Ok(()),
    }
}

/// What goes on beside a session, for ever: the terminal's size, and signals.
pub(crate) async fn beside(client: &Client, id: &str, tty: bool, signals: SignalProxy) {
    let size = async {
        if tty {
            session::follow_size(client, Target::new(["containers", id, "resize"])).await;
        }
    };
    tokio::join!(size, signals.run(client, id));
    std::future::pending::<()>().await;
}

/// Where to attach to these streams of a container.
pub(crate) fn attach_target(id: &str, attached: Attached) -> Target {
    Target::new(["containers", id, "attach"])
        .with_flag("stderr", attached.stderr)
        .with_flag("stdin", attached.stdin)
        .with_flag("stdout", attached.stdout)
        .with("stream", "1")
}

/// Begins to wait; the daemon answers the head at once and the body at the end.
pub(crate) async fn wait(client: &Client, id: &str, condition: &str) -> Outcome<Response<Incoming>> {
    let mut target = Target::new(["containers", id, "wait"]);
    if !condition.is_empty() {
        target = target.with("condition", condition);
    }
    client.stream(Method::POST, &target, None, empty()).await
}

/// Waits to the end; the container's exit code is ours.
pub(crate) async fn exit_status(waiting: Response<Incoming>) -> Outcome {
    match wait_result(waiting).await? {
        0 => Ok(()),
        code => Err(Failure::Exit(code)),
    }
}

/// The container's exit code, as far as a process can have one.
async fn wait_result(waiting: Response<Incoming>) -> Outcome<u8> {
    let body = http_body_util::Limited::new(waiting.into_body(), STATUS_LIMIT);
    let bytes = body.collect().await.map_err(|error| Failure::Answer(error.to_string()))?.to_bytes();
    let answer: Value = serde_json::from_slice(&bytes).map_err(|error| Failure::Answer(error.to_string()))?;
    if let Some(message) = answer["Error"]["Message"].as_str().filter(|message| !message.is_empty()) {
        output::say(format!("Error waiting for container: {message}"));
        return Ok(125);
    }
    let code = answer["StatusCode"].as_i64().unwrap_or(125);
    // As the kernel does: only the lowest byte travels.
    Ok(u8::try_from(code & 0xff).unwrap_or(125))
}

/// Starts the container.
pub(crate) async fn start(client: &Client, id: &str) -> Outcome {
    client.post(&Target::new(["containers", id, "start"]), None).await.map(|_| ())
}

/// A process that could not be started has exit codes of its own.
fn not_started(source: Failure) -> Failure {
    let code = match &source {
        Failure::Daemon { message, .. } => {
            let has = |words: &[&str]| words.iter().any(|word| message.contains(word));
            if has(&[
                "executable file not found",
                "no such file or directory",
                "system cannot find the file specified",
            ]) {
                127
            } else if has(&[
                "permission denied",
                "Permission denied",
                "is a directory",
                "not a directory",
                "exec format error",
            ]) {
                126
            } else {
                125
            }
        }
        _ => 125,
    };
    Failure::Run { source: Box::new(source), command: "run", code }
}

/// The file that gets the identifier; it must be new, so that no running container is forgotten.
fn open_id_file(options: &Options) -> Outcome<Option<(fs::File, String)>> {
    let Some(path) = options.cidfile.as_ref().filter(|path| !path.is_empty()) else { return Ok(None) };
    match fs::OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(file) => Ok(Some((file, path.clone()))),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(Failure::refused(format!(
            "container ID file found, make sure the other container isn't running or delete {path}"
        ))),
        Err(source) => Err(Failure::WriteFile { path: path.clone(), source }),
    }
}

async fn make(client: &Client, options: &Options, attached: Attached) -> Outcome<String> {
    if !matches!(options.pull.as_str(), "always" | "missing" | "never" | "") {
        return Err(Failure::refused(format!(
            "invalid pull option: '{}': must be one of \"always\", \"missing\" or \"never\"",
            options.pull
        )));
    }
    let body = create::request(options, attached)?;
    let id_file = open_id_file(options)?;
    let made = request(client, options, &body).await;
    let answer = match (made, &id_file) {
        (Err(error), Some((_, path))) => {
            // It is empty, and nobody wants it.
            let _ = fs::remove_file(path);
            return Err(error);
        }
        (made, _) => made?,
    };
    for warning in answer["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        output::say(format!("WARNING: {warning}"));
    }
    let id =
        answer["Id"].as_str().ok_or_else(|| Failure::Answer("there is no identifier in it".to_owned()))?;
    if let Some((mut file, path)) = id_file {
        file.write_all(id.as_bytes()).map_err(|source| Failure::WriteFile { path, source })?;
    }
    Ok(id.to_owned())
}

async fn request(client: &Client, options: &Options, body: &Value) -> Outcome<Value> {
    let target = Target::new(["containers", "create"])
        .with_some("name", options.name.as_deref())
        .with_some("platform", options.platform.as_deref());
    let pulled =
        |quiet| pull::pull(client, &options.image, options.platform.as_deref(), quiet, pull::Speak::Aside);
    if options.pull == "always" {
        pulled(options.quiet).await?;
    }
    match client.post(&target, Some(body)).await {
        Err(Failure::Daemon { status: 404, message })
            if options.pull == "missing" && message.to_lowercase().contains("no such image") =>
        {
            if !options.quiet {
                output::say(format!("Unable to find image '{}' locally", pull::with_tag(&options.image)));
            }
            pulled(options.quiet).await?;
            client.post(&target, Some(body)).await
        }
        outcome => outcome,
    }
}
