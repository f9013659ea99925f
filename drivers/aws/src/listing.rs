//! States and addresses of many hosts: one question for each account and region, each answered in its own time.

use std::collections::HashMap;

use aws_sdk_ec2::types::InstanceStateName;
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream, FuturesUnordered},
};
use machine_driver::{Description, DriverError, Endpoint, HostView, Inside, Row, SshEndpoint, SshKey, State};
use serde_json::Value;

use crate::{
    config::{Config, Scope},
    launch, record,
    regions::Regions,
    rules,
    state::Made,
    watch::{self, Instance},
};

/// A host as its record has it.
struct Recorded {
    index: usize,
    config: Config,
    made: Made,
}

impl Recorded {
    fn of(index: usize, host: &HostView, state: &Value) -> Result<Self, DriverError> {
        Ok(Self { index, config: record::config(host)?, made: record::made(host, state)? })
    }

    /// Where its instance is; `None` while none was started.
    fn scope(&self) -> Option<Scope> {
        self.made.instance.as_ref()?;
        let region = self.made.plan.as_ref().map(|plan| plan.region.clone());
        Some(Scope {
            region: region.or_else(|| self.config.scope.region.clone()),
            ..self.config.scope.clone()
        })
    }

    fn row(mut self, host: &HostView, instance: Option<&Instance>) -> Row {
        if let Some(instance) = instance {
            launch::take_addresses(&mut self.made, instance);
        }
        let state = instance.map_or(State::None, host_state);
        let endpoint = endpoint(host, &self.config, &self.made).ok();
        (self.index, Ok(Description { state, endpoint }))
    }
}

/// A row for each host, as they become known.
pub(crate) fn describe<'a>(regions: &'a Regions, hosts: &'a [(HostView, Value)]) -> BoxStream<'a, Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut batches: HashMap<Scope, Vec<Recorded>> = HashMap::new();
    for (index, (host, state)) in hosts.iter().enumerate() {
        match Recorded::of(index, host, state) {
            Err(error) => rows.push((index, Err(error))),
            Ok(recorded) => match recorded.scope() {
                None => rows.push(recorded.row(host, None)),
                Some(scope) => batches.entry(scope).or_default().push(recorded),
            },
        }
    }
    let asked: FuturesUnordered<_> = batches
        .into_iter()
        .map(async |(scope, batch)| stream::iter(ask(regions, &scope, batch, hosts).await))
        .collect();
    stream::iter(rows).chain(asked.flatten()).boxed()
}

async fn ask(
    regions: &Regions,
    scope: &Scope,
    batch: Vec<Recorded>,
    hosts: &[(HostView, Value)],
) -> Vec<Row> {
    let ids: Vec<String> = batch.iter().filter_map(|one| one.made.instance.clone()).collect();
    let answer = async {
        let region = regions.open(scope).await?;
        watch::describe_ids(&region.api, &ids).await.map_err(|error| {
            error.during(format!("Could not look for the instances in {}", region.api.region))
        })
    };
    match answer.await {
        Err(error) => batch.into_iter().map(|one| (one.index, Err(error.clone()))).collect(),
        Ok(found) => batch
            .into_iter()
            .map(|one| {
                let instance = one.made.instance.as_ref().and_then(|id| found.get(id));
                let host = &hosts[one.index].0;
                one.row(host, instance)
            })
            .collect(),
    }
}

/// What an instance's state is for a host.
pub(crate) fn host_state(instance: &Instance) -> State {
    match instance.state {
        InstanceStateName::Pending => State::Starting,
        InstanceStateName::Running => State::Running,
        InstanceStateName::Stopping | InstanceStateName::ShuttingDown => State::Stopping,
        InstanceStateName::Stopped => State::Stopped,
        InstanceStateName::Terminated => State::None,
        _ => State::Error,
    }
}

/// Where the host is reached, from outside and by its neighbours.
pub(crate) fn endpoint(host: &HostView, config: &Config, made: &Made) -> Result<Endpoint, DriverError> {
    let address = launch::address(config, made)
        .ok_or_else(|| DriverError::not_ready(format!("`{}` has no address yet", host.name)))?;
    let user = made.plan.as_ref().map(|plan| plan.image.user.clone()).unwrap_or_default();
    let inside = made.private_address.as_deref().and_then(|address| address.parse().ok());
    let network = made.plan.as_ref().map(|plan| plan.vpc.clone()).filter(|vpc| !vpc.is_empty());
    Ok(Endpoint {
        engine_port: rules::ENGINE_PORT,
        url: None,
        ssh: Some(SshEndpoint {
            host: address.clone(),
            port: config.ssh_port,
            user,
            key: config.key_file.clone().map_or(SshKey::Generated, SshKey::File),
        }),
        inside: inside.zip(network).map(|(address, network)| Inside { address, network }),
        address,
    })
}
