//! Whether this host has IPv6, and whether it passes packets of it on between its interfaces.

use std::fs;
use std::io;
use std::path::Path;

use tracing::info;

use super::NetworkError;
use super::error::failed;
use super::filter::{self, Family};

const SETTINGS: &str = "/proc/sys/net/ipv6/conf";
/// Listens to router advertisements although it passes packets on.
const ALWAYS: &str = "2";

fn setting(interface: &str, name: &str) -> Option<String> {
    fs::read_to_string(Path::new(SETTINGS).join(interface).join(name)).ok().map(|text| text.trim().to_owned())
}

/// Sets a kernel variable unless it has the value already (it may be read-only then).
fn set_variable(path: impl AsRef<Path>, value: &str) -> io::Result<()> {
    if fs::read_to_string(&path).is_ok_and(|current| current.trim() == value) {
        return Ok(());
    }
    fs::write(path, value)
}

fn set(interface: &str, name: &str, value: &str) -> io::Result<()> {
    set_variable(Path::new(SETTINGS).join(interface).join(name), value)
}

/// Whether the kernel has IPv6 and nobody has turned it off.
pub(super) fn is_enabled() -> bool {
    setting("all", "disable_ipv6").as_deref() == Some("0")
}

/// Turns IPv6 on or off on an interface of the calling thread's network namespace. A kernel without it has it off.
pub(super) fn enable(interface: &str, wanted: bool) -> io::Result<()> {
    if !wanted && !Path::new(SETTINGS).exists() {
        return Ok(());
    }
    // Nobody on a network gives its other hosts routes.
    set(interface, "accept_ra", "0")?;
    if !wanted {
        return set(interface, "disable_ipv6", "1");
    }
    // What is given here is known to be free: nobody waits until others have been asked.
    set(interface, "accept_dad", "0")?;
    set(interface, "disable_ipv6", "0")
}

/// Lets the host pass packets on between its interfaces. If it did not so far, nobody expects it to pass on any but those of
/// containers: all others are dropped, as with dockerd. A kernel that passes packets on does not listen to routers any more
/// unless it is told: interfaces that did go on doing so.
pub(super) fn enable_forwarding() -> Result<(), NetworkError> {
    if setting("all", "forwarding").as_deref() == Some("1") {
        return Ok(());
    }
    filter::drop_forwarded(Family::Ipv6)
        .map_err(failed("have forwarded packets of IPv6 dropped before their forwarding is enabled"))?;
    for entry in fs::read_dir(SETTINGS).into_iter().flatten().flatten() {
        let interface = entry.file_name().to_string_lossy().into_owned();
        let is_one = !matches!(interface.as_str(), "all" | "default" | "lo");
        let listens = is_one && setting(&interface, "accept_ra").as_deref() == Some("1");
        if listens && setting(&interface, "forwarding").as_deref() == Some("0") {
            info!(%interface, "Router advertisements go on being listened to there");
            set(&interface, "accept_ra", ALWAYS)
                .map_err(failed(format!("have `{interface}` go on listening to routers")))?;
        }
    }
    set("all", "forwarding", "1").map_err(failed("enable forwarding of IPv6"))
}
