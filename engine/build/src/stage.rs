//! Builds one stage: its base, then step by step, each looked up before it is done.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use engine_model::{Failure, ImageId, Kind, NewImage, NewStep};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use sha2::{Digest, Sha256};

use super::config::Draft;
use super::error::BuildError;
use super::instruction::{Instruction, Step, understand_one};
use super::mounted::{Layers, within};
use super::outside::{StepId, Told};
use super::scope::Scope;
use super::voice::{Announced, Voice};
use super::work::Work;

/// A stage in the middle of its way.
pub(crate) struct Stage<'a> {
    pub(crate) work: &'a Arc<Work>,
    pub(crate) number: usize,
    pub(crate) escape: char,
    pub(crate) voice: Voice,
    pub(crate) scope: Scope,
    pub(crate) draft: Draft,
    /// What has been made so far.
    pub(crate) image: Option<ImageId>,
    /// Goes on with the numbers of the steps, also for a stage that this one turns out to need.
    at: Arc<AtomicUsize>,
}

/// From the base to the last step.
pub(crate) async fn build(
    work: &Arc<Work>,
    number: usize,
    voice: Voice,
) -> Result<Option<ImageId>, BuildError> {
    let plan = &work.plan;
    let before = plan.dockerfile.globals.len() + plan.steps_before(number);
    build_after(work, number, voice, Arc::new(AtomicUsize::new(before))).await
}

/// One that another stage turns out to need: its base was not here when the build began, and has triggers.
fn build_demanded(
    work: Arc<Work>,
    number: usize,
    voice: Voice,
    at: Arc<AtomicUsize>,
) -> BoxFuture<'static, Result<Option<ImageId>, BuildError>> {
    async move { build_after(&work, number, voice, at).await }.boxed()
}

async fn build_after(
    work: &Arc<Work>,
    number: usize,
    voice: Voice,
    at: Arc<AtomicUsize>,
) -> Result<Option<ImageId>, BuildError> {
    let plan = &work.plan;
    let mut stage = Stage {
        work,
        number,
        escape: plan.dockerfile.escape,
        voice,
        scope: plan.globals.of_stage(),
        draft: Draft::default(),
        image: None,
        at,
    };
    let built = stage.all().await;
    if let Err(error) = &built {
        stage.voice.fail(error).await;
    }
    built?;
    if let Some(image) = &stage.image {
        stage.voice.image(Told::Image(image.clone())).await;
    }
    Ok(stage.image)
}

impl Stage<'_> {
    async fn all(&mut self) -> Result<(), BuildError> {
        let work = Arc::clone(self.work);
        let plan = &work.plan;
        let planned = &plan.dockerfile.stages[self.number];
        let id = |number| StepId { stage: self.number, number };
        let base = work.outside().whole_name(&plan.bases[self.number]);
        let title = plan.title_of_base(self.number, &base);
        let first = Announced { id: id(0), title, lines: (planned.line, planned.line) };
        let mut announced = Vec::new();
        for (index, step) in planned.steps.iter().enumerate() {
            let title = plan.title(self.number, index);
            announced.push(Announced { id: id(index + 1), title, lines: (step.line, step.last_line) });
        }
        self.announce(&planned.text, first).await?;
        self.base().await?;
        self.show().await?;
        self.triggers().await?;
        for (step, announced) in planned.steps.iter().zip(announced) {
            self.announce(&step.text, announced).await?;
            self.step(step).await?;
            self.show().await?;
        }
        Ok(())
    }

    pub(crate) async fn say(&self, text: String) -> Result<(), BuildError> {
        self.voice.say(text).await
    }

    async fn announce(&mut self, text: &str, announced: Announced) -> Result<(), BuildError> {
        if self.work.cancelled.is_cancelled() {
            return Err(BuildError::Cancelled);
        }
        self.voice.begin(announced).await;
        let (at, all) = (self.at.fetch_add(1, Ordering::Relaxed) + 1, self.work.steps());
        self.say(format!("Step {at}/{all} : {text}\n")).await
    }

    /// The image as it is now.
    async fn show(&mut self) -> Result<(), BuildError> {
        self.voice.end().await;
        let id = self.image.as_ref().map_or("", ImageId::short);
        self.say(format!(" ---> {id}\n")).await
    }

    /// Another stage, an image, or nothing.
    async fn base(&mut self) -> Result<(), BuildError> {
        let plan = &self.work.plan;
        let base = &plan.bases[self.number];
        let found = if plan.is_named(base) {
            Some(self.named(base).await?)
        } else if let Some(stage) = plan.dockerfile.named_stage(base, self.number) {
            self.stage(stage).await?
        } else if base == "scratch" {
            None
        } else {
            Some(self.image_named(base, plan.request.pull).await?)
        };
        if let Some(id) = &found {
            let (work, wanted) = (Arc::clone(self.work), id.to_string());
            let image = blocking(move || Ok(work.outside().find(&wanted)?)).await?;
            self.draft.config = image.config;
            self.draft.author = image.author;
        }
        self.work.begins_with(self.number, found.clone());
        self.image = found;
        Ok(())
    }

    /// Another stage, which is built right now if nobody else does that.
    pub(crate) async fn stage(&self, number: usize) -> Result<Option<ImageId>, BuildError> {
        if self.work.is_to_build(number) {
            let (work, at) = (Arc::clone(self.work), Arc::clone(&self.at));
            let built = build_demanded(work, number, self.voice.another(), at).await;
            self.work.settle(number, built);
        }
        self.work.stage(number).await
    }

    /// An image by its name, from its registry if it is not here.
    pub(crate) async fn image_named(&self, name: &str, anew: bool) -> Result<ImageId, BuildError> {
        let find = || {
            let (work, name) = (Arc::clone(self.work), name.to_owned());
            blocking(move || Ok(work.outside().find(&name)))
        };
        let found = find().await?;
        match found {
            Ok(image) if !anew => return Ok(image.id),
            Err(failure) if failure.kind != Kind::NotFound => return Err(failure.into()),
            _ => {}
        }
        let outside = self.work.outside();
        let (lines, pass_on) = self.voice.lines();
        let pull = async move { outside.pull(name, &self.work.plan.request.keys, &lines).await };
        let pulled = async { tokio::join!(pull, pass_on).0 };
        tokio::select! {
            pulled = pulled => pulled?,
            () = self.work.cancelled.cancelled() => return Err(BuildError::Cancelled),
        }
        Ok(find().await??.id)
    }

    /// What the base wants done in whatever is made of it.
    async fn triggers(&mut self) -> Result<(), BuildError> {
        let triggers = self.draft.config.on_build.take().unwrap_or_default();
        if triggers.is_empty() {
            return Ok(());
        }
        let plural = if triggers.len() == 1 { "" } else { "s" };
        self.say(format!("# Executing {} build trigger{plural}\n", triggers.len())).await?;
        for trigger in triggers {
            let (step, escape) =
                understand_one(&trigger).map_err(|error| BuildError::invalid(error.to_string()))?;
            if matches!(step.instruction, Instruction::From(_) | Instruction::Onbuild(_)) {
                return Err(BuildError::invalid(format!("`{trigger}` isn't allowed as an ONBUILD trigger")));
            }
            let own = std::mem::replace(&mut self.escape, escape);
            let done = self.step(&step).await;
            self.escape = own;
            done?;
            self.show().await?;
        }
        Ok(())
    }

    async fn step(&mut self, step: &Step) -> Result<(), BuildError> {
        let done = match &step.instruction {
            Instruction::Run(run) => self.run(run).await,
            Instruction::Copy(copy) => self.copy(copy).await,
            Instruction::Arg(pairs) => self.arg(pairs).await,
            Instruction::Workdir(_) => self.workdir(&step.instruction).await,
            other => self.words(other).await,
        };
        done.map_err(|error| match error {
            // Where it is said of what the Dockerfile says, the line helps.
            BuildError::Other(Failure { kind: Kind::Invalid, message }) if !message.contains("failed") => {
                BuildError::invalid(format!("dockerfile parse error on line {}: {message}", step.line))
            }
            other => other,
        })
    }

    async fn arg(&mut self, pairs: &[(String, Option<String>)]) -> Result<(), BuildError> {
        let mut shown = Vec::new();
        for (name, value) in pairs {
            let value = value.as_deref().map(|value| self.expand(value)).transpose()?;
            shown.push(value.as_ref().map_or_else(|| name.clone(), |value| format!("{name}={value}")));
            self.scope.declare(name, value);
        }
        self.make_words(&format!("ARG {}", shown.join(" "))).await
    }

    /// A step that changes nothing but what the image says of itself.
    async fn words(&mut self, instruction: &Instruction) -> Result<(), BuildError> {
        let mut draft = self.draft.clone();
        let followed = {
            let variables = self.scope.variables(&self.draft);
            draft.follow(instruction, self.escape, &variables).map_err(BuildError::invalid)?
        };
        let Some(shown) = followed else {
            return Err(BuildError::invalid("it is out of place"));
        };
        self.draft = draft;
        self.make_words(&shown).await
    }

    async fn make_words(&mut self, shown: &str) -> Result<(), BuildError> {
        let key = key(&["words", shown]);
        let new = self.new_image(key, &format!("/bin/sh -c #(nop)  {shown}"));
        if self.find(&new, true).await? {
            return Ok(());
        }
        let work = Arc::clone(self.work);
        self.made(blocking(move || Ok(work.outside().make(&new, None)?)).await?);
        Ok(())
    }

    /// A directory to work in, which is made if it is not there.
    async fn workdir(&mut self, instruction: &Instruction) -> Result<(), BuildError> {
        let mut draft = self.draft.clone();
        let followed = {
            let variables = self.scope.variables(&self.draft);
            draft.follow(instruction, self.escape, &variables).map_err(BuildError::invalid)?
        };
        let shown = followed.unwrap_or_default();
        self.draft = draft;
        let key = key(&["folder", &shown]);
        let new = self.new_image(key, &format!("/bin/sh -c #(nop) {shown}"));
        if self.find(&new, true).await? {
            return Ok(());
        }
        let (work, path) = (Arc::clone(self.work), PathBuf::from(&self.draft.config.working_dir));
        let layers = self.layers("folder").await?;
        let made = blocking(move || {
            let make = |roots: &[engine_kernel::confine::Root]| {
                let end = roots[0].end_of_links(&path)?;
                roots[0].create_directories(&end).map(drop)
            };
            within(&[&layers], make).map_err(|error| failed("WORKDIR", &error))?;
            let made = work.outside().make(&new, Some(&changes(&layers)));
            let _ = std::fs::remove_dir_all(&layers.scratch);
            Ok(made?)
        });
        self.made(made.await?);
        Ok(())
    }

    /// One word with its variables put in.
    pub(crate) fn expand(&self, text: &str) -> Result<String, BuildError> {
        let variables = self.scope.variables(&self.draft);
        super::words::expand(text, self.escape, &variables)
            .map_err(|error| BuildError::invalid(error.to_string()))
    }

    /// Whether an earlier build has done the same; its result is this one's then. If what a history shows of a step is all that
    /// there is to it, images that the client has named for that are looked at as well.
    pub(crate) async fn find(&mut self, new: &NewImage, is_all_shown: bool) -> Result<bool, BuildError> {
        if self.work.plan.is_uncached(self.number) {
            return Ok(false);
        }
        let (work, new) = (Arc::clone(self.work), new.clone());
        let found = blocking(move || {
            let key = new.step.as_ref().map_or("", |step| &step.key);
            if let Some(found) = work.outside().find_step(new.parent.as_ref(), key) {
                return Ok(Some(found.id));
            }
            let sources = work.sources.get().filter(|sources| is_all_shown && !sources.is_empty());
            let Some(sources) = sources else { return Ok(None) };
            Ok(work.outside().find_in_history(sources, &new)?)
        });
        let Some(found) = found.await? else { return Ok(false) };
        self.made(found);
        self.voice.cached();
        self.say(" ---> Using cache\n".to_owned()).await?;
        Ok(true)
    }

    pub(crate) fn made(&mut self, id: ImageId) {
        self.work.note(&id);
        self.image = Some(id);
    }

    pub(crate) fn new_image(&self, key: String, created_by: &str) -> NewImage {
        NewImage {
            parent: self.image.clone(),
            config: self.draft.config.clone(),
            author: self.draft.author.clone(),
            created_by: created_by.to_owned(),
            step: Some(NewStep { key, is_intermediate: true }),
            ..NewImage::default()
        }
    }

    /// The layers made so far, with a place for changes.
    pub(crate) async fn layers(&self, what: &str) -> Result<Layers, BuildError> {
        self.layers_of(self.image.clone(), what).await
    }

    /// A place of this step's own. It is not there.
    pub(crate) fn scratch(&self, what: &str) -> PathBuf {
        self.work.plan.context.folder.path().join(format!(
            "{what}-{}-{}",
            self.number,
            self.at.load(Ordering::Relaxed)
        ))
    }

    pub(crate) async fn layers_of(&self, image: Option<ImageId>, what: &str) -> Result<Layers, BuildError> {
        let scratch = self.scratch(what);
        let work = Arc::clone(self.work);
        blocking(move || {
            let lower = image.map(|id| work.outside().lower_dirs(&id)).transpose()?;
            Ok(Layers { lower: lower.unwrap_or_default(), scratch })
        })
        .await
    }
}

/// What was changed on top of layers.
pub(crate) fn changes(layers: &Layers) -> engine_model::Changes {
    engine_model::Changes { upper: layers.upper(), lower: layers.lower.clone(), mount_points: Vec::new() }
}

/// Work that waits for the disk.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BuildError> + Send + 'static,
) -> Result<T, BuildError> {
    tokio::task::spawn_blocking(work).await?
}

/// Names a step in its error.
pub(crate) fn failed(step: &str, error: &std::io::Error) -> BuildError {
    // Errors of ours say what is wrong with the request, those of the system what is wrong here.
    let kind = if error.raw_os_error().is_some() { Kind::Internal } else { Kind::Invalid };
    BuildError::Other(Failure::new(kind, format!("{step} failed: {error}")))
}

/// A digest of what a step is about.
pub(crate) fn key(parts: &[&str]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    format!("{:x}", digest.finalize())
}
