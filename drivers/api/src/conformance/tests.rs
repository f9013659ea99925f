#![allow(clippy::unwrap_used)]
//! The suite against a driver that can be told to break each rule: a suite that finds nothing is worth nothing.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
    },
};

use futures_util::stream::{BoxStream, FuturesUnordered, StreamExt as _};
use serde_json::{Value, json};

use super::*;
use crate::{
    DriverError, DriverInfo, Endpoint, Features, Flag, FlagKind, Forecast, HostKeySource, Journal,
    LoginSource, Options, Progress, Row, Source, SshEndpoint, SshKey, State,
};

/// The rule that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    TwoFlagsOfOneName,
    FlagWithoutPrefix,
    TakesAnything,
    RefusesTheWrongWay,
    CheckMakes,
    StoresTheHostKey,
    MakesAnotherOne,
    WritesNoJournal,
    IntendsTooLate,
    ForgetsWhatItIntended,
    StopsOnlyOnce,
    StartsInstead,
    MovesOnRestart,
    DescribesWrongly,
    LeavesTheDisk,
    RemovesOnlyOnce,
    LosesTheJournalEntry,
    SharesADisk,
    NeverComesBack,
    LetsInTwice,
    LetsNobodyIn,
    TakesNothingBack,
    TakesWhatIsTheirs,
    CountsTheirsAsOurs,
    OpensBeforeItIsWritten,
    WritesWithoutAFirewall,
}

/// A provider in memory: what exists and what is let in, by its host's id.
#[derive(Debug, Clone, Default)]
struct Provider {
    resources: Arc<Mutex<BTreeMap<String, Vec<Resource>>>>,
    rules: Arc<Mutex<BTreeMap<String, Vec<Rule>>>>,
}

impl Provider {
    fn change<T>(&self, host: &HostView, change: impl FnOnce(&mut Vec<Resource>) -> T) -> T {
        change(self.resources.lock().unwrap().entry(host.id.to_string()).or_default())
    }

    fn rules<T>(&self, host: &HostView, change: impl FnOnce(&mut Vec<Rule>) -> T) -> T {
        change(self.rules.lock().unwrap().entry(host.id.to_string()).or_default())
    }

    fn has(&self, host: &HostView, kind: &str) -> bool {
        self.change(host, |all| all.iter().any(|resource| resource.kind == kind))
    }

    fn make(&self, host: &HostView, kind: &str, name: &str) {
        self.change(host, |all| all.push(Resource { kind: kind.into(), name: name.into() }));
    }

    fn take_away(&self, host: &HostView, kind: &str) {
        self.change(host, |all| all.retain(|resource| resource.kind != kind));
    }
}

#[async_trait]
impl Inventory for Provider {
    async fn resources(&self, host: &HostView) -> Vec<Resource> {
        self.change(host, |all| all.clone())
    }

    async fn let_in(&self, host: &HostView) -> Option<Vec<Rule>> {
        Some(self.rules(host, |all| all.clone()))
    }

    async fn open_by_hand(&self, host: &HostView, rule: &Rule) {
        self.rules(host, |all| all.push(rule.clone()));
    }
}

/// The address that the fake's caller has.
fn resolved(rule: &Rule) -> Rule {
    match rule.from {
        Source::Caller => Rule { from: Source::Network("192.0.2.1".parse().unwrap()), ..rule.clone() },
        _ => rule.clone(),
    }
}

#[derive(Debug)]
struct Fake {
    fault: Fault,
    provider: Provider,
    starts: AtomicU8,
}

impl Fake {
    fn broken(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    async fn up(&self, host: &HostView, journal: &mut dyn Journal) -> Result<(), DriverError> {
        if !self.provider.has(host, "instance") {
            journal.intend("instance", "i", None).await?;
            self.provider.make(host, "instance", &format!("instance of {}", host.id));
            self.starts.fetch_add(1, Ordering::Relaxed);
        }
        journal.made("instance", "i", None, journal.state()).await?;
        Ok(())
    }

    async fn down(&self, host: &HostView, journal: &mut dyn Journal) -> Result<(), DriverError> {
        self.provider.take_away(host, "instance");
        journal.gone("instance", "i").await?;
        Ok(())
    }
}

#[async_trait]
impl Driver for Fake {
    fn info(&self) -> DriverInfo {
        let features = Features {
            provisioned: true,
            power: true,
            login: LoginSource::Generated,
            host_key: HostKeySource::Delivered,
            adopted: false,
            firewall: !self.broken(Fault::WritesWithoutAFirewall),
        };
        DriverInfo { name: "fake".into(), aliases: Vec::new(), summary: "A fake".into(), features }
    }

    fn flags(&self) -> Vec<Flag> {
        let flag = |name| Flag::new(name, FlagKind::Integer, "N", "A number").default("1");
        match self.fault {
            Fault::TwoFlagsOfOneName => vec![flag("fake-size"), flag("fake-size")],
            Fault::FlagWithoutPrefix => vec![flag("fake-size"), flag("size")],
            _ => vec![flag("fake-size")],
        }
    }

    async fn configure(&self, options: &Options) -> Result<Value, DriverError> {
        match options.integer("fake-size") {
            Some(1..) => Ok(json!({})),
            _ if self.broken(Fault::TakesAnything) => Ok(json!({})),
            _ if self.broken(Fault::RefusesTheWrongWay) => Err(DriverError::failed("No")),
            _ => Err(DriverError::invalid("No")),
        }
    }

    async fn check(&self, host: &HostView) -> Result<Forecast, DriverError> {
        if self.broken(Fault::CheckMakes) {
            self.provider.make(host, "disk", "d");
        }
        Ok(Forecast::default())
    }

    async fn create(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        _: &dyn Progress,
    ) -> Result<(), DriverError> {
        let name =
            if self.broken(Fault::SharesADisk) { "disk".into() } else { format!("disk of {}", host.id) };
        if self.broken(Fault::WritesNoJournal) {
            if !self.provider.has(host, "disk") {
                self.provider.make(host, "disk", &name);
                self.provider.make(host, "instance", "i");
            }
            return Ok(());
        }
        let intended = journal.entries().iter().any(|entry| entry.kind == "disk");
        if !self.broken(Fault::IntendsTooLate) {
            journal.intend("disk", "d", None).await?;
        }
        let there = self.provider.has(host, "disk");
        let forgets = intended && journal.state().is_null() && self.broken(Fault::ForgetsWhatItIntended);
        if !there || self.broken(Fault::MakesAnotherOne) || forgets {
            self.provider.make(host, "disk", &name);
        }
        tokio::task::yield_now().await;
        let secret = host.host_key.as_ref().filter(|_| self.broken(Fault::StoresTheHostKey));
        let state = json!({ "made": true, "key": secret.map(|key| &key.private) });
        journal.made("disk", "d", None, state).await?;
        tokio::task::yield_now().await;
        self.up(host, journal).await
    }

    async fn start(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        _: &dyn Progress,
    ) -> Result<(), DriverError> {
        self.up(host, journal).await
    }

    async fn stop(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        _: &dyn Progress,
    ) -> Result<(), DriverError> {
        if self.broken(Fault::NeverComesBack) {
            std::future::pending::<()>().await;
        }
        if self.broken(Fault::StopsOnlyOnce) && !self.provider.has(host, "instance") {
            return Err(DriverError::failed("Not running"));
        }
        self.down(host, journal).await
    }

    async fn kill(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        _: &dyn Progress,
    ) -> Result<(), DriverError> {
        if self.broken(Fault::StartsInstead) {
            self.up(host, journal).await
        } else {
            self.down(host, journal).await
        }
    }

    async fn admit(
        &self,
        host: &HostView,
        rules: &[Rule],
        journal: &mut dyn Journal,
        _: &dyn Progress,
    ) -> Result<(), DriverError> {
        let mut state = journal.state();
        let ours: Vec<Rule> = serde_json::from_value(state["rules"].clone()).unwrap_or_default();
        let mut wanted: Vec<Rule> = rules.iter().map(resolved).collect();
        let there = self.provider.rules(host, |all| all.clone());
        if !self.broken(Fault::CountsTheirsAsOurs) {
            wanted.retain(|rule| !there.contains(rule) || ours.contains(rule));
        }
        let both: Vec<&Rule> = ours.iter().chain(wanted.iter().filter(|rule| !ours.contains(rule))).collect();
        state["rules"] = json!(both);
        if !self.broken(Fault::OpensBeforeItIsWritten) {
            journal.set_state(state.clone()).await?;
        }
        self.provider.rules(host, |all| {
            let missing = wanted.iter().filter(|rule| !there.contains(rule));
            if !self.broken(Fault::LetsNobodyIn) {
                all.extend(missing.cloned());
            }
            if self.broken(Fault::LetsInTwice) {
                all.extend(wanted.iter().cloned());
            }
            if self.broken(Fault::TakesWhatIsTheirs) {
                all.retain(|rule| wanted.contains(rule));
            } else if !self.broken(Fault::TakesNothingBack) {
                all.retain(|rule| wanted.contains(rule) || !ours.contains(rule));
            }
        });
        state["rules"] = json!(wanted);
        Ok(journal.set_state(state).await?)
    }

    async fn remove(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        _: &dyn Progress,
    ) -> Result<(), DriverError> {
        if self.broken(Fault::RemovesOnlyOnce) && journal.entries().is_empty() {
            return Err(DriverError::gone("Nothing there"));
        }
        let entries = journal.entries();
        for entry in entries.iter().rev() {
            if !(self.broken(Fault::LeavesTheDisk) && entry.kind == "disk") {
                self.provider.take_away(host, &entry.kind);
            }
            if !self.broken(Fault::LosesTheJournalEntry) {
                journal.gone(&entry.kind, &entry.name).await?;
            }
        }
        if self.broken(Fault::WritesNoJournal) {
            self.provider.change(host, Vec::clear);
        }
        Ok(())
    }

    async fn state(&self, host: &HostView, _: &Value) -> Result<State, DriverError> {
        Ok(match (self.provider.has(host, "instance"), self.provider.has(host, "disk")) {
            (true, _) => State::Running,
            (false, true) => State::Stopped,
            (false, false) => State::None,
        })
    }

    async fn endpoint(&self, _: &HostView, _: &Value) -> Result<Endpoint, DriverError> {
        let starts = self.starts.load(Ordering::Relaxed);
        let address =
            if self.broken(Fault::MovesOnRestart) { format!("127.0.0.{starts}") } else { "127.0.0.9".into() };
        let ssh = SshEndpoint { host: address.clone(), port: 22, user: "u".into(), key: SshKey::Generated };
        Ok(Endpoint { address, engine_port: 2376, url: None, ssh: Some(ssh), inside: None })
    }

    fn describe_many<'a>(&'a self, hosts: &'a [(HostView, Value)]) -> BoxStream<'a, Row> {
        let told = if self.broken(Fault::DescribesWrongly) { &hosts[1..] } else { hosts };
        let rows = told.iter().enumerate().map(async |(index, (host, state))| {
            let endpoint = self.endpoint(host, state).await.ok();
            let now = self.state(host, state).await;
            (index, now.map(|state| crate::Description { state, endpoint }))
        });
        rows.collect::<FuturesUnordered<_>>().boxed()
    }
}

async fn run(fault: Fault) -> Result<Report, Violation> {
    let provider = Provider::default();
    let driver = Fake { fault, provider: provider.clone(), starts: AtomicU8::new(0) };
    Suite::new(&driver, &provider)
        .option("fake-size", "1")
        .refuses("fake-size", "0")
        .limit(Duration::from_millis(200))
        .run()
        .await
}

#[tokio::test]
async fn a_driver_that_keeps_the_contract_passes() {
    let report = run(Fault::None).await.unwrap();
    assert!(report.crashes >= 16, "{report:?}");
    assert!(report.kept.contains(&"`remove` leaves nothing, also the second time"), "{report:?}");
}

#[tokio::test]
async fn every_broken_rule_is_found() {
    for (fault, rule) in [
        (Fault::TwoFlagsOfOneName, "Options are unique"),
        (Fault::FlagWithoutPrefix, "Options are unique"),
        (Fault::TakesAnything, "`configure` refuses what can never work"),
        (Fault::RefusesTheWrongWay, "`configure` refuses what can never work"),
        (Fault::CheckMakes, "`check` changes nothing"),
        (Fault::StoresTheHostKey, "What is stored holds no secret"),
        (Fault::MakesAnotherOne, "`create` again makes nothing twice"),
        (Fault::WritesNoJournal, "Nothing exists that the journal does not name"),
        (Fault::IntendsTooLate, "`remove` after a crash leaves nothing"),
        (Fault::ForgetsWhatItIntended, "`create` after a crash goes on to exactly one running host"),
        (Fault::StopsOnlyOnce, "A call that can work does"),
        (Fault::StartsInstead, "`start`, `stop`, `kill` and `restart` end as they say"),
        (Fault::MovesOnRestart, "The endpoint is complete, and the same after a restart"),
        (Fault::DescribesWrongly, "`describe_many` says what `state` and `endpoint` say"),
        (Fault::LeavesTheDisk, "`remove` leaves nothing"),
        (Fault::RemovesOnlyOnce, "A call that can work does"),
        (Fault::LosesTheJournalEntry, "`remove` leaves nothing"),
        (Fault::SharesADisk, "Hosts made at the same time do not disturb each other"),
        (Fault::NeverComesBack, "A call that can work does, within its time"),
        (Fault::LetsNobodyIn, "`admit` lets in what it is told"),
        (Fault::LetsInTwice, "`admit` lets in what it is told"),
        (Fault::TakesNothingBack, "`admit` takes back what it is not told any more"),
        (Fault::TakesWhatIsTheirs, "`admit` lets in what it is told"),
        (Fault::CountsTheirsAsOurs, "`admit` takes back what it is not told any more"),
        (Fault::OpensBeforeItIsWritten, "What was cut off in `admit` is made good"),
        (Fault::WritesWithoutAFirewall, "`admit` of a driver without a firewall"),
    ] {
        let violation = run(fault).await.expect_err(&format!("{fault:?} was not found"));
        assert!(violation.rule.starts_with(rule), "{fault:?} was taken for: {violation}");
    }
}
