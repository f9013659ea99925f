//! The daemon: start, serve, reload, stop.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use engine_model::task::{vital, whole};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod figures;
mod handshakes;
mod linger;
mod listen;
mod log;
mod pidfile;
mod tls;

use crate::app::{App, AppError};
use crate::config::{Config, ConfigError, Flags};
use crate::{api, prune};
use listen::ListenError;
use log::LevelSwitch;
use pidfile::{PidFile, PidFileError};
use tls::{Acceptor, TlsError};

/// How long requests under way may go on after SIGTERM.
const FAREWELL: Duration = Duration::from_secs(5);
/// Enough for what waits for disks; the default of 512 is for bigger machines.
const BLOCKING_THREADS: usize = 64;

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
enum DaemonError {
    #[error("unable to configure the engine")]
    Config(#[from] ConfigError),
    #[error("Could not start the asynchronous runtime")]
    Runtime(#[source] std::io::Error),
    #[error("Could not make the directory `{}`", path.display())]
    Directory { path: PathBuf, source: std::io::Error },
    #[error("Could not take the pid file")]
    PidFile(#[from] PidFileError),
    #[error("Could not set up TLS")]
    Tls(#[from] TlsError),
    #[error("Could not open the API")]
    Listen(#[from] ListenError),
    #[error(transparent)]
    App(#[from] AppError),
    #[error("Could not listen for signals")]
    Signals(#[source] std::io::Error),
}

/// `engine daemon …`; the arguments begin with the program's name.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let own = std::iter::once("engine daemon".into()).chain(arguments.into_iter().skip(2));
    let flags = match Flags::try_parse_from(own) {
        Ok(flags) => flags,
        Err(error) => {
            // To where clap wants it: help to stdout, mistakes to stderr.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1));
        }
    };
    let outcome = if flags.validate { validate(&flags) } else { start(&flags) };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "the last word of a daemon that cannot run")]
fn report(error: &DaemonError) {
    eprintln!("error: {}", engine_model::chain(error));
    let hint = match error {
        DaemonError::Config(error) => error.hint(),
        DaemonError::App(error) => error.hint(),
        _ => None,
    };
    if let Some(hint) = hint {
        eprintln!("\nhint: {hint}");
    }
}

#[expect(clippy::print_stdout, reason = "the answer to `--validate`")]
fn validate(flags: &Flags) -> Result<(), DaemonError> {
    let config = Config::load(flags)?;
    if let Some(tls) = &config.tls {
        Acceptor::new(tls)?;
    }
    println!("configuration OK");
    Ok(())
}

fn start(flags: &Flags) -> Result<(), DaemonError> {
    let config = Arc::new(Config::load(flags)?);
    let level = log::install(config.live().log_level);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .map_err(DaemonError::Runtime)?;
    let result = runtime.block_on(run(flags, config, &level));
    // Work on files that a client asked for may go on; nobody waits for it.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn run(flags: &Flags, config: Arc<Config>, level: &LevelSwitch) -> Result<(), DaemonError> {
    // From here on these signals no longer end the process at once.
    let mut terminate = signal(SignalKind::terminate()).map_err(DaemonError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DaemonError::Signals)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(DaemonError::Signals)?;

    make_directory(&config.data_root, 0o710)?;
    make_directory(&config.exec_root, 0o700)?;
    let _pid_file = PidFile::take(&config.pidfile)?;
    let acceptor = config.tls.as_ref().map(Acceptor::new).transpose()?;
    let listeners = listen::open(&config, acceptor.as_ref())?;
    let metrics = figures::open(config.metrics)?;

    // Finding the containers of before may take a while.
    let app = tokio::select! {
        app = App::open(Arc::clone(&config)) => app?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    prune::collect_hidden(&app);
    let router = api::router(app.clone());
    let (stop, connections) = (CancellationToken::new(), TaskTracker::new());
    let servers = TaskTracker::new();
    for listener in listeners {
        servers.spawn(whole(listen::serve(listener, router.clone(), stop.clone(), connections.clone())));
    }
    if let Some(metrics) = metrics {
        servers.spawn(whole(figures::serve(metrics, app.clone(), stop.clone())));
    }
    let pruning = vital(prune::run(app.clone()));
    let hosts: Vec<String> = config.hosts.iter().map(ToString::to_string).collect();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), hosts = hosts.join(" "), "The engine is ready");

    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => reload(flags, &app, acceptor.as_ref(), level),
        }
    }
    tracing::info!("Stopping; containers go on");
    pruning.abort();
    stop.cancel();
    servers.close();
    connections.close();
    let farewell = async {
        servers.wait().await;
        connections.wait().await;
    };
    tokio::select! {
        _ = tokio::time::timeout(FAREWELL, farewell) => {}
        _ = terminate.recv() => tracing::info!("Asked again, so at once"),
    }
    Ok(())
}

fn make_directory(path: &Path, mode: u32) -> Result<(), DaemonError> {
    let result = fs::DirBuilder::new().recursive(true).mode(mode).create(path);
    result.map_err(|source| DaemonError::Directory { path: path.to_owned(), source })
}

/// Reads certificates and configuration again. Whatever is wrong with them, the old ones go on.
fn reload(flags: &Flags, app: &App, acceptor: Option<&Acceptor>, level: &LevelSwitch) {
    tracing::info!("Reloading the configuration");
    let read = match Config::load(flags) {
        Ok(read) => read,
        Err(error) => {
            tracing::error!(
                error = engine_model::chain(&error),
                "The configuration is not right and stays as it was"
            );
            return;
        }
    };
    match (acceptor, &read.tls) {
        (Some(acceptor), Some(files)) => match acceptor.reload(files) {
            Ok(()) => tracing::info!("New connections get the certificates as they are now"),
            Err(error) => {
                tracing::error!(
                    error = engine_model::chain(&error),
                    "The certificates are not right and stay as they were"
                );
            }
        },
        (None, None) => {}
        _ => tracing::warn!("Turning TLS on or off needs a restart of the daemon"),
    }
    for key in app.config.reload(&read) {
        tracing::warn!(key, "A change of this key needs a restart of the daemon");
    }
    let live = app.config.live();
    level.set(live.log_level);
    app.apply(&live);
    app.events.publish("daemon", "reload", "", &[("labels", &live.labels.join(","))]);
}
