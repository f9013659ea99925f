//! Sessions: connections that clients have opened to be asked over, each known by its id.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use super::caller::Caller;
use super::grpc::{Code, Status};

/// How long a build waits for its session. Clients open it at the same time.
const ARRIVAL: Duration = if cfg!(test) { Duration::from_millis(200) } else { Duration::from_secs(20) };
/// More builds than that are nobody's.
const MOST: usize = 512;
const MOST_METHODS: usize = 256;
const LONGEST_ID: usize = 256;

/// One client that can be asked. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) caller: Caller,
    methods: Arc<BTreeSet<String>>,
}

impl Session {
    /// Whether the client has said that it serves a method.
    pub(crate) fn serves(&self, path: &str) -> bool {
        self.methods.contains(&path.to_ascii_lowercase())
    }
}

/// All of them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sessions(Arc<watch::Sender<BTreeMap<String, Session>>>);

/// What a client says of itself when it opens a session.
#[derive(Clone, Debug)]
pub struct Introduction {
    id: String,
    methods: BTreeSet<String>,
}

/// Why a session is not opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    #[error(
        "a session has to say its id, of at most {LONGEST_ID} characters, in the header `X-Docker-Expose-Session-Uuid`"
    )]
    NoId,
    #[error("a session has at most {MOST_METHODS} methods")]
    TooManyMethods,
}

impl Introduction {
    /// Reads the headers of the request that opens the session.
    pub fn of(headers: &HeaderMap) -> Result<Self, SessionError> {
        let id = headers.get("x-docker-expose-session-uuid").and_then(|id| id.to_str().ok());
        let id = id.filter(|id| !id.is_empty() && id.len() <= LONGEST_ID).ok_or(SessionError::NoId)?;
        let methods = headers.get_all("x-docker-expose-session-grpc-method");
        if methods.iter().count() > MOST_METHODS {
            return Err(SessionError::TooManyMethods);
        }
        let methods = methods.iter().filter_map(|method| method.to_str().ok());
        Ok(Self { id: id.to_owned(), methods: methods.map(str::to_ascii_lowercase).collect() })
    }
}

impl Default for Sessions {
    fn default() -> Self {
        Self(Arc::new(watch::channel(BTreeMap::new()).0))
    }
}

/// Takes the session off the list.
struct Listed<'a> {
    sessions: &'a Sessions,
    id: &'a str,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.sessions.0.send_modify(|known| drop(known.remove(self.id)));
    }
}

impl Sessions {
    /// Holds a session until its connection ends.
    pub async fn hold(
        &self,
        introduction: Introduction,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) {
        let Introduction { id, methods } = introduction;
        let (caller, work) = match Caller::begin(stream).await {
            Ok(begun) => begun,
            Err(error) => {
                tracing::debug!(%error, "A session did not begin");
                return;
            }
        };
        let session = Session { caller, methods: Arc::new(methods) };
        let is_new = self.0.send_if_modified(|known| {
            let is_new = known.len() < MOST && !known.contains_key(&id);
            if is_new {
                known.insert(id.clone(), session);
            }
            is_new
        });
        if !is_new {
            tracing::info!(id, "A session was refused: there is one of this id, or there are too many");
            return;
        }
        let _listed = Listed { sessions: self, id: &id };
        work.await;
    }

    /// The session of this id, which may be on its way.
    pub(crate) async fn get(&self, id: &str) -> Result<Session, Status> {
        let mut known = self.0.subscribe();
        let found = known.wait_for(|known| known.contains_key(id));
        let missing = || {
            let message =
                format!("no session `{id}` was opened: the client has to open it by `POST /session`");
            Status::new(Code::NotFound, message)
        };
        let known = tokio::time::timeout(ARRIVAL, found).await.map_err(|_| missing())?;
        let found = known.ok().and_then(|known| known.get(id).cloned());
        found.ok_or_else(missing)
    }
}

/// A session whose client answers nothing.
#[cfg(test)]
pub(crate) async fn lone() -> Session {
    let (ours, theirs) = tokio::io::duplex(64);
    let begun = Caller::begin(ours).await;
    let (caller, work) = begun.unwrap_or_else(|error| panic!("no session to test with: {error}"));
    tokio::spawn(async move {
        let _theirs = theirs;
        work.await;
    });
    Session { caller, methods: Arc::default() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn a_session_that_does_not_come_is_not_waited_for() {
        let error = Sessions::default().get("missing").await.unwrap_err();
        assert!(error.message.contains("`missing`"), "{error}");
    }

    #[test]
    fn an_introduction_says_an_id() {
        let mut headers = HeaderMap::new();
        assert_eq!(Introduction::of(&headers).unwrap_err(), SessionError::NoId);
        headers.insert("x-docker-expose-session-uuid", "abc".parse().unwrap());
        headers.append(
            "x-docker-expose-session-grpc-method",
            "/moby.filesync.v1.FileSync/DiffCopy".parse().unwrap(),
        );
        let introduction = Introduction::of(&headers).unwrap();
        assert_eq!((introduction.id.as_str(), introduction.methods.len()), ("abc", 1));
        for number in 0..300 {
            headers.append("x-docker-expose-session-grpc-method", format!("/{number}").parse().unwrap());
        }
        assert_eq!(Introduction::of(&headers).unwrap_err(), SessionError::TooManyMethods);
    }
}
