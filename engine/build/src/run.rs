//! `RUN`: a command in a container, and what becomes of its output.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine_kernel::confine::{Root, copy_tree};
use engine_model::executor::LogRequest;
use engine_model::wire::{
    BindOptions, Config, CreateRequest, HealthConfig, HostConfig, LogConfig, Mount as WireMount, TmpfsOptions,
};
use engine_model::{Failure, ImageId, Kind};
use rustix::fs::OFlags;
use tokio_util::sync::CancellationToken;

use super::error::BuildError;
use super::outside::Told;
use super::shop::Shop;
use super::voice::Voice;

/// Marks containers that a build runs commands in, for people to see. What an engine that was killed has left is told by what
/// the builder noted, as anybody can give a label.
pub const LABEL: &str = "engine.build";

/// A command that is to be run.
#[derive(Clone)]
pub(crate) struct Wish {
    pub(crate) image: ImageId,
    pub(crate) words: Vec<String>,
    pub(crate) environment: Vec<String>,
    /// More of it, of which nothing is written down.
    pub(crate) lent: Vec<String>,
    pub(crate) user: String,
    pub(crate) working_dir: String,
    pub(crate) host: HostConfig,
    pub(crate) mounts: Vec<WireMount>,
    /// What the command is called when it fails.
    pub(crate) shown: String,
}

impl Wish {
    fn request(&self) -> CreateRequest {
        let mut host_config = self.host.clone();
        // The output is read from there.
        host_config.log_config = LogConfig { r#type: "json-file".to_owned(), config: BTreeMap::new() };
        host_config.mounts = Some(self.mounts.clone()).filter(|mounts| !mounts.is_empty());
        let config = Config {
            image: self.image.to_string(),
            cmd: Some(self.words.clone()),
            // Takes the image's away.
            entrypoint: Some(vec![String::new()]),
            env: self.environment.clone(),
            user: self.user.clone(),
            working_dir: self.working_dir.clone(),
            healthcheck: Some(HealthConfig { test: vec!["NONE".to_owned()], ..HealthConfig::default() }),
            labels: [(LABEL.to_owned(), "1".to_owned())].into(),
            ..Config::default()
        };
        CreateRequest { config, host_config, ..CreateRequest::default() }
    }
}

/// A container of a build. Whoever holds it removes it; if nobody does any more, it is removed all the same.
#[derive(Debug)]
pub(crate) struct Running {
    shop: Arc<Shop>,
    pub(crate) id: String,
    is_settled: bool,
}

impl Running {
    /// The 12 digits that people see.
    pub(crate) fn short(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }

    pub(crate) async fn remove(mut self) {
        self.is_settled = true;
        remove(&self.shop, &self.id).await;
    }

    /// Leaves it to the user.
    pub(crate) fn keep(mut self) {
        self.is_settled = true;
        self.shop.let_go(&self.id);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_settled {
            return;
        }
        let (shop, id) = (Arc::clone(&self.shop), self.id.clone());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { remove(&shop, &id).await });
        }
    }
}

async fn remove(shop: &Shop, id: &str) {
    match shop.executor.remove(id, true, true).await {
        Err(error) if error.kind != Kind::NotFound => {
            tracing::warn!(%error, container = id, "Could not remove a container of a build");
        }
        _ => shop.let_go(id),
    }
}

/// Makes the container.
pub(crate) async fn prepare(shop: &Arc<Shop>, wish: &Wish) -> Result<Running, BuildError> {
    let prepared = shop.executor.prepare(None, wish.request()).await?;
    let running = Running { shop: Arc::clone(shop), id: prepared.id, is_settled: false };
    let (noting, id) = (Arc::clone(shop), running.id.clone());
    let noted = tokio::task::spawn_blocking(move || noting.claim(&id)).await?;
    noted.map_err(|error| super::stage::failed("RUN", &error))?;
    Ok(running)
}

/// Runs the command to its end, and passes on what it writes.
pub(crate) async fn run(
    container: &Running,
    wish: &Wish,
    voice: &Voice,
    cancelled: &CancellationToken,
) -> Result<(), BuildError> {
    let executor = &container.shop.executor;
    let mut life = executor.wait(&container.id).await?;
    let exits = life.borrow().exits;
    executor.lend(&container.id, wish.lent.clone()).await?;
    executor.start(&container.id).await?;
    let request = LogRequest { follow: true, stdout: true, stderr: true, ..LogRequest::default() };
    let mut logs = executor.logs(&container.id, request).await?;
    let pass_on = async {
        let mut frames = Frames::default();
        while let Some(piece) = logs.stream.recv().await {
            let piece = piece.map_err(|error| Failure::of(Kind::Internal, &error))?;
            for text in frames.add(&piece) {
                voice.pass_on(text).await?;
            }
        }
        Ok::<_, BuildError>(())
    };
    tokio::select! {
        passed = pass_on => passed?,
        () = cancelled.cancelled() => return Err(BuildError::Cancelled),
    }
    let ended = tokio::select! {
        ended = life.wait_for(|life| life.removed || life.exits > exits) => ended.map(|life| life.clone()).unwrap_or_default(),
        () = cancelled.cancelled() => return Err(BuildError::Cancelled),
    };
    if ended.removed && ended.exits == exits {
        let message = format!("the container of `{}` was removed", wish.shown);
        return Err(Failure::new(Kind::Conflict, message).into());
    }
    match ended.exit_code {
        0 => Ok(()),
        code => Err(BuildError::Command { command: wish.words.join(" "), code }),
    }
}

/// Takes apart what the engine's logs come in: a byte for the stream, three of nothing, four for the length.
#[derive(Debug, Default)]
struct Frames {
    rest: Vec<u8>,
}

impl Frames {
    fn add(&mut self, piece: &[u8]) -> Vec<Told> {
        self.rest.extend_from_slice(piece);
        let mut told = Vec::new();
        let mut at = 0;
        while let Some(head) = self.rest.get(at..at + 8) {
            let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
            let is_error = head[0] == 2;
            let Some(content) = self.rest.get(at + 8..at + 8 + length) else { break };
            let text = String::from_utf8_lossy(content).into_owned();
            told.push(if is_error { Told::Errors(text) } else { Told::Text(text) });
            at += 8 + length;
        }
        self.rest.drain(..at);
        told
    }
}

/// A directory or file of the host in a container.
pub(crate) fn bind(source: &Path, target: &str, read_only: bool) -> WireMount {
    WireMount {
        r#type: "bind".to_owned(),
        source: source.to_string_lossy().into_owned(),
        target: target.to_owned(),
        read_only,
        bind_options: Some(BindOptions::default()),
        ..WireMount::default()
    }
}

pub(crate) fn tmpfs(target: &str, size: Option<u64>) -> WireMount {
    let size_bytes = size.and_then(|size| i64::try_from(size).ok()).unwrap_or(0);
    WireMount {
        r#type: "tmpfs".to_owned(),
        target: target.to_owned(),
        tmpfs_options: Some(TmpfsOptions { size_bytes, ..TmpfsOptions::default() }),
        ..WireMount::default()
    }
}

/// A copy of a part of a tree, for a command to look at or to change as it likes. Blocks.
pub(crate) fn copy_of(root: &Root, source: &Path, into: &Path) -> std::io::Result<PathBuf> {
    let end = root.end_of_links(source)?;
    let copy = into.join("copy");
    if root.get(&end, OFlags::PATH | OFlags::DIRECTORY).is_ok() {
        std::fs::create_dir_all(&copy)?;
        let from = root.get(&end, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let to = std::fs::File::open(&copy)?;
        copy_tree(&from, &to)?;
        return Ok(copy);
    }
    std::fs::create_dir_all(into)?;
    let (parent, name) = root.parent(&end)?;
    let mut file = engine_kernel::confine::open_regular(&parent, name)?;
    let mode = file.metadata()?.permissions();
    let mut made = std::fs::File::create_new(&copy)?;
    std::io::copy(&mut file, &mut made)?;
    made.set_permissions(mode)?;
    Ok(copy)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn frames_are_put_together() {
        let mut frames = Frames::default();
        let bytes = [&[1, 0, 0, 0, 0, 0, 0, 3][..], b"out", &[2, 0, 0, 0, 0, 0, 0, 5], b"error"].concat();
        let mut told = Vec::new();
        for piece in bytes.chunks(5) {
            told.extend(frames.add(piece));
        }
        assert_eq!(told, [Told::Text("out".to_owned()), Told::Errors("error".to_owned())]);
    }
}
