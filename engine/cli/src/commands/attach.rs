//! `attach`, `exec` and `logs`.

use clap::Args;
use hyper::Method;
use jiff::Timestamp;
use serde_json::json;
use tokio_util::io::StreamReader;

use super::run::{attach_target, beside, exit_status, wait};
use crate::client::{Client, Target, empty};
use crate::create::{Attached, environment};
use crate::detach::DetachKeys;
use crate::failure::{Failure, Outcome};
use crate::session::{self, End, Session, SignalProxy};
use crate::stdcopy::{copy_frames, copy_raw};
use crate::{output, terminal, units};

/// Attach local standard input, output, and error streams to a running container
#[derive(Args, Debug)]
pub(crate) struct Attach {
    /// Other keys that detach from the container
    #[arg(long, value_name = "string", default_value = "")]
    detach_keys: String,
    /// Do not attach the input
    #[arg(long)]
    no_stdin: bool,
    /// Pass signals on to the process
    #[arg(long, value_name = "bool", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    sig_proxy: bool,
    #[arg(value_name = "CONTAINER")]
    container: String,
}

pub(crate) async fn attach(client: &Client, options: Attach) -> Outcome {
    let detach_keys = DetachKeys::parse(&options.detach_keys).map_err(Failure::Refused)?;
    let container = client.get(&Target::new(["containers", &options.container, "json"])).await?;
    let state = &container["State"];
    if state["Running"] != json!(true) {
        return Err(Failure::refused("You cannot attach to a stopped container, start it first"));
    }
    if state["Paused"] == json!(true) {
        return Err(Failure::refused("You cannot attach to a paused container, unpause it first"));
    }
    if state["Restarting"] == json!(true) {
        return Err(Failure::refused(
            "You cannot attach to a restarting container, wait until it is running",
        ));
    }
    let id = container["Id"].as_str().unwrap_or(&options.container);
    let tty = container["Config"]["Tty"] == json!(true);
    let stdin = !options.no_stdin && container["Config"]["OpenStdin"] == json!(true);
    if tty && stdin && !terminal::input_is_terminal() {
        return Err(Failure::refused("the input device is not a TTY"));
    }
    let waiting = wait(client, id, "").await?;
    let stream =
        client.hijack(&attach_target(id, Attached { stdin, stdout: true, stderr: true }), None).await?;
    let proxied = options.sig_proxy && !tty;
    let signals = SignalProxy::new(proxied);
    let session = Session { tty, input: stdin, output: true, detach_keys, signals_go_on: proxied };
    let work = async {
        match session.run(stream).await? {
            End::Detached => {
                output::say("read escape sequence");
                Ok(())
            }
            End::Closed => exit_status(waiting).await,
        }
    };
    tokio::select! {
        outcome = work => outcome,
        () = beside(client, id, tty, signals) => Ok(()),
    }
}

/// Execute a command in a running container
#[derive(Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "Each is a flag of the stock client")]
pub(crate) struct Exec {
    /// Run in the background
    #[arg(long, short)]
    detach: bool,
    /// Other keys that detach from the process
    #[arg(long, value_name = "string", default_value = "")]
    detach_keys: String,
    /// Set environment variables
    #[arg(long, short, value_name = "list")]
    env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "list")]
    env_file: Vec<String>,
    /// Keep stdin open even if not attached
    #[arg(long, short)]
    interactive: bool,
    /// Give all privileges to the command
    #[arg(long)]
    privileged: bool,
    /// Allocate a terminal
    #[arg(long, short)]
    tty: bool,
    /// User name or number, with an optional group
    #[arg(long, short, value_name = "string", default_value = "")]
    user: String,
    /// Working directory inside the container
    #[arg(long, short, value_name = "string", default_value = "")]
    workdir: String,
    #[arg(value_name = "CONTAINER")]
    container: String,
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

pub(crate) async fn exec(client: &Client, options: Exec) -> Outcome {
    let detach_keys = DetachKeys::parse(&options.detach_keys).map_err(Failure::Refused)?;
    let environment = environment::variables(&options.env_file, &options.env)?;
    // Whether the container exists is said before anything else.
    client.get(&Target::new(["containers", &options.container, "json"])).await?;
    let attached = !options.detach;
    if attached && options.tty && options.interactive && !terminal::input_is_terminal() {
        return Err(Failure::refused("the input device is not a TTY"));
    }
    let body = json!({
        "User": options.user,
        "Privileged": options.privileged,
        "Tty": options.tty,
        "AttachStdin": attached && options.interactive,
        "AttachStdout": attached,
        "AttachStderr": attached,
        "DetachKeys": options.detach_keys,
        "Env": environment,
        "WorkingDir": options.workdir,
        "Cmd": options.command,
    });
    let made = client.post(&Target::new(["containers", &options.container, "exec"]), Some(&body)).await?;
    let id = made["Id"].as_str().ok_or_else(|| Failure::Answer("there is no identifier in it".to_owned()))?;
    let start = Target::new(["exec", id, "start"]);
    let start_body = json!({"Detach": options.detach, "Tty": options.tty});
    if options.detach {
        return client.post(&start, Some(&start_body)).await.map(|_| ());
    }
    let stream = client.hijack(&start, Some(&start_body)).await?;
    let session = Session {
        tty: options.tty,
        input: options.interactive,
        output: true,
        detach_keys,
        signals_go_on: false,
    };
    let size = async {
        if options.tty {
            session::follow_size(client, Target::new(["exec", id, "resize"])).await;
        }
        std::future::pending::<()>().await;
    };
    let end = tokio::select! {
        end = session.run(stream) => end?,
        () = size => End::Closed,
    };
    if end == End::Detached {
        output::say("read escape sequence");
        return Ok(());
    }
    let process = client.get(&Target::new(["exec", id, "json"])).await?;
    match process["ExitCode"].as_i64().unwrap_or(0) {
        0 => Ok(()),
        code => Err(Failure::Exit(u8::try_from(code & 0xff).unwrap_or(125))),
    }
}

/// Fetch the logs of a container
#[derive(Args, Debug)]
pub(crate) struct Logs {
    /// Show extra details
    #[arg(long)]
    details: bool,
    /// Go on as the container writes
    #[arg(long, short)]
    follow: bool,
    /// Only what is newer than this time, or this long ago
    #[arg(long, value_name = "string")]
    since: Option<String>,
    /// Number of lines from the end
    #[arg(long, short = 'n', value_name = "string", default_value = "all")]
    tail: String,
    /// Show times
    #[arg(long, short)]
    timestamps: bool,
    /// Only what is older than this time, or this long ago
    #[arg(long, value_name = "string")]
    until: Option<String>,
    #[arg(value_name = "CONTAINER")]
    container: String,
}

pub(crate) async fn logs(client: &Client, options: Logs) -> Outcome {
    let now = Timestamp::now();
    let time = |text: &Option<String>, flag: &str| {
        let parsed = text.as_deref().map(|text| units::parse_since(text, now));
        parsed
            .transpose()
            .map_err(|message| Failure::refused(format!("invalid value for {flag:?}: {message}")))
    };
    let (since, until) = (time(&options.since, "since")?, time(&options.until, "until")?);
    let container = client.get(&Target::new(["containers", &options.container, "json"])).await?;
    let id = container["Id"].as_str().unwrap_or(&options.container);
    let target = Target::new(["containers", id, "logs"])
        .with_flag("details", options.details)
        .with_flag("follow", options.follow)
        .with_some("since", since.as_deref())
        .with_some("until", until.as_deref())
        .with("stderr", "1")
        .with("stdout", "1")
        .with("tail", &options.tail)
        .with_flag("timestamps", options.timestamps);
    let response = client.stream(Method::GET, &target, None, empty()).await?;
    let mut reader = body_reader(response.into_body());
    let mut out = tokio::io::stdout();
    let copied = if container["Config"]["Tty"] == json!(true) {
        copy_raw(&mut reader, &mut out).await
    } else {
        copy_frames(&mut reader, &mut out, &mut tokio::io::stderr()).await
    };
    copied.map_err(Failure::Output)
}

/// A body as something to read from.
pub(crate) fn body_reader(body: hyper::body::Incoming) -> impl tokio::io::AsyncRead + Unpin + Send {
    use futures_util::StreamExt as _;
    let stream = http_body_util::BodyStream::new(body).filter_map(|frame| {
        std::future::ready(match frame {
            Ok(frame) => frame.into_data().ok().map(Ok),
            Err(error) => Some(Err(std::io::Error::other(error))),
        })
    });
    StreamReader::new(stream)
}
