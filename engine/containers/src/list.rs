//! Containers as `docker ps` shows them, and which of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use engine_model::Patterns;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::health::HealthStatus;
use super::inspect::{describe_mounts, networks};
use super::record::{Identity, State, Status};
use super::usage::size_of;
use super::{Container, ContainerError, Containers};

/// What a client wants to see.
#[derive(Clone, Debug, Default)]
pub struct ListRequest {
    pub all: bool,
    pub limit: Option<usize>,
    pub size: bool,
    pub filters: BTreeMap<String, Vec<String>>,
}

const FILTERS: [&str; 16] = [
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "isolation",
    "is-task",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
    "label!",
];
const HEALTH: [&str; 4] = ["none", "starting", "healthy", "unhealthy"];
const STATES: [&str; 7] = ["created", "running", "paused", "restarting", "removing", "exited", "dead"];

impl Containers {
    /// The answer to `GET /containers/json`.
    pub fn list(&self, request: &ListRequest) -> Result<Vec<Value>, ContainerError> {
        let chosen = self.chosen(request)?;
        Ok(chosen.into_iter().map(|container| self.summary(&container, request.size)).collect())
    }

    fn chosen(&self, request: &ListRequest) -> Result<Vec<Arc<Container>>, ContainerError> {
        let filter = self.filter(&request.filters)?;
        let everything = request.all
            || request.limit.is_some()
            || ["status", "before", "since"].iter().any(|key| request.filters.contains_key(*key));
        let mut chosen: Vec<_> = self
            .all()
            .into_iter()
            .filter(|container| {
                let state = container.state();
                let alive = state.status.is_alive() || state.status == Status::Restarting;
                (everything || alive) && filter.accepts(container, &container.identity(), &state)
            })
            .collect();
        chosen.truncate(request.limit.unwrap_or(usize::MAX));
        Ok(chosen)
    }

    /// Prepares a test of containers; fails on a key or value that has no meaning.
    fn filter<'a>(&self, filters: &'a BTreeMap<String, Vec<String>>) -> Result<Filter<'a>, ContainerError> {
        let invalid = |key: &str, value: &str| {
            let value = if value.is_empty() { String::new() } else { format!("={value}") };
            ContainerError::Invalid(format!("invalid filter '{key}{value}'"))
        };
        if let Some(key) = filters.keys().find(|key| !FILTERS.contains(&key.as_str())) {
            return Err(invalid(key, ""));
        }
        let values = |key: &str| filters.get(key).map(Vec::as_slice).unwrap_or_default();
        for status in values("status") {
            if !STATES.contains(&status.as_str()) {
                return Err(ContainerError::Invalid(format!(
                    "invalid filter 'status={status}': invalid value for state ({status}): must be one of {}",
                    STATES.join(", ")
                )));
            }
        }
        if let Some(word) = values("health").iter().find(|word| !HEALTH.contains(&word.as_str())) {
            return Err(ContainerError::Invalid(format!(
                "invalid filter 'health={word}': invalid value for health ({word}): must be one of {}",
                HEALTH.join(", ")
            )));
        }
        let of_tasks = values("is-task");
        if of_tasks.len() > 1
            || of_tasks.iter().any(|value| !matches!(value.as_str(), "true" | "false" | "1" | "0"))
        {
            let message = format!("invalid filter 'is-task=[{}]'", of_tasks.join(" "));
            return Err(ContainerError::Invalid(message));
        }
        let mut exited = Vec::new();
        for value in values("exited") {
            exited.push(value.parse::<i32>().map_err(|_| {
                let parsing = format!("strconv.Atoi: parsing \"{value}\": invalid syntax");
                ContainerError::Invalid(format!("invalid filter 'exited={value}': {parsing}"))
            })?);
        }
        let moment = |key: &str| -> Result<Option<Timestamp>, ContainerError> {
            values(key).first().map(|name| Ok(self.find(name)?.identity().created)).transpose()
        };
        let ancestors = values("ancestor")
            .iter()
            .map(|name| {
                self.0.images.find(name).map_or_else(|_| name.clone(), |image| image.id.as_str().to_owned())
            })
            .collect();
        let (ids, names) = (Patterns::new(values("id")), Patterns::new(values("name")));
        let (before, since) = (moment("before")?, moment("since")?);
        Ok(Filter { filters, ids, names, exited, ancestors, before, since })
    }

    fn summary(&self, container: &Container, size: bool) -> Value {
        let identity = container.identity();
        let state = container.state();
        let mut view = json!({
            "Id": container.id,
            "Names": [format!("/{}", identity.name)],
            "Image": identity.config.image,
            "ImageID": identity.image_id.as_str(),
            "Command": command_line(&identity.command),
            "Created": identity.created.as_second(),
            "Ports": ports(&identity, &state),
            "Labels": identity.config.labels,
            "State": state.status.word(),
            "Status": status_text(&state, Timestamp::now()),
            "HostConfig": { "NetworkMode": identity.host.network_mode },
            "NetworkSettings": { "Networks": networks(&identity, &state) },
            "Mounts": describe_mounts(&identity),
        });
        if let Some(annotations) = identity.host.annotations.as_ref().filter(|all| !all.is_empty()) {
            view["HostConfig"]["Annotations"] = json!(annotations);
        }
        if size {
            let writable = size_of(&container.directory.join("upper"));
            if writable > 0 {
                view["SizeRw"] = writable.into();
            }
            view["SizeRootFs"] = (writable + self.image_size(&identity)).into();
        }
        view
    }
}

impl Containers {
    /// Bytes of what a container has written over its image.
    pub async fn written_size(&self, container: &Container) -> u64 {
        let directory = container.directory.join("upper");
        tokio::task::spawn_blocking(move || size_of(&directory)).await.unwrap_or(0)
    }
}

struct Filter<'a> {
    filters: &'a BTreeMap<String, Vec<String>>,
    ids: Patterns,
    names: Patterns,
    exited: Vec<i32>,
    ancestors: Vec<String>,
    before: Option<Timestamp>,
    since: Option<Timestamp>,
}

impl Filter<'_> {
    fn accepts(&self, container: &Container, identity: &Identity, state: &State) -> bool {
        let any = |key: &str, test: &dyn Fn(&str) -> bool| {
            self.filters
                .get(key)
                .is_none_or(|values| values.is_empty() || values.iter().any(|value| test(value)))
        };
        let all = |key: &str, test: &dyn Fn(&str) -> bool| {
            self.filters.get(key).is_none_or(|values| values.iter().all(|value| test(value)))
        };
        let labels = &identity.config.labels;
        let labelled = |wanted: &str| match wanted.split_once('=') {
            Some((name, value)) => labels.get(name).is_some_and(|found| found == value),
            None => labels.contains_key(wanted),
        };
        self.ids.fit(&container.id)
            && (self.names.fit(&identity.name) || self.names.fit(&format!("/{}", identity.name)))
            && all("label", &labelled)
            && all("label!", &|value| !labelled(value))
            && any("status", &|value| state.status.word() == value)
            && (self.exited.is_empty()
                || (self.exited.contains(&state.exit_code)
                    && state.started_at.is_some()
                    && !state.status.is_alive()))
            && (self.ancestors.is_empty()
                || self
                    .ancestors
                    .iter()
                    .any(|image| identity.image_id.as_str() == image || identity.config.image == *image))
            && self.before.is_none_or(|moment| identity.created < moment)
            && self.since.is_none_or(|moment| identity.created > moment)
            && any("volume", &|value| {
                identity.mounts.iter().any(|point| {
                    point.name.as_deref() == Some(value) || point.destination == Path::new(value)
                })
            })
            && any("network", &|value| {
                identity.host.network_mode == value
                    || identity.networks.contains_key(value)
                    || state.endpoints.iter().any(|endpoint| {
                        endpoint.network_name == value || endpoint.network_id.starts_with(value)
                    })
            })
            && any("publish", &|value| {
                state.ports.iter().any(|port| matches_port(value, port.host_port, &port.protocol.to_string()))
            })
            && any("expose", &|value| {
                identity.config.exposed_ports.iter().flatten().any(|(name, _)| {
                    let (number, protocol) = name.split_once('/').unwrap_or((name, "tcp"));
                    number.parse().is_ok_and(|number| matches_port(value, number, protocol))
                })
            })
            && any("health", &|value| state.health_word() == value)
            && any("is-task", &|value| matches!(value, "false" | "0"))
            && any("isolation", &|value| value == "default" || value.is_empty())
    }
}

/// `80`, `80/tcp`, `80-90/udp`.
fn matches_port(wanted: &str, port: u16, protocol: &str) -> bool {
    let (range, wanted_protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let inside = match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first), Ok(last)) => (first..=last).contains(&port),
        _ => false,
    };
    inside && wanted_protocol == protocol
}

fn command_line(command: &[String]) -> String {
    let mut words = command.iter();
    let mut line = words.next().cloned().unwrap_or_default();
    for word in words {
        line.push(' ');
        let quote = if word.contains(' ') { "'" } else { "" };
        line.extend([quote, word, quote]);
    }
    line
}

fn ports(identity: &Identity, state: &State) -> Vec<Value> {
    let mut ports: Vec<Value> = state
        .ports
        .iter()
        .map(|port| {
            json!({
                "IP": port.host_ip.to_string(),
                "PrivatePort": port.container_port,
                "PublicPort": port.host_port,
                "Type": port.protocol.to_string(),
            })
        })
        .collect();
    if state.status.is_alive() {
        for (name, _) in identity.config.exposed_ports.iter().flatten() {
            let (number, protocol) = name.split_once('/').unwrap_or((name, "tcp"));
            let Ok(number) = number.parse::<u16>() else { continue };
            let published = state
                .ports
                .iter()
                .any(|port| port.container_port == number && port.protocol.to_string() == protocol);
            if !published {
                ports.push(json!({ "PrivatePort": number, "Type": protocol }));
            }
        }
    }
    ports
}

/// `Up 5 minutes`, `Exited (0) 2 hours ago`.
pub fn status_text(state: &State, now: Timestamp) -> String {
    let since = |time: Option<Timestamp>| {
        let passed = time.map_or(0, |time| now.duration_since(time).as_secs());
        human_duration(Duration::from_secs(u64::try_from(passed).unwrap_or(0)))
    };
    match state.status {
        Status::Created => "Created".to_owned(),
        Status::Running => match state.health.as_ref().map(|health| health.status) {
            None => format!("Up {}", since(state.started_at)),
            Some(HealthStatus::Starting) => format!("Up {} (health: starting)", since(state.started_at)),
            Some(status) => format!("Up {} ({})", since(state.started_at), status.word()),
        },
        Status::Paused => format!("Up {} (Paused)", since(state.started_at)),
        Status::Restarting => format!("Restarting ({}) {} ago", state.exit_code, since(state.finished_at)),
        Status::Removing => "Removal In Progress".to_owned(),
        Status::Dead => "Dead".to_owned(),
        Status::Exited => format!("Exited ({}) {} ago", state.exit_code, since(state.finished_at)),
    }
}

/// In docker's rough words.
fn human_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match (seconds, minutes, hours) {
        (0, ..) => "Less than a second".to_owned(),
        (1, ..) => "1 second".to_owned(),
        (2..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, 2..60, _) => format!("{minutes} minutes"),
        (_, _, 1) => "About an hour".to_owned(),
        (_, _, 2..48) => format!("{hours} hours"),
        (_, _, 48..336) => format!("{} days", hours / 24),
        (_, _, 336..1440) => format!("{} weeks", hours / 24 / 7),
        (_, _, 1440..17520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_like_dockers() {
        let words = |seconds| human_duration(Duration::from_secs(seconds));
        assert_eq!(words(0), "Less than a second");
        assert_eq!(words(59), "59 seconds");
        assert_eq!(words(61), "About a minute");
        assert_eq!(words(3599), "59 minutes");
        assert_eq!(words(3600), "About an hour");
        assert_eq!(words(10 * 3600), "10 hours");
        assert_eq!(words(3 * 86400), "3 days");
        assert_eq!(words(15 * 86400), "2 weeks");
        assert_eq!(words(90 * 86400), "3 months");
        assert_eq!(words(800 * 86400), "2 years");
    }

    #[test]
    fn ports_and_commands() {
        assert!(
            matches_port("80-90/tcp", 85, "tcp")
                && !matches_port("80", 80, "udp")
                && !matches_port("x", 1, "tcp")
        );
        assert_eq!(command_line(&["sh".into(), "-c".into(), "echo hi".into()]), "sh -c 'echo hi'");
    }
}
