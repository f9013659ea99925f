//! `push`.

use clap::Args;
use hyper::Method;

use super::pull::{Speak, messages, split};
use crate::client::{Client, Target, empty};
use crate::credentials;
use crate::failure::{Failure, Outcome};
use crate::output;

/// Upload an image to a registry
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Push all tags of the repository
    #[arg(long, short)]
    all_tags: bool,
    /// Skip image signing; there is none
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "bool")]
    disable_content_trust: Option<bool>,
    /// Say little
    #[arg(long, short)]
    quiet: bool,
    #[arg(value_name = "NAME[:TAG]")]
    image: String,
}

pub(crate) async fn run(client: &Client, options: Options) -> Outcome {
    if options.disable_content_trust == Some(false) {
        return Err(Failure::refused("content trust is not supported: sign images with cosign or notation"));
    }
    let (name, tag) = split(&options.image);
    let tag = match (options.all_tags, tag) {
        (true, Some(_)) => return Err(Failure::refused("tag can't be used with --all-tags/-a")),
        (true, None) => None,
        (false, None) => {
            if !options.quiet {
                output::line("Using default tag: latest")?;
            }
            Some("latest")
        }
        (false, tag) => tag,
    };
    let header = credentials::header(client.config(), name)?;
    let target = Target::new(["images", name, "push"]).with_some("tag", tag);
    // Without a login the header says so: there has to be one.
    let header = header.unwrap_or_else(|| "e30=".to_owned());
    let response =
        client.stream_with(Method::POST, &target, &[("x-registry-auth", header.as_str())], empty()).await?;
    messages(response.into_body(), options.quiet, Speak::Out).await?;
    if options.quiet {
        return output::line(tag.map_or_else(|| name.to_owned(), |tag| format!("{name}:{tag}")));
    }
    Ok(())
}
