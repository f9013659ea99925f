//! The driver `awslogs`: events of Amazon CloudWatch Logs, by its API of 2014-03-28.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use jiff::Timestamp;
use regex_lite::Regex;
use reqwest::{Client, StatusCode, Url};
use serde_json::{Value, json};

use crate::aws::{self, Credentials, Scope};
use crate::driver::{ContainerInfo, Driver, DriverError, is_on, option};
use crate::lines::Entry;
use crate::multiline::{Joiner, of_dates};

/// Its own options.
pub(crate) const OPTIONS: [&str; 12] = [
    "awslogs-region",
    "awslogs-endpoint",
    "awslogs-group",
    "awslogs-stream",
    "awslogs-create-group",
    "awslogs-create-stream",
    "awslogs-datetime-format",
    "awslogs-multiline-pattern",
    "awslogs-credentials-endpoint",
    "awslogs-force-flush-interval-seconds",
    "awslogs-max-buffered-events",
    "awslogs-format",
];

/// Quotas of `PutLogEvents`: bytes of a batch, what each event counts beside its text, and events.
const BATCH: usize = 1_048_576;
const EVENT: usize = 26;
const EVENTS: usize = 10_000;
/// Of an event's text.
const LONGEST: usize = 262_144 - EVENT;
const FLUSH: u64 = 5;
const BUFFERED: usize = 4096;
/// How often a request is made that fails for no reason of its own, and how long apart at first.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the container waits for its stream to be made.
const BEGINNING: Duration = Duration::from_secs(45);
/// What a batch may span, in milliseconds, and a little less.
const SPAN: i64 = 23 * 3600 * 1000;
/// Of an answer, what is read.
const LONGEST_ANSWER: usize = 64 * 1024;

#[derive(Debug)]
struct Event {
    /// Milliseconds since 1970.
    time: i64,
    text: String,
}

#[derive(Clone, Copy, Debug)]
struct Creation {
    with_group: bool,
}

#[derive(Debug)]
pub(crate) struct AwsLogs {
    service: Service,
    group: String,
    stream: String,
    joiner: Option<Joiner>,
    /// When the message began that is being joined.
    joined_since: Option<(i64, Instant)>,
    /// The stream is still to be made, and the group if there is none.
    creation: Option<Creation>,
    events: Vec<Event>,
    bytes: usize,
    due: Option<Instant>,
    interval: Duration,
    most_events: usize,
}

impl AwsLogs {
    pub(crate) async fn begin(
        options: &BTreeMap<String, String>,
        container: &ContainerInfo,
    ) -> Result<Self, DriverError> {
        let service = Service::begin(options).await?;
        let group = option(options, "awslogs-group").unwrap_or_default().to_owned();
        let stream = match (option(options, "awslogs-stream"), option(options, "tag")) {
            (Some(stream), _) => stream.to_owned(),
            // The journal of a container's life goes on under its whole id.
            (None, None) => container.id.clone(),
            (None, Some(_)) => container.tag.replace([':', '*'], "_"),
        };
        let pattern = match option(options, "awslogs-datetime-format") {
            Some(format) => Some(of_dates(format)),
            None => option(options, "awslogs-multiline-pattern").map(str::to_owned),
        };
        let pattern = pattern.map(|pattern| Regex::new(&pattern)).transpose();
        let pattern = pattern.map_err(|error| DriverError::new(error.to_string()))?;
        let number = |name: &str| option(options, name).and_then(|text| text.parse::<u64>().ok());
        let most = number("awslogs-max-buffered-events").and_then(|number| usize::try_from(number).ok());
        let mut driver = Self {
            service,
            group,
            stream,
            joiner: pattern.map(Joiner::new),
            joined_since: None,
            creation: is_on(options, "awslogs-create-stream", true)
                .then_some(Creation { with_group: is_on(options, "awslogs-create-group", false) }),
            events: Vec::new(),
            bytes: 0,
            due: None,
            interval: Duration::from_secs(number("awslogs-force-flush-interval-seconds").unwrap_or(FLUSH)),
            most_events: most.unwrap_or(BUFFERED).min(EVENTS),
        };
        // In non-blocking mode the container does not wait for the service to be there, either.
        if option(options, "mode") != Some("non-blocking") {
            tokio::time::timeout(BEGINNING, driver.create()).await.unwrap_or_else(|_| {
                Err(DriverError::new(format!("CloudWatch Logs does not answer at {}", driver.service.url)))
            })?;
        }
        Ok(driver)
    }

    /// Makes the stream, unless that is done.
    async fn create(&mut self) -> Result<(), DriverError> {
        let Some(creation) = self.creation else { return Ok(()) };
        self.create_now(creation.with_group).await?;
        self.creation = None;
        Ok(())
    }

    async fn create_now(&mut self, with_group: bool) -> Result<(), DriverError> {
        let stream = json!({ "logGroupName": self.group, "logStreamName": self.stream });
        match self.service.call("CreateLogStream", &stream).await {
            Err(error) if with_group && error.is("ResourceNotFoundException") => {
                let group = json!({ "logGroupName": self.group });
                match self.service.call("CreateLogGroup", &group).await {
                    Err(error) if !error.is("ResourceAlreadyExistsException") => return Err(error.into()),
                    _ => {}
                }
                match self.service.call("CreateLogStream", &stream).await {
                    Err(error) if !error.is("ResourceAlreadyExistsException") => Err(error.into()),
                    _ => Ok(()),
                }
            }
            Err(error) if !error.is("ResourceAlreadyExistsException") => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Adds the text of a message, in pieces if it is too long, and sends what must not wait.
    async fn add(&mut self, time: i64, text: &[u8]) -> Result<(), DriverError> {
        let text = String::from_utf8_lossy(text);
        let mut result = Ok(());
        for piece in pieces(&text, LONGEST) {
            let size = piece.len() + EVENT;
            if self.bytes + size > BATCH || self.events.len() >= self.most_events {
                result = self.put().await.and(result);
            }
            self.bytes += size;
            self.events.push(Event { time, text: piece.to_owned() });
        }
        result
    }

    async fn put(&mut self) -> Result<(), DriverError> {
        if self.events.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.create().await {
            // They wait for the stream, as long as there is room for more.
            if self.bytes < BATCH / 2 && self.events.len() < self.most_events / 2 {
                self.due = Some(Instant::now() + self.interval);
                return Ok(());
            }
            self.bytes = 0;
            let count = std::mem::take(&mut self.events).len();
            return Err(DriverError::new(format!("{count} events are lost: {error}")));
        }
        let mut events = std::mem::take(&mut self.events);
        self.bytes = 0;
        // Both streams together, in the order of time, as the service demands.
        events.sort_by_key(|event| event.time);
        let mut result = Ok(());
        for batch in events.chunk_by(|first, second| second.time - first.time < SPAN) {
            result = self.put_batch(batch).await.and(result);
        }
        result
    }

    async fn put_batch(&mut self, events: &[Event]) -> Result<(), DriverError> {
        let list: Vec<Value> =
            events.iter().map(|event| json!({ "timestamp": event.time, "message": event.text })).collect();
        let request = json!({ "logGroupName": self.group, "logStreamName": self.stream, "logEvents": list });
        match self.service.call("PutLogEvents", &request).await {
            Err(error) if !error.is("DataAlreadyAcceptedException") => Err(DriverError::new(format!(
                "{} events for the log group `{}` are lost: {error}",
                events.len(),
                self.group
            ))),
            _ => Ok(()),
        }
    }
}

impl AwsLogs {
    async fn end_message(&mut self) -> Result<(), DriverError> {
        let since = self.joined_since.take();
        match (self.joiner.as_mut().and_then(Joiner::take), since) {
            (Some(message), Some((time, _))) => self.add(time, &message).await,
            _ => Ok(()),
        }
    }
}

/// Pieces of at most `most` bytes, cut between characters. Text without characters is no message.
fn pieces(text: &str, most: usize) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (piece, left) = rest.split_at(rest.floor_char_boundary(most));
        rest = left;
        Some(piece)
    })
}

#[async_trait]
impl Driver for AwsLogs {
    async fn send(&mut self, entry: Entry) -> Result<(), DriverError> {
        self.due.get_or_insert_with(|| Instant::now() + self.interval);
        let time = entry.time.as_millisecond();
        let Some(joiner) = &mut self.joiner else { return self.add(time, &entry.line).await };
        let is_whole = entry.partial.as_ref().is_none_or(|part| part.last);
        let continues = entry.partial.as_ref().is_some_and(|part| part.ordinal > 1);
        let complete = joiner.add(&entry.line, continues, is_whole, LONGEST);
        let now = (time, Instant::now());
        let since = *self.joined_since.get_or_insert(now);
        match complete {
            Some(message) => {
                self.joined_since = Some(now);
                self.add(since.0, &message).await
            }
            None => Ok(()),
        }
    }

    fn longest_line(&self) -> usize {
        LONGEST
    }

    fn due(&self) -> Option<Instant> {
        self.due
    }

    async fn flush(&mut self) -> Result<(), DriverError> {
        self.due = None;
        let mut result = Ok(());
        match self.joined_since {
            // More may come of a message that has only begun.
            Some((_, began)) if began.elapsed() < self.interval => self.due = Some(began + self.interval),
            _ => result = self.end_message().await,
        }
        self.put().await.and(result)
    }

    async fn finish(&mut self) -> Result<(), DriverError> {
        let result = self.end_message().await;
        self.put().await.and(result)
    }
}

/// What the service has answered, or why it has not.
#[derive(Debug, thiserror::Error)]
enum ServiceError {
    #[error("{kind}: {message}")]
    Refused { kind: String, message: String, may_pass: bool },
    #[error("{0}")]
    Unreachable(String),
    /// There are no credentials.
    #[error(transparent)]
    Stranger(#[from] DriverError),
}

impl ServiceError {
    fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Refused { kind, .. } if kind == wanted)
    }

    fn may_pass(&self) -> bool {
        match self {
            Self::Refused { may_pass, .. } => *may_pass,
            Self::Unreachable(_) | Self::Stranger(_) => true,
        }
    }
}

impl From<ServiceError> for DriverError {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::Stranger(error) => error,
            error => Self::new(format!("CloudWatch Logs: {error}")),
        }
    }
}

/// The service, as one that signs its requests sees it.
#[derive(Debug)]
struct Service {
    client: Client,
    /// Without a proxy, for what is on this host's own link.
    direct: Client,
    url: Url,
    region: String,
    credentials: Option<Credentials>,
    /// Where they are from, if the options say so.
    credentials_path: Option<String>,
    /// `awslogs-format`, told with each request.
    format: Option<String>,
}

impl Service {
    async fn begin(options: &BTreeMap<String, String>) -> Result<Self, DriverError> {
        let client = |with_proxies| {
            engine_registry::plain_client(with_proxies).map_err(|error| DriverError::new(error.to_string()))
        };
        let (client, direct) = (client(true)?, client(false)?);
        let region = match option(options, "awslogs-region") {
            Some(region) => region.to_owned(),
            None => aws::region(&direct).await?,
        };
        let ending = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        let url = option(options, "awslogs-endpoint")
            .map_or_else(|| format!("https://logs.{region}.{ending}"), str::to_owned);
        let url = Url::parse(&url)
            .map_err(|error| DriverError::new(format!("invalid awslogs-endpoint `{url}`: {error}")))?;
        Ok(Self {
            client,
            direct,
            url,
            region,
            credentials: None,
            credentials_path: option(options, "awslogs-credentials-endpoint").map(str::to_owned),
            format: option(options, "awslogs-format").map(str::to_owned),
        })
    }

    async fn call(&mut self, action: &str, request: &Value) -> Result<(), ServiceError> {
        let mut pause = PAUSE;
        let mut attempt = 1;
        loop {
            match self.try_once(action, request).await {
                Err(error) if error.may_pass() && attempt < ATTEMPTS => {
                    attempt += 1;
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                result => return result,
            }
        }
    }

    async fn try_once(&mut self, action: &str, request: &Value) -> Result<(), ServiceError> {
        if !self.credentials.as_ref().is_some_and(Credentials::are_fresh) {
            match aws::credentials(&self.direct, self.credentials_path.as_deref()).await {
                Ok(found) => self.credentials = Some(found),
                // Those that there are do for a while.
                Err(_) if self.credentials.as_ref().is_some_and(Credentials::are_valid) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let Some(credentials) = &self.credentials else { return Ok(()) };
        let body = request.to_string();
        let target = format!("Logs_20140328.{action}");
        let host = match (self.url.host_str().unwrap_or_default(), self.url.port()) {
            (host, Some(port)) => format!("{host}:{port}"),
            (host, None) => host.to_owned(),
        };
        let mut headers = vec![
            ("host", host.as_str()),
            ("content-type", "application/x-amz-json-1.1"),
            ("x-amz-target", &target),
        ];
        headers.extend(self.format.iter().map(|format| ("x-amzn-logs-format", format.as_str())));
        let scope = Scope { region: &self.region, service: "logs", time: Timestamp::now() };
        let signed = aws::sign(credentials, scope, &headers, body.as_bytes());
        let mut call = self.client.post(self.url.clone()).timeout(PATIENCE);
        for (name, value) in
            headers.into_iter().chain(signed.iter().map(|(name, value)| (*name, value.as_str())))
        {
            call = call.header(name, value);
        }
        let unreachable = |error: reqwest::Error| ServiceError::Unreachable(engine_model::chain(&error));
        let response = call.body(body).send().await.map_err(unreachable)?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let text = aws::text(response, LONGEST_ANSWER).await.map_err(unreachable)?;
        let refusal = refusal(status, &text);
        if refusal.is("ExpiredTokenException") {
            self.credentials = None;
        }
        Err(refusal)
    }
}

/// `{"__type": "…#ThrottlingException", "message": "…"}`.
fn refusal(status: StatusCode, text: &str) -> ServiceError {
    let answer: Value = serde_json::from_str(text).unwrap_or_default();
    let kind = answer["__type"].as_str().unwrap_or("an answer that is not understood");
    let kind = kind.rsplit('#').next().unwrap_or(kind).chars().take(100).collect::<String>();
    let message = answer["message"].as_str().or_else(|| answer["Message"].as_str());
    let message = message.map_or_else(|| status.to_string(), |text| text.chars().take(500).collect());
    let may_pass = status.is_server_error()
        || status == StatusCode::TOO_MANY_REQUESTS
        || [
            "ThrottlingException",
            "ServiceUnavailableException",
            "LimitExceededException",
            "ExpiredTokenException",
        ]
        .contains(&kind.as_str());
    ServiceError::Refused { kind, message, may_pass }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(pieces("aäb", 2).collect::<Vec<_>>(), ["a", "ä", "b"]);
        assert_eq!(pieces("", 2).count(), 0);
    }

    #[test]
    fn refusals() {
        let refused = |status, text| refusal(StatusCode::from_u16(status).unwrap(), text);
        let throttled =
            refused(400, "{\"__type\":\"com.amazonaws#ThrottlingException\",\"message\":\"slower\"}");
        assert!(throttled.may_pass() && throttled.is("ThrottlingException"));
        let missing = refused(400, "{\"__type\":\"ResourceNotFoundException\",\"message\":\"no group\"}");
        assert!(!missing.may_pass());
        assert_eq!(missing.to_string(), "ResourceNotFoundException: no group");
        assert!(refused(503, "<html>").may_pass());
        assert!(!refused(403, "").may_pass());
    }
}
