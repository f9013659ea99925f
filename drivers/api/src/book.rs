//! A driver's own state, typed, with the journal that it is written to.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{DriverError, Journal};

/// The state `M` of a host and the journal that keeps it. `M` reads any state that the driver ever wrote.
pub struct Book<'a, M> {
    pub journal: &'a mut dyn Journal,
    /// Changed here first; on disk after the next [`Book::made`] or [`Book::save`].
    pub made: M,
    /// Where things are made from now on, such as a region; every entry is written with it.
    pub place: Option<String>,
}

impl<M> std::fmt::Debug for Book<'_, M> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Book").finish_non_exhaustive()
    }
}

/// Reads a driver's state; what was never written is the default.
pub fn parse_state<M: DeserializeOwned + Default>(state: &Value) -> Result<M, DriverError> {
    if state.is_null() {
        return Ok(M::default());
    }
    serde_json::from_value(state.clone()).map_err(|error| {
        DriverError::failed("Could not read the driver's state in the record").with_source(error)
    })
}

impl<'a, M: Serialize + DeserializeOwned + Default + Send + Sync> Book<'a, M> {
    pub fn open(journal: &'a mut dyn Journal) -> Result<Self, DriverError> {
        let made = parse_state(&journal.state())?;
        Ok(Self { journal, made, place: None })
    }

    fn value(&self) -> Result<Value, DriverError> {
        serde_json::to_value(&self.made)
            .map_err(|error| DriverError::failed("Could not write the driver's state").with_source(error))
    }

    /// See [`Journal::intend`].
    pub async fn intend(&mut self, kind: &str, name: &str) -> Result<(), DriverError> {
        Ok(self.journal.intend(kind, name, self.place.as_deref()).await?)
    }

    /// See [`Journal::made`]; the state is written with it.
    pub async fn made(&mut self, kind: &str, name: &str, id: Option<&str>) -> Result<(), DriverError> {
        let state = self.value()?;
        Ok(self.journal.made(kind, name, id, state).await?)
    }

    /// See [`Journal::gone`].
    pub async fn gone(&mut self, kind: &str, name: &str) -> Result<(), DriverError> {
        Ok(self.journal.gone(kind, name).await?)
    }

    /// Writes the state, if it has changed.
    pub async fn save(&mut self) -> Result<(), DriverError> {
        let state = self.value()?;
        if state != self.journal.state() {
            self.journal.set_state(state).await?;
        }
        Ok(())
    }

    /// The names of what the journal has of a kind.
    pub fn named(&self, kind: &str) -> Vec<String> {
        self.journal
            .entries()
            .into_iter()
            .filter(|entry| entry.kind == kind)
            .map(|entry| entry.name)
            .collect()
    }
}
