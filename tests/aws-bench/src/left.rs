//! What is left: everything that costs money or is in somebody's way.

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::{bench::Bench, rewrite::Phase, xml::Element};

/// What one kind of resource is asked for by, where it is in the reply, and what identifies it.
const KINDS: [(&str, &str, &str, &str); 5] = [
    ("volumes", "DescribeVolumes", "volumeSet", "volumeId"),
    ("key_pairs", "DescribeKeyPairs", "keySet", "keyName"),
    ("security_groups", "DescribeSecurityGroups", "securityGroupInfo", "groupId"),
    ("network_interfaces", "DescribeNetworkInterfaces", "networkInterfaceSet", "networkInterfaceId"),
    ("addresses", "DescribeAddresses", "addressesSet", "publicIp"),
];

/// By region; regions in which nothing is left are not in it.
pub(crate) async fn left(bench: &Bench, region: Option<&str>) -> Result<Value> {
    let regions: Vec<String> = match region {
        Some(region) => vec![region.to_owned()],
        None => bench.lock().regions.iter().cloned().collect(),
    };
    let mut left = Map::new();
    for region in regions {
        let found = in_region(bench, &region).await?;
        if !found.is_empty() {
            left.insert(region, Value::Object(found));
        }
    }
    Ok(Value::Object(left))
}

async fn in_region(bench: &Bench, region: &str) -> Result<Map<String, Value>> {
    let mut left = Map::new();
    let mut add = |kind: &str, names: Vec<String>| {
        if !names.is_empty() {
            left.insert(kind.to_owned(), json!(names));
        }
    };
    let (instances, requests) = {
        let state = bench.lock();
        let instances: Vec<String> = state
            .instances
            .values()
            .filter(|instance| instance.region == region && instance.phase != Phase::Terminated)
            .map(|instance| instance.id.clone())
            .collect();
        let requests: Vec<String> = state
            .spot_requests
            .values()
            .filter(|request| request.region == region && request.state == "active")
            .map(|request| request.id.clone())
            .collect();
        (instances, requests)
    };
    for (kind, action, list, name) in KINDS {
        let reply = bench.moto.query(region, &[("Action", action)]).await?;
        let names = reply.items(list).iter().filter(|item| counts(item, &instances));
        add(kind, names.filter_map(|item| item.value(name).map(str::to_owned)).collect());
    }
    add("instances", instances);
    add("spot_requests", requests);
    Ok(left)
}

/// Leaves out what is always there, and interfaces that belong to an instance which is listed anyway.
fn counts(item: &Element, instances: &[String]) -> bool {
    let owner = item.child("attachment").and_then(|attachment| attachment.value("instanceId"));
    item.value("groupName") != Some("default")
        && owner.is_none_or(|owner| !instances.iter().any(|id| id == owner))
}
