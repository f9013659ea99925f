//! The journal: what is about to be made at the provider, written before the call, and what has been made.

use std::{error::Error, fmt};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How far a resource has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryStatus {
    /// About to be made: it may exist or not.
    Intended,
    /// Made: it exists, as far as we know.
    Made,
}

/// One resource of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// `disk`, `process`, `instance`, …
    pub kind: String,
    /// The name that the driver chose for it, unique within its kind.
    pub name: String,
    /// The provider's id, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Where it is looked for, such as a region; `None` where there is only one place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    pub status: EntryStatus,
}

/// The journal could not be written; the caller must stop what it is doing.
#[derive(Debug)]
pub struct JournalError {
    pub error: Box<dyn Error + Send + Sync>,
    /// What the user can do about it.
    pub hint: Option<String>,
}

impl JournalError {
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { error: error.into(), hint: None }
    }
}

impl fmt::Display for JournalError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(formatter)
    }
}

impl Error for JournalError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

/// What a driver writes while it works. Every write is on disk when the call returns.
///
/// An entry goes only by [`Journal::gone`], and only when the provider has said clearly that there is no such thing:
/// an answer that leaves it open (a lost reply, throttling, expired credentials, an empty list right after the call)
/// never erases what was intended.
#[async_trait]
pub trait Journal: Send {
    /// All resources that were intended or made and are not gone.
    fn entries(&self) -> Vec<Entry>;

    /// The driver's own state, `Null` at first. It holds no secret.
    fn state(&self) -> Value;

    /// Says that a resource is about to be made, and where. Repeating it is harmless; the place of an entry that is
    /// there already stays what it was.
    async fn intend(&mut self, kind: &str, name: &str, place: Option<&str>) -> Result<(), JournalError>;

    /// Says that a resource exists now, and replaces the driver's state in the same write.
    async fn made(
        &mut self,
        kind: &str,
        name: &str,
        id: Option<&str>,
        state: Value,
    ) -> Result<(), JournalError>;

    /// Says that a resource is gone.
    async fn gone(&mut self, kind: &str, name: &str) -> Result<(), JournalError>;

    /// Replaces the driver's state.
    async fn set_state(&mut self, state: Value) -> Result<(), JournalError>;
}

/// A journal in memory, for tests and examples, which can be told to fail at its nth write as if the process had
/// been killed there.
#[derive(Debug, Clone, Default)]
pub struct MemoryJournal {
    pub entries: Vec<Entry>,
    pub state: Value,
    /// How many more writes succeed; `None`: all of them.
    pub writes_left: Option<usize>,
}

/// The journal operations on plain data, shared by every implementation.
impl MemoryJournal {
    fn spend(&mut self) -> Result<(), JournalError> {
        match &mut self.writes_left {
            Some(0) => Err(JournalError::new("The process was killed here")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Entry {
    /// Applies "about to be made" to a list of entries.
    pub fn intend(entries: &mut Vec<Self>, kind: &str, name: &str, place: Option<&str>) {
        if !entries.iter().any(|entry| entry.kind == kind && entry.name == name) {
            entries.push(Self {
                kind: kind.to_owned(),
                name: name.to_owned(),
                id: None,
                place: place.map(str::to_owned),
                status: EntryStatus::Intended,
            });
        }
    }

    /// Applies "exists now" to a list of entries.
    pub fn made(entries: &mut Vec<Self>, kind: &str, name: &str, id: Option<&str>) {
        Self::intend(entries, kind, name, None);
        for entry in entries.iter_mut().filter(|entry| entry.kind == kind && entry.name == name) {
            entry.status = EntryStatus::Made;
            entry.id = id.map(str::to_owned);
        }
    }

    /// Applies "is gone" to a list of entries.
    pub fn gone(entries: &mut Vec<Self>, kind: &str, name: &str) {
        entries.retain(|entry| !(entry.kind == kind && entry.name == name));
    }
}

#[async_trait]
impl Journal for MemoryJournal {
    fn entries(&self) -> Vec<Entry> {
        self.entries.clone()
    }

    fn state(&self) -> Value {
        self.state.clone()
    }

    async fn intend(&mut self, kind: &str, name: &str, place: Option<&str>) -> Result<(), JournalError> {
        self.spend()?;
        Entry::intend(&mut self.entries, kind, name, place);
        Ok(())
    }

    async fn made(
        &mut self,
        kind: &str,
        name: &str,
        id: Option<&str>,
        state: Value,
    ) -> Result<(), JournalError> {
        self.spend()?;
        Entry::made(&mut self.entries, kind, name, id);
        self.state = state;
        Ok(())
    }

    async fn gone(&mut self, kind: &str, name: &str) -> Result<(), JournalError> {
        self.spend()?;
        Entry::gone(&mut self.entries, kind, name);
        Ok(())
    }

    async fn set_state(&mut self, state: Value) -> Result<(), JournalError> {
        self.spend()?;
        self.state = state;
        Ok(())
    }
}
