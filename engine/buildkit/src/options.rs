//! What a client wants of a build, as attributes: understood, or refused by name.

use std::collections::BTreeMap;

use engine_build::{Named, Request};
use engine_model::wire::Ulimit;
use serde::Deserialize;

use super::grpc::{Code, Status};
use super::messages::control::CacheOptionsEntry;

/// By this name clients know the archive that they were given as a context.
const UPLOADS: &str = "http://buildkit-session/";
/// The frontends that read Dockerfiles as the engine does.
const DOCKERFILES: [&str; 2] = ["docker/dockerfile", "docker/dockerfile-upstream"];

/// Where the context is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A directory that the client calls so.
    Directory(String),
    /// An archive, by its path among the client's uploads.
    Upload(String),
    /// What the engine fetches itself.
    Address(String),
}

/// Where the files of a named context are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Files {
    /// A directory that the client calls so.
    Directory(String),
    /// What the engine fetches itself.
    Address(String),
}

/// All that a frontend is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) request: Request,
    pub(crate) context: Origin,
    /// The client's directory with the Dockerfile; the context's if there is none.
    pub(crate) dockerfile: Option<String>,
    /// By the names of contexts.
    pub(crate) files: BTreeMap<String, Files>,
    /// What a context that is a repository keeps.
    pub(crate) keeps_git_dir: bool,
    /// What is not done though it was wished.
    pub(crate) warnings: Vec<String>,
}

// Clients put the names of all other codes in front of what is said.
fn unsupported(what: &str) -> Status {
    Status::new(Code::Unknown, format!("{what} is not supported by this engine"))
}

fn invalid(message: impl Into<String>) -> Status {
    Status::new(Code::Unknown, message)
}

/// Refuses frontends that are no reader of Dockerfiles, by `frontend` and, of a gateway, the image of it.
pub(crate) fn check_frontend(frontend: &str, attributes: &BTreeMap<String, String>) -> Result<(), Status> {
    match frontend {
        "dockerfile.v0" => Ok(()),
        "gateway.v0" => check_syntax(attributes.get("source").map_or("", String::as_str)),
        other => Err(unsupported(&format!("the frontend `{other}`"))),
    }
}

/// Refuses images of frontends that are no reader of Dockerfiles.
pub(crate) fn check_syntax(image: &str) -> Result<(), Status> {
    let name = image.split(['@', ' ']).next().unwrap_or_default();
    let name = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    };
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    if DOCKERFILES.contains(&name) {
        return Ok(());
    }
    Err(unsupported(&format!("the frontend `{image}` (this engine reads what `docker/dockerfile` reads)")))
}

/// The image that a Dockerfile wants to be read by: its directive `syntax`.
pub(crate) fn syntax(dockerfile: &str) -> Option<&str> {
    let text = dockerfile.strip_prefix('\u{feff}').unwrap_or(dockerfile);
    for line in text.lines() {
        let (name, value) = line.trim().strip_prefix('#')?.split_once('=')?;
        let name = name.trim();
        if name.eq_ignore_ascii_case("syntax") {
            return Some(value.trim());
        }
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return None;
        }
    }
    None
}

impl Options {
    /// Understands the attributes of `dockerfile.v0`.
    pub(crate) fn understand(attributes: &BTreeMap<String, String>) -> Result<Self, Status> {
        let mut options = Self {
            request: Request {
                dockerfile: "Dockerfile".to_owned(),
                remove: true,
                force_remove: true,
                pulls_caches: true,
                ..Request::default()
            },
            context: Origin::Directory("context".to_owned()),
            dockerfile: None,
            files: BTreeMap::new(),
            keeps_git_dir: false,
            warnings: Vec::new(),
        };
        let mut keys = ("context".to_owned(), None);
        for (name, value) in attributes {
            match name.as_str() {
                "contextkey" => keys.0.clone_from(value),
                "dockerfilekey" => keys.1 = Some(value.clone()),
                _ => options.attribute(name, value)?,
            }
        }
        if let Origin::Directory(directory) = &mut options.context {
            *directory = keys.0;
            options.dockerfile = Some(keys.1.unwrap_or_else(|| "dockerfile".to_owned()));
        } else {
            options.dockerfile = keys.1;
        }
        Ok(options)
    }

    fn attribute(&mut self, name: &str, value: &str) -> Result<(), Status> {
        let request = &mut self.request;
        match name {
            "filename" => value.clone_into(&mut request.dockerfile),
            "target" => value.clone_into(&mut request.target),
            "platform" if value.contains(',') => {
                return Err(unsupported(&format!("`platform={value}`: building for several platforms")));
            }
            "platform" => value.clone_into(&mut request.platform),
            "no-cache" if value.is_empty() => request.no_cache = true,
            "no-cache" => request.no_cache_stages = value.split(',').map(str::to_owned).collect(),
            "image-resolve-mode" => match value {
                "pull" => request.pull = true,
                "" | "default" | "local" => {}
                _ => return Err(invalid(format!("invalid image-resolve-mode: {value}"))),
            },
            "add-hosts" => request.host.extra_hosts = hosts(value)?,
            "force-network-mode" => match value {
                "host" | "none" => value.clone_into(&mut request.host.network_mode),
                "" | "sandbox" => {}
                _ => return Err(invalid(format!("invalid network mode: {value}"))),
            },
            "shm-size" => {
                let size = value.parse().map_err(|_| invalid(format!("invalid shm-size: {value}")))?;
                request.host.shm_size = size;
            }
            "ulimit" => request.host.ulimits = ulimits(value)?,
            "cgroup-parent" => value.clone_into(&mut request.host.cgroup_parent),
            "context" => self.context = origin(value)?,
            "cache-imports" => {
                let entries: Vec<Import> = serde_json::from_str(value)
                    .map_err(|error| invalid(format!("cache-imports is not understood: {error}")))?;
                for entry in entries {
                    self.import(&entry.kind, &entry.attributes);
                }
            }
            "cache-from" if value.is_empty() => {}
            "cache-from" => {
                for image in value.split(',') {
                    self.import("registry", &[("ref".to_owned(), image.to_owned())].into());
                }
            }
            "multi-platform" if is_true(value) => {
                return Err(unsupported("`multi-platform`: an index of images"));
            }
            // Of a gateway, and looked at already.
            "multi-platform" | "source" | "cmdline" => {}
            "frontend.caps" => check_capabilities(value)?,
            "requestid" => {
                return Err(unsupported(&format!("`{value}`: a request of something else than a build")));
            }
            _ => return self.prefixed(name, value),
        }
        Ok(())
    }

    /// Takes an image's history for a cache; of caches in other forms nothing is understood.
    pub(crate) fn import(&mut self, kind: &str, attributes: &BTreeMap<String, String>) {
        let reference = attributes.get("ref");
        match reference.filter(|_| matches!(kind, "registry" | "inline")) {
            Some(image) if self.request.cache_from.contains(image) => {}
            Some(image) => self.request.cache_from.push(image.clone()),
            None => {
                let from = reference.or_else(|| attributes.get("src")).map_or(kind, String::as_str);
                let text =
                    format!("Steps are taken from images and builds of this engine alone, not from {from}");
                if !self.warnings.contains(&text) {
                    self.warnings.push(text);
                }
            }
        }
    }

    fn prefixed(&mut self, name: &str, value: &str) -> Result<(), Status> {
        let request = &mut self.request;
        match name.split_once(':') {
            Some(("build-arg", "BUILDKIT_SYNTAX")) => check_syntax(value),
            // These come as attributes as well, and what the client tells of its repository is about nothing that there is
            // here.
            Some(("build-arg", "BUILDKIT_INLINE_CACHE" | "BUILDKIT_MULTI_PLATFORM") | ("vcs", _)) => Ok(()),
            Some(("build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR")) => {
                self.keeps_git_dir = is_true(value);
                Ok(())
            }
            Some(("build-arg", "SOURCE_DATE_EPOCH")) => {
                self.warnings.push("SOURCE_DATE_EPOCH is known to the Dockerfile, but times in the image are those of the build".to_owned());
                request.arguments.insert("SOURCE_DATE_EPOCH".to_owned(), Some(value.to_owned()));
                Ok(())
            }
            Some(("build-arg", argument)) => {
                request.arguments.insert(argument.to_owned(), Some(value.to_owned()));
                Ok(())
            }
            Some(("label", label)) => {
                request.labels.push((label.to_owned(), value.to_owned()));
                Ok(())
            }
            Some(("context", context)) => self.named(context, value),
            Some(("attest", kind)) => check_attestation(kind, value),
            _ => Err(unsupported(&format!("the attribute `{name}={value}` of the frontend"))),
        }
    }

    fn named(&mut self, name: &str, value: &str) -> Result<(), Status> {
        let known = name.to_ascii_lowercase();
        if let Some(image) = value.strip_prefix("docker-image://") {
            self.request.contexts.insert(known, Named::Image(image.to_owned()));
        } else if let Some(directory) = value.strip_prefix("local:") {
            self.request.contexts.insert(known.clone(), Named::Folder);
            self.files.insert(known, Files::Directory(directory.to_owned()));
        } else if engine_build::is_elsewhere(value) {
            self.request.contexts.insert(known.clone(), Named::Folder);
            self.files.insert(known, Files::Address(value.to_owned()));
        } else {
            return Err(unsupported(&format!(
                "`--build-context {name}={value}`: contexts other than directories, addresses and `docker-image://`"
            )));
        }
        Ok(())
    }
}

/// An entry of `cache-imports`.
#[derive(Debug, Deserialize)]
struct Import {
    #[serde(rename = "Type", default)]
    kind: String,
    #[serde(rename = "Attrs", default)]
    attributes: BTreeMap<String, String>,
}

/// Refuses caches that would have to be written elsewhere, and says of the others that nothing comes of them.
pub(crate) fn warn_of_caches(exports: &[CacheOptionsEntry]) -> Result<Vec<String>, Status> {
    let mut warnings = Vec::new();
    for export in exports {
        if export.kind != "inline" {
            return Err(unsupported(&format!("`--cache-to type={}`", export.kind)));
        }
        warnings.push("`--cache-to type=inline`: engines like this one take an image's own history for its cache (`--cache-from`); for other builders it holds none".to_owned());
    }
    Ok(warnings)
}

/// Refuses attestations, but for what clients ask for that were asked for nothing: an image of one platform has no place for
/// it, and dockerd's own store leaves it out as well.
fn check_attestation(kind: &str, value: &str) -> Result<(), Status> {
    match (kind, value) {
        ("provenance", "mode=min,inline-only=true") | (_, "disabled=true" | "false") => Ok(()),
        _ => Err(unsupported(&format!("`--attest type={kind}` (`--{kind}`)"))),
    }
}

fn check_capabilities(value: &str) -> Result<(), Status> {
    let known = |capability: &&str| {
        let name = capability.strip_suffix("+forward").unwrap_or(capability);
        matches!(name, "" | "moby.buildkit.frontend.inputs" | "moby.buildkit.frontend.contexts")
    };
    match value.split(',').find(|capability| !known(capability)) {
        Some(unknown) => Err(unsupported(&format!("`{unknown}` of the frontend"))),
        None => Ok(()),
    }
}

fn is_true(value: &str) -> bool {
    matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

fn origin(value: &str) -> Result<Origin, Status> {
    if let Some(path) = value.strip_prefix(UPLOADS) {
        return Ok(Origin::Upload(format!("/{path}")));
    }
    if let Some(directory) = value.strip_prefix("local:") {
        return Ok(Origin::Directory(directory.to_owned()));
    }
    if engine_build::is_elsewhere(value) {
        return Ok(Origin::Address(value.to_owned()));
    }
    Err(unsupported(&format!("the context `{value}`")))
}

/// `name=address,…`
fn hosts(text: &str) -> Result<Option<Vec<String>>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let host = |pair: &str| {
        let (name, address) = pair.split_once('=')?;
        Some(format!("{name}:{address}"))
    };
    let hosts = text.split(',').map(host).collect::<Option<Vec<_>>>();
    hosts.map(Some).ok_or_else(|| invalid(format!("invalid add-hosts: {text}")))
}

/// `name=soft:hard,…`
fn ulimits(text: &str) -> Result<Option<Vec<Ulimit>>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let limit = |one: &str| {
        let (name, values) = one.split_once('=')?;
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        Some(Ulimit { name: name.to_owned(), soft: soft.parse().ok()?, hard: hard.parse().ok()? })
    };
    let limits = text.split(',').map(limit).collect::<Option<Vec<_>>>();
    limits.map(Some).ok_or_else(|| invalid(format!("invalid ulimit: {text}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Result<Options, String> {
        let attributes =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Options::understand(&attributes).map_err(|error| error.message)
    }

    #[test]
    fn attributes_are_understood() {
        let options = options(&[
            ("filename", "Containerfile"),
            ("build-arg:A", "b"),
            ("label:x", "y"),
            ("no-cache", "one,two"),
            ("add-hosts", "a=1.2.3.4,b=::1"),
            ("ulimit", "nofile=10:20,core=0"),
            ("shm-size", "1024"),
            ("force-network-mode", "none"),
            ("context:base", "docker-image://busybox"),
            ("context:More", "local:more"),
            ("image-resolve-mode", "pull"),
            ("frontend.caps", "moby.buildkit.frontend.contexts+forward"),
            ("attest:provenance", "mode=min,inline-only=true"),
            ("vcs:revision", "x"),
        ])
        .unwrap();
        let request = &options.request;
        assert_eq!(
            (request.dockerfile.as_str(), request.pull, request.no_cache),
            ("Containerfile", true, false)
        );
        assert_eq!(request.no_cache_stages, ["one", "two"]);
        assert_eq!(options.request.host.extra_hosts.as_ref().unwrap(), &["a:1.2.3.4", "b:::1"]);
        assert_eq!(options.request.host.ulimits.as_ref().unwrap().len(), 2);
        assert_eq!(
            (options.request.host.shm_size, options.request.host.network_mode.as_str()),
            (1024, "none")
        );
        assert_eq!(request.contexts["more"], Named::Folder);
        assert_eq!(options.files["more"], Files::Directory("more".to_owned()));
        assert_eq!(options.dockerfile.as_deref(), Some("dockerfile"));
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        for (name, value, named) in [
            ("requestid", "frontend.outline", "frontend.outline"),
            ("attest:sbom", "", "--sbom"),
            ("attest:provenance", "mode=max", "--provenance"),
            ("platform", "linux/amd64,linux/arm64", "linux/arm64"),
            ("context", "file:///x", "file:///x"),
            ("context:x", "oci-layout://x", "--build-context x"),
            ("multi-platform", "true", "multi-platform"),
            ("frontend.caps", "moby.buildkit.frontend.subrequests", "subrequests"),
            ("hostname", "x", "hostname=x"),
            ("build-arg:BUILDKIT_SYNTAX", "example/front:1", "example/front:1"),
        ] {
            let error = options(&[(name, value)]).unwrap_err();
            assert!(error.contains(named) && error.contains("not supported"), "{error}");
        }
        assert!(
            warn_of_caches(&[CacheOptionsEntry { kind: "registry".to_owned(), ..Default::default() }])
                .is_err()
        );
    }

    #[test]
    fn readers_of_dockerfiles_are_known() {
        for image in ["docker/dockerfile", "docker/dockerfile:1.7", "docker.io/docker/dockerfile:1@sha256:00"]
        {
            assert_eq!(check_syntax(image), Ok(()), "{image}");
        }
        for image in ["", "example/dockerfile", "docker/dockerfile2:1", "r.test:5000/docker/dockerfile"] {
            assert!(check_syntax(image).is_err(), "{image}");
        }
        assert_eq!(syntax("# escape=`\n#syntax = docker/dockerfile:1 \nFROM x"), Some("docker/dockerfile:1"));
        assert_eq!(syntax("# a comment\n# syntax=x\nFROM x"), None);
        assert_eq!(syntax("FROM x"), None);
    }
}
