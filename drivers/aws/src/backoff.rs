//! Bounded waiting for what AWS does in its own time.

use std::time::{Duration, Instant};

/// The variable that says how many times faster than AWS the cloud is that plays it: [`Pace::from_environment`].
const FASTER_VARIABLE: &str = "MACHINE_AWS_FASTER";

/// How patiently AWS is asked: every pause, and how long what was done may go unseen.
/// <https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html>
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Between two questions while hosts are waited for. One call answers for all of them.
    pub poll: Duration,
    /// The first pause before something is tried again; it doubles.
    pub first_pause: Duration,
    pub longest_pause: Duration,
    /// The first pause before the SDK sends a call again; it doubles, with jitter. EC2's own advice is to begin with a
    /// fraction of a second.
    pub first_retry: Duration,
    pub longest_retry: Duration,
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
            first_retry: Duration::from_millis(500),
            longest_retry: Duration::from_secs(20),
            consistency: Duration::from_mins(1),
            absence: Duration::from_secs(15),
        }
    }
}

impl Pace {
    /// As AWS needs it; faster by what `MACHINE_AWS_FASTER` says, a whole number. It is for tests, whose cloud does at
    /// once what takes AWS seconds.
    pub fn from_environment() -> Self {
        let said = std::env::var(FASTER_VARIABLE).ok().and_then(|text| text.parse().ok());
        Self::default().faster(said.unwrap_or(1))
    }

    /// The same in a fraction of the time.
    fn faster(self, times: u32) -> Self {
        let faster = |time: Duration| time / times.max(1);
        Self {
            poll: faster(self.poll),
            first_pause: faster(self.first_pause),
            longest_pause: faster(self.longest_pause),
            first_retry: faster(self.first_retry),
            longest_retry: faster(self.longest_retry),
            consistency: faster(self.consistency),
            absence: faster(self.absence),
        }
    }

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
