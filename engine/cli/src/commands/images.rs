//! `images`, `history`, `tag`, `rmi`, `load` and `save`.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use clap::Args;
use http_body_util::{BodyExt, StreamBody};
use hyper::Method;
use hyper::body::Frame;
use jiff::Timestamp;
use serde_json::Value;

use super::pull::{self, Speak};
use crate::client::{Body, Client, Target, empty};
use crate::failure::{Failure, Outcome, chain};
use crate::filters::{self, Filter};
use crate::format::{self, Kind, Row};
use crate::{output, terminal, units};

/// List images
#[derive(Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "Each is a flag of the stock client")]
pub(crate) struct List {
    /// Show all, also those in between
    #[arg(long, short)]
    all: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Show only what matches
    #[arg(long, short, value_name = "filter", value_parser = filters::parse)]
    filter: Vec<Filter>,
    /// Format: `table`, `table TEMPLATE`, `json` or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Cut nothing
    #[arg(long)]
    no_trunc: bool,
    /// Show only IDs
    #[arg(long, short)]
    quiet: bool,
    #[arg(value_name = "REPOSITORY[:TAG]")]
    reference: Option<String>,
}

const HEADERS: &[(&str, &str)] = &[
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Containers", "CONTAINERS"),
    ("VirtualSize", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
];

const TABLE: Kind = Kind {
    type_name: "*formatter.imageContext",
    headers: HEADERS,
    table: "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
};

const TABLE_WITH_DIGESTS: Kind =
    Kind { table: "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}", ..TABLE };

pub(crate) async fn list(client: &Client, options: List) -> Outcome {
    let mut wanted = options.filter;
    if let Some(reference) = &options.reference {
        wanted.push(Filter { name: "reference".to_owned(), value: reference.clone() });
    }
    let mut target = Target::new(["images", "json"]).with_flag("all", options.all);
    if !wanted.is_empty() {
        target = target.with("filters", &filters::to_json(&wanted).to_string());
    }
    let answer = client.get(&target).await?;
    let now = Timestamp::now();
    let digests =
        options.digests || options.format.as_deref().is_some_and(|format| format.contains("{{.Digest}}"));
    let images = answer.as_array().into_iter().flatten();
    let rows: Vec<Row> = images.flat_map(|image| rows(image, options.no_trunc, digests, now)).collect();
    if options.quiet && options.format.is_none() {
        for row in &rows {
            output::line(row.fields["ID"].as_str().unwrap_or_default())?;
        }
        return Ok(());
    }
    format::print(
        if options.digests { &TABLE_WITH_DIGESTS } else { &TABLE },
        options.format.as_deref(),
        &rows,
    )
}

const NONE: &str = "<none>";

/// One row for each tag of an image; also used for `system df -v`.
pub(crate) fn rows(image: &Value, whole: bool, digests: bool, now: Timestamp) -> Vec<Row> {
    let texts = |field: &str| -> Vec<String> {
        let values = image[field].as_array().into_iter().flatten().filter_map(Value::as_str);
        values.filter(|value| !value.starts_with(NONE)).map(str::to_owned).collect()
    };
    let (tags, repository_digests) = (texts("RepoTags"), texts("RepoDigests"));
    let digest_of = |repository: &str| {
        let found = repository_digests.iter().filter_map(|digest| digest.split_once('@'));
        found.filter(|(name, _)| *name == repository).map(|(_, digest)| digest.to_owned()).next()
    };
    let mut names: Vec<(String, String, String)> = Vec::new();
    for tag in &tags {
        let (repository, tag) = pull::split(tag);
        let digest = if digests { digest_of(repository) } else { None };
        names.push((
            repository.to_owned(),
            tag.unwrap_or(NONE).to_owned(),
            digest.unwrap_or_else(|| NONE.to_owned()),
        ));
    }
    if names.is_empty() {
        for digest in &repository_digests {
            let (repository, digest) = digest.split_once('@').unwrap_or((digest, NONE));
            let digest = if digests { digest } else { NONE };
            names.push((repository.to_owned(), NONE.to_owned(), digest.to_owned()));
            if !digests {
                break;
            }
        }
    }
    if names.is_empty() {
        names.push((NONE.to_owned(), NONE.to_owned(), NONE.to_owned()));
    }
    let id = image["Id"].as_str().unwrap_or_default();
    let created = image["Created"].as_i64().unwrap_or(0);
    let bytes = |field: &str| image[field].as_i64().unwrap_or(-1);
    let (size, shared) = (bytes("Size"), bytes("SharedSize"));
    let known = |value: i64, text: String| if value < 0 { "N/A".to_owned() } else { text };
    names
        .into_iter()
        .map(|(repository, tag, digest)| {
            Row::new([
                ("ID", Value::from(if whole { id.to_owned() } else { units::short_id(id) })),
                ("Repository", Value::from(repository)),
                ("Tag", Value::from(tag)),
                ("Digest", Value::from(digest)),
                (
                    "CreatedSince",
                    Value::from(if created > 0 { units::ago(created, now) } else { "N/A".to_owned() }),
                ),
                ("CreatedAt", Value::from(units::local_time(created))),
                ("Size", Value::from(units::short_size(size))),
                ("VirtualSize", Value::from(units::size(size))),
                ("Containers", Value::from(known(bytes("Containers"), bytes("Containers").to_string()))),
                ("SharedSize", Value::from(known(shared, units::size(shared)))),
                ("UniqueSize", Value::from(known(shared, units::size(size - shared)))),
            ])
        })
        .collect()
}

/// Show the history of an image
#[derive(Args, Debug)]
#[command(disable_help_flag = true)]
pub(crate) struct History {
    /// Format: `table`, `table TEMPLATE`, `json` or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Print usage
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    /// Sizes and times for people
    #[arg(long, short = 'H', value_name = "bool", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    human: bool,
    /// Cut nothing
    #[arg(long)]
    no_trunc: bool,
    /// Show only IDs
    #[arg(long, short)]
    quiet: bool,
    #[arg(value_name = "IMAGE")]
    image: String,
}

const HISTORY: Kind = Kind {
    type_name: "*formatter.historyContext",
    headers: &[
        ("ID", "IMAGE"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedBy", "CREATED BY"),
        ("Size", "SIZE"),
        ("Comment", "COMMENT"),
    ],
    table: "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
};

const HISTORY_WITH_TIMES: Kind =
    Kind { table: "{{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}", ..HISTORY };

pub(crate) async fn history(client: &Client, options: History) -> Outcome {
    let answer = client.get(&Target::new(["images", &options.image, "history"])).await?;
    let now = Timestamp::now();
    let rows: Vec<Row> = answer
        .as_array()
        .into_iter()
        .flatten()
        .map(|layer| {
            let text = |field: &str| layer[field].as_str().unwrap_or_default();
            let id = if options.no_trunc { text("Id").to_owned() } else { units::short_id(text("Id")) };
            let command = text("CreatedBy").replace('\t', " ");
            let created = layer["Created"].as_i64().unwrap_or(0);
            let created_at = Timestamp::from_second(created).map(|time| time.to_string()).unwrap_or_default();
            let size = layer["Size"].as_i64().unwrap_or(0);
            Row::new([
                ("ID", Value::from(id)),
                (
                    "CreatedSince",
                    Value::from(if created <= 0 { "N/A".to_owned() } else { units::ago(created, now) }),
                ),
                ("CreatedAt", Value::from(created_at)),
                (
                    "CreatedBy",
                    Value::from(if options.no_trunc { command } else { units::ellipsis(&command, 45) }),
                ),
                ("Size", Value::from(if options.human { units::short_size(size) } else { size.to_string() })),
                ("Comment", Value::from(text("Comment"))),
            ])
        })
        .collect();
    if options.quiet && options.format.is_none() {
        for row in &rows {
            output::line(row.fields["ID"].as_str().unwrap_or_default())?;
        }
        return Ok(());
    }
    let kind = if options.human { &HISTORY } else { &HISTORY_WITH_TIMES };
    format::print(kind, options.format.as_deref(), &rows)
}

/// Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE
#[derive(Args, Debug)]
pub(crate) struct Tag {
    #[arg(value_name = "SOURCE_IMAGE[:TAG]")]
    source: String,
    #[arg(value_name = "TARGET_IMAGE[:TAG]")]
    target: String,
}

pub(crate) async fn tag(client: &Client, options: Tag) -> Outcome {
    if options.target.contains('@') {
        return Err(Failure::refused("refusing to create a tag with a digest reference"));
    }
    let (repository, tag) = pull::split(&options.target);
    let target = Target::new(["images", &options.source, "tag"])
        .with("repo", repository)
        .with("tag", tag.unwrap_or("latest"));
    client.post(&target, None).await.map(|_| ())
}

/// Remove one or more images
#[derive(Args, Debug)]
pub(crate) struct Remove {
    /// Remove it even if it is used
    #[arg(long, short)]
    force: bool,
    /// Keep parents without a tag
    #[arg(long)]
    no_prune: bool,
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

pub(crate) async fn remove(client: &Client, options: Remove) -> Outcome {
    let mut failed = false;
    for image in &options.images {
        let target = Target::new(["images", image])
            .with_flag("force", options.force)
            .with_flag("noprune", options.no_prune);
        match client.delete(&target).await {
            Ok(removed) => {
                for step in removed.as_array().into_iter().flatten() {
                    match (step["Deleted"].as_str(), step["Untagged"].as_str()) {
                        (Some(deleted), _) if !deleted.is_empty() => {
                            output::line(format!("Deleted: {deleted}"))?;
                        }
                        (_, Some(untagged)) => output::line(format!("Untagged: {untagged}"))?,
                        _ => {}
                    }
                }
            }
            Err(error @ Failure::Unreachable { .. }) => return Err(error),
            Err(error) => {
                output::say(chain(&error));
                failed |= !(options.force && error.is_not_found());
            }
        }
    }
    if failed { Err(Failure::Exit(1)) } else { Ok(()) }
}

/// Load an image from a tar archive or STDIN
#[derive(Args, Debug)]
pub(crate) struct Load {
    /// Read from this file instead of the input
    #[arg(long, short, value_name = "string")]
    input: Option<String>,
    /// Load only this platform
    #[arg(long, value_name = "string")]
    platform: Option<String>,
    /// Say less
    #[arg(long, short)]
    quiet: bool,
}

/// A body that is read from `reader` as the daemon takes it.
pub(crate) fn body_from(mut reader: impl io::Read + Send + 'static) -> Body {
    let (sender, receiver) = tokio::sync::mpsc::channel::<io::Result<Frame<bytes::Bytes>>>(4);
    tokio::task::spawn_blocking(move || {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let frame = match reader.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => Ok(Frame::data(bytes::Bytes::copy_from_slice(&buffer[..length]))),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let last = frame.is_err();
            if sender.blocking_send(frame).is_err() || last {
                return;
            }
        }
    });
    body_of(receiver)
}

/// A body of what comes through a channel.
pub(crate) fn body_of(receiver: tokio::sync::mpsc::Receiver<io::Result<Frame<bytes::Bytes>>>) -> Body {
    let stream = futures_util::stream::unfold(receiver, async |mut receiver| {
        let frame = receiver.recv().await?;
        Some((frame, receiver))
    });
    BodyExt::boxed(StreamBody::new(SyncStream(std::sync::Mutex::new(Box::pin(stream)))))
}

type Frames = std::pin::Pin<Box<dyn futures_util::Stream<Item = io::Result<Frame<bytes::Bytes>>> + Send>>;

/// A stream that may be shared between threads, as bodies must, though it is polled by one at a time.
struct SyncStream(std::sync::Mutex<Frames>);

impl futures_util::Stream for SyncStream {
    type Item = io::Result<Frame<bytes::Bytes>>;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        match self.get_mut().0.get_mut() {
            Ok(stream) => stream.as_mut().poll_next(context),
            Err(_) => std::task::Poll::Ready(None),
        }
    }
}

pub(crate) async fn load(client: &Client, options: Load) -> Outcome {
    let body = match options.input.as_deref() {
        Some(path) => {
            let file =
                File::open(path).map_err(|source| Failure::ReadFile { path: path.to_owned(), source })?;
            body_from(file)
        }
        None if terminal::input_is_terminal() => {
            return Err(Failure::refused("requested load from stdin, but stdin is empty"));
        }
        None => body_from(io::stdin()),
    };
    // As the stock client: without a terminal nobody wants a progress bar.
    let quiet = options.quiet || !terminal::output_is_terminal();
    let target = Target::new(["images", "load"])
        .with("quiet", if quiet { "1" } else { "0" })
        .with_some("platform", options.platform.as_deref());
    let response = client.stream(Method::POST, &target, Some("application/x-tar"), body).await?;
    pull::messages(response.into_body(), false, Speak::Out).await
}

/// Save one or more images to a tar archive (streamed to STDOUT by default)
#[derive(Args, Debug)]
pub(crate) struct Save {
    /// Write to this file instead of the output
    #[arg(long, short, value_name = "string")]
    output: Option<String>,
    /// Save only this platform
    #[arg(long, value_name = "string")]
    platform: Option<String>,
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

pub(crate) async fn save(client: &Client, options: Save) -> Outcome {
    if options.output.is_none() && terminal::output_is_terminal() {
        return Err(Failure::refused("cowardly refusing to save to a terminal. Use the -o flag or redirect"));
    }
    let mut target = Target::new(["images", "get"]);
    for image in &options.images {
        target = target.with("names", image);
    }
    target = target.with_some("platform", options.platform.as_deref());
    let response = client.stream(Method::GET, &target, None, empty()).await?;
    write_out(response.into_body(), options.output.as_deref()).await
}

/// Writes a body to a file, which appears only when it is complete, or to the output.
pub(crate) async fn write_out(mut body: hyper::body::Incoming, path: Option<&str>) -> Outcome {
    let broken = |error: hyper::Error| Failure::Input(io::Error::other(error));
    let Some(path) = path else {
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.map_err(broken)?.into_data() {
                output::raw(data)?;
            }
        }
        return Ok(());
    };
    let failed = |source| Failure::WriteFile { path: path.to_owned(), source };
    let folder = Path::new(path)
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."));
    let mut file = tempfile::Builder::new().permissions(permissions()).tempfile_in(folder).map_err(failed)?;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(broken)?.into_data() {
            file.write_all(&data).map_err(failed)?;
        }
    }
    file.persist(path).map(|_| ()).map_err(|error| failed(error.error))
}

fn permissions() -> std::fs::Permissions {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::Permissions::from_mode(0o600)
}
