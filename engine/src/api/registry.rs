//! What registries are asked beside images: `/auth`, `/images/search`, `/distribution/NAME/json`.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::routing::{get, post};
use axum::{Json, Router};
use engine_images::{ImageError, Reference};
use engine_registry::{Credentials, Document};
use serde_json::{Value, json};

use super::ApiError;
use super::filters::Filters;
use super::images::registry::credentials;
use crate::app::App;

/// What dockerd takes for a search that does not say how much it wants, and the most it gives.
const SEARCH: u32 = 25;
const LONGEST_SEARCH: u32 = 100;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/auth", post(login))
        .route("/images/search", get(search))
        .route("/distribution/{*name}", get(distribution))
}

async fn login(State(app): State<App>, body: Bytes) -> Result<Json<Value>, ApiError> {
    let credentials = Credentials::of_json(&body)?;
    let login = app.pulls.registries.login(&credentials).await?;
    Ok(Json(json!({"Status": "Login Succeeded", "IdentityToken": login.identity_token})))
}

async fn search(
    State(app): State<App>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Result<Json<Value>, ApiError> {
    let term = query.get("term").filter(|term| !term.is_empty());
    let term = term.ok_or_else(|| ApiError::bad_request("`term` is needed"))?;
    let limit = match query.get("limit").map(String::as_str) {
        None | Some("" | "0") => SEARCH,
        Some(text) => {
            text.parse().ok().filter(|limit| (1..=LONGEST_SEARCH).contains(limit)).ok_or_else(|| {
                ApiError::bad_request(format!("limit {text} is outside the range of [1, {LONGEST_SEARCH}]"))
            })?
        }
    };
    let filters = Filters::parse(query.get("filters").map(String::as_str))?;
    filters.only(&["is-automated", "is-official", "stars"])?;
    let (official, automated) = (filters.boolean("is-official")?, filters.boolean("is-automated")?);
    let stars = filters.values("stars").iter().map(|stars| {
        stars.parse::<i64>().map_err(|_| ApiError::bad_request(format!("invalid filter 'stars={stars}'")))
    });
    let stars = stars.collect::<Result<Vec<_>, _>>()?.into_iter().max().unwrap_or(0);
    let credentials = credentials(&headers);
    let found = app.pulls.registries.search(term, limit, &credentials).await?;
    let fits = |found: &&engine_registry::Found| {
        official.is_none_or(|wanted| wanted == found.is_official)
            && automated.is_none_or(|wanted| wanted == found.is_automated)
            && found.star_count >= stars
    };
    let shown = found.iter().filter(fits).map(|found| {
        json!({
            "name": found.name,
            "description": found.description,
            "star_count": found.star_count,
            "is_official": found.is_official,
            "is_automated": found.is_automated,
        })
    });
    Ok(Json(Value::Array(shown.collect())))
}

/// The first manifest that a name leads to, and for which platforms there are some.
async fn distribution(
    State(app): State<App>,
    Path(path): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, ApiError> {
    let name = path.strip_suffix("/json").ok_or_else(|| ApiError::not_found("page not found"))?;
    let name = Reference::parse(name)?.with_default_tag();
    let credentials = credentials(&headers);
    let reference = name.tag_or_digest();
    let mut sources = app.pulls.registries.pull_from(name.domain(), name.path(), &credentials).await?;
    let last = sources.pop();
    for source in &sources {
        if let Ok(document) = source.manifest(reference).await {
            return Ok(Json(shown(&app, source, &document).await?));
        }
    }
    let Some(source) = last else { return Err(ApiError::not_found("there is no registry to ask")) };
    let document =
        source.manifest(reference).await.map_err(|error| ImageError::from(error).of_pull(&name))?;
    Ok(Json(shown(&app, &source, &document).await?))
}

async fn shown(app: &App, source: &engine_registry::Source, document: &Document) -> Result<Value, ApiError> {
    let platforms = app.images.platforms(source, document).await?;
    let platforms = platforms.iter().map(|platform| {
        let mut shown = json!({"architecture": platform.architecture, "os": platform.os});
        if !platform.variant.is_empty() {
            shown["variant"] = json!(platform.variant);
        }
        shown
    });
    Ok(json!({
        "Descriptor": {
            "mediaType": document.media_type.as_str(),
            "digest": document.digest,
            "size": document.bytes.len(),
        },
        "Platforms": platforms.collect::<Vec<_>>(),
    }))
}
