//! From "the provider says that it runs" to "the engine answered over TLS".

use std::time::Duration;

use machine_driver::{DriverError, HostName, Progress, State};

use super::{LoginError, RefreshError, TrustError, host_key, locked::LockedHost, login, trust};
use crate::{
    engine_api::{EngineClient, EngineError, Version},
    provision::{self, EngineSettings, Plan, ProvisionError, TlsFiles},
    ssh::{self, SshError},
    store::{ClientFiles, EngineOptions, HostFiles, Phase, Record, StoreError},
};

/// How long a host may take from power-on to its SSH banner: a stock distribution in software emulation on a
/// loaded machine takes some minutes.
pub(super) const BOOT_AT_MOST: Duration = Duration::from_secs(600);

/// How long the engine may take from its start to its first answer.
const ENGINE_AT_MOST: Duration = Duration::from_secs(90);

/// The longest pause between two questions whether a host that boots still lives.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// Lines of the serial log that are shown with a failure.
const CONSOLE_LINES: usize = 15;

/// A layer between the provider and the engine did not come up.
#[derive(Debug, thiserror::Error)]
pub enum BringUpError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Driver(#[from] DriverError),
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("The host {} while it was starting{console}", ended(*state))]
    Died { state: State, console: Console },
    #[error("SSH does not answer (layer: {layer}){console}", layer = source.layer())]
    Ssh { source: SshError, console: Console },
    #[error("Could not log in{console}")]
    Login { source: LoginError, console: Console },
    #[error("The provider does not show the host's SSH host key after {} minutes", after.as_secs() / 60)]
    NoHostKey { after: Duration },
    #[error(
        "`{name}` goes on showing the SSH host key that it was delivered, which others may be able to read"
    )]
    HostKeyKept { name: HostName },
    #[error("Error running provisioning")]
    Provision(#[from] ProvisionError),
    #[error("Error checking the host: the engine does not answer on {url}")]
    Engine { url: String, source: EngineError },
}

impl BringUpError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.hint(),
            Self::Driver(error) => error.hint().map(str::to_owned),
            Self::Trust(error) => error.hint(),
            Self::Ssh { source, .. } => source.hint(),
            Self::Login { source, .. } => source.hint(),
            Self::Provision(error) => error.hint(),
            Self::Engine { source, .. } => source.hint(),
            Self::HostKeyKept { name } => Some(format!(
                "No secret was sent to it. See on the host why its SSH server does not read its keys again, or reboot it; then run \
                 `machine provision {name}`"
            )),
            Self::Died { .. } | Self::NoHostKey { .. } => None,
        }
    }
}

fn ended(state: State) -> String {
    match state {
        State::None => "went away".to_owned(),
        state => format!("stopped ({state})"),
    }
}

impl From<RefreshError> for BringUpError {
    fn from(error: RefreshError) -> Self {
        match error {
            RefreshError::Store(error) => Self::Store(error),
            RefreshError::Driver(error) => Self::Driver(error),
        }
    }
}

/// The end of a host's serial log, as part of a message.
#[derive(Debug, Default)]
pub struct Console(Option<String>);

impl std::fmt::Display for Console {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Some(text) if !text.trim().is_empty() => {
                write!(formatter, "\nThe end of its serial log:\n")?;
                for line in text.lines() {
                    let line: String = line.chars().filter(|c| !c.is_control()).take(160).collect();
                    writeln!(formatter, "  | {line}")?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Waits for SSH, logs in once, provisions, checks the engine; the record ends `Ready`.
///
/// Everything that holds already is left alone, so that this is also `machine provision` and the second half of
/// `machine start`. Returns whether anything on the host was changed.
pub(super) async fn bring_up(
    host: &mut LockedHost<'_>,
    progress: &dyn Progress,
) -> Result<Vec<String>, BringUpError> {
    wait_for_ssh(host, progress).await?;
    host_key::learn(host, progress).await?;
    if host.record.phase == Phase::Booting {
        host.enter(Phase::Provisioning)?;
    }
    let session = host_key::log_in_for_secrets(host, progress).await?;
    let (client, files) = trust::host_certificates(host, false)?;
    progress.step("Provisioning");
    let plan = plan(host, &files)?;
    let report = provision::provision(&session, &plan, progress).await?;
    session.close().await;
    let version = check_engine(&host.record, &client, progress).await?;
    host.record.engine_version = Some(version.version);
    host.record.state = State::Running;
    host.enter(Phase::Ready)?;
    Ok(report.changed)
}

/// Waits until the host shows an SSH banner, noticing when it dies meanwhile.
async fn wait_for_ssh(host: &LockedHost<'_>, progress: &dyn Progress) -> Result<(), BringUpError> {
    progress.step("Waiting for SSH to be available");
    let target = login::target(host.context, &host.record)
        .map_err(|source| BringUpError::Login { source, console: Console::default() })?;
    let (driver, view, state) = (host.driver()?, host.view(), &host.record.driver.state);
    let banner = ssh::wait_for_banner(&target.host, target.port, BOOT_AT_MOST);
    let died = async {
        let mut pause = Duration::from_secs(1);
        loop {
            tokio::time::sleep(pause).await;
            // Providers are asked less and less often: most hosts do not die.
            pause = (pause * 2).min(LONGEST_PAUSE);
            if let Ok(ended @ (State::Stopped | State::Error | State::None)) =
                driver.state(&view, state).await
            {
                return ended;
            }
        }
    };
    let console = async || Console(driver.console(&view, state, CONSOLE_LINES).await);
    if driver.info().features.adopted {
        // A server's power is not ours: its state is whether SSH answers.
        return match banner.await {
            Ok(_) => Ok(()),
            Err(source) => Err(BringUpError::Ssh { source, console: Console::default() }),
        };
    }
    tokio::select! {
        banner = banner => match banner {
            Ok(_) => Ok(()),
            Err(source) => Err(BringUpError::Ssh { source, console: console().await }),
        },
        state = died => Err(BringUpError::Died { state, console: console().await }),
    }
}

/// What the user asked of the engine, as provisioning takes it.
pub(super) fn engine_settings(engine: &EngineOptions, driver_name: &str, port: u16) -> EngineSettings {
    let pairs = |list: &[String]| {
        list.iter()
            .map(|text| match text.split_once('=') {
                Some((key, value)) => (key.to_owned(), value.to_owned()),
                None => (text.clone(), "true".to_owned()),
            })
            .collect::<Vec<_>>()
    };
    let mut labels = engine.labels.clone();
    labels.push(format!("provider={driver_name}"));
    let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    EngineSettings {
        install_url: given(&engine.install_url),
        install_sha256: given(&engine.install_sha256),
        options: pairs(&engine.arbitrary_flags),
        labels,
        env: pairs(&engine.env),
        insecure_registries: engine.insecure_registry.clone(),
        registry_mirrors: engine.registry_mirror.clone(),
        storage_driver: given(&engine.storage_driver),
        port,
    }
}

fn plan<'a>(host: &LockedHost<'a>, files: &HostFiles) -> Result<Plan<'a>, DriverError> {
    let record = &host.record;
    let endpoint = record.endpoint.as_ref();
    Ok(Plan {
        hostname: (!host.features()?.adopted).then(|| record.name.to_string()),
        engine: engine_settings(
            &record.host_options.engine_options,
            &record.driver_name,
            endpoint.map_or(2376, |endpoint| endpoint.engine_port),
        ),
        tls: TlsFiles::from(files),
        bundle: &host.context.bundle,
        login_user: endpoint
            .and_then(|endpoint| endpoint.ssh.as_ref())
            .map_or_else(|| "root".to_owned(), |ssh| ssh.user.clone()),
    })
}

impl From<&HostFiles> for TlsFiles {
    fn from(files: &HostFiles) -> Self {
        Self {
            ca_pem: files.ca_pem.clone(),
            server_pem: files.server_pem.clone(),
            server_key_pem: files.server_key_pem.clone(),
        }
    }
}

/// A real API call over mutual TLS, repeated while the engine starts.
pub(super) async fn check_engine(
    record: &Record,
    client: &ClientFiles,
    progress: &dyn Progress,
) -> Result<Version, BringUpError> {
    progress.step("Checking connection to Docker");
    let url = record.endpoint.as_ref().map(machine_driver::Endpoint::url).unwrap_or_default();
    let failed = |source| BringUpError::Engine { url: url.clone(), source };
    let engine =
        EngineClient::new(&url, &client.ca_pem, &client.cert_pem, &client.key_pem).map_err(failed)?;
    let deadline = tokio::time::Instant::now() + ENGINE_AT_MOST;
    loop {
        match engine.version().await {
            Ok(version) => return Ok(version),
            Err(source) if source.is_final() || tokio::time::Instant::now() > deadline => {
                return Err(failed(source));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}
