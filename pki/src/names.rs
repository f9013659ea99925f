//! Turns what users write into subject alternative names.

use std::net::IpAddr;

use rcgen::SanType;

use crate::PkiError;

/// Reads DNS names (a leading `*.` is allowed) and IP addresses (IPv6 also in brackets), without repetitions.
pub(crate) fn parse(names: &[String]) -> Result<Vec<SanType>, PkiError> {
    let mut parsed = Vec::with_capacity(names.len());
    for name in names {
        let one = parse_one(name).ok_or_else(|| PkiError::Name { name: name.clone() })?;
        if !parsed.contains(&one) {
            parsed.push(one);
        }
    }
    if parsed.is_empty() {
        return Err(PkiError::NoNames);
    }
    Ok(parsed)
}

fn parse_one(name: &str) -> Option<SanType> {
    let unbracketed = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    if let Ok(address) = unbracketed.parse::<IpAddr>() {
        return Some(SanType::IpAddress(address));
    }
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    if !is_dns_name(name.strip_prefix("*.").unwrap_or(&name)) {
        return None;
    }
    Some(SanType::DnsName(name.try_into().ok()?))
}

fn is_dns_name(name: &str) -> bool {
    let looks_like_an_address = name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    name.len() <= 253 && !looks_like_an_address && name.split('.').all(is_label)
}

/// Underscores are no letters of host names, but people have them in theirs.
fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn shown(name: &str) -> Option<String> {
        parse_one(name).map(|san| match san {
            SanType::DnsName(name) => format!("dns {}", name.as_str()),
            SanType::IpAddress(address) => format!("ip {address}"),
            other => format!("{other:?}"),
        })
    }

    #[test]
    fn names_and_addresses_are_told_apart() {
        assert_eq!(shown("Localhost"), Some("dns localhost".to_owned()));
        assert_eq!(shown("mc1.example.com."), Some("dns mc1.example.com".to_owned()));
        assert_eq!(shown("*.swarm_one.internal"), Some("dns *.swarm_one.internal".to_owned()));
        assert_eq!(shown("127.0.0.1"), Some("ip 127.0.0.1".to_owned()));
        assert_eq!(shown("[2001:db8::1]"), Some("ip 2001:db8::1".to_owned()));
        assert_eq!(shown("::1"), Some("ip ::1".to_owned()));
    }

    #[test]
    fn what_is_neither_is_refused() {
        for name in [
            "",
            ".",
            "a..b",
            "-a",
            "a-",
            "*",
            "a.*.b",
            "1.2.3",
            "1.2.3.4.5",
            "300.1.1.1",
            "fe80::1%eth0",
            "a b",
            "a,b",
            "host:2376",
            "hö",
            "[a]",
            "a\0b",
        ] {
            assert_eq!(shown(name), None, "{name:?}");
        }
        assert_eq!(shown(&"a".repeat(64)), None);
        assert_eq!(shown(&["abcdefg"; 40].join(".")), None);
    }

    #[test]
    fn repetitions_are_dropped_and_nothing_is_refused() {
        let names = ["a", "A", "::1", "0:0::1"].map(str::to_owned);
        assert_eq!(parse(&names).unwrap().len(), 2);
        assert!(matches!(parse(&[]), Err(PkiError::NoNames)));
    }
}
