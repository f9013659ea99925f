//! `machine create`: one host or several, side by side.

use std::collections::BTreeMap;

use clap::{ArgMatches, Args, ValueEnum};
use machine_driver::{Driver, HostName};

use super::{driver_flags, hosts, settings::Settings, shell::Shell};
use crate::{
    drivers::DEFAULT_DRIVER,
    lifecycle::{self, Context, Prepared, Request},
    store::{EngineOptions, Phase, StoreError, SwarmOptions},
    ui::{Failure, Lane, Outcome, Report, Ui},
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The new hosts' names
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    /// The kind of place where the hosts are made; `create -d DRIVER --help` lists its options
    #[arg(short, long, env = "MACHINE_DRIVER", default_value = DEFAULT_DRIVER)]
    driver: String,
    /// Install another engine with the script at this URL instead of the one that machine carries
    #[arg(long, env = "MACHINE_DOCKER_INSTALL_URL", value_name = "URL")]
    engine_install_url: Option<String>,
    /// The SHA-256 digest of that script; another one is not run. Needed where the URL does not begin with https
    #[arg(long, value_name = "DIGEST")]
    engine_install_sha256: Option<String>,
    /// A setting of the engine, as in its configuration file; may be given again
    #[arg(long, value_name = "KEY=VALUE")]
    engine_opt: Vec<String>,
    /// A registry that is spoken to without TLS; may be given again
    #[arg(long, value_name = "REGISTRY")]
    engine_insecure_registry: Vec<String>,
    /// A mirror to be asked before the registry itself; may be given again
    #[arg(long, env = "ENGINE_REGISTRY_MIRROR", value_delimiter = ',', value_name = "URL")]
    engine_registry_mirror: Vec<String>,
    /// A label of the engine; may be given again
    #[arg(long, value_name = "KEY=VALUE")]
    engine_label: Vec<String>,
    /// The engine's storage driver
    #[arg(long, value_name = "NAME")]
    engine_storage_driver: Option<String>,
    /// An environment variable of the engine; may be given again
    #[arg(long, value_name = "KEY=VALUE")]
    engine_env: Vec<String>,
    /// Another name or address in the server's certificate; may be given again
    #[arg(long, value_name = "NAME")]
    tls_san: Vec<String>,
    /// The SSH host key to accept, as a line `ssh-ed25519 AAAA…` or as SHA256:…; may be given again
    #[arg(long, value_name = "KEY")]
    ssh_host_key: Vec<String>,
    /// What becomes of a host that could not be created: keep it, so that the same command goes on, or undo it
    #[arg(long, value_enum, default_value_t = OnFailure::Keep, value_name = "WHAT")]
    on_failure: OnFailure,
}

/// What becomes of a host that could not be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnFailure {
    Keep,
    Undo,
}

pub(super) fn run(
    context: &Context,
    ui: &Ui,
    arguments: &Arguments,
    matches: &ArgMatches,
    settings: &Settings,
) -> Result<Report, Failure> {
    let driver = context.drivers.find(&arguments.driver)?;
    let mut names: Vec<HostName> = Vec::new();
    for text in &arguments.names {
        let name: HostName =
            text.parse().map_err(|error| Failure::because("Error creating machine", &error))?;
        if names.contains(&name) {
            return Err(Failure::text(format!("`{name}` is named twice")));
        }
        refuse_taken(context, &name)?;
        names.push(name);
    }
    let requests = requests(&*driver, arguments, matches, &names)?;
    let Some(requests) = requests else { return Err(interrupted()) };
    announce_certificates(context, ui)?;
    let prepared = prepare_all(context, ui, &requests)?;
    let Some(prepared) = prepared else { return Err(interrupted()) };
    // The locks that `prepare` took are handed over one by one.
    let provisioned = driver.info().features.provisioned;
    let undo = arguments.on_failure == OnFailure::Undo;
    let waiting: std::sync::Mutex<BTreeMap<HostName, Prepared<'_>>> =
        std::sync::Mutex::new(prepared.into_iter().map(|one| (one.name().clone(), one)).collect());
    let status = hosts::for_each(ui, &names, |name| {
        let prepared = waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&name);
        async move {
            let Some(prepared) = prepared else { return Ok(()) };
            let lane = ui.lane(name.as_str());
            if let Some(phase) = prepared.resumes() {
                machine_driver::Progress::note(&lane, &format!("Going on from the phase {phase:?}"));
            }
            match lifecycle::create(prepared, &lane).await {
                Ok(record) if provisioned => {
                    let version = record.engine_version.unwrap_or_default();
                    lane.finish(Outcome::Done, &format!("Docker is up and running! Engine {version}"));
                    Ok(())
                }
                Ok(_) => {
                    lane.finish(Outcome::Done, "");
                    Ok(())
                }
                Err(error) => {
                    if undo {
                        undo_host(context, ui, &name, &lane).await;
                    }
                    lane.finish(Outcome::Failed, "");
                    let status = error.exit_status();
                    Err(Failure::new(error).with_status(status))
                }
            }
        }
    })?;
    match status {
        0 => {
            let shell = Shell::find(None, &settings.environment).unwrap_or(Shell::Posix);
            let program: Vec<String> = settings.program().iter().map(|word| shell.quoted(word)).collect();
            let program = program.join(" ");
            for name in &names {
                ui.say(&format!(
                    "To see how to connect your Docker Client to the Docker Engine running on this virtual machine, run: {program} env {name}"
                ));
            }
        }
        super::INTERRUPTED => {
            ui.warn("Run the same command again to go on, or `machine rm` to undo what was made");
        }
        _ => {}
    }
    Ok(Report::status(status))
}

fn interrupted() -> Failure {
    Failure::text("Interrupted; nothing was made").with_status(super::INTERRUPTED)
}

/// A name that is taken is told before anything else, in docker-machine's words, which scripts look for in the first
/// line. Whether it is still free is seen again when it is locked.
fn refuse_taken(context: &Context, name: &HostName) -> Result<(), Failure> {
    match context.store.load(name) {
        Ok(record) if record.phase == Phase::Ready => {
            Err(Failure::new(StoreError::Exists { name: name.clone() }).verbatim())
        }
        _ => Ok(()),
    }
}

/// Removes what a failed creation made. What cannot be removed stays recorded, and is said beside the first failure.
async fn undo_host(context: &Context, ui: &Ui, name: &HostName, lane: &Lane<'_>) {
    machine_driver::Progress::note(lane, "Creating it failed; undoing what was made");
    if let Err(error) = lifecycle::remove(context, name, false, lane).await {
        ui.report(&Failure::new(error).with_host(name.as_str()));
    }
}

/// Everything that can be refused is refused here, for all names, before anything is made for any.
fn prepare_all<'a>(
    context: &'a Context,
    ui: &Ui,
    requests: &[Request],
) -> Result<Option<Vec<Prepared<'a>>>, Failure> {
    ui.say("Running pre-create checks...");
    super::block_on(async {
        let mut prepared = Vec::new();
        for request in requests {
            match lifecycle::prepare(context, request).await {
                Ok(one) => prepared.push(one),
                Err(error) => {
                    let status = error.exit_status();
                    return Err(Failure::new(error).with_status(status).with_host(request.name.as_str()));
                }
            }
        }
        Ok(prepared)
    })?
    .transpose()
}

fn requests(
    driver: &dyn Driver,
    arguments: &Arguments,
    matches: &ArgMatches,
    names: &[HostName],
) -> Result<Option<Vec<Request>>, Failure> {
    let options = driver_flags::options("create", &driver.flags(), matches)?;
    let Some((config, places)) = super::block_on(async {
        let config = driver.configure(&options).await.map_err(|error| {
            Failure::new(error).context("Error setting machine configuration from flags provided")
        })?;
        // One host is put where its driver thinks best; several are spread.
        let places = if names.len() > 1 { driver.places(&config).await? } else { Vec::new() };
        Ok::<_, Failure>((config, places))
    })?
    .transpose()?
    else {
        return Ok(None);
    };
    pairs("--engine-label", &arguments.engine_label)?;
    pairs("--engine-env", &arguments.engine_env)?;
    let engine = EngineOptions {
        arbitrary_flags: arguments.engine_opt.clone(),
        env: arguments.engine_env.clone(),
        insecure_registry: arguments.engine_insecure_registry.clone(),
        labels: arguments.engine_label.clone(),
        storage_driver: arguments.engine_storage_driver.clone().unwrap_or_default(),
        registry_mirror: arguments.engine_registry_mirror.clone(),
        install_url: arguments.engine_install_url.clone().unwrap_or_default(),
        install_sha256: arguments.engine_install_sha256.clone().unwrap_or_default(),
        ..EngineOptions::default()
    };
    for name in &arguments.tls_san {
        if name.is_empty() || name.len() > 253 || name.contains(|c: char| c.is_whitespace() || c.is_control())
        {
            return Err(Failure::text(format!("`--tls-san` takes a name or an address, not `{name}`")));
        }
    }
    let mut places = places.iter().map(|place| place.name.clone()).cycle();
    let requests = names
        .iter()
        .map(|name| Request {
            name: name.clone(),
            place: places.next(),
            driver: arguments.driver.clone(),
            config: config.clone(),
            engine: engine.clone(),
            swarm: SwarmOptions::default(),
            names: arguments.tls_san.clone(),
            host_keys: arguments.ssh_host_key.clone(),
        })
        .collect();
    Ok(Some(requests))
}

fn pairs(option: &str, texts: &[String]) -> Result<(), Failure> {
    for text in texts {
        match text.split_once('=') {
            Some((key, _)) if !key.is_empty() => {}
            _ => return Err(Failure::text(format!("`{option}` takes KEY=VALUE, not `{text}`"))),
        }
    }
    Ok(())
}

/// The certificates are the first thing that is made, and said with docker-machine's words. An authority that is
/// there is checked before anything is created.
fn announce_certificates(context: &Context, ui: &Ui) -> Result<(), Failure> {
    let mut say = |made: lifecycle::Made| match made {
        lifecycle::Made::Authority(path) => ui.say(&format!("Creating CA: {}", path.display())),
        lifecycle::Made::Client(path) => ui.say(&format!("Creating client certificate: {}", path.display())),
    };
    lifecycle::current_signer(&context.certificates, &mut say)?;
    Ok(())
}
