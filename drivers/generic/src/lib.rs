//! The driver of hosts that exist already and answer on SSH.

use async_trait::async_trait;
use machine_driver::{
    Driver, DriverError, DriverInfo, Endpoint, Features, Flag, FlagKind, Forecast, HostKeySource, HostView,
    Journal, LoginSource, Options, Progress, SshEndpoint, SshKey, State,
};
use serde_json::{Value, json};

mod config;
mod reach;

use config::Config;

/// Any Linux host with SSH. Nothing is made, started or stopped; what `create` was told to install is all that
/// changes on it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Generic;

impl Generic {
    pub fn new() -> Self {
        Self
    }
}

fn unsupported(verb: &str) -> DriverError {
    DriverError::unsupported(format!("generic driver does not support {verb}"))
}

fn flag(
    name: &str,
    environment: &str,
    kind: FlagKind,
    default: Option<&str>,
    value_name: &str,
    help: &str,
) -> Flag {
    let flag = Flag::new(name, kind, value_name, help).environment(environment);
    Flag { default: default.map(str::to_owned), ..flag }
}

#[async_trait]
impl Driver for Generic {
    fn info(&self) -> DriverInfo {
        DriverInfo {
            name: "generic".to_owned(),
            aliases: Vec::new(),
            summary: "Installs the engine on a host that is there already, over SSH".to_owned(),
            features: Features {
                provisioned: true,
                power: false,
                login: LoginSource::User,
                host_key: HostKeySource::User,
                adopted: true,
                firewall: false,
            },
        }
    }

    fn flags(&self) -> Vec<Flag> {
        vec![
            flag(
                "generic-engine-port",
                "GENERIC_ENGINE_PORT",
                FlagKind::Integer,
                Some("2376"),
                "PORT",
                "Port on which the engine listens",
            ),
            flag(
                "generic-ip-address",
                "GENERIC_IP_ADDRESS",
                FlagKind::Text,
                None,
                "ADDRESS",
                "IP address or DNS name of the host",
            ),
            flag(
                "generic-ssh-user",
                "GENERIC_SSH_USER",
                FlagKind::Text,
                Some("root"),
                "USER",
                "User to log in as; needs `sudo` without a password unless it is `root`",
            ),
            flag(
                "generic-ssh-key",
                "GENERIC_SSH_KEY",
                FlagKind::Text,
                None,
                "FILE",
                "Private key to log in with; without it the agent and the default keys are tried",
            ),
            flag(
                "generic-ssh-port",
                "GENERIC_SSH_PORT",
                FlagKind::Integer,
                Some("22"),
                "PORT",
                "Port on which SSH listens",
            ),
        ]
    }

    async fn configure(&self, options: &Options) -> Result<Value, DriverError> {
        Config::from_options(options)?.to_value()
    }

    async fn check(&self, host: &HostView) -> Result<Forecast, DriverError> {
        let config = Config::of(host)?;
        if let Some(key) = &config.key {
            reach::key_file(key)?;
        }
        reach::banner(&config.address, config.port).await?;
        Ok(Forecast::default())
    }

    /// Remembers where the key is, in full, so that later calls work from any folder.
    async fn create(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let config = Config::of(host)?;
        let Some(key) = &config.key else {
            progress.note("No SSH key specified. Assuming an existing key at the default location.");
            return Ok(());
        };
        if journal.state().get("key").is_some() {
            return Ok(());
        }
        let absolute = std::path::absolute(key)
            .map_err(|error| DriverError::refused(format!("Could not find `{key}`")).with_source(error))?;
        journal.set_state(json!({ "key": absolute })).await?;
        Ok(())
    }

    async fn start(&self, _: &HostView, _: &mut dyn Journal, _: &dyn Progress) -> Result<(), DriverError> {
        Err(unsupported("start"))
    }

    async fn stop(&self, _: &HostView, _: &mut dyn Journal, _: &dyn Progress) -> Result<(), DriverError> {
        Err(unsupported("stop"))
    }

    async fn kill(&self, _: &HostView, _: &mut dyn Journal, _: &dyn Progress) -> Result<(), DriverError> {
        Err(unsupported("kill"))
    }

    /// A restart needs a login, which a driver does not have.
    async fn restart(
        &self,
        host: &HostView,
        _: &mut dyn Journal,
        _: &dyn Progress,
    ) -> Result<(), DriverError> {
        Err(unsupported("restart").with_hint(format!("Use `machine ssh {} sudo shutdown -r now`", host.name)))
    }

    /// The host is not ours: it stays as it is.
    async fn remove(&self, _: &HostView, _: &mut dyn Journal, _: &dyn Progress) -> Result<(), DriverError> {
        Ok(())
    }

    async fn state(&self, host: &HostView, _: &Value) -> Result<State, DriverError> {
        let config = Config::of(host)?;
        Ok(if reach::answers(&config.address, config.port).await { State::Running } else { State::Stopped })
    }

    async fn endpoint(&self, host: &HostView, state: &Value) -> Result<Endpoint, DriverError> {
        let config = Config::of(host)?;
        let key = match (state.get("key").and_then(Value::as_str), &config.key) {
            (Some(absolute), _) => SshKey::File(absolute.into()),
            (None, Some(given)) => SshKey::File(given.into()),
            (None, None) => SshKey::Agent,
        };
        Ok(Endpoint {
            address: config.address.clone(),
            engine_port: config.engine_port,
            url: None,
            ssh: Some(SshEndpoint { host: config.address, port: config.port, user: config.user, key }),
            inside: None,
        })
    }
}

#[cfg(test)]
mod tests;
