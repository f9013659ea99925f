//! Bounded waiting for what AWS does in its own time.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

const MOST_FASTER: u32 = 100;

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
    /// As AWS needs it; faster by what `MACHINE_AWS_FASTER` says, a whole number up to 100. It is for tests, whose cloud is
    /// on this machine and does at once what takes AWS seconds. For every other cloud it says nothing: what is looked for
    /// too briefly there is taken for gone.
    pub fn from_environment() -> Self {
        let variable = |name| std::env::var(name).unwrap_or_default();
        Self::for_cloud(&variable("AWS_ENDPOINT_URL"), &variable(FASTER_VARIABLE))
    }

    fn for_cloud(endpoint: &str, faster: &str) -> Self {
        let times = if is_here(endpoint) { faster.parse().unwrap_or(1) } else { 1 };
        Self::default().faster(times)
    }

    /// The same in a fraction of the time.
    fn faster(self, times: u32) -> Self {
        let faster = |time: Duration| time / times.clamp(1, MOST_FASTER);
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

/// Whether a URL leads to an address of this machine's own.
fn is_here(endpoint: &str) -> bool {
    let rest = endpoint.split_once("://").map_or("", |(_, rest)| rest);
    rest.split(['/', ':'])
        .next()
        .and_then(|host| host.parse().ok())
        .is_some_and(|host: Ipv4Addr| host.is_loopback())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_cloud_on_this_machine_is_hurried() {
        let usual = Pace::default();
        for endpoint in ["http://127.0.0.1:5000", "http://127.3.2.1"] {
            assert_eq!(Pace::for_cloud(endpoint, "20").absence, usual.absence / 20);
        }
        for endpoint in [
            "",
            "https://ec2.example.org",
            "http://10.0.0.1:5000",
            "http://127.0.0.1.example.org",
            "127.0.0.1",
        ] {
            assert_eq!(Pace::for_cloud(endpoint, "20").absence, usual.absence, "{endpoint}");
        }
        for (said, times) in [("", 1), ("fast", 1), ("0", 1), ("-3", 1), ("4000000000", 100)] {
            assert_eq!(Pace::for_cloud("http://127.0.0.1:1", said).absence, usual.absence / times, "{said}");
        }
    }
}
