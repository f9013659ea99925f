//! The driver's journal, kept in the host's record: every write is a save.

use async_trait::async_trait;
use machine_driver::{Entry, Journal, JournalError};
use serde_json::Value;

use super::{HostLock, Record, Store};

/// A journal whose writes are on disk when they return.
#[derive(Debug)]
pub struct RecordJournal<'a> {
    store: &'a Store,
    lock: &'a HostLock,
    record: &'a mut Record,
}

impl<'a> RecordJournal<'a> {
    pub fn new(store: &'a Store, lock: &'a HostLock, record: &'a mut Record) -> Self {
        Self { store, lock, record }
    }

    fn save(&mut self) -> Result<(), JournalError> {
        self.store.save(self.lock, self.record).map_err(|error| {
            let hint = error.hint();
            JournalError { error: error.into(), hint }
        })
    }
}

#[async_trait]
impl Journal for RecordJournal<'_> {
    fn entries(&self) -> Vec<Entry> {
        self.record.journal.clone()
    }

    fn state(&self) -> Value {
        self.record.driver.state.clone()
    }

    async fn intend(&mut self, kind: &str, name: &str, place: Option<&str>) -> Result<(), JournalError> {
        Entry::intend(&mut self.record.journal, kind, name, place);
        self.save()
    }

    async fn made(
        &mut self,
        kind: &str,
        name: &str,
        id: Option<&str>,
        state: Value,
    ) -> Result<(), JournalError> {
        Entry::made(&mut self.record.journal, kind, name, id);
        self.record.driver.state = state;
        self.save()
    }

    async fn gone(&mut self, kind: &str, name: &str) -> Result<(), JournalError> {
        Entry::gone(&mut self.record.journal, kind, name);
        self.save()
    }

    async fn set_state(&mut self, state: Value) -> Result<(), JournalError> {
        self.record.driver.state = state;
        self.save()
    }
}
