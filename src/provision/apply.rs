//! Compares a host with what it has to be, and puts together the one script and the one upload that make up the difference.

use std::collections::BTreeSet;

use serde::Serialize;

use super::desired::{self, Directory, ENGINE, File, Flavor};
use super::facts::{Facts, Init, Pending};
use super::render::render;
use super::settings::EngineSettings;
use super::{Plan, ProvisionError};
use crate::bundle::Engine;

/// What is free on a disk besides what is written, in KiB: the engine's first files, the file system's own needs.
const SPARE: u64 = 1024;

/// Everything that a host lacks. Empty: the host is as it has to be.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that the host has or has not")]
pub(super) struct Difference {
    pub(super) engine: Option<Engine>,
    pub(super) files: Vec<File>,
    pub(super) links: Vec<(&'static str, &'static str)>,
    pub(super) docker_group: bool,
    pub(super) member: Option<String>,
    pub(super) hostname: Option<String>,
    pub(super) hosts_name: Option<String>,
    pub(super) open_firewall: bool,
    pub(super) enable: bool,
    pub(super) install: bool,
    pub(super) action: Option<Action>,
    /// What the user should know although nothing has to be done.
    pub(super) notes: Vec<String>,
}

/// What the service has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Start,
    Reload,
    Restart,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Reload => "reload",
            Self::Restart => "restart",
        }
    }
}

impl Difference {
    /// Whether nothing has to be done.
    pub(super) fn is_empty(&self) -> bool {
        self.engine.is_none()
            && self.files.is_empty()
            && self.links.is_empty()
            && !self.docker_group
            && self.member.is_none()
            && self.hostname.is_none()
            && self.hosts_name.is_none()
            && !self.open_firewall
            && !self.enable
            && !self.install
            && self.action.is_none()
    }

    /// Compares a host with a plan.
    pub(super) fn of_host(plan: &Plan<'_>, facts: &Facts, init: Init) -> Result<Self, ProvisionError> {
        let flavor = plan.engine.flavor();
        let mut difference = Self::default();
        let mut effect = facts.pending;
        let wanted = match flavor {
            Flavor::Bundled => {
                difference.add_engine(plan.bundle.for_architecture(&facts.architecture)?, facts, &mut effect);
                desired::bundled(init, &plan.engine, &plan.tls, facts)?
            }
            Flavor::Dockerd => {
                difference.install = facts.dockerd.is_none();
                desired::dockerd(init, &plan.engine, &plan.tls, facts)?
            }
        };
        difference.add_files(wanted, facts, &mut effect);
        if let Some(hostname) = &plan.hostname {
            difference.add_hostname(hostname, facts, init);
        }
        difference.add_group(&plan.login_user, flavor, facts, &mut effect);
        difference.open_firewall = facts.firewall.is_some() && !facts.firewall_open;
        let unit = format!("{}.service", flavor.service());
        difference.enable = init != Init::MachineOs && !facts.enabled(&unit);
        // Packages start what they install, with their own settings.
        let active = facts.active(&unit) || difference.install;
        difference.action = action(effect, active);
        Ok(difference)
    }

    /// The certificates alone. The engine keeps what else it has.
    pub(super) fn of_certificates(files: Vec<File>, facts: &Facts, flavor: Flavor) -> Self {
        let mut difference = Self::default();
        let mut effect = facts.pending;
        difference.add_files(files, facts, &mut effect);
        let unit = format!("{}.service", flavor.service());
        if facts.active(&unit) {
            difference.action = action(effect, true);
            if flavor == Flavor::Dockerd && difference.action == Some(Action::Restart) {
                let note = "dockerd reads its certificates at its start alone: it is restarted, and with it its containers, \
                            unless it was told `live-restore`";
                difference.notes.push(note.to_owned());
            }
        } else if effect.is_some() {
            difference
                .notes
                .push("The engine does not run; it takes up the certificates when it starts".to_owned());
        }
        difference
    }

    fn add_engine(&mut self, engine: &Engine, facts: &Facts, effect: &mut Option<Pending>) {
        let same = facts.files.get(ENGINE).is_some_and(|found| {
            found.sha256 == engine.sha256() && found.mode == 0o755 && (found.owner, found.group) == (0, 0)
        });
        if !same {
            self.engine = Some(engine.clone());
            *effect = Some(Pending::Restart);
        }
        for path in ["/usr/local/bin/docker", "/usr/local/bin/swarm"] {
            let taken = facts.files.contains_key(path) || facts.others.contains(path);
            match facts.links.get(path).map(String::as_str) {
                Some("engine" | ENGINE) => {}
                None if !taken => self.links.push((path, "engine")),
                _ => self.notes.push(format!("`{path}` is not the engine's, and is left alone")),
            }
        }
    }

    fn add_files(&mut self, wanted: Vec<File>, facts: &Facts, effect: &mut Option<Pending>) {
        self.files = wanted.into_iter().filter(|file| !file.is_on(facts)).collect();
        *effect = self.files.iter().map(|file| Some(file.effect)).chain([*effect]).max().flatten();
    }

    fn add_hostname(&mut self, hostname: &str, facts: &Facts, init: Init) {
        // MachineOS has its name from its seed at each boot, and writes these files itself.
        let kept = init == Init::MachineOs || facts.static_hostname.as_deref() == Some(hostname);
        if facts.node != hostname || !kept {
            self.hostname = Some(hostname.to_owned());
        }
        if !facts.in_hosts && (init != Init::MachineOs || self.hostname.is_some()) {
            self.hosts_name = Some(hostname.to_owned());
        }
    }

    fn add_group(&mut self, user: &str, flavor: Flavor, facts: &Facts, effect: &mut Option<Pending>) {
        // dockerd's packages make the group, and the user may not be in it before.
        if !facts.docker_group && flavor == Flavor::Bundled {
            self.docker_group = true;
            // The socket gets its group when the engine starts.
            *effect = Some(Pending::Restart);
        }
        if user != "root" && !facts.docker_member {
            self.member = Some(user.to_owned());
        }
    }

    /// Refuses what would fill the host's disks. `upload` is the size of the tar stream.
    pub(super) fn check_space(&self, facts: &Facts, upload: usize) -> Result<(), ProvisionError> {
        let kib = |bytes: u64| bytes.div_ceil(1024);
        let mut needs = vec![("/run", kib(upload as u64)), ("/etc", 64)];
        if let Some(engine) = &self.engine {
            needs.push(("/usr/local/bin", kib(engine.size()) + SPARE));
        }
        for (path, needed) in needs {
            if facts.read_only.contains(path) {
                return Err(ProvisionError::ReadOnly { path: path.to_owned() });
            }
            if let Some(&available) = facts.space.get(path)
                && available < needed
            {
                return Err(ProvisionError::NoSpace { path: path.to_owned(), needed, available });
            }
        }
        Ok(())
    }

    /// The script that makes up the difference.
    ///
    /// `port` is where the engine is awaited after its start, if it is to be awaited.
    pub(super) fn script(
        &self,
        facts: &Facts,
        init: Init,
        flavor: Flavor,
        port: Option<u16>,
        settings: Option<&EngineSettings>,
    ) -> Result<String, ProvisionError> {
        Ok(render("shell/apply.sh", &Script::new(self, facts, init, flavor, port, settings))?)
    }

    /// The upload: what differs, and last the script, so that half of it runs nothing.
    pub(super) fn upload(&self, script: &str) -> Result<Vec<u8>, ProvisionError> {
        let mut archive = tar::Builder::new(Vec::new());
        let now = u64::try_from(super::now()).unwrap_or_default();
        let mut add = |name: &str, mode: u32, content: &[u8]| {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            // Nobody but root gets into the folder where they are unpacked; from there they are copied as they are.
            header.set_mode(mode);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(now);
            header.set_entry_type(tar::EntryType::Regular);
            archive.append_data(&mut header, name, content).map_err(ProvisionError::Upload)
        };
        if let Some(engine) = &self.engine {
            add("engine.gz", 0o600, engine.compressed())?;
        }
        for file in &self.files {
            let placeholders = file.content.contains("@DOCKERD@") || file.content.contains("@CONTAINERD@");
            let name = if self.install && placeholders {
                format!("{}.template", file.staged)
            } else {
                file.staged.to_owned()
            };
            add(&name, file.mode, file.content.as_bytes())?;
        }
        add("apply.sh", 0o600, script.as_bytes())?;
        archive.into_inner().map_err(ProvisionError::Upload)
    }
}

/// What has to happen to a service that is running or not.
fn action(effect: Option<Pending>, active: bool) -> Option<Action> {
    match (effect, active) {
        (None, true) => None,
        (_, false) => Some(Action::Start),
        (Some(Pending::Reload), true) => Some(Action::Reload),
        (Some(Pending::Restart), true) => Some(Action::Restart),
    }
}

/// What `apply.sh` is rendered from. Texts are made here, so that the template quotes them whole.
#[derive(Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "each switches one part of the template")]
struct Script {
    init: &'static str,
    service: &'static str,
    selinux: bool,
    port: u16,
    port_hexadecimal: String,
    await_port: bool,
    install_url: Option<String>,
    install_sha256: Option<String>,
    install_text: String,
    install_download_failed: String,
    install_differs: String,
    install_done: &'static str,
    fill_in_dockerd: bool,
    engine: Option<EngineStep>,
    validate: &'static str,
    docker_group: bool,
    member: Option<String>,
    member_done: String,
    member_failed: String,
    hostname: Option<String>,
    hostname_done: String,
    hosts_name: Option<String>,
    pending: &'static str,
    directories: Vec<Directory>,
    files: Vec<FileStep>,
    links: Vec<LinkStep>,
    firewall: &'static str,
    firewall_done: String,
    firewall_failed: String,
    reload_units: bool,
    enable: bool,
    enable_done: &'static str,
    enable_failed: &'static str,
    stop_stray: bool,
    action: &'static str,
    action_text: &'static str,
    action_done: &'static str,
    action_failed: &'static str,
    silent: String,
}

#[derive(Serialize)]
struct EngineStep {
    sha256: String,
    text: String,
    done: String,
}

#[derive(Serialize)]
struct FileStep {
    staged: &'static str,
    path: &'static str,
    step: &'static str,
    /// Empty but for the last file of a step.
    done: &'static str,
    keep_original: bool,
}

#[derive(Serialize)]
struct LinkStep {
    path: &'static str,
    target: &'static str,
    done: String,
    failed: String,
}

impl Script {
    fn new(
        difference: &Difference,
        facts: &Facts,
        init: Init,
        flavor: Flavor,
        port: Option<u16>,
        settings: Option<&EngineSettings>,
    ) -> Self {
        let await_port = port.is_some();
        let port = port.unwrap_or_default();
        let files = &difference.files;
        let installer = settings.filter(|_| difference.install);
        let install_url = installer.and_then(|settings| settings.install_url.as_deref());
        let install_sha256 = installer.and_then(|settings| settings.install_sha256.as_deref());
        let url = install_url.unwrap_or_default();
        let member = difference.member.as_deref().unwrap_or_default();
        let hostname = difference.hostname.as_deref().unwrap_or_default();
        let firewall =
            facts.firewall.filter(|_| difference.open_firewall).map_or("", super::facts::Firewall::name);
        let (action_text, action_done, action_failed) = match difference.action {
            Some(Action::Reload) => (
                "Having the engine read its files again",
                "Engine reloaded",
                "The engine could not be reloaded",
            ),
            Some(Action::Restart) => {
                ("Restarting the engine", "Engine restarted", "The engine could not be restarted")
            }
            Some(Action::Start) => {
                ("Starting the engine", "Engine started", "The engine could not be started")
            }
            None => ("", "", ""),
        };
        let checked = files.iter().any(|file| matches!(file.step, "certificates" | "configuration"));
        Self {
            init: init.name(),
            service: flavor.service(),
            selinux: facts.selinux_enforcing,
            port,
            port_hexadecimal: port_hexadecimal(port),
            await_port,
            install_url: install_url.map(str::to_owned),
            install_sha256: install_sha256.map(str::to_ascii_lowercase),
            install_text: format!("Installing the engine from {url}"),
            install_download_failed: format!("Could not fetch {url}"),
            install_differs: format!("What came from {url} has another digest than the one that was given"),
            install_done: "Engine installed",
            fill_in_dockerd: difference.install && files.iter().any(|file| file.step == "service-file"),
            engine: difference.engine.as_ref().map(engine_step),
            validate: match flavor {
                Flavor::Bundled if difference.engine.is_some() || checked => "engine",
                Flavor::Dockerd if files.iter().any(|file| file.step == "configuration") => "dockerd",
                _ => "",
            },
            docker_group: difference.docker_group,
            member: difference.member.clone(),
            member_done: format!("User `{member}` added to the group `docker`"),
            member_failed: format!(
                "The user `{member}` could not be added to the group `docker`, and needs `sudo` to speak to the engine"
            ),
            hostname: difference.hostname.clone(),
            hostname_done: format!("Hostname set to `{hostname}`"),
            hosts_name: difference.hosts_name.clone(),
            pending: match difference.action {
                Some(Action::Reload) => "reload",
                Some(Action::Start | Action::Restart) => "restart",
                None => "",
            },
            directories: unique_directories(files),
            files: file_steps(files),
            links: difference.links.iter().map(|&(path, target)| link_step(path, target)).collect(),
            firewall,
            firewall_done: format!("Port {port} opened in {firewall}"),
            firewall_failed: format!("Could not open port {port} in {firewall}"),
            // A run that was broken off may have written them.
            reload_units: init == Init::Systemd
                && (files.iter().any(|file| file.step == "service-file")
                    || matches!(difference.action, Some(Action::Start | Action::Restart))),
            enable: difference.enable,
            enable_done: "Service enabled",
            enable_failed: "The service could not be enabled",
            stop_stray: flavor == Flavor::Bundled
                && facts.engine_runs
                && difference.action == Some(Action::Start),
            action: difference.action.map_or("", Action::name),
            action_text,
            action_done,
            action_failed,
            silent: format!("The engine does not listen on port {port}"),
        }
    }
}

/// As `/proc/net/tcp` shows it.
pub(super) fn port_hexadecimal(port: u16) -> String {
    format!("{port:04X}")
}

fn engine_step(engine: &Engine) -> EngineStep {
    EngineStep {
        sha256: engine.sha256().to_owned(),
        text: format!("Installing the engine {}", engine.version()),
        done: engine_installed(engine.version()),
    }
}

/// What is said of an engine where none was before.
pub(super) fn engine_installed(version: &str) -> String {
    format!("Engine {version} installed")
}

fn link_step(path: &'static str, target: &'static str) -> LinkStep {
    let name = path.rsplit('/').next().unwrap_or(path);
    LinkStep {
        path,
        target,
        done: format!("Command `{name}` added"),
        failed: format!("Could not make `{path}`"),
    }
}

fn unique_directories(files: &[File]) -> Vec<Directory> {
    let mut seen = BTreeSet::new();
    files
        .iter()
        .flat_map(|file| desired::directories(file.path))
        .filter(|directory| seen.insert(directory.path))
        .cloned()
        .collect()
}

fn file_steps(files: &[File]) -> Vec<FileStep> {
    let last_of_its_step =
        |index: usize| files[index + 1..].iter().all(|later| later.step != files[index].step);
    files
        .iter()
        .enumerate()
        .map(|(index, file)| FileStep {
            staged: file.staged,
            path: file.path,
            step: file.step,
            done: if last_of_its_step(index) { file.done } else { "" },
            keep_original: file.keep_original,
        })
        .collect()
}
