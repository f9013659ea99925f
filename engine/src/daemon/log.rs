//! The daemon's own log: to stderr, at a level that a reload can change.

use std::io::IsTerminal;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

use crate::config::Level;

/// Changes the level of a running daemon.
#[derive(Debug)]
pub struct LevelSwitch(reload::Handle<Targets, Registry>);

/// Sends all messages from this level on to stderr.
pub fn install(level: Level) -> LevelSwitch {
    let (filter, handle) = reload::Layer::new(filter(level));
    let stderr = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    // Fails only if it was done before.
    let _ = tracing_subscriber::registry().with(filter).with(stderr).try_init();
    LevelSwitch(handle)
}

impl LevelSwitch {
    pub fn set(&self, level: Level) {
        if let Err(error) = self.0.reload(filter(level)) {
            tracing::warn!(%error, "Could not change the log level");
        }
    }
}

/// Libraries tell much below `warn` that only their authors understand, and those that make containers at `warn` as well.
fn filter(level: Level) -> Targets {
    let others = if level == Level::Error { LevelFilter::ERROR } else { LevelFilter::WARN };
    let engine = match level {
        Level::Debug => LevelFilter::DEBUG,
        Level::Info => LevelFilter::INFO,
        Level::Warn => LevelFilter::WARN,
        Level::Error => LevelFilter::ERROR,
    };
    Targets::new().with_default(others).with_targets([
        ("libcgroups", LevelFilter::ERROR),
        ("libcontainer", LevelFilter::ERROR),
        ("engine", engine),
    ])
}
