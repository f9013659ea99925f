//! `context`: names for daemons.

use std::collections::BTreeMap;
use std::fs;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::inspect;
use crate::contexts::{DEFAULT, Meta, Store, TLS, is_name};
use crate::endpoint::Global;
use crate::failure::{Failure, Outcome};
use crate::format::{self, Kind, Row};
use crate::output;

/// Manage contexts
#[derive(Debug, Subcommand)]
pub(crate) enum Context {
    /// Create a context
    Create(Create),
    /// Export a context to a tar archive FILE or a tar stream on STDOUT.
    Export(Packed),
    /// Import a context from a tar or zip file
    Import(Packed),
    /// Display detailed information on one or more contexts
    Inspect(Inspect),
    /// List contexts
    #[command(visible_alias = "list")]
    Ls(List),
    /// Remove one or more contexts
    #[command(visible_alias = "remove")]
    Rm(Remove),
    /// Print the name of the current context
    Show,
    /// Update a context
    Update(Update),
    /// Set the current docker context
    Use(Use),
}

#[derive(Args, Debug)]
pub(crate) struct Create {
    /// Description of the context
    #[arg(long, value_name = "string")]
    description: Option<String>,
    /// set the docker endpoint
    #[arg(long, value_name = "stringToString", value_delimiter = ',')]
    docker: Vec<String>,
    /// create context from a named context
    #[arg(long, value_name = "string")]
    from: Option<String>,
    #[arg(value_name = "CONTEXT")]
    name: String,
}

#[derive(Args, Debug)]
pub(crate) struct Update {
    /// Description of the context
    #[arg(long, value_name = "string")]
    description: Option<String>,
    /// set the docker endpoint
    #[arg(long, value_name = "stringToString", value_delimiter = ',')]
    docker: Vec<String>,
    #[arg(value_name = "CONTEXT")]
    name: String,
}

#[derive(Args, Debug)]
pub(crate) struct Packed {
    #[arg(value_name = "CONTEXT")]
    name: String,
    #[arg(value_name = "FILE|-")]
    file: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Inspect {
    /// Format: `json` or a Go template
    #[arg(long, short, value_name = "string", default_value = "")]
    format: String,
    #[arg(value_name = "CONTEXT")]
    names: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct List {
    /// Format: `table`, `json` or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Only show context names
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Remove {
    /// Force the removal of a context in use
    #[arg(long, short)]
    force: bool,
    #[arg(required = true, value_name = "CONTEXT")]
    names: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Use {
    #[arg(value_name = "CONTEXT")]
    name: String,
}

const TABLE: Kind = Kind {
    type_name: "*formatter.clientContextContext",
    headers: &[("DockerEndpoint", "DOCKER ENDPOINT"), ("Error", "ERROR"), ("Name", "NAME"), ("Current", "")],
    table: "{{.Name}}{{if .Current}} *{{end}}\t{{.Description}}\t{{.DockerEndpoint}}\t{{.Error}}",
};

pub(crate) fn run(global: &Global, command: Context) -> Outcome {
    let store = Store::new(global.config.as_deref());
    match command {
        Context::Create(options) => create(global, &store, &options),
        Context::Update(options) => update(global, &store, &options),
        Context::Inspect(options) => show_all(global, &store, options),
        Context::Ls(options) => list(global, &store, &options),
        Context::Rm(options) => remove(global, &store, &options),
        Context::Show => output::line(global.context_name()?),
        Context::Use(options) => choose(&store, &options.name),
        Context::Export(Packed { name, .. }) => Err(packed("export", &store, &name)),
        Context::Import(Packed { name, .. }) => Err(packed("import", &store, &name)),
    }
}

fn packed(what: &str, store: &Store, name: &str) -> Failure {
    Failure::refused(format!(
        "context {what} is not supported by this client; a context is the files in {} and {}, which can be copied",
        store.meta(name).display(),
        store.tls(name).display()
    ))
}

/// What is known by this name.
fn find(global: &Global, store: &Store, name: &str) -> Outcome<Meta> {
    if name != DEFAULT {
        return store.read(name);
    }
    let mut meta = Meta { name: DEFAULT.to_owned(), ..Meta::default() };
    meta.set_endpoint(&global.default_host(), false);
    Ok(meta)
}

/// `host=…,ca=…`.
fn pairs(given: &[String]) -> Outcome<BTreeMap<&str, &str>> {
    let known = ["host", "ca", "cert", "key", "skip-tls-verify", "from"];
    let mut pairs = BTreeMap::new();
    for text in given {
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| Failure::refused(format!("{text} must be formatted as key=value")))?;
        if !known.contains(&name) {
            return Err(Failure::refused(format!(
                "unable to create docker endpoint config: {name}: unrecognized config key"
            )));
        }
        pairs.insert(name, value);
    }
    Ok(pairs)
}

/// Gives a context the endpoint that `--docker` describes. What can be refused is refused before anything is written.
fn set_endpoint(global: &Global, store: &Store, meta: &mut Meta, given: &[String]) -> Outcome {
    let pairs = pairs(given)?;
    if let Some(from) = pairs.get("from") {
        return copy(global, store, from, meta);
    }
    let host = pairs.get("host").copied().unwrap_or_default();
    let skip = match pairs.get("skip-tls-verify") {
        None => false,
        Some(text) => matches!(*text, "true" | "1"),
    };
    let mut certificates = Vec::new();
    for (option, file) in TLS {
        if let Some(path) = pairs.get(option) {
            let content =
                fs::read(path).map_err(|source| Failure::ReadFile { path: (*path).to_owned(), source })?;
            certificates.push((file, content));
        }
    }
    if !host.is_empty() {
        crate::endpoint::check(host)?;
    }
    meta.set_endpoint(host, skip);
    store.remove(&meta.name)?;
    for (file, content) in certificates {
        store.write_certificate(&meta.name, file, &content)?;
    }
    store.write(meta)
}

/// Gives a context another's endpoint.
fn copy(global: &Global, store: &Store, from: &str, meta: &mut Meta) -> Outcome {
    let other = find(global, store, from)?;
    meta.endpoints = other.endpoints.clone();
    if meta.description().is_empty() && !other.description().is_empty() {
        meta.set_description(other.description());
    }
    for path in store.certificates(from) {
        let content = fs::read(&path)
            .map_err(|source| Failure::ReadFile { path: path.display().to_string(), source })?;
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        store.write_certificate(&meta.name, &file, &content)?;
    }
    store.write(meta)
}

fn create(global: &Global, store: &Store, options: &Create) -> Outcome {
    let name = &options.name;
    if name == DEFAULT {
        return Err(Failure::refused("\"default\" is a reserved context name"));
    }
    if !is_name(name) {
        return Err(Failure::refused(format!(
            "context name {name:?} is invalid, names are validated against regexp \"^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$\""
        )));
    }
    if store.meta(name).join("meta.json").exists() {
        return Err(Failure::refused(format!("context {name:?} already exists")));
    }
    let mut meta = Meta { name: name.clone(), ..Meta::default() };
    if let Some(description) = &options.description {
        meta.set_description(description);
    }
    match (&options.from, options.docker.is_empty()) {
        (Some(_), false) => {
            return Err(Failure::refused("conflicting options: cannot specify both --docker and --from"));
        }
        (Some(from), true) => copy(global, store, from, &mut meta)?,
        (None, true) => copy(global, store, &global.context_name()?, &mut meta)?,
        (None, false) => set_endpoint(global, store, &mut meta, &options.docker)?,
    }
    output::line(name)?;
    output::say(format!("Successfully created context {name:?}"));
    Ok(())
}

fn update(global: &Global, store: &Store, options: &Update) -> Outcome {
    let mut meta = store.read(&options.name)?;
    if let Some(description) = &options.description {
        meta.set_description(description);
    }
    if options.docker.is_empty() {
        store.write(&meta)?;
    } else {
        set_endpoint(global, store, &mut meta, &options.docker)?;
    }
    output::line(&options.name)?;
    output::say(format!("Successfully updated context {:?}", options.name));
    Ok(())
}

fn show_all(global: &Global, store: &Store, options: Inspect) -> Outcome {
    let names = if options.names.is_empty() { vec![global.context_name()?] } else { options.names };
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for name in &names {
        let meta = match find(global, store, name) {
            Ok(meta) => meta,
            Err(error) => {
                errors.push(engine_model::chain(&error));
                continue;
            }
        };
        let certificates: Vec<Value> = store
            .certificates(name)
            .iter()
            .map(|path| path.file_name().unwrap_or_default().to_string_lossy().into())
            .collect();
        let kept = name != DEFAULT;
        let place = |path: std::path::PathBuf| if kept { json!(path) } else { json!("<IN MEMORY>") };
        found.push(json!({
            "Name": meta.name,
            "Metadata": meta.metadata,
            "Endpoints": meta.endpoints,
            "TLSMaterial": if kept && !certificates.is_empty() { json!({ "docker": certificates }) } else { json!({}) },
            "Storage": { "MetadataPath": place(store.meta(name)), "TLSPath": place(store.tls(name)) },
        }));
    }
    match inspect::template(&options.format)? {
        Some(template) => {
            for one in &found {
                output::line(template.render_with(one, &inspect::AnyCase).map_err(Failure::Template)?)?;
            }
        }
        None if options.format == "json" => output::line(gotemplate::json(&Value::Array(found), true))?,
        None => output::line(gotemplate::pretty_json(&Value::Array(found), true, "    "))?,
    }
    if errors.is_empty() { Ok(()) } else { Err(Failure::refused(errors.join("\n"))) }
}

fn list(global: &Global, store: &Store, options: &List) -> Outcome {
    let current = global.context_name()?;
    let mut all = vec![find(global, store, DEFAULT)?];
    all[0].set_description("Current DOCKER_HOST based configuration");
    all.extend(store.list()?);
    all.sort_by(|first, second| crate::units::natural_order(&first.name, &second.name));
    if options.quiet {
        all.iter().try_for_each(|meta| output::line(&meta.name))?;
        if is_overridden() {
            warn_of_override("a context");
        }
        return Ok(());
    }
    let mut rows: Vec<Row> = all
        .iter()
        .map(|meta| row(&meta.name, meta.description(), meta.host(), meta.name == current, ""))
        .collect();
    if !all.iter().any(|meta| meta.name == current) {
        let error = store.read(&current).err().map(|error| error.to_string()).unwrap_or_default();
        rows.push(row(&current, "", "", true, &error));
    }
    format::print(&TABLE, options.format.as_deref(), &rows)?;
    if is_overridden() {
        warn_of_override("a context");
    }
    Ok(())
}

fn row(name: &str, description: &str, host: &str, current: bool, error: &str) -> Row {
    Row::new([
        ("Name", json!(name)),
        ("Description", json!(description)),
        ("DockerEndpoint", json!(host)),
        ("Current", json!(current)),
        ("Error", json!(error)),
    ])
}

fn remove(global: &Global, store: &Store, options: &Remove) -> Outcome {
    let current = global.context_name()?;
    let mut errors = Vec::new();
    for name in &options.names {
        let removed = if name == DEFAULT {
            Err(Failure::refused("context \"default\" cannot be removed"))
        } else if *name == current && !options.force {
            Err(Failure::refused(format!("context {name:?} is in use, set -f flag to force remove")))
        } else {
            forget(store, name, *name == current)
        };
        match removed {
            Ok(()) => output::line(name)?,
            Err(error) => errors.push(error.to_string()),
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(Failure::refused(errors.join("\n"))) }
}

fn forget(store: &Store, name: &str, is_current: bool) -> Outcome {
    if !store.meta(name).join("meta.json").exists() {
        return Err(Failure::refused(format!("context {name:?} does not exist")));
    }
    store.remove(name)?;
    if is_current { store.choose(DEFAULT) } else { Ok(()) }
}

fn is_overridden() -> bool {
    std::env::var_os("DOCKER_HOST").is_some_and(|host| !host.is_empty())
}

/// What the user may not expect.
fn warn_of_override(name: &str) {
    output::say(format!(
        "Warning: DOCKER_HOST environment variable overrides the active context. To use {name}, either set the global --context flag, or unset DOCKER_HOST environment variable."
    ));
}

fn choose(store: &Store, name: &str) -> Outcome {
    if name != DEFAULT {
        store.read(name)?;
    }
    store.choose(name)?;
    output::line(name)?;
    output::say(format!("Current context is now {name:?}"));
    if name != DEFAULT && is_overridden() {
        warn_of_override(&format!("{name:?}"));
    }
    Ok(())
}
