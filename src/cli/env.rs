//! `machine env`: the commands that point a docker client at a host, for the user's shell.

use std::{ffi::OsString, path::PathBuf};

use clap::Args;
use machine_driver::{HostName, State};

use super::{arguments, hosts};
use crate::{
    engine_api::EngineClient,
    store::{Phase, Record, Store},
    ui::{Failure, Hinted, Ui},
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The host [default: the host called `default`]
    name: Option<String>,
    /// Point at the swarm manager's port instead of the engine's
    #[arg(long)]
    swarm: bool,
    /// The shell: bash, zsh, sh, fish, powershell, cmd, tcsh or emacs [default: by $SHELL]
    #[arg(long)]
    shell: Option<String>,
    /// Take the variables back instead
    #[arg(short, long)]
    unset: bool,
    /// Add the host's address to NO_PROXY as well
    #[arg(long)]
    no_proxy: bool,
    /// Make sure that the engine answers, and accepts the certificates
    #[arg(long)]
    check: bool,
    #[arg(long, env = "SHELL", hide = true, default_value = "")]
    login_shell: String,
    #[arg(long, env = "no_proxy", hide = true, default_value = "")]
    no_proxy_lower: String,
    #[arg(long, env = "NO_PROXY", hide = true, default_value = "")]
    no_proxy_upper: String,
}

/// What a docker client needs to know of a host.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) url: String,
    pub(super) address: String,
    pub(super) folder: PathBuf,
    pub(super) tls: bool,
}

impl Target {
    /// From the record alone: no network, no lock.
    pub(super) fn of(store: &Store, name: &HostName, swarm: bool) -> Result<Self, Failure> {
        let record = store.load(name)?;
        let mut url = url_of(&record)?;
        if swarm {
            if !record.host_options.swarm_options.master {
                return Err(anyhow::anyhow!(
                    "\"{name}\" is not a swarm master. The --swarm flag is intended for use with swarm masters"
                )
                .into());
            }
            url = swarm_url(&record, &url);
        }
        let folder = record.host_options.auth_options.store_path.clone();
        // Hosts without a driver have no certificates of ours: their engine is spoken to as its URL says.
        let tls = folder.join("cert.pem").exists();
        if tls && !(folder.join("key.pem").exists() && folder.join("ca.pem").exists()) {
            return Err(Failure::new(Hinted {
                message: format!("The client's key or its authority is missing in `{}`", folder.display()),
                hint: format!("Put them back with `machine regenerate-certs {name}`"),
            }));
        }
        Ok(Self { url, address: record.driver.ip_address, folder, tls })
    }

    /// A TLS handshake with the host's engine.
    pub(super) fn check(&self, store: &Store, name: &HostName) -> Result<(), Failure> {
        let checked = super::block_on(async {
            let files = store.certificates().client_of(name)?;
            let client = EngineClient::new(&self.url, &files.ca_pem, &files.cert_pem, &files.key_pem)?;
            client.version().await?;
            Ok::<(), anyhow::Error>(())
        })?;
        match checked {
            Some(result) => result.map_err(|error| error.context("Error checking TLS connection").into()),
            None => Err(anyhow::anyhow!("Interrupted").into()),
        }
    }
}

/// The engine's URL of a host that runs, as far as is recorded.
pub(super) fn url_of(record: &Record) -> Result<String, Failure> {
    if matches!(record.state, State::Stopped | State::Stopping | State::Saved | State::Paused) {
        return Err(Failure::new(Hinted {
            message: "Host is not running".into(),
            hint: format!("Start it with `machine start {}`", record.name),
        }));
    }
    match &record.endpoint {
        Some(endpoint) if record.phase == Phase::Ready => Ok(endpoint.url()),
        _ => Err(Failure::new(Hinted {
            message: format!("`{}` is not finished: it is in the phase {:?}", record.name, record.phase),
            hint: "Run the same `machine create` again to go on, or `machine rm` to undo".to_owned(),
        })),
    }
}

/// The URL of the swarm manager's port, whose number is in the option that the host was created with.
fn swarm_url(record: &Record, url: &str) -> String {
    let port = record.host_options.swarm_options.host.rsplit(':').next().filter(|port| !port.is_empty());
    let base = url.rsplit_once(':').map_or(url, |(base, _)| base);
    format!("{base}:{}", port.unwrap_or("3376"))
}

pub(super) fn run(store: &Store, ui: &Ui, arguments: &Arguments, words: &[OsString]) -> Result<u8, Failure> {
    let shell = shell_of(arguments)?;
    let lines: Vec<(&str, Option<String>)> = if arguments.unset {
        if arguments.name.is_some() {
            return Err(anyhow::anyhow!("Expected no machine name when the -u flag is present").into());
        }
        let mut names = vec!["DOCKER_TLS_VERIFY", "DOCKER_HOST", "DOCKER_CERT_PATH", "DOCKER_MACHINE_NAME"];
        if arguments.no_proxy {
            names.push(no_proxy_name(arguments));
        }
        names.into_iter().map(|name| (name, None)).collect()
    } else {
        let name = hosts::resolve_one(store, arguments.name.as_deref())?;
        let target = Target::of(store, &name, arguments.swarm)?;
        if arguments.check {
            target.check(store, &name)?;
        }
        // Without TLS, the variables of a host that the shell was pointed at before are taken back.
        let mut lines = vec![
            ("DOCKER_TLS_VERIFY", target.tls.then(|| "1".to_owned())),
            ("DOCKER_HOST", Some(target.url.clone())),
            ("DOCKER_CERT_PATH", target.tls.then(|| target.folder.display().to_string())),
            ("DOCKER_MACHINE_NAME", Some(name.to_string())),
        ];
        if arguments.no_proxy {
            lines.push((no_proxy_name(arguments), Some(no_proxy_value(arguments, &target.address))));
        }
        lines
    };
    let mut text: String = lines.iter().map(|(name, value)| shell.line(name, value.as_deref())).collect();
    text.push_str(&shell.hint(&command_line(words)));
    ui.data(&text);
    Ok(0)
}

fn command_line(words: &[OsString]) -> String {
    let rest = words.iter().skip(1).map(|word| word.to_string_lossy().into_owned());
    std::iter::once(arguments::program_word(words)).chain(rest).collect::<Vec<_>>().join(" ")
}

fn no_proxy_name(arguments: &Arguments) -> &'static str {
    if arguments.no_proxy_lower.is_empty() { "NO_PROXY" } else { "no_proxy" }
}

/// The old value with the address added, unless it is in there already.
fn no_proxy_value(arguments: &Arguments, address: &str) -> String {
    let old = if arguments.no_proxy_lower.is_empty() {
        &arguments.no_proxy_upper
    } else {
        &arguments.no_proxy_lower
    };
    if old.is_empty() {
        address.to_owned()
    } else if old.split(',').any(|part| part.trim() == address) {
        old.clone()
    } else {
        format!("{old},{address}")
    }
}

/// How variables are set and taken back in a shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shell {
    Posix,
    Fish,
    Pwsh,
    Cmd,
    Tcsh,
    Emacs,
}

fn shell_of(arguments: &Arguments) -> Result<Shell, Failure> {
    let word = match &arguments.shell {
        Some(shell) => shell.clone(),
        None => arguments.login_shell.rsplit('/').next().unwrap_or_default().to_owned(),
    };
    if word.is_empty() {
        return Err(Failure::new(Hinted {
            message: "Unknown shell".into(),
            hint: "Name it with `--shell`, such as `--shell bash`".into(),
        }));
    }
    Ok(match word.as_str() {
        "fish" => Shell::Fish,
        "powershell" | "pwsh" => Shell::Pwsh,
        "cmd" => Shell::Cmd,
        "tcsh" | "csh" => Shell::Tcsh,
        "emacs" => Shell::Emacs,
        _ => Shell::Posix,
    })
}

impl Shell {
    fn line(self, name: &str, value: Option<&str>) -> String {
        match (self, value) {
            (Self::Posix, Some(value)) => {
                format!("export {name}=\"{}\"\n", escaped(value, &['\\', '"', '$', '`'], '\\'))
            }
            (Self::Posix, None) => format!("unset {name}\n"),
            (Self::Fish, Some(value)) => {
                format!("set -gx {name} \"{}\";\n", escaped(value, &['\\', '"', '$'], '\\'))
            }
            (Self::Fish, None) => format!("set -e {name};\n"),
            (Self::Pwsh, Some(value)) => {
                format!("$Env:{name} = \"{}\"\n", escaped(value, &['`', '"', '$'], '`'))
            }
            (Self::Pwsh, None) => format!("Remove-Item Env:\\\\{name}\n"),
            (Self::Cmd, Some(value)) => format!("SET {name}={value}\n"),
            (Self::Cmd, None) => format!("SET {name}=\n"),
            (Self::Tcsh, Some(value)) => {
                format!("setenv {name} \"{}\";\n", escaped(value, &['"', '$', '`'], '\\'))
            }
            (Self::Tcsh, None) => format!("unsetenv {name};\n"),
            (Self::Emacs, Some(value)) => {
                format!("(setenv \"{name}\" \"{}\")\n", escaped(value, &['\\', '"'], '\\'))
            }
            (Self::Emacs, None) => format!("(setenv \"{name}\" nil)\n"),
        }
    }

    fn hint(self, command: &str) -> String {
        let intro = "Run this command to configure your shell: ";
        match self {
            Self::Posix => format!("# {intro}\n# eval $({command})\n"),
            Self::Fish => format!("# {intro}\n# eval ({command})\n"),
            Self::Pwsh => format!("# {intro}\n# & {command} | Invoke-Expression\n"),
            Self::Cmd => format!("REM {intro}\nREM \t@FOR /f \"tokens=*\" %i IN ('{command}') DO @%i\n"),
            Self::Tcsh => format!(": {intro}\n: eval `{command}`\n"),
            Self::Emacs => format!(
                ";; {intro}\n;; (with-temp-buffer (shell-command \"{command}\" (current-buffer)) (eval-buffer))\n"
            ),
        }
    }
}

fn escaped(value: &str, special: &[char], escape: char) -> String {
    let mut text = String::with_capacity(value.len());
    for character in value.chars() {
        if special.contains(&character) {
            text.push(escape);
        }
        text.push(character);
    }
    text
}
