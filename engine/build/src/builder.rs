//! Carries a plan out: stages side by side, what they tell in their order, and an image at the end.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine_model::executor::Executor;
use engine_model::{Failure, ImageId, Kind};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::error::BuildError;
use super::mounted::{Layers, within};
use super::outside::{Audience, Event, Outside, Told};
use super::plan::{Context, Plan, Request, Texts};
use super::remote::{Elsewhere, gather};
use super::shop::Shop;
use super::stage;
use super::voice::Voice;
use super::work::Work;

/// As much of a stage's talk waits until the stages before it have told all.
const WAITING: usize = 1024;

/// Builds images. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Builder(Arc<Shop>);

impl Builder {
    /// Builds in `root`, which has to be on the disk of the images. What an interrupted build left there is removed, and so
    /// is all of `lent`, which is for what must not get onto a disk.
    pub fn open(
        root: PathBuf,
        lent: PathBuf,
        outside: Arc<dyn Outside>,
        executor: Arc<dyn Executor>,
    ) -> io::Result<Self> {
        Ok(Self(Arc::new(Shop::open(root, lent, outside, executor)?)))
    }

    /// Unpacks a context. Blocks as long as the client sends.
    pub fn receive(&self, archive: impl Read) -> Result<Context, Failure> {
        Context::receive(&self.0.temporary(), &*self.0.outside, archive)
    }

    /// Reads the Dockerfile and refuses what makes no sense. Blocks.
    pub fn plan(&self, context: Context, request: Request) -> Result<Plan, Failure> {
        self.found_out(Plan::new(context, request)?)
    }

    /// The same with a Dockerfile that does not lie in the context. Blocks.
    pub fn plan_with(&self, context: Context, texts: Texts, request: Request) -> Result<Plan, Failure> {
        self.found_out(Plan::with(context, texts, request)?)
    }

    /// Fetches a context: an archive, a Dockerfile or a repository.
    pub async fn gather(&self, address: &str, wish: Elsewhere<'_>) -> Result<Context, BuildError> {
        gather(&self.0, address, wish).await
    }

    /// Reads a Dockerfile that lies in no context. The plan's context is empty, and to be filled before it is carried out.
    pub fn draft(&self, texts: Texts, request: Request) -> Result<Plan, Failure> {
        self.found_out(Plan::draft(Context::empty(&self.0.temporary())?, texts, request)?)
    }

    fn found_out(&self, mut plan: Plan) -> Result<Plan, Failure> {
        let outside = &self.0.outside;
        // One that is not here tells nothing yet.
        plan.find_out(&|image| Some(outside.find(image).ok()?.config.on_build.unwrap_or_default()))?;
        Ok(plan)
    }

    /// Has work done with all files of an image, in a folder that only this work sees. Blocks.
    pub fn with_files(
        &self,
        id: &ImageId,
        work: impl FnOnce(&Path) -> io::Result<()> + Send,
    ) -> Result<(), Failure> {
        let failed =
            |error: io::Error| Failure::new(Kind::Internal, format!("The files of an image: {error}"));
        let scratch =
            tempfile::Builder::new().prefix("files-").tempdir_in(self.0.temporary()).map_err(failed)?;
        let layers = Layers { lower: self.0.outside.lower_dirs(id)?, scratch: scratch.path().to_owned() };
        within(&[&layers], |_| work(&layers.path())).map_err(failed)
    }

    /// Writes everything in a folder as an archive. Blocks.
    pub fn pack(&self, folder: &Path, output: &mut dyn Write) -> io::Result<()> {
        self.0.outside.pack(folder, output)
    }

    /// A folder for files that are looked at before there is a plan. Blocks.
    pub fn scratch(&self) -> io::Result<tempfile::TempDir> {
        tempfile::Builder::new().prefix("scratch-").tempdir_in(self.0.temporary())
    }

    /// The steps of builds that are under way: they are not to be taken away.
    pub fn in_use(&self) -> BTreeSet<ImageId> {
        self.0.in_use()
    }

    /// The ids of containers in which builds ran commands that came to no end. A label alone makes none: anybody can give it.
    pub fn left_over(&self) -> Vec<String> {
        self.0.left_over()
    }

    /// Forgets one of those, as it is gone.
    pub fn let_go(&self, container: &str) {
        self.0.let_go(container);
    }

    /// Removes the caches of commands, and says how many bytes they had. Blocks.
    pub fn remove_caches(&self) -> io::Result<u64> {
        self.0.remove_caches()
    }

    /// Bytes in the caches of commands. Blocks.
    pub fn size_of_caches(&self) -> u64 {
        self.0.size_of_caches()
    }

    /// Builds. It ends when `cancelled` is, or when nobody listens to what it tells any more.
    pub async fn build(
        &self,
        plan: Plan,
        audience: Audience,
        cancelled: CancellationToken,
    ) -> Result<ImageId, BuildError> {
        let _end = cancelled.clone().drop_guard();
        let work = Arc::new(Work::new(Arc::clone(&self.0), plan, cancelled));
        let result = carry_out(&work, &audience).await;
        // The context goes with it, and may be large.
        let _ = tokio::task::spawn_blocking(move || work.plan.context.folder.clear()).await;
        result
    }
}

async fn carry_out(work: &Arc<Work>, audience: &Audience) -> Result<ImageId, BuildError> {
    for warning in find_sources(work).await? {
        warn(audience, warning).await?;
    }
    match audience {
        Audience::Reader(told) => to_reader(work, told).await?,
        Audience::Watcher(events) => to_watcher(work, events).await?,
    }
    let Some(id) = work.result()? else {
        return Err(BuildError::invalid("No image was generated. Is your Dockerfile empty?"));
    };
    finish(work, id, audience).await
}

async fn warn(audience: &Audience, warning: String) -> Result<(), BuildError> {
    let is_heard = match audience {
        Audience::Reader(told) => told.send(Told::Text(format!("[Warning] {warning}\n"))).await.is_ok(),
        Audience::Watcher(events) => events.send(Event::Warning(warning)).await.is_ok(),
    };
    if is_heard { Ok(()) } else { Err(BuildError::Cancelled) }
}

/// Finds the images whose histories are to be looked at, and says what became of the others.
async fn find_sources(work: &Arc<Work>) -> Result<Vec<String>, BuildError> {
    let (request, mut found, mut warnings) = (&work.plan.request, Vec::new(), Vec::new());
    for name in &request.cache_from {
        let (looking, wanted) = (Arc::clone(work), name.clone());
        let find = move || looking.outside().find(&wanted).map(|image| image.id);
        let mut image = tokio::task::spawn_blocking(find.clone()).await?;
        if image.is_err() && request.pulls_caches {
            // How that goes on is no step of the Dockerfile.
            let (progress, _) = mpsc::channel(1);
            let pulled = tokio::select! {
                pulled = work.outside().pull(name, &request.keys, &progress) => pulled,
                () = work.cancelled.cancelled() => return Err(BuildError::Cancelled),
            };
            image = match pulled {
                Ok(()) => tokio::task::spawn_blocking(find).await?,
                Err(failure) => Err(failure),
            };
        }
        match image {
            Ok(image) => {
                work.note(&image);
                found.push(image);
            }
            Err(failure) => warnings.push(format!("No steps are taken from {name}: {failure}")),
        }
    }
    let _ = work.sources.set(found);
    Ok(warnings)
}

/// Stages tell side by side.
async fn to_watcher(work: &Arc<Work>, events: &mpsc::Sender<Event>) -> Result<(), BuildError> {
    let warn =
        async |text: String| events.send(Event::Warning(text)).await.map_err(|_| BuildError::Cancelled);
    for warning in &work.plan.dockerfile.warnings {
        warn(warning.clone()).await?;
    }
    let mut stages = tokio::task::JoinSet::new();
    for &number in &work.plan.needed {
        let (work, voice) = (Arc::clone(work), Voice::new(Audience::Watcher(events.clone())));
        stages.spawn(async move {
            let result = stage::build(&work, number, voice).await;
            work.settle(number, result);
        });
    }
    loop {
        let ended = tokio::select! {
            ended = stages.join_next() => ended,
            // Nobody watches any more.
            () = events.closed(), if !work.cancelled.is_cancelled() => {
                work.cancelled.cancel();
                continue;
            }
        };
        match ended {
            None => return Ok(()),
            Some(Ok(())) => {}
            Some(Err(error)) => work.settle(work.plan.target, Err(error.into())),
        }
    }
}

/// Stages tell one after another, whichever is first.
async fn to_reader(work: &Arc<Work>, told: &mpsc::Sender<Told>) -> Result<(), BuildError> {
    let say = async |text: String| told.send(Told::Text(text)).await.map_err(|_| BuildError::Cancelled);
    for warning in &work.plan.dockerfile.warnings {
        say(format!("{warning}\n")).await?;
    }
    let all = work.plan.steps();
    for (index, step) in work.plan.dockerfile.globals.iter().enumerate() {
        say(format!("Step {}/{all} : {}\n", index + 1, step.text)).await?;
    }
    let mut stages = tokio::task::JoinSet::new();
    let mut talks = Vec::new();
    for &number in &work.plan.needed {
        let (sender, receiver) = mpsc::channel(WAITING);
        talks.push(receiver);
        let work = Arc::clone(work);
        stages.spawn(async move {
            let voice = Voice::new(Audience::Reader(sender));
            let result = stage::build(&work, number, voice).await;
            work.settle(number, result);
        });
    }
    for talk in talks {
        pass_on(talk, told, &work.cancelled).await;
    }
    while let Some(ended) = stages.join_next().await {
        if let Err(error) = ended {
            work.settle(work.plan.target, Err(error.into()));
        }
    }
    Ok(())
}

/// Tells what a stage tells. When nobody listens any more, which may be while nothing is told, the build ends.
async fn pass_on(mut talk: mpsc::Receiver<Told>, told: &mpsc::Sender<Told>, cancelled: &CancellationToken) {
    loop {
        let said = tokio::select! {
            said = talk.recv() => said,
            () = told.closed() => None,
        };
        let Some(said) = said else { break };
        if told.send(said).await.is_err() {
            break;
        }
    }
    if told.is_closed() {
        cancelled.cancel();
    }
}

/// Names the image and tells so. That nobody listens any more is no reason to throw away what is done.
async fn finish(work: &Arc<Work>, id: ImageId, audience: &Audience) -> Result<ImageId, BuildError> {
    let say = async |text: String| {
        if let Audience::Reader(told) = audience {
            let _ = told.send(Told::Text(text)).await;
        }
    };
    let unused = work.plan.given.unused();
    if !unused.is_empty() {
        let warning = format!("One or more build-args [{}] were not consumed", unused.join(" "));
        let _ = warn(audience, warning).await;
    }
    let (shared, built) = (Arc::clone(work), id.clone());
    let named = tokio::task::spawn_blocking(move || {
        let (outside, request) = (shared.outside(), &shared.plan.request);
        outside.finish(&shared.used(), (!request.hides_result).then_some(&built))?;
        let result = if request.squash { outside.squash(&built, shared.base().as_ref())? } else { built };
        let names = request.names.iter().map(|name| outside.tag(&result, name));
        Ok::<_, Failure>((names.collect::<Result<Vec<_>, Failure>>()?, result))
    });
    let (named, result) = named.await??;
    if let (Audience::Reader(told), true) = (audience, result != id) {
        let _ = told.send(Told::Image(result.clone())).await;
    }
    say(format!("Successfully built {}\n", result.short())).await;
    for name in named {
        say(format!("Successfully tagged {name}\n")).await;
    }
    Ok(result)
}
