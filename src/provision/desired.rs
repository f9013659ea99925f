//! The files that an engine host has, and which of them a host still lacks.

use serde::Serialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::facts::{Facts, Init, Pending};
use super::render::render;
use super::settings::EngineSettings;
use super::{ProvisionError, TlsFiles};

/// Everything that any host is asked about, whatever runs on it.
pub(super) const PATHS: [&str; 18] = [
    ENGINE,
    "/usr/local/bin/docker",
    "/usr/local/bin/swarm",
    "/etc/engine/tls/ca.pem",
    "/etc/engine/tls/server.pem",
    "/etc/engine/tls/server-key.pem",
    "/etc/engine/daemon.json",
    "/etc/engine/environment",
    "/etc/systemd/system/engine-containers.service",
    "/etc/systemd/system/engine.service",
    "/etc/init.d/engine",
    "/etc/services/engine/run",
    "/etc/docker/ca.pem",
    "/etc/docker/server.pem",
    "/etc/docker/server-key.pem",
    "/etc/docker/daemon.json",
    DROP_IN,
    "/etc/conf.d/docker",
];

pub(super) const ENGINE: &str = "/usr/local/bin/engine";
/// The control group of the unit that is there for containers: systemd leaves alone what is below it.
const DELEGATED: &str = "/system.slice/engine-containers.service";
pub(super) const DROP_IN: &str = "/etc/systemd/system/docker.service.d/10-machine.conf";

/// The keys of `daemon.json` that the bundled engine takes up without being started anew.
const RELOADABLE: [&str; 5] = ["labels", "log-driver", "log-opts", "registry-mirrors", "insecure-registries"];

/// Which engine a host runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flavor {
    /// The one that travels inside this program.
    Bundled,
    /// dockerd, installed by its own installer.
    Dockerd,
}

impl Flavor {
    pub(super) fn service(self) -> &'static str {
        match self {
            Self::Bundled => "engine",
            Self::Dockerd => "docker",
        }
    }
}

/// A file as it has to be.
#[derive(Debug, Clone)]
pub(super) struct File {
    pub(super) path: &'static str,
    pub(super) mode: u32,
    pub(super) content: String,
    /// Its name in the upload.
    pub(super) staged: &'static str,
    pub(super) step: &'static str,
    /// What is said when the last file of the step is written.
    pub(super) done: &'static str,
    /// What the engine has to do to take it up.
    pub(super) effect: Pending,
    /// It may be somebody else's.
    pub(super) keep_original: bool,
}

impl File {
    fn new(path: &'static str, mode: u32, content: String) -> Self {
        Self {
            path,
            mode,
            content,
            staged: path.rsplit('/').next().unwrap_or(path),
            step: "files",
            done: "",
            effect: Pending::Restart,
            keep_original: false,
        }
    }

    fn in_step(mut self, step: &'static str, done: &'static str) -> Self {
        (self.step, self.done) = (step, done);
        self
    }

    /// Whether the host has it, root owns it, and its permissions are right.
    pub(super) fn is_on(&self, facts: &Facts) -> bool {
        facts.files.get(self.path).is_some_and(|found| {
            found.mode == self.mode
                && (found.owner, found.group) == (0, 0)
                && found.sha256 == format!("{:x}", Sha256::digest(self.content.as_bytes()))
        })
    }
}

/// A folder that has to be there before its files.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub(super) struct Directory {
    pub(super) path: &'static str,
    pub(super) mode: &'static str,
}

/// The folders of a file of ours, outermost first.
pub(super) fn directories(path: &str) -> &'static [Directory] {
    const fn directory(path: &'static str, mode: &'static str) -> Directory {
        Directory { path, mode }
    }
    const TLS: &[Directory] = &[directory("/etc/engine", "755"), directory("/etc/engine/tls", "700")];
    const CONFIGURATION: &[Directory] = &[directory("/etc/engine", "755")];
    const SERVICE: &[Directory] =
        &[directory("/etc/services", "755"), directory("/etc/services/engine", "755")];
    const DOCKER: &[Directory] = &[directory("/etc/docker", "755")];
    const DROP_INS: &[Directory] = &[directory("/etc/systemd/system/docker.service.d", "755")];
    if path.starts_with("/etc/engine/tls/") {
        TLS
    } else if path.starts_with("/etc/engine/") {
        CONFIGURATION
    } else if path.starts_with("/etc/services/") {
        SERVICE
    } else if path.starts_with("/etc/docker/") {
        DOCKER
    } else if path == DROP_IN {
        DROP_INS
    } else {
        &[]
    }
}

/// The certificates, for the place where the engine of this flavor looks for them. The key comes last: once it is
/// there, all of them are.
pub(super) fn certificates(flavor: Flavor, tls: &TlsFiles) -> Vec<File> {
    let (authority, certificate, key, effect) = match flavor {
        Flavor::Bundled => (
            "/etc/engine/tls/ca.pem",
            "/etc/engine/tls/server.pem",
            "/etc/engine/tls/server-key.pem",
            Pending::Reload,
        ),
        // dockerd reads its certificates at its start and never again.
        Flavor::Dockerd => {
            ("/etc/docker/ca.pem", "/etc/docker/server.pem", "/etc/docker/server-key.pem", Pending::Restart)
        }
    };
    [
        (authority, 0o644, &tls.ca_pem),
        (certificate, 0o644, &tls.server_pem),
        (key, 0o600, &tls.server_key_pem),
    ]
    .into_iter()
    .map(|(path, mode, content)| {
        let file = File::new(path, mode, content.clone()).in_step("certificates", "Certificates installed");
        File { effect, ..file }
    })
    .collect()
}

/// All files of the bundled engine but the engine itself.
pub(super) fn bundled(
    init: Init,
    settings: &EngineSettings,
    tls: &TlsFiles,
    facts: &Facts,
) -> Result<Vec<File>, ProvisionError> {
    // Where there is one hierarchy for all controllers; elsewhere the engine has its own group in each.
    let cgroup_parent = (init == Init::Systemd && facts.cgroup == "2").then_some(DELEGATED);
    let configuration = settings.engine_configuration(cgroup_parent)?;
    let effect = facts
        .contents
        .get("/etc/engine/daemon.json")
        .map_or(Pending::Restart, |old| effect_of_configuration(old, &configuration));
    let (service, mode, template) = match init {
        Init::Systemd => ("/etc/systemd/system/engine.service", 0o644, "systemd/engine.service"),
        Init::OpenRc => ("/etc/init.d/engine", 0o755, "openrc/engine"),
        Init::MachineOs => ("/etc/services/engine/run", 0o755, "machineos/run"),
    };
    let mut files = certificates(Flavor::Bundled, tls);
    files.push(File {
        effect,
        ..File::new("/etc/engine/daemon.json", 0o644, configuration)
            .in_step("configuration", "Configuration written")
    });
    let environment = render("engine/environment", &ServiceValues::of(settings, facts))?;
    files.push(
        File::new("/etc/engine/environment", 0o600, environment)
            .in_step("environment", "Environment written"),
    );
    let mut services = vec![(service, mode, template)];
    if init == Init::Systemd {
        let unit = "/etc/systemd/system/engine-containers.service";
        services.insert(0, (unit, 0o644, "systemd/engine-containers.service"));
    }
    for (path, mode, template) in services {
        let service = File::new(path, mode, render(template, &json!({}))?);
        files.push(service.in_step("service-file", "Service installed"));
    }
    Ok(files)
}

/// The files that make a dockerd listen with our certificates. What is not known before dockerd is installed stands in
/// them as `@DOCKERD@` and `@CONTAINERD@`.
pub(super) fn dockerd(
    init: Init,
    settings: &EngineSettings,
    tls: &TlsFiles,
    facts: &Facts,
) -> Result<Vec<File>, ProvisionError> {
    let existing = facts.contents.get("/etc/docker/daemon.json").map(Vec::as_slice);
    let mut files = certificates(Flavor::Dockerd, tls);
    let configuration =
        File::new("/etc/docker/daemon.json", 0o644, settings.dockerd_configuration(existing)?);
    files.push(File {
        keep_original: true,
        ..configuration.in_step("configuration", "Configuration written")
    });
    let variables = ServiceValues::of(settings, facts);
    let service = match init {
        Init::Systemd => File::new(DROP_IN, 0o644, render("systemd/10-machine.conf", &variables)?),
        Init::OpenRc => {
            let file = File::new("/etc/conf.d/docker", 0o600, render("openrc/docker", &variables)?);
            File { staged: "conf.d-docker", keep_original: true, ..file }
        }
        Init::MachineOs => {
            return Err(ProvisionError::BundledEngineOnly { system: facts.release.to_string() });
        }
    };
    files.push(service.in_step("service-file", "Service configured"));
    Ok(files)
}

/// What the templates of services and environments show.
#[derive(Serialize)]
struct ServiceValues<'a> {
    variables: Vec<Variable<'a>>,
    port: u16,
    dockerd: &'a str,
    containerd: &'a str,
}

#[derive(Serialize)]
struct Variable<'a> {
    name: &'a str,
    value: &'a str,
    assignment: String,
}

impl<'a> ServiceValues<'a> {
    fn of(settings: &'a EngineSettings, facts: &'a Facts) -> Self {
        let variables = settings.env.iter().map(|(name, value)| Variable {
            name,
            value,
            assignment: format!("{name}={value}"),
        });
        let containerd = match (&facts.dockerd, facts.has_containerd()) {
            (None, _) => "@CONTAINERD@",
            (Some(_), true) => " --containerd=/run/containerd/containerd.sock",
            (Some(_), false) => "",
        };
        Self {
            variables: variables.collect(),
            port: settings.port,
            dockerd: facts.dockerd.as_deref().unwrap_or("@DOCKERD@"),
            containerd,
        }
    }
}

/// Whether the bundled engine can take up a changed configuration while it runs.
fn effect_of_configuration(old: &[u8], new: &str) -> Pending {
    let object = |bytes: &[u8]| serde_json::from_slice::<Map<String, Value>>(bytes).ok();
    let (Some(old), Some(new)) = (object(old), object(new.as_bytes())) else { return Pending::Restart };
    let differs = |key: &str| old.get(key) != new.get(key);
    if old.keys().chain(new.keys()).any(|key| differs(key) && !RELOADABLE.contains(&key.as_str())) {
        Pending::Restart
    } else {
        Pending::Reload
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::provision::facts::FileFact;

    fn settings() -> EngineSettings {
        EngineSettings {
            labels: vec!["provider=qemu".to_owned()],
            env: vec![
                ("HTTP_PROXY".to_owned(), "http://me:p%41ss@proxy:3128/".to_owned()),
                ("NASTY".to_owned(), "a b  'c' \"d\" $HOME `id` $(id) \\ %h # ;".to_owned()),
                ("EMPTY".to_owned(), String::new()),
            ],
            ..EngineSettings::default()
        }
    }

    fn tls() -> TlsFiles {
        TlsFiles {
            ca_pem: "ca".to_owned(),
            server_pem: "server".to_owned(),
            server_key_pem: "key".to_owned(),
        }
    }

    fn shown(files: &[File]) -> String {
        files.iter().fold(String::new(), |text, file| {
            text + &format!(
                "=== {} {:o} {} {:?}\n{}\n",
                file.path,
                file.mode,
                file.staged,
                file.effect,
                file.content.trim_end()
            )
        })
    }

    #[test]
    fn files_of_the_bundled_engine() {
        let unified = Facts { cgroup: "2".to_owned(), ..Facts::default() };
        for init in [Init::Systemd, Init::OpenRc, Init::MachineOs] {
            let files = bundled(init, &settings(), &tls(), &unified).unwrap();
            assert!(files.iter().all(|file| PATHS.contains(&file.path)));
            insta::assert_snapshot!(format!("bundled-{}", init.name()), shown(&files));
        }
    }

    #[test]
    fn containers_lie_in_a_unit_where_systemd_owns_the_one_tree() {
        let parent = |init, cgroup: &str, options: &[(&str, &str)]| {
            let facts = Facts { cgroup: cgroup.to_owned(), ..Facts::default() };
            let options = options.iter().map(|&(key, value)| (key.to_owned(), value.to_owned()));
            let settings = EngineSettings { options: options.collect(), ..settings() };
            let files = bundled(init, &settings, &tls(), &facts).unwrap();
            let file = files.iter().find(|file| file.path == "/etc/engine/daemon.json").unwrap();
            let configuration: Value = serde_json::from_str(&file.content).unwrap();
            configuration.get("cgroup-parent").map(|parent| parent.as_str().unwrap().to_owned())
        };
        let unit = Some("/system.slice/engine-containers.service".to_owned());
        assert_eq!(parent(Init::Systemd, "2", &[]), unit);
        for (init, cgroup) in
            [(Init::Systemd, "1"), (Init::OpenRc, "2"), (Init::OpenRc, "later"), (Init::MachineOs, "2")]
        {
            assert_eq!(parent(init, cgroup, &[]), None, "{init} {cgroup}");
        }
        assert_eq!(parent(Init::Systemd, "2", &[("cgroup-parent", "/mine")]), Some("/mine".to_owned()));
    }

    #[test]
    fn files_of_dockerd() {
        let known =
            Facts { dockerd: Some("/usr/bin/dockerd".to_owned()), containerd: true, ..Facts::default() };
        for (name, init, facts) in [
            ("dockerd-systemd", Init::Systemd, &known),
            ("dockerd-openrc", Init::OpenRc, &known),
            ("dockerd-to-be-installed", Init::Systemd, &Facts::default()),
        ] {
            let files = dockerd(init, &settings(), &tls(), facts).unwrap();
            assert!(files.iter().all(|file| PATHS.contains(&file.path)));
            insta::assert_snapshot!(name, shown(&files));
        }
        let error = dockerd(Init::MachineOs, &settings(), &tls(), &known).unwrap_err();
        assert!(matches!(error, ProvisionError::BundledEngineOnly { .. }));
    }

    #[test]
    fn staged_names_are_unique() {
        for files in [
            bundled(Init::Systemd, &settings(), &tls(), &Facts::default()).unwrap(),
            dockerd(Init::OpenRc, &settings(), &tls(), &Facts::default()).unwrap(),
        ] {
            let mut names: Vec<_> = files.iter().map(|file| file.staged).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), files.len());
        }
    }

    #[test]
    fn content_owner_and_permissions_count() {
        let file = File::new("/etc/engine/environment", 0o600, "x".to_owned());
        let found =
            FileFact { mode: 0o600, owner: 0, group: 0, sha256: format!("{:x}", Sha256::digest("x")) };
        let on = |found: FileFact| {
            let mut facts = Facts::default();
            facts.files.insert(file.path.to_owned(), found);
            file.is_on(&facts)
        };
        assert!(on(found.clone()));
        assert!(!on(FileFact { mode: 0o644, ..found.clone() }));
        assert!(!on(FileFact { owner: 1000, ..found.clone() }));
        assert!(!on(FileFact { sha256: String::new(), ..found }));
        assert!(!file.is_on(&Facts::default()));
    }

    #[test]
    fn only_some_keys_can_be_reloaded() {
        let old = settings().engine_configuration(None).unwrap();
        let labelled = EngineSettings { labels: vec!["a=b".to_owned()], ..settings() };
        let moved = EngineSettings { port: 3333, ..settings() };
        let effect = |new: &EngineSettings| {
            effect_of_configuration(old.as_bytes(), &new.engine_configuration(None).unwrap())
        };
        assert_eq!(effect(&labelled), Pending::Reload);
        assert_eq!(effect(&moved), Pending::Restart);
        let delegated = settings().engine_configuration(Some(DELEGATED)).unwrap();
        assert_eq!(effect_of_configuration(old.as_bytes(), &delegated), Pending::Restart);
        assert_eq!(effect_of_configuration(b"{", &old), Pending::Restart);
    }
}
