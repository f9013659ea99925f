//! `docker network connect` and `disconnect`.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use engine_containers::Container;
use engine_containers::record::Identity;
use engine_model::wire::EndpointConfig;
use engine_model::{EndpointRequest, PortRequest, PublishedPort};
use engine_network::{NetworkKind, NetworkRecord};
use serde::Deserialize;

use super::{body, or_nothing, publish};
use crate::api::ApiError;
use crate::app::App;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ConnectBody {
    #[serde(default)]
    container: String,
    endpoint_config: Option<EndpointConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DisconnectBody {
    #[serde(default)]
    container: String,
    #[serde(default)]
    force: bool,
}

fn forbidden(message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, message)
}

fn is_this(network: &NetworkRecord, name: &str) -> bool {
    name == network.name || name == network.id || (network.name == "bridge" && matches!(name, "default" | ""))
}

/// Whether a container will be on a network when it starts.
fn is_planned(network: &NetworkRecord, identity: &Identity) -> bool {
    identity.networks.keys().any(|name| is_this(network, name))
        || (!identity.left_first_network && is_this(network, &identity.host.network_mode))
}

/// Refuses containers whose network is not their own.
fn check(container: &Container, network: &NetworkRecord) -> Result<(), ApiError> {
    if network.kind == NetworkKind::Host {
        return Err(ApiError::bad_request(
            "cannot connect container to host network - container must be created in host network mode",
        ));
    }
    let identity = container.identity();
    let mode = identity.host.network_mode.as_str();
    if mode == "host" || mode.starts_with("container:") {
        return Err(ApiError::bad_request(
            "container sharing network namespace with another container or host cannot be connected to any other network",
        ));
    }
    if mode == "none" || network.kind == NetworkKind::Null {
        return Err(ApiError::bad_request(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode",
        ));
    }
    Ok(())
}

fn request(
    app: &App,
    container: &Container,
    network: &NetworkRecord,
    wish: &EndpointConfig,
) -> Result<EndpointRequest, ApiError> {
    let naming = app.containers.naming(container, &*container.spec()?);
    let wish = engine_containers::endpoint(&network.id, wish)?;
    Ok(engine_containers::endpoint_request(&wish, &container.identity().name, naming))
}

fn named(container: &str) -> Result<(), ApiError> {
    if container.is_empty() {
        return Err(ApiError::bad_request("invalid name or ID supplied: \"\""));
    }
    Ok(())
}

pub(super) async fn connect(
    State(app): State<App>,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Result<StatusCode, ApiError> {
    let ConnectBody { container, endpoint_config } = body(or_nothing(&bytes))?;
    named(&container)?;
    let wish = endpoint_config.unwrap_or_default();
    let network = app.network.find(&id)?;
    engine_containers::refuse_endpoint(&network.name, &wish, "EndpointConfig.")?;
    let container = app.containers.find(&container)?;
    let _operation = container.operation.lock().await;
    check(&container, &network)?;
    let has_alias = wish.aliases.as_ref().is_some_and(|aliases| !aliases.is_empty());
    if has_alias && network.is_built_in() {
        let message = "invalid endpoint settings:\nnetwork-scoped alias is supported only for containers in user defined networks";
        return Err(ApiError::bad_request(message));
    }
    let identity = container.identity();
    let state = container.state();
    let is_member = if state.status.is_alive() {
        state.endpoints.iter().any(|endpoint| endpoint.network_id == network.id)
    } else {
        is_planned(&network, &identity)
    };
    if is_member {
        let message =
            format!("endpoint with name {} already exists in network {}", identity.name, network.name);
        return Err(forbidden(message));
    }
    let request = request(&app, &container, &network, &wish)?;
    if state.status.is_alive() {
        let namespace = container.namespace("net")?;
        let endpoint = app.network.attach(&container.id, &namespace.path(), &request).await?;
        container.change_state(|state| state.endpoints.push(endpoint));
    }
    container.change_identity(|identity| {
        let mode = &identity.host.network_mode;
        let is_first = is_this(&network, mode);
        let key = if is_first { mode } else { &network.name };
        identity.networks.insert(key.clone(), wish);
        identity.left_first_network &= !is_first;
    })?;
    publish(&app, "connect", &network, &[("container", &container.id)]);
    Ok(StatusCode::OK)
}

pub(super) async fn disconnect(
    State(app): State<App>,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Result<StatusCode, ApiError> {
    let DisconnectBody { container, force } = body(or_nothing(&bytes))?;
    named(&container)?;
    let network = app.network.find(&id)?;
    let container = match app.containers.find(&container) {
        Ok(container) => container,
        // What is left of a container that is gone.
        Err(_) if force => {
            app.network.detach(&container, None, &network.id).await?;
            return Ok(StatusCode::OK);
        }
        Err(error) => return Err(error.into()),
    };
    let _operation = container.operation.lock().await;
    let identity = container.identity();
    if identity.host.network_mode == "host" && network.kind == NetworkKind::Host {
        return Err(forbidden(
            "container cannot be disconnected from host network or connected to host network",
        ));
    }
    let state = container.state();
    let endpoint = state.endpoints.iter().find(|endpoint| endpoint.network_id == network.id);
    if endpoint.is_none() && !is_planned(&network, &identity) {
        let message = format!("container {} is not connected to network {}", container.id, network.name);
        return Err(forbidden(message));
    }
    if endpoint.is_some() {
        let members = app.network.attachments(&network.id);
        let had_ports =
            members.iter().any(|member| member.container == container.id && !member.ports.is_empty());
        match container.namespace("net") {
            Ok(namespace) => {
                app.network.detach(&container.id, Some(&namespace.path()), &network.id).await?;
            }
            // It can be taken off a network even where nobody gets into its namespace.
            Err(_) => app.network.detach(&container.id, None, &network.id).await?,
        }
        let mut state = state;
        state.endpoints.retain(|endpoint| endpoint.network_id != network.id);
        if had_ports {
            // They stay published, by the next network the container is on where that can be.
            let next = state.endpoints.iter().find(|endpoint| !endpoint.host_interface.is_empty());
            state.ports = match next {
                Some(next) => app.network.publish(&container.id, next, &again(&state.ports)).await?,
                None => Vec::new(),
            };
        }
        container.change_state(|current| {
            current.endpoints = state.endpoints;
            current.ports = state.ports;
        });
    }
    container.change_identity(|identity| {
        identity.networks.retain(|name, _| !is_this(&network, name));
        identity.left_first_network |= is_this(&network, &identity.host.network_mode);
    })?;
    publish(&app, "disconnect", &network, &[("container", &container.id)]);
    Ok(StatusCode::OK)
}

/// The requests that lead to these very ports.
fn again(ports: &[PublishedPort]) -> Vec<PortRequest> {
    ports
        .iter()
        .map(|port| PortRequest {
            protocol: port.protocol,
            container_port: port.container_port,
            host_ip: Some(port.host_ip),
            host_port: Some(port.host_port),
            last_host_port: None,
        })
        .collect()
}
