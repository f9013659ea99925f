//! The EC2 API: the calls in which the bench has a part.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use base64::{Engine as _, prelude::BASE64_STANDARD};

use crate::{
    amis,
    bench::{Bench, now},
    call::Call,
    faults::{ApiError, ListFault},
    filters,
    form::Form,
    groups, launch,
    moto::{Answer, error_of},
    power, reply,
    rewrite::{Facts, Phase, rewrite},
    spot,
    vm::CONSOLE,
    xml::Element,
};

/// What comes of a call, before it is rewritten.
#[derive(Debug)]
pub(crate) enum Outcome {
    Reply(Element),
    Error(ApiError),
    /// The emulator's own error, or something that is no XML.
    Answer(Answer),
}

impl From<Result<Element, ApiError>> for Outcome {
    fn from(result: Result<Element, ApiError>) -> Self {
        match result {
            Ok(reply) => Self::Reply(reply),
            Err(error) => Self::Error(error),
        }
    }
}

/// Where the lists are that can be older than what they would show.
const LISTS: [(&str, &str); 4] = [
    ("DescribeInstances", "reservationSet"),
    ("DescribeKeyPairs", "keySet"),
    ("DescribeSecurityGroups", "securityGroupInfo"),
    ("DescribeSpotInstanceRequests", "spotInstanceRequestSet"),
];

/// Answers a call.
pub(crate) async fn answer(bench: &Arc<Bench>, call: &Call, fault: ListFault) -> Result<Answer> {
    if let Some(error) = unseen(bench, call) {
        return Ok(reply::error(call, &error));
    }
    let before = phases(bench);
    let outcome = act(bench, call).await?;
    let mut reply = match outcome {
        Outcome::Answer(answer) => return Ok(answer),
        Outcome::Error(error) => return Ok(reply::error(call, &error)),
        Outcome::Reply(reply) => reply,
    };
    // A new instance has its public address a moment later than the reply.
    let shows_public = call.action != "RunInstances";
    let known = |id: &str| {
        let facts = facts(bench, id)?;
        Some(Facts { public: facts.public.filter(|_| shows_public), ..facts })
    };
    rewrite(&mut reply, &known, &before);
    match call.action.as_str() {
        "DescribeInstances" => {
            let (_, ours) = split_filters(&call.form);
            let state = bench.lock();
            filters::keep(&mut reply, |item| {
                filters::matches(item, &ours)
                    && !item.value("instanceId").is_some_and(|id| state.is_unseen(id))
            });
        }
        "DescribeInstanceStatus" => {
            let (_, ours) = split_filters(&call.form);
            let all = call.form.is_true("IncludeAllInstances");
            let running = |item: &Element| {
                item.child("instanceState").and_then(|state| state.value("name")) == Some("running")
            };
            if let Some(set) = reply.child_mut("instanceStatusSet") {
                set.children.retain(|item| (all || running(item)) && filters::matches(item, &ours));
            }
        }
        "DescribeSecurityGroups" => {
            let mut state = bench.lock();
            if let Some(set) = reply.child_mut("securityGroupInfo") {
                set.children.retain(|item| !item.value("groupId").is_some_and(|id| state.is_unseen(id)));
                groups::show_rules(&mut set.children, &mut state.shown_rules, fault == ListFault::Stale);
            }
        }
        "DescribeKeyPairs" => {
            let state = bench.lock();
            if let Some(set) = reply.child_mut("keySet") {
                set.children
                    .retain(|item| !item.value("keyName").is_some_and(|name| state.is_unseen(&key(name))));
            }
        }
        _ => {}
    }
    let list = LISTS.iter().find(|(action, _)| *action == call.action);
    if let Some((_, list)) = list.filter(|_| fault == ListFault::Blank) {
        reply.set(Element::new(list));
    }
    Ok(reply::xml(&reply))
}

/// How a key pair is named among all that was made.
fn key(name: &str) -> String {
    format!("key:{name}")
}

async fn act(bench: &Arc<Bench>, call: &Call) -> Result<Outcome> {
    if call.form.is_true("DryRun") && call.action != "RunInstances" {
        return forward(bench, call, &call.form).await;
    }
    match call.action.as_str() {
        "RunInstances" => launch::run(bench, call).await,
        "StartInstances" | "StopInstances" | "RebootInstances" => change_power(bench, call).await,
        "TerminateInstances" => terminate(bench, call).await,
        "DescribeImages" => {
            // To the emulator all images are Amazon's.
            let owner = |owner: String| if owner == "amazon" { amis::AMAZON.to_owned() } else { owner };
            let owners: Vec<String> = call.form.list("Owner").into_iter().map(owner).collect();
            let mut form = call.form.clone();
            form.set_list("Owner", &owners);
            forward(bench, call, &form).await
        }
        "DescribeInstances" => forward(bench, call, &split_filters(&call.form).0).await,
        "DescribeInstanceStatus" => {
            let mut form = split_filters(&call.form).0;
            form.set("IncludeAllInstances", "true");
            forward(bench, call, &form).await
        }
        "GetConsoleOutput" => console(bench, call).await,
        "DescribeSpotInstanceRequests" => Ok(spot::describe(bench, call).into()),
        "CancelSpotInstanceRequests" => Ok(spot::cancel(bench, call).into()),
        "CreateTags" | "DeleteTags" => match spot::tag(bench, call) {
            Some(reply) => Ok(Outcome::Reply(reply)),
            None => forward(bench, call, &call.form).await,
        },
        "CreateSecurityGroup" => {
            let outcome = forward(bench, call, &call.form).await?;
            if let Outcome::Reply(reply) = &outcome
                && let Some(id) = reply.value("groupId")
            {
                bench.lock().born.insert(id.to_owned(), Instant::now());
            }
            Ok(outcome)
        }
        "DeleteSecurityGroup" => match in_use(bench, call) {
            Some(error) => Ok(Outcome::Error(error)),
            None => forward(bench, call, &call.form).await,
        },
        "AuthorizeSecurityGroupIngress" | "RevokeSecurityGroupIngress" => {
            let outcome = forward(bench, call, &call.form).await?;
            if matches!(outcome, Outcome::Reply(_))
                && let Some(group) = call.form.get("GroupId").or_else(|| call.form.get("GroupName"))
            {
                groups::apply_to_members(bench, group).await;
            }
            Ok(outcome)
        }
        // A deletion that does not see the pair yet succeeds.
        "DeleteKeyPair"
            if call.form.get("KeyName").is_some_and(|name| bench.lock().is_unseen(&key(name))) =>
        {
            Ok(Outcome::Reply(reply::of(call).with(Element::with_text("return", "true"))))
        }
        "ImportKeyPair" => import_key(bench, call).await,
        "ModifyInstanceAttribute" | "ModifyInstanceMetadataOptions" => modify(bench, call).await,
        _ => forward(bench, call, &call.form).await,
    }
}

/// Passes a call on to the emulator, and reads what comes back if it is a success.
pub(crate) async fn forward(bench: &Bench, call: &Call, form: &Form) -> Result<Outcome> {
    let answer = bench.moto.ask(&call.region, form).await?;
    if !answer.status.is_success() {
        return Ok(corrected(call, answer));
    }
    let reply = Element::parse(&answer.body).with_context(|| format!("The answer to {}", call.action))?;
    Ok(Outcome::Reply(reply))
}

/// The emulator has codes of its own for some errors.
fn corrected(call: &Call, answer: Answer) -> Outcome {
    let said = Element::parse(&answer.body).ok().as_ref().and_then(error_of);
    let kind = call.form.get("InstanceType").unwrap_or_default();
    match said {
        Some((code, _)) if code == "InvalidInstanceType.NotFound" && call.action == "RunInstances" => {
            let message = format!("Invalid value '{kind}' for InstanceType.");
            Outcome::Error(ApiError::new("InvalidParameterValue", message))
        }
        _ => Outcome::Answer(answer),
    }
}

fn facts(bench: &Bench, id: &str) -> Option<Facts> {
    let state = bench.lock();
    let stale = Duration::from_millis(state.faults.stale);
    state.instances.get(id).map(|instance| instance.facts(stale))
}

fn phases(bench: &Bench) -> HashMap<String, Phase> {
    bench.lock().instances.iter().map(|(id, instance)| (id.clone(), instance.phase)).collect()
}

/// The form without the filters that the emulator would answer wrongly, and those.
fn split_filters(form: &Form) -> (Form, Vec<(String, Vec<String>)>) {
    let mut form = form.clone();
    let ours = form.take_filters(filters::is_ours);
    (form, ours)
}

/// An error for a call that names something made a moment ago, while that is not seen everywhere.
fn unseen(bench: &Bench, call: &Call) -> Option<ApiError> {
    let state = bench.lock();
    let names_things = |name: &str| !name.contains("Tag.") && !name.starts_with("Filter.");
    if call.action == "RunInstances"
        && let Some(name) = call.form.get("KeyName").filter(|name| state.is_unseen(&key(name)))
    {
        return Some(ApiError::new(
            "InvalidKeyPair.NotFound",
            format!("The key pair '{name}' does not exist"),
        ));
    }
    let id = call
        .form
        .0
        .iter()
        .find_map(|(name, value)| (names_things(name) && state.is_unseen(value)).then_some(value))?;
    Some(if id.starts_with("sir-") {
        ApiError::new("InvalidSpotInstanceRequestID.NotFound", format!("There is no request '{id}'"))
    } else if id.starts_with("i-") {
        ApiError::new("InvalidInstanceID.NotFound", format!("The instance ID '{id}' does not exist"))
    } else {
        ApiError::new("InvalidGroup.NotFound", format!("The security group '{id}' does not exist"))
    })
}

async fn change_power(bench: &Arc<Bench>, call: &Call) -> Result<Outcome> {
    let ids = call.form.list("InstanceId");
    if let Some(error) = ids.iter().find_map(|id| forbidden(bench, call, id)) {
        return Ok(Outcome::Error(error));
    }
    let outcome = forward(bench, call, &call.form).await?;
    if !matches!(outcome, Outcome::Reply(_)) {
        return Ok(outcome);
    }
    for id in ids {
        let phase = bench.lock().instances.get(&id).map(|instance| instance.phase);
        match (call.action.as_str(), phase) {
            ("StartInstances", Some(Phase::Stopped)) => power::boot(bench, &id)?,
            ("StopInstances", Some(Phase::Running)) => power::stop(bench, &id, call.form.is_true("Force")),
            // A second, forced one helps when the first one takes too long.
            ("StopInstances", Some(Phase::Stopping)) if call.form.is_true("Force") => {
                power::stop(bench, &id, true);
            }
            ("RebootInstances", Some(Phase::Running)) => power::reboot(bench, &id),
            _ => {}
        }
    }
    Ok(outcome)
}

/// Why an instance is not in a state for this.
fn forbidden(bench: &Bench, call: &Call, id: &str) -> Option<ApiError> {
    let state = bench.lock();
    let instance = state.instances.get(id)?;
    let (done, allowed): (&str, &[Phase]) = match call.action.as_str() {
        "StartInstances" => ("started", &[Phase::Stopped, Phase::Running, Phase::Pending]),
        "StopInstances" => ("stopped", &[Phase::Running, Phase::Stopping, Phase::Stopped]),
        _ => ("rebooted", &[Phase::Running, Phase::Pending]),
    };
    if !allowed.contains(&instance.phase) {
        let message = format!("The instance '{id}' is not in a state from which it can be {done}.");
        return Some(ApiError::new("IncorrectInstanceState", message));
    }
    let request = instance.spot_request.as_ref().and_then(|request| state.spot_requests.get(request));
    if call.action == "StopInstances" && request.is_some_and(|request| !request.persistent) {
        let message = format!(
            "You can't stop the Spot Instance '{id}' because it is associated with a one-time Spot Instance request. \
             You can only stop Spot Instances associated with persistent Spot Instance requests."
        );
        return Some(ApiError::new("UnsupportedOperation", message));
    }
    None
}

/// The emulator fails when something is terminated twice.
async fn terminate(bench: &Arc<Bench>, call: &Call) -> Result<Outcome> {
    let ids = call.form.list("InstanceId");
    let (gone, alive): (Vec<String>, Vec<String>) = ids.into_iter().partition(|id| {
        let state = bench.lock();
        let phase = state.instances.get(id).map(|instance| instance.phase);
        matches!(phase, Some(Phase::Terminated | Phase::ShuttingDown))
    });
    let mut reply = if alive.is_empty() && !gone.is_empty() {
        reply::of(call).with(Element::new("instancesSet"))
    } else {
        let mut form = call.form.clone();
        form.set_list("InstanceId", &alive);
        match forward(bench, call, &form).await? {
            Outcome::Reply(reply) => reply,
            other => return Ok(other),
        }
    };
    for id in &alive {
        power::delete_interface(bench, &call.region, id).await;
        power::terminate(bench, id, ("Client.UserInitiatedShutdown", "User initiated shutdown"));
    }
    if let Some(set) = reply.child_mut("instancesSet") {
        for id in gone {
            let item = Element::new("item")
                .with(Element::with_text("instanceId", id))
                .with(Element::new("currentState"))
                .with(Element::new("previousState"));
            set.children.push(item);
        }
    }
    Ok(Outcome::Reply(reply))
}

async fn console(bench: &Arc<Bench>, call: &Call) -> Result<Outcome> {
    let id = call.form.get("InstanceId").unwrap_or_default();
    let output = {
        let mut state = bench.lock();
        state.instances.get_mut(id).map(|instance| {
            let file = instance.folder.join(CONSOLE);
            instance.console.read(&file)
        })
    };
    match output {
        None => forward(bench, call, &call.form).await,
        Some(output) => Ok(Outcome::Reply(
            reply::of(call)
                .with(Element::with_text("instanceId", id))
                .with(Element::with_text("timestamp", now()))
                .with(Element::with_text("output", BASE64_STANDARD.encode(output))),
        )),
    }
}

/// The emulator deletes groups that are in use.
fn in_use(bench: &Bench, call: &Call) -> Option<ApiError> {
    let group = call.form.get("GroupId").or_else(|| call.form.get("GroupName"))?;
    let state = bench.lock();
    let used = state.instances.values().any(|instance| {
        instance.region == call.region
            && instance.phase != Phase::Terminated
            && instance.groups.iter().any(|(id, name)| id == group || name == group)
    });
    used.then(|| ApiError::new("DependencyViolation", format!("resource {group} has a dependent object")))
}

async fn import_key(bench: &Arc<Bench>, call: &Call) -> Result<Outcome> {
    let outcome = forward(bench, call, &call.form).await?;
    if let Outcome::Reply(_) = &outcome
        && let Some(material) = call.form.get("PublicKeyMaterial")
        && let Ok(decoded) = BASE64_STANDARD.decode(material)
    {
        let name = call.form.get("KeyName").unwrap_or_default().to_owned();
        let text = String::from_utf8_lossy(&decoded).into_owned();
        let mut state = bench.lock();
        state.born.insert(key(&name), Instant::now());
        state.keys.insert((call.region.clone(), name), text);
    }
    Ok(outcome)
}

/// Follows what is changed of an instance.
async fn modify(bench: &Arc<Bench>, call: &Call) -> Result<Outcome> {
    let id = call.form.get("InstanceId").unwrap_or_default().to_owned();
    if let Some(kind) = call.form.get("InstanceType.Value") {
        let phase = bench.lock().instances.get(&id).map(|instance| instance.phase);
        if phase.is_some_and(|phase| phase != Phase::Stopped) {
            let message =
                format!("The instance '{id}' is not in the 'stopped' state, so it cannot become {kind}.");
            return Ok(Outcome::Error(ApiError::new("IncorrectInstanceState", message)));
        }
    }
    let outcome = forward(bench, call, &call.form).await?;
    if !matches!(outcome, Outcome::Reply(_)) {
        return Ok(outcome);
    }
    let wanted = call.form.list("GroupId");
    let mut named = Vec::new();
    if !wanted.is_empty() {
        let mut describe = Form::of(&[("Action", "DescribeSecurityGroups")]);
        describe.set_list("GroupId", &wanted);
        let described = bench.moto.query_form(&call.region, &describe).await?;
        for group in described.items("securityGroupInfo") {
            let text = |name: &str| group.value(name).unwrap_or_default().to_owned();
            named.push((text("groupId"), text("groupName")));
        }
    }
    {
        let mut state = bench.lock();
        let Some(instance) = state.instances.get_mut(&id) else { return Ok(outcome) };
        if !named.is_empty() {
            instance.groups = named;
        }
        if let Some(kind) = call.form.get("InstanceType.Value") {
            kind.clone_into(&mut instance.kind);
        }
        if let Some(data) = call.form.get("UserData.Value") {
            instance.user_data = BASE64_STANDARD.decode(data).ok();
        }
        if let Some(behaviour) = call.form.get("InstanceInitiatedShutdownBehavior.Value") {
            instance.terminate_on_shutdown = behaviour == "terminate";
        }
        if let Some(tokens) = call.form.get("HttpTokens") {
            instance.tokens_required = tokens == "required";
        }
        if let Some(endpoint) = call.form.get("HttpEndpoint") {
            instance.metadata_enabled = endpoint != "disabled";
        }
    }
    if !wanted.is_empty() {
        groups::apply(bench, &id).await;
    }
    Ok(outcome)
}
