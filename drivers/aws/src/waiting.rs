//! Waits for what becomes of an instance: one answer after another, within a bound.

use std::time::{Duration, Instant};

use machine_driver::DriverError;

use crate::{region::Region, watch::Instance};

/// An instance that is waited for.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    region: &'a Region,
    id: &'a str,
    /// What it is to do, in words that follow "does not".
    what: &'static str,
    at_most: Duration,
    /// How long it has to be absent from every answer before it counts as gone.
    hidden: Duration,
    hint: Option<&'static str>,
    began: Instant,
}

impl<'a> Waiting<'a> {
    pub(crate) fn new(region: &'a Region, id: &'a str, what: &'static str, at_most: Duration) -> Self {
        let hidden = region.pace.absence;
        Self { region, id, what, at_most, hidden, hint: None, began: Instant::now() }
    }

    /// It may have been made a moment ago: it is missed for longer before it counts as gone.
    pub(crate) fn for_a_new_one(self) -> Self {
        Self { hidden: self.region.pace.consistency, ..self }
    }

    /// One answer without it is enough to call it gone.
    pub(crate) fn for_one_that_goes(self) -> Self {
        Self { hidden: Duration::ZERO, ..self }
    }

    /// What the user can do when the time is up.
    pub(crate) fn with_hint(self, hint: &'static str) -> Self {
        Self { hint: Some(hint), ..self }
    }

    /// How long it has been waited for.
    pub(crate) fn lasts(&self) -> Duration {
        self.began.elapsed()
    }

    /// The instance as AWS knows it next; `None` if it counts as gone. When the time is up that is the error.
    pub(crate) async fn next(&self) -> Result<Option<Instance>, DriverError> {
        if self.lasts() > self.at_most {
            let minutes = self.at_most.as_secs() / 60;
            let error = DriverError::failed(format!(
                "The instance {} does not {} after {minutes} minutes",
                self.id, self.what
            ));
            return Err(match self.hint {
                Some(hint) => error.with_hint(hint),
                None => error,
            });
        }
        self.region
            .watch
            .find(self.id, self.region.pace.up_to(self.hidden))
            .await
            .map_err(|error| error.during(format!("Could not look for the instance {}", self.id)))
    }

    /// Goes on until `judge` has what it waits for.
    pub(crate) async fn until<T>(
        &self,
        mut judge: impl FnMut(Option<Instance>) -> Result<Option<T>, DriverError>,
    ) -> Result<T, DriverError> {
        loop {
            let seen = self.next().await?;
            if let Some(done) = judge(seen)? {
                return Ok(done);
            }
        }
    }
}
