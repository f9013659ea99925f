//! Where the daemon is: `-H`, `DOCKER_HOST` and the TLS settings that go with them.

use std::env;
use std::path::PathBuf;

use clap::Args;

use super::contexts::{self, Store};
use super::failure::{Failure, Outcome};

/// The daemon that is asked when nothing else is said.
const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";

/// The options that stand before the command.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Global {
    /// Folder of the client's files
    #[arg(long, value_name = "string")]
    pub(crate) config: Option<PathBuf>,
    /// Name of the context to use to connect to the server (overrides DOCKER_HOST env var and default context set with
    /// "docker context use")
    #[arg(long, short, value_name = "string")]
    pub(crate) context: Option<String>,
    /// Show more
    #[arg(long, short = 'D')]
    pub(crate) debug: bool,
    /// The daemon's socket, as unix:// or tcp://
    #[arg(long, short = 'H', value_name = "list")]
    pub(crate) host: Vec<String>,
    /// Set the logging level
    #[arg(long, short, value_name = "string", default_value = "info")]
    pub(crate) log_level: String,
    /// Use TLS; implied by --tlsverify
    #[arg(long)]
    pub(crate) tls: bool,
    /// Trust only certificates of this authority
    #[arg(long, value_name = "string")]
    pub(crate) tlscacert: Option<PathBuf>,
    /// The client's certificate
    #[arg(long, value_name = "string")]
    pub(crate) tlscert: Option<PathBuf>,
    /// The client's private key
    #[arg(long, value_name = "string")]
    pub(crate) tlskey: Option<PathBuf>,
    /// Use TLS and verify the daemon
    #[arg(long)]
    pub(crate) tlsverify: bool,
}

/// How to reach the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Unix(PathBuf),
    Tcp { host: String, port: u16 },
}

/// Which certificates to show and to trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    pub(crate) authority: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// Whether the daemon must prove who it is.
    pub(crate) verify: bool,
}

/// The daemon of one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// As the user wrote it, for messages.
    pub(crate) text: String,
    pub(crate) address: Address,
    pub(crate) tls: Option<TlsFiles>,
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

impl Global {
    /// The context that the command is for.
    pub(crate) fn context_name(&self) -> Outcome<String> {
        if self.context.is_some() && !self.host.is_empty() {
            return Err(Failure::Setting(
                "conflicting options: cannot specify both --host and --context".to_owned(),
            ));
        }
        if let Some(name) = &self.context {
            return Ok(name.clone());
        }
        if !self.host.is_empty() || variable("DOCKER_HOST").is_some() {
            return Ok(contexts::DEFAULT.to_owned());
        }
        if let Some(name) = variable("DOCKER_CONTEXT") {
            return Ok(name);
        }
        let chosen = Store::new(self.config.as_deref()).chosen()?;
        Ok(chosen.unwrap_or_else(|| contexts::DEFAULT.to_owned()))
    }

    /// Where the daemon is that no context says anything of.
    pub(crate) fn default_host(&self) -> String {
        let text = self.host.first().cloned().or_else(|| variable("DOCKER_HOST"));
        text.unwrap_or_else(|| DEFAULT_HOST.to_owned())
    }

    fn of_context(&self, name: &str) -> Outcome<Endpoint> {
        let store = Store::new(self.config.as_deref());
        let failed = |error: Failure| {
            Failure::Setting(format!("unable to resolve docker endpoint: {}", engine_model::chain(&error)))
        };
        let meta = store.read(name).map_err(failed)?;
        let folder = store.tls(name).join("docker");
        let tls = TlsFiles {
            authority: folder.join("ca.pem"),
            certificate: folder.join("cert.pem"),
            key: folder.join("key.pem"),
            verify: !meta.skips_verification(),
        };
        let is_secure = !store.certificates(name).is_empty() || meta.skips_verification();
        let host = if meta.host().is_empty() { DEFAULT_HOST } else { meta.host() };
        parse(host, is_secure.then_some(tls))
    }

    /// Merges flags over the environment over defaults.
    pub(crate) fn endpoint(&self) -> Outcome<Endpoint> {
        if self.host.len() > 1 {
            return Err(Failure::Setting(
                "unable to resolve docker endpoint: specify only one -H".to_owned(),
            ));
        }
        let context = self.context_name()?;
        if context != contexts::DEFAULT {
            return self.of_context(&context);
        }
        let text = self.default_host();
        let verify = self.tlsverify || variable("DOCKER_TLS_VERIFY").is_some();
        let wanted = verify || self.tls || variable("DOCKER_TLS").is_some();
        let folder = variable("DOCKER_CERT_PATH").map(PathBuf::from).or_else(|| self.config.clone());
        let folder = folder
            .or_else(|| variable("DOCKER_CONFIG").map(PathBuf::from))
            .or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".docker")))
            .unwrap_or_default();
        let file = |given: &Option<PathBuf>, name: &str| given.clone().unwrap_or_else(|| folder.join(name));
        let tls = TlsFiles {
            authority: file(&self.tlscacert, "ca.pem"),
            certificate: file(&self.tlscert, "cert.pem"),
            key: file(&self.tlskey, "key.pem"),
            verify,
        };
        parse(&text, wanted.then_some(tls))
    }
}

/// Refuses what is no address of a daemon.
pub(crate) fn check(host: &str) -> Outcome {
    parse(host, None).map(drop)
}

fn parse(text: &str, tls: Option<TlsFiles>) -> Outcome<Endpoint> {
    let invalid = || {
        Failure::Setting(format!("unable to resolve docker endpoint: invalid bind address format: {text}"))
    };
    let (scheme, rest) = match text.split_once("://") {
        Some(parts) => parts,
        // A bare path or a bare host and port.
        None if text.starts_with('/') => ("unix", text),
        None if text.contains(':') => ("tcp", text),
        None => return Err(invalid()),
    };
    let default_port = if tls.is_some() { 2376 } else { 2375 };
    let (address, tls) = match scheme {
        "unix" if rest.is_empty() => (Address::Unix(PathBuf::from("/var/run/docker.sock")), None),
        "unix" => (Address::Unix(PathBuf::from(rest)), None),
        "tcp" | "http" | "https" => {
            let authority = rest.split('/').next().unwrap_or_default();
            let (host, port) = match authority.rsplit_once(':') {
                Some((host, port)) if !port.contains(']') => {
                    (host, port.parse::<u16>().map_err(|_| invalid())?)
                }
                _ => (authority, default_port),
            };
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let host = if host.is_empty() { "localhost" } else { host };
            (Address::Tcp { host: host.to_owned(), port }, tls)
        }
        _ => return Err(invalid()),
    };
    Ok(Endpoint { text: text.to_owned(), address, tls })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn address(text: &str) -> Address {
        parse(text, None).unwrap().address
    }

    #[test]
    fn sockets_and_addresses() {
        assert_eq!(address("unix:///x/y.sock"), Address::Unix("/x/y.sock".into()));
        assert_eq!(address("/x/y.sock"), Address::Unix("/x/y.sock".into()));
        assert_eq!(address("tcp://10.0.0.1:2376"), Address::Tcp { host: "10.0.0.1".to_owned(), port: 2376 });
        assert_eq!(address("tcp://[::1]:99"), Address::Tcp { host: "::1".to_owned(), port: 99 });
        assert_eq!(address("tcp://[::1]"), Address::Tcp { host: "::1".to_owned(), port: 2375 });
        assert_eq!(address("tcp://"), Address::Tcp { host: "localhost".to_owned(), port: 2375 });
        for text in ["foo://x", "nothing", "tcp://x:99999"] {
            assert!(parse(text, None).is_err(), "{text}");
        }
    }

    #[test]
    fn tls_is_for_addresses_only() {
        let tls = TlsFiles { authority: "a".into(), certificate: "c".into(), key: "k".into(), verify: true };
        assert!(parse("unix:///x", Some(tls.clone())).unwrap().tls.is_none());
        let endpoint = parse("tcp://mc1", Some(tls.clone())).unwrap();
        assert_eq!(endpoint.address, Address::Tcp { host: "mc1".to_owned(), port: 2376 });
        assert_eq!(endpoint.tls, Some(tls));
    }
}
