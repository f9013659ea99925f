//! Builds that are under way, each by the name that its client has given it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use engine_model::ImageId;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::grpc::{Code, Status};
use super::messages::gateway::ReturnRequest;
use super::progress::Progress;
use super::session::Session;

/// How long calls about a build wait for it. Clients make them at the same time.
const ARRIVAL: Duration = Duration::from_secs(20);
const MOST: usize = 256;
/// So many builds that are over wait for somebody who asks what has become of them.
const MOST_OVER: usize = 32;
const MOST_RESULTS: usize = 64;
/// So many results of a build have their files brought at the same time.
const MOST_TRANSFERS: usize = 4;
const LONGEST_NAME: usize = 256;

/// What a frontend comes to, for all who wait for it.
pub(crate) type Outcome = Shared<BoxFuture<'static, Result<ImageId, Status>>>;

/// A place among the results of a build.
#[derive(Debug)]
pub(crate) struct Place(usize);

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
    /// Somebody is told how it goes on.
    is_watched: AtomicBool,
    /// Whoever brings files of the client holds one of these.
    pub(crate) transfers: Semaphore,
    places: AtomicUsize,
    results: Mutex<BTreeMap<String, Outcome>>,
    returns: Mutex<Option<oneshot::Sender<ReturnRequest>>>,
}

/// All of them. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Jobs(Arc<watch::Sender<Known>>);

#[derive(Debug, Default)]
struct Known {
    running: BTreeMap<String, Arc<Job>>,
    /// Those that nobody has watched yet. Clients ask for that at the same time as they begin a build, and some are short.
    over: VecDeque<Arc<Job>>,
    /// The names of the last ones that are over, which nobody has to wait for.
    gone: VecDeque<String>,
}

impl Known {
    fn find(&self, name: &str) -> Option<&Arc<Job>> {
        self.running.get(name).or_else(|| self.over.iter().find(|job| job.name == name))
    }
}

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
        self.jobs.0.send_modify(|known| {
            known.running.remove(&self.job.name);
            known.gone.push_back(self.job.name.clone());
            if known.gone.len() > MOST_OVER {
                known.gone.pop_front();
            }
            if !self.job.is_watched.load(Ordering::Relaxed) {
                known.over.push_back(Arc::clone(&self.job));
                if known.over.len() > MOST_OVER {
                    known.over.pop_front();
                }
            }
        });
    }
}

impl Default for Jobs {
    fn default() -> Self {
        Self(Arc::new(watch::channel(Known::default()).0))
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
            is_watched: AtomicBool::new(false),
            transfers: Semaphore::new(MOST_TRANSFERS),
            places: AtomicUsize::new(0),
            results: Mutex::default(),
            returns: Mutex::new(Some(returns)),
        });
        let mut refused = None;
        self.0.send_if_modified(|known| {
            if known.find(name).is_some() {
                refused =
                    Some(Status::new(Code::AlreadyExists, format!("there is a build `{name}` already")));
            } else if known.running.len() >= MOST {
                refused = Some(Status::new(
                    Code::ResourceExhausted,
                    format!("more than {MOST} builds are under way"),
                ));
            } else {
                known.running.insert(name.to_owned(), Arc::clone(&job));
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
        let found = known
            .wait_for(|known| known.running.contains_key(name) || known.gone.iter().any(|gone| gone == name));
        let known = tokio::time::timeout(ARRIVAL, found).await.map_err(|_| missing())?;
        known.ok().and_then(|known| known.running.get(name).cloned()).ok_or_else(missing)
    }

    /// The progress of the build of this name, which may be about to begin, or over already.
    pub(crate) async fn watch(&self, name: &str) -> Result<Progress, Status> {
        let mut known = self.0.subscribe();
        let missing = || Status::new(Code::NotFound, format!("no such job {name}"));
        let found = known.wait_for(|known| known.find(name).is_some());
        let known = tokio::time::timeout(ARRIVAL, found).await.map_err(|_| missing())?;
        let job = known.ok().and_then(|known| known.find(name).cloned()).ok_or_else(missing)?;
        job.is_watched.store(true, Ordering::Relaxed);
        self.0.send_modify(|known| known.over.retain(|over| over.name != name));
        Ok(job.progress.clone())
    }
}

impl Job {
    /// Takes a place for a result, before anything is done for it. Nobody gives it back.
    pub(crate) fn reserve(&self) -> Result<Place, Status> {
        let free = |places| (places < MOST_RESULTS).then_some(places + 1);
        let taken = self.places.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free);
        taken.map(Place).map_err(|_| {
            let message = format!("a build has at most {MOST_RESULTS} results");
            Status::new(Code::ResourceExhausted, message)
        })
    }

    /// Begins work that goes on by itself until the build ends, and returns the id of its result.
    pub(crate) fn add(
        &self,
        place: &Place,
        work: impl Future<Output = Result<ImageId, Status>> + Send + 'static,
    ) -> (String, Outcome) {
        let working = tokio::spawn(work);
        let outcome = async move {
            working.await.unwrap_or_else(|error| {
                Err(Status::new(Code::Internal, format!("A build was cut short: {error}")))
            })
        };
        let outcome = outcome.boxed().shared();
        let id = format!("{}-{}", self.name, place.0);
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        results.insert(id.clone(), outcome.clone());
        (id, outcome)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::session::lone;
    use super::*;

    /// Clients ask what becomes of a build while they begin it, and may be late.
    #[tokio::test]
    async fn a_build_that_is_over_is_told_of_once() {
        let jobs = Jobs::default();
        let (held, _returned) = jobs.begin("short", lone().await, false, Vec::new()).unwrap();
        assert!(jobs.begin("short", held.job.session.clone(), false, Vec::new()).is_err());
        drop(held.job.progress.begin("[1/1] FROM x"));
        drop(held);
        let progress = jobs.watch("short").await.unwrap();
        assert_eq!(progress.after(0).await.unwrap().len(), 2);
        assert!(progress.after(2).await.is_none());
        assert!(jobs.0.borrow().over.is_empty());
        // Calls about it are answered at once.
        assert!(jobs.get("short").await.is_err());
    }

    #[tokio::test]
    async fn places_are_taken_before_anything_is_done() {
        let jobs = Jobs::default();
        let (held, _returned) = jobs.begin("x", lone().await, false, Vec::new()).unwrap();
        for _ in 0..MOST_RESULTS {
            held.job.reserve().unwrap();
        }
        assert!(held.job.reserve().is_err());
    }

    #[tokio::test]
    async fn a_build_ends_with_its_session() {
        let jobs = Jobs::default();
        let session = lone().await;
        let (held, _returned) = jobs.begin("x", session.clone(), false, Vec::new()).unwrap();
        assert!(!held.job.cancelled.is_cancelled());
        session.caller.gone.cancel();
        assert!(held.job.cancelled.is_cancelled());
    }
}
