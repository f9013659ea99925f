//! Builds a Dockerfile of the client: brings what it takes, hands it to the builder, and shows how that goes on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine_build::{Audience, BuildError, Builder, Context, Elsewhere, Plan, Request, Texts, Wanted};
use engine_model::task::apart;
use engine_model::{Failure, ImageId, Kind};
use tokio::sync::mpsc;

use super::filesync::{self, Wish};
use super::grpc::{Code, Status};
use super::job::Job;
use super::options::{Files, Options, Origin, check_syntax, syntax};
use super::progress::Step;
use super::source::Source;
use super::telling::{say, show, status};

/// Events of a build that wait to be shown.
const WAITING: usize = 256;
/// Larger files are nobody's honest Dockerfile, or list of patterns.
const LARGEST_TEXT: u64 = 4 << 20;
const UPLOADS: &str = "buildkit-session";

pub(crate) fn no_operations() -> Status {
    Status::new(
        Code::Unknown,
        "a definition of operations (LLB) is not supported by this engine: it builds Dockerfiles",
    )
}

/// A policy that is not kept to would be worse than none.
pub(crate) fn no_policy() -> Status {
    Status::new(Code::Unknown, "a policy on sources is not supported by this engine")
}

/// A build that is ready to be carried out.
#[derive(Debug)]
pub(crate) struct Drafted {
    plan: Plan,
    source: Source,
}

fn internal(error: &dyn std::fmt::Display) -> Status {
    Status::new(Code::Internal, error.to_string())
}

/// Runs work on files.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| internal(&error))?;
    done.map_err(Status::from)
}

/// Ends a step by what became of it.
fn ended<T>(step: &Step, result: Result<T, Status>) -> Result<T, Status> {
    step.end(false, result.as_ref().err().map(|error| error.message.as_str()));
    result
}

/// Brings the Dockerfile, what is ignored and the context, and finds out what there is to do. It goes on when its caller is
/// gone, as far as it takes to leave nothing: the build's end is its own.
pub(crate) async fn draft(builder: &Builder, job: &Arc<Job>, options: Options) -> Result<Drafted, Status> {
    let (builder, job) = (builder.clone(), Arc::clone(job));
    let drafting = tokio::spawn(async move { bring(&builder, &job, options).await });
    drafting.await.map_err(|error| internal(&error))?
}

async fn bring(builder: &Builder, job: &Arc<Job>, mut options: Options) -> Result<Drafted, Status> {
    let _transfer = job.transfers.acquire().await.map_err(|error| internal(&error))?;
    options.request.client = Some(Arc::new(job.session.clone()));
    options.request.keys = engine_build::Keys::Client(Arc::new(job.session.clone()));
    options.request.hides_result = job.hides_result;
    if !options.warnings.is_empty() || !job.warnings.is_empty() {
        let step = job.progress.begin("[internal] options");
        options.warnings.iter().chain(&job.warnings).for_each(|warning| step.warn(warning));
        step.end(false, None);
    }
    let drafted = match options.context.clone() {
        Origin::Upload(path) => of_upload(builder, job, &options, path).await?,
        Origin::Directory(directory) => of_directory(builder, job, &options, &directory).await?,
        Origin::Address(address) => of_address(builder, job, &options, &address).await?,
    };
    for name in drafted.plan.folders_wanted() {
        match options.files.get(&name) {
            Some(Files::Directory(directory)) => named(builder, job, &drafted.plan, &name, directory).await?,
            Some(Files::Address(address)) => {
                let step = job.progress.begin(&format!("[context {name}] load {}", shown(address)));
                let context = ended(&step, gather(builder, job, &options, address, &step).await)?;
                let folder = drafted.plan.folder_of(&name);
                blocking(move || context.move_to(&folder)).await?;
            }
            None => {}
        }
    }
    Ok(drafted)
}

/// The context is a directory of the client, of which only what is needed is brought.
async fn of_directory(
    builder: &Builder,
    job: &Arc<Job>,
    options: &Options,
    directory: &str,
) -> Result<Drafted, Status> {
    let from = options.dockerfile.as_deref().unwrap_or(directory);
    let (source, own_ignored) = definition(builder, job, &options.request.dockerfile, from).await?;
    let step = job.progress.begin("[internal] load .dockerignore");
    let ignored = match own_ignored {
        Some(ignored) => Ok(ignored),
        None => ignored_of(builder, job, directory, &step).await,
    };
    let ignored = ended(&step, ignored)?;
    let excludes = patterns(&ignored);
    let (drafting, request) = (builder.clone(), options.request.clone());
    let texts = Texts { name: source.name.clone(), dockerfile: source.text.clone(), ignored };
    let drafted = blocking(move || {
        let plan = drafting.draft(texts, request)?;
        let wanted = plan.wanted();
        Ok((plan, wanted))
    });
    let (plan, wanted) = drafted.await.map_err(|error| source.point_by_message(error))?;
    let paths = match wanted {
        Wanted::Nothing => return Ok(Drafted { plan, source }),
        Wanted::Paths(paths) => paths,
        Wanted::All => Vec::new(),
    };
    let step = job.progress.begin("[internal] load build context");
    let wish = Wish { directory: directory.to_owned(), excludes, paths, is_text: false };
    let received =
        filesync::receive(&job.session, &wish, plan.folder(), &step, "transferring context:", &job.cancelled)
            .await;
    ended(&step, received)?;
    Ok(Drafted { plan, source })
}

/// Brings a Dockerfile from a directory of the client, and what is ignored with it if it has a list of its own.
async fn definition(
    builder: &Builder,
    job: &Arc<Job>,
    name: &str,
    directory: &str,
) -> Result<(Source, Option<String>), Status> {
    let step = job.progress.begin(&format!("[internal] load build definition from {name}"));
    let folder = scratch(builder).await?;
    let wish = Wish {
        directory: directory.to_owned(),
        paths: vec![name.to_owned(), format!("{name}.dockerignore"), name.to_ascii_lowercase()],
        is_text: true,
        ..Wish::default()
    };
    let received = filesync::receive(
        &job.session,
        &wish,
        folder.path().to_owned(),
        &step,
        "transferring dockerfile:",
        &job.cancelled,
    );
    let texts = async {
        received.await?;
        let (name, root) = (name.to_owned(), folder.path().to_owned());
        blocking(move || texts(&root, &name)).await
    };
    let (text, own_ignored) = ended(&step, texts.await)?;
    let source = Source { name: name.to_owned(), text };
    if let Some(image) = syntax(&source.text) {
        check_syntax(image).map_err(|error| source.point(error, (1, 1)))?;
    }
    Ok((source, own_ignored))
}

/// The Dockerfile that a client has for a context that is not its own; `None` if that has one itself.
async fn own_definition(
    builder: &Builder,
    job: &Arc<Job>,
    options: &Options,
) -> Result<Option<Texts>, Status> {
    let Some(directory) = &options.dockerfile else { return Ok(None) };
    let (source, ignored) = definition(builder, job, &options.request.dockerfile, directory).await?;
    Ok(Some(Texts { name: source.name, dockerfile: source.text, ignored: ignored.unwrap_or_default() }))
}

/// What there is to do with a context that is here. Blocks.
fn planned(
    builder: &Builder,
    context: Context,
    own: Option<Texts>,
    request: Request,
) -> Result<Drafted, Failure> {
    if let Some(own) = own {
        let source = Source { name: own.name.clone(), text: own.dockerfile.clone() };
        return Ok(Drafted { plan: builder.plan_with(context, own, request)?, source });
    }
    let name = request.dockerfile.clone();
    let plan = builder.plan(context, request)?;
    let text = texts(&plan.folder(), &name).or_else(|_| texts(&plan.folder(), "Dockerfile"));
    let text = text.map(|(text, _)| text).unwrap_or_default();
    Ok(Drafted { plan, source: Source { name, text } })
}

/// The context is an archive that the client was given.
async fn of_upload(
    builder: &Builder,
    job: &Arc<Job>,
    options: &Options,
    path: String,
) -> Result<Drafted, Status> {
    let own = own_definition(builder, job, options).await?;
    let step = job.progress.begin("[internal] load remote build context");
    let mut archive = filesync::upload(&job.session, &path, UPLOADS, job.cancelled.clone())?;
    let (receiving, request) = (builder.clone(), options.request.clone());
    // It waits for the client, so it is none of the threads that are for the disk.
    let drafted = apart(move || {
        let context = receiving.receive(&mut archive)?;
        planned(&receiving, context, own, request)
    });
    let drafted = match drafted.await {
        Ok(drafted) => drafted.map_err(Status::from),
        Err(error) => Err(internal(&error)),
    };
    checked(ended(&step, drafted)?)
}

/// The context lies elsewhere.
async fn of_address(
    builder: &Builder,
    job: &Arc<Job>,
    options: &Options,
    address: &str,
) -> Result<Drafted, Status> {
    let own = own_definition(builder, job, options).await?;
    let step = job.progress.begin(&format!("[internal] load remote build context {}", shown(address)));
    let (planning, request) = (builder.clone(), options.request.clone());
    let drafted = async {
        let context = gather(builder, job, options, address, &step).await?;
        blocking(move || planned(&planning, context, own, request)).await
    };
    checked(ended(&step, drafted.await)?)
}

/// Fetches a context, and shows how that goes on.
async fn gather(
    builder: &Builder,
    job: &Arc<Job>,
    options: &Options,
    address: &str,
    step: &Step,
) -> Result<Context, Status> {
    let (told, mut lines) = mpsc::channel(WAITING);
    let gathering = async move {
        let wish = Elsewhere {
            told: &told,
            cancelled: &job.cancelled,
            client: options.request.client.as_ref(),
            keeps_git_dir: options.keeps_git_dir,
        };
        builder.gather(address, wish).await
    };
    let showing = async {
        while let Some(said) = lines.recv().await {
            say(step, said);
        }
    };
    let (context, ()) = tokio::join!(gathering, showing);
    context.map_err(|error| match error {
        BuildError::Cancelled => filesync::broken_off(),
        error => status(&error),
    })
}

/// An address without what may be secret in it.
fn shown(address: &str) -> String {
    let address = address.split('?').next().unwrap_or_default();
    match (address.split_once("://"), address.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://{rest}"),
        _ => address.to_owned(),
    }
}

/// Refuses a Dockerfile that wants to be read by something else.
fn checked(drafted: Drafted) -> Result<Drafted, Status> {
    if let Some(image) = syntax(&drafted.source.text) {
        check_syntax(image)?;
    }
    Ok(drafted)
}

/// Brings the files of a named context.
async fn named(
    builder: &Builder,
    job: &Arc<Job>,
    plan: &Plan,
    name: &str,
    directory: &str,
) -> Result<(), Status> {
    let step = job.progress.begin(&format!("[context {name}] load .dockerignore"));
    let ignored = ended(&step, ignored_of(builder, job, directory, &step).await)?;
    drop(step);
    let step = job.progress.begin(&format!("[context {name}] load from client"));
    let wish = Wish { directory: directory.to_owned(), excludes: patterns(&ignored), ..Wish::default() };
    // Nobody but the client leaves anything out of it.
    if !wish.is_sent_whole() {
        let message =
            format!("the `.dockerignore` of the context `{name}` is too long to be sent to the client");
        return Err(Status::new(Code::InvalidArgument, message));
    }
    let folder = plan.folder_of(name);
    let received = async {
        let made = folder.clone();
        blocking(move || std::fs::create_dir(&made).map_err(|error| Failure::of(Kind::Internal, &error)))
            .await?;
        filesync::receive(
            &job.session,
            &wish,
            folder,
            &step,
            &format!("transferring {name}:"),
            &job.cancelled,
        )
        .await
    };
    ended(&step, received.await)
}

/// What the `.dockerignore` of a directory of the client says; nothing if there is none.
async fn ignored_of(builder: &Builder, job: &Job, directory: &str, step: &Step) -> Result<String, Status> {
    let folder = scratch(builder).await?;
    let wish = Wish {
        directory: directory.to_owned(),
        paths: vec![".dockerignore".to_owned()],
        is_text: true,
        ..Wish::default()
    };
    filesync::receive(
        &job.session,
        &wish,
        folder.path().to_owned(),
        step,
        "transferring context:",
        &job.cancelled,
    )
    .await?;
    let root = folder.path().to_owned();
    Ok(blocking(move || text(&root, ".dockerignore")).await?.unwrap_or_default())
}

async fn scratch(builder: &Builder) -> Result<tempfile::TempDir, Status> {
    let builder = builder.clone();
    blocking(move || builder.scratch().map_err(|error| Failure::of(Kind::Internal, &error))).await
}

/// A Dockerfile, and what is ignored with it if it has a list of its own.
fn texts(root: &Path, name: &str) -> Result<(String, Option<String>), Failure> {
    let dockerfile = match text(root, name)? {
        Some(dockerfile) => dockerfile,
        None => text(root, &name.to_ascii_lowercase())?.ok_or_else(|| {
            let message = format!("failed to read dockerfile: open {name}: no such file or directory");
            Failure::new(Kind::NotFound, message)
        })?,
    };
    Ok((dockerfile, text(root, &format!("{name}.dockerignore"))?))
}

/// The text of a file, if it is there.
fn text(root: &Path, name: &str) -> Result<Option<String>, Failure> {
    let root =
        engine_kernel::confine::Root::open(root).map_err(|error| Failure::of(Kind::Internal, &error))?;
    match root.read(&PathBuf::from("/").join(name), LARGEST_TEXT + 1) {
        Ok(bytes) if bytes.len() as u64 > LARGEST_TEXT => {
            Err(Failure::new(Kind::Invalid, format!("`{name}` has more than {LARGEST_TEXT} bytes")))
        }
        Ok(bytes) => {
            let text = String::from_utf8(bytes);
            let text =
                text.map_err(|_| Failure::new(Kind::Invalid, format!("`{name}` is not text in UTF-8")))?;
            Ok(Some(text))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::new(Kind::Invalid, format!("Could not read `{name}`: {error}"))),
    }
}

/// The patterns of a `.dockerignore`, for the client to leave out what they fit. What it sends in spite of them is ignored.
fn patterns(ignored: &str) -> Vec<String> {
    let ignored = ignored.strip_prefix('\u{feff}').unwrap_or(ignored);
    let lines = ignored.lines().filter(|line| !line.starts_with('#')).map(str::trim);
    let cleaned = lines.filter_map(|line| {
        let (mark, pattern) = line.strip_prefix('!').map_or(("", line), |rest| ("!", rest.trim()));
        let cleaned = engine_kernel::confine::clean(Path::new(pattern));
        let cleaned = cleaned.strip_prefix("/").unwrap_or(&cleaned).to_string_lossy().into_owned();
        (!cleaned.is_empty()).then(|| format!("{mark}{cleaned}"))
    });
    cleaned.collect()
}

/// Carries a plan out.
pub(crate) async fn carry_out(builder: Builder, job: Arc<Job>, drafted: Drafted) -> Result<ImageId, Status> {
    let Drafted { plan, source } = drafted;
    let (events, receiver) = mpsc::channel(WAITING);
    // The builder cancels what it is given when it is done, and the client has yet to say what becomes of the result.
    let cancelled = job.cancelled.child_token();
    let building = builder.build(plan, Audience::Watcher(events), cancelled);
    let (built, failed) = tokio::join!(building, show(&job.progress, receiver));
    built.map_err(|error| match error {
        BuildError::Cancelled => filesync::broken_off(),
        error => match failed {
            Some(lines) => source.point(status(&error), lines),
            None => source.point_by_message(status(&error)),
        },
    })
}
