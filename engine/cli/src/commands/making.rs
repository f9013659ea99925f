//! `commit`, `export` and `import`: containers and archives as images, and containers as archives.

use std::fs::File;
use std::io;

use clap::{ArgAction, Args};
use hyper::Method;

use super::images::{body_from, write_out};
use super::pull::{self, Speak};
use crate::client::{Client, Target, empty};
use crate::failure::{Failure, Outcome};
use crate::{output, terminal};

/// Create a new image from a container's changes
#[derive(Args, Debug)]
pub(crate) struct Commit {
    /// Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")
    #[arg(long, short, value_name = "string")]
    author: Option<String>,
    /// Apply Dockerfile instruction to the created image
    #[arg(long, short, value_name = "list")]
    change: Vec<String>,
    /// Commit message
    #[arg(long, short, value_name = "string")]
    message: Option<String>,
    /// Pause container during commit
    #[arg(
        long,
        short,
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value = "true",
        default_missing_value = "true"
    )]
    pause: bool,
    #[arg(value_name = "CONTAINER")]
    container: String,
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

pub(crate) async fn commit(client: &Client, options: Commit) -> Outcome {
    let mut target = Target::new(["commit"])
        .with("container", &options.container)
        .with_some("author", options.author.as_deref())
        .with_some("comment", options.message.as_deref());
    if let Some(name) = &options.name {
        let (repository, tag) = pull::split(name);
        if tag.is_some_and(|tag| tag.contains(':')) {
            return Err(Failure::refused("refusing to create a tag with a digest reference"));
        }
        target = target.with("repo", repository).with("tag", tag.unwrap_or("latest"));
    }
    for change in &options.change {
        target = target.with("changes", change);
    }
    if !options.pause {
        target = target.with("pause", "0");
    }
    let answer = client.post(&target, None).await?;
    output::line(answer["Id"].as_str().unwrap_or_default())
}

/// Export a container's filesystem as a tar archive
#[derive(Args, Debug)]
pub(crate) struct Export {
    /// Write to a file, instead of STDOUT
    #[arg(long, short, value_name = "string")]
    output: Option<String>,
    #[arg(value_name = "CONTAINER")]
    container: String,
}

pub(crate) async fn export(client: &Client, options: Export) -> Outcome {
    if options.output.is_none() && terminal::output_is_terminal() {
        return Err(Failure::refused("cowardly refusing to save to a terminal. Use the -o flag or redirect"));
    }
    let target = Target::new(["containers", &options.container, "export"]);
    let response = client.stream(Method::GET, &target, None, empty()).await?;
    write_out(response.into_body(), options.output.as_deref()).await
}

/// Import the contents from a tarball to create a filesystem image
#[derive(Args, Debug)]
pub(crate) struct Import {
    /// Apply Dockerfile instruction to the created image
    #[arg(long, short, value_name = "list")]
    change: Vec<String>,
    /// Set commit message for imported image
    #[arg(long, short, value_name = "string")]
    message: Option<String>,
    /// Set platform if server is multi-platform capable
    #[arg(long, value_name = "string")]
    platform: Option<String>,
    #[arg(value_name = "file|URL|-")]
    source: String,
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

pub(crate) async fn import(client: &Client, options: Import) -> Outcome {
    let source = options.source.as_str();
    let is_address = ["http://", "https://"].iter().any(|scheme| source.starts_with(scheme));
    let (named, body) = match source {
        "-" => ("-", body_from(io::stdin())),
        address if is_address => (address, empty()),
        path => {
            let file =
                File::open(path).map_err(|source| Failure::ReadFile { path: path.to_owned(), source })?;
            ("-", body_from(file))
        }
    };
    let mut target = Target::new(["images", "create"])
        .with("fromSrc", named)
        .with_some("repo", options.name.as_deref())
        .with_some("message", options.message.as_deref())
        .with_some("platform", options.platform.as_deref().map(str::to_lowercase).as_deref());
    for change in &options.change {
        target = target.with("changes", change);
    }
    let response = client.stream(Method::POST, &target, Some("text/plain"), body).await?;
    pull::messages(response.into_body(), false, Speak::Out).await
}
