//! What the stages of one build share: the plan, what has become of each, and the first failure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use engine_model::ImageId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::error::BuildError;
use super::outside::Outside;
use super::plan::Plan;
use super::shop::{Shop, Used};

/// What has become of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Built {
    NotYet,
    /// A stage `FROM scratch` without a step.
    Nothing,
    Image(ImageId),
}

impl Built {
    fn image(&self) -> Option<ImageId> {
        match self {
            Self::Image(id) => Some(id.clone()),
            Self::NotYet | Self::Nothing => None,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) shop: Arc<Shop>,
    pub(crate) plan: Plan,
    pub(crate) cancelled: CancellationToken,
    /// What has become of each stage.
    results: Vec<watch::Sender<Built>>,
    /// What each stage begins with, once that is known.
    bases: Mutex<BTreeMap<usize, Option<ImageId>>>,
    /// Stages that nobody knew to be needed when the build began, and how many steps they have.
    demanded: Mutex<BTreeMap<usize, usize>>,
    /// Images whose histories tell of steps.
    pub(crate) sources: OnceLock<Vec<ImageId>>,
    used: Used,
    /// The one that made the others end.
    failure: Mutex<Option<BuildError>>,
}

impl Work {
    pub(crate) fn new(shop: Arc<Shop>, plan: Plan, cancelled: CancellationToken) -> Self {
        let results = plan.dockerfile.stages.iter().map(|_| watch::channel(Built::NotYet).0).collect();
        let used = shop.begin();
        let (bases, demanded) = (Mutex::default(), Mutex::default());
        let (sources, failure) = (OnceLock::new(), Mutex::default());
        Self { shop, plan, cancelled, results, bases, demanded, sources, used, failure }
    }

    pub(crate) fn outside(&self) -> &dyn Outside {
        &*self.shop.outside
    }

    /// What the target has become, or why it has not.
    pub(crate) fn result(&self) -> Result<Option<ImageId>, BuildError> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        match failure {
            Some(failure) => Err(failure),
            None => Ok(self.results[self.plan.target].borrow().image()),
        }
    }

    /// Notes what a stage begins with.
    pub(crate) fn begins_with(&self, stage: usize, base: Option<ImageId>) {
        self.bases.lock().unwrap_or_else(PoisonError::into_inner).insert(stage, base);
    }

    /// What the target began with.
    pub(crate) fn base(&self) -> Option<ImageId> {
        let bases = self.bases.lock().unwrap_or_else(PoisonError::into_inner);
        bases.get(&self.plan.target).cloned().flatten()
    }

    pub(crate) fn used(&self) -> BTreeSet<ImageId> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes what has become of a stage. The first failure ends the others.
    pub(crate) fn settle(&self, stage: usize, result: Result<Option<ImageId>, BuildError>) {
        match result {
            Ok(image) => {
                self.results[stage].send_replace(image.map_or(Built::Nothing, Built::Image));
            }
            Err(error) => {
                let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
                failure.get_or_insert(error);
                self.cancelled.cancel();
            }
        }
    }

    /// Whether the caller is to build a stage, as nobody else does.
    pub(crate) fn is_to_build(&self, stage: usize) -> bool {
        let steps = self.plan.dockerfile.stages[stage].steps.len() + 1;
        let mut demanded = self.demanded.lock().unwrap_or_else(PoisonError::into_inner);
        !self.plan.needed.contains(&stage) && demanded.insert(stage, steps).is_none()
    }

    /// How many lines are told as steps, as far as that is known.
    pub(crate) fn steps(&self) -> usize {
        let demanded = self.demanded.lock().unwrap_or_else(PoisonError::into_inner);
        self.plan.steps() + demanded.values().sum::<usize>()
    }

    /// Waits until a stage is built.
    pub(crate) async fn stage(&self, stage: usize) -> Result<Option<ImageId>, BuildError> {
        let mut result = self.results[stage].subscribe();
        tokio::select! {
            built = result.wait_for(|built| *built != Built::NotYet) => match built {
                Ok(built) => Ok(built.image()),
                Err(_) => Err(BuildError::Cancelled),
            },
            () = self.cancelled.cancelled() => Err(BuildError::Cancelled),
        }
    }

    /// Notes that a step was of use.
    pub(crate) fn note(&self, id: &ImageId) {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
    }
}
