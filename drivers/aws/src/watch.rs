//! Instances as AWS sees them now, asked for together: whoever waits for an instance shares one call with all others.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_sdk_ec2::types::{Filter, Instance as SdkInstance, InstanceStateName, Reservation};
use tokio::sync::oneshot;

use crate::{
    api::{Api, Call, filter},
    backoff::Backoff,
    error::{Answer as _, ApiError, printable},
};

/// A filter takes no more values.
pub(crate) const IDS_AT_ONCE: usize = 200;
const PAGE: i32 = 1000;

/// An instance, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Instance {
    pub(crate) id: String,
    pub(crate) state: InstanceStateName,
    /// Why it is in that state, where AWS says so.
    pub(crate) reason: Option<String>,
    pub(crate) public_address: Option<String>,
    pub(crate) private_address: Option<String>,
    pub(crate) ipv6_address: Option<String>,
    pub(crate) spot_request: Option<String>,
    /// What it was asked for with; tags are copied by whoever starts another one like it, this is not.
    pub(crate) client_token: String,
    /// Ids of its security groups.
    pub(crate) groups: BTreeSet<String>,
    pub(crate) tags: HashMap<String, String>,
}

impl Instance {
    pub(crate) fn of(instance: &SdkInstance) -> Option<Self> {
        let text = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
        Some(Self {
            id: text(instance.instance_id())?,
            state: instance.state()?.name()?.clone(),
            reason: instance
                .state_reason()
                .and_then(|reason| text(reason.message()).or_else(|| text(reason.code())))
                .map(|reason| printable(&reason)),
            public_address: text(instance.public_ip_address()),
            private_address: text(instance.private_ip_address()),
            ipv6_address: text(instance.ipv6_address()),
            spot_request: text(instance.spot_instance_request_id()),
            client_token: instance.client_token().unwrap_or_default().to_owned(),
            groups: instance
                .security_groups()
                .iter()
                .filter_map(|group| group.group_id().map(str::to_owned))
                .collect(),
            tags: instance
                .tags()
                .iter()
                .filter_map(|tag| Some((tag.key()?.to_owned(), tag.value()?.to_owned())))
                .collect(),
        })
    }

    /// Whether it was started for the host with this id, and not only tagged like its instance.
    pub(crate) fn was_started_for(&self, host_id: &str) -> bool {
        self.client_token.strip_prefix(host_id).is_some_and(|rest| rest.starts_with('-'))
    }

    /// Whether it ends or has ended, for good.
    pub(crate) fn is_ending(&self) -> bool {
        matches!(self.state, InstanceStateName::ShuttingDown | InstanceStateName::Terminated)
    }
}

/// Describes instances by a filter, all pages of the answer.
pub(crate) async fn describe(api: &Api, filters: Vec<Filter>) -> Result<Vec<Instance>, ApiError> {
    let ask = api.describe_instances().set_filters(Some(filters)).max_results(PAGE);
    let pages = ask.into_paginator().items().send();
    let reservations = pages.collect::<Result<Vec<_>, _>>().await.answer(Call::DescribeInstances, api)?;
    Ok(reservations.iter().flat_map(Reservation::instances).filter_map(Instance::of).collect())
}

/// Describes instances by their ids; those that AWS does not know are not in the answer. By filter, because a call by
/// id fails for all if it fails for one.
pub(crate) async fn describe_ids(api: &Api, ids: &[String]) -> Result<HashMap<String, Instance>, ApiError> {
    let mut found = HashMap::new();
    for ids in ids.chunks(IDS_AT_ONCE) {
        let instances = describe(api, vec![filter("instance-id", ids.iter().cloned())]).await?;
        found.extend(instances.into_iter().map(|instance| (instance.id.clone(), instance)));
    }
    Ok(found)
}

type Answer = Result<Option<Instance>, ApiError>;

type Waiting = Vec<(String, oneshot::Sender<Answer>)>;

/// The instances of a region, for those who wait for one of them.
#[derive(Debug)]
pub(crate) struct Watch {
    api: Arc<Api>,
    /// How often AWS is asked. One call answers for all who wait.
    poll: Duration,
    waiting: Arc<Mutex<Waiting>>,
}

impl Watch {
    pub(crate) fn new(api: Arc<Api>, poll: Duration) -> Self {
        Self { api, poll, waiting: Arc::default() }
    }

    /// The instance as of the next time that AWS is asked, a moment from now. `None`: that answer does not have it, which
    /// may be older than the instance is.
    pub(crate) async fn next(&self, id: &str) -> Answer {
        let (sender, receiver) = oneshot::channel();
        let first = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.push((id.to_owned(), sender));
            waiting.len() == 1
        };
        if first {
            let (api, poll, waiting) = (self.api.clone(), self.poll, self.waiting.clone());
            tokio::spawn(async move {
                tokio::time::sleep(poll).await;
                let waiting = std::mem::take(&mut *waiting.lock().unwrap_or_else(PoisonError::into_inner));
                let ids: Vec<String> = waiting.iter().map(|(id, _)| id.clone()).collect();
                let answer = describe_ids(&api, &ids).await;
                for (id, sender) in waiting {
                    // Whoever does not wait any more was interrupted.
                    let _ = sender
                        .send(answer.as_ref().map(|found| found.get(&id).cloned()).map_err(Clone::clone));
                }
            });
        }
        // The task that answers is not aborted while the program runs.
        receiver.await.unwrap_or(Ok(None))
    }

    /// The instance as AWS knows it now. `None` only if it is in none of the answers of a while.
    pub(crate) async fn find(&self, id: &str, within: Backoff) -> Answer {
        within.until_found(|| self.next(id)).await
    }
}
