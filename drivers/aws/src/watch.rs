//! Instances as AWS sees them now, asked for together: whoever waits for an instance shares one call with all others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_sdk_ec2::types::{Filter, Instance as SdkInstance, InstanceStateName, Reservation};
use machine_driver::State;
use tokio::sync::oneshot;

use crate::{
    api::{Api, Call},
    error::{Answer as _, ApiError, printable},
    placement::filter,
    region::Region,
};

/// How often AWS is asked while hosts are waited for. One call answers for all of them.
const PACE: Duration = Duration::from_secs(1);
/// A filter takes no more values.
const IDS_AT_ONCE: usize = 200;
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
            tags: instance
                .tags()
                .iter()
                .filter_map(|tag| Some((tag.key()?.to_owned(), tag.value()?.to_owned())))
                .collect(),
        })
    }

    /// Whether it ends or has ended, for good.
    pub(crate) fn is_ending(&self) -> bool {
        matches!(self.state, InstanceStateName::ShuttingDown | InstanceStateName::Terminated)
    }

    pub(crate) fn host_state(&self) -> State {
        match self.state {
            InstanceStateName::Pending => State::Starting,
            InstanceStateName::Running => State::Running,
            InstanceStateName::Stopping | InstanceStateName::ShuttingDown => State::Stopping,
            InstanceStateName::Stopped => State::Stopped,
            InstanceStateName::Terminated => State::None,
            _ => State::Error,
        }
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

/// Those who wait for the next answer.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    waiting: Mutex<Vec<(String, oneshot::Sender<Answer>)>>,
}

/// The instance as of the next time that AWS is asked, a moment from now; `None` if AWS does not know it (yet).
pub(crate) async fn look(region: &Arc<Region>, id: &str) -> Answer {
    let (sender, receiver) = oneshot::channel();
    let first = {
        let mut waiting = region.watch.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push((id.to_owned(), sender));
        waiting.len() == 1
    };
    if first {
        let region = region.clone();
        tokio::spawn(async move {
            tokio::time::sleep(PACE).await;
            let waiting =
                std::mem::take(&mut *region.watch.waiting.lock().unwrap_or_else(PoisonError::into_inner));
            let ids: Vec<String> = waiting.iter().map(|(id, _)| id.clone()).collect();
            let answer = describe_ids(&region.api, &ids).await;
            for (id, sender) in waiting {
                // Whoever does not wait any more was interrupted.
                let _ =
                    sender.send(answer.as_ref().map(|found| found.get(&id).cloned()).map_err(Clone::clone));
            }
        });
    }
    // The task that answers is not aborted while the program runs.
    receiver.await.unwrap_or(Ok(None))
}
