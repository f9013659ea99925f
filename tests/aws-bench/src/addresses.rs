//! Loopback addresses: one range for each bench, each address given out once.

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Result, bail};

/// Whoever listens here, on the last address of a range, has the whole range.
const LEASE_PORT: u16 = 4566;
/// What else may be in use on an address, by a VM that is none of ours.
const PROBED_PORTS: [u16; 2] = [22, 2376];
/// Low ranges are where other services of a machine tend to be.
const FIRST_RANGE: u32 = 32;
const RANGES: u32 = 222;
const LAST_OF_RANGE: u32 = 0xff00;

/// A range `127.A.0.0/16` that this bench alone uses, while it lives.
#[derive(Debug)]
pub(crate) struct Addresses {
    range: u8,
    next: AtomicU32,
    _lease: TcpListener,
}

impl Addresses {
    pub(crate) fn lease() -> Result<Self> {
        let start = std::process::id();
        for number in 0..RANGES {
            let range = u8::try_from(FIRST_RANGE + (start + number) % RANGES).unwrap_or(u8::MAX);
            if let Ok(lease) = TcpListener::bind((Ipv4Addr::new(127, range, 255, 254), LEASE_PORT)) {
                return Ok(Self { range, next: AtomicU32::new(1), _lease: lease });
            }
        }
        bail!("All ranges of loopback addresses are taken")
    }

    /// An address that was not given out before and on which nothing listens.
    pub(crate) fn take(&self) -> Result<Ipv4Addr> {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let [_, _, third, fourth] = number.to_be_bytes();
            if number >= LAST_OF_RANGE {
                bail!("All loopback addresses of the bench were used");
            }
            let address = Ipv4Addr::new(127, self.range, third, fourth);
            if !matches!(fourth, 0 | 255) && is_free(address) {
                return Ok(address);
            }
        }
    }
}

fn is_free(address: Ipv4Addr) -> bool {
    PROBED_PORTS.iter().all(|port| match TcpListener::bind((address, *port)) {
        Ok(_) => true,
        // Without the right to listen on low ports nothing was found out.
        Err(error) => error.kind() == std::io::ErrorKind::PermissionDenied,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_is_given_out_twice() {
        let (one, two) = (Addresses::lease().unwrap(), Addresses::lease().unwrap());
        let mut addresses: Vec<Ipv4Addr> =
            (0..300).flat_map(|_| [one.take().unwrap(), two.take().unwrap()]).collect();
        assert!(addresses.iter().all(Ipv4Addr::is_loopback));
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), 600);
    }
}
