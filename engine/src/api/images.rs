//! `/images/…`: list, inspect, history, load, save, tag, remove, prune.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Extension, Json, Router};
use engine_images::{ImageError, Reference};
use engine_model::Image;
use engine_model::platform::architecture;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::ApiError;
use super::filters::Filters;
use super::version::ApiVersion;
use crate::app::App;
use crate::prune::{self, ImagePrune};

mod making;
pub(super) mod registry;
mod transfer;

pub fn routes() -> Router<App> {
    Router::new()
        .route("/images/json", get(list))
        .route("/images/load", post(transfer::load))
        .route("/images/get", get(transfer::save_several))
        .route("/images/prune", post(prune_images))
        .route("/images/create", post(create))
        .route("/commit", post(making::commit))
        // Names have slashes, so what is asked of an image is at the end.
        .route("/images/{*name}", any(one))
}

async fn one(
    State(app): State<App>,
    Path(path): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let (name, what) = match path.rsplit_once('/') {
        Some((name, what @ ("json" | "history" | "get" | "tag" | "push")))
            if request.method() != Method::DELETE =>
        {
            (name, what)
        }
        _ => (path.as_str(), ""),
    };
    only_own_platform(&query)?;
    match (request.method(), what) {
        (&Method::GET, "json") => inspect(&app, name, ApiVersion::of(request.extensions())).await,
        (&Method::GET, "history") => history(&app, name).await,
        (&Method::GET, "get") => transfer::save(&app, vec![name.to_owned()]).await,
        (&Method::POST, "tag") => tag(&app, name, &query).await,
        (&Method::POST, "push") => registry::push(&app, name, &parse_query(&query), request.headers()).await,
        (&Method::DELETE, "") => remove(&app, name, &query).await,
        _ => Err(ApiError::not_found("page not found")),
    }
}

/// Refuses wishes for an image of another platform: images are of one here, this host's.
pub(super) fn only_own_platform(query: &str) -> Result<(), ApiError> {
    let uri = format!("/?{query}").parse().unwrap_or_default();
    let pairs =
        Query::<Vec<(String, String)>>::try_from_uri(&uri).map(|Query(pairs)| pairs).unwrap_or_default();
    let own = |text: &str| {
        let platforms: Value = serde_json::from_str(text).unwrap_or_default();
        let platforms = platforms.as_array().cloned().unwrap_or_else(|| vec![platforms]);
        platforms
            .iter()
            .all(|platform| platform["os"] == "linux" && platform["architecture"] == architecture())
    };
    let is_other = |(name, text): &&(String, String)| {
        matches!(name.as_str(), "platform" | "platforms") && !text.is_empty() && !own(text)
    };
    match pairs.iter().find(is_other) {
        Some((name, _)) => Err(ApiError::not_implemented(&format!(
            "`{name}`: an image of another platform than this host's"
        ))),
        None => Ok(()),
    }
}

/// Runs work on the store away from the asynchronous threads.
async fn blocking<T: Send + 'static>(
    app: &App,
    work: impl FnOnce(App) -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ApiError> {
    let app = app.clone();
    Ok(tokio::task::spawn_blocking(move || work(app)).await??)
}

async fn find(app: &App, name: &str) -> Result<Image, ApiError> {
    let name = name.to_owned();
    blocking(app, move |app| app.images.find(&name)).await
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ListQuery {
    filters: Option<String>,
    #[serde(rename = "shared-size")]
    shared_size: Option<String>,
    digests: Option<String>,
    all: Option<String>,
}

fn is_true(text: Option<&str>) -> bool {
    text.is_some_and(|text| !matches!(text, "" | "0" | "no" | "false" | "none"))
}

async fn list(
    State(app): State<App>,
    Extension(version): Extension<ApiVersion>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Value>, ApiError> {
    let filters = Filters::parse(query.filters.as_deref())?;
    filters.only(&["before", "dangling", "label", "label!", "reference", "since", "until"])?;
    let _ = query.digests;
    let with_steps = is_true(query.all.as_deref());
    let dangling = filters.boolean("dangling")?;
    let until = filters.until()?;
    let before = bounds(&app, filters.values("before")).await?;
    let since = bounds(&app, filters.values("since")).await?;
    let references = filters.values("reference").to_vec();
    let shared = is_true(query.shared_size.as_deref());
    let images = blocking(&app, move |app| {
        let mut summaries = Vec::new();
        for mut image in app.images.list_with_steps(with_steps) {
            let named = !image.repo_tags.is_empty();
            let fits = dangling.is_none_or(|dangling| dangling != named)
                && filters.labels_fit(&image.config.labels)
                && until.is_none_or(|until| image.created.is_none_or(|created| created < until))
                && before.iter().all(|bound| image.created < *bound)
                && since.iter().all(|bound| image.created > *bound);
            if !fits {
                continue;
            }
            if !references.is_empty() {
                let wanted = |name: &String| references.iter().any(|pattern| name_fits(pattern, name));
                image.repo_tags.retain(wanted);
                image.repo_digests.retain(wanted);
                if image.repo_tags.is_empty() && image.repo_digests.is_empty() {
                    continue;
                }
            }
            let shared = if shared { json!(app.images.shared_size(&image.id)) } else { json!(-1) };
            let users = if version.is_from(51) {
                json!(app.containers.image_users(&image.id).len())
            } else {
                json!(-1)
            };
            summaries.push(summary(&image, &shared, &users, version));
        }
        Ok(summaries)
    })
    .await?;
    Ok(Json(Value::Array(images)))
}

async fn bounds(app: &App, names: &[String]) -> Result<Vec<Option<Timestamp>>, ApiError> {
    let mut bounds = Vec::new();
    for name in names {
        bounds.push(find(app, name).await?.created);
    }
    Ok(bounds)
}

/// `busy*`, `busybox`, `busybox:1.*`: against the whole name, or the name without its tag.
fn name_fits(pattern: &str, name: &str) -> bool {
    let Ok(reference) = Reference::parse(name) else { return false };
    let full = reference.repository();
    let without_domain = full.split_once('/').map_or(full.as_str(), |(_, path)| path).to_owned();
    let repositories = [reference.familiar_repository(), full, without_domain];
    let tag = reference.tag().unwrap_or_default();
    repositories.iter().any(|repository| {
        glob(pattern.as_bytes(), repository.as_bytes())
            || glob(pattern.as_bytes(), format!("{repository}:{tag}").as_bytes())
    })
}

/// `*` and `?`, neither of which stands for a slash.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut position) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while position < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, position));
                at += 1;
                continue;
            }
            Some(b'?') if text[position] != b'/' => {}
            Some(byte) if *byte == text[position] => {}
            _ => match star {
                Some((star_at, taken)) if text[taken] != b'/' => {
                    star = Some((star_at, taken + 1));
                    at = star_at + 1;
                    position = taken + 1;
                    continue;
                }
                _ => return false,
            },
        }
        at += 1;
        position += 1;
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

fn summary(image: &Image, shared: &Value, containers: &Value, version: ApiVersion) -> Value {
    let mut shown = json!({
        "Id": image.id,
        "ParentId": "",
        "RepoTags": image.repo_tags,
        "RepoDigests": image.repo_digests,
        "Created": image.created.map_or(0, Timestamp::as_second),
        "Size": image.size,
        "SharedSize": shared,
        "Labels": if image.config.labels.is_empty() { Value::Null } else { json!(image.config.labels) },
        "Containers": containers,
    });
    if !version.is_from(44) {
        shown["VirtualSize"] = image.size.into();
    }
    shown
}

/// For `docker system df`.
pub(super) async fn summaries_with_usage(app: &App, version: ApiVersion) -> Result<Vec<Value>, ApiError> {
    blocking(app, move |app| {
        let images = app.images.list();
        Ok(images
            .iter()
            .map(|image| {
                let shared = json!(app.images.shared_size(&image.id));
                summary(image, &shared, &json!(app.containers.image_users(&image.id).len()), version)
            })
            .collect())
    })
    .await
}

async fn inspect(app: &App, name: &str, version: ApiVersion) -> Result<Response, ApiError> {
    let image = find(app, name).await?;
    let id = image.id.clone();
    let lower = blocking(app, move |app| app.images.lower_dirs(&id)).await?;
    let lower: Vec<String> = lower.iter().map(|path| path.display().to_string()).collect();
    let (upper, below) =
        lower.split_first().map_or((String::new(), &[][..]), |(top, rest)| (top.clone(), rest));
    let mut graph = json!({"MergedDir": "", "UpperDir": upper, "WorkDir": ""});
    if !below.is_empty() {
        graph["LowerDir"] = json!(below.join(":"));
    }
    let config = &image.config;
    let map_or_null = |set: &std::collections::BTreeSet<String>| {
        if set.is_empty() {
            return Value::Null;
        }
        Value::Object(set.iter().map(|key| (key.clone(), json!({}))).collect())
    };
    let mut shown_config = json!({
        "User": config.user,
        "Env": if config.env.is_empty() { Value::Null } else { json!(config.env) },
        "Cmd": config.cmd,
        "Volumes": map_or_null(&config.volumes),
        "WorkingDir": config.working_dir,
        "Entrypoint": config.entrypoint,
        "OnBuild": config.on_build,
        "Labels": if config.labels.is_empty() { Value::Null } else { json!(config.labels) },
    });
    if !version.is_from(50) {
        for text in ["Hostname", "Domainname", "Image"] {
            shown_config[text] = "".into();
        }
        for flag in ["AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin", "StdinOnce"] {
            shown_config[flag] = false.into();
        }
    }
    // What is mostly unset is left out, as docker does.
    let optional = [
        ("ExposedPorts", map_or_null(&config.exposed_ports)),
        ("StopSignal", json!(config.stop_signal)),
        ("StopTimeout", json!(config.stop_timeout)),
        ("Shell", json!(config.shell)),
        ("Healthcheck", json!(config.healthcheck)),
    ];
    for (key, value) in optional.into_iter().filter(|(_, value)| !value.is_null()) {
        shown_config[key] = value;
    }
    let mut shown = json!({
        "Id": image.id,
        "RepoTags": image.repo_tags,
        "RepoDigests": image.repo_digests,
        "Parent": image.parent.as_ref().map_or("", |id| id.as_str()),
        "Comment": image.comment,
        "Created": image.created,
        "DockerVersion": "",
        "Author": image.author,
        "Config": shown_config,
        "Architecture": image.architecture,
        "Os": if image.os.is_empty() { "linux" } else { &image.os },
        "Size": image.size,
        "GraphDriver": {"Data": graph, "Name": "overlay2"},
        "RootFS": {"Type": "layers", "Layers": image.diff_ids},
        "Metadata": {
            "LastTagTime": image.last_tagged.map_or_else(|| json!("0001-01-01T00:00:00Z"), |time| json!(time)),
        },
    });
    if !version.is_from(44) {
        shown["VirtualSize"] = image.size.into();
    }
    if !image.variant.is_empty() {
        shown["Variant"] = json!(image.variant);
    }
    Ok(Json(shown).into_response())
}

async fn history(app: &App, name: &str) -> Result<Response, ApiError> {
    let image = find(app, name).await?;
    let mut sizes = image.layer_sizes.iter();
    let mut steps: Vec<Value> = image
        .history
        .iter()
        .map(|step| {
            let size = if step.empty_layer { 0 } else { sizes.next().copied().unwrap_or(0) };
            json!({
                "Id": "<missing>",
                "Created": step.created.map_or(0, Timestamp::as_second),
                "CreatedBy": step.created_by,
                "Tags": null,
                "Size": size,
                "Comment": step.comment,
            })
        })
        .collect();
    // Layers that the history forgot.
    for size in sizes {
        steps.push(json!({
            "Id": "<missing>", "Created": 0, "CreatedBy": "", "Tags": null, "Size": size, "Comment": "",
        }));
    }
    steps.reverse();
    if let Some(newest) = steps.first_mut() {
        newest["Id"] = json!(image.id);
        if !image.repo_tags.is_empty() {
            newest["Tags"] = json!(image.repo_tags);
        }
    }
    Ok(Json(steps).into_response())
}

async fn tag(app: &App, name: &str, query: &str) -> Result<Response, ApiError> {
    let query = parse_query(query);
    let repository = query.get("repo").filter(|repository| !repository.is_empty());
    let repository = repository
        .ok_or_else(|| ApiError::bad_request("repository name must have at least one component"))?;
    let target = match query.get("tag").filter(|tag| !tag.is_empty()) {
        Some(tag) => format!("{repository}:{tag}"),
        None => repository.clone(),
    };
    let (source, new_name) = (name.to_owned(), target.clone());
    let id = blocking(app, move |app| {
        app.images.tag(&source, &new_name)?;
        Ok(app.images.find(&new_name)?.id)
    })
    .await?;
    let shown = Reference::parse(&target)?.with_default_tag().familiar();
    app.events.publish("image", "tag", id.as_str(), &[("name", &shown)]);
    Ok(StatusCode::CREATED.into_response())
}

async fn remove(app: &App, name: &str, query: &str) -> Result<Response, ApiError> {
    let force = is_true(parse_query(query).get("force").map(String::as_str));
    let name = name.to_owned();
    app.containers.check_all_known()?;
    let (id, removed) = blocking(app, move |app| {
        let id = app.images.id(&name)?;
        let removed = app.images.remove(&name, force, &|id| app.containers.image_users(id))?;
        Ok((id, removed))
    })
    .await?;
    prune::publish_removal(app, &id, &removed);
    Ok(Json(removed).into_response())
}

#[derive(Deserialize)]
struct PruneQuery {
    filters: Option<String>,
}

async fn prune_images(
    State(app): State<App>,
    Query(query): Query<PruneQuery>,
) -> Result<Json<Value>, ApiError> {
    let filters = Filters::parse(query.filters.as_deref())?;
    filters.only(&["dangling", "label", "label!", "until"])?;
    let dangling_only = filters.boolean("dangling")?.unwrap_or(true);
    let until = filters.until()?;
    let fits = move |image: &Image| {
        until.is_none_or(|until| image.created.is_none_or(|created| created < until))
            && filters.labels_fit(&image.config.labels)
    };
    let worker = app.clone();
    let ImagePrune { removed, bytes, .. } = tokio::task::spawn_blocking(move || {
        // Whoever asks for room wants it more than what is left of pulls that failed.
        let downloads = worker.images.clear_downloads(Duration::ZERO);
        let pruned = prune::images(&worker, dangling_only, &fits);
        ImagePrune { bytes: pruned.bytes + downloads, ..pruned }
    })
    .await?;
    app.events.publish("image", "prune", "", &[("reclaimed", &bytes.to_string())]);
    let removed = if removed.is_empty() { Value::Null } else { json!(removed) };
    Ok(Json(json!({"ImagesDeleted": removed, "SpaceReclaimed": bytes})))
}

/// Imports what the client sends, or pulls.
async fn create(
    State(app): State<App>,
    Query(query): Query<Vec<(String, String)>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let given = |key: &str| query.iter().any(|(name, value)| name == key && !value.is_empty());
    match (given("fromImage"), given("fromSrc")) {
        (false, true) => making::import(app, query, body),
        (true, false) => registry::create(app, query.into_iter().collect(), &headers).await,
        _ => Err(ApiError::bad_request("one of `fromImage` and `fromSrc` is needed")),
    }
}

fn parse_query(query: &str) -> BTreeMap<String, String> {
    let uri = format!("/?{query}").parse().unwrap_or_default();
    Query::<BTreeMap<String, String>>::try_from_uri(&uri).map(|Query(map)| map).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_names_with_and_without_tag() {
        for (pattern, name, fits) in [
            ("busybox", "busybox:latest", true),
            ("busy*", "busybox:latest", true),
            ("busybox:l*", "busybox:latest", true),
            ("library/busybox", "busybox:1", true),
            ("docker.io/library/busybox", "busybox:1", true),
            ("*/app", "me/app:1", true),
            ("*", "me/app:1", false),
            ("busybox:2", "busybox:1", false),
            ("busy", "busybox:1", false),
            ("b?sybox:?", "busybox:1", true),
        ] {
            assert_eq!(name_fits(pattern, name), fits, "{pattern} {name}");
        }
        assert!(glob(b"a*b*c", b"aXbYbc") && !glob(b"a*b*c", b"aXbYb"));
    }
}
