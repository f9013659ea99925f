//! The endpoint: every request to the API is judged, recorded, answered and sometimes lost.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, Response, StatusCode, body::Incoming, http::request::Parts, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;

use crate::{
    amis,
    bench::{Bench, now},
    call::{Call, Record, parameters},
    control, ec2,
    faults::{ApiError, Verdict},
    iam, log,
    moto::{Answer, error_of},
    reply,
    xml::Element,
};

const CONTROL: &str = "/_bench/";
const LARGEST_BODY: usize = 16 << 20;

/// The reply was lost: the connection is closed without one.
#[derive(Debug)]
struct Lost;

impl std::fmt::Display for Lost {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("The reply is lost")
    }
}

impl std::error::Error for Lost {}

impl From<Infallible> for Lost {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

pub(crate) async fn serve(bench: Arc<Bench>, listener: TcpListener) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                log(&format!("accept: {error}"));
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let bench = bench.clone();
        tokio::spawn(async move {
            let answer = service_fn(move |request| handle(bench.clone(), peer, request));
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

async fn handle(
    bench: Arc<Bench>,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Lost> {
    let (parts, body) = request.into_parts();
    let Ok(body) = Limited::new(body, LARGEST_BODY).collect().await.map(http_body_util::Collected::to_bytes)
    else {
        return Ok(plain(StatusCode::PAYLOAD_TOO_LARGE, "The request is too long or broke off"));
    };
    if let Some(command) = parts.uri.path().strip_prefix(CONTROL) {
        if command == "checkip" {
            let caller = bench.lock().settings.caller.unwrap_or_else(|| peer.ip());
            return Ok(plain(StatusCode::OK, &format!("{caller}\n")));
        }
        let answer = control::answer(&bench, &parts.method, command, parts.uri.query(), &body).await;
        return Ok(match answer {
            Ok(value) => plain(StatusCode::OK, &format!("{value}\n")),
            Err(error) => plain(StatusCode::BAD_REQUEST, &format!("{error:#}\n")),
        });
    }
    // A call goes on when its caller gives up, as it would there.
    let work = tokio::spawn(async move { call(&bench, &parts, body).await });
    match work.await {
        Ok(Some(answer)) => Ok(response(answer)),
        Ok(None) => Err(Lost),
        Err(error) => {
            log(&format!("a call failed: {error}"));
            Ok(plain(StatusCode::INTERNAL_SERVER_ERROR, "The bench failed"))
        }
    }
}

/// `None`: the reply is lost.
async fn call(bench: &Arc<Bench>, parts: &Parts, body: Bytes) -> Option<Answer> {
    let call = Call::read(parts, &body);
    let zone = zone(bench, &call).await;
    let denied = iam::denied(bench, &call).await;
    let (number, verdict, delay) = {
        let mut state = bench.lock();
        let verdict = state.faults.judge(&call, zone.as_deref(), denied);
        state.call_count += 1;
        let number = state.call_count;
        state.calls.push(Record {
            number,
            time: now(),
            service: call.service.clone(),
            region: call.region.clone(),
            action: call.action.clone(),
            parameters: parameters(&call),
            status: 0,
            lost: verdict.lose,
            error: None,
        });
        (number, verdict, Duration::from_millis(state.faults.delay_ms))
    };
    tokio::time::sleep(delay).await;
    let answer = judged(bench, &call, &verdict, parts, body).await.unwrap_or_else(|error| {
        log(&format!("{}: {error:#}", call.action));
        let error = ApiError { status: 500, code: "InternalError".to_owned(), message: format!("{error:#}") };
        reply::error(&call, &error)
    });
    let mut state = bench.lock();
    if answer.status.is_success() {
        // The emulator fails in regions that there are not.
        state.regions.insert(call.region.clone());
    }
    if let Some(record) = state.calls.iter_mut().rev().find(|record| record.number == number) {
        record.status = answer.status.as_u16();
        if !answer.status.is_success() {
            record.error = code(&answer);
        }
    }
    (!verdict.lose).then_some(answer)
}

async fn judged(
    bench: &Arc<Bench>,
    call: &Call,
    verdict: &Verdict,
    parts: &Parts,
    body: Bytes,
) -> Result<Answer> {
    if let Some(error) = &verdict.error {
        return Ok(reply::error(call, error));
    }
    if call.action == "GetParameter"
        && let Some(name) = call.json["Name"].as_str()
        && let Some(ami) = amis::of_parameter(name)
    {
        return Ok(parameter(call, name, ami.id));
    }
    if call.service == "ec2" && !call.action.is_empty() {
        return ec2::answer(bench, call, verdict.list).await;
    }
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    bench
        .moto
        .forward(parts.method.clone(), path, &parts.headers, body)
        .await
        .context("Could not pass the call on")
}

fn parameter(call: &Call, name: &str, value: &str) -> Answer {
    reply::json(&json!({ "Parameter": {
        "ARN": format!("arn:aws:ssm:{}::parameter{name}", call.region),
        "DataType": "aws:ec2:image",
        "LastModifiedDate": 1_767_225_600.0,
        "Name": name,
        "Type": "String",
        "Value": value,
        "Version": 1,
    }}))
}

/// The zone of the subnet that a call names, for errors that are meant for a zone.
async fn zone(bench: &Bench, call: &Call) -> Option<String> {
    let subnet = call.subnet()?;
    let known = bench.lock().zones.get(subnet).cloned();
    if known.is_some() {
        return known;
    }
    let describe = [("Action", "DescribeSubnets"), ("SubnetId.1", subnet)];
    let reply = bench.moto.query(&call.region, &describe).await.ok()?;
    let zone = reply.items("subnetSet").first()?.value("availabilityZone")?.to_owned();
    bench.lock().zones.insert(subnet.to_owned(), zone.clone());
    Some(zone)
}

fn code(answer: &Answer) -> Option<String> {
    if let Ok(said) = Element::parse(&answer.body) {
        return error_of(&said).map(|(code, _)| code);
    }
    let said: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
    said["__type"].as_str().map(str::to_owned)
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(text.as_bytes())));
    *response.status_mut() = status;
    response
}
