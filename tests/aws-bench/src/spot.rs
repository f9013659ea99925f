//! Spot requests, which the emulator does not make for instances that are run as spot.

use std::sync::Arc;

use uuid::Uuid;

use crate::{
    bench::{Bench, State, now},
    call::Call,
    faults::ApiError,
    xml::Element,
};

/// A request for a spot instance.
#[derive(Debug, Clone)]
pub(crate) struct SpotRequest {
    pub(crate) id: String,
    pub(crate) region: String,
    pub(crate) instance: String,
    /// `active`, `cancelled` or `closed`.
    pub(crate) state: &'static str,
    status: &'static str,
    pub(crate) persistent: bool,
    price: String,
    instance_type: String,
    image: String,
    zone: String,
    created: String,
    pub(crate) tags: Vec<(String, String)>,
}

impl SpotRequest {
    /// The request that stands behind an instance just run.
    pub(crate) fn of(call: &Call, instance: &str, image: &str, instance_type: &str, zone: &str) -> Self {
        let digits = Uuid::new_v4().simple().to_string();
        let option = |name: &str| call.form.get(&format!("InstanceMarketOptions.SpotOptions.{name}"));
        Self {
            id: format!("sir-{}", &digits[..8]),
            region: call.region.clone(),
            instance: instance.to_owned(),
            state: "active",
            status: "fulfilled",
            persistent: option("SpotInstanceType") == Some("persistent"),
            price: option("MaxPrice").unwrap_or("0.020800").to_owned(),
            instance_type: instance_type.to_owned(),
            image: image.to_owned(),
            zone: zone.to_owned(),
            created: now(),
            tags: call.form.tags_for("spot-instances-request"),
        }
    }

    /// The instance will be taken away.
    pub(crate) fn marked(&mut self) {
        self.status = "marked-for-termination";
    }

    /// The instance has gone.
    pub(crate) fn ended(&mut self, taken_away: bool) {
        self.status =
            if taken_away { "instance-terminated-no-capacity" } else { "instance-terminated-by-user" };
        if self.state == "active" {
            self.state = "closed";
        }
    }

    fn element(&self) -> Element {
        let text = |name: &str, text: &str| Element::with_text(name, text);
        let mut tags = Element::new("tagSet");
        for (key, value) in &self.tags {
            tags.children.push(Element::new("item").with(text("key", key)).with(text("value", value)));
        }
        Element::new("item")
            .with(text("spotInstanceRequestId", &self.id))
            .with(text("spotPrice", &self.price))
            .with(text("type", if self.persistent { "persistent" } else { "one-time" }))
            .with(text("state", self.state))
            .with(
                Element::new("status")
                    .with(text("code", self.status))
                    .with(text("updateTime", &self.created))
                    .with(text("message", self.status)),
            )
            .with(
                Element::new("launchSpecification")
                    .with(text("imageId", &self.image))
                    .with(text("instanceType", &self.instance_type)),
            )
            .with(text("instanceId", &self.instance))
            .with(text("createTime", &self.created))
            .with(text("productDescription", "Linux/UNIX"))
            .with(tags)
            .with(text("launchedAvailabilityZone", &self.zone))
            .with(text("instanceInterruptionBehavior", "terminate"))
    }

    fn matches(&self, filters: &[(String, Vec<String>)]) -> bool {
        filters.iter().all(|(name, wanted)| {
            let is = |value: &str| wanted.iter().any(|wanted| wanted == value);
            match name.as_str() {
                "spot-instance-request-id" => is(&self.id),
                "instance-id" => is(&self.instance),
                "state" => is(self.state),
                "status-code" => is(self.status),
                "tag-key" => self.tags.iter().any(|(key, _)| is(key)),
                name => match name.strip_prefix("tag:") {
                    Some(tag) => self.tags.iter().any(|(key, value)| key == tag && is(value)),
                    None => true,
                },
            }
        })
    }
}

fn named(state: &State, call: &Call) -> Result<Vec<String>, ApiError> {
    let ids = call.form.list("SpotInstanceRequestId");
    let known = |id: &String| {
        !state.is_unseen(id)
            && state.spot_requests.get(id).is_some_and(|request| request.region == call.region)
    };
    match ids.iter().find(|id| !known(id)) {
        Some(unknown) => Err(ApiError::new(
            "InvalidSpotInstanceRequestID.NotFound",
            format!("The spot instance request ID '{unknown}' does not exist"),
        )),
        None => Ok(ids),
    }
}

pub(crate) fn describe(bench: &Arc<Bench>, call: &Call) -> Result<Element, ApiError> {
    let state = bench.lock();
    let (ids, filters) = (named(&state, call)?, call.form.filters());
    let mut set = Element::new("spotInstanceRequestSet");
    for request in state.spot_requests.values() {
        let meant = request.region == call.region
            && !state.is_unseen(&request.id)
            && (ids.is_empty() || ids.contains(&request.id));
        if meant && request.matches(&filters) {
            set.children.push(request.element());
        }
    }
    Ok(crate::reply::of(call).with(set))
}

pub(crate) fn cancel(bench: &Arc<Bench>, call: &Call) -> Result<Element, ApiError> {
    let mut state = bench.lock();
    let ids = named(&state, call)?;
    let mut set = Element::new("spotInstanceRequestSet");
    for id in ids {
        let Some(request) = state.spot_requests.get_mut(&id) else { continue };
        if request.state == "active" {
            request.status = "request-canceled-and-instance-running";
        }
        request.state = "cancelled";
        let item = Element::new("item")
            .with(Element::with_text("spotInstanceRequestId", id))
            .with(Element::with_text("state", "cancelled"));
        set.children.push(item);
    }
    Ok(crate::reply::of(call).with(set))
}

/// `CreateTags` and `DeleteTags` for spot requests alone. `None`: the call is about something else.
pub(crate) fn tag(bench: &Arc<Bench>, call: &Call) -> Option<Element> {
    let mut state = bench.lock();
    let ids = call.form.list("ResourceId");
    if ids.is_empty() || !ids.iter().all(|id| state.spot_requests.contains_key(id)) {
        return None;
    }
    for number in call.form.numbers("Tag") {
        let part = |part: &str| call.form.get(&format!("Tag.{number}.{part}")).unwrap_or_default().to_owned();
        for id in &ids {
            let Some(request) = state.spot_requests.get_mut(id) else { continue };
            request.tags.retain(|(key, _)| *key != part("Key"));
            if call.action == "CreateTags" {
                request.tags.push((part("Key"), part("Value")));
            }
        }
    }
    Some(crate::reply::of(call).with(Element::with_text("return", "true")))
}
