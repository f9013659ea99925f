//! The state of many hosts at once, for `ls` and `active`: drivers are asked in batches, engines side by side.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use machine_driver::{Description, DriverError, Endpoint, HostView, State};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::{Context, trust};
use crate::store::{Operation, Phase, Record};

/// What is known of one host.
#[derive(Debug, Clone)]
pub struct Row {
    /// `None`: the driver did not answer in time.
    pub state: Option<State>,
    pub url: String,
    /// The engine's version, as it answered now.
    pub engine_version: Option<String>,
    pub error: String,
    pub response_time: Duration,
    /// Whether somebody has still to answer.
    pub pending: bool,
}

impl Row {
    /// What is recorded of a host, before anybody was asked.
    pub fn last_known(record: &Record) -> Self {
        Self {
            url: url(record, record.state, None),
            state: Some(record.state),
            engine_version: record.engine_version.clone(),
            pending: true,
            ..Self::unanswered(String::new())
        }
    }

    fn unanswered(error: String) -> Self {
        Self {
            state: None,
            url: String::new(),
            engine_version: None,
            error,
            response_time: Duration::ZERO,
            pending: false,
        }
    }
}

/// Asks the drivers side by side, and each engine as soon as the driver of its host has answered: each driver and each
/// engine within `limit`, so that a slow one delays no other. `changed` is called with every answer as it comes. The rows
/// are in the order of `records`.
pub async fn survey(
    context: &Context,
    records: &[&Record],
    ask_engines: bool,
    limit: Duration,
    mut changed: impl FnMut(usize, &Row),
) -> Vec<Row> {
    let began = Instant::now();
    let mut rows = vec![Row::unanswered(String::new()); records.len()];
    let mut batches: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, record) in records.iter().enumerate() {
        batches.entry(&record.driver_name).or_default().push(index);
    }
    let (sender, mut described) = unbounded_channel();
    let drivers = join_all(
        batches
            .iter()
            .map(|(driver, indices)| describe(context, driver, indices, records, limit, sender.clone())),
    );
    // Each driver has one of its own, and there is nothing to come when all are gone.
    drop(sender);
    tokio::pin!(drivers);
    let mut asked = false;
    let mut engines = FuturesUnordered::new();
    loop {
        tokio::select! {
            _ = &mut drivers, if !asked => asked = true,
            Some((index, mut row)) = described.recv() => {
                row.response_time = began.elapsed();
                row.pending = ask_engines && !row.url.is_empty();
                if row.pending {
                    engines.push(ask_engine(context, records[index], index, row.url.clone(), limit));
                }
                changed(index, &row);
                rows[index] = row;
            }
            Some((index, answer)) = engines.next() => {
                let row = &mut rows[index];
                row.pending = false;
                match answer {
                    Ok(version) => row.engine_version = Some(version),
                    Err(error) => row.error = error,
                }
                row.response_time = began.elapsed();
                changed(index, row);
            }
            else => return rows,
        }
    }
}

/// The URL of a host's engine, if it can be asked. The engine of a host that is not finished is not asked: the word about
/// the phase is the better one.
fn url(record: &Record, state: State, found: Option<&Endpoint>) -> String {
    if state != State::Running || !record.phase.may(Operation::UseEngine) {
        return String::new();
    }
    found.or(record.endpoint.as_ref()).map(Endpoint::url).unwrap_or_default()
}

/// Sends a row for each of the hosts, which are all of one driver.
async fn describe(
    context: &Context,
    driver: &str,
    indices: &[usize],
    records: &[&Record],
    limit: Duration,
    answers: UnboundedSender<(usize, Row)>,
) {
    let send = |index: usize, row: Row| {
        // Nobody listens any more when it was interrupted.
        let _ = answers.send((index, row));
    };
    let deadline = tokio::time::Instant::now() + limit;
    let (drivers, name) = (context.drivers, driver.to_owned());
    // A driver that is a program may take its time to say who it is, which must not hold up the others.
    let opening = tokio::task::spawn_blocking(move || drivers.find(&name));
    let found = match tokio::time::timeout_at(deadline, opening).await {
        Ok(Ok(found)) => found,
        Ok(Err(_)) => Err(DriverError::failed(format!("The driver {driver} could not be opened"))),
        Err(_) => Err(DriverError::unknown(format!("The driver {driver} did not answer in time"))),
    };
    let driver = match found {
        Ok(driver) => driver,
        Err(error) => {
            let text = format!("{error}. Do you have the plugin binary accessible in your PATH?");
            for &index in indices {
                send(index, Row { state: Some(State::Error), ..Row::unanswered(text.clone()) });
            }
            return;
        }
    };
    let views: Vec<(HostView, serde_json::Value)> = indices
        .iter()
        .map(|&index| (context.view(records[index]), records[index].driver.state.clone()))
        .collect();
    let power = driver.info().features.power;
    let mut waiting: BTreeSet<usize> = indices.iter().copied().collect();
    let mut rows = driver.describe_many(&views);
    while let Ok(Some((which, answer))) = tokio::time::timeout_at(deadline, rows.next()).await {
        let Some(&index) = indices.get(which).filter(|index| waiting.remove(index)) else { continue };
        send(index, answered(records[index], answer, power));
    }
    // Whoever has not answered by then is not known.
    for index in waiting {
        let seen = known(records[index].state);
        send(index, Row::unanswered(format!("No answer within {} s; last seen: {seen}", limit.as_secs())));
    }
}

/// What a driver's answer comes to.
fn answered(record: &Record, answer: Result<Description, DriverError>, has_power: bool) -> Row {
    match answer {
        Ok(found) => Row {
            url: url(record, found.state, found.endpoint.as_ref()),
            state: Some(found.state),
            ..Row::unanswered(unfinished(record, found.state, has_power))
        },
        Err(error) => Row { state: Some(State::Error), ..Row::unanswered(with_causes(&error)) },
    }
}

fn known(state: State) -> String {
    if state == State::None { "never".to_owned() } else { state.to_string() }
}

/// A word about a host whose creation or removal has not finished, or which is gone.
fn unfinished(record: &Record, state: State, has_power: bool) -> String {
    match record.phase {
        Phase::Ready if state == State::None && has_power => {
            "The provider does not have it any more".to_owned()
        }
        Phase::Ready => String::new(),
        Phase::Removing => "Removal has not finished".to_owned(),
        phase => format!("Creation has not finished ({phase:?})"),
    }
}

async fn ask_engine(
    context: &Context,
    record: &Record,
    index: usize,
    url: String,
    limit: Duration,
) -> (usize, Result<String, String>) {
    let asked = async {
        let client = trust::engine_client(&context.store, record, &url)?;
        Ok::<_, trust::ClientError>(client.version().await?)
    };
    let answer = match tokio::time::timeout(limit, asked).await {
        Ok(answer) => answer.map(|version| version.version).map_err(|error| with_causes(&error)),
        Err(_) => Err("The engine did not answer in time".to_owned()),
    };
    (index, answer)
}

/// An error and its causes on one line.
fn with_causes(error: &(dyn Error + 'static)) -> String {
    let (mut texts, mut next) = (Vec::new(), Some(error));
    while let Some(error) = next {
        texts.push(error.to_string());
        next = error.source();
    }
    texts.join(": ")
}
