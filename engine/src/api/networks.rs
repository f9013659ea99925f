//! `/networks/…`

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use engine_model::Patterns;
use engine_model::wire::unknown_warning;
use engine_network::{Attachment, NetworkRecord, NewNetwork, PoolRecord, WishedPool};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::ApiError;
use super::containers::{body, or_nothing, read};
use super::filters::Filters;
use crate::app::{App, publish_network as publish};

mod membership;

pub fn routes() -> Router<App> {
    Router::new()
        .route("/networks", get(list))
        .route("/networks/create", post(create))
        .route("/networks/prune", post(prune))
        .route("/networks/{id}", get(inspect).delete(remove))
        .route("/networks/{id}/connect", post(membership::connect))
        .route("/networks/{id}/disconnect", post(membership::disconnect))
}

#[derive(Deserialize)]
struct FilterQuery {
    filters: Option<String>,
}

/// A network as every answer shows it; containers are shown by `inspect` only.
fn describe(network: &NetworkRecord, attachments: &[Attachment]) -> Value {
    let pool = |pool: &PoolRecord| {
        let mut shown = Map::new();
        shown.insert("Subnet".to_owned(), pool.subnet.to_string().into());
        if let Some(range) = pool.range {
            shown.insert("IPRange".to_owned(), range.to_string().into());
        }
        shown.insert("Gateway".to_owned(), pool.gateway.to_string().into());
        if !pool.auxiliary.is_empty() {
            shown.insert("AuxiliaryAddresses".to_owned(), json!(pool.auxiliary));
        }
        Value::Object(shown)
    };
    let pools: Vec<Value> = network.pools.iter().map(pool).collect();
    let containers: Map<String, Value> = attachments
        .iter()
        .map(|Attachment { container, endpoint, .. }| {
            let shown = json!({
                "Name": endpoint.container_name,
                "EndpointID": endpoint.endpoint_id,
                "MacAddress": endpoint.mac_address,
                "IPv4Address": format!("{}/{}", endpoint.address, endpoint.prefix),
                "IPv6Address": endpoint.ipv6.map(|place| format!("{}/{}", place.address, place.prefix)).unwrap_or_default(),
            });
            (container.clone(), shown)
        })
        .collect();
    json!({
        "Name": network.name,
        "Id": network.id,
        "Created": network.created.to_string(),
        "Scope": "local",
        "Driver": network.driver(),
        "EnableIPv4": true,
        "EnableIPv6": network.has_ipv6(),
        "IPAM": {
            "Driver": "default",
            "Options": null,
            "Config": if pools.is_empty() { Value::Null } else { pools.into() },
        },
        "Internal": network.internal,
        "Attachable": network.attachable,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": containers,
        "Options": network.options,
        "Labels": network.labels,
    })
}

/// Of a list's filters, those that are regular expressions.
struct NamePatterns {
    ids: Patterns,
    names: Patterns,
}

fn fits(
    filters: &Filters,
    patterns: &NamePatterns,
    network: &NetworkRecord,
    is_used: bool,
) -> Result<bool, ApiError> {
    let any = |key: &str, test: &dyn Fn(&str) -> bool| {
        let values = filters.values(key);
        values.is_empty() || values.iter().any(|value| test(value))
    };
    let kinds = filters.values("type");
    if let Some(odd) = kinds.iter().find(|kind| !matches!(kind.as_str(), "custom" | "builtin")) {
        return Err(ApiError::bad_request(format!("invalid filter: 'type'='{odd}'")));
    }
    let kind = if network.is_built_in() { "builtin" } else { "custom" };
    let dangling = filters.boolean("dangling")?;
    Ok(patterns.ids.fit(&network.id)
        && patterns.names.fit(&network.name)
        && any("driver", &|value| network.driver() == value)
        && any("scope", &|value| value == "local")
        && any("type", &|value| kind == value)
        && filters.labels_fit(&network.labels)
        && dangling.is_none_or(|wanted| wanted == (!is_used && !network.is_built_in())))
}

async fn list(State(app): State<App>, Query(query): Query<FilterQuery>) -> Result<Json<Value>, ApiError> {
    let filters = Filters::parse(query.filters.as_deref())?;
    filters.only(&["dangling", "driver", "id", "label", "name", "scope", "type"])?;
    let patterns = NamePatterns {
        ids: Patterns::new(filters.values("id")),
        names: Patterns::new(filters.values("name")),
    };
    let mut shown = Vec::new();
    for network in app.network.networks() {
        let is_used = !app.network.attachments(&network.id).is_empty();
        if fits(&filters, &patterns, &network, is_used)? {
            shown.push(describe(&network, &[]));
        }
    }
    Ok(Json(shown.into()))
}

async fn inspect(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let network = app.network.find(&id)?;
    let attachments = app.network.attachments(&network.id);
    Ok(Json(describe(&network, &attachments)))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
#[expect(clippy::struct_excessive_bools, reason = "so the API has it")]
struct CreateBody {
    #[serde(default)]
    name: String,
    driver: Option<String>,
    scope: Option<String>,
    #[serde(default)]
    internal: bool,
    #[serde(default)]
    attachable: bool,
    #[serde(default)]
    ingress: bool,
    #[serde(default)]
    config_only: bool,
    config_from: Option<ConfigFrom>,
    /// Names have always been unique here.
    #[serde(rename = "CheckDuplicate")]
    _check_duplicate: Option<bool>,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: Option<bool>,
    #[serde(rename = "EnableIPv4")]
    enable_ipv4: Option<bool>,
    #[serde(rename = "IPAM")]
    ipam: Option<Ipam>,
    options: Option<BTreeMap<String, String>>,
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ConfigFrom {
    network: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Ipam {
    driver: Option<String>,
    options: Option<BTreeMap<String, String>>,
    config: Option<Vec<IpamPool>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct IpamPool {
    subnet: Option<String>,
    #[serde(rename = "IPRange")]
    ip_range: Option<String>,
    gateway: Option<String>,
    auxiliary_addresses: Option<BTreeMap<String, String>>,
}

impl CreateBody {
    /// Refuses what this engine does not do, by name.
    fn into_wish(self) -> Result<NewNetwork, ApiError> {
        let ipam = self.ipam.unwrap_or_default();
        let pools = ipam.config.unwrap_or_default();
        let options = self.options.unwrap_or_default();
        let driver = self.driver.clone().unwrap_or_default();
        let is_followed = |name: &str, value: &str| engine_network::is_followed(&driver, name, value);
        if let Some((unknown, _)) = options.iter().find(|(name, value)| !is_followed(name, value)) {
            return Err(ApiError::not_implemented(&format!(
                "`Options`: the option `{unknown:.100}` of a network"
            )));
        }
        let is_said = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        let unsupported = [
            (
                self.scope.is_some_and(|scope| !matches!(scope.as_str(), "" | "local")),
                "`Scope`: a network of another scope than `local`",
            ),
            (self.driver.as_deref() == Some("overlay"), "The network driver `overlay`"),
            (self.ingress, "`Ingress`, for networks of a swarm,"),
            (self.config_only, "`ConfigOnly`, a network that is configuration only,"),
            (
                self.config_from.is_some_and(|from| is_said(&from.network)),
                "`ConfigFrom.Network`, a network that takes its configuration from another,",
            ),
            (ipam.options.is_some_and(|options| !options.is_empty()), "`IPAM.Options`"),
            (self.enable_ipv4 == Some(false), "`EnableIPv4`: a network without IPv4"),
            (
                ipam.driver.is_some_and(|driver| !matches!(driver.as_str(), "" | "default")),
                "`IPAM.Driver`: another driver than `default`",
            ),
        ];
        if let Some((_, what)) = unsupported.into_iter().find(|(is_wished, _)| *is_wished) {
            return Err(ApiError::not_implemented(what));
        }
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let mut wished = Vec::new();
        for pool in pools {
            let IpamPool { subnet, ip_range, gateway, auxiliary_addresses } = pool;
            let (range, gateway) = (given(ip_range), given(gateway));
            let auxiliary = auxiliary_addresses.unwrap_or_default();
            match given(subnet) {
                Some(subnet) => wished.push(WishedPool { subnet, range, gateway, auxiliary }),
                None if range.is_some() || gateway.is_some() || !auxiliary.is_empty() => {
                    let message = "invalid network config:\ninvalid subnet : invalid CIDR block notation";
                    return Err(ApiError::bad_request(message));
                }
                None => {}
            }
        }
        Ok(NewNetwork {
            name: self.name,
            driver: self.driver.unwrap_or_default(),
            internal: self.internal,
            attachable: self.attachable,
            labels: self.labels.unwrap_or_default(),
            options,
            ipv6: self.enable_ipv6 == Some(true),
            pools: wished,
        })
    }
}

async fn create(State(app): State<App>, bytes: Bytes) -> Result<Response, ApiError> {
    let (wish, unknown) = read::<CreateBody>(or_nothing(&bytes))?;
    if wish.name.trim().is_empty() {
        return Err(ApiError::bad_request("invalid name: name is empty"));
    }
    let network = app.network.create(wish.into_wish()?).await?;
    publish(&app, "create", &network, &[]);
    let warnings: Vec<String> = unknown.iter().map(|field| unknown_warning(field)).collect();
    let warning = warnings.join("; ");
    Ok((StatusCode::CREATED, Json(json!({ "Id": network.id, "Warning": warning }))).into_response())
}

async fn remove(State(app): State<App>, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    let network = app.network.remove(&id).await?;
    publish(&app, "destroy", &network, &[]);
    Ok(StatusCode::NO_CONTENT)
}

async fn prune(State(app): State<App>, Query(query): Query<FilterQuery>) -> Result<Json<Value>, ApiError> {
    let filters = Filters::parse(query.filters.as_deref())?;
    filters.only(&["label", "label!", "until"])?;
    let until = filters.until()?;
    let mut deleted = Vec::new();
    for network in app.network.networks() {
        let is_old_enough = until.is_none_or(|until| network.created < until);
        if network.is_built_in() || !is_old_enough || !filters.labels_fit(&network.labels) {
            continue;
        }
        // One that is in use, or has just been removed, is left.
        if let Ok(network) = app.network.remove(&network.id).await {
            publish(&app, "destroy", &network, &[]);
            deleted.push(network.name);
        }
    }
    let deleted = if deleted.is_empty() { Value::Null } else { json!(deleted) };
    Ok(Json(json!({ "NetworksDeleted": deleted })))
}
