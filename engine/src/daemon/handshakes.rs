//! Strangers in the middle of a TLS handshake: so many at once and no more, whoever they are.
//!
//! When one comes too many, the oldest of whoever has the most is let go. So nobody can keep others out: to lose a handshake
//! one must have as many of them as anybody, and it must have taken longer than all that came since.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// Each holds a descriptor and some kilobytes.
const MOST: usize = 512;

/// All of them. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Handshakes(Arc<Mutex<Open>>);

#[derive(Debug, Default)]
struct Open {
    next: u64,
    count: usize,
    /// By whose they are, then by age.
    of: HashMap<IpAddr, BTreeMap<u64, CancellationToken>>,
}

/// One handshake, until it is dropped.
#[derive(Debug)]
pub(super) struct Handshake {
    all: Handshakes,
    client: IpAddr,
    number: u64,
    let_go: CancellationToken,
}

impl Handshakes {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more of this client.
    pub(super) fn begin(&self, address: IpAddr) -> Handshake {
        let client = client(address);
        let mut open = self.open();
        if open.count >= MOST {
            open.let_one_go();
        }
        let (number, let_go) = (open.next, CancellationToken::new());
        open.next += 1;
        open.count += 1;
        open.of.entry(client).or_default().insert(number, let_go.clone());
        Handshake { all: self.clone(), client, number, let_go }
    }
}

impl Open {
    fn let_one_go(&mut self) {
        let fullest = self.of.iter().max_by_key(|(_, handshakes)| handshakes.len());
        let Some((client, oldest)) =
            fullest.and_then(|(client, handshakes)| Some((*client, *handshakes.first_key_value()?.0)))
        else {
            return;
        };
        tracing::info!(%client, "Too many TLS handshakes at once: the oldest of this client is let go");
        if let Some(let_go) = self.remove(client, oldest) {
            let_go.cancel();
        }
    }

    fn remove(&mut self, client: IpAddr, number: u64) -> Option<CancellationToken> {
        let handshakes = self.of.get_mut(&client)?;
        let removed = handshakes.remove(&number)?;
        if handshakes.is_empty() {
            self.of.remove(&client);
        }
        self.count -= 1;
        Some(removed)
    }
}

impl Handshake {
    /// Waits until it has to make room.
    pub(super) async fn let_go(&self) {
        self.let_go.cancelled().await;
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.all.open().remove(self.client, self.number);
    }
}

/// Whose an address is: of IPv6, everybody has 2⁶⁴ of them.
fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn is_let_go(handshake: &Handshake) -> bool {
        handshake.let_go().now_or_never().is_some()
    }

    #[test]
    fn a_flood_pushes_out_itself_and_nobody_else() {
        let all = Handshakes::default();
        let other = all.begin(address("192.0.2.7"));
        let flood: Vec<Handshake> =
            (0..MOST * 3).map(|number| all.begin(address(&format!("2001:db8::{number:x}")))).collect();
        assert!(!is_let_go(&other));
        let late = all.begin(address("::ffff:192.0.2.9"));
        let gone = flood.iter().filter(|handshake| is_let_go(handshake)).count();
        // Two places are others'.
        assert_eq!((gone, is_let_go(&late)), (MOST * 2 + 2, false));
        assert!(is_let_go(&flood[0]) && !is_let_go(&flood[MOST * 3 - 1]));
        drop(flood);
        let open = all.open();
        assert_eq!((open.count, open.of.len()), (2, 2));
    }
}
