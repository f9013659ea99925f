//! The control API, by which a test steers the bench and looks into it.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use hyper::Method;
use serde_json::{Value, json};

use crate::{bench::Bench, console::Console, faults::Faults, form::Form, left, power};

pub(crate) async fn answer(
    bench: &Arc<Bench>,
    method: &Method,
    command: &str,
    query: Option<&str>,
    body: &[u8],
) -> Result<Value> {
    let query = Form::decode(query.unwrap_or_default().as_bytes());
    let sent = || -> Result<Value> {
        if body.is_empty() {
            Ok(json!({}))
        } else {
            serde_json::from_slice(body).context("The body is no JSON")
        }
    };
    match (method.as_str(), command) {
        ("GET", "calls") => Ok(serde_json::to_value(&bench.lock().calls)?),
        ("POST", "calls/clear") => {
            bench.lock().calls.clear();
            Ok(json!({}))
        }
        ("GET", "faults") => Ok(serde_json::to_value(&bench.lock().faults)?),
        ("POST", "faults") => {
            let faults: Faults = serde_json::from_value(sent()?).context("These are no faults")?;
            bench.lock().faults = faults;
            Ok(json!({}))
        }
        ("GET", "settings") => Ok(serde_json::to_value(&bench.lock().settings)?),
        ("POST", "settings") => {
            let mut state = bench.lock();
            let mut settings = serde_json::to_value(&state.settings)?;
            for (name, value) in sent()?.as_object().context("Settings are an object")? {
                settings[name] = value.clone();
            }
            state.settings = serde_json::from_value(settings.clone()).context("These are no settings")?;
            Ok(settings)
        }
        ("GET", "instances") => Ok(instances(bench)),
        ("GET", "left") => left::left(bench, query.get("region")).await,
        ("POST", "console") => {
            let mut sent = sent()?;
            let id = take_instance(&mut sent)?;
            let console: Console = serde_json::from_value(sent).context("This is nothing about a console")?;
            let mut state = bench.lock();
            let instance =
                state.instances.get_mut(&id).with_context(|| format!("There is no instance `{id}`"))?;
            instance.console = console;
            Ok(json!({}))
        }
        ("POST", "interrupt") => {
            let mut sent = sent()?;
            let id = take_instance(&mut sent)?;
            let delay = sent["delay_ms"].as_u64().unwrap_or(120_000);
            power::interrupt(bench, &id, Duration::from_millis(delay))?;
            Ok(json!({}))
        }
        ("POST", "terminate") => {
            let id = take_instance(&mut sent()?)?;
            let reason = ("Server.InternalError", "Internal error");
            power::take_away(bench, &id, reason).await?;
            Ok(json!({}))
        }
        ("POST", "forget") => {
            let id = take_instance(&mut sent()?)?;
            power::forget(bench, &id).await?;
            Ok(json!({}))
        }
        ("POST", "reset") => {
            power::kill_all(bench).await;
            bench.moto.reset();
            bench.tokens.clear();
            let mut state = bench.lock();
            let settings = state.settings.clone();
            for instance in state.instances.values() {
                let _ = std::fs::remove_dir_all(&instance.folder);
            }
            *state = crate::bench::State { settings, ..Default::default() };
            Ok(json!({}))
        }
        _ => bail!("There is no {method} {command}"),
    }
}

fn take_instance(sent: &mut Value) -> Result<String> {
    let id = sent.as_object_mut().and_then(|object| object.remove("instance"));
    id.as_ref().and_then(Value::as_str).map(str::to_owned).context("Which `instance`?")
}

fn instances(bench: &Bench) -> Value {
    let state = bench.lock();
    let entry = |instance: &crate::bench::Instance| {
        json!({
            "id": instance.id,
            "region": instance.region,
            "zone": instance.zone,
            "state": instance.phase.name(),
            "public": instance.public,
            "private": instance.private,
            "pid": instance.vm.as_ref().map(|vm| vm.pid),
            "folder": instance.folder,
            "groups": instance.groups.iter().map(|(id, _)| id).collect::<Vec<_>>(),
            "spot_request": instance.spot_request,
        })
    };
    state.instances.values().map(entry).collect()
}
