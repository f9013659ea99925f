//! The driver of hosts that `machine` knows by their engine's URL alone.

use async_trait::async_trait;
use machine_driver::{
    Driver, DriverError, DriverInfo, Endpoint, Features, Flag, FlagKind, Forecast, HostKeySource, HostView,
    Journal, LoginSource, Options, Progress, State,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

const DEFAULT_PORT: u16 = 2376;

/// Nothing is made, started or stopped: a name for the URL of an engine.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoDriver;

impl NoDriver {
    pub fn new() -> Self {
        Self
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    url: String,
}

/// Where a URL leads to.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    /// Empty where the URL names a socket on this machine.
    address: String,
    port: u16,
}

fn place(url: &str) -> Option<Place> {
    let (scheme, rest) = url.split_once("://")?;
    if url.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return None;
    }
    match scheme {
        "unix" if !rest.starts_with('/') => None,
        "unix" | "npipe" => (rest.len() > 1).then(|| Place { address: String::new(), port: DEFAULT_PORT }),
        "tcp" | "http" | "https" | "ssh" => {
            let authority = rest.split(['/', '?', '#']).next()?;
            let host_and_port = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            let (address, port) = if let Some(literal) = host_and_port.strip_prefix('[') {
                let (address, port) = literal.split_once(']')?;
                address.parse::<std::net::Ipv6Addr>().ok()?;
                (address, port.strip_prefix(':').or_else(|| port.is_empty().then_some(""))?)
            } else {
                host_and_port.split_once(':').unwrap_or((host_and_port, ""))
            };
            let port =
                if port.is_empty() { DEFAULT_PORT } else { port.parse().ok().filter(|port| *port != 0)? };
            (!address.is_empty()).then(|| Place { address: address.to_owned(), port })
        }
        _ => None,
    }
}

fn config(host: &HostView) -> Result<Config, DriverError> {
    serde_json::from_value(host.config.clone()).map_err(|error| {
        DriverError::failed("Could not read the driver's part of the record").with_source(error)
    })
}

fn unsupported(verb: &str) -> DriverError {
    DriverError::unsupported(format!("hosts without a driver cannot be {verb}"))
}

#[async_trait]
impl Driver for NoDriver {
    fn info(&self) -> DriverInfo {
        DriverInfo {
            name: "none".to_owned(),
            aliases: Vec::new(),
            summary: "Only records the URL of an engine that is there already".to_owned(),
            features: Features {
                provisioned: false,
                power: false,
                login: LoginSource::None,
                host_key: HostKeySource::None,
                adopted: true,
                firewall: false,
            },
        }
    }

    fn flags(&self) -> Vec<Flag> {
        vec![Flag::new("url", FlagKind::Text, "URL", "URL of the engine when no driver is selected")]
    }

    async fn configure(&self, options: &Options) -> Result<Value, DriverError> {
        let url = options
            .text("url")
            .ok_or_else(|| DriverError::invalid("--url option is required when no driver is selected"))?;
        if place(url).is_none() {
            return Err(DriverError::invalid(format!("`{}` is no URL of an engine", url.escape_debug()))
                .with_hint("Such a URL reads `tcp://192.168.99.100:2376` or `unix:///var/run/docker.sock`"));
        }
        serde_json::to_value(Config { url: url.to_owned() })
            .map_err(|error| DriverError::failed("Could not write the configuration").with_source(error))
    }

    async fn check(&self, _: &HostView) -> Result<Forecast, DriverError> {
        Ok(Forecast::default())
    }

    async fn create(&self, _: &HostView, _: &mut dyn Journal, _: &dyn Progress) -> Result<(), DriverError> {
        Ok(())
    }

    async fn start(&self, _: &HostView, _: &mut dyn Journal, _: &dyn Progress) -> Result<(), DriverError> {
        Err(unsupported("started"))
    }

    async fn stop(&self, _: &HostView, _: &mut dyn Journal, _: &dyn Progress) -> Result<(), DriverError> {
        Err(unsupported("stopped"))
    }

    async fn kill(&self, _: &HostView, _: &mut dyn Journal, _: &dyn Progress) -> Result<(), DriverError> {
        Err(unsupported("killed"))
    }

    async fn restart(&self, _: &HostView, _: &mut dyn Journal, _: &dyn Progress) -> Result<(), DriverError> {
        Err(unsupported("restarted"))
    }

    async fn remove(&self, _: &HostView, _: &mut dyn Journal, _: &dyn Progress) -> Result<(), DriverError> {
        Ok(())
    }

    /// Always running: nothing is asked.
    async fn state(&self, _: &HostView, _: &Value) -> Result<State, DriverError> {
        Ok(State::Running)
    }

    async fn endpoint(&self, host: &HostView, _: &Value) -> Result<Endpoint, DriverError> {
        let Config { url } = config(host)?;
        let Place { address, port } = place(&url).ok_or_else(|| {
            DriverError::failed(format!("The record has no good URL: `{}`", url.escape_debug()))
        })?;
        Ok(Endpoint { address, engine_port: port, url: Some(url), ssh: None, inside: None })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use machine_driver::{
        ErrorKind, HostId, MemoryJournal, Silent,
        conformance::{MakesNothing, Suite},
    };

    use super::*;

    #[tokio::test]
    async fn keeps_the_contract() {
        let report = Suite::new(&NoDriver, &MakesNothing)
            .option("url", "tcp://192.0.2.7:2376")
            .unprefixed("url")
            .requires("url")
            .refuses("url", "192.0.2.7:2376")
            .refuses("url", "tcp://")
            .refuses("url", "tcp://:2376")
            .refuses("url", "tcp://host:0")
            .refuses("url", "tcp://host:99999")
            .refuses("url", "tcp://a b:1")
            .refuses("url", "tcp://[::1:1")
            .refuses("url", "unix://")
            .run()
            .await
            .unwrap();
        assert!(report.kept.len() > 8, "{report:?}");
    }

    #[test]
    fn the_address_is_the_url_without_its_port() {
        for (url, address, port) in [
            ("tcp://192.0.2.7:1234", "192.0.2.7", 1234),
            ("tcp://engine.example", "engine.example", 2376),
            ("tcp://[2001:db8::1]:99", "2001:db8::1", 99),
            ("https://user@engine.example:8443/path?x", "engine.example", 8443),
            ("ssh://me@engine.example", "engine.example", 2376),
            ("unix:///var/run/docker.sock", "", 2376),
        ] {
            assert_eq!(place(url), Some(Place { address: address.into(), port }), "{url}");
        }
    }

    #[tokio::test]
    async fn a_missing_url_is_said_in_the_old_words() {
        let options = Options::resolve(&NoDriver.flags(), &BTreeMap::new()).unwrap();
        let error = NoDriver.configure(&options).await.unwrap_err();
        assert_eq!(error.to_string(), "--url option is required when no driver is selected");
    }

    #[tokio::test]
    async fn the_verbs_are_refused_in_the_old_words() {
        let host = HostView {
            name: "a".parse().unwrap(),
            id: HostId::random(),
            owner: String::new(),
            folder: "/nonexistent".into(),
            cache: "/nonexistent".into(),
            config: serde_json::json!({"url": "tcp://a"}),
            place: None,
            login: None,
            host_key: None,
        };
        let journal = &mut MemoryJournal::default();
        let answers = [
            NoDriver.kill(&host, journal, &Silent).await,
            NoDriver.stop(&host, journal, &Silent).await,
            NoDriver.restart(&host, journal, &Silent).await,
            NoDriver.start(&host, journal, &Silent).await,
        ];
        for (answer, verb) in answers.into_iter().zip(["killed", "stopped", "restarted", "started"]) {
            let error = answer.unwrap_err();
            assert_eq!(error.to_string(), format!("hosts without a driver cannot be {verb}"));
            assert_eq!(*error.kind(), ErrorKind::Unsupported);
        }
    }
}
