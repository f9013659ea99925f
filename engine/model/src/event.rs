//! What happens in the engine, told to whoever asked, with a bounded memory of the recent past.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::Stream;
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::broadcast;

/// As many as dockerd remembers.
const HISTORY: usize = 256;
/// A subscriber that falls further behind than this loses events.
const BACKLOG: usize = 1024;

/// Events that are not further apart than this, in nanoseconds, are told apart by times of their own.
const SAME_TIME: i64 = 1_000_000_000;

/// One event in the shape of `GET /events`.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// Deprecated fields that old clients still read; only for containers and images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    #[serde(rename = "Type")]
    pub kind: &'static str,
    #[serde(rename = "Action")]
    pub action: String,
    #[serde(rename = "Actor")]
    pub actor: Actor,
    pub scope: &'static str,
    pub time: i64,
    #[serde(rename = "timeNano")]
    pub time_nano: i64,
}

/// The object that an event is about.
#[derive(Clone, Debug, Serialize)]
pub struct Actor {
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(rename = "Attributes")]
    pub attributes: BTreeMap<String, String>,
}

/// The `filters` of `GET /events`: key to accepted values.
#[derive(Clone, Debug, Default)]
pub struct EventFilters(pub BTreeMap<String, Vec<String>>);

impl EventFilters {
    /// Whether an event passes every given key.
    pub fn accept(&self, event: &Event) -> bool {
        self.0
            .iter()
            .all(|(key, wanted)| wanted.is_empty() || wanted.iter().any(|value| matches(event, key, value)))
    }
}

fn matches(event: &Event, key: &str, wanted: &str) -> bool {
    let attributes = &event.actor.attributes;
    let named = |kind: &str| {
        let name = attributes.get("name").map(String::as_str);
        event.kind == kind
            && (event.actor.id == wanted || event.actor.id.starts_with(wanted) || name == Some(wanted))
    };
    match key {
        // `exec_start: sh` is asked for as `exec_start`.
        "event" => event.action == wanted || event.action.split(':').next() == Some(wanted),
        "type" => event.kind == wanted,
        "scope" => event.scope == wanted,
        "container" | "network" | "volume" | "plugin" | "daemon" => named(key),
        "image" => {
            let image = attributes.get("image").map_or("", String::as_str);
            let repository = image.rsplit_once(':').map_or(image, |(repository, _)| repository);
            named("image") || (event.kind == "container" && (image == wanted || repository == wanted))
        }
        "label" => match wanted.split_once('=') {
            Some((label, value)) => attributes.get(label).is_some_and(|found| found == value),
            None => attributes.contains_key(wanted),
        },
        _ => false,
    }
}

/// Where every part of the engine tells what it did. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EventBus {
    sender: broadcast::Sender<Arc<Event>>,
    history: Arc<Mutex<VecDeque<Arc<Event>>>>,
    published: Arc<AtomicU64>,
}

impl Default for EventBus {
    fn default() -> Self {
        Self::new()
    }
}

impl EventBus {
    pub fn new() -> Self {
        Self { sender: broadcast::channel(BACKLOG).0, history: Arc::default(), published: Arc::default() }
    }

    /// How many events there have been since the engine began.
    pub fn published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }

    /// How many read events at the moment.
    pub fn listeners(&self) -> usize {
        self.sender.receiver_count()
    }

    /// Tells that `action` happened to the `kind` of object with this `id`.
    pub fn publish(&self, kind: &'static str, action: &str, id: &str, attributes: &[(&str, &str)]) {
        let old_style = kind == "container" || kind == "image";
        let attributes: BTreeMap<String, String> =
            attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        // The lock is held while sending, so that a subscriber gets each event exactly once, and all in one order.
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        // Each has a time of its own: who comes back asks for what was since the last one. A clock that was set back is right.
        let now = i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
        let last = history.back().map_or(0, |last| last.time_nano);
        let time_nano =
            if last.saturating_sub(now) < SAME_TIME { now.max(last.saturating_add(1)) } else { now };
        let event = Arc::new(Event {
            status: old_style.then(|| action.to_owned()),
            id: old_style.then(|| id.to_owned()),
            from: (kind == "container").then(|| attributes.get("image").cloned()).flatten(),
            kind,
            action: action.to_owned(),
            actor: Actor { id: id.to_owned(), attributes },
            scope: "local",
            time: time_nano / 1_000_000_000,
            time_nano,
        });
        if history.len() == HISTORY {
            history.pop_front();
        }
        history.push_back(Arc::clone(&event));
        self.published.fetch_add(1, Ordering::Relaxed);
        // An error only means that nobody listens.
        let _ = self.sender.send(event);
    }

    /// Remembered events from `since` on (none if not given), then new ones as they come, up to `until`.
    pub fn subscribe(
        &self,
        since: Option<Timestamp>,
        until: Option<Timestamp>,
        filters: EventFilters,
    ) -> impl Stream<Item = Arc<Event>> + Send + 'static {
        let nanosecond = |time: Timestamp| i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX);
        let (since, last) = (since.map(nanosecond), until.map_or(i64::MAX, nanosecond));
        let (receiver, past) = {
            let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
            let past: VecDeque<Arc<Event>> = since.map_or_else(VecDeque::new, |since| {
                history.iter().filter(|event| event.time_nano >= since).cloned().collect()
            });
            (self.sender.subscribe(), past)
        };
        let deadline = until.map(|until| {
            let left = u64::try_from(until.duration_since(Timestamp::now()).as_millis()).unwrap_or(0);
            tokio::time::Instant::now() + std::time::Duration::from_millis(left)
        });
        futures_util::stream::unfold(
            (receiver, past, filters),
            move |(mut receiver, mut past, filters)| async move {
                loop {
                    let event = match past.pop_front() {
                        Some(event) => event,
                        None => next(&mut receiver, deadline).await?,
                    };
                    if event.time_nano <= last && filters.accept(&event) {
                        return Some((event, (receiver, past, filters)));
                    }
                }
            },
        )
    }
}

async fn next(
    receiver: &mut broadcast::Receiver<Arc<Event>>,
    deadline: Option<tokio::time::Instant>,
) -> Option<Arc<Event>> {
    loop {
        let event = match deadline {
            Some(deadline) => tokio::time::timeout_at(deadline, receiver.recv()).await.ok()?,
            None => receiver.recv().await,
        };
        match event {
            Ok(event) => return Some(event),
            Err(broadcast::error::RecvError::Lagged(lost)) => {
                tracing::warn!(lost, "A reader of events is too slow");
            }
            Err(broadcast::error::RecvError::Closed) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures_util::StreamExt;

    use super::*;

    #[tokio::test]
    async fn events_have_one_order_and_a_time_each() {
        let bus = EventBus::new();
        let live = bus.subscribe(None, None, EventFilters::default());
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let bus = &bus;
                scope.spawn(move || {
                    for number in 0..50 {
                        bus.publish("container", "start", &format!("{worker}-{number}"), &[]);
                    }
                });
            }
        });
        let seen: Vec<_> = live.take(200).collect().await;
        assert!(seen.windows(2).all(|pair| pair[0].time_nano < pair[1].time_nano));
        assert!(seen.iter().all(|event| event.time == event.time_nano / 1_000_000_000));
        // Whoever comes back with the time of the last one gets that one and all after it, each once.
        let since = Timestamp::from_nanosecond(seen[120].time_nano.into()).unwrap();
        let again: Vec<_> =
            bus.subscribe(Some(since), None, EventFilters::default()).take(80).collect().await;
        let ids =
            |events: &[Arc<Event>]| events.iter().map(|event| event.actor.id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(&again), ids(&seen[120..]));
    }
}
