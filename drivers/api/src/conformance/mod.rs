//! The suite that any driver can be run through: it holds the driver to the contract of [`crate::Driver`].
//!
//! ```no_run
//! # async fn example(driver: &dyn machine_driver::Driver, inventory: &dyn machine_driver::conformance::Inventory) {
//! use machine_driver::conformance::{Crashes, Suite};
//!
//! let report = Suite::new(driver, inventory)
//!     .option("example-memory", "512")
//!     .refuses("example-memory", "lots")
//!     .crashes(Crashes::Everywhere)
//!     .run()
//!     .await
//!     .unwrap_or_else(|violation| panic!("{violation}"));
//! # let _ = report;
//! # }
//! ```

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;

use crate::{Driver, HostKey, HostView, LoginKey, Rule};

mod access;
mod crashes;
mod fixture;
mod life;
mod words;

/// What exists at the provider, found by other means than the driver.
#[async_trait]
pub trait Inventory: Send + Sync {
    /// Everything that the driver made for this host and that still exists, be it at the provider or in the host's
    /// folder. Empty when nothing was made.
    async fn resources(&self, host: &HostView) -> Vec<Resource>;

    /// What is let in to the host, by whomever: one rule for each source, those of the caller with its address. Asked
    /// where the driver has [`crate::Features::firewall`]. `None`: it cannot be seen, and what comes of
    /// [`Driver::admit`] is not tried.
    async fn let_in(&self, host: &HostView) -> Option<Vec<Rule>> {
        let _ = host;
        None
    }

    /// Lets something in past the driver, as a user of the provider does.
    async fn open_by_hand(&self, host: &HostView, rule: &Rule) {
        let _ = (host, rule);
    }
}

/// One thing that exists.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resource {
    pub kind: String,
    pub name: String,
}

/// For drivers that make nothing anywhere.
#[derive(Debug, Clone, Copy)]
pub struct MakesNothing;

#[async_trait]
impl Inventory for MakesNothing {
    async fn resources(&self, _: &HostView) -> Vec<Resource> {
        Vec::new()
    }
}

/// How often the suite pulls the plug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crashes {
    /// Never: where one host takes minutes.
    Nowhere,
    /// At so many points of a creation that follow from the seed, each before or after a write to the journal; the host
    /// is made whole after each. Where each takes a VM.
    Seeded { seed: u64, points: usize },
    /// Before and after each write to the journal, and between them where the driver waits.
    Everywhere,
}

/// A rule of the contract that the driver broke.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{rule}: {detail}")]
pub struct Violation {
    /// The rule, as a sentence.
    pub rule: &'static str,
    /// What happened instead.
    pub detail: String,
}

/// The rules that were tried and kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub kept: Vec<&'static str>,
    /// How many times the plug was pulled.
    pub crashes: usize,
}

/// One driver, and how to try it.
#[derive(Clone)]
#[must_use]
pub struct Suite<'a> {
    driver: &'a dyn Driver,
    inventory: &'a dyn Inventory,
    options: BTreeMap<String, Vec<String>>,
    refused: Vec<BTreeMap<String, Vec<String>>>,
    unprefixed: Vec<&'a str>,
    crashes: Crashes,
    side_by_side: bool,
    login: LoginKey,
    host_key: HostKey,
    limit: Duration,
    after_start: Option<&'a (dyn AfterStart + 'a)>,
}

/// What the suite's user wants to see of a host that was started, such as that it answers.
#[async_trait]
pub trait AfterStart: Send + Sync {
    /// `Err` says what was not as it should be.
    async fn look(&self, endpoint: &crate::Endpoint) -> Result<(), String>;
}

impl std::fmt::Debug for Suite<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Suite")
            .field("driver", &self.driver)
            .field("options", &self.options)
            .field("crashes", &self.crashes)
            .finish_non_exhaustive()
    }
}

impl<'a> Suite<'a> {
    pub fn new(driver: &'a dyn Driver, inventory: &'a dyn Inventory) -> Self {
        Self {
            driver,
            inventory,
            options: BTreeMap::new(),
            refused: Vec::new(),
            unprefixed: Vec::new(),
            crashes: Crashes::Everywhere,
            side_by_side: true,
            login: LoginKey { public: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIConformance login".into() },
            host_key: HostKey {
                public: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIConformance".into(),
                private:
                    "-----BEGIN OPENSSH PRIVATE KEY-----\nconformance\n-----END OPENSSH PRIVATE KEY-----\n"
                        .into(),
            },
            limit: Duration::from_mins(3),
            after_start: None,
        }
    }

    /// Gives an option, for every host of the suite.
    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.options.entry(name.to_owned()).or_default().push(value.to_owned());
        self
    }

    /// Names a value which `configure` must refuse, everything else being as with [`Suite::option`].
    pub fn refuses(mut self, name: &str, value: &str) -> Self {
        let mut options = self.options.clone();
        options.insert(name.to_owned(), vec![value.to_owned()]);
        self.refused.push(options);
        self
    }

    /// Says that `configure` must refuse to do without an option.
    pub fn requires(mut self, name: &str) -> Self {
        let mut options = self.options.clone();
        options.remove(name);
        self.refused.push(options);
        self
    }

    /// An option whose name may do without the driver's name in front, for old times' sake.
    pub fn unprefixed(mut self, name: &'a str) -> Self {
        self.unprefixed.push(name);
        self
    }

    pub fn crashes(mut self, crashes: Crashes) -> Self {
        self.crashes = crashes;
        self
    }

    /// Whether two hosts are made at the same time as well.
    pub fn side_by_side(mut self, yes: bool) -> Self {
        self.side_by_side = yes;
        self
    }

    /// Real keys, for hosts which are logged in to.
    pub fn keys(mut self, login: LoginKey, host_key: HostKey) -> Self {
        self.login = login;
        self.host_key = host_key;
        self
    }

    /// How long one call may take.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Looks at each host of the life cycle after each start.
    pub fn after_start(mut self, look: &'a (dyn AfterStart + 'a)) -> Self {
        self.after_start = Some(look);
        self
    }

    /// Tries everything; the first rule that is broken ends it.
    pub async fn run(&self) -> Result<Report, Violation> {
        let mut report = Report::default();
        self.words(&mut report).await?;
        let kinds = self.life(&mut report).await?;
        self.crash(&mut report, &kinds).await?;
        Ok(report)
    }
}

fn violated<T>(rule: &'static str, detail: impl Into<String>) -> Result<T, Violation> {
    Err(Violation { rule, detail: detail.into() })
}

/// The error and its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
