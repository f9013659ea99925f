//! Settings, resolved once: what flags, environment and defaults say, as plain data.
//!
//! Nothing else reads the environment on behalf of a command; the variables of options (`MACHINE_STORAGE_PATH`, …) are
//! read by the parser, which this prepares.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use clap::Args;

use super::prompter;
use crate::{
    bundle::Bundle,
    drivers::Registry,
    lifecycle::Context,
    store::{Certificates, NamedFiles, Store},
    ui::{Failure, Ui},
};

/// Options before the command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Tell on stderr what is being done
    #[arg(short = 'D', long, global = true, env = "MACHINE_DEBUG",
        value_parser = clap::builder::BoolishValueParser::new())]
    debug: bool,
    /// The folder of hosts, certificates and images [default: ~/.docker/machine]
    #[arg(short = 's', long, env = "MACHINE_STORAGE_PATH", value_name = "FOLDER")]
    storage_path: Option<PathBuf>,
    /// The certificate of the authority [default: certs/ca.pem in the store]
    #[arg(long, env = "MACHINE_TLS_CA_CERT", value_name = "FILE")]
    tls_ca_cert: Option<PathBuf>,
    /// The private key of the authority [default: certs/ca-key.pem in the store]
    #[arg(long, env = "MACHINE_TLS_CA_KEY", value_name = "FILE")]
    tls_ca_key: Option<PathBuf>,
    /// The certificate of the client [default: certs/cert.pem in the store]
    #[arg(long, env = "MACHINE_TLS_CLIENT_CERT", value_name = "FILE")]
    tls_client_cert: Option<PathBuf>,
    /// The private key of the client [default: certs/key.pem in the store]
    #[arg(long, env = "MACHINE_TLS_CLIENT_KEY", value_name = "FILE")]
    tls_client_key: Option<PathBuf>,
    /// The folder of engines to install instead of the ones inside this program
    #[arg(long, env = crate::bundle::BUNDLE_VARIABLE, hide = true, value_name = "FOLDER")]
    engine_bundle: Option<PathBuf>,
    /// Accepted for scripts written for docker-machine; SSH is always built in
    #[arg(long, env = "MACHINE_NATIVE_SSH", hide = true,
        value_parser = clap::builder::BoolishValueParser::new())]
    native_ssh: bool,
    /// Accepted for scripts written for docker-machine; nothing is reported to anybody
    #[arg(long, env = "MACHINE_BUGSNAG_API_TOKEN", hide = true, value_name = "TOKEN")]
    bugsnag_api_token: Option<String>,
    /// Accepted for scripts written for docker-machine; nothing is downloaded
    #[arg(long, env = "MACHINE_GITHUB_API_TOKEN", hide = true, value_name = "TOKEN")]
    github_api_token: Option<String>,
    /// Show the version
    #[arg(short = 'v', long)]
    pub(super) version: bool,
    /// Print answers and events as JSON, one object a line, on stdout
    #[arg(long, global = true)]
    json: bool,
}

/// The variables that commands look at.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    /// `DOCKER_HOST`: the engine that the docker client is pointed at.
    pub(crate) docker_host: String,
    /// `SHELL`: the user's login shell.
    pub(crate) shell: String,
    /// `MACHINE_DRIVER`: the driver of `create`, which has to be known before its options can be parsed.
    pub(crate) driver: Option<String>,
    /// `NO_PROXY` and `no_proxy`, in the order in which Go programs read them.
    pub(crate) no_proxy: [(&'static str, OsString); 2],
    home: Option<PathBuf>,
    /// `MACHINE_STORAGE_PATH`: the folder that the next command will have, too.
    storage_path: Option<PathBuf>,
}

impl Environment {
    pub(crate) fn read() -> Self {
        let text = |name| std::env::var_os(name).unwrap_or_default();
        let lossy = |name| text(name).to_string_lossy().into_owned();
        Self {
            docker_host: lossy("DOCKER_HOST"),
            shell: lossy("SHELL"),
            driver: Some(lossy("MACHINE_DRIVER")).filter(|name| !name.is_empty()),
            no_proxy: ["NO_PROXY", "no_proxy"].map(|name| (name, text(name))),
            home: std::env::home_dir(),
            storage_path: std::env::var_os("MACHINE_STORAGE_PATH").map(PathBuf::from),
        }
    }
}

/// Prepares a command line for its variables: one that is empty counts as one that is not set, and values are not shown
/// in the help.
pub(super) fn with_variables(command: clap::Command) -> clap::Command {
    command
        .mut_args(|argument| {
            let is_empty = argument
                .get_env()
                .is_some_and(|name| std::env::var_os(name).is_some_and(|value| value.is_empty()));
            let argument = argument.hide_env_values(true);
            if is_empty { argument.env(None::<&'static str>) } else { argument }
        })
        .mut_subcommands(with_variables)
}

/// What a command works with.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) json: bool,
    pub(crate) debug: bool,
    /// The command line, the program's name first.
    pub(crate) words: Vec<OsString>,
    pub(crate) environment: Environment,
    /// The folder that was named, if one was.
    storage_path: Option<PathBuf>,
    certificates: [(&'static str, Option<PathBuf>); 4],
    engine_bundle: Option<PathBuf>,
}

impl Settings {
    pub(super) fn resolve(global: Global, words: Vec<OsString>, environment: Environment) -> Self {
        // What is accepted for old scripts says nothing.
        let Global { native_ssh: _, bugsnag_api_token: _, github_api_token: _, version: _, .. } = global;
        Self {
            json: global.json,
            debug: global.debug,
            words,
            environment,
            storage_path: global.storage_path,
            certificates: [
                ("--tls-ca-cert", global.tls_ca_cert),
                ("--tls-ca-key", global.tls_ca_key),
                ("--tls-client-cert", global.tls_client_cert),
                ("--tls-client-key", global.tls_client_key),
            ],
            engine_bundle: global.engine_bundle,
        }
    }

    /// The program as it was called, with the store if one was named: what comes before a command that is to be typed next.
    pub(super) fn program(&self) -> Vec<String> {
        let mut words: Vec<String> =
            self.words.first().map(|word| word.to_string_lossy().into_owned()).into_iter().collect();
        if let Some(path) =
            self.storage_path.as_ref().filter(|path| Some(*path) != self.environment.storage_path.as_ref())
        {
            words.extend(["-s".to_owned(), path.to_string_lossy().into_owned()]);
        }
        words
    }

    /// The store, whether it is there already or not.
    pub(super) fn store(&self) -> Result<Store, Failure> {
        let root = match (&self.storage_path, &self.environment.home) {
            (Some(path), _) => path.clone(),
            (None, Some(home)) => home.join(".docker").join("machine"),
            (None, None) => {
                return Err(Failure::text("There is no home folder to keep hosts in")
                    .with_hint("Set `MACHINE_STORAGE_PATH`"));
            }
        };
        recordable("--storage-path", &root)?;
        Ok(Store::at(&root)?)
    }

    pub(super) fn context(&self, ui: &Ui) -> Result<Context, Failure> {
        let store = self.store()?;
        for (option, path) in &self.certificates {
            path.as_deref().map_or(Ok(()), |path| recordable(option, path))?;
        }
        let [ca_cert, ca_key, client_cert, client_key] =
            self.certificates.each_ref().map(|(_, path)| path.clone());
        let certificates: Certificates = store.certificates().with_files(NamedFiles {
            authority: ca_cert,
            authority_key: ca_key,
            client: client_cert,
            client_key,
        });
        let bundle = Bundle::read_or_embedded(self.engine_bundle.as_deref())?;
        let prompter = prompter::at_the_terminal(ui);
        Ok(Context { store, certificates, drivers: Registry::built_in(), bundle, prompter })
    }

    /// Refuses `--json` for what prints as it likes, and why.
    pub(super) fn refuse_json(&self, because: &str, hint: &str) -> Result<(), Failure> {
        if self.json {
            return Err(Failure::text(format!("{because}, and `--json` prints objects alone"))
                .with_hint(hint)
                .with_status(2));
        }
        Ok(())
    }

    /// Refuses an option that shapes text when no text is printed.
    pub(super) fn refuse_with_json(&self, option: &str, given: bool) -> Result<(), Failure> {
        if self.json && given {
            return Err(Failure::text(format!("`{option}` is about text, and `--json` prints none"))
                .with_hint(format!("Leave out `{option}` or `--json`"))
                .with_status(2));
        }
        Ok(())
    }
}

/// Records are JSON and name files by text: a path that is none cannot be kept.
fn recordable(option: &str, path: &Path) -> Result<(), Failure> {
    if path.as_os_str().to_str().is_some() {
        return Ok(());
    }
    Err(Failure::text(format!(
        "The path `{}` is not valid UTF-8, and records could not name it",
        path.display()
    ))
    .with_hint(format!("Give another one with `{option}`")))
}

/// The base name of the program, as it was called.
pub(super) fn program_name(words: &[OsString]) -> String {
    words
        .first()
        .and_then(|word| Path::new(word).file_name())
        .and_then(OsStr::to_str)
        .map(|name| name.strip_suffix(std::env::consts::EXE_SUFFIX).unwrap_or(name))
        .filter(|name| !name.is_empty())
        .unwrap_or("machine")
        .to_owned()
}
