//! `moby.buildkit.v1.frontend.LLBBridge`: a client that leads its build itself, and asks for the Dockerfile to be built.

use std::sync::Arc;

use engine_build::Builder;

use super::grpc::{Code, Status};
use super::job::Job;
use super::messages::control::WorkerRecord;
use super::messages::gateway::{
    Capability, Found, PongResponse, Reference, ReturnRequest, SolveRequest, SolveResponse, SolveResult,
};
use super::options::{self, Options};
use super::solve;

/// What of the interface there is. Clients ask for nothing else then.
const CAPABILITIES: [&str; 8] = [
    "solve.base",
    "return",
    "returnmap",
    "importcaches",
    "proto.refarray",
    "gateway.solve.metadata",
    "frontend.caps",
    "gateway.solve.evaluate",
];

/// What sorts of operations there are is the business of whoever sends some, which is refused.
const OPERATIONS: [&str; 3] = ["source.image", "source.local", "exec.meta.base"];

/// Says what can be asked for.
pub(crate) fn ping(worker: WorkerRecord) -> PongResponse {
    let all = |ids: &[&str]| {
        ids.iter().map(|id| Capability { id: (*id).to_owned(), enabled: true }).collect::<Vec<_>>()
    };
    PongResponse {
        frontend_capabilities: all(&CAPABILITIES),
        llb_capabilities: all(&OPERATIONS),
        workers: vec![worker],
    }
}

/// Begins what a frontend is asked for. The answer names its result, which is waited for where it is used.
pub(crate) async fn solve(
    builder: &Builder,
    job: &Arc<Job>,
    request: SolveRequest,
) -> Result<SolveResponse, Status> {
    let is_empty = request.definition.as_ref().is_none_or(|definition| definition.operations.is_empty());
    if !is_empty || !request.frontend_inputs.is_empty() {
        return Err(solve::no_operations());
    }
    if !request.source_policies.is_empty() {
        return Err(solve::no_policy());
    }
    if request.frontend.is_empty() {
        return Ok(SolveResponse { result: Some(SolveResult::default()) });
    }
    options::check_frontend(&request.frontend, &request.frontend_options)?;
    let mut options = Options::understand(&request.frontend_options)?;
    for import in &request.cache_imports {
        options.import(&import.kind, &import.attributes);
    }
    let place = job.reserve()?;
    let drafted = solve::draft(builder, job, options).await?;
    let (id, outcome) = job.add(&place, solve::carry_out(builder.clone(), Arc::clone(job), drafted));
    if request.evaluate {
        outcome.await?;
    }
    let found = Found::One(Reference { id });
    Ok(SolveResponse { result: Some(SolveResult { found: Some(found) }) })
}

/// The result that a client has come to; `None` if it is nothing.
pub(crate) fn returned(request: ReturnRequest) -> Result<Option<String>, Status> {
    if let Some(error) = request.error {
        return Err(error.into());
    }
    let one = |mut ids: Vec<String>| match ids.len() {
        0 => Ok(None),
        1 => Ok(ids.pop().filter(|id| !id.is_empty())),
        _ => Err(Status::new(Code::Unknown, "a result of several images is not supported by this engine")),
    };
    match request.result.and_then(|result| result.found) {
        None => Ok(None),
        Some(Found::One(reference)) => one(vec![reference.id]),
        Some(Found::Old(id)) => one(vec![id]),
        Some(Found::Map(map)) => one(map.references.into_values().map(|reference| reference.id).collect()),
        Some(Found::OldMap(map)) => one(map.references.into_values().collect()),
    }
}
