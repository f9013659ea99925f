//! Who is called what on user-defined networks, ready to be asked for while networks change.
//!
//! On the default bridge nobody has a name, as Docker has always had it.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{Attachment, NetworkRecord};

/// Everybody's names. Whoever asks waits for nobody but those who change them, for the moment of that.
#[derive(Debug, Default)]
pub(super) struct Names(RwLock<Book>);

#[derive(Debug, Default)]
struct Book {
    /// By the network's id.
    pages: HashMap<String, Page>,
    /// By the container's id: its networks, in the order in which it came to them.
    places: HashMap<String, Vec<Place>>,
}

/// A network on which names count.
#[derive(Debug, Default)]
struct Page {
    /// In small letters.
    name: String,
    /// In small letters, to those who are called so, in the order in which they came.
    members: HashMap<String, Vec<Arc<Member>>>,
    addresses: HashMap<IpAddr, Arc<Member>>,
}

#[derive(Debug)]
struct Member {
    container: String,
    /// The first of its names, which is the container's own.
    name: String,
    names: BTreeSet<String>,
    addresses: Vec<IpAddr>,
}

#[derive(Debug)]
struct Place {
    network: String,
    /// There is a way to the outside from there.
    leads_out: bool,
    /// What it alone calls others there, to what they are called; in small letters.
    links: HashMap<String, String>,
}

impl Member {
    fn of(attachment: &Attachment) -> Self {
        let endpoint = &attachment.endpoint;
        let short = attachment.container.get(..12).unwrap_or(&attachment.container);
        let hostname = attachment.naming.as_ref().map(|naming| naming.hostname.as_str());
        let names = [endpoint.container_name.as_str(), short].into_iter().chain(hostname);
        let names = names.chain(endpoint.aliases.iter().map(String::as_str));
        Self {
            container: attachment.container.clone(),
            name: endpoint.container_name.clone(),
            names: names.filter(|name| !name.is_empty()).map(str::to_ascii_lowercase).collect(),
            addresses: endpoint.addresses().collect(),
        }
    }
}

impl Page {
    fn add(&mut self, member: Member) {
        let member = Arc::new(member);
        for name in &member.names {
            self.members.entry(name.clone()).or_default().push(Arc::clone(&member));
        }
        for address in &member.addresses {
            self.addresses.insert(*address, Arc::clone(&member));
        }
    }

    fn remove(&mut self, container: &str) {
        self.members.retain(|_, members| {
            members.retain(|member| member.container != container);
            !members.is_empty()
        });
        self.addresses.retain(|_, member| member.container != container);
    }
}

impl Book {
    fn join(&mut self, network: &NetworkRecord, attachment: &Attachment) {
        self.leave(&network.id, &attachment.container);
        let endpoint = &attachment.endpoint;
        let small =
            |(alias, name): &(String, String)| (alias.to_ascii_lowercase(), name.to_ascii_lowercase());
        let place = Place {
            network: network.id.clone(),
            leads_out: endpoint.gateway.is_some(),
            links: endpoint.links.iter().map(small).collect(),
        };
        self.places.entry(attachment.container.clone()).or_default().push(place);
        if has_names(network) {
            let page = self.pages.entry(network.id.clone()).or_default();
            page.name = network.name.to_ascii_lowercase();
            page.add(Member::of(attachment));
        }
    }

    fn leave(&mut self, network_id: &str, container: &str) {
        if let Some(places) = self.places.get_mut(container) {
            places.retain(|place| place.network != network_id);
            if places.is_empty() {
                self.places.remove(container);
            }
        }
        if let Some(page) = self.pages.get_mut(network_id) {
            page.remove(container);
            if page.members.is_empty() {
                self.pages.remove(network_id);
            }
        }
    }

    fn places<'a>(&'a self, container: &str) -> impl Iterator<Item = (&'a Place, &'a Page)> + use<'a> {
        let places = self.places.get(container).into_iter().flatten();
        places.filter_map(|place| Some((place, self.pages.get(&place.network)?)))
    }
}

/// Whether containers of a network find one another by name.
pub(super) fn has_names(network: &NetworkRecord) -> bool {
    !network.is_built_in()
}

impl Names {
    fn read(&self) -> RwLockReadGuard<'_, Book> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Book> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts down all that is known in place of what was.
    pub(super) fn replace(&self, networks: &[NetworkRecord], attachments: &[Attachment]) {
        let mut book = Book::default();
        for attachment in attachments {
            let network = networks.iter().find(|network| network.id == attachment.endpoint.network_id);
            if let Some(network) = network {
                book.join(network, attachment);
            }
        }
        *self.write() = book;
    }

    /// A container is on a network, or is called otherwise there than it was.
    pub(super) fn join(&self, network: &NetworkRecord, attachment: &Attachment) {
        self.write().join(network, attachment);
    }

    pub(super) fn leave(&self, network_id: &str, container: &str) {
        self.write().leave(network_id, container);
    }

    /// The addresses that a name, in small letters and without a last dot, stands for on the networks of a container. None at all is
    /// a name that nobody has there. `web.inner` is `web` on the network `inner`.
    pub(super) fn addresses(&self, container: &str, name: &str) -> Option<Vec<IpAddr>> {
        let book = self.read();
        let whole = std::iter::once((name, None));
        let cuts = name.rmatch_indices('.').map(|(at, _)| (&name[..at], Some(&name[at + 1..])));
        for (name, network) in whole.chain(cuts) {
            let places = book.places(container);
            for (place, page) in places.filter(|(_, page)| network.is_none_or(|network| page.name == network))
            {
                let linked = place.links.get(name).and_then(|name| page.members.get(name));
                if let Some(members) = linked.or_else(|| page.members.get(name)) {
                    return Some(
                        members.iter().flat_map(|member| member.addresses.iter().copied()).collect(),
                    );
                }
            }
        }
        None
    }

    /// Who has an address on the networks of a container: its name, and that of the network behind it.
    pub(super) fn name_of(&self, container: &str, address: IpAddr) -> Option<String> {
        let book = self.read();
        book.places(container).find_map(|(_, page)| {
            let member = page.addresses.get(&address)?;
            Some(format!("{}.{}", member.name, page.name))
        })
    }

    /// Whether a container has a way to the outside.
    pub(super) fn leads_out(&self, container: &str) -> bool {
        self.read().places.get(container).is_some_and(|places| places.iter().any(|place| place.leads_out))
    }
}
