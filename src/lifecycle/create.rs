//! Creates a host, or goes on creating one.

use machine_driver::{
    Driver, DriverError, Forecast, HostKey, HostKeySource, HostName, HostView, LoginKey, LoginSource,
    Progress, State,
};
use serde_json::Value;

use super::{
    BringUpError, Context, DELIVERED_HOST_KEY, LoginError, RefreshError, TrustError, bring_up,
    locked::LockedHost, trust,
};
use crate::{
    bundle::BundleError,
    provision::SettingsError,
    ssh::{self, SshError},
    store::{EngineOptions, Operation, Phase, Record, StoreError, SwarmOptions, Transport, write_atomically},
};

/// What is to be created.
#[derive(Debug, Clone)]
pub struct Request {
    pub name: HostName,
    pub driver: String,
    /// What [`Driver::configure`] made of the options.
    pub config: Value,
    /// Which of [`Driver::places`] it is made in; `None` leaves it to the driver.
    pub place: Option<String>,
    pub engine: EngineOptions,
    pub swarm: SwarmOptions,
    /// More names and addresses for the server certificate.
    pub names: Vec<String>,
    /// Host keys to accept, as lines or fingerprints; only for drivers that deliver none. They go before what an earlier
    /// run recorded.
    pub host_keys: Vec<String>,
}

/// Creating a host failed. What has been made is in its record.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("Error with pre-create check")]
    Check(#[source] DriverError),
    /// What would be installed on the host is not there.
    #[error("Error with pre-create check")]
    NoEngine(#[source] BundleError),
    #[error("`{name}` was begun with other options")]
    OtherOptions { name: HostName },
    #[error("`{name}` was begun with another authority ({authority})")]
    OtherAuthority { name: HostName, authority: machine_pki::Fingerprint },
    #[error("Error creating machine")]
    Driver(#[source] DriverError),
    #[error("Error with the engine's options")]
    Settings(#[source] SettingsError),
    #[error("Error with `--ssh-host-key`")]
    HostKey(#[source] SshError),
    #[error(
        "`--ssh-host-key` is for hosts that are there already; the driver {driver} knows the keys of its hosts"
    )]
    HostKeyNotNeeded { driver: String },
    #[error("Could not make a key pair")]
    Keys(#[source] SshError),
    #[error("Error creating machine")]
    BringUp(#[source] Box<BringUpError>),
}

impl CreateError {
    /// What the user can do about it, where the cause does not say so itself.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::OtherOptions { name } => Some(format!(
                "Give the options that it was begun with to go on, or undo it with `machine rm {name}`"
            )),
            Self::NoEngine(error @ BundleError::Missing { .. }) => error.hint().map(|hint| {
                format!("{hint}; `--engine-install-url https://get.docker.com` installs another engine")
            }),
            Self::NoEngine(error) => error.hint(),
            Self::OtherAuthority { name, .. } => Some(format!(
                "Name that one to go on, or undo it with `machine rm {name}`; a host that is finished is moved with \
                 `machine regenerate-certs --authority`"
            )),
            Self::Settings(error) => error.hint(),
            Self::HostKeyNotNeeded { .. } => Some("Leave it out".to_owned()),
            Self::BringUp(error) => match &**error {
                BringUpError::Login {
                    source: LoginError::Ssh(SshError::HostKeyUnknown { .. }),
                    ..
                } => Some(
                    "If `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` says the same on the host, run the \
                     same command again with `--ssh-host-key SHA256:…`"
                        .to_owned(),
                ),
                other => other.hint(),
            },
            Self::Store(error) => error.hint(),
            Self::Trust(error) => error.hint(),
            Self::Check(error) | Self::Driver(error) => error.hint().map(str::to_owned),
            Self::HostKey(error) | Self::Keys(error) => error.hint(),
        }
    }

    /// docker-machine's exit status: 3 when it was refused before anything was made.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Check(_) | Self::Settings(_) | Self::NoEngine(_) => 3,
            _ => 1,
        }
    }
}

/// A host that may be created: checked, locked, and not yet touched.
#[derive(Debug)]
pub struct Prepared<'a> {
    host: LockedHost<'a>,
    /// Whether it is recorded already, because an earlier `create` was interrupted.
    begun: bool,
}

impl Prepared<'_> {
    pub fn name(&self) -> &HostName {
        &self.host.record.name
    }

    /// The phase from which creation goes on, when it had begun before.
    pub fn resumes(&self) -> Option<Phase> {
        self.begun.then_some(self.host.record.phase)
    }
}

/// Refuses everything that can be refused. Changes nothing at the provider and records nothing.
pub async fn prepare<'a>(context: &'a Context, request: &Request) -> Result<Prepared<'a>, CreateError> {
    let driver = context.drivers.find(&request.driver).map_err(CreateError::Check)?;
    let host_keys = named_host_keys(&*driver, request)?;
    bring_up::engine_settings(&request.engine, driver.info().name.as_ref(), 2376)
        .check_all()
        .map_err(CreateError::Settings)?;
    let lock = context.store.lock(&request.name)?;
    if context.store.exists(&request.name) {
        let mut host = LockedHost::new(context, lock, context.store.load(&request.name)?);
        go_on(&mut host, &*driver, request, host_keys)?;
        return Ok(Prepared { host, begun: true });
    }
    let host = LockedHost::new(context, lock, first_record(context, &*driver, request, host_keys)?);
    let checked = match driver.check(&host.view()).await {
        Ok(forecast) => engine_for(context, &*driver, request, &forecast),
        Err(error) => Err(CreateError::Check(error)),
    };
    if let Err(error) = checked {
        host.abandon();
        return Err(error);
    }
    Ok(Prepared { host, begun: false })
}

/// Has a creation that was interrupted go on with what can still be corrected, and refuses what cannot.
fn go_on(
    host: &mut LockedHost<'_>,
    driver: &dyn Driver,
    request: &Request,
    host_keys: Vec<String>,
) -> Result<(), CreateError> {
    let (context, record) = (host.context, &mut host.record);
    if record.phase == Phase::Ready {
        return Err(StoreError::Exists { name: request.name.clone() }.into());
    }
    record.phase.check(&request.name, Operation::Create).map_err(StoreError::from)?;
    if record.driver_name != driver.info().name || record.driver.config != request.config {
        return Err(CreateError::OtherOptions { name: request.name.clone() });
    }
    if let (Some(authority), true) = (record.transport.authority(), context.certificates.names_authority())
        && trust::current_signer(&context.certificates, &mut |_| {})?.fingerprint != authority
    {
        return Err(CreateError::OtherAuthority { name: request.name.clone(), authority });
    }
    // What has not been installed yet can still be corrected.
    record.host_options.engine_options = request.engine.clone();
    record.host_options.auth_options.server_cert_sans.clone_from(&request.names);
    if !host_keys.is_empty() {
        // An earlier run may have been told a wrong one.
        record.ssh_host_keys = host_keys;
    }
    Ok(())
}

fn first_record(
    context: &Context,
    driver: &dyn Driver,
    request: &Request,
    host_keys: Vec<String>,
) -> Result<Record, CreateError> {
    let transport = if driver.info().features.provisioned {
        Transport::trusting(trust::current_signer(&context.certificates, &mut |_| {})?.fingerprint)
    } else {
        Transport::Plain
    };
    let name = request.name.clone();
    let mut record =
        Record::new(&context.store, name, &driver.info().name, request.config.clone(), transport);
    record.place.clone_from(&request.place);
    record.host_options.engine_options = request.engine.clone();
    record.host_options.swarm_options = request.swarm.clone();
    record.host_options.auth_options.server_cert_sans.clone_from(&request.names);
    record.ssh_host_keys = host_keys;
    Ok(record)
}

/// Refuses a host for which there is no engine to install, as far as its architecture is known.
fn engine_for(
    context: &Context,
    driver: &dyn Driver,
    request: &Request,
    forecast: &Forecast,
) -> Result<(), CreateError> {
    let installs_ours =
        driver.features_of(&request.config).provisioned && request.engine.install_url.is_empty();
    match &forecast.architecture {
        Some(architecture) if installs_ours => {
            context.bundle.for_architecture(architecture).map(drop).map_err(CreateError::NoEngine)
        }
        _ => Ok(()),
    }
}

/// The host keys that the user named, as they are recorded.
fn named_host_keys(driver: &dyn Driver, request: &Request) -> Result<Vec<String>, CreateError> {
    let needed = driver.features_of(&request.config).host_key == HostKeySource::User;
    if !needed && !request.host_keys.is_empty() {
        return Err(CreateError::HostKeyNotNeeded { driver: driver.info().name });
    }
    request.host_keys.iter().map(|text| ssh::expected_key(text).map_err(CreateError::HostKey)).collect()
}

/// Creates the host: from the phase that it is in to `Ready`.
pub async fn create(prepared: Prepared<'_>, progress: &dyn Progress) -> Result<Record, CreateError> {
    let Prepared { mut host, begun } = prepared;
    if begun {
        // What was corrected counts from now on, for `machine provision` as well.
        host.save()?;
    } else {
        host.plan()?;
    }
    let features = host.features().map_err(CreateError::Driver)?;
    if begun && !host.record.phase.is_unmade() && features.power {
        look_again(&mut host, progress).await?;
    }
    if host.record.phase.is_unmade() {
        make(&mut host, progress).await?;
    }
    if features.provisioned {
        bring_up::bring_up(&mut host, progress).await.map_err(Box::new).map_err(CreateError::BringUp)?;
    } else {
        host.enter(Phase::Ready)?;
    }
    Ok(host.record)
}

/// What had been made when a creation was interrupted may have been stopped, moved or lost meanwhile.
async fn look_again(host: &mut LockedHost<'_>, progress: &dyn Progress) -> Result<(), CreateError> {
    if host.state().await.map_err(CreateError::Driver)? == State::Stopped {
        let (driver, view, mut journal) = host.at_driver().map_err(CreateError::Driver)?;
        driver.start(&view, &mut journal, progress).await.map_err(CreateError::Driver)?;
    }
    match host.refresh(progress).await {
        Ok(_) => Ok(()),
        Err(RefreshError::Driver(error)) if error.is_gone() => {
            progress.note("What was made is gone; it is made anew");
            // The new one is told new keys.
            host.record.ssh_host_keys.clear();
            Ok(host.enter(Phase::Creating)?)
        }
        Err(RefreshError::Store(error)) => Err(CreateError::Store(error)),
        Err(RefreshError::Driver(error)) => Err(CreateError::Driver(error)),
    }
}

/// Has the driver make the host, up to the phase `Booting`.
async fn make(host: &mut LockedHost<'_>, progress: &dyn Progress) -> Result<(), CreateError> {
    let (login, host_key) = ensure_keys(host)?;
    host.enter(Phase::Creating)?;
    progress.step("Creating machine");
    let (driver, view, mut journal) = host.at_driver().map_err(CreateError::Driver)?;
    let view = HostView { login, host_key, ..view };
    driver.create(&view, &mut journal, progress).await.map_err(CreateError::Driver)?;
    host.find_endpoint().await.map_err(CreateError::Driver)?;
    host.admit(progress).await.map_err(CreateError::Driver)?;
    host.record.state = State::Running;
    Ok(host.enter(Phase::Booting)?)
}

/// The login key and the host key of a host, made if they are not there yet, before anything is created with them.
fn ensure_keys(host: &mut LockedHost<'_>) -> Result<(Option<LoginKey>, Option<HostKey>), CreateError> {
    let features = host.own_features().map_err(CreateError::Driver)?;
    let (folder, record) = (host.folder(), &mut host.record);
    let (mut login, mut host_key) = (None, None);
    if features.login == LoginSource::Generated {
        let pair = ensure_pair(&folder.join("id_ed25519"), record.name.as_str())?;
        login = Some(LoginKey { public: pair.public });
    }
    if matches!(features.host_key, HostKeySource::Delivered | HostKeySource::DeliveredOnce) {
        let pair = ensure_pair(&folder.join(DELIVERED_HOST_KEY), record.name.as_str())?;
        record.ssh_host_keys = vec![pair.public.clone()];
        host_key = Some(HostKey { public: pair.public, private: pair.private });
    }
    Ok((login, host_key))
}

struct Pair {
    public: String,
    private: String,
}

/// The key pair at `path` and `path.pub`, made if there is none. The public half is written first: a private key that is
/// there is whole. One that is there is never replaced: a host may accept no other.
fn ensure_pair(path: &std::path::Path, comment: &str) -> Result<Pair, CreateError> {
    let public_path = path.with_extension("pub");
    let read = |path: &std::path::Path| match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::Read { path: path.to_owned(), source }),
    };
    let write_public =
        |public: &str| write_atomically(&public_path, format!("{}\n", public.trim()).as_bytes(), 0o600);
    if let Some(private) = read(path)? {
        let public = if let Some(public) = read(&public_path)? {
            public
        } else {
            let public = ssh::public_half(&private, comment).map_err(CreateError::Keys)?;
            write_public(&public)?;
            public
        };
        return Ok(Pair { public: public.trim().to_owned(), private });
    }
    let pair = ssh::generate_key_pair(comment).map_err(CreateError::Keys)?;
    write_public(&pair.public)?;
    write_atomically(path, pair.private.as_bytes(), 0o600)?;
    Ok(Pair { public: pair.public.trim().to_owned(), private: pair.private.clone() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_key_that_is_there_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("id_ed25519");
        let made = ensure_pair(&path, "mc1").unwrap();
        let public = std::fs::read_to_string(path.with_extension("pub")).unwrap();
        // Its public half is lost: it follows from the other.
        std::fs::remove_file(path.with_extension("pub")).unwrap();
        let again = ensure_pair(&path, "mc1").unwrap();
        assert_eq!((again.private, again.public), (made.private.clone(), made.public));
        assert_eq!(std::fs::read_to_string(path.with_extension("pub")).unwrap(), public);
        // One that cannot be read is an error, and stays.
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(ensure_pair(&path, "mc1").is_err());
        assert_eq!(std::fs::read(&path).unwrap(), [0xff, 0xfe]);
        // A kill between the two writes leaves a public half alone.
        std::fs::remove_file(&path).unwrap();
        assert_ne!(ensure_pair(&path, "mc1").unwrap().private, made.private);
    }
}
