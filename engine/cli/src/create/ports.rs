//! `-p` and `--expose`.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

/// The longest range; more is a slip of the finger that would fill the daemon.
const MAXIMUM_RANGE: usize = 65_536;

/// Exposed ports and their bindings, as the API has them.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Ports {
    pub(crate) exposed: Map<String, Value>,
    pub(crate) bindings: Map<String, Value>,
}

impl Ports {
    /// Reads all values of `--expose` and `-p`.
    pub(crate) fn parse(expose: &[String], publish: &[String]) -> Result<Self, String> {
        let mut ports = Self::default();
        for text in publish {
            ports.publish(text)?;
        }
        for text in expose {
            if text.contains(':') {
                return Err(format!("invalid port format for --expose: {text}"));
            }
            let (range, protocol) = protocol(text)?;
            let range = self::range(range)
                .map_err(|error| format!("invalid range format for --expose: {text}, error: {error}"))?;
            for port in range {
                ports.exposed.insert(format!("{port}/{protocol}"), json!({}));
            }
        }
        Ok(ports)
    }

    fn publish(&mut self, text: &str) -> Result<(), String> {
        let short;
        let text = if text.contains("target=") {
            short = long_form(text)?;
            &short
        } else {
            text
        };
        let (address, host, container) = split(text);
        let (container, protocol) = protocol(container)?;
        if container.is_empty() {
            return Err(format!("no port specified: {text}<empty>"));
        }
        let container_ports = range(container).map_err(|_| format!("invalid containerPort: {container}"))?;
        let address = address.trim_start_matches('[').trim_end_matches(']');
        if !address.is_empty() && address.parse::<IpAddr>().is_err() {
            return Err(format!("invalid IP address: {address}"));
        }
        let host_ports = if host.is_empty() {
            Vec::new()
        } else {
            range(host).map_err(|_| format!("invalid hostPort: {host}"))?
        };
        let same = host_ports.is_empty() || host_ports.len() == container_ports.len();
        if !same && container_ports.len() != 1 {
            return Err(format!(
                "invalid ranges specified for container and host Ports: {container} and {host}"
            ));
        }
        for (index, port) in container_ports.iter().enumerate() {
            let host_port = match host_ports.get(index) {
                // The daemon chooses one of the range.
                Some(_) if !same => host.to_owned(),
                Some(port) => port.to_string(),
                None => String::new(),
            };
            let key = format!("{port}/{protocol}");
            self.exposed.insert(key.clone(), json!({}));
            let binding = json!({"HostIp": address, "HostPort": host_port});
            match self.bindings.entry(key).or_insert_with(|| json!([])) {
                Value::Array(list) => list.push(binding),
                other => *other = json!([binding]),
            }
        }
        Ok(())
    }
}

/// Address, host port and container port; the first two may be empty.
fn split(text: &str) -> (&str, &str, &str) {
    let Some((before, container)) = text.rsplit_once(':') else { return ("", "", text) };
    // An address in brackets has colons of its own.
    match before.rsplit_once(':') {
        Some((address, host)) if !host.ends_with(']') => (address, host, container),
        _ if before.starts_with('[') => (before, "", container),
        _ => ("", before, container),
    }
}

fn protocol(text: &str) -> Result<(&str, String), String> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let lower = protocol.to_lowercase();
    if matches!(lower.as_str(), "tcp" | "udp" | "sctp") {
        Ok((port, lower))
    } else {
        Err(format!("invalid proto: {protocol}"))
    }
}

fn range(text: &str) -> Result<Vec<u16>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |part: &str| part.parse::<u16>().map_err(|_| format!("{part:?} is not a port"));
    let (first, last) = (number(first)?, number(last)?);
    if first > last || usize::from(last - first) >= MAXIMUM_RANGE {
        return Err(format!("{text:?} is not a range of ports"));
    }
    Ok((first..=last).collect())
}

/// `published=8080,target=80,protocol=tcp` in the short form.
fn long_form(text: &str) -> Result<String, String> {
    let (mut published, mut target, mut protocol) = ("", "", "tcp");
    for part in text.split(',') {
        match part.split_once('=') {
            Some(("published", value)) => published = value,
            Some(("target", value)) => target = value,
            Some(("protocol", value)) => protocol = value,
            Some(("mode", _)) => {}
            _ => return Err(format!("invalid port format for --publish: {text}")),
        }
    }
    Ok(if published.is_empty() {
        format!("{target}/{protocol}")
    } else {
        format!("{published}:{target}/{protocol}")
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn bindings(publish: &[&str]) -> String {
        let publish: Vec<String> = publish.iter().map(|&text| text.to_owned()).collect();
        match Ports::parse(&[], &publish) {
            Ok(ports) => Value::Object(ports.bindings).to_string(),
            Err(error) => error,
        }
    }

    #[test]
    fn published_ports() {
        for (text, json) in [
            ("80", r#"{"80/tcp":[{"HostIp":"","HostPort":""}]}"#),
            ("8080:80", r#"{"80/tcp":[{"HostIp":"","HostPort":"8080"}]}"#),
            ("8080:80/udp", r#"{"80/udp":[{"HostIp":"","HostPort":"8080"}]}"#),
            ("127.0.0.1:8080:80", r#"{"80/tcp":[{"HostIp":"127.0.0.1","HostPort":"8080"}]}"#),
            ("127.0.0.1::80", r#"{"80/tcp":[{"HostIp":"127.0.0.1","HostPort":""}]}"#),
            ("[::1]:8080:80", r#"{"80/tcp":[{"HostIp":"::1","HostPort":"8080"}]}"#),
            ("[::1]::80", r#"{"80/tcp":[{"HostIp":"::1","HostPort":""}]}"#),
            (
                "8000-8001:80-81",
                r#"{"80/tcp":[{"HostIp":"","HostPort":"8000"}],"81/tcp":[{"HostIp":"","HostPort":"8001"}]}"#,
            ),
            ("8000-8010:80", r#"{"80/tcp":[{"HostIp":"","HostPort":"8000-8010"}]}"#),
            ("published=8080,target=80,protocol=udp", r#"{"80/udp":[{"HostIp":"","HostPort":"8080"}]}"#),
        ] {
            assert_eq!(bindings(&[text]), json, "{text}");
        }
        assert_eq!(
            bindings(&["1:80", "2:80"]),
            r#"{"80/tcp":[{"HostIp":"","HostPort":"1"},{"HostIp":"","HostPort":"2"}]}"#
        );
    }

    #[test]
    fn refused_ports() {
        for (text, message) in [
            ("99999999:1", "invalid hostPort: 99999999"),
            ("1:x", "invalid containerPort: x"),
            ("1:80/foo", "invalid proto: foo"),
            ("1:", "no port specified: 1:<empty>"),
            ("x.y:1:80", "invalid IP address: x.y"),
            ("1-3:80-81", "invalid ranges specified for container and host Ports: 80-81 and 1-3"),
            ("80-79", "invalid containerPort: 80-79"),
        ] {
            assert_eq!(bindings(&[text]), message, "{text}");
        }
    }

    #[test]
    fn exposed_ports() {
        let ports = Ports::parse(&["80".to_owned(), "90-91/udp".to_owned()], &["1:2".to_owned()]).unwrap();
        assert_eq!(ports.exposed.keys().collect::<Vec<_>>(), ["2/tcp", "80/tcp", "90/udp", "91/udp"]);
        assert!(Ports::parse(&["1:2".to_owned()], &[]).is_err());
    }
}
