//! The client of a build as the builder sees it: its secrets, its logins and its SSH agent.

use std::any::Any;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use engine_build::Login;
use engine_model::{Failure, Kind};
use hyper::body::Frame;
use hyper::header::{HeaderName, HeaderValue};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::caller::Caller;
use super::grpc::{Code, Status, framed};
use super::messages::session::{
    BytesMessage, CheckAgentRequest, CredentialsRequest, CredentialsResponse, GetSecretRequest,
    GetSecretResponse,
};
use super::session::Session;

const GET_SECRET: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";
const CREDENTIALS: &str = "/moby.filesync.v1.Auth/Credentials";
const CHECK_AGENT: &str = "/moby.sshforward.v1.SSH/CheckAgent";
const FORWARD_AGENT: &str = "/moby.sshforward.v1.SSH/ForwardAgent";
/// BuildKit's own bound.
const LARGEST_SECRET: usize = 500 << 10;
/// Programs of one command that talk to the agent at the same time.
const MOST_TALKS: usize = 32;
const PIECE: usize = 32 * 1024;

/// An answer without anything in it.
#[derive(Clone, PartialEq, Message)]
struct Nothing {}

fn failure(what: &str, error: &Status) -> Failure {
    Failure::new(Kind::Invalid, format!("{what}: {error}"))
}

#[async_trait]
impl engine_build::Client for Session {
    async fn secret(&self, id: &str) -> Result<Option<Vec<u8>>, Failure> {
        if !self.serves(GET_SECRET) {
            return Ok(None);
        }
        let asked = GetSecretRequest { id: id.to_owned() };
        match self.caller.ask::<GetSecretResponse>(GET_SECRET, &asked).await {
            Ok(secret) if secret.data.len() > LARGEST_SECRET => {
                let message = format!("the secret `{id}` has more than {LARGEST_SECRET} bytes");
                Err(Failure::new(Kind::Invalid, message))
            }
            Ok(secret) => Ok(Some(secret.data)),
            Err(error) if error.is(Code::NotFound) => Ok(None),
            Err(error) => Err(failure(&format!("Could not get the secret `{id}` from the client"), &error)),
        }
    }

    async fn agent(&self, id: &str, socket: &Path) -> Result<Option<Box<dyn Any + Send + Sync>>, Failure> {
        if !self.serves(FORWARD_AGENT) {
            return Ok(None);
        }
        let asked = CheckAgentRequest { id: id.to_owned() };
        match self.caller.ask::<Nothing>(CHECK_AGENT, &asked).await {
            Ok(_) => {}
            // The client says so by no code of its own.
            Err(error) if error.is(Code::NotFound) || error.message.contains("unset ssh forward key") => {
                return Ok(None);
            }
            Err(error) => return Err(failure("Could not reach the client's SSH agent", &error)),
        }
        let listener = UnixListener::bind(socket).map_err(|error| {
            Failure::new(Kind::Internal, format!("Could not make a socket for SSH: {error}"))
        })?;
        let end = CancellationToken::new();
        let guard = end.clone().drop_guard();
        tokio::spawn(answer(listener, self.caller.clone(), id.to_owned(), end));
        Ok(Some(Box::new(guard)))
    }

    async fn login(&self, registry: &str) -> Result<Option<Login>, Failure> {
        if !self.serves(CREDENTIALS) {
            return Ok(None);
        }
        // By this name clients know the one that is meant by no name.
        let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        let asked = CredentialsRequest { host: host.to_owned() };
        let answer = self.caller.ask::<CredentialsResponse>(CREDENTIALS, &asked).await;
        let login = answer.map_err(|error| {
            failure(&format!("Could not ask the client who it is to `{registry}`"), &error)
        })?;
        let is_somebody = !login.username.is_empty() || !login.secret.is_empty();
        Ok(is_somebody.then_some(Login { username: login.username, secret: login.secret }))
    }
}

/// Answers at a socket by the client's agent.
async fn answer(listener: UnixListener, caller: Caller, id: String, end: CancellationToken) {
    let places = Arc::new(Semaphore::new(MOST_TALKS));
    loop {
        let talk = async {
            let place = Arc::clone(&places).acquire_owned().await.ok()?;
            let (stream, _) = listener.accept().await.ok()?;
            Some((place, stream))
        };
        let (place, stream) = tokio::select! {
            talk = talk => match talk {
                Some(talk) => talk,
                None => return,
            },
            () = end.cancelled() => return,
            () = caller.gone.cancelled() => return,
        };
        let (caller, id, end) = (caller.clone(), id.clone(), end.clone());
        tokio::spawn(async move {
            let _place = place;
            tokio::select! {
                result = pass_on(stream, &caller, &id) => if let Err(error) = result {
                    tracing::debug!(%error, "A talk with a client's SSH agent ended early");
                },
                () = end.cancelled() => {}
            }
        });
    }
}

/// Carries bytes both ways until either side has said all.
async fn pass_on(stream: UnixStream, caller: &Caller, id: &str) -> Result<(), Status> {
    let id = HeaderValue::from_str(id)
        .map_err(|_| Status::new(Code::InvalidArgument, "this is no name of an agent"))?;
    let metadata = vec![(HeaderName::from_static("buildkit.ssh.id"), id)];
    let (requests, answers) = caller.converse(FORWARD_AGENT, metadata);
    let (mut from, mut to) = stream.into_split();
    let there = async move {
        let mut piece = vec![0; PIECE];
        while let Ok(count @ 1..) = from.read(&mut piece).await {
            let message = BytesMessage { data: piece[..count].to_vec() };
            if requests.send(Frame::data(framed(&message))).await.is_err() {
                break;
            }
        }
    };
    let back = async move {
        let mut answers = answers.await?;
        while let Some(piece) = answers.next::<BytesMessage>().await? {
            if to.write_all(&piece.data).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    tokio::join!(there, back).1
}
