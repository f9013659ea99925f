//! Filters whose answer the bench knows better than the emulator.

use crate::xml::Element;

type Filter = (String, Vec<String>);

/// Whether the bench answers this filter of `DescribeInstances` itself.
pub(crate) fn is_ours(name: &str) -> bool {
    matches!(
        name,
        "instance-state-name"
            | "instance-state-code"
            | "ip-address"
            | "private-ip-address"
            | "dns-name"
            | "private-dns-name"
            | "client-token"
            | "spot-instance-request-id"
            | "instance-lifecycle"
            | "instance.group-id"
            | "instance.group-name"
            | "network-interface.group-id"
    )
}

/// Whether an instance, as it is described after rewriting, is meant.
pub(crate) fn matches(item: &Element, filters: &[Filter]) -> bool {
    filters.iter().all(|(name, wanted)| {
        let state = |part: &str| item.child("instanceState").and_then(|state| state.value(part));
        let groups =
            |part: &'static str| item.items("groupSet").iter().filter_map(move |group| group.value(part));
        let one =
            |value: Option<&str>| value.is_some_and(|value| wanted.iter().any(|wanted| wanted == value));
        match name.as_str() {
            "instance-state-name" => one(state("name")),
            "instance-state-code" => one(state("code")),
            "ip-address" => one(item.value("ipAddress")),
            "private-ip-address" => one(item.value("privateIpAddress")),
            "dns-name" => one(item.value("dnsName")),
            "private-dns-name" => one(item.value("privateDnsName")),
            "client-token" => one(item.value("clientToken")),
            "spot-instance-request-id" => one(item.value("spotInstanceRequestId")),
            "instance-lifecycle" => one(item.value("instanceLifecycle")),
            "instance.group-name" => groups("groupName").any(|group| one(Some(group))),
            _ => groups("groupId").any(|group| one(Some(group))),
        }
    })
}

/// Keeps the instances that are meant, and the reservations that have any.
pub(crate) fn keep(reply: &mut Element, wanted: impl Fn(&Element) -> bool) {
    let Some(reservations) = reply.child_mut("reservationSet") else { return };
    for reservation in &mut reservations.children {
        if let Some(instances) = reservation.child_mut("instancesSet") {
            instances.children.retain(&wanted);
        }
    }
    reservations.children.retain(|reservation| !reservation.items("instancesSet").is_empty());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_are_kept_by_what_they_are_here() {
        let text = "<R><reservationSet><item><instancesSet><item><instanceId>i-1</instanceId><instanceState><name>\
                    running</name></instanceState><groupSet><item><groupId>sg-1</groupId></item></groupSet></item>\
                    </instancesSet></item></reservationSet></R>";
        let described = Element::parse(text.as_bytes()).unwrap();
        let kept = |name: &str, value: &str| {
            let mut reply = described.clone();
            let filters = [(name.to_owned(), vec![value.to_owned(), "other".to_owned()])];
            keep(&mut reply, |item| matches(item, &filters));
            reply.items("reservationSet").len()
        };
        assert_eq!(kept("instance-state-name", "running"), 1);
        assert_eq!(kept("instance-state-name", "stopped"), 0);
        assert_eq!(kept("instance.group-id", "sg-1"), 1);
        assert_eq!(kept("ip-address", "127.0.0.1"), 0);
    }
}
