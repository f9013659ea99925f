//! The state of many hosts at once, for `ls` and `active`: drivers are asked in batches, engines side by side.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, future::join_all};
use machine_driver::{Endpoint, HostView, State};

use super::{Context, Keys};
use crate::{
    engine_api::EngineClient,
    store::{Phase, Record},
};

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
}

/// Asks the drivers, then the engines, each host within `limit`. The rows are in the order of `records`.
pub async fn survey(context: &Context, records: &[&Record], ask_engines: bool, limit: Duration) -> Vec<Row> {
    let began = Instant::now();
    let mut rows: Vec<Row> = records
        .iter()
        .map(|_| Row {
            state: None,
            url: String::new(),
            engine_version: None,
            error: String::new(),
            response_time: Duration::ZERO,
        })
        .collect();
    let mut batches: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, record) in records.iter().enumerate() {
        batches.entry(&record.driver_name).or_default().push(index);
    }
    let answers =
        join_all(batches.iter().map(|(driver, indices)| describe(context, driver, indices, records, limit)))
            .await;
    for (index, state, endpoint, error) in answers.into_iter().flatten() {
        let row = &mut rows[index];
        row.state = state;
        row.error = error;
        // The engine of a host that is not finished is not asked: the word about the phase is the better one.
        if state == Some(State::Running) && records[index].phase == Phase::Ready {
            let known = endpoint.as_ref().or(records[index].endpoint.as_ref());
            row.url = known.map(Endpoint::url).unwrap_or_default();
        }
    }
    if ask_engines {
        let asked = rows.iter().enumerate().filter(|(_, row)| !row.url.is_empty()).map(|(index, row)| {
            let (record, url) = (records[index], row.url.clone());
            async move {
                let answer = tokio::time::timeout(limit, engine_version(context, record, &url)).await;
                (
                    index,
                    answer.unwrap_or_else(|_| Err("The engine did not answer in time".into())),
                    began.elapsed(),
                )
            }
        });
        let answers = join_all(asked).await;
        for (index, answer, elapsed) in answers {
            match answer {
                Ok(version) => rows[index].engine_version = Some(version),
                Err(error) => rows[index].error = error,
            }
            rows[index].response_time = elapsed;
        }
    }
    rows
}

type Answer = (usize, Option<State>, Option<Endpoint>, String);

async fn describe(
    context: &Context,
    driver: &str,
    indices: &[usize],
    records: &[&Record],
    limit: Duration,
) -> Vec<Answer> {
    let driver = match context.drivers.find(driver) {
        Ok(driver) => driver,
        Err(error) => {
            let text = format!("{error}. Do you have the plugin binary accessible in your PATH?");
            return indices.iter().map(|&index| (index, Some(State::Error), None, text.clone())).collect();
        }
    };
    let keys = Keys::default();
    let paths: Vec<_> = indices.iter().map(|&index| context.paths(records[index])).collect();
    let views: Vec<(HostView, serde_json::Value)> = indices
        .iter()
        .zip(&paths)
        .map(|(&index, paths)| {
            (super::view(records[index], paths, &keys), records[index].driver.state.clone())
        })
        .collect();
    let power = driver.info().features.power;
    let mut answers: Vec<Answer> = indices.iter().map(|&index| (index, None, None, String::new())).collect();
    let mut rows = driver.describe_many(&views);
    let deadline = tokio::time::Instant::now() + limit;
    // Whoever has not answered by then is not known.
    while let Ok(Some((which, row))) = tokio::time::timeout_at(deadline, rows.next()).await {
        let Some(answer) = answers.get_mut(which) else { continue };
        let index = answer.0;
        *answer = match row {
            Ok(found) => {
                let word = unfinished(records[index], found.state, power);
                (index, Some(found.state), found.endpoint, word)
            }
            Err(error) => (index, Some(State::Error), None, error.to_string()),
        };
    }
    drop(rows);
    answers
}

/// A word about a host whose creation or removal was interrupted, or which is gone.
fn unfinished(record: &Record, state: State, has_power: bool) -> String {
    match record.phase {
        Phase::Ready if state == State::None && has_power => {
            "The provider does not have it any more".to_owned()
        }
        Phase::Ready => String::new(),
        Phase::Removing => "Removal was interrupted".to_owned(),
        phase => format!("Creation was interrupted ({phase:?})"),
    }
}

async fn engine_version(context: &Context, record: &Record, url: &str) -> Result<String, String> {
    let asked = async {
        let client = match context.certificates.client_of(&record.name) {
            Ok(files) => EngineClient::new(url, &files.ca_pem, &files.cert_pem, &files.key_pem)?,
            // Hosts without a driver have no certificates of ours.
            Err(_) => EngineClient::plain(url)?,
        };
        client.version().await
    };
    asked.await.map(|version| version.version).map_err(|error| {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        text
    })
}
