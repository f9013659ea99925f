//! Editing of replies: what the emulator says of an instance is replaced by what became of it here.

use std::{collections::HashMap, net::Ipv4Addr};

use crate::{amis::Ami, xml::Element};

/// The states of an instance, with the codes of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Pending,
    Running,
    ShuttingDown,
    Terminated,
    Stopping,
    Stopped,
}

impl Phase {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::ShuttingDown => "shutting-down",
            Self::Terminated => "terminated",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }

    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Pending => "0",
            Self::Running => "16",
            Self::ShuttingDown => "32",
            Self::Terminated => "48",
            Self::Stopping => "64",
            Self::Stopped => "80",
        }
    }

    pub(crate) fn element(self, name: &str) -> Element {
        Element::new(name)
            .with(Element::with_text("code", self.code()))
            .with(Element::with_text("name", self.name()))
    }
}

/// What is true of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) phase: Phase,
    pub(crate) public: Option<Ipv4Addr>,
    pub(crate) private: Ipv4Addr,
    /// Ids and names.
    pub(crate) groups: Vec<(String, String)>,
    pub(crate) spot_request: Option<String>,
    /// Code and message.
    pub(crate) reason: Option<(String, String)>,
    pub(crate) client_token: String,
}

/// Rewrites whatever a reply says of instances that `facts` knows. `before` has the states before a call that
/// changed them.
pub(crate) fn rewrite(
    element: &mut Element,
    facts: &dyn Fn(&str) -> Option<Facts>,
    before: &HashMap<String, Phase>,
) {
    if let Some(id) = element.value("instanceId").map(str::to_owned)
        && let Some(known) = facts(&id)
    {
        if element.child("imageId").is_some() {
            instance(element, &known);
            return;
        }
        for name in ["instanceState", "currentState"] {
            if element.child(name).is_some() {
                element.set(known.phase.element(name));
            }
        }
        if element.child("previousState").is_some() {
            let phase = before.get(&id).copied().unwrap_or(known.phase);
            element.set(phase.element("previousState"));
        }
        return;
    }
    if element.child("networkInterfaceId").is_some()
        && let Some(id) = element.child("attachment").and_then(|attachment| attachment.value("instanceId"))
        && let Some(known) = facts(id)
    {
        interface(element, &known);
        return;
    }
    if element.child("imageId").is_some() && element.child("imageOwnerId").is_some() {
        image(element);
    }
    for child in &mut element.children {
        rewrite(child, facts, before);
    }
}

fn instance(element: &mut Element, known: &Facts) {
    element.set(known.phase.element("instanceState"));
    let gone = known.phase == Phase::Terminated;
    if let Some(address) = known.public {
        element.set_text("ipAddress", address.to_string());
        element.set_text("dnsName", address.to_string());
    } else {
        element.remove("ipAddress");
        element.set_text("dnsName", "");
    }
    if gone {
        for name in ["privateIpAddress", "subnetId", "vpcId"] {
            element.remove(name);
        }
        element.set_text("privateDnsName", "");
        element.set(Element::new("networkInterfaceSet"));
        element.set(Element::new("blockDeviceMapping"));
        element.set(Element::new("groupSet"));
    } else {
        element.set_text("privateIpAddress", known.private.to_string());
        element.set_text("privateDnsName", known.private.to_string());
        element.set(groups(known));
        for item in element.child_mut("networkInterfaceSet").into_iter().flat_map(|list| &mut list.children) {
            interface(item, known);
        }
    }
    if let Some(id) = &known.spot_request {
        element.set_text("spotInstanceRequestId", id);
        element.set_text("instanceLifecycle", "spot");
    }
    if known.client_token.is_empty() {
        element.remove("clientToken");
    } else {
        element.set_text("clientToken", &known.client_token);
    }
    if let Some((code, message)) = &known.reason {
        let reason = Element::new("stateReason")
            .with(Element::with_text("code", code))
            .with(Element::with_text("message", format!("{code}: {message}")));
        element.set(reason);
        element.set_text("reason", message);
    } else {
        element.remove("stateReason");
        element.set_text("reason", "");
    }
}

fn groups(known: &Facts) -> Element {
    let mut set = Element::new("groupSet");
    for (id, name) in &known.groups {
        let item = Element::new("item")
            .with(Element::with_text("groupId", id))
            .with(Element::with_text("groupName", name));
        set.children.push(item);
    }
    set
}

/// Only the first interface of an instance is connected to anything.
fn interface(element: &mut Element, known: &Facts) {
    let private = known.private.to_string();
    let index = element.child("attachment").and_then(|attachment| attachment.value("deviceIndex"));
    if index.is_some_and(|index| index != "0") {
        return;
    }
    addresses(element, known, &private);
    element.set(groups(known));
    for item in element.child_mut("privateIpAddressesSet").into_iter().flat_map(|list| &mut list.children) {
        if item.value("primary") == Some("true") {
            addresses(item, known, &private);
        }
    }
}

fn addresses(element: &mut Element, known: &Facts, private: &str) {
    element.set_text("privateIpAddress", private);
    element.set_text("privateDnsName", private);
    match known.public {
        None => element.remove("association"),
        Some(address) => {
            let mut association = element.child("association").cloned().unwrap_or_else(|| {
                Element::new("association").with(Element::with_text("ipOwnerId", "amazon"))
            });
            association.set_text("publicIp", address.to_string());
            association.set_text("publicDnsName", address.to_string());
            element.set(association);
        }
    }
}

/// The emulator gives all images one size, and says that all are Amazon's.
fn image(element: &mut Element) {
    let Some(ami) = element.value("imageId").and_then(Ami::find) else { return };
    match ami.owner_alias() {
        Some(alias) => element.set_text("imageOwnerAlias", alias),
        None => element.remove("imageOwnerAlias"),
    }
    for item in element.child_mut("blockDeviceMapping").into_iter().flat_map(|list| &mut list.children) {
        if let Some(disk) = item.child_mut("ebs") {
            disk.set_text("volumeSize", crate::amis::ROOT_SIZE.to_string());
            disk.set_text("volumeType", "gp3");
            disk.set_text("deleteOnTermination", "true");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(phase: Phase, public: Option<Ipv4Addr>) -> Facts {
        Facts {
            phase,
            public,
            private: Ipv4Addr::new(127, 40, 0, 2),
            groups: vec![("sg-1".to_owned(), "web".to_owned())],
            spot_request: None,
            reason: None,
            client_token: "t".to_owned(),
        }
    }

    const DESCRIBED: &str = "<R><reservationSet><item><groupSet/><instancesSet><item>\
        <instanceId>i-1</instanceId><imageId>ami-1</imageId><instanceState><code>16</code><name>running</name>\
        </instanceState><privateIpAddress>172.31.0.4</privateIpAddress><ipAddress>54.1.2.3</ipAddress>\
        <dnsName>ec2-54-1-2-3</dnsName><groupSet/><networkInterfaceSet><item><networkInterfaceId>eni-1\
        </networkInterfaceId><association><publicIp>54.1.2.3</publicIp></association><attachment><deviceIndex>0\
        </deviceIndex></attachment><privateIpAddressesSet><item><primary>true</primary><association><publicIp>\
        54.1.2.3</publicIp></association></item></privateIpAddressesSet></item></networkInterfaceSet><tagSet><item>\
        <key>note</key><value>54.1.2.3</value></item></tagSet></item><item><instanceId>i-2</instanceId>\
        <imageId>ami-1</imageId><ipAddress>54.9.9.9</ipAddress></item></instancesSet></item></reservationSet></R>";

    fn instance(document: &Element, number: usize) -> &Element {
        &document.items("reservationSet")[0].items("instancesSet")[number]
    }

    fn run(text: &str, phase: Phase, public: Option<Ipv4Addr>) -> Element {
        let mut document = Element::parse(text.replace("\\\n", "").as_bytes()).unwrap();
        let before = HashMap::from([("i-1".to_owned(), Phase::Running)]);
        rewrite(&mut document, &|id| (id == "i-1").then(|| known(phase, public)), &before);
        document
    }

    #[test]
    fn addresses_are_replaced_wherever_they_are_and_nothing_else_is() {
        let document = run(DESCRIBED, Phase::Running, Some(Ipv4Addr::new(127, 40, 0, 1)));
        let first = instance(&document, 0);
        assert_eq!(first.value("ipAddress"), Some("127.40.0.1"));
        assert_eq!(first.value("privateIpAddress"), Some("127.40.0.2"));
        let interface = &first.items("networkInterfaceSet")[0];
        assert_eq!(interface.child("association").unwrap().value("publicIp"), Some("127.40.0.1"));
        let address = &interface.items("privateIpAddressesSet")[0];
        assert_eq!(address.child("association").unwrap().value("publicIp"), Some("127.40.0.1"));
        assert_eq!(first.items("groupSet")[0].value("groupId"), Some("sg-1"));
        assert_eq!(first.items("tagSet")[0].value("value"), Some("54.1.2.3"));
        assert_eq!(instance(&document, 1).value("ipAddress"), Some("54.9.9.9"));
    }

    #[test]
    fn what_is_stopped_or_gone_has_no_public_address() {
        let document = run(DESCRIBED, Phase::Stopped, None);
        let first = instance(&document, 0);
        assert_eq!(first.value("ipAddress"), None);
        assert!(first.items("networkInterfaceSet")[0].child("association").is_none());
        assert_eq!(first.child("instanceState").unwrap().value("code"), Some("80"));
        let document = run(DESCRIBED, Phase::Terminated, None);
        assert!(instance(&document, 0).items("networkInterfaceSet").is_empty());
        assert_eq!(instance(&document, 0).value("privateIpAddress"), None);
    }

    #[test]
    fn a_change_of_state_tells_both_states() {
        let text = "<R><instancesSet><item><instanceId>i-1</instanceId><currentState><code>80</code>\
                    <name>stopped</name></currentState><previousState/></item></instancesSet></R>";
        let document = run(text, Phase::Stopping, None);
        let item = &document.items("instancesSet")[0];
        assert_eq!(item.child("currentState").unwrap().value("name"), Some("stopping"));
        assert_eq!(item.child("previousState").unwrap().value("name"), Some("running"));
    }
}
