//! Builds that are under way, each by the name that its client has given it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use engine_model::ImageId;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::grpc::{Code, Status};
use super::messages::gateway::ReturnRequest;
use super::progress::Progress;
use super::session::Session;

/// How long calls about a build wait for it. Clients make them at the same time.
const ARRIVAL: Duration = Duration::from_secs(20);
const MOST: usize = 256;
const MOST_RESULTS: usize = 64;
const LONGEST_NAME: usize = 256;

/// What a frontend comes to, for all who wait for it.
pub(crate) type Outcome = Shared<BoxFuture<'static, Result<ImageId, Status>>>;

/// One build.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) name: String,
    pub(crate) session: Session,
    pub(crate) progress: Progress,
    pub(crate) cancelled: CancellationToken,
    /// The result is no image that is shown.
    pub(crate) hides_result: bool,
    pub(crate) warnings: Vec<String>,
    results: Mutex<BTreeMap<String, Outcome>>,
    returns: Mutex<Option<oneshot::Sender<ReturnRequest>>>,
}

/// All of them. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Jobs(Arc<watch::Sender<BTreeMap<String, Arc<Job>>>>);

/// A build that ends with this.
#[derive(Debug)]
pub(crate) struct Held {
    jobs: Jobs,
    pub(crate) job: Arc<Job>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.job.cancelled.cancel();
        self.job.progress.end();
        self.jobs.0.send_modify(|known| drop(known.remove(&self.job.name)));
    }
}

impl Default for Jobs {
    fn default() -> Self {
        Self(Arc::new(watch::channel(BTreeMap::new()).0))
    }
}

impl Jobs {
    /// Begins a build. Its client says by the second what has become of it, if it leads it itself.
    pub(crate) fn begin(
        &self,
        name: &str,
        session: Session,
        hides_result: bool,
        warnings: Vec<String>,
    ) -> Result<(Held, oneshot::Receiver<ReturnRequest>), Status> {
        if name.is_empty() || name.len() > LONGEST_NAME {
            let message = format!("a build needs a `Ref` of at most {LONGEST_NAME} characters");
            return Err(Status::new(Code::InvalidArgument, message));
        }
        let (returns, returned) = oneshot::channel();
        let job = Arc::new(Job {
            name: name.to_owned(),
            progress: Progress::new(name),
            cancelled: session.caller.gone.child_token(),
            session,
            hides_result,
            warnings,
            results: Mutex::default(),
            returns: Mutex::new(Some(returns)),
        });
        let mut refused = None;
        self.0.send_if_modified(|known| {
            if known.contains_key(name) {
                refused = Some(Status::new(
                    Code::AlreadyExists,
                    format!("the build `{name}` is under way already"),
                ));
            } else if known.len() >= MOST {
                refused = Some(Status::new(
                    Code::ResourceExhausted,
                    format!("more than {MOST} builds are under way"),
                ));
            } else {
                known.insert(name.to_owned(), Arc::clone(&job));
            }
            refused.is_none()
        });
        match refused {
            Some(refused) => Err(refused),
            None => Ok((Held { jobs: self.clone(), job }, returned)),
        }
    }

    /// The build of this name, which may be about to begin.
    pub(crate) async fn get(&self, name: &str) -> Result<Arc<Job>, Status> {
        let mut known = self.0.subscribe();
        let missing = || Status::new(Code::NotFound, format!("no such job {name}"));
        let found = known.wait_for(|known| known.contains_key(name));
        let known = tokio::time::timeout(ARRIVAL, found).await.map_err(|_| missing())?;
        known.ok().and_then(|known| known.get(name).cloned()).ok_or_else(missing)
    }
}

impl Job {
    /// Begins work that goes on by itself until the build ends, and returns the id of its result.
    pub(crate) fn add(
        &self,
        work: impl Future<Output = Result<ImageId, Status>> + Send + 'static,
    ) -> Result<(String, Outcome), Status> {
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        if results.len() == MOST_RESULTS {
            let message = format!("a build has at most {MOST_RESULTS} results");
            return Err(Status::new(Code::ResourceExhausted, message));
        }
        let working = tokio::spawn(work);
        let outcome = async move {
            working.await.unwrap_or_else(|error| {
                Err(Status::new(Code::Internal, format!("A build was cut short: {error}")))
            })
        };
        let outcome = outcome.boxed().shared();
        let id = format!("{}-{}", self.name, results.len());
        results.insert(id.clone(), outcome.clone());
        Ok((id, outcome))
    }

    /// What a result comes to.
    pub(crate) fn result(&self, id: &str) -> Result<Outcome, Status> {
        let results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = || Status::new(Code::NotFound, format!("no such ref {id}"));
        results.get(id).cloned().ok_or_else(missing)
    }

    /// The client says what has become of the build that it leads.
    pub(crate) fn finish(&self, request: ReturnRequest) -> Result<(), Status> {
        let returns = self.returns.lock().unwrap_or_else(PoisonError::into_inner).take();
        let again = || Status::new(Code::AlreadyExists, "this build has returned already");
        // Nobody waits for it if the build is over meanwhile.
        let _ = returns.ok_or_else(again)?.send(request);
        Ok(())
    }
}
