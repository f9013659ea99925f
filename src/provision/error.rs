//! Why a host did not become an engine host: which layer, what was there, and what to do next.

use std::fmt;
use std::time::Duration;

use crate::bundle::BundleError;
use crate::ssh::{ExitStatus, SshError};

use super::render::RenderError;
use super::settings::SettingsError;

/// Provisioning failed. What was there before is there still, and running the same command again goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// The session broke.
    #[error("{attempt} failed")]
    Session { attempt: &'static str, source: SshError },
    /// The session is there, and the host does not come to an end.
    #[error("{attempt} did not end within {} s", after.as_secs())]
    TooSlow { attempt: &'static str, after: Duration },
    /// The login shell does something else than it was asked to.
    #[error("The host did not say what it is: the command ended with {} and {}", status(ended), said(output))]
    NoAnswer { ended: ExitStatus, output: String },
    /// There is a `sudo`, and it wants a password, a terminal, or does not want us.
    #[error("`{user}` cannot become root on the host: {}", said(message))]
    SudoRefused { user: String, message: String },
    /// There is no way to root at all.
    #[error("`{user}` is not root, and there is neither `sudo` nor `doas` on the host")]
    NoSudo { user: String },
    /// Nobody whom we know starts services there.
    #[error("{system} is not supported: its services are started by {}", process(first_process))]
    UnknownInit { system: String, first_process: String },
    /// The host and the settings do not go together.
    #[error("{system} cannot run another engine than the bundled one")]
    BundledEngineOnly { system: String },
    /// There is no engine for the host.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Programs that every Linux has.
    #[error("The host lacks {}", list(tools))]
    MissingTools { tools: Vec<String> },
    /// Things that containers cannot do without.
    #[error("The kernel {kernel} of the host lacks {}", list(features))]
    MissingKernelFeatures { kernel: String, features: Vec<String> },
    /// Mounted read-only.
    #[error("`{path}` on the host is read-only")]
    ReadOnly { path: String },
    /// Full, or about to be.
    #[error("The host has {available} KiB left in `{path}`, and {needed} KiB are needed")]
    NoSpace { path: String, needed: u64, available: u64 },
    /// Two engines would fight for socket and network.
    #[error("Another container engine runs on the host (`{service}`)")]
    OtherEngine { service: String, ours: bool },
    /// Something else listens there.
    #[error("Port {port} of the host is taken by another program")]
    PortTaken { port: u16 },
    /// The settings cannot be.
    #[error("The settings of the engine cannot be used")]
    Settings(#[from] SettingsError),
    /// A mistake of ours.
    #[error("Could not prepare the provisioning")]
    Render(#[from] RenderError),
    /// The upload could not be put together.
    #[error("Could not prepare the upload")]
    Upload(#[source] std::io::Error),
    /// The engine has looked at its configuration. The old one is in force.
    #[error("The engine refused its new configuration, and the old one stays in force: {}", said(message))]
    ConfigurationRefused { message: String },
    /// The host made no key, or one that is not understood.
    #[error("The host could not replace its SSH host key: {}", said(output))]
    HostKey { output: String },
    /// A step failed.
    #[error("Could not finish the step `{step}` on the host: {text}{}", tail(output))]
    Step { step: String, text: String, output: String },
    /// It ended without a word.
    #[error("The provisioning ended with {} after the step `{after}`{}", status(ended), tail(output))]
    Ended { ended: ExitStatus, after: String, output: String },
}

impl ProvisionError {
    /// Which part of the whole failed: `connection`, `sudo`, `system`, `bundle`, `settings`, `engine` or `step`.
    pub fn layer(&self) -> &'static str {
        match self {
            Self::Session { .. } => "connection",
            Self::SudoRefused { .. } | Self::NoSudo { .. } => "sudo",
            Self::TooSlow { .. }
            | Self::NoAnswer { .. }
            | Self::UnknownInit { .. }
            | Self::BundledEngineOnly { .. }
            | Self::MissingTools { .. }
            | Self::MissingKernelFeatures { .. }
            | Self::ReadOnly { .. }
            | Self::NoSpace { .. }
            | Self::OtherEngine { .. }
            | Self::PortTaken { .. } => "system",
            Self::Bundle(_) => "bundle",
            Self::Settings(_) | Self::Render(_) | Self::Upload(_) => "settings",
            Self::ConfigurationRefused { .. } => "engine",
            Self::Step { .. } | Self::Ended { .. } | Self::HostKey { .. } => "step",
        }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Session { source, .. } => {
                return Some(match source.hint() {
                    Some(hint) => format!("{hint}; then run the same command again, it goes on from there"),
                    None => "Run the same command again: it goes on from there".to_owned(),
                });
            }
            Self::SudoRefused { user, message } if message.contains("tty") => {
                return Some(format!(
                    "Add the line `Defaults:{user} !requiretty` to a file in `/etc/sudoers.d` on the host"
                ));
            }
            Self::SudoRefused { user, .. } => {
                return Some(format!(
                    "Put the line `{user} ALL=(ALL) NOPASSWD: ALL` into `/etc/sudoers.d/{}` on the host (as root, with \
                     `visudo`), or log in as root",
                    user.replace('.', "-")
                ));
            }
            Self::OtherEngine { ours: true, .. } => {
                "It was installed by `machine`: remove it first, or leave out `--engine-install-url`"
            }
            Self::OtherEngine { service, .. } => {
                return Some(format!(
                    "To keep it and have `machine` configure it, create the host with `--engine-install-url \
                     https://get.docker.com`, which installs nothing where `dockerd` is; otherwise stop it: `systemctl \
                     disable --now {service}` or `rc-update del docker && rc-service docker stop`"
                ));
            }
            Self::Bundle(error) => return error.hint(),
            Self::Settings(error) => return error.hint(),
            Self::NoSudo { .. } => "Install `sudo` on the host, or log in as root",
            Self::NoAnswer { .. } => "The login shell of the user has to be able to run `/bin/sh`",
            Self::UnknownInit { .. } => "The engine needs systemd, OpenRC or MachineOS to keep it running",
            Self::BundledEngineOnly { .. } => "Leave out `--engine-install-url`",
            Self::MissingTools { .. } => {
                "Install them with the package manager of the host, and run the same command again"
            }
            Self::MissingKernelFeatures { .. } => {
                "Install the modules that belong to the running kernel, or reboot the host if its kernel was updated"
            }
            Self::ReadOnly { .. } => "Mount it writable; systems with an immutable root are not supported",
            Self::NoSpace { .. } => "Make room on the host, and run the same command again",
            Self::PortTaken { .. } => "Stop that program, or choose another engine port",
            Self::ConfigurationRefused { .. } => {
                "Correct the option that it names (`--engine-opt` and its like), and run the same command again"
            }
            Self::Step { step, .. } if step == "install" => {
                "The installer of the other engine did not do its work; correct what it says, and run the same command again"
            }
            Self::Step { output, .. } if output.contains("No space left on device") => {
                "Make room on the host, and run the same command again"
            }
            Self::TooSlow { .. } => {
                "A command hangs on the host: look at its processes, and run the same command again"
            }
            Self::Step { .. } | Self::Ended { .. } | Self::HostKey { .. } => {
                "Run the same command again: it goes on from there"
            }
            Self::Render(_) | Self::Upload(_) => return None,
        };
        Some(text.to_owned())
    }
}

fn status(ended: &ExitStatus) -> String {
    match ended {
        ExitStatus::Code(code) => format!("status {code}"),
        ExitStatus::Signal(name) => format!("signal {name}"),
    }
}

/// One line of what was said.
fn said(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() { "without a word".to_owned() } else { format!("`{line}`") }
}

fn process(name: &str) -> String {
    if name.is_empty() { "an unknown process".to_owned() } else { format!("`{name}`") }
}

fn list(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn tail(output: &str) -> impl fmt::Display {
    let mut text = String::new();
    for line in output.lines() {
        text.push_str("\n  | ");
        text.push_str(line);
    }
    text
}
