//! A container's resolver configuration, made from the host's.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use super::{is_name, read};

/// Where the engine's own resolver answers in each container that is on a user-defined network.
pub const EMBEDDED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// What the C libraries read at most.
const MOST_SERVERS: usize = 3;
/// Used when the host has no server that a container could reach.
const PUBLIC_SERVERS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8)), IpAddr::V4(Ipv4Addr::new(8, 8, 4, 4))];

/// What a container wishes for its resolver; what is empty comes from the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsRequest {
    pub servers: Vec<String>,
    pub search: Vec<String>,
    pub options: Vec<String>,
}

/// A server that the engine's resolver asks for what it does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server {
    pub address: IpAddr,
    /// It is asked from within the container's network, as the container's maker has named it. The host's own servers are
    /// asked from the host, whose loopback they may be on.
    pub inside: bool,
}

/// A container's configuration with the engine's own resolver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Embedded {
    /// `/etc/resolv.conf`.
    pub text: String,
    pub servers: Vec<Server>,
    /// How many dots a name needs to be asked for as it is was set by somebody, so that names without dots are not asked
    /// of others.
    pub has_dots: bool,
}

/// A container's `/etc/resolv.conf` where it asks the host's servers by itself.
///
/// Servers on the host's loopback do not exist inside, nor does IPv6: those are left out. Where systemd-resolved stands in
/// front, the servers behind it are taken; when nothing is left, public ones.
pub fn resolv_conf(request: &DnsRequest) -> String {
    sealed(&plain(request))
}

fn plain(request: &DnsRequest) -> String {
    compose(request, &read(Path::new("/etc/resolv.conf")), || {
        read(Path::new("/run/systemd/resolve/resolv.conf"))
    })
}

/// Whether a container's `/etc/resolv.conf` is as the engine has written it; earlier versions did not seal it.
pub fn is_untouched(current: &str, request: &DnsRequest) -> bool {
    let is_sealed = current.find(SEAL).is_some_and(|at| sealed(&current[..at]) == current);
    is_sealed || current == plain(request)
}

/// Before what tells whether somebody has changed the file.
const SEAL: &str = "\n# Written by the engine, which leaves it alone once it was changed: ";

/// The text and, as a comment, its sum (FNV-1a).
fn sealed(text: &str) -> String {
    let sum = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{text}{SEAL}{sum:016x}\n")
}

/// A container's configuration with the engine's own resolver.
pub fn embedded(request: &DnsRequest) -> Embedded {
    compose_embedded(request, &read(Path::new("/etc/resolv.conf")))
}

#[derive(Default)]
struct Resolver {
    servers: Vec<IpAddr>,
    search: Vec<String>,
    options: Vec<String>,
}

fn parse(text: &str) -> Resolver {
    let mut resolver = Resolver::default();
    for line in text.lines() {
        let mut words = line.split(['#', ';']).next().unwrap_or_default().split_ascii_whitespace();
        match words.next() {
            Some("nameserver") => {
                resolver.servers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()));
            }
            Some("search" | "domain") => resolver.search = words.map(str::to_owned).collect(),
            Some("options") => resolver.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    resolver
}

/// What is wished for, without what would not be a word in the file, or else what the host has.
fn wished(wish: &[String], otherwise: Vec<String>) -> Vec<String> {
    let wish: Vec<String> = wish.iter().filter(|word| is_name(word)).cloned().collect();
    if wish.is_empty() { otherwise } else { wish }
}

fn write(servers: &[IpAddr], search: &[String], options: &[String]) -> String {
    let mut text = String::new();
    for server in servers.iter().take(MOST_SERVERS) {
        let _ = writeln!(text, "nameserver {server}");
    }
    // A lone dot says: search nothing.
    let search: Vec<&str> = search.iter().map(String::as_str).filter(|domain| *domain != ".").collect();
    if !search.is_empty() {
        let _ = writeln!(text, "search {}", search.join(" "));
    }
    if !options.is_empty() {
        let _ = writeln!(text, "options {}", options.join(" "));
    }
    text
}

fn addresses(words: &[String]) -> Vec<IpAddr> {
    words.iter().filter_map(|word| word.parse().ok()).collect()
}

fn compose(request: &DnsRequest, host: &str, behind: impl FnOnce() -> String) -> String {
    let resolver = parse(host);
    let reachable =
        |servers: &[IpAddr]| -> Vec<IpAddr> { servers.iter().copied().filter(is_reachable).collect() };
    let mut servers = reachable(&resolver.servers);
    if servers.is_empty() && resolver.servers.iter().any(IpAddr::is_loopback) {
        servers = reachable(&parse(&behind()).servers);
    }
    if servers.is_empty() {
        servers = PUBLIC_SERVERS.to_vec();
    }
    let own = addresses(&request.servers);
    let servers = if own.is_empty() { servers } else { own };
    write(&servers, &wished(&request.search, resolver.search), &wished(&request.options, resolver.options))
}

fn is_reachable(server: &IpAddr) -> bool {
    server.is_ipv4() && !server.is_loopback()
}

fn is_dots(option: &str) -> bool {
    option.split(':').next() == Some("ndots")
}

fn compose_embedded(request: &DnsRequest, host: &str) -> Embedded {
    let resolver = parse(host);
    let own = addresses(&request.servers);
    let inside = !own.is_empty();
    let servers: Vec<Server> = if inside { own } else { resolver.servers }
        .into_iter()
        // However it is written, it must not be asked by itself.
        .map(|address| address.to_canonical())
        .filter(|address| !(inside && *address == EMBEDDED))
        .take(MOST_SERVERS)
        .map(|address| Server { address, inside })
        .collect();
    let mut options = wished(&request.options, resolver.options);
    options.retain(|option| {
        !is_dots(option) || option.split_once(':').is_some_and(|(_, number)| number.parse::<u32>().is_ok())
    });
    let has_dots = options.iter().any(|option| is_dots(option));
    if !has_dots {
        // Names of containers have no dots, and are asked for as they are first.
        options.push("ndots:0".to_owned());
    }
    let mut text = write(&[EMBEDDED.into()], &wished(&request.search, resolver.search), &options);
    let shown: Vec<String> = servers
        .iter()
        .map(
            |server| {
                if server.inside { server.address.to_string() } else { format!("host({})", server.address) }
            },
        )
        .collect();
    let _ = writeln!(text, "# ExtServers: [{}]", shown.join(" "));
    Embedded { text: sealed(&text), servers, has_dots }
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

    fn embed(servers: &[&str], options: &[&str], host: &str) -> Embedded {
        let list = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let request = DnsRequest { servers: list(servers), options: list(options), ..DnsRequest::default() };
        compose_embedded(&request, host)
    }

    #[test]
    fn the_embedded_resolver_is_the_only_one_and_has_the_others_behind_it() {
        let host = "nameserver 127.0.0.53\nnameserver fd00::1\nsearch lan\noptions edns0\n";
        let made = embed(&[], &[], host);
        assert!(
            made.text.starts_with(
                "nameserver 127.0.0.11\nsearch lan\noptions edns0 ndots:0\n# ExtServers: [host(127.0.0.53) host(fd00::1)]\n"
            ),
            "{made:?}"
        );
        let servers: Vec<_> =
            made.servers.iter().map(|server| (server.address.to_string(), server.inside)).collect();
        assert_eq!(servers, [("127.0.0.53".to_owned(), false), ("fd00::1".to_owned(), false)]);
        assert!(!made.has_dots);
        // A server of the container's own is asked from where it is, and is never the resolver itself.
        let made = embed(&["127.0.0.11", "10.0.0.2"], &[], host);
        assert_eq!(made.servers, [Server { address: [10, 0, 0, 2].into(), inside: true }]);
        assert!(made.text.contains("# ExtServers: [10.0.0.2]\n"), "{made:?}");
    }

    #[test]
    fn a_file_that_somebody_has_changed_is_known() {
        let request = DnsRequest { servers: vec!["10.0.0.2".into()], ..DnsRequest::default() };
        for text in [resolv_conf(&request), embedded(&request).text, plain(&request)] {
            assert!(is_untouched(&text, &request), "{text}");
            assert!(!is_untouched(&text.replace("nameserver", "nameserver 10.9.9.9 #"), &request), "{text}");
            assert!(!is_untouched(&format!("{text}nameserver 10.9.9.9\n"), &request), "{text}");
        }
        assert!(!is_untouched("", &request));
    }

    #[test]
    fn dots_that_somebody_has_set_are_left() {
        for (options, host, expected, has_dots) in [
            (&["ndots:2"][..], "", "options ndots:2\n", true),
            (&[], "options ndots:5 rotate", "options ndots:5 rotate\n", true),
            (&["ndots:many", "rotate"], "", "options rotate ndots:0\n", false),
            (&[], "", "options ndots:0\n", false),
        ] {
            let made = embed(&[], options, host);
            assert!(made.text.starts_with(&format!("nameserver 127.0.0.11\n{expected}")), "{made:?}");
            assert_eq!(made.has_dots, has_dots, "{made:?}");
        }
    }
}
