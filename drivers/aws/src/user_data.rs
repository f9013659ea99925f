//! What an instance is told at its first boot: our part, and the user's, as one text for cloud-init.

use std::{
    fmt::Write as _,
    io::{Read as _, Write as _},
    path::Path,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use flate2::{Compression, write::GzEncoder};
use machine_driver::{DriverError, HostKey, HostView};
use serde::Serialize;

use crate::config::{Config, HostKeys};

/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/user-data.html>
const BYTES_AT_MOST: usize = 16 * 1024;
/// What is larger does not fit even when it is compressed well.
const READ_AT_MOST: u64 = 1 << 20;
/// MIME's longest line is 78 characters without the line end (RFC 2045).
const LINE: usize = 76;

/// How a text begins, and as what cloud-init takes it.
/// <https://cloudinit.readthedocs.io/en/latest/explanation/format.html>
const KINDS: [(&str, &str); 8] = [
    ("#cloud-config-archive", "text/cloud-config-archive"),
    ("#cloud-config-jsonp", "text/cloud-config-jsonp"),
    ("#cloud-config", "text/cloud-config"),
    ("#cloud-boothook", "text/cloud-boothook"),
    ("#part-handler", "text/part-handler"),
    ("#include", "text/x-include-url"),
    ("#!", "text/x-shellscript"),
    ("## template: jinja", "text/jinja2"),
];

#[derive(Serialize)]
struct CloudConfig<'a> {
    ssh_deletekeys: bool,
    ssh_keys: Keys<'a>,
}

#[derive(Serialize)]
struct Keys<'a> {
    ed25519_private: &'a str,
    ed25519_public: &'a str,
}

/// The user data of a host; the same for each run, because a client token stands for one request only.
pub(crate) fn of_host(host: &HostView, config: &Config) -> Result<Option<Vec<u8>>, DriverError> {
    let theirs = match &config.user_data {
        None => None,
        Some(path) => Some(read(path)?).filter(|data| !data.is_empty()),
    };
    let ours = match (config.host_keys, &host.host_key) {
        (HostKeys::Delivered, Some(key)) => Some(cloud_config(key)?),
        _ => None,
    };
    let whole = merged(ours, theirs, &host.id.to_string())?;
    whole.map(bounded).transpose()
}

/// Refuses user data that could not be used, before there is a host key to go with it.
pub(crate) fn check(host: &HostView, config: &Config) -> Result<(), DriverError> {
    // As long as a real one.
    let stand_in = HostKey { public: "x".repeat(96), private: "x".repeat(420) };
    of_host(&HostView { host_key: Some(stand_in), ..host.clone() }, config).map(drop)
}

/// A file of any size is not read: AWS takes 16 KiB, compressed.
fn read(path: &Path) -> Result<Vec<u8>, DriverError> {
    let failed = |error: std::io::Error| {
        DriverError::invalid(format!("Could not read the user data `{}`", path.display())).with_source(error)
    };
    let mut data = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(READ_AT_MOST + 1).read_to_end(&mut data))
        .map_err(failed)?;
    if data.len() as u64 > READ_AT_MOST {
        return Err(DriverError::invalid(format!("The user data `{}` is too large", path.display()))
            .with_hint("Have it fetch the rest, with `#include` and a URL"));
    }
    Ok(data)
}

/// The host key travels where whoever may read the instance's user data can read it. It is good for one login: the host
/// makes a new one then.
fn cloud_config(key: &HostKey) -> Result<String, DriverError> {
    let config = CloudConfig {
        ssh_deletekeys: true,
        ssh_keys: Keys { ed25519_private: &key.private, ed25519_public: &key.public },
    };
    // Every string is quoted, so that no reader, of YAML 1.1 or 1.2, takes one for something else.
    let text = serde_yaml::to_string_with_options(&config, serde_yaml::ser_options! { quote_all: true })
        .map_err(|error| DriverError::failed(format!("Could not write the user data as YAML: {error}")))?;
    Ok(format!("#cloud-config\n{text}"))
}

/// One part stays as it is; two become a MIME message, ours last, so that its keys win over theirs.
fn merged(ours: Option<String>, theirs: Option<Vec<u8>>, id: &str) -> Result<Option<Vec<u8>>, DriverError> {
    let (ours, theirs) = match (ours, theirs) {
        (ours, None) => return Ok(ours.map(String::into_bytes)),
        (None, theirs) => return Ok(theirs),
        (Some(ours), Some(theirs)) => (ours, theirs),
    };
    let boundary = format!("==machine-{id}==");
    let mut text = format!(
        "Content-Type: multipart/mixed; boundary=\"{boundary}\"\nMIME-Version: 1.0\n\n--{boundary}\n"
    );
    add_theirs(&mut text, theirs)?;
    let _ = writeln!(text, "--{boundary}");
    add_part(&mut text, "text/cloud-config", ours.as_bytes());
    let _ = writeln!(text, "--{boundary}--");
    Ok(Some(text.into_bytes()))
}

fn add_theirs(text: &mut String, theirs: Vec<u8>) -> Result<(), DriverError> {
    if theirs.starts_with(&[0x1f, 0x8b]) {
        add_part(text, "application/gzip", &theirs);
        return Ok(());
    }
    let unknown = || {
        DriverError::invalid("The user data is of no kind that cloud-init can take beside ours")
            .with_hint("It begins with #cloud-config, #!, #include, or is a MIME message")
    };
    let content = String::from_utf8(theirs).map_err(|_| unknown())?;
    let lowercase = content.get(..13).unwrap_or(&content).to_ascii_lowercase();
    if lowercase.starts_with("content-type:") || lowercase.starts_with("mime-version:") {
        // A message inside a message: it brings its own headers.
        text.push_str(content.trim_end());
        text.push('\n');
        return Ok(());
    }
    let kind = KINDS.iter().find(|(start, _)| content.starts_with(start)).ok_or_else(unknown)?;
    add_part(text, kind.1, content.as_bytes());
    Ok(())
}

fn add_part(text: &mut String, kind: &str, content: &[u8]) {
    let _ = write!(
        text,
        "Content-Type: {kind}; charset=\"utf-8\"\nMIME-Version: 1.0\nContent-Transfer-Encoding: base64\n\n"
    );
    let encoded = STANDARD.encode(content);
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(LINE));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
}

/// What is too long is compressed, which cloud-init undoes.
fn bounded(whole: Vec<u8>) -> Result<Vec<u8>, DriverError> {
    if whole.len() <= BYTES_AT_MOST {
        return Ok(whole);
    }
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    let packed = packed.write_all(&whole).and_then(|()| packed.finish());
    match packed {
        Ok(packed) if packed.len() <= BYTES_AT_MOST => Ok(packed),
        _ => Err(DriverError::invalid(format!(
            "The user data has {} bytes, and AWS takes {BYTES_AT_MOST}",
            whole.len()
        ))
        .with_hint("Have it fetch the rest, with `#include` and a URL")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn text(ours: Option<&str>, theirs: Option<&str>) -> String {
        let whole = merged(ours.map(str::to_owned), theirs.map(|t| t.as_bytes().to_vec()), "id").unwrap();
        String::from_utf8(whole.unwrap_or_default()).unwrap()
    }

    #[test]
    fn a_single_part_stays_as_it_is() {
        assert_eq!(text(Some("#cloud-config\n"), None), "#cloud-config\n");
        assert_eq!(text(None, Some("whatever")), "whatever");
        assert_eq!(text(None, None), "");
    }

    #[test]
    fn two_parts_are_a_message_with_ours_last() {
        let whole = text(Some("#cloud-config\n"), Some("#!/bin/sh\ntrue\n"));
        let theirs = whole.find("text/x-shellscript").unwrap();
        let ours = whole.find("text/cloud-config").unwrap();
        assert!(theirs < ours, "{whole}");
        assert!(whole.ends_with("--==machine-id==--\n"));
        assert!(whole.contains(&STANDARD.encode("#!/bin/sh\ntrue\n")));
    }

    #[test]
    fn a_message_of_theirs_keeps_its_headers() {
        let theirs = "Content-Type: multipart/mixed; boundary=\"x\"\nMIME-Version: 1.0\n\n--x--\n";
        assert!(text(Some("#cloud-config\n"), Some(theirs)).contains(theirs));
    }

    #[test]
    fn what_cloud_init_would_ignore_is_refused() {
        assert!(merged(Some("#cloud-config\n".into()), Some(b"hello".to_vec()), "id").is_err());
        assert!(merged(Some("#cloud-config\n".into()), Some(vec![0xff, 0xfe]), "id").is_err());
    }

    #[test]
    fn what_is_too_long_is_compressed_or_refused() {
        assert_eq!(bounded(vec![b'a'; 20_000]).unwrap()[..2], [0x1f, 0x8b]);
        let mut state = 1_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        })
        .take(40_000)
        .collect();
        assert!(bounded(noise).is_err());
    }
}
