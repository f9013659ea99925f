//! Security groups: which ports they let in from here, and making it so for VMs that run.

use std::{
    collections::{BTreeSet, HashMap},
    net::Ipv4Addr,
    sync::Arc,
};

use anyhow::Result;

use crate::{bench::Bench, form::Form, log, vm::Forward, xml::Element};

/// A range that is wider is not forwarded port by port.
const WIDEST_RANGE: u32 = 64;
/// The ports that are forwarded of a wide range.
const WELL_KNOWN: [u16; 9] = [22, 80, 443, 2375, 2376, 2377, 3376, 8080, 8443];

/// What the groups of a reply to `DescribeSecurityGroups` let in from this machine by TCP.
pub(crate) fn ports_of(reply: &Element) -> BTreeSet<u16> {
    let rules = reply.items("securityGroupInfo").iter().flat_map(|group| group.items("ipPermissions"));
    let mut ports = BTreeSet::new();
    for rule in rules.filter(|rule| lets_in(rule)) {
        let number = |name: &str| rule.value(name).and_then(|text| text.parse::<i64>().ok()).unwrap_or(-1);
        let (first, last) = match rule.value("ipProtocol") {
            Some("tcp" | "6") => (number("fromPort"), number("toPort")),
            Some("-1") => (0, 65535),
            _ => continue,
        };
        let first = u16::try_from(first).unwrap_or(0);
        let last = u16::try_from(last).unwrap_or(u16::MAX);
        if u32::from(last.saturating_sub(first)) < WIDEST_RANGE {
            ports.extend((first..=last).filter(|port| *port > 0));
        } else {
            ports.extend(WELL_KNOWN.iter().filter(|port| (first..=last).contains(port)));
        }
    }
    ports
}

fn lets_in(rule: &Element) -> bool {
    rule.items("ipRanges").iter().filter_map(|range| range.value("cidrIp")).any(contains_this_machine)
}

fn contains_this_machine(range: &str) -> bool {
    let (network, length) = range.split_once('/').unwrap_or((range, "32"));
    let (Ok(network), Ok(length)) = (network.parse::<Ipv4Addr>(), length.parse::<u32>()) else {
        return false;
    };
    let mask = u32::MAX.checked_shl(32_u32.saturating_sub(length)).unwrap_or(0);
    u32::from(network) & mask == u32::from(Ipv4Addr::LOCALHOST) & mask
}

/// Remembers what is shown of the rules of groups. `stale`: they are shown as they were shown last.
pub(crate) fn show_rules(groups: &mut [Element], shown: &mut HashMap<String, Element>, stale: bool) {
    for group in groups {
        let Some(id) = group.value("groupId").map(str::to_owned) else { continue };
        let rules = group.child("ipPermissions").cloned().unwrap_or_else(|| Element::new("ipPermissions"));
        match shown.get(&id).filter(|_| stale) {
            Some(before) => group.set(before.clone()),
            None => drop(shown.insert(id, rules)),
        }
    }
}

/// The ports that groups let in now.
pub(crate) async fn allowed(bench: &Bench, region: &str, groups: &[String]) -> Result<BTreeSet<u16>> {
    if groups.is_empty() {
        return Ok(BTreeSet::new());
    }
    let mut form = Form::of(&[("Action", "DescribeSecurityGroups")]);
    form.set_list("GroupId", groups);
    Ok(ports_of(&bench.moto.query_form(region, &form).await?))
}

/// What has to lead into an instance's VM.
pub(crate) async fn wanted(bench: &Bench, id: &str) -> Result<BTreeSet<Forward>> {
    let known = bench.lock().instances.get(id).map(|instance| {
        let groups: Vec<String> = instance.groups.iter().map(|(id, _)| id.clone()).collect();
        (instance.region.clone(), groups, instance.public, instance.private)
    });
    let Some((region, groups, public, private)) = known else { return Ok(BTreeSet::new()) };
    let ports = allowed(bench, &region, &groups).await?;
    let addresses = public.into_iter().chain([private]);
    Ok(addresses.flat_map(|address| ports.iter().map(move |port| (address, *port))).collect())
}

/// Opens and closes ports of an instance that runs, as its groups say now.
pub(crate) async fn apply(bench: &Bench, id: &str) {
    let Some(vm) = bench.lock().instances.get(id).and_then(|instance| instance.vm.clone()) else { return };
    match wanted(bench, id).await {
        Ok(wanted) => {
            for trouble in vm.forward(wanted).await {
                log(&format!("{id}: {trouble}"));
            }
        }
        Err(error) => log(&format!("{id}: could not follow its security groups: {error:#}")),
    }
}

/// The same for all instances that have a group.
pub(crate) async fn apply_to_members(bench: &Arc<Bench>, group: &str) {
    let members: Vec<String> = {
        let state = bench.lock();
        let has_group =
            |groups: &[(String, String)]| groups.iter().any(|(id, name)| id == group || name == group);
        state
            .instances
            .values()
            .filter(|instance| instance.vm.is_some() && has_group(&instance.groups))
            .map(|instance| instance.id.clone())
            .collect()
    };
    for id in members {
        apply(bench, &id).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(protocol: &str, from: &str, to: &str, range: &str) -> Vec<u16> {
        let text = format!(
            "<R><securityGroupInfo><item><ipPermissions><item><ipProtocol>{protocol}</ipProtocol><fromPort>{from}\
             </fromPort><toPort>{to}</toPort><ipRanges><item><cidrIp>{range}</cidrIp></item></ipRanges></item>\
             </ipPermissions></item></securityGroupInfo></R>"
        );
        ports_of(&Element::parse(text.as_bytes()).unwrap()).into_iter().collect()
    }

    #[test]
    fn only_what_comes_from_this_machine_is_let_in() {
        assert_eq!(ports("tcp", "22", "22", "0.0.0.0/0"), [22]);
        assert_eq!(ports("tcp", "22", "23", "127.0.0.1/32"), [22, 23]);
        assert!(ports("tcp", "22", "22", "203.0.113.0/24").is_empty());
        assert!(ports("tcp", "22", "22", "nonsense").is_empty());
        assert!(ports("udp", "22", "22", "0.0.0.0/0").is_empty());
    }

    #[test]
    fn of_wide_ranges_the_known_ports_are_open() {
        assert_eq!(ports("tcp", "0", "1024", "127.0.0.0/8"), [22, 80, 443]);
        assert_eq!(ports("-1", "", "", "0.0.0.0/0"), WELL_KNOWN);
    }
}
