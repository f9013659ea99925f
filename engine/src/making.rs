//! Images that are made of containers and of archives.

use std::io::Read;
use std::sync::Arc;

use engine_containers::Container;
use engine_images::{Layer, Reference};
use engine_model::wire::{Config, ImageConfig};
use engine_model::{Failure, ImageId, Kind, NewImage};

use crate::app::App;

/// What `docker commit` wants.
#[derive(Debug, Default)]
pub struct CommitRequest {
    /// The name, if it gets one.
    pub name: Option<String>,
    pub author: String,
    pub comment: String,
    /// Instructions of a Dockerfile.
    pub changes: Vec<String>,
    pub pause: bool,
    /// What counts before the container's own configuration.
    pub config: Option<Config>,
}

/// Makes an image of a container as it is.
pub async fn commit(
    app: &App,
    container: &Arc<Container>,
    request: CommitRequest,
) -> Result<ImageId, Failure> {
    if container.is_removing() {
        let message = format!("You cannot commit container {} which is being removed", container.id);
        return Err(Failure::new(Kind::Conflict, message));
    }
    let mut own = app.containers.image_config(container);
    // It says of a container that a build runs in it, not of what is made of that.
    own.labels.remove(engine_build::LABEL);
    let mut config = match &request.config {
        Some(wanted) => ImageConfig::from(wanted),
        None => own.clone(),
    };
    engine_build::change(&mut config, &request.changes)
        .map_err(|error| Failure::new(Kind::Invalid, error.message))?;
    fill(&mut config, own);
    let name = request.name.as_deref().map(shown).transpose()?;
    let identity = container.identity();
    let new = NewImage {
        parent: Some(identity.image_id.clone()),
        config,
        author: request.author,
        comment: request.comment.clone(),
        created_by: identity.command.join(" "),
        names: request.name.into_iter().collect(),
        ..NewImage::default()
    };
    let images = app.images.clone();
    let make = move |changes| Ok(images.make(&new, Layer::Changes(&changes))?);
    let id = app.containers.with_changes(container, request.pause, make).await.map_err(Failure::from)?;
    if let Some(name) = &name {
        app.events.publish("image", "tag", id.as_str(), &[("name", name)]);
    }
    app.containers.committed(container, &id, name.as_deref().unwrap_or_default(), &request.comment);
    Ok(id)
}

/// A name as people write it, if it is one that an image can have.
fn shown(name: &str) -> Result<String, Failure> {
    Ok(Reference::parse(name)?.with_default_tag().familiar())
}

/// What a configuration leaves open is as in another.
fn fill(config: &mut ImageConfig, other: ImageConfig) {
    if config.user.is_empty() {
        config.user = other.user;
    }
    config.exposed_ports.extend(other.exposed_ports);
    for entry in other.env {
        let name = entry.split('=').next().unwrap_or_default();
        if !config.env.iter().any(|known| known.split('=').next() == Some(name)) {
            config.env.push(entry);
        }
    }
    // A new entry point does not go with an old command.
    if config.entrypoint.as_ref().is_none_or(Vec::is_empty) {
        if config.cmd.as_ref().is_none_or(Vec::is_empty) {
            config.cmd = other.cmd;
        }
        config.entrypoint = other.entrypoint;
    }
    config.volumes.extend(other.volumes);
    if config.working_dir.is_empty() {
        config.working_dir = other.working_dir;
    }
    for (name, value) in other.labels {
        config.labels.entry(name).or_insert(value);
    }
    config.stop_signal = config.stop_signal.take().or(other.stop_signal);
    config.stop_timeout = config.stop_timeout.or(other.stop_timeout);
    config.shell = config.shell.take().or(other.shell);
    config.on_build = config.on_build.take().or(other.on_build);
    config.healthcheck = config.healthcheck.take().or(other.healthcheck);
}

/// What `docker import` wants.
#[derive(Debug, Default)]
pub struct ImportRequest {
    pub name: Option<String>,
    pub message: String,
    pub changes: Vec<String>,
    /// Empty for this host's.
    pub architecture: String,
    pub variant: String,
}

impl ImportRequest {
    /// What can be refused before there is an archive.
    pub fn check(&self) -> Result<ImageConfig, Failure> {
        if let Some(name) = &self.name {
            let _ = shown(name)?;
        }
        let mut config = ImageConfig::default();
        engine_build::change(&mut config, &self.changes)
            .map_err(|error| Failure::new(Kind::Invalid, error.message))?;
        Ok(config)
    }
}

/// Makes an image of one layer out of an archive. Blocks.
pub fn import(
    app: &App,
    request: ImportRequest,
    archive: &mut (dyn Read + Send),
) -> Result<ImageId, Failure> {
    let config = request.check()?;
    let name = request.name.as_deref().map(shown).transpose()?;
    let new = NewImage {
        config,
        architecture: request.architecture,
        variant: request.variant,
        comment: request.message,
        names: request.name.into_iter().collect(),
        ..NewImage::default()
    };
    let id = app.images.make(&new, Layer::Archive(archive))?;
    app.events.publish("image", "import", id.as_str(), &[("name", name.as_deref().unwrap_or(id.as_str()))]);
    Ok(id)
}
