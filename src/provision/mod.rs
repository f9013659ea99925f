//! Turns a reachable Linux host into an engine host, over one SSH session.
//!
//! ```text
//! probe.sh ──▶ Facts ─┬─ nothing differs ──▶ done, nothing was touched
//!                     └─ Difference ──▶ tar stream + apply.sh ──▶ steps ──▶ Report
//! ```
//!
//! Two commands at most are run on the host. The first reports what is there. The second is run only if something
//! differs: it takes one tar stream on its standard input, with what differs and the script that applies it. Private keys
//! travel in that stream and nowhere else. Every file is replaced atomically, the engine's configuration is judged by the
//! engine before it replaces the old one, and a run that was cut off is completed by the next one. Containers are
//! never touched.

mod apply;
mod desired;
mod error;
mod facts;
mod host_key;
mod render;
mod settings;
mod steps;
mod system;
mod upload;

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use machine_driver::Progress;
use serde::Serialize;
use tokio::time::timeout;

use crate::bundle::Bundle;
use crate::ssh::Session;

pub use error::ProvisionError;
pub use host_key::{place_host_key, prepare_host_key};
pub use settings::{EngineSettings, SettingsError};
pub use system::{Family, OsRelease};

use apply::Difference;
use desired::Flavor;
use facts::{Facts, Init, NoFacts, Root};
use render::{RenderError, render, shell_quoted};
use steps::{Follower, Outcome};
use upload::Counted;

/// How long a host may take to say what it is. It is a matter of a second, unless something hangs (a file system of
/// another host that `df` waits for, a firewall's daemon).
const LOOK_AT_MOST: Duration = Duration::from_secs(180);

/// How long a host may take to apply everything; another engine's installer may have to fetch a lot.
const APPLY_AT_MOST: Duration = Duration::from_secs(30 * 60);

/// A clock that is off by more than this makes fresh certificates look like they were of the future: they begin to be
/// valid five minutes before they were made.
const CLOCK_OFF_AT_MOST: i64 = 240;

/// What a host has to become.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The name to give the host; `None` leaves it its own.
    pub hostname: Option<String>,
    pub engine: EngineSettings,
    pub tls: TlsFiles,
    /// Where the engine comes from, unless another one is asked for.
    pub bundle: &'a Bundle,
    /// Who logs in, and is to use the engine without becoming root.
    pub login_user: String,
}

/// The certificates of an engine.
#[derive(Clone)]
pub struct TlsFiles {
    /// Of the authority whose clients are let in.
    pub ca_pem: String,
    pub server_pem: String,
    pub server_key_pem: String,
}

impl fmt::Debug for TlsFiles {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TlsFiles").finish_non_exhaustive()
    }
}

/// What was found and what was done.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// One sentence for each thing that was changed; empty if the host was already as it has to be.
    pub changed: Vec<String>,
    /// What the host runs, for people.
    pub os: String,
    /// As `uname -m` says it.
    pub architecture: String,
    /// The version of the bundled engine that is there now.
    pub engine_version: Option<String>,
    /// The version that was there before.
    pub previous_engine_version: Option<String>,
    /// How much was uploaded.
    pub uploaded_bytes: usize,
}

/// Makes the host what the plan says. Run again, it finds that there is nothing to do, says so, and touches nothing.
pub async fn provision(
    session: &Session,
    plan: &Plan<'_>,
    progress: &dyn Progress,
) -> Result<Report, ProvisionError> {
    plan.engine.check()?;
    let flavor = plan.engine.flavor();
    progress.step("Looking at the host");
    let probe = Probe::new(plan.engine.port, &plan.login_user, plan.hostname.as_deref());
    let facts = look(session, &probe).await?;
    let init = check_system(&facts, progress)?;
    check_conflicts(&facts, plan)?;

    let difference = Difference::of_host(plan, &facts, init)?;
    let mut report = Report {
        os: facts.release.to_string(),
        architecture: facts.architecture.clone(),
        engine_version: match flavor {
            Flavor::Bundled => Some(plan.bundle.for_architecture(&facts.architecture)?.version().to_owned()),
            Flavor::Dockerd => None,
        },
        ..Report::default()
    };
    for note in &difference.notes {
        progress.note(note);
    }
    if difference.is_empty() {
        progress.step("Everything is as it has to be");
        return Ok(report);
    }
    if difference.install {
        plan.engine.check_installer()?;
    }
    let script = difference.script(&facts, init, flavor, Some(plan.engine.port), Some(&plan.engine))?;
    let (outcome, uploaded) = apply(session, &facts, &difference, &script, progress).await?;
    report.changed = outcome.changed;
    report.uploaded_bytes = uploaded;
    if let (Some(engine), Some(previous)) = (&difference.engine, &outcome.previous_version) {
        let (said, version) = (apply::engine_installed(engine.version()), engine.version());
        let upgraded = if previous == version {
            format!("Engine {version} replaced")
        } else {
            format!("Engine upgraded from {previous} to {version}")
        };
        report.changed.iter_mut().filter(|text| **text == said).for_each(|text| text.clone_from(&upgraded));
    }
    report.previous_engine_version = outcome.previous_version;
    Ok(report)
}

/// Replaces the certificates of an engine host and has the engine take them up; nothing else is looked at or changed.
/// The bundled engine is not restarted for it. Returns what was changed.
pub async fn install_certificates(
    session: &Session,
    tls: &TlsFiles,
    progress: &dyn Progress,
) -> Result<Vec<String>, ProvisionError> {
    progress.step("Looking at the host");
    let facts = look(session, &Probe::new(0, "The user", None)).await?;
    let init = facts.init.ok_or_else(|| unknown_init(&facts))?;
    let ours = facts.files.contains_key(desired::ENGINE);
    let flavor = if ours || facts.dockerd.is_none() { Flavor::Bundled } else { Flavor::Dockerd };
    let difference = Difference::of_certificates(desired::certificates(flavor, tls), &facts, flavor);
    for note in &difference.notes {
        progress.note(note);
    }
    if difference.is_empty() {
        progress.step("The certificates are there already");
        return Ok(Vec::new());
    }
    let script = difference.script(&facts, init, flavor, None, None)?;
    let (outcome, _) = apply(session, &facts, &difference, &script, progress).await?;
    Ok(outcome.changed)
}

/// What `probe.sh` is rendered from.
#[derive(Serialize)]
struct Probe<'a> {
    files: &'static [&'static str],
    hostname: &'a str,
    login_user: &'a str,
    port: u16,
    port_hexadecimal: String,
}

impl<'a> Probe<'a> {
    fn new(port: u16, login_user: &'a str, hostname: Option<&'a str>) -> Self {
        Self {
            files: &desired::PATHS,
            hostname: hostname.unwrap_or_default(),
            login_user,
            port,
            port_hexadecimal: apply::port_hexadecimal(port),
        }
    }

    fn script(&self) -> Result<String, RenderError> {
        render("shell/probe.sh", self)
    }
}

/// The first command: what is there?
async fn look(session: &Session, probe: &Probe<'_>) -> Result<Facts, ProvisionError> {
    let launcher = one_line("shell/launch-probe.sh")?;
    let command = format!("exec /bin/sh -c {}", shell_quoted(&launcher));
    let script = probe.script()?;
    let output = timeout(LOOK_AT_MOST, session.output(&command, script.as_bytes()))
        .await
        .map_err(|_| ProvisionError::TooSlow { attempt: "Looking at the host", after: LOOK_AT_MOST })?
        .map_err(|source| ProvisionError::Session { attempt: "Looking at the host", source })?;
    let answer = output.stdout.get(..facts::ANSWER_AT_MOST).unwrap_or(&output.stdout);
    let answer = String::from_utf8_lossy(answer);
    tracing::debug!(%answer, "the host");
    Facts::parse(&answer).map_err(|failure| {
        let user = probe.login_user.to_owned();
        let end = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            let last = lines[lines.len().saturating_sub(3)..].join(" ");
            last.chars().filter(|character| !character.is_control()).take(300).collect::<String>()
        };
        match failure {
            NoFacts::NoRoot => ProvisionError::NoSudo { user },
            NoFacts::Refused => ProvisionError::SudoRefused { user, message: end(&output.stderr) },
            NoFacts::Incomplete => {
                let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
                ProvisionError::NoAnswer { ended: output.status.clone(), output: end(said) }
            }
        }
    })
}

/// The second command: make up the difference.
async fn apply(
    session: &Session,
    facts: &Facts,
    difference: &Difference,
    script: &str,
    progress: &dyn Progress,
) -> Result<(Outcome, usize), ProvisionError> {
    let upload = difference.upload(script)?;
    difference.check_space(facts, upload.len())?;
    let size = upload.len();
    progress.step(&format!("Uploading {}", amount(size)));
    let launcher = shell_quoted(&one_line("shell/launch-apply.sh")?);
    let command = match facts.root {
        Root::Through(command) => format!("exec {command} /bin/sh -c {launcher}"),
        Root::Login => format!("exec /bin/sh -c {launcher}"),
    };
    let mut follower = Follower::new(progress);
    let upload = Counted::new(upload, progress);
    let following = session.stream(&command, upload, |stream, line| follower.line(stream, line));
    let ended = timeout(APPLY_AT_MOST, following)
        .await
        .map_err(|_| ProvisionError::TooSlow { attempt: "Provisioning", after: APPLY_AT_MOST })?
        .map_err(|source| ProvisionError::Session { attempt: "Provisioning", source })?;
    Ok((follower.finish(ended)?, size))
}

fn one_line(template: &'static str) -> Result<String, RenderError> {
    render(template, &serde_json::json!({})).map(|text| text.trim().to_owned())
}

fn amount(bytes: usize) -> String {
    match bytes / 1024 {
        kib @ 0..1024 => format!("{} KiB", kib.max(1)),
        kib => format!("{}.{} MiB", kib / 1024, (kib % 1024) * 10 / 1024),
    }
}

fn unknown_init(facts: &Facts) -> ProvisionError {
    ProvisionError::UnknownInit {
        system: facts.release.to_string(),
        first_process: facts.first_process.clone(),
    }
}

/// Whether the host can run an engine at all, and who will start it.
fn check_system(facts: &Facts, progress: &dyn Progress) -> Result<Init, ProvisionError> {
    let init = facts.init.ok_or_else(|| unknown_init(facts))?;
    if facts.release.family() == Family::Other {
        progress.note(&format!(
            "`{}` is not a distribution that is known here; it is provisioned like any host with {init}",
            facts.release
        ));
    }
    if !facts.missing_tools.is_empty() {
        return Err(ProvisionError::MissingTools { tools: facts.missing_tools.iter().cloned().collect() });
    }
    let off = facts.clock.map_or(0, |clock| clock - now());
    if off.abs() > CLOCK_OFF_AT_MOST {
        let direction = if off > 0 { "ahead of" } else { "behind" };
        progress.note(&format!(
            "The clock of the host is {} s {direction} ours; certificates may look expired or not valid yet",
            off.abs()
        ));
    }
    Ok(init)
}

fn check_conflicts(facts: &Facts, plan: &Plan<'_>) -> Result<(), ProvisionError> {
    let flavor = plan.engine.flavor();
    let (other, ours) = match flavor {
        Flavor::Bundled => (["docker.service", "docker.socket"].as_slice(), false),
        Flavor::Dockerd => (["engine.service"].as_slice(), true),
    };
    if let Some(service) = other.iter().find(|service| facts.active(service)) {
        return Err(ProvisionError::OtherEngine { service: (*service).to_owned(), ours });
    }
    let listens_itself = facts.active(&format!("{}.service", flavor.service()))
        || (flavor == Flavor::Bundled && facts.engine_runs);
    if facts.port_taken && !listens_itself {
        return Err(ProvisionError::PortTaken { port: plan.engine.port });
    }
    if flavor == Flavor::Bundled {
        let mut features: Vec<String> = facts.missing_kernel.iter().cloned().collect();
        if facts.cgroup == "none" {
            features.push("cgroups".to_owned());
        }
        if !features.is_empty() {
            return Err(ProvisionError::MissingKernelFeatures { kernel: facts.kernel.clone(), features });
        }
    }
    Ok(())
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
