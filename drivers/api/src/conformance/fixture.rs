//! One host of the suite: its folder, its journal, and the calls on it.

use std::{future::Future, path::PathBuf, pin::pin, task::Poll};

use async_trait::async_trait;
use serde_json::Value;
use tempfile::TempDir;

use super::{Resource, Suite, Violation, chain, violated};
use crate::{
    DriverError, Endpoint, Entry, HostId, HostName, HostView, Journal, JournalError, MemoryJournal, Options,
    Rule, Silent, State,
};

/// The store that the suite's hosts belong to.
const OWNER: &str = "6f0e7c1a-5d2b-4f6e-9c3a-2b8d4e1f0a57";

pub(super) const CALL: &str = "A call that can work does, within its time";

/// The calls that the suite makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Check,
    Create,
    Start,
    Stop,
    Kill,
    Restart,
    Remove,
}

/// A host that exists for one test.
pub(super) struct Host<'a> {
    suite: &'a Suite<'a>,
    pub(super) name: HostName,
    pub(super) id: HostId,
    _root: TempDir,
    pub(super) folder: PathBuf,
    cache: PathBuf,
    config: Value,
    pub(super) journal: CrashingJournal,
}

impl<'a> Suite<'a> {
    /// A new host, of which nothing exists but its record. `cache` is shared, as the hosts of one store do.
    pub(super) async fn host(&'a self, cache: &TempDir) -> Result<Host<'a>, Violation> {
        let made = async || -> Result<Host<'a>, Box<dyn std::error::Error>> {
            let root = tempfile::tempdir()?;
            let options = Options::resolve(&self.driver.flags(), &self.options)?;
            Ok(Host {
                suite: self,
                name: "conformance-1".parse()?,
                id: HostId::random(),
                folder: root.path().join("conformance-1"),
                cache: cache.path().to_owned(),
                config: self.driver.configure(&options).await?,
                journal: CrashingJournal::default(),
                _root: root,
            })
        };
        made().await.or_else(|error| violated("The suite can set up a host", error.to_string()))
    }
}

impl Host<'_> {
    pub(super) fn view(&self) -> HostView {
        HostView {
            name: self.name.clone(),
            id: self.id,
            owner: OWNER.to_owned(),
            folder: self.folder.clone(),
            cache: self.cache.clone(),
            config: self.config.clone(),
            place: None,
            login: Some(self.suite.login.clone()),
            host_key: Some(self.suite.host_key.clone()),
        }
    }

    /// The folder that the store makes before `create`.
    pub(super) fn make_folder(&self) -> Result<(), Violation> {
        std::fs::create_dir_all(&self.folder)
            .or_else(|error| violated("The suite can set up a host", error.to_string()))
    }

    /// One call, within the suite's limit. `polls`: drop it after so many, which gives `None`.
    pub(super) async fn attempt(
        &mut self,
        call: Call,
        polls: Option<usize>,
    ) -> Result<Option<Result<(), DriverError>>, Violation> {
        let view = self.view();
        let Self { suite, journal, .. } = self;
        let driver = suite.driver;
        let future = async {
            match call {
                Call::Check => driver.check(&view).await.map(|_| ()),
                Call::Create => driver.create(&view, journal, &Silent).await,
                Call::Start => driver.start(&view, journal, &Silent).await,
                Call::Stop => driver.stop(&view, journal, &Silent).await,
                Call::Kill => driver.kill(&view, journal, &Silent).await,
                Call::Restart => driver.restart(&view, journal, &Silent).await,
                Call::Remove => driver.remove(&view, journal, &Silent).await,
            }
        };
        let limit = suite.limit;
        match tokio::time::timeout(limit, at_most(polls, future)).await {
            Ok(answer) => Ok(answer),
            Err(_) => violated(CALL, format!("`{call:?}` did not come back within {limit:?}")),
        }
    }

    /// Tells the driver whom to let in, within the suite's limit.
    pub(super) async fn admit(&mut self, rules: &[Rule]) -> Result<Result<(), DriverError>, Violation> {
        let view = self.view();
        let Self { suite, journal, .. } = self;
        let told = suite.driver.admit(&view, rules, journal, &Silent);
        match tokio::time::timeout(suite.limit, told).await {
            Ok(answer) => Ok(answer),
            Err(_) => violated(CALL, format!("`admit` did not come back within {:?}", suite.limit)),
        }
    }

    /// What is let in now, in order, where that can be seen.
    pub(super) async fn let_in(&self) -> Vec<Rule> {
        let mut rules = self.suite.inventory.let_in(&self.view()).await.unwrap_or_default();
        rules.sort();
        rules
    }

    /// A call that has to work.
    pub(super) async fn call(&mut self, call: Call) -> Result<(), Violation> {
        match self.attempt(call, None).await? {
            Some(Err(error)) => violated(CALL, format!("`{call:?}`: {}", chain(&error))),
            _ => Ok(()),
        }
    }

    pub(super) async fn state(&self) -> Result<State, Violation> {
        let state = self.journal.state();
        self.suite
            .driver
            .state(&self.view(), &state)
            .await
            .or_else(|error| violated(CALL, format!("`state`: {}", chain(&error))))
    }

    pub(super) async fn endpoint(&self) -> Result<Endpoint, Violation> {
        let state = self.journal.state();
        self.suite
            .driver
            .endpoint(&self.view(), &state)
            .await
            .or_else(|error| violated(CALL, format!("`endpoint`: {}", chain(&error))))
    }

    pub(super) async fn resources(&self) -> Vec<Resource> {
        let mut resources = self.suite.inventory.resources(&self.view()).await;
        resources.sort();
        resources
    }

    /// The kinds of what exists, each as often as it exists.
    pub(super) async fn kinds(&self) -> Vec<String> {
        self.resources().await.into_iter().map(|resource| resource.kind).collect()
    }
}

/// Polls a future at most so many times, then drops it, as Ctrl-C does.
async fn at_most<F: Future>(polls: Option<usize>, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    std::future::poll_fn(|context| {
        if left == Some(0) {
            return Poll::Ready(None);
        }
        if let Some(left) = &mut left {
            *left -= 1;
        }
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == Some(0) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// When a journal stops, as if the process had been killed there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plug {
    /// The given write never reaches the disk.
    Before(usize),
    /// The given write is on disk, and nothing is done after it.
    After(usize),
}

/// A journal that is cut off at a given write, and at every one after it.
#[derive(Debug, Default)]
pub(super) struct CrashingJournal {
    inner: MemoryJournal,
    writes: usize,
    pub(super) plug: Option<Plug>,
}

impl CrashingJournal {
    /// Puts the plug back in.
    pub(super) fn plug_in(&mut self, plug: Option<Plug>) {
        self.plug = plug;
        self.writes = 0;
    }

    /// How many writes there were since the plug was put in.
    pub(super) fn writes(&self) -> usize {
        self.writes
    }

    /// Whether the next write reaches the disk, and whether the process lives on after it.
    fn next(&mut self) -> (bool, bool) {
        let number = self.writes;
        self.writes += 1;
        match self.plug {
            None => (true, true),
            Some(Plug::Before(at)) => (number < at, number < at),
            Some(Plug::After(at)) => (number <= at, number < at),
        }
    }
}

fn alive(alive: bool) -> Result<(), JournalError> {
    if alive { Ok(()) } else { Err(JournalError::new("The process was killed here")) }
}

#[async_trait]
impl Journal for CrashingJournal {
    fn entries(&self) -> Vec<Entry> {
        self.inner.entries()
    }

    fn state(&self) -> Value {
        self.inner.state()
    }

    async fn intend(&mut self, kind: &str, name: &str, place: Option<&str>) -> Result<(), JournalError> {
        let (written, lives) = self.next();
        if written {
            self.inner.intend(kind, name, place).await?;
        }
        alive(lives)
    }

    async fn made(
        &mut self,
        kind: &str,
        name: &str,
        id: Option<&str>,
        state: Value,
    ) -> Result<(), JournalError> {
        let (written, lives) = self.next();
        if written {
            self.inner.made(kind, name, id, state).await?;
        }
        alive(lives)
    }

    async fn gone(&mut self, kind: &str, name: &str) -> Result<(), JournalError> {
        let (written, lives) = self.next();
        if written {
            self.inner.gone(kind, name).await?;
        }
        alive(lives)
    }

    async fn set_state(&mut self, state: Value) -> Result<(), JournalError> {
        let (written, lives) = self.next();
        if written {
            self.inner.set_state(state).await?;
        }
        alive(lives)
    }
}
