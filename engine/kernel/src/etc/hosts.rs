//! A container's hosts file: the usual names, those it was given, and its own.

use std::fmt::Write;
use std::net::IpAddr;

use super::is_name;

/// Where earlier versions wrote the names of other containers, which are asked for now.
const MARK: &str = "# Other containers of the same networks, kept up to date by the engine";

/// Why a host name and address given to a container cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostsError {
    #[error("bad format for add-host: \"{entry}\"")]
    Format { entry: String },
    #[error("invalid IP address in add-host: \"{address}\"")]
    Address { address: String },
    #[error("unable to derive the IP value for host-gateway")]
    NoGateway,
}

/// Reads `--add-host` values: `name:address`, where the address may be `host-gateway`, the host as containers see it, which is
/// each of `gateways`.
pub fn extra_hosts<S: AsRef<str>>(
    entries: &[S],
    gateways: &[IpAddr],
) -> Result<Vec<(String, IpAddr)>, HostsError> {
    let mut hosts = Vec::new();
    for entry in entries {
        let entry = entry.as_ref();
        let cut = |text: &str| text.chars().take(100).collect::<String>();
        let (name, address) = entry
            .split_once([':', '='])
            .filter(|(name, _)| is_name(name))
            .ok_or_else(|| HostsError::Format { entry: cut(entry) })?;
        let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
        if bare == "host-gateway" {
            if gateways.is_empty() {
                return Err(HostsError::NoGateway);
            }
            hosts.extend(gateways.iter().map(|gateway| (name.to_owned(), *gateway)));
            continue;
        }
        let address = bare.parse().map_err(|_| HostsError::Address { address: cut(address) })?;
        hosts.push((name.to_owned(), address));
    }
    Ok(hosts)
}

/// A container's `/etc/hosts` before it is on any network: the usual names and those it was given.
pub fn hosts(extra: &[(String, IpAddr)]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    for (name, address) in extra.iter().filter(|(name, _)| is_name(name)) {
        let _ = writeln!(text, "{address}\t{name}");
    }
    text
}

/// What a container is called in its own hosts file: its host name with its domain, and without any.
pub fn own_names(hostname: &str, domain: &str) -> Option<String> {
    let full = if domain.is_empty() { hostname.to_owned() } else { format!("{hostname}.{domain}") };
    if !is_name(&full) {
        return None;
    }
    match full.split_once('.') {
        Some((short, _)) if !short.is_empty() => Some(format!("{full} {short}")),
        _ => Some(full),
    }
}

/// The file with names for an address added, unless they are there.
pub fn with_line(current: &str, address: IpAddr, names: &str) -> String {
    let line = format!("{address}\t{names}");
    let mut text = current.to_owned();
    if !current.lines().any(|known| known == line) {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&line);
        text.push('\n');
    }
    text
}

/// The file without these names for an address.
pub fn without_line(current: &str, address: IpAddr, names: &str) -> String {
    let line = format!("{address}\t{names}");
    current.split_inclusive('\n').filter(|known| known.trim_end_matches('\n') != line).collect()
}

/// The file without the names of other containers.
pub fn without_neighbours(current: &str) -> String {
    current.find(MARK).map_or(current, |at| &current[..at]).to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_hosts_file_has_the_names_that_were_given() {
        let text = hosts(&[
            ("db".into(), "10.0.0.9".parse().unwrap()),
            ("a\n6.6.6.6 b".into(), "10.0.0.8".parse().unwrap()),
        ]);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n::1\tlocalhost "));
        assert!(text.ends_with("10.0.0.9\tdb\n"), "{text}");
    }

    #[test]
    fn a_dotted_name_has_its_short_form_beside_it() {
        for (hostname, domain, expected) in [
            ("web", "", Some("web")),
            ("web.example.com", "", Some("web.example.com web")),
            ("web", "example.com", Some("web.example.com web")),
            ("a.b", "c", Some("a.b.c a")),
            (".odd", "", Some(".odd")),
            ("", "", None),
            ("a\n6.6.6.6 b", "", None),
            ("web", "a b", None),
        ] {
            assert_eq!(own_names(hostname, domain).as_deref(), expected, "{hostname} {domain}");
        }
    }

    #[test]
    fn extra_hosts_are_read() {
        let gateways = ["172.17.0.1", "fd00::1"].map(|text| text.parse().unwrap());
        let read =
            extra_hosts(&["a:1.2.3.4", "b:host-gateway", "c=[fd00::1]", "d:fd00::2"], &gateways).unwrap();
        let text: Vec<String> = read.iter().map(|(name, address)| format!("{name} {address}")).collect();
        assert_eq!(text, ["a 1.2.3.4", "b 172.17.0.1", "b fd00::1", "c fd00::1", "d fd00::2"]);
        assert!(matches!(extra_hosts(&["nothing"], &[]), Err(HostsError::Format { .. })));
        assert!(matches!(extra_hosts(&["a b:1.2.3.4"], &[]), Err(HostsError::Format { .. })));
        assert!(matches!(extra_hosts(&["a:1.2.3"], &[]), Err(HostsError::Address { .. })));
        assert!(matches!(extra_hosts(&["a:host-gateway"], &[]), Err(HostsError::NoGateway)));
    }

    #[test]
    fn own_lines_come_and_go() {
        let address: IpAddr = "172.18.0.2".parse().unwrap();
        let with = with_line("127.0.0.1\tlocalhost", address, "web");
        assert_eq!(with, "127.0.0.1\tlocalhost\n172.18.0.2\tweb\n");
        assert_eq!(with_line(&with, address, "web"), with);
        assert_eq!(without_line(&with, address, "web2"), with);
        assert_eq!(without_line(&with, address, "web"), "127.0.0.1\tlocalhost\n");
    }

    #[test]
    fn what_earlier_versions_wrote_of_others_goes() {
        let own = "127.0.0.1\tlocalhost\n172.18.0.2\tweb\n";
        assert_eq!(without_neighbours(&format!("{own}{MARK}\n172.18.0.3\tdb\n")), own);
        assert_eq!(without_neighbours(own), own);
    }
}
