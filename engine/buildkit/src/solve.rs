//! Builds a Dockerfile of the client: brings what it takes, hands it to the builder, and shows how that goes on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine_build::{Audience, BuildError, Builder, Event, Plan, StepId, Texts, Told, Wanted};
use engine_model::task::apart;
use engine_model::{Failure, ImageId, Kind};
use serde_json::Value;
use tokio::sync::mpsc;

use super::filesync::{self, Wish};
use super::grpc::{Code, Status};
use super::job::Job;
use super::options::{Options, Origin, check_syntax, syntax};
use super::progress::{Progress, Step};
use super::source::Source;

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
    };
    for name in drafted.plan.folders_wanted() {
        if let Some(directory) = options.directories.get(&name) {
            named(builder, job, &drafted.plan, &name, directory).await?;
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
    let name = options.request.dockerfile.clone();
    let from = options.dockerfile.as_deref().unwrap_or(directory);
    let step = job.progress.begin(&format!("[internal] load build definition from {name}"));
    let folder = scratch(builder).await?;
    let wish = Wish {
        directory: from.to_owned(),
        paths: vec![name.clone(), format!("{name}.dockerignore"), name.to_ascii_lowercase()],
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
        let (name, root) = (name.clone(), folder.path().to_owned());
        blocking(move || texts(&root, &name)).await
    };
    let (text, own_ignored) = ended(&step, texts.await)?;
    drop(step);
    let source = Source { name: name.clone(), text: text.clone() };
    if let Some(image) = syntax(&text) {
        check_syntax(image).map_err(|error| source.point(error, (1, 1)))?;
    }
    let step = job.progress.begin("[internal] load .dockerignore");
    let ignored = match own_ignored {
        Some(ignored) => Ok(ignored),
        None => ignored_of(builder, job, directory, &step).await,
    };
    let ignored = ended(&step, ignored)?;
    let excludes = patterns(&ignored);
    let (drafting, request) = (builder.clone(), options.request.clone());
    let texts = Texts { name, dockerfile: text, ignored };
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

/// The context is an archive that the client was given.
async fn of_upload(
    builder: &Builder,
    job: &Arc<Job>,
    options: &Options,
    path: String,
) -> Result<Drafted, Status> {
    if options.dockerfile.is_some() {
        let what = "a Dockerfile from elsewhere for an archive as context is not supported by this engine";
        return Err(Status::new(Code::Unknown, what));
    }
    let step = job.progress.begin("[internal] load remote build context");
    let mut archive = filesync::upload(&job.session, &path, UPLOADS, job.cancelled.clone())?;
    let (receiving, request) = (builder.clone(), options.request.clone());
    // It waits for the client, so it is none of the threads that are for the disk.
    let planned = apart(move || {
        let context = receiving.receive(&mut archive)?;
        let name = request.dockerfile.clone();
        let plan = receiving.plan(context, request)?;
        let text = texts(&plan.folder(), &name).map(|(text, _)| text).unwrap_or_default();
        Ok::<_, Failure>((plan, Source { name, text }))
    });
    let planned = match planned.await {
        Ok(planned) => planned.map_err(Status::from),
        Err(error) => Err(internal(&error)),
    };
    let (plan, source) = ended(&step, planned)?;
    if let Some(image) = syntax(&source.text) {
        check_syntax(image)?;
    }
    Ok(Drafted { plan, source })
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

/// In the words that users of BuildKit know.
fn status(error: &BuildError) -> Status {
    match error {
        BuildError::Command { command, code } => {
            let message = format!("process {command:?} did not complete successfully: exit code: {code}");
            Status::new(Code::Unknown, message)
        }
        other => Failure::from(other.clone()).into(),
    }
}

/// Shows what becomes of steps, and returns the lines of the first instruction that failed.
async fn show(progress: &Progress, mut events: mpsc::Receiver<Event>) -> Option<(usize, usize)> {
    let mut steps: BTreeMap<StepId, Step> = BTreeMap::new();
    let (mut failed, mut warned) = (None, None);
    while let Some(event) = events.recv().await {
        match event {
            Event::Began { step, title } => drop(steps.insert(step, progress.begin(&title))),
            Event::Said { step, said } => {
                if let Some(step) = steps.get(&step) {
                    say(step, said);
                }
            }
            Event::Ended { step, is_cached } => {
                if let Some(step) = steps.remove(&step) {
                    step.end(is_cached, None);
                }
            }
            Event::Failed { step, lines, error } => {
                failed.get_or_insert(lines);
                if let Some(step) = step.and_then(|step| steps.remove(&step)) {
                    step.end(false, Some(&status(&error).message));
                }
            }
            Event::Warning(text) => {
                let step = warned.get_or_insert_with(|| progress.begin("[internal] warnings"));
                step.warn(&text);
            }
        }
    }
    if let Some(step) = warned {
        step.end(false, None);
    }
    failed
}

fn say(step: &Step, said: Told) {
    match said {
        Told::Text(text) => step.output(false, text.as_bytes()),
        Told::Errors(text) => step.output(true, text.as_bytes()),
        Told::Line(line) => pulled(step, &line),
        Told::Image(_) => {}
    }
}

/// A line of the API, as a pull tells it.
fn pulled(step: &Step, line: &Value) {
    let text = |key: &str| line[key].as_str().unwrap_or_default();
    let (id, status) = (text("id"), text("status"));
    if id.is_empty() || status.is_empty() {
        return;
    }
    let number = |key: &str| line["progressDetail"][key].as_u64().unwrap_or(0);
    let is_done = matches!(status, "Pull complete" | "Already exists");
    step.part(id, number("current"), number("total"), is_done);
}
