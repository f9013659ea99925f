//! Bounded waiting for what AWS does in its own time.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(5);

/// Pauses that grow, up to a deadline.
#[derive(Debug)]
pub(crate) struct Patience {
    pause: Duration,
    until: Instant,
}

impl Patience {
    pub(crate) fn of(limit: Duration) -> Self {
        Self { pause: FIRST, until: Instant::now() + limit }
    }

    /// For what was just made and is not known everywhere yet.
    /// <https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html>
    pub(crate) fn for_consistency() -> Self {
        Self::of(Duration::from_secs(60))
    }

    /// Pauses; `false`, at once, when the time is up.
    pub(crate) async fn wait(&mut self) -> bool {
        if Instant::now() >= self.until {
            return false;
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST);
        true
    }
}
