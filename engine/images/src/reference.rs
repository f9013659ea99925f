//! Names of images: `busybox` is `docker.io/library/busybox:latest` in full and is shown as `busybox:latest`.
//!
//! The grammar is that of docker's `distribution/reference`. oci-spec reads names too, but no host that is an IPv6 address
//! or is told by its capital letters, and every name without a tag as one with `latest`.

use std::fmt;

use super::error::ImageError;

const DEFAULT_DOMAIN: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
const OFFICIAL: &str = "library/";
const LONGEST_NAME: usize = 255;
const LONGEST_TAG: usize = 128;

/// A name in full, with at most a tag and a digest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl Reference {
    /// Reads a name as people write it. Nothing is added but the domain and `library/`.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        let invalid = || ImageError::InvalidReference { reference: text.to_owned() };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        if digest.is_some_and(|digest| !is_digest(digest)) {
            return Err(invalid());
        }
        // A colon before a slash belongs to a port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) || (name.len() == 64 && is_hexadecimal(name)) {
            return Err(invalid());
        }
        let (domain, path) = match name.split_once('/') {
            Some((first, rest)) if is_domain_by_looks(first) => (first, rest),
            _ => (DEFAULT_DOMAIN, name),
        };
        let domain = if domain == "index.docker.io" { DEFAULT_DOMAIN } else { domain };
        let path = if domain == DEFAULT_DOMAIN && !path.contains('/') {
            format!("{OFFICIAL}{path}")
        } else {
            path.to_owned()
        };
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(ImageError::UpperCaseReference { path });
        }
        let well_formed = is_domain(domain) && path.split('/').all(is_path_component);
        if !well_formed || domain.len() + 1 + path.len() > LONGEST_NAME {
            return Err(invalid());
        }
        Ok(Self {
            domain: domain.to_owned(),
            path,
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }

    /// The same with `latest` if it says neither tag nor digest.
    #[must_use]
    pub fn with_default_tag(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    #[must_use]
    pub(super) fn without_tag(mut self) -> Self {
        self.tag = None;
        self
    }

    /// The same repository at a digest.
    #[must_use]
    pub(super) fn with_digest(&self, digest: &str) -> Self {
        Self { tag: None, digest: Some(digest.to_owned()), ..self.clone() }
    }

    /// The same repository with another tag, or at a digest.
    pub fn at(&self, tag_or_digest: &str) -> Result<Self, ImageError> {
        let mark = if tag_or_digest.contains(':') { '@' } else { ':' };
        Self::parse(&format!("{}{mark}{tag_or_digest}", self.repository()))
    }

    /// What a registry is asked for: the digest, else the tag; nothing if it says neither.
    pub fn tag_or_digest(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or_default()
    }

    /// The registry.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within its registry.
    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// Domain and path, in full.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// Domain and path as people write them.
    pub fn familiar_repository(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.repository();
        }
        let short = self.path.strip_prefix(OFFICIAL).filter(|rest| !rest.contains('/')).unwrap_or(&self.path);
        // Without the domain, it must not be read as another name.
        let ambiguous = short.split_once('/').is_some_and(|(first, _)| is_domain_by_looks(first))
            || (short.len() == 64 && is_hexadecimal(short));
        if ambiguous { self.repository() } else { short.to_owned() }
    }

    /// The whole as people write it.
    pub fn familiar(&self) -> String {
        self.with_repository(self.familiar_repository())
    }

    fn with_repository(&self, mut text: String) -> String {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(digest);
        }
        text
    }
}

/// In full; this is the key under which names are stored.
impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.with_repository(self.repository()))
    }
}

/// `sha256:` and 64 lower case hexadecimal digits.
pub(super) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && is_hexadecimal(hex))
}

pub(super) fn is_hexadecimal(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= LONGEST_TAG
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

/// What tells `localhost/x` and `registry:5000/x` from `library/x`.
fn is_domain_by_looks(text: &str) -> bool {
    text == "localhost" || text.contains(['.', ':']) || text.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    if port.is_some_and(|port| port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit())) {
        return false;
    }
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    host.split('.').all(|label| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    })
}

/// Lower case letters and digits, joined by `.`, `_`, `__` or any number of `-`.
fn is_path_component(text: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends_well =
        text.bytes().next().is_some_and(alphanumeric) && text.bytes().last().is_some_and(alphanumeric);
    let separators =
        text.split(|character: char| character.is_ascii_lowercase() || character.is_ascii_digit());
    ends_well
        && separators
            .filter(|run| !run.is_empty())
            .all(|run| matches!(run, "." | "_" | "__") || run.bytes().all(|byte| byte == b'-'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn short_names_are_completed_and_shown_short() {
        for (written, full, familiar) in [
            ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
            ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("index.docker.io/library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("me/app", "docker.io/me/app:latest", "me/app:latest"),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            ("registry:5000/a/b:v1", "registry:5000/a/b:v1", "registry:5000/a/b:v1"),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
            ("a__b/c--d.e_f", "docker.io/a__b/c--d.e_f:latest", "a__b/c--d.e_f:latest"),
        ] {
            let reference = Reference::parse(written).unwrap().with_default_tag();
            assert_eq!(reference.to_string(), full, "{written}");
            assert_eq!(reference.familiar(), familiar, "{written}");
            assert_eq!(Reference::parse(full).unwrap(), reference);
        }
        let digest = format!("busybox@sha256:{}", "a".repeat(64));
        let reference = Reference::parse(&digest).unwrap().with_default_tag();
        assert_eq!((reference.tag(), reference.familiar()), (None, digest));
    }

    #[test]
    fn what_is_not_a_name_is_refused() {
        let long_tag = format!("a:{}", "t".repeat(129));
        let long_name = "a/".repeat(130);
        let only_hexadecimal = "a".repeat(64);
        let texts = [
            "",
            ":",
            "a:",
            ":tag",
            "a b",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a//b",
            "/a",
            "a/",
            "../a",
            "a/../b",
            "a:b:c",
            "a@sha256:12",
            "a@",
            "ä",
            "a\0b",
            "host:port/a",
            "-host.x/a",
            &long_tag,
            &long_name,
            &only_hexadecimal,
        ];
        for text in texts {
            assert!(Reference::parse(text).is_err(), "{text}");
        }
        let error = Reference::parse("Busybox").unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid reference format: repository name (library/Busybox) must be lowercase"
        );
    }
}
