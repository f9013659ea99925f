//! Work at the same time: nobody waits for another network, and nobody gets what another has.

use std::collections::BTreeSet;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use super::changes::assert_as_written_anew;
use super::*;

/// Only for what would never come.
const PATIENCE: Duration = Duration::from_secs(60);

/// In place of a container's namespace, something that opens only when it is let.
struct Stalled(PathBuf);

impl Stalled {
    fn new(host: &Host) -> Self {
        let path = host.folder.path().join("stalled");
        command(&format!("mkfifo {}", path.display()));
        Self(path)
    }
}

/// Who opens it goes on, and finds that it is no namespace.
impl Drop for Stalled {
    fn drop(&mut self) {
        let _ = fs::OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&self.0);
    }
}

fn request(name: &str, network: &str) -> EndpointRequest {
    EndpointRequest { network: network.into(), container_name: name.into(), ..EndpointRequest::default() }
}

#[test]
fn work_on_one_network_does_not_wait_for_another() {
    Host::run(|host| {
        let network = host.network();
        host.block_on(network.create(wish("slow"))).unwrap();
        host.block_on(network.create(wish("quick"))).unwrap();
        let (_both, _) = host.attach_to(&network, "both", "slow");
        let stalled = Stalled::new(&host);
        let slow = host.spawn({
            let (network, path) = (network.clone(), stalled.0.clone());
            async move { network.attach("stalled", &path, &request("stalled", "slow")).await }
        });
        eventually("the attach has begun", || !network.running().arriving.is_empty());

        let (place, other) = (Place::new(), Place::new());
        host.block_on(async {
            tokio::time::timeout(PATIENCE, async {
                let endpoint = network.attach("web", &place.path, &request("web", "quick")).await.unwrap();
                network.publish("web", &endpoint, &[port(Protocol::Tcp, 8080)]).await.unwrap();
                network.attach("other", &other.path, &request("other", "bridge")).await.unwrap();
                network.attach("web", &place.path, &request("web", "bridge")).await.unwrap();
                network.rename("both", "renamed").await.unwrap();
                network.detach("web", Some(&place.path), "quick").await.unwrap();
                network.create(wish("third")).await.unwrap();
                network.remove("third").await.unwrap();
                network.release("web").await.unwrap();
                network.remove("quick").await.unwrap();
                assert_eq!(network.networks().len(), 4);
            })
            .await
            .expect("something waits for a network that it has nothing to do with");
        });
        assert!(!slow.is_finished());
        // Who leaves while it is still coming waits for that, and is gone then.
        let leaving = host.spawn({
            let network = network.clone();
            async move { network.release("stalled").await }
        });
        drop(stalled);
        host.block_on(slow).unwrap().unwrap_err();
        host.block_on(leaving).unwrap().unwrap();
        assert!(network.running().arriving.is_empty() && network.places("stalled").is_empty());
        // It has not cost an address.
        let (_next, endpoint) = host.attach_to(&network, "next", "slow");
        assert_eq!(endpoint.address.to_string(), "172.18.0.3");
        assert_as_written_anew(&network, "all of it");
    });
}

#[test]
fn containers_that_come_together_get_what_is_theirs_alone() {
    Host::run(|host| {
        let network = host.network();
        host.block_on(network.create(wish("mine"))).unwrap();
        let places: Vec<Place> = (0..8).map(|_| Place::new()).collect();
        let attaching: Vec<_> = (0..16)
            .map(|number| {
                let (network, path) = (network.clone(), places[number / 2].path.clone());
                let to = if number % 2 == 0 { "bridge" } else { "mine" };
                host.spawn(async move {
                    let name = format!("c{}", number / 2);
                    let endpoint = network.attach(&name, &path, &request(&name, to)).await.unwrap();
                    let any = PortRequest { host_port: None, ..port(Protocol::Tcp, 0) };
                    let ports = if to == "mine" {
                        network.publish(&name, &endpoint, &[any]).await.unwrap()
                    } else {
                        Vec::new()
                    };
                    (name, endpoint, ports)
                })
            })
            .collect();
        let attached: Vec<_> =
            attaching.into_iter().map(|attaching| host.block_on(attaching).unwrap()).collect();
        let addresses: BTreeSet<_> = attached.iter().map(|(_, endpoint, _)| endpoint.address).collect();
        let interfaces: BTreeSet<_> =
            attached.iter().map(|(name, endpoint, _)| (name, &endpoint.interface)).collect();
        assert_eq!((addresses.len(), interfaces.len()), (16, 16));
        let ports: BTreeSet<u16> =
            attached.iter().flat_map(|(_, _, ports)| ports.iter().map(|port| port.host_port)).collect();
        assert_eq!(ports.len(), 8);
        assert_as_written_anew(&network, "all of it");
        // The file that was written last has everybody.
        let kept = fs::read_to_string(host.folder.path().join("endpoints.json")).unwrap();
        assert!(attached.iter().all(|(_, endpoint, _)| kept.contains(&endpoint.endpoint_id)));
        let leaving: Vec<_> = (0..8)
            .map(|number| {
                let network = network.clone();
                host.spawn(async move { network.release(&format!("c{number}")).await })
            })
            .collect();
        for leaving in leaving {
            host.block_on(leaving).unwrap().unwrap();
        }
        assert_as_written_anew(&network, "nobody is left");
        assert!(network.running().publications.is_empty() && network.running().state.attachments.is_empty());
    });
}

#[test]
fn of_networks_that_are_made_together_each_name_and_subnet_is_there_once() {
    Host::run(|host| {
        let network = host.network();
        let creating: Vec<_> = (0..12)
            .map(|number| {
                let network = network.clone();
                let name = if number % 2 == 0 { "same".to_owned() } else { format!("n{number}") };
                host.spawn(async move { network.create(wish(&name)).await })
            })
            .collect();
        let (made, refused): (Vec<_>, Vec<_>) =
            creating.into_iter().map(|creating| host.block_on(creating).unwrap()).partition(Result::is_ok);
        assert!(refused.into_iter().all(|refused| refused.unwrap_err().kind() == Kind::Conflict));
        let made: Vec<_> = made.into_iter().map(Result::unwrap).collect();
        assert_eq!(made.iter().filter(|network| network.name == "same").count(), 1);
        assert_eq!(made.len(), 7);
        let subnets: BTreeSet<String> =
            made.iter().map(|network| network.pools[0].subnet.to_string()).collect();
        assert_eq!(subnets.len(), 7);
        assert!(network.running().planned.is_empty());
        assert_as_written_anew(&network, "all of it");
        // Removed together with being attached to: one of the two, and never half of it.
        for (number, NetworkRecord { name, .. }) in made.into_iter().enumerate() {
            let place = Place::new();
            let (removing, attaching) = host.block_on(async {
                let request = request(&name, &name);
                let (remove, attach) = (network.remove(&name), network.attach(&name, &place.path, &request));
                // Whoever is asked first has the first turn.
                if number % 2 == 0 {
                    tokio::join!(remove, attach)
                } else {
                    let (attaching, removing) = tokio::join!(attach, remove);
                    (removing, attaching)
                }
            });
            assert!(removing.is_ok() != attaching.is_ok(), "{removing:?} {attaching:?}");
            assert_eq!(network.find(&name).is_ok(), attaching.is_ok());
        }
        assert_as_written_anew(&network, "some were removed");
    });
}
