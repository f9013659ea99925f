//! The contents of a container's `/etc/hosts` and `/etc/resolv.conf`.

use std::fmt::Write;
use std::fs;
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;

/// Where the names of other containers begin in a hosts file; what stands above is never touched.
const MARK: &str = "# Other containers of the same networks, kept up to date by the engine";
/// Longer files of the host are cut off; nobody has one.
const LARGEST_FILE: u64 = 1024 * 1024;
/// What the C libraries read at most.
const MOST_SERVERS: usize = 3;
/// Used when the host has no server that a container could reach.
const PUBLIC_SERVERS: [&str; 2] = ["8.8.8.8", "8.8.4.4"];

/// Why a host name and address given to a container cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostsError {
    #[error("bad format for add-host: \"{entry}\"")]
    Format { entry: String },
    #[error("invalid IP address in add-host: \"{address}\"")]
    Address { address: String },
}

/// Reads `--add-host` values: `name:address`, where the address may be `host-gateway`, the host as containers see it.
pub fn extra_hosts<S: AsRef<str>>(
    entries: &[S],
    gateway: Option<IpAddr>,
) -> Result<Vec<(String, IpAddr)>, HostsError> {
    entries
        .iter()
        .map(|entry| {
            let entry = entry.as_ref();
            let cut = |text: &str| text.chars().take(100).collect::<String>();
            let (name, address) = entry
                .split_once([':', '='])
                .filter(|(name, _)| is_name(name))
                .ok_or_else(|| HostsError::Format { entry: cut(entry) })?;
            let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
            let address = match gateway {
                Some(gateway) if bare == "host-gateway" => gateway,
                _ => bare.parse().map_err(|_| HostsError::Address { address: cut(address) })?,
            };
            Ok((name.to_owned(), address))
        })
        .collect()
}

/// A word that can stand in a hosts file without meaning anything else there.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 255 && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
}

/// A container's `/etc/hosts`: the usual names, the container's own and those it was given.
pub fn hosts(hostname: &str, domain: &str, addresses: &[IpAddr], extra: &[(String, IpAddr)]) -> String {
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
    if is_name(hostname) {
        for address in addresses {
            let _ = match domain {
                domain if is_name(domain) => writeln!(text, "{address}\t{hostname}.{domain} {hostname}"),
                _ => writeln!(text, "{address}\t{hostname}"),
            };
        }
    }
    text
}

/// The hosts file with the names of other containers renewed.
pub fn with_neighbours(current: &str, neighbours: &[(IpAddr, Vec<String>)]) -> String {
    let mut text = match current.find(MARK) {
        Some(at) => current[..at].to_owned(),
        None => current.to_owned(),
    };
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    if !neighbours.is_empty() {
        text.push_str(MARK);
        text.push('\n');
    }
    for (address, names) in neighbours {
        let names: Vec<&str> = names.iter().map(String::as_str).filter(|name| is_name(name)).collect();
        if !names.is_empty() {
            let _ = writeln!(text, "{address}\t{}", names.join(" "));
        }
    }
    text
}

/// What a container wishes for its resolver; what is empty comes from the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsRequest {
    pub servers: Vec<String>,
    pub search: Vec<String>,
    pub options: Vec<String>,
}

/// A container's `/etc/resolv.conf`, made from the host's.
///
/// Servers on the host's loopback do not exist inside, nor does IPv6: those are left out. Where systemd-resolved stands in
/// front, the servers behind it are taken; when nothing is left, public ones.
pub fn resolv_conf(request: &DnsRequest) -> String {
    compose(request, &read(Path::new("/etc/resolv.conf")), || {
        read(Path::new("/run/systemd/resolve/resolv.conf"))
    })
}

fn read(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = fs::File::open(path) {
        let _ = file.take(LARGEST_FILE).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[derive(Default)]
struct Resolver {
    servers: Vec<String>,
    search: Vec<String>,
    options: Vec<String>,
    on_loopback: bool,
}

fn parse(text: &str) -> Resolver {
    let mut resolver = Resolver::default();
    for line in text.lines() {
        let mut words = line.split(['#', ';']).next().unwrap_or_default().split_ascii_whitespace();
        match words.next() {
            Some("nameserver") => match words.next().map(str::parse::<IpAddr>) {
                Some(Ok(address)) if address.is_loopback() => resolver.on_loopback = true,
                Some(Ok(IpAddr::V4(address))) => resolver.servers.push(address.to_string()),
                _ => {}
            },
            Some("search" | "domain") => resolver.search = words.map(str::to_owned).collect(),
            Some("options") => resolver.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    resolver
}

fn compose(request: &DnsRequest, host: &str, behind: impl FnOnce() -> String) -> String {
    let mut resolver = parse(host);
    if resolver.servers.is_empty() && resolver.on_loopback {
        resolver.servers = parse(&behind()).servers;
    }
    if resolver.servers.is_empty() {
        resolver.servers = PUBLIC_SERVERS.map(str::to_owned).to_vec();
    }
    let wished = |wish: &[String], otherwise: Vec<String>| {
        let wish: Vec<String> = wish.iter().filter(|word| is_name(word)).cloned().collect();
        if wish.is_empty() { otherwise } else { wish }
    };
    let servers = wished(&request.servers, resolver.servers);
    // A lone dot says: search nothing.
    let search = wished(&request.search, resolver.search);
    let options = wished(&request.options, resolver.options);
    let mut text = String::new();
    for server in servers.iter().take(MOST_SERVERS) {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !search.is_empty() && search != ["."] {
        let _ = writeln!(text, "search {}", search.join(" "));
    }
    if !options.is_empty() {
        let _ = writeln!(text, "options {}", options.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn composed(host: &str) -> String {
        compose(&DnsRequest::default(), host, || panic!("not asked"))
    }

    #[test]
    fn servers_a_container_cannot_reach_are_left_out() {
        let host = "# made by x\nnameserver 127.0.0.1\nnameserver 10.0.0.2\nnameserver fd00::1\nsearch a.example b.example\noptions ndots:2\n";
        assert_eq!(composed(host), "nameserver 10.0.0.2\nsearch a.example b.example\noptions ndots:2\n");
    }

    #[test]
    fn the_servers_behind_a_local_one_are_found() {
        let behind = || "nameserver 192.168.1.1\nnameserver ::1\n".to_owned();
        let text =
            compose(&DnsRequest::default(), "nameserver 127.0.0.53\noptions edns0\nsearch lan\n", behind);
        assert_eq!(text, "nameserver 192.168.1.1\nsearch lan\noptions edns0\n");
    }

    #[test]
    fn there_is_always_a_server() {
        assert_eq!(composed(""), "nameserver 8.8.8.8\nnameserver 8.8.4.4\n");
        let text = compose(&DnsRequest::default(), "nameserver 127.0.0.1", String::new);
        assert_eq!(text, "nameserver 8.8.8.8\nnameserver 8.8.4.4\n");
    }

    #[test]
    fn wishes_come_first_and_cannot_break_out_of_their_line() {
        let request = DnsRequest {
            servers: vec!["1.1.1.1".into(), "9.9.9.9\nnameserver 6.6.6.6".into()],
            search: vec![".".into()],
            options: vec!["timeout:1".into()],
        };
        let text = compose(&request, "nameserver 10.0.0.2\nsearch x\n", || panic!("not asked"));
        assert_eq!(text, "nameserver 1.1.1.1\noptions timeout:1\n");
    }

    #[test]
    fn the_hosts_file_names_the_container() {
        let text =
            hosts("web", "", &["172.17.0.2".parse().unwrap()], &[("db".into(), "10.0.0.9".parse().unwrap())]);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n::1\tlocalhost "));
        assert!(text.ends_with("10.0.0.9\tdb\n172.17.0.2\tweb\n"));
        let text = hosts("web", "example.org", &["172.17.0.2".parse().unwrap()], &[]);
        assert!(text.ends_with("172.17.0.2\tweb.example.org web\n"));
        assert!(!hosts("a\n6.6.6.6 b", "", &["172.17.0.2".parse().unwrap()], &[]).contains("6.6.6.6"));
    }

    #[test]
    fn extra_hosts_are_read() {
        let gateway = Some("172.17.0.1".parse().unwrap());
        let read =
            extra_hosts(&["a:1.2.3.4", "b:host-gateway", "c=[fd00::1]", "d:fd00::2"], gateway).unwrap();
        let text: Vec<String> = read.iter().map(|(name, address)| format!("{name} {address}")).collect();
        assert_eq!(text, ["a 1.2.3.4", "b 172.17.0.1", "c fd00::1", "d fd00::2"]);
        assert!(matches!(extra_hosts(&["nothing"], None), Err(HostsError::Format { .. })));
        assert!(matches!(extra_hosts(&["a b:1.2.3.4"], None), Err(HostsError::Format { .. })));
        assert!(matches!(extra_hosts(&["a:1.2.3"], None), Err(HostsError::Address { .. })));
        assert!(matches!(extra_hosts(&["a:host-gateway"], None), Err(HostsError::Address { .. })));
    }

    #[test]
    fn names_of_neighbours_come_and_go_below_the_mark() {
        let own = "127.0.0.1\tlocalhost\n172.18.0.2\tweb";
        let neighbour = |name: &str| ("172.18.0.3".parse().unwrap(), vec![name.to_owned(), "a#b".to_owned()]);
        let with = with_neighbours(own, &[neighbour("db")]);
        assert_eq!(with, format!("{own}\n{MARK}\n172.18.0.3\tdb\n"));
        assert_eq!(
            with_neighbours(&with, &[neighbour("cache")]),
            format!("{own}\n{MARK}\n172.18.0.3\tcache\n")
        );
        assert_eq!(with_neighbours(&with, &[]), format!("{own}\n"));
    }
}
