//! A driver whose work is done by a program: each call of the contract is a call of the program.

use std::{collections::BTreeSet, path::Path, time::Duration};

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use machine_driver::{
    CONTRACT, Description, Driver, DriverError, DriverInfo, Endpoint, ErrorKind, Flag, Forecast, HostView,
    Journal, Leftover, Options, Place, Progress, Row, Rule, State,
    conformance::{Inventory, Resource},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use crate::{
    call::{Caller, Conversation, Event, Patience},
    check::{self, shown},
    wire::Hello,
};

/// How long a program may say nothing.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// While it is asked something.
    pub question: Duration,
    /// While it makes, starts, stops or removes something: a step or a note now and then keeps it alive.
    pub work: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { question: Duration::from_mins(2), work: Duration::from_mins(15) }
    }
}

/// How many programs run at once for hosts that are asked about one by one.
const AT_ONCE: usize = 8;

/// How long a program may take to say who it is: everybody who names the driver waits for it.
const HELLO: Duration = Duration::from_secs(20);

/// The driver of a program.
#[derive(Debug)]
pub struct PlugIn {
    caller: Caller,
    limits: Limits,
    info: DriverInfo,
    flags: Vec<Flag>,
    scope_flags: Vec<Flag>,
}

impl PlugIn {
    /// Asks the program who it is. `name` is the word after `-d`.
    pub async fn open(name: &str, path: &Path) -> Result<Self, DriverError> {
        Self::open_within(name, path, Limits::default(), HELLO).await
    }

    /// The same with other limits.
    pub async fn open_within(
        name: &str,
        path: &Path,
        limits: Limits,
        hello: Duration,
    ) -> Result<Self, DriverError> {
        let caller = Caller { driver: name.to_owned(), path: path.to_owned() };
        let answer = caller.question("hello", json!({}), hello).await?;
        // The edition first: what else another one says is not known.
        let edition = answer.get("contract").and_then(Value::as_u64);
        if edition != Some(CONTRACT.into()) {
            let theirs = edition.map_or_else(|| "none".to_owned(), |edition| edition.to_string());
            return Err(DriverError::refused(format!(
                "The driver {name} speaks the edition {theirs} of the contract, and this `machine` {CONTRACT}"
            ))
            .with_hint(format!("Get another version of `{}`", path.display())));
        }
        let broken = |what: String| {
            DriverError::refused(format!("The driver {name} says of itself what cannot be: {what}"))
                .with_hint(format!("Its program is `{}`; its author can mend it", path.display()))
        };
        let mut hello: Hello =
            serde_json::from_value(answer).map_err(|error| broken(check::text(&error.to_string())))?;
        debug_assert_eq!(hello.contract, CONTRACT);
        check::hello(name, &mut hello).map_err(broken)?;
        Ok(Self { caller, limits, info: hello.info, flags: hello.flags, scope_flags: hello.scope_flags })
    }

    fn understood<T: DeserializeOwned>(&self, call: &str, value: Value) -> Result<T, DriverError> {
        serde_json::from_value(value).map_err(|error| {
            self.broken(call, "its result is not understood").with_source(check::text(&error.to_string()))
        })
    }

    fn broken(&self, call: &str, what: impl std::fmt::Display) -> DriverError {
        DriverError::failed(format!(
            "The driver {} does not keep to its contract: `{call}`: {what}",
            self.info.name
        ))
    }

    async fn ask<T: DeserializeOwned>(&self, call: &str, arguments: Value) -> Result<T, DriverError> {
        let value = self.caller.question(call, arguments, self.limits.question).await?;
        self.understood(call, value)
    }

    /// The same for a call that a driver may leave out.
    async fn ask_if_known<T: DeserializeOwned + Default>(
        &self,
        call: &str,
        arguments: Value,
    ) -> Result<T, DriverError> {
        match self.ask(call, arguments).await {
            Err(error) if *error.kind() == ErrorKind::Unsupported => Ok(T::default()),
            answer => answer,
        }
    }

    async fn describe_one(&self, index: usize, (host, state): &(HostView, Value)) -> Row {
        let described = async {
            let now = self.state(host, state).await?;
            Ok(Description { state: now, endpoint: self.endpoint(host, state).await.ok() })
        };
        (index, described.await)
    }

    async fn work(
        &self,
        call: &str,
        arguments: Value,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        self.caller.work(call, arguments, self.limits.work, journal, progress).await
    }
}

#[async_trait]
impl Driver for PlugIn {
    fn info(&self) -> DriverInfo {
        self.info.clone()
    }

    fn flags(&self) -> Vec<Flag> {
        self.flags.clone()
    }

    fn scope_flags(&self) -> Vec<Flag> {
        self.scope_flags.clone()
    }

    async fn configure(&self, options: &Options) -> Result<Value, DriverError> {
        let config: Value = self.ask("configure", json!({ "options": options })).await?;
        check::state(&config).map_err(|what| self.broken("configure", what))?;
        Ok(config)
    }

    async fn places(&self, config: &Value) -> Result<Vec<Place>, DriverError> {
        let places: Vec<Place> = self.ask_if_known("places", json!({ "config": config })).await?;
        for place in &places {
            check::name("the name of a place", &place.name).map_err(|what| self.broken("places", what))?;
        }
        Ok(places)
    }

    async fn check(&self, host: &HostView) -> Result<Forecast, DriverError> {
        let mut forecast: Forecast = self.ask("check", json!({ "host": host })).await?;
        for text in forecast.notes.iter_mut().chain(&mut forecast.architecture).chain(&mut forecast.place) {
            *text = check::text(text);
        }
        Ok(forecast)
    }

    async fn create(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        self.work("create", json!({ "host": host }), journal, progress).await
    }

    async fn start(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        self.work("start", json!({ "host": host }), journal, progress).await
    }

    async fn stop(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        self.work("stop", json!({ "host": host }), journal, progress).await
    }

    async fn kill(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        self.work("kill", json!({ "host": host }), journal, progress).await
    }

    async fn restart(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        match self.work("restart", json!({ "host": host }), journal, progress).await {
            Err(error) if *error.kind() == ErrorKind::Unsupported && self.info.features.power => {
                self.stop(host, journal, progress).await?;
                self.start(host, journal, progress).await
            }
            answer => answer,
        }
    }

    async fn admit(
        &self,
        host: &HostView,
        rules: &[Rule],
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        if !self.features_of(&host.config).firewall {
            return Ok(());
        }
        match self.work("admit", json!({ "host": host, "rules": rules }), journal, progress).await {
            // Its host is there already: that it can change nothing of its firewall is no reason to give it up.
            Err(error) if *error.kind() == ErrorKind::Unsupported => {
                progress.note(&format!(
                    "The driver {} has a firewall and cannot be told whom it is to let in",
                    self.info.name
                ));
                Ok(())
            }
            answer => answer,
        }
    }

    async fn remove(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        self.work("remove", json!({ "host": host }), journal, progress).await
    }

    async fn salvage(
        &self,
        host: &HostView,
        journal: &mut dyn Journal,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        match self.work("salvage", json!({ "host": host }), journal, progress).await {
            Err(error) if *error.kind() == ErrorKind::Unsupported => {
                self.remove(host, journal, progress).await
            }
            answer => answer,
        }
    }

    async fn state(&self, host: &HostView, state: &Value) -> Result<State, DriverError> {
        self.ask("state", json!({ "host": host, "state": state })).await
    }

    async fn endpoint(&self, host: &HostView, state: &Value) -> Result<Endpoint, DriverError> {
        let endpoint: Endpoint = self.ask("endpoint", json!({ "host": host, "state": state })).await?;
        check::endpoint(&endpoint).map_err(|what| self.broken("endpoint", what))?;
        Ok(endpoint)
    }

    /// One program for all hosts. A driver that does not know the call is asked for each host by itself.
    fn describe_many<'a>(&'a self, hosts: &'a [(HostView, Value)]) -> BoxStream<'a, Row> {
        stream::once(Rows::open(self, hosts))
            .flat_map(move |opened| match opened {
                Ok(rows) => stream::unfold(rows, Rows::next).boxed(),
                Err(error) if *error.kind() == ErrorKind::Unsupported => stream::iter(hosts)
                    .enumerate()
                    .map(|(index, host)| self.describe_one(index, host))
                    .buffer_unordered(AT_ONCE)
                    .boxed(),
                Err(error) => {
                    stream::iter(0..hosts.len()).map(move |index| (index, Err(error.clone()))).boxed()
                }
            })
            .boxed()
    }

    async fn console(&self, host: &HostView, state: &Value, lines: usize) -> Option<String> {
        let arguments = json!({ "host": host, "state": state, "lines": lines });
        let text: String = self.ask::<Option<String>>("console", arguments).await.ok()??;
        let kept: Vec<String> = text.lines().rev().take(lines).map(check::text).collect();
        Some(kept.into_iter().rev().collect::<Vec<_>>().join("\n"))
    }

    async fn host_keys(&self, host: &HostView, state: &Value) -> Result<Option<Vec<String>>, DriverError> {
        self.ask_if_known("host_keys", json!({ "host": host, "state": state })).await
    }

    async fn leftovers(&self, options: &Options) -> Result<Vec<Leftover>, DriverError> {
        let found: Vec<Leftover> = self.ask("leftovers", json!({ "options": options })).await?;
        for one in &found {
            check::name("the id of what is left", &one.id).map_err(|what| self.broken("leftovers", what))?;
        }
        Ok(found.into_iter().map(check::leftover).collect())
    }

    async fn remove_leftovers(
        &self,
        options: &Options,
        leftovers: &[Leftover],
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let arguments = json!({ "options": options, "leftovers": leftovers });
        let mut conversation =
            self.caller.ask("remove_leftovers", arguments, Patience::Silence(self.limits.work)).await?;
        match conversation.next(None, Some(progress)).await? {
            Event::Result(_) => {
                conversation.end().await;
                Ok(())
            }
            Event::Row(..) => Err(self.broken("remove_leftovers", "a row was not asked for")),
        }
    }

    async fn permissions(&self) -> Result<Option<Value>, DriverError> {
        self.ask_if_known("permissions", json!({})).await
    }
}

/// What the conformance suite looks at: the program's own word, by a call that nobody else makes.
#[async_trait]
impl Inventory for PlugIn {
    async fn resources(&self, host: &HostView) -> Vec<Resource> {
        match self.ask::<Vec<(String, String)>>("resources", json!({ "host": host })).await {
            Ok(found) => found.into_iter().map(|(kind, name)| Resource { kind, name }).collect(),
            // What cannot be listed is not nothing: the suite finds it.
            Err(error) => vec![Resource { kind: "unknown".into(), name: shown(&error.to_string()) }],
        }
    }
}

/// The rows of `describe_many`, as they come; whoever is not told of when the program ends is told the reason.
struct Rows<'a> {
    driver: &'a PlugIn,
    conversation: Option<Conversation<'a>>,
    /// What came first, as long as it was not passed on.
    first: Option<Event>,
    missing: BTreeSet<usize>,
    deadline: Instant,
    failed: Option<DriverError>,
}

impl<'a> Rows<'a> {
    /// Asks, and waits for the first word.
    async fn open(driver: &'a PlugIn, hosts: &'a [(HostView, Value)]) -> Result<Self, DriverError> {
        let deadline = Instant::now() + driver.limits.question;
        let described: Vec<Value> =
            hosts.iter().map(|(host, state)| json!({ "host": host, "state": state })).collect();
        let patience = Patience::InAll(driver.limits.question);
        let mut conversation =
            driver.caller.ask("describe_many", json!({ "hosts": described }), patience).await?;
        let first = timeout_at(deadline, conversation.next(None, None))
            .await
            .unwrap_or_else(|_| Err(driver.broken("describe_many", "it talks and does not answer")))?;
        Ok(Self {
            driver,
            conversation: Some(conversation),
            first: Some(first),
            missing: (0..hosts.len()).collect(),
            deadline,
            failed: None,
        })
    }

    async fn event(&mut self) -> Option<Result<Event, DriverError>> {
        let conversation = self.conversation.as_mut()?;
        if let Some(first) = self.first.take() {
            return Some(Ok(first));
        }
        let silent = || Err(self.driver.broken("describe_many", "it does not tell of all hosts in time"));
        Some(timeout_at(self.deadline, conversation.next(None, None)).await.unwrap_or_else(|_| silent()))
    }

    async fn next(mut self) -> Option<(Row, Self)> {
        while let Some(event) = self.event().await {
            match event {
                Ok(Event::Row(host, row)) if self.missing.remove(&host) => return Some(((host, row), self)),
                Ok(Event::Row(host, _)) => {
                    let what = format!("row {host} was not asked for, or is told twice");
                    self.failed = Some(self.driver.broken("describe_many", what));
                    self.conversation = None;
                }
                Ok(Event::Result(_)) => {
                    if let Some(conversation) = self.conversation.take() {
                        conversation.end().await;
                    }
                }
                Err(error) => {
                    self.conversation = None;
                    self.failed = Some(error);
                }
            }
        }
        let host = self.missing.pop_first()?;
        let row = match &self.failed {
            Some(error) => error.clone(),
            None => self.driver.broken("describe_many", "a host is left out"),
        };
        Some(((host, Err(row)), self))
    }
}
