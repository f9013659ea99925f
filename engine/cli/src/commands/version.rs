//! `version` and `info`.

use std::fmt::Write as _;

use clap::Args;
use gotemplate::{MissingField, Parser};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::inspect::AnyCase;
use crate::client::{API_VERSION, Client, Target};
use crate::failure::{Failure, Outcome};
use crate::{output, units};

/// What a build that does not know its commit says.
pub(crate) const COMMIT: &str = match option_env!("ENGINE_GIT_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// Show version information
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Format: `json` or a Go template
    #[arg(long, short, value_name = "string", default_value = "")]
    format: String,
}

fn rendered(format: &str, data: &Value, type_name: &'static str) -> Outcome<String> {
    if format == "json" {
        return Ok(gotemplate::json(data, true));
    }
    let template = Parser::docker()
        .missing(MissingField::OfType(type_name))
        .null_text("<nil>")
        .parse(format)
        .map_err(|error| Failure::refused(format!("template parsing error: {error}")))?;
    template.render_with(data, &AnyCase).map_err(|error| Failure::refused(error.to_string()))
}

/// `Fri Nov 20 10:00:00 2026`; what is no time stays as it is.
fn build_time(text: &str) -> String {
    match text.parse::<Timestamp>() {
        Ok(time) => time.strftime("%a %b %e %H:%M:%S %Y").to_string(),
        Err(_) => text.to_owned(),
    }
}

/// Go's names of the platforms.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub(crate) async fn version(client: &Client, options: Options) -> Outcome {
    let (server, failure) = match client.get(&Target::new(["version"])).await {
        Ok(server) => (server, None),
        Err(failure) => (Value::Null, Some(failure)),
    };
    let api_version = match client.greet().await {
        Ok(greeting) => greeting.api_version,
        Err(_) => API_VERSION.to_owned(),
    };
    let own = json!({
        "Platform": {"Name": ""},
        "Version": env!("CARGO_PKG_VERSION"),
        "ApiVersion": api_version,
        "DefaultAPIVersion": API_VERSION,
        "GitCommit": COMMIT,
        "GoVersion": "",
        "Os": std::env::consts::OS,
        "Arch": architecture(),
        "BuildTime": "",
        "Context": "default",
    });
    if options.format.is_empty() {
        output::raw(plain(&own, &server))?;
    } else {
        // Templates ask for the server's fields also when there is no server; they then print nothing.
        let data = json!({"Client": own, "Server": server});
        match rendered(&options.format, &data, "versionInfo") {
            Ok(text) => output::line(text)?,
            Err(_) if failure.is_some() => output::line("")?,
            Err(error) => return Err(error),
        }
    }
    failure.map_or(Ok(()), Err)
}

fn plain(own: &Value, server: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut out = String::from("Client:\n");
    let mut api = text(&own["ApiVersion"]);
    if api != text(&own["DefaultAPIVersion"]) {
        let _ = write!(api, " (downgraded from {})", text(&own["DefaultAPIVersion"]));
    }
    for (label, value) in [
        ("Version", text(&own["Version"])),
        ("API version", api),
        ("Git commit", text(&own["GitCommit"])),
        ("OS/Arch", format!("{}/{}", text(&own["Os"]), text(&own["Arch"]))),
        ("Context", text(&own["Context"])),
    ] {
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(out, " {:<18} {value}", format!("{label}:"));
    }
    if server.is_null() {
        return out;
    }
    let platform = text(&server["Platform"]["Name"]);
    let _ = writeln!(
        out,
        "\nServer:{}",
        if platform.is_empty() { String::new() } else { format!(" {platform}") }
    );
    let components = server["Components"].as_array().map(Vec::as_slice).unwrap_or_default();
    for component in components {
        let details = &component["Details"];
        let _ = writeln!(out, " {}:", text(&component["Name"]));
        let mut line = |label: &str, value: &str| {
            let _ = writeln!(out, "  {:<17} {value}", format!("{label}:"));
        };
        line("Version", &text(&component["Version"]));
        if details.get("ApiVersion").is_some() {
            let minimum = text(&details["MinAPIVersion"]);
            line("API version", &format!("{} (minimum version {minimum})", text(&details["ApiVersion"])));
            for (field, label) in [("GoVersion", "Go version"), ("GitCommit", "Git commit")] {
                if !text(&details[field]).is_empty() {
                    line(label, &text(&details[field]));
                }
            }
            line("Built", &build_time(&text(&details["BuildTime"])));
            line("OS/Arch", &format!("{}/{}", text(&details["Os"]), text(&details["Arch"])));
            line("Experimental", &text(&details["Experimental"]));
        } else {
            for (label, value) in details.as_object().into_iter().flatten() {
                line(label, &text(value));
            }
        }
    }
    out
}

pub(crate) async fn info(client: &Client, options: Options) -> Outcome {
    let own = json!({
        "Debug": false, "Version": env!("CARGO_PKG_VERSION"), "GitCommit": COMMIT, "GoVersion": "",
        "Os": std::env::consts::OS, "Arch": architecture(), "Context": "default", "Plugins": [], "Warnings": null,
    });
    let (server, failure) = match client.get(&Target::new(["info"])).await {
        Ok(server) => (server, None),
        Err(failure) => (Value::Null, Some(failure)),
    };
    if !options.format.is_empty() {
        if let Some(failure) = failure {
            return Err(failure);
        }
        let mut data = server;
        data["ClientInfo"] = own;
        return output::line(rendered(&options.format, &data, "system.dockerInfo")?);
    }
    let mut out = String::new();
    let _ = writeln!(
        out,
        "Client:\n Version:    {}\n Context:    default\n Debug Mode: false\n",
        env!("CARGO_PKG_VERSION")
    );
    out.push_str("Server:\n");
    if let Some(failure) = failure {
        output::raw(out)?;
        return Err(Failure::refused(format!("ERROR: {failure}\nerrors pretty printing info")));
    }
    describe(&mut out, &server);
    output::raw(out)?;
    for warning in server["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        output::say(warning);
    }
    Ok(())
}

fn describe(out: &mut String, server: &Value) {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let words = |value: &Value| -> String {
        let words = value.as_array().into_iter().flatten().filter_map(Value::as_str);
        words.collect::<Vec<_>>().join(" ")
    };
    let mut line = |label: &str, value: &str| {
        let _ = writeln!(out, " {label}: {value}");
    };
    line("Containers", &text(&server["Containers"]));
    for (label, field) in [
        (" Running", "ContainersRunning"),
        (" Paused", "ContainersPaused"),
        (" Stopped", "ContainersStopped"),
    ] {
        line(label, &text(&server[field]));
    }
    for (label, field) in
        [("Images", "Images"), ("Server Version", "ServerVersion"), ("Storage Driver", "Driver")]
    {
        line(label, &text(&server[field]));
    }
    for pair in server["DriverStatus"].as_array().into_iter().flatten() {
        line(&format!(" {}", text(&pair[0])), &text(&pair[1]));
    }
    for (label, field) in [
        ("Logging Driver", "LoggingDriver"),
        ("Cgroup Driver", "CgroupDriver"),
        ("Cgroup Version", "CgroupVersion"),
    ] {
        line(label, &text(&server[field]));
    }
    let _ = writeln!(out, " Plugins:");
    for field in ["Volume", "Network", "Log"] {
        let _ = writeln!(out, "  {field}: {}", words(&server["Plugins"][field]));
    }
    let mut line = |label: &str, value: &str| {
        let _ = writeln!(out, " {label}: {value}");
    };
    line("Swarm", &text(&server["Swarm"]["LocalNodeState"]));
    let runtimes = server["Runtimes"].as_object().into_iter().flatten();
    line("Runtimes", &runtimes.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" "));
    line("Default Runtime", &text(&server["DefaultRuntime"]));
    line("Init Binary", &text(&server["InitBinary"]));
    for (label, field) in [
        ("containerd version", "ContainerdCommit"),
        ("runc version", "RuncCommit"),
        ("init version", "InitCommit"),
    ] {
        line(label, &text(&server[field]["ID"]));
    }
    let _ = writeln!(out, " Security Options:");
    for option in server["SecurityOptions"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        for (index, part) in option.split(',').enumerate() {
            let (key, value) = part.split_once('=').unwrap_or(("name", part));
            if index == 0 {
                let _ = writeln!(out, "  {value}");
            } else {
                let mut letters = key.chars();
                let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
                let _ = writeln!(out, "   {first}{}: {value}", letters.as_str());
            }
        }
    }
    let mut line = |label: &str, value: &str| {
        let _ = writeln!(out, " {label}: {value}");
    };
    for (label, field) in [
        ("Kernel Version", "KernelVersion"),
        ("Operating System", "OperatingSystem"),
        ("OSType", "OSType"),
        ("Architecture", "Architecture"),
        ("CPUs", "NCPU"),
    ] {
        line(label, &text(&server[field]));
    }
    line("Total Memory", &units::binary_size(server["MemTotal"].as_i64().unwrap_or(0)));
    for (label, field) in
        [("Name", "Name"), ("ID", "ID"), ("Docker Root Dir", "DockerRootDir"), ("Debug Mode", "Debug")]
    {
        line(label, &text(&server[field]));
    }
    for (label, field) in
        [("HTTP Proxy", "HttpProxy"), ("HTTPS Proxy", "HttpsProxy"), ("No Proxy", "NoProxy")]
    {
        if !text(&server[field]).is_empty() {
            line(label, &text(&server[field]));
        }
    }
    let block = |out: &mut String, label: &str, values: &Value| {
        let values: Vec<&str> = values.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if !values.is_empty() {
            let _ = writeln!(out, " {label}:");
            for value in values {
                let _ = writeln!(out, "  {value}");
            }
        }
    };
    block(out, "Labels", &server["Labels"]);
    let _ = writeln!(out, " Experimental: {}", text(&server["ExperimentalBuild"]));
    let registries = &server["RegistryConfig"];
    let mut insecure: Vec<Value> = Vec::new();
    for (name, index) in registries["IndexConfigs"].as_object().into_iter().flatten() {
        if index["Secure"] == json!(false) {
            insecure.push(json!(name));
        }
    }
    insecure.extend(registries["InsecureRegistryCIDRs"].as_array().into_iter().flatten().cloned());
    block(out, "Insecure Registries", &Value::Array(insecure));
    block(out, "Registry Mirrors", &registries["Mirrors"]);
    let _ = writeln!(out, " Live Restore Enabled: {}\n", text(&server["LiveRestoreEnabled"]));
}
