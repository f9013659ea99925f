//! What a volume is made of, if it is no directory of its own: the options of docker's driver `local`, which are those of
//! mount(8).

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::Path;

use engine_kernel::fstab::{self, Description};
use rustix::io::Errno;

use crate::ContainerError;

/// What the driver knows, besides `size`.
const TYPE: &str = "type";
const WORDS: &str = "o";
const DEVICE: &str = "device";
/// A limit that takes quotas of a project, which are not set.
const SIZE: &str = "size";
/// File systems on other hosts, which the kernel wants to know by their addresses.
const REMOTE: [&str; 3] = ["nfs", "nfs4", "cifs"];
/// What is never told, however a mount fails.
const SECRETS: [&str; 2] = ["password=", "pass="];

/// Options that have been checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    kind: &'a str,
    device: &'a str,
    words: &'a str,
}

impl<'a> Source<'a> {
    /// None if the volume is a directory of its own. Refuses what makes no sense, in dockerd's words.
    pub(super) fn of(options: &'a BTreeMap<String, String>) -> Result<Option<Self>, ContainerError> {
        let invalid = |text: String| Err(ContainerError::Invalid(text));
        if let Some(name) = options.keys().find(|name| ![TYPE, WORDS, DEVICE, SIZE].contains(&name.as_str()))
        {
            return invalid(format!("invalid option: {name:?}"));
        }
        if options.get(SIZE).is_some_and(|size| !size.trim_start_matches(['0', '.']).is_empty()) {
            return invalid("quota size requested but no quota support".to_owned());
        }
        for (given, needed) in [(DEVICE, &[TYPE][..]), (TYPE, &[DEVICE]), (WORDS, &[DEVICE, TYPE])] {
            if let Some(missing) = needed.iter().find(|name| !options.contains_key(**name))
                && options.contains_key(given)
            {
                return invalid(format!("missing required option: {missing:?}"));
            }
        }
        let value = |name: &str| options.get(name).map(String::as_str).unwrap_or_default();
        let source = Self { kind: value(TYPE), device: value(DEVICE), words: value(WORDS) };
        if [source.kind, source.device, source.words].iter().any(|text| text.contains('\0')) {
            return invalid("an option of a volume cannot contain a null byte".to_owned());
        }
        if !options.contains_key(TYPE) {
            return Ok(None);
        }
        if source.device.is_empty() {
            return invalid("missing device in volume options".to_owned());
        }
        Ok(Some(source))
    }

    /// Mounts it. The text of the failure is for whoever asked for the volume.
    pub(super) fn mount(self, target: &Path) -> Result<(), ContainerError> {
        let Self { kind, device, .. } = self;
        let words = if REMOTE.contains(&kind) { self.resolved()? } else { self.words.to_owned() };
        let mounted = fstab::mount(&Description { kind, device, words: &words }, target);
        mounted.map_err(|error| {
            let (device, words) = (device.escape_default(), without_secrets(&words));
            let options = if words.is_empty() { String::new() } else { format!(", o: {words}") };
            ContainerError::Refused(format!(
                "failed to mount local volume: mount {device}:{} (type: {kind}{options}): {}",
                target.display(),
                reason(kind, &error)
            ))
        })
    }

    /// The words, with the address of the other host in place of its name, which is in `addr=` or begins the device.
    fn resolved(self) -> Result<String, ContainerError> {
        let words: Vec<&str> = self.words.split(',').filter(|word| !word.is_empty()).collect();
        let named = words.iter().find_map(|word| word.strip_prefix("addr="));
        let host = match named {
            Some(host) => host,
            None if self.kind == "cifs" => {
                self.device.trim_start_matches('/').split('/').next().unwrap_or_default()
            }
            None => host_of(self.device),
        };
        if host.is_empty() {
            let device = self.device;
            let message =
                format!("no host is named for the network volume `{device}`: say it in `o` as `addr=`");
            return Err(ContainerError::Invalid(message));
        }
        let address = format!("addr={}", address_of(host)?);
        let mut resolved: Vec<&str> = words.into_iter().filter(|word| !word.starts_with("addr=")).collect();
        resolved.push(&address);
        Ok(resolved.join(","))
    }
}

/// Of `host:/path`, with brackets where the host is an address of IPv6.
fn host_of(device: &str) -> &str {
    match device.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => device.split_once(':').map_or("", |(host, _)| host),
    }
}

fn address_of(host: &str) -> Result<IpAddr, ContainerError> {
    if let Ok(address) = host.trim_matches(['[', ']']).parse() {
        return Ok(address);
    }
    let failed = |why: String| {
        ContainerError::Refused(format!("error resolving passed in network volume address: {host}: {why}"))
    };
    let found = (host, 0).to_socket_addrs().map_err(|error| failed(error.to_string()))?;
    let addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    let first = addresses.iter().find(|address| address.is_ipv4()).or_else(|| addresses.first());
    first.copied().ok_or_else(|| failed("it has no address".to_owned()))
}

fn without_secrets(words: &str) -> String {
    let words = words.split(',').map(|word| match SECRETS.iter().find(|secret| word.starts_with(**secret)) {
        Some(secret) => format!("{secret}********"),
        None => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(",")
}

/// What the kernel's word for it means here.
fn reason(kind: &str, error: &io::Error) -> String {
    match Errno::from_io_error(error) {
        Some(Errno::NODEV) => format!("the kernel of this host does not know the file system `{kind}`"),
        Some(Errno::NOENT) => "no such file or directory".to_owned(),
        Some(Errno::INVAL) => "the kernel does not take these options (invalid argument)".to_owned(),
        Some(Errno::NOTBLK) => "the device is no block device".to_owned(),
        Some(Errno::CONNREFUSED) => "the other host refuses the connection".to_owned(),
        Some(Errno::TIMEDOUT) => "the other host does not answer".to_owned(),
        Some(Errno::ACCESS) => "the other host, or a file's mode, does not allow it".to_owned(),
        Some(Errno::PROTONOSUPPORT) => "the other host does not speak this version".to_owned(),
        Some(Errno::BUSY) => "the device is in use".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn options(given: &[(&str, &str)]) -> BTreeMap<String, String> {
        given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn refusal(given: &[(&str, &str)]) -> String {
        Source::of(&options(given)).unwrap_err().to_string()
    }

    #[test]
    fn options_make_sense_together_or_are_refused() {
        assert!(Source::of(&BTreeMap::new()).unwrap().is_none());
        assert!(Source::of(&options(&[("size", "0")])).unwrap().is_none());
        assert_eq!(refusal(&[("typ", "nfs")]), "invalid option: \"typ\"");
        assert_eq!(refusal(&[("type", "nfs")]), "missing required option: \"device\"");
        assert_eq!(refusal(&[("device", "x")]), "missing required option: \"type\"");
        assert_eq!(refusal(&[("o", "ro"), ("type", "nfs")]), "missing required option: \"device\"");
        assert_eq!(refusal(&[("type", "tmpfs"), ("device", "")]), "missing device in volume options");
        assert_eq!(refusal(&[("size", "1g")]), "quota size requested but no quota support");
        assert!(refusal(&[("type", "none"), ("device", "/a\0b")]).contains("null byte"));
        let whole = options(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m")]);
        let source = Source::of(&whole).unwrap().unwrap();
        assert_eq!((source.kind, source.device, source.words), ("tmpfs", "tmpfs", "size=1m"));
    }

    #[test]
    fn other_hosts_have_addresses() {
        let resolved = |device, words| Source { kind: "nfs", device, words }.resolved();
        assert_eq!(resolved(":/x", "addr=10.0.0.7,ro").unwrap(), "ro,addr=10.0.0.7");
        assert_eq!(resolved("10.0.0.8:/x", "").unwrap(), "addr=10.0.0.8");
        assert_eq!(resolved("[fd00::1]:/x", "soft").unwrap(), "soft,addr=fd00::1");
        assert_eq!(resolved("localhost:/x", "").unwrap(), "addr=127.0.0.1");
        assert!(resolved(":/x", "ro").unwrap_err().to_string().contains("no host is named"));
        assert!(resolved("no.such.invalid:/x", "").unwrap_err().to_string().contains("no.such.invalid"));
    }

    #[test]
    fn passwords_are_not_told() {
        assert_eq!(
            without_secrets("user=a,password=b,pass=c,ro"),
            "user=a,password=********,pass=********,ro"
        );
    }
}
