//! The step `RUN`: what its command is, what is mounted for it, and the layer that it leaves.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine_model::wire::Mount as WireMount;
use engine_model::{ImageId, NewImage, NewStep};
use sha2::{Digest, Sha256};

use super::copy::{Look, Target};
use super::error::BuildError;
use super::flags::{Mount, MountKind, Sharing};
use super::ignore::Ignored;
use super::instruction::{Command, Run};
use super::lent::Lent;
use super::mounted::{plain, within};
use super::run::{self, Wish, bind, copy_of, tmpfs};
use super::select::Files;
use super::source::heredoc_name;
use super::stage::{Stage, blocking, failed, key};

/// Where a script lies that stands in the Dockerfile.
const SCRIPTS: &str = "/dev/pipes";

/// What a command is run with besides its image.
#[derive(Default)]
struct Mounts {
    wire: Vec<WireMount>,
    lent: Lent,
    /// Held until the command has ended.
    locks: Vec<tokio::sync::OwnedMutexGuard<()>>,
    /// Copies that were made for it.
    scratch: Vec<PathBuf>,
}

impl Drop for Mounts {
    fn drop(&mut self) {
        for path in &self.scratch {
            let _ = fs::remove_dir_all(path);
        }
    }
}

impl Stage<'_> {
    pub(super) async fn run(&mut self, run: &Run) -> Result<(), BuildError> {
        let Some(image) = self.image.clone() else {
            return Err(BuildError::invalid(
                "RUN failed: there is nothing to run a command in: the stage is made `FROM scratch` and has no files yet",
            ));
        };
        let (words, script) = self.words_of(run);
        let arguments = self.scope.of_commands(&self.draft);
        let mut shown = String::new();
        if !arguments.is_empty() {
            shown = format!("|{} {} ", arguments.len(), arguments.join(" "));
        }
        shown.push_str(&words.join(" "));
        let mut mounts = Vec::new();
        for mount in &run.mounts {
            mounts.push(self.put_into(mount)?);
        }
        let digests = self.digests(&mounts).await?;
        let mut host = self.work.plan.request.host.clone();
        if let Some(network) = &run.network {
            host.network_mode.clone_from(network);
        }
        // Clients say it or not.
        let network = if host.network_mode == "default" { "" } else { &host.network_mode };
        let script_text = script.as_ref().map_or("", |(_, content)| content);
        let key = key(&["run", &shown, network, &digests, script_text]);
        let new = self.new_image(key, &shown);
        let is_all_shown = run.mounts.is_empty() && script.is_none() && network.is_empty();
        if self.find(&new, is_all_shown).await? {
            return Ok(());
        }
        let ready = self.mounts(&mounts, script.as_ref()).await?;
        let mut environment = self.draft.config.env.clone();
        environment.extend(arguments);
        environment.extend(self.scope.proxies());
        let wish = Wish {
            image: self.without_volumes(image).await?,
            words,
            environment,
            lent: ready.lent.environment.clone(),
            user: self.draft.config.user.clone(),
            working_dir: self.draft.config.working_dir.clone(),
            host,
            mounts: ready.wire.iter().chain(&ready.lent.mounts).cloned().collect(),
            shown: shown.clone(),
        };
        let id = self.in_container(&wish, new).await?;
        self.made(id);
        Ok(())
    }

    /// Runs a command and makes an image of what it leaves.
    async fn in_container(&self, wish: &Wish, new: NewImage) -> Result<ImageId, BuildError> {
        let request = &self.work.plan.request;
        let container = run::prepare(&self.work.shop, wish).await?;
        self.say(format!(" ---> Running in {}\n", container.short())).await?;
        let ended = run::run(&container, wish, &self.voice, &self.work.cancelled).await;
        let short = container.short().to_owned();
        let made = match ended {
            Ok(()) => self.work.outside().commit(&container.id, new).await.map_err(BuildError::from),
            Err(error) => Err(error),
        };
        let is_wanted = match &made {
            Ok(_) => request.remove || request.force_remove,
            // Nobody asked for what a build that was broken off leaves.
            Err(BuildError::Cancelled) => true,
            Err(_) => request.force_remove,
        };
        if is_wanted {
            container.remove().await;
            if !matches!(made, Err(BuildError::Cancelled)) {
                self.say(format!(" ---> Removed intermediate container {short}\n")).await?;
            }
        } else {
            container.keep();
        }
        made
    }

    /// What is run, and the script that has to lie beside it.
    fn words_of(&self, run: &Run) -> (Vec<String>, Option<(String, String)>) {
        let Command::Shell(text) = &run.command else { return (self.draft.words(&run.command), None) };
        let Some(first) = run.heredocs.first() else { return (self.draft.words(&run.command), None) };
        // Nothing but a here-document: its content is the command.
        if heredoc_name(text, self.escape).is_some() {
            if first.content.starts_with("#!") {
                let path = format!("{SCRIPTS}/{}", first.name.replace('/', "_"));
                return (vec![path.clone()], Some((path, first.content.clone())));
            }
            return (self.draft.words(&Command::Shell(first.content.clone())), None);
        }
        let mut whole = text.clone();
        for heredoc in &run.heredocs {
            whole.push_str(&format!("\n{}{}", heredoc.content, heredoc.name));
        }
        (self.draft.words(&Command::Shell(whole)), None)
    }

    /// A mount with its variables put in.
    fn put_into(&self, mount: &Mount) -> Result<Mount, BuildError> {
        let mut mount = mount.clone();
        for text in [&mut mount.source, &mut mount.target, &mut mount.id].into_iter().flatten() {
            *text = self.expand(text)?;
        }
        if let Some(target) = &mut mount.target {
            *target = super::config::absolute(&self.draft.config.working_dir, target);
        }
        Ok(mount)
    }

    /// Tells whether what is mounted is the same as last time. Caches never make a step another one.
    async fn digests(&self, mounts: &[Mount]) -> Result<String, BuildError> {
        let mut digest = Sha256::new();
        for mount in mounts {
            // What a secret is does not count, how it is lent does.
            digest.update(format!("{mount:?}"));
            if mount.kind != MountKind::Bind {
                continue;
            }
            let source = mount.source.clone().unwrap_or_else(|| "/".to_owned());
            if let Some(from) = &mount.from {
                // Its image says all.
                let image = self.origin(from).await?;
                digest.update(image.as_ref().map_or("", ImageId::as_str));
                continue;
            }
            let work = Arc::clone(self.work);
            let own = blocking(move || {
                let mut digest = Sha256::new();
                let root = plain(&work.plan.context.files()).map_err(|error| failed("RUN", &error))?;
                let files = Files { root: &root, ignored: &work.plan.ignored };
                let selected = files.select(&source).map_err(|error| failed("RUN", &error))?;
                if selected.is_empty() {
                    let message = format!(
                        "RUN failed: file not found in build context or excluded by .dockerignore: stat {source}: file does not exist"
                    );
                    return Err(BuildError::invalid(message));
                }
                for one in &selected {
                    files
                        .digest(one, &Ignored::default(), &mut digest)
                        .map_err(|error| failed("RUN", &error))?;
                }
                Ok(digest.finalize())
            });
            digest.update(own.await?);
        }
        Ok(format!("{:x}", digest.finalize()))
    }

    /// An image that has the same files and no volumes: what a command puts into those is to stay.
    async fn without_volumes(&self, image: ImageId) -> Result<ImageId, BuildError> {
        if self.draft.config.volumes.is_empty() {
            return Ok(image);
        }
        let work = Arc::clone(self.work);
        let mut config = self.draft.config.clone();
        config.volumes.clear();
        blocking(move || {
            let (outside, key) = (work.outside(), key(&["without volumes"]));
            if let Some(found) = outside.find_step(Some(&image), &key) {
                work.note(&found.id);
                return Ok(found.id);
            }
            let step = Some(NewStep { key, is_intermediate: true });
            let created_by = "to run a command in".to_owned();
            let new = NewImage { parent: Some(image), config, created_by, step, ..NewImage::default() };
            Ok(outside.make(&new, None)?)
        })
        .await
    }

    /// Makes everything ready that is mounted.
    async fn mounts(
        &self,
        mounts: &[Mount],
        script: Option<&(String, String)>,
    ) -> Result<Mounts, BuildError> {
        let mut ready = Mounts::default();
        let folder = self.work.plan.context.folder.path().to_owned();
        let scratch =
            |number: usize| tempfile::Builder::new().prefix(&format!("mount-{number}-")).tempdir_in(&folder);
        if let Some((path, content)) = script {
            let place = scratch(0).map_err(|error| failed("RUN", &error))?.keep();
            ready.scratch.push(place.clone());
            let file = place.join("script");
            fs::write(&file, content).map_err(|error| failed("RUN", &error))?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755))
                .map_err(|error| failed("RUN", &error))?;
            ready.wire.push(bind(&file, path, true));
        }
        for (number, mount) in mounts.iter().enumerate() {
            let target = mount.target.clone().unwrap_or_default();
            match mount.kind {
                MountKind::Tmpfs => ready.wire.push(tmpfs(&target, mount.size)),
                MountKind::Secret | MountKind::Ssh => {
                    let client = self.work.plan.request.client.as_ref();
                    ready.lent.add(&self.work.shop, client, mount, &self.work.cancelled).await?;
                }
                MountKind::Cache => {
                    let (path, lock) = self.cache(mount, &target).await?;
                    ready.locks.extend(lock);
                    ready.wire.push(bind(&path, &target, mount.read_only == Some(true)));
                }
                MountKind::Bind => {
                    let read_only = mount.read_only != Some(false);
                    let place = scratch(number + 1).map_err(|error| failed("RUN", &error))?.keep();
                    ready.scratch.push(place.clone());
                    let source = PathBuf::from(mount.source.clone().unwrap_or_else(|| "/".to_owned()));
                    let path = self.bound(mount, source, place, read_only).await?;
                    ready.wire.push(bind(&path, &target, read_only));
                }
            }
        }
        Ok(ready)
    }

    /// The path on the host of what a mount of files shows. What a command changes there is nobody else's.
    async fn bound(
        &self,
        mount: &Mount,
        source: PathBuf,
        place: PathBuf,
        read_only: bool,
    ) -> Result<PathBuf, BuildError> {
        let layers = match &mount.from {
            Some(from) => Some(self.layers_of(self.origin(from).await?, "bind").await?),
            None => None,
        };
        let work = Arc::clone(self.work);
        blocking(move || {
            let in_error = |error: std::io::Error| failed("RUN", &error);
            let Some(layers) = layers else {
                let files = work.plan.context.files();
                let root = plain(&files).map_err(in_error)?;
                if read_only && work.plan.ignored.is_empty() {
                    let end = root.end_of_links(&source).map_err(in_error)?;
                    return Ok(files.join(end.strip_prefix("/").unwrap_or(&end)));
                }
                let files = Files { root: &root, ignored: &work.plan.ignored };
                return part_of(&files, &source, &place).map_err(in_error);
            };
            let copied = within(&[&layers], |roots| copy_of(&roots[0], &source, &place));
            let _ = fs::remove_dir_all(&layers.scratch);
            copied.map_err(in_error)
        })
        .await
    }

    /// The directory of a cache, and what keeps others out of it.
    async fn cache(
        &self,
        mount: &Mount,
        target: &str,
    ) -> Result<(PathBuf, Option<tokio::sync::OwnedMutexGuard<()>>), BuildError> {
        if mount.from.is_some() || mount.source.is_some() {
            return Err(BuildError::unsupported(
                "`RUN --mount=type=cache,from=…`: a cache that begins with other files",
            ));
        }
        let name = key(&["cache", mount.id.as_deref().unwrap_or(target)]);
        let shop = &self.work.shop;
        let (mut place, mut held) = (name.clone(), None);
        match mount.sharing {
            Sharing::Shared => {}
            Sharing::Locked => {
                let lock = shop.lock_of(&name).lock_owned();
                tokio::select! {
                    lock = lock => held = Some(lock),
                    () = self.work.cancelled.cancelled() => return Err(BuildError::Cancelled),
                }
            }
            Sharing::Private => {
                for number in 0_u32.. {
                    place = format!("{name}-{number}");
                    if let Ok(lock) = shop.lock_of(&place).try_lock_owned() {
                        held = Some(lock);
                        break;
                    }
                }
            }
        }
        let path = shop.caches().join(place);
        let (mode, user, group) = (mount.mode.unwrap_or(0o755), mount.user, mount.group);
        let made = path.clone();
        blocking(move || {
            let make = |path: &Path| -> std::io::Result<()> {
                if path.is_dir() {
                    return Ok(());
                }
                fs::create_dir_all(path)?;
                chown(path, user.or(Some(0)), group.or(Some(0)))?;
                fs::set_permissions(path, fs::Permissions::from_mode(mode))
            };
            make(&made).map_err(|error| failed("RUN", &error))
        })
        .await?;
        Ok((path, held))
    }
}

/// A copy of a part of a context, without what is ignored. Blocks.
fn part_of(files: &Files<'_>, source: &Path, place: &Path) -> std::io::Result<PathBuf> {
    let selected = files.select(&source.to_string_lossy())?;
    let [selected] = &selected[..] else {
        return Err(std::io::Error::other(format!("`{}` is not one file or directory", source.display())));
    };
    let (root, nothing) = (plain(place)?, Ignored::default());
    let look = Look { owner: (0, 0), mode: None };
    let target = Target { root: &root, path: "/copy", look: &look, exclude: &nothing, with_parents: false };
    target.copy(files, selected)?;
    Ok(place.join("copy"))
}
