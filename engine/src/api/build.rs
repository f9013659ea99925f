//! `/build`: images from Dockerfiles, in the way of the classic builder, and what builds keep.

use std::collections::BTreeMap;
use std::io;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json, Router};
use engine_build::{Audience, BuildError, Builder, Elsewhere, Keys, Plan, Request, Told};
use engine_images::Reference;
use engine_model::task::apart;
use engine_model::wire::{HostConfig, Ulimit};
use futures_util::TryStreamExt;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::io::{StreamReader, SyncIoBridge};
use tokio_util::sync::CancellationToken;

use super::filters::Filters;
use super::{ApiError, Endless};
use crate::app::App;
use crate::building::CacheWish;
use crate::kept;

/// As much of what a build tells waits for the client.
const WAITING: usize = 64;

pub fn routes() -> Router<App> {
    Router::new().route("/build", post(build)).route("/build/prune", post(prune))
}

/// The parameters of a build.
struct Wishes(Vec<(String, String)>);

impl Wishes {
    fn text(&self, key: &str) -> &str {
        self.0.iter().find(|(name, _)| name == key).map_or("", |(_, value)| value)
    }

    fn all(&self, key: &str) -> Vec<String> {
        let found = self.0.iter().filter(|(name, value)| name == key && !value.is_empty());
        found.map(|(_, value)| value.clone()).collect()
    }

    fn is(&self, key: &str, otherwise: bool) -> bool {
        match self.text(key).to_ascii_lowercase().as_str() {
            "" => otherwise,
            text => !matches!(text, "0" | "no" | "false" | "none"),
        }
    }

    fn number(&self, key: &str) -> Result<i64, ApiError> {
        match self.text(key) {
            "" => Ok(0),
            text => text.parse().map_err(|_| {
                ApiError::bad_request(format!(
                    "strconv.ParseInt: parsing \"{text}\" (`{key}`): invalid syntax"
                ))
            }),
        }
    }

    fn json<T: DeserializeOwned + Default>(&self, key: &str) -> Result<T, ApiError> {
        match self.text(key) {
            "" => Ok(T::default()),
            text => {
                let parsed: Option<T> = serde_json::from_str(text)
                    .map_err(|error| ApiError::bad_request(format!("error reading {key}: {error}")))?;
                Ok(parsed.unwrap_or_default())
            }
        }
    }

    /// Refuses by name what would not be followed.
    fn refuse(&self) -> Result<(), ApiError> {
        let refused = |what: String| Err(ApiError::not_implemented(&what));
        if self.text("version") == "2" || !self.text("session").is_empty() {
            return refused("`version=2`, `session`: building with a session of BuildKit's (without the plugin buildx, `docker build` needs none)".to_owned());
        }
        let remote = self.text("remote");
        if !remote.is_empty() && !engine_build::is_elsewhere(remote) {
            let message = format!("remoteURL ({remote}) could not be recognized as URL");
            return Err(ApiError::bad_request(message));
        }
        let outputs: Vec<Value> = self.json("outputs")?;
        if !outputs.is_empty() {
            return refused("`outputs`: putting the result elsewhere than among the images".to_owned());
        }
        Ok(())
    }

    fn host(&self) -> Result<HostConfig, ApiError> {
        let texts = |key: &str| -> Vec<String> {
            self.all(key).iter().flat_map(|text| text.split(',')).map(str::to_owned).collect()
        };
        let hosts = texts("extrahosts");
        let security: Vec<String> = self.json("securityopt")?;
        let ulimits: Vec<Ulimit> = self.json("ulimits")?;
        Ok(HostConfig {
            memory: self.number("memory")?,
            memory_swap: self.number("memswap")?,
            cpu_shares: self.number("cpushares")?,
            cpu_period: self.number("cpuperiod")?,
            cpu_quota: self.number("cpuquota")?,
            cpuset_cpus: self.text("cpusetcpus").to_owned(),
            cpuset_mems: self.text("cpusetmems").to_owned(),
            cgroup_parent: self.text("cgroupparent").to_owned(),
            shm_size: self.number("shmsize")?,
            network_mode: self.text("networkmode").to_owned(),
            isolation: self.text("isolation").to_owned(),
            extra_hosts: Some(hosts).filter(|hosts| !hosts.is_empty()),
            security_opt: Some(security).filter(|options| !options.is_empty()),
            ulimits: Some(ulimits).filter(|limits| !limits.is_empty()),
            ..HostConfig::default()
        })
    }

    fn request(&self, registries: String) -> Result<Request, ApiError> {
        self.refuse()?;
        let names = self.all("t");
        for name in &names {
            let parsed = Reference::parse(name)?;
            if parsed.digest().is_some() {
                return Err(ApiError::bad_request("build tag cannot contain a digest"));
            }
        }
        let labels: BTreeMap<String, String> = self.json("labels")?;
        let arguments: BTreeMap<String, Option<String>> = self.json("buildargs")?;
        let sources: Vec<String> = self.json("cachefrom")?;
        Ok(Request {
            dockerfile: self.text("dockerfile").to_owned(),
            names,
            no_cache: self.is("nocache", false),
            pull: self.is("pull", false),
            remove: self.is("rm", true),
            force_remove: self.is("forcerm", false),
            arguments,
            labels: labels.into_iter().collect(),
            target: self.text("target").to_owned(),
            host: self.host()?,
            platform: self.text("platform").to_owned(),
            cache_from: sources,
            squash: self.is("squash", false),
            keys: Keys::Header(registries),
            ..Request::default()
        })
    }
}

/// The body is a context: an archive of any size. What can be refused is refused with a status, before the first line.
async fn build(
    State(app): State<App>,
    Query(query): Query<Vec<(String, String)>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let wishes = Wishes(query);
    let registries = headers.get("x-registry-config").and_then(|value| value.to_str().ok());
    let request = wishes.request(registries.unwrap_or_default().to_owned())?;
    request.check()?;
    let is_quiet = wishes.is("q", false);
    let origin = match wishes.text("remote") {
        "" => Origin::Here(Box::new(received(&app, body, request).await?)),
        remote => Origin::Elsewhere(remote.to_owned(), Box::new(request)),
    };
    let (told, mut talk) = mpsc::channel::<Told>(WAITING);
    let (lines, receiver) = mpsc::channel::<Value>(WAITING);
    let cancelled = CancellationToken::new();
    let builder = app.builder.clone();
    let building = tokio::spawn({
        let cancelled = cancelled.clone();
        async move {
            let plan = match origin {
                Origin::Here(plan) => *plan,
                Origin::Elsewhere(address, request) => {
                    fetched(&builder, &address, *request, &told, &cancelled).await?
                }
            };
            builder.build(plan, Audience::Reader(told), cancelled).await
        }
    });
    tokio::spawn(async move {
        let mut kept = Vec::new();
        loop {
            let said = tokio::select! {
                said = talk.recv() => said,
                // The client has gone. What it wanted built is of no use to anybody.
                () = lines.closed() => break,
            };
            let Some(said) = said else { break };
            // Who asked for silence is told everything when it has failed.
            if is_quiet {
                kept.push(said);
            } else if lines.send(line(said)).await.is_err() {
                break;
            }
        }
        drop(talk);
        let result = building.await.unwrap_or_else(|error| Err(error.into()));
        match result {
            Ok(id) if is_quiet => drop(lines.send(json!({ "stream": format!("{id}\n") })).await),
            Ok(_) => {}
            Err(error) => {
                for said in kept {
                    let _ = lines.send(line(said)).await;
                }
                let _ = lines.send(failure(&error)).await;
            }
        }
    });
    let body = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let line = receiver.recv().await?;
        Some((Ok::<_, io::Error>(format!("{line}\r\n")), receiver))
    });
    let headers = [(header::CONTENT_TYPE, "application/json")];
    Ok((Extension(Endless::Gone), headers, Body::from_stream(body)).into_response())
}

/// What a build is made from.
enum Origin {
    /// It is here, and understood.
    Here(Box<Plan>),
    /// It has to be fetched, and its client is told how that goes on.
    Elsewhere(String, Box<Request>),
}

async fn received(app: &App, body: Body, request: Request) -> Result<Plan, ApiError> {
    let stream = body.into_data_stream().map_err(io::Error::other);
    let mut archive = SyncIoBridge::new(StreamReader::new(stream));
    let builder = app.builder.clone();
    let plan = apart(move || {
        let context = builder.receive(&mut archive)?;
        builder.plan(context, request)
    });
    Ok(plan.await.map_err(|error| ApiError::internal(error.to_string()))??)
}

/// Ends when nobody listens any more.
async fn fetched(
    builder: &Builder,
    address: &str,
    request: Request,
    told: &mpsc::Sender<Told>,
    cancelled: &CancellationToken,
) -> Result<Plan, BuildError> {
    let wish = Elsewhere { told, cancelled, client: None, keeps_git_dir: false };
    let context = tokio::select! {
        context = builder.gather(address, wish) => context?,
        () = told.closed() => return Err(BuildError::Cancelled),
    };
    let builder = builder.clone();
    let planned = tokio::task::spawn_blocking(move || builder.plan(context, request)).await?;
    Ok(planned?)
}

fn line(said: Told) -> Value {
    match said {
        Told::Text(text) => json!({ "stream": text }),
        // In red, as the classic builder shows it.
        Told::Errors(text) => json!({ "stream": format!("\u{1b}[91m{text}\u{1b}[0m") }),
        Told::Image(id) => json!({ "aux": { "ID": id } }),
        Told::Line(line) => line,
    }
}

fn failure(error: &BuildError) -> Value {
    let message = error.to_string();
    let detail = match error {
        BuildError::Command { code, .. } => json!({ "code": code, "message": message }),
        _ => json!({ "message": message }),
    };
    json!({ "errorDetail": detail, "error": message })
}

async fn prune(
    State(app): State<App>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, ApiError> {
    let wishes = Wishes(query);
    for key in ["max-used-space", "min-free-space"] {
        if wishes.number(key)? != 0 {
            return Err(ApiError::not_implemented(&format!("`{key}`")));
        }
    }
    let filters = Filters::parse(Some(wishes.text("filters")).filter(|text| !text.is_empty()))?;
    filters.only(&["id", "until", "unused-for"])?;
    let reserved = match wishes.number("reserved-space")? {
        0 => wishes.number("keep-storage")?,
        reserved => reserved,
    };
    let wish = CacheWish {
        all: wishes.is("all", false),
        until: filters.until()?,
        ids: filters.values("id").to_vec(),
        reserved: u64::try_from(reserved).unwrap_or(0),
    };
    let worker = app.clone();
    let pruned = tokio::task::spawn_blocking(move || {
        kept::prune(&worker.images, &worker.containers, &worker.builder, &worker.events, &wish)
    })
    .await??;
    let ids: Vec<&str> = pruned.ids.iter().map(engine_model::ImageId::hex).collect();
    let ids = if ids.is_empty() { Value::Null } else { json!(ids) };
    Ok(Json(json!({ "CachesDeleted": ids, "SpaceReclaimed": pruned.bytes })))
}

/// For `docker system df`.
pub(super) async fn usage(app: &App) -> Result<(Value, u64), ApiError> {
    let worker = app.clone();
    let records = tokio::task::spawn_blocking(move || kept::records(&worker.images, &worker.builder)).await?;
    let sum = records.iter().map(|record| record.size).sum();
    let shown = records.iter().map(|record| {
        json!({
            "ID": record.id,
            "Parents": record.parent.as_ref().map(|id| vec![id]),
            "Type": record.kind,
            "Description": record.description,
            "InUse": false,
            "Shared": record.is_shared,
            "Size": record.size,
            "CreatedAt": record.created.map_or_else(|| json!("0001-01-01T00:00:00Z"), |time| json!(time)),
            "LastUsedAt": record.last_used,
            "UsageCount": record.uses,
        })
    });
    Ok((shown.collect(), sum))
}
