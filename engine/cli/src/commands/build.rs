//! `build`, by the classic call of the API, and `builder prune`.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use clap::{ArgAction, Args};
use hyper::Method;
use serde_json::{Map, Value, json};

use super::images::body_from;
use super::pull::{self, Speak};
use crate::client::{Body, Client, Target, empty};
use crate::confirm::confirmed;
use crate::failure::{Failure, Outcome};
use crate::filters::{self, Filter};
use crate::{create, credentials, output, packing, units};

/// Build an image from a Dockerfile
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Add a custom host-to-IP mapping ("host:ip")
    #[arg(long, value_name = "list")]
    add_host: Vec<String>,
    /// Set build-time variables
    #[arg(long, value_name = "list")]
    build_arg: Vec<String>,
    /// Images to consider as cache sources
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    cache_from: Vec<String>,
    /// Set the parent cgroup for the "RUN" instructions during build
    #[arg(long, value_name = "string")]
    cgroup_parent: Option<String>,
    /// Limit the CPU CFS (Completely Fair Scheduler) period
    #[arg(long, value_name = "int")]
    cpu_period: Option<i64>,
    /// Limit the CPU CFS (Completely Fair Scheduler) quota
    #[arg(long, value_name = "int")]
    cpu_quota: Option<i64>,
    /// CPU shares (relative weight)
    #[arg(long, short, value_name = "int")]
    cpu_shares: Option<i64>,
    /// CPUs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "string")]
    cpuset_cpus: Option<String>,
    /// MEMs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "string")]
    cpuset_mems: Option<String>,
    /// Name of the Dockerfile (Default is "PATH/Dockerfile")
    #[arg(long, short, value_name = "string")]
    file: Option<String>,
    /// Always remove intermediate containers
    #[arg(long)]
    force_rm: bool,
    /// Write the image ID to the file
    #[arg(long, value_name = "string")]
    iidfile: Option<PathBuf>,
    /// Container isolation technology
    #[arg(long, value_name = "string")]
    isolation: Option<String>,
    /// Set metadata for an image
    #[arg(long, value_name = "list")]
    label: Vec<String>,
    /// Memory limit
    #[arg(long, short, value_name = "bytes")]
    memory: Option<String>,
    /// Swap limit equal to memory plus swap: -1 to enable unlimited swap
    #[arg(long, value_name = "bytes")]
    memory_swap: Option<String>,
    /// Set the networking mode for the RUN instructions during build
    #[arg(long, value_name = "string", default_value = "default")]
    network: String,
    /// Do not use cache when building the image
    #[arg(long)]
    no_cache: bool,
    /// Set platform if server is multi-platform capable
    #[arg(long, value_name = "string")]
    platform: Option<String>,
    /// Always attempt to pull a newer version of the image
    #[arg(long)]
    pull: bool,
    /// Suppress the build output and print image ID on success
    #[arg(long, short)]
    quiet: bool,
    /// Remove intermediate containers after a successful build
    #[arg(
        long,
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value = "true",
        default_missing_value = "true"
    )]
    rm: bool,
    /// Security options
    #[arg(long, value_name = "strings")]
    security_opt: Vec<String>,
    /// Size of "/dev/shm"
    #[arg(long, value_name = "bytes")]
    shm_size: Option<String>,
    /// Squash newly built layers into a single new layer
    #[arg(long)]
    squash: bool,
    /// Name and optionally a tag in the "name:tag" format
    #[arg(long, short, value_name = "list")]
    tag: Vec<String>,
    /// Set the target build stage to build.
    #[arg(long, value_name = "string")]
    target: Option<String>,
    /// Ulimit options
    #[arg(long, value_name = "ulimit")]
    ulimit: Vec<String>,
    #[arg(value_name = "PATH | URL | -")]
    context: String,
}

/// What a build begins with.
struct Context {
    body: Body,
    /// The Dockerfile's path in it.
    dockerfile: String,
    /// Where the daemon finds it, if it is not sent.
    remote: Option<String>,
    /// Bytes that were sent of a directory, once all are.
    sent: Option<Arc<AtomicI64>>,
}

pub(crate) async fn run(client: &Client, options: Options) -> Outcome {
    let context = context(&options)?;
    let target = target(&options, &context)?;
    let login = credentials::all_header(client.config())?;
    let mut headers = vec![("content-type", "application/x-tar")];
    headers.extend(login.iter().map(|value| ("x-registry-config", value.as_str())));
    let response = client.stream_with(Method::POST, &target, &headers, context.body).await?;
    if let Some(sent) = context.sent.filter(|_| !options.quiet) {
        let size = units::size(sent.load(Ordering::Relaxed));
        output::line(format!("Sending build context to Docker daemon  {size}"))?;
    }
    let mut id = None;
    pull::each(response.into_body(), |message| {
        if let Some(found) = message["aux"]["ID"].as_str() {
            id = Some(found.to_owned());
        } else if options.quiet
            && let Some(text) = message["stream"].as_str()
        {
            id = Some(text.trim().to_owned());
        }
        pull::show(message, false, Speak::Out)
    })
    .await?;
    match (&options.iidfile, id) {
        (Some(path), Some(id)) => fs::write(path, id)
            .map_err(|source| Failure::WriteFile { path: path.display().to_string(), source }),
        (Some(path), None) => Err(Failure::refused(format!(
            "the daemon did not say which image it has built, so that `{}` is not written",
            path.display()
        ))),
        (None, _) => Ok(()),
    }
}

fn context(options: &Options) -> Outcome<Context> {
    let dockerfile = options.file.as_deref();
    let is_address = ["http://", "https://", "git://", "git@", "github.com/"]
        .iter()
        .any(|start| options.context.starts_with(start));
    if options.context == "-" && dockerfile == Some("-") {
        return Err(Failure::refused(
            "invalid argument: can't use stdin for both build context and dockerfile",
        ));
    }
    if is_address {
        if dockerfile == Some("-") {
            return Err(Failure::refused(
                "the Dockerfile can't come from stdin where the daemon fetches the context itself",
            ));
        }
        let dockerfile = dockerfile.unwrap_or_default().to_owned();
        return Ok(Context { body: empty(), dockerfile, remote: Some(options.context.clone()), sent: None });
    }
    if options.context == "-" {
        return from_input(dockerfile.unwrap_or_default());
    }
    let packed = packing::Plan::new(Path::new(&options.context), dockerfile)?;
    let dockerfile = packed.dockerfile().to_owned();
    let sent = Arc::new(AtomicI64::new(0));
    let counted = Counted { reader: packed.begin()?, count: Arc::clone(&sent) };
    Ok(Context { body: body_from(counted), dockerfile, remote: None, sent: Some(sent) })
}

/// An archive, or a Dockerfile alone.
fn from_input(dockerfile: &str) -> Outcome<Context> {
    let mut start = Vec::new();
    io::stdin().take(512).read_to_end(&mut start).map_err(Failure::Input)?;
    let rest = io::Cursor::new(start.clone()).chain(io::stdin());
    if packing::is_archive(&start) {
        let dockerfile = dockerfile.to_owned();
        return Ok(Context { body: body_from(rest), dockerfile, remote: None, sent: None });
    }
    if !dockerfile.is_empty() {
        return Err(Failure::refused(
            "ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles",
        ));
    }
    let mut text = Vec::new();
    let mut rest = rest;
    rest.read_to_end(&mut text).map_err(Failure::Input)?;
    let archive = packing::single("Dockerfile", &text).map_err(Failure::Input)?;
    let sent = Arc::new(AtomicI64::new(i64::try_from(archive.len()).unwrap_or(i64::MAX)));
    let body = body_from(io::Cursor::new(archive));
    Ok(Context { body, dockerfile: "Dockerfile".to_owned(), remote: None, sent: Some(sent) })
}

/// `NAME=VALUE`; without a value the variable's own, if there is one.
fn arguments(given: &[String]) -> Map<String, Value> {
    let pair = |text: &String| match text.split_once('=') {
        Some((name, value)) => (name.to_owned(), json!(value)),
        None => (text.clone(), std::env::var(text).map_or(Value::Null, Value::from)),
    };
    given.iter().map(pair).collect()
}

fn labels(given: &[String]) -> Map<String, Value> {
    let pair = |text: &String| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        (name.to_owned(), json!(value))
    };
    given.iter().map(pair).collect()
}

fn limits(given: &[String]) -> Outcome<Vec<Value>> {
    let wrong = |source| Failure::Run { source: Box::new(source), command: "build", code: 125 };
    given.iter().map(|text| create::ulimit(text).map_err(wrong)).collect()
}

fn target(options: &Options, context: &Context) -> Outcome<Target> {
    let bytes = |text: &Option<String>| -> Outcome<Option<String>> {
        let size = text.as_deref().map(|text| match text {
            "-1" => Ok(-1),
            text => units::parse_size(text),
        });
        Ok(size.transpose().map_err(Failure::Refused)?.map(|size| size.to_string()))
    };
    let number = |number: Option<i64>| number.map(|number| number.to_string());
    let json = |value: Value| (value != json!({}) && value != json!([])).then(|| value.to_string());
    let mut target = Target::new(["build"])
        .with("dockerfile", &context.dockerfile)
        .with_some("remote", context.remote.as_deref())
        .with("rm", if options.rm { "1" } else { "0" })
        .with_flag("forcerm", options.force_rm)
        .with_flag("nocache", options.no_cache)
        .with_flag("pull", options.pull)
        .with_flag("q", options.quiet)
        .with_flag("squash", options.squash)
        .with("networkmode", &options.network)
        .with_some("target", options.target.as_deref())
        .with_some("platform", options.platform.as_deref().map(str::to_lowercase).as_deref())
        .with_some("isolation", options.isolation.as_deref())
        .with_some("cgroupparent", options.cgroup_parent.as_deref())
        .with_some("cpusetcpus", options.cpuset_cpus.as_deref())
        .with_some("cpusetmems", options.cpuset_mems.as_deref())
        .with_some("cpushares", number(options.cpu_shares).as_deref())
        .with_some("cpuperiod", number(options.cpu_period).as_deref())
        .with_some("cpuquota", number(options.cpu_quota).as_deref())
        .with_some("memory", bytes(&options.memory)?.as_deref())
        .with_some("memswap", bytes(&options.memory_swap)?.as_deref())
        .with_some("shmsize", bytes(&options.shm_size)?.as_deref())
        .with_some("buildargs", json(Value::Object(arguments(&options.build_arg))).as_deref())
        .with_some("labels", json(Value::Object(labels(&options.label))).as_deref())
        .with_some("cachefrom", json(json!(options.cache_from)).as_deref())
        .with_some("securityopt", json(json!(options.security_opt)).as_deref())
        .with_some("ulimits", json(Value::Array(limits(&options.ulimit)?)).as_deref());
    for name in &options.tag {
        target = target.with("t", name);
    }
    for host in &options.add_host {
        // As the stock client: the name before the first colon, or before `=`.
        let (name, address) = host
            .split_once('=')
            .or_else(|| host.split_once(':'))
            .ok_or_else(|| Failure::refused(format!("bad format for add-host: {host:?}")))?;
        target = target.with("extrahosts", &format!("{name}:{address}"));
    }
    Ok(target)
}

/// Counts what is read.
struct Counted<R> {
    reader: R,
    count: Arc<AtomicI64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read(buffer)?;
        self.count.fetch_add(i64::try_from(length).unwrap_or(0), Ordering::Relaxed);
        Ok(length)
    }
}

/// Remove build cache
#[derive(Args, Debug)]
pub(crate) struct Prune {
    /// Remove all unused build cache, not just dangling ones
    #[arg(long, short)]
    all: bool,
    /// Provide filter values (e.g. "until=24h")
    #[arg(long, value_name = "filter", value_parser = filters::parse)]
    filter: Vec<Filter>,
    /// Do not prompt for confirmation
    #[arg(long, short)]
    force: bool,
    /// Amount of disk space to keep for cache
    #[arg(long, value_name = "bytes")]
    keep_storage: Option<String>,
}

/// Removes what builds keep and do not need; the bytes that were freed.
pub(crate) async fn prune_cache(client: &Client, all: bool, wanted: &[Filter]) -> Outcome<i64> {
    let answer = ask_to_prune(client, all, wanted, None).await?;
    Ok(answer["SpaceReclaimed"].as_i64().unwrap_or(0))
}

async fn ask_to_prune(client: &Client, all: bool, wanted: &[Filter], keep: Option<&str>) -> Outcome<Value> {
    let mut target = Target::new(["build", "prune"]).with_flag("all", all).with_some("keep-storage", keep);
    if !wanted.is_empty() {
        target = target.with("filters", &filters::to_json(wanted).to_string());
    }
    client.post(&target, None).await
}

pub(crate) async fn prune(client: &Client, options: Prune) -> Outcome {
    let warning = if options.all {
        "This will remove all build cache."
    } else {
        "This will remove all dangling build cache."
    };
    if !confirmed(warning, options.force)? {
        return Ok(());
    }
    let keep =
        options.keep_storage.as_deref().map(units::parse_size).transpose().map_err(Failure::Refused)?;
    let keep = keep.map(|bytes| bytes.to_string());
    let answer = ask_to_prune(client, options.all, &options.filter, keep.as_deref()).await?;
    let removed: Vec<&str> =
        answer["CachesDeleted"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !removed.is_empty() {
        output::line(format!("Deleted build cache objects:\n{}\n", removed.join("\n")))?;
    }
    let reclaimed = answer["SpaceReclaimed"].as_i64().unwrap_or(0);
    output::line(format!("Total reclaimed space: {}", units::size(reclaimed)))
}
