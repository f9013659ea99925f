//! Bounded waiting for what AWS does in its own time.

use std::time::{Duration, Instant};

/// How patiently AWS is asked.
/// <https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html>
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Between two questions while hosts are waited for. One call answers for all of them.
    pub poll: Duration,
    /// The first pause before something is tried again; it doubles.
    pub first_pause: Duration,
    pub longest_pause: Duration,
    /// How long what was just made may be unknown somewhere.
    pub consistency: Duration,
    /// How long something has to be absent from every answer before it counts as gone.
    pub absence: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(1),
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(5),
            consistency: Duration::from_mins(1),
            absence: Duration::from_secs(15),
        }
    }
}

impl Pace {
    /// Pauses that grow, up to a limit in all.
    pub(crate) fn up_to(self, limit: Duration) -> Backoff {
        Backoff { pause: self.first_pause, longest: self.longest_pause, until: Instant::now() + limit }
    }

    /// For what was just made and is not known everywhere yet.
    pub(crate) fn for_consistency(self) -> Backoff {
        self.up_to(self.consistency)
    }

    /// For what may not be there at all.
    pub(crate) fn for_absence(self) -> Backoff {
        self.up_to(self.absence)
    }
}

/// Pauses that grow, up to a deadline.
#[derive(Debug)]
pub(crate) struct Backoff {
    pause: Duration,
    longest: Duration,
    until: Instant,
}

impl Backoff {
    /// Looks again and again, until something is found or the time is up: what is not in one answer may be in the next.
    pub(crate) async fn until_found<T, E, F>(mut self, mut look: impl FnMut() -> F) -> Result<Option<T>, E>
    where
        F: Future<Output = Result<Option<T>, E>>,
    {
        loop {
            if let Some(found) = look().await? {
                return Ok(Some(found));
            }
            if !self.wait().await {
                return Ok(None);
            }
        }
    }

    /// Pauses; `false`, at once, when the time is up.
    pub(crate) async fn wait(&mut self) -> bool {
        if Instant::now() >= self.until {
            return false;
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(self.longest);
        true
    }
}
