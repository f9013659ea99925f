//! Brings interfaces up: fixed addresses as the seed says, DHCP on every other Ethernet.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::devices::entries;
use crate::error::{BootError, make_folder, replace_file, run};
use crate::seed::network_config::{NetworkConfig, Plan};

const BUSYBOX: &str = "/bin/busybox";
const NFT: &str = "/usr/sbin/nft";
const HOST_LOOPBACK_RULES: &str = "/usr/lib/machineos/host-loopback.nft";
/// `ARPHRD_ETHER` of linux/if_arp.h.
const ETHERNET: &str = "1";

/// Brings up the loopback interface.
pub(crate) fn loopback() -> Result<(), BootError> {
    ip(&["link", "set", "lo", "up"])
}

/// Ethernet interfaces with a device behind them, so not those of containers.
pub(crate) fn interfaces() -> BTreeSet<String> {
    let is_ethernet = |path: &std::path::PathBuf| {
        path.join("device").exists()
            && fs::read_to_string(path.join("type")).is_ok_and(|kind| kind.trim() == ETHERNET)
    };
    entries("/sys/class/net")
        .into_iter()
        .filter(is_ethernet)
        .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
        .collect()
}

/// Configures one interface. The DHCP client becomes a service of its own: `dhcp-eth0`.
pub(crate) fn bring_up(
    interface: &str,
    config: Option<&NetworkConfig>,
    host_name: Option<&str>,
    start: impl FnOnce(&str) -> Result<(), BootError>,
) -> Result<(), BootError> {
    let mac =
        fs::read_to_string(Path::new("/sys/class/net").join(interface).join("address")).unwrap_or_default();
    let plan = match config {
        Some(config) => match config.plan(interface, mac.trim()) {
            Some(plan) => plan,
            // A configuration that is there and does not mention it means to leave it alone.
            None => return Ok(()),
        },
        None => Plan { dhcp: true, ..Plan::default() },
    };
    if let Some(mtu) = plan.mtu {
        ip(&["link", "set", interface, "mtu", &mtu.to_string()])?;
    }
    ip(&["link", "set", interface, "up"])?;
    for address in &plan.addresses {
        ip(&["address", "add", address, "dev", interface])?;
    }
    for (to, via) in &plan.routes {
        let family = if via.contains(':') { "-6" } else { "-4" };
        ip(&[family, "route", "add", to, "via", via, "dev", interface])?;
    }
    if !plan.name_servers.is_empty() || !plan.search.is_empty() {
        let folder = Path::new("/run/resolv");
        make_folder(folder)?;
        replace_file(&folder.join(format!("0-{interface}")), resolver(&plan).as_bytes(), 0o644, None)?;
        run("/bin/sh", &["-c", "cat /run/resolv/* > /etc/resolv.conf"])?;
    }
    if plan.dhcp {
        let name = format!("dhcp-{interface}");
        let folder = Path::new("/run/services").join(&name);
        make_folder(&folder)?;
        replace_file(&folder.join("run"), client(interface, host_name).as_bytes(), 0o755, None)?;
        start(&name)?;
    }
    Ok(())
}

fn resolver(plan: &Plan) -> String {
    let mut lines: Vec<String> =
        plan.name_servers.iter().map(|server| format!("nameserver {server}")).collect();
    if !plan.search.is_empty() {
        lines.push(format!("search {}", plan.search.join(" ")));
    }
    lines.join("\n") + "\n"
}

/// Asks at once and often: the first question may be lost while the link comes up.
fn client(interface: &str, host_name: Option<&str>) -> String {
    let name = host_name.map(|name| format!(" -x hostname:{name}")).unwrap_or_default();
    format!(
        "#!/bin/sh\nexec {BUSYBOX} udhcpc -f -R -i {interface} -s /usr/lib/machineos/dhcp{name} -T 1 -t 10 -A 3\n"
    )
}

fn ip(arguments: &[&str]) -> Result<(), BootError> {
    let mut all = vec!["ip"];
    all.extend(arguments);
    run(BUSYBOX, &all).map(drop)
}

/// Keeps containers, and the system itself, from the loopback services of the machine that this one runs on.
pub(crate) fn deny_host_loopback() -> Result<(), BootError> {
    run(NFT, &["-f", HOST_LOOPBACK_RULES]).map(drop)
}

/// Whether some way out is known.
pub(crate) fn has_route() -> bool {
    fs::read_to_string("/proc/net/route").is_ok_and(|routes| routes.lines().count() > 1)
}

/// Whether something listens on the port, on any address.
pub(crate) fn is_listening(port: u16) -> bool {
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .any(|table| fs::read_to_string(table).is_ok_and(|table| listens(&table, port)))
}

fn listens(table: &str, port: u16) -> bool {
    let end = format!(":{port:04X}");
    table.lines().skip(1).any(|line| {
        let mut words = line.split_whitespace();
        // Slot, local address, remote address, state; 0A is LISTEN.
        words.nth(1).is_some_and(|local| local.ends_with(&end)) && words.nth(1) == Some("0A")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_told_from_a_connection() {
        let head = "  sl  local_address rem_address   st tx_queue\n";
        let listener = format!("{head}   0: 00000000:0016 00000000:0000 0A 00000000:00000000\n");
        let connection = format!("{head}   0: 0100007F:0016 0100007F:9999 01 00000000:00000000\n");
        assert!(listens(&listener, 22));
        assert!(!listens(&connection, 22));
        assert!(!listens(&listener, 23));
    }

    #[test]
    fn resolver_lines() {
        let plan = Plan {
            name_servers: vec!["10.0.0.1".to_owned(), "fd00::1".to_owned()],
            search: vec!["a.test".to_owned(), "b.test".to_owned()],
            ..Plan::default()
        };
        assert_eq!(resolver(&plan), "nameserver 10.0.0.1\nnameserver fd00::1\nsearch a.test b.test\n");
    }
}
