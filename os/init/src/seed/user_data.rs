//! The kinds of user data: `#cloud-config`, a script, or a multipart message with several of both.

use super::cloud_config::CloudConfig;
use super::multipart::{self, MultipartError, Part};
use super::{SeedError, USER_DATA};

/// User data, understood.
#[derive(Debug, Default)]
pub(super) struct UserData {
    pub(super) config: CloudConfig,
    /// To be run once for this instance, in this order, after `runcmd`.
    pub(super) scripts: Vec<String>,
    /// Parts that could not be used; the rest is.
    pub(super) complaints: Vec<SeedError>,
}

impl UserData {
    /// Understands what can be understood.
    pub(super) fn parse(text: &str) -> UserData {
        let mut user_data = UserData::default();
        if multipart::is_multipart(text) {
            let (parts, complaints) = multipart::parse(text);
            user_data.complaints.extend(complaints.into_iter().map(SeedError::from));
            for part in parts {
                let outcome = user_data.follow_part(part);
                user_data.complaints.extend(outcome.err());
            }
        } else if let Err(complaint) = user_data.follow(&text.replace("\r\n", "\n")) {
            user_data.complaints.push(complaint);
        }
        user_data
    }

    fn follow_part(&mut self, part: Part) -> Result<(), SeedError> {
        let number = part.number;
        match part.kind.as_str() {
            "text/cloud-config" => self.merge(&part.content).map_err(|failure| within(number, failure)),
            "text/x-shellscript" => {
                self.scripts.push(part.content);
                Ok(())
            }
            // cloud-init looks into these as well.
            "text/plain" | "text/x-not-multipart" | "application/octet-stream" => {
                self.follow(&part.content).map_err(|failure| within(number, failure))
            }
            _ => Err(SeedError::PartKind { number, kind: part.kind }),
        }
    }

    /// Tells the kind from the first line.
    fn follow(&mut self, text: &str) -> Result<(), SeedError> {
        if text.trim().is_empty() {
            return Ok(());
        }
        if text.starts_with("#!") {
            self.scripts.push(text.to_owned());
            return Ok(());
        }
        if !CloudConfig::is_announced(text) {
            return Err(SeedError::Kind);
        }
        self.merge(text)
    }

    fn merge(&mut self, text: &str) -> Result<(), SeedError> {
        self.config.merge(CloudConfig::parse(text)?);
        Ok(())
    }
}

/// Says in which part it was.
fn within(number: usize, failure: SeedError) -> SeedError {
    match failure {
        SeedError::Kind => SeedError::PartKind { number, kind: "text/plain".to_owned() },
        SeedError::Syntax { name: USER_DATA, reason } => SeedError::PartSyntax { number, reason },
        other => other,
    }
}

impl From<MultipartError> for SeedError {
    fn from(failure: MultipartError) -> SeedError {
        SeedError::Multipart(failure)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn multipart(parts: &[(&str, &str)]) -> UserData {
        let mut text = "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"b\"\n\n".to_owned();
        for (kind, content) in parts {
            text.push_str(&format!("--b\nContent-Type: {kind}\n\n{content}\n"));
        }
        UserData::parse(&(text + "--b--\n"))
    }

    #[test]
    fn only_the_known_kinds() {
        for text in ["", "\n", "#cloud-config\n", "#cloud-config\r\nhostname: x\r\n", "#!/bin/sh\n"] {
            assert_eq!(UserData::parse(text).complaints.len(), 0, "{text}");
        }
        for text in ["#cloud-config-archive\n", "## template: jinja\n#cloud-config\n", "#include\nx", "hi"] {
            assert!(matches!(UserData::parse(text).complaints[..], [SeedError::Kind]), "{text}");
        }
    }

    #[test]
    fn a_script_is_a_script() {
        let user_data = UserData::parse("#!/bin/sh\r\necho hi\r\n");
        assert_eq!(user_data.scripts, ["#!/bin/sh\necho hi\n"]);
    }

    #[test]
    fn parts_are_merged_in_their_order() {
        let user_data = multipart(&[
            ("text/x-shellscript", "#!/bin/sh\necho 1"),
            ("text/cloud-config", "#cloud-config\nhostname: a\nruncmd: [one]\nssh_keys: {rsa_public: a}\n"),
            ("text/plain; charset=utf-8", "#cloud-config\nhostname: b\nruncmd: [two]\nusers: [default]\n"),
            ("text/plain", "#!/bin/sh\necho 2"),
            ("text/cloud-config", "ssh_keys: {ed25519_public: b}\nusers: [jo]\n"),
        ]);
        assert!(user_data.complaints.is_empty(), "{:?}", user_data.complaints);
        assert_eq!(user_data.scripts, ["#!/bin/sh\necho 1", "#!/bin/sh\necho 2"]);
        let config = user_data.config;
        assert_eq!(config.host_name(), Some("b"));
        assert_eq!(
            config.commands().iter().map(|words| words[2].as_str()).collect::<Vec<_>>(),
            ["one", "two"]
        );
        assert_eq!(config.ssh_keys.keys().collect::<Vec<_>>(), ["ed25519_public"]);
        assert_eq!(config.accounts("docker", &[]).len(), 2);
    }

    #[test]
    fn a_bad_part_leaves_the_others() {
        let user_data = multipart(&[
            ("text/cloud-boothook", "#!/bin/sh\n"),
            ("multipart/mixed; boundary=x", "--x\n\n#!/bin/sh\n--x--\n"),
            ("text/cloud-config", "users: [{"),
            ("text/plain", "hi"),
            ("text/cloud-config", "hostname: b"),
        ]);
        assert!(
            matches!(
                &user_data.complaints[..],
                [
                    SeedError::PartKind { number: 1, .. },
                    SeedError::PartKind { number: 2, .. },
                    SeedError::PartSyntax { number: 3, .. },
                    SeedError::PartKind { number: 4, .. }
                ]
            ),
            "{:?}",
            user_data.complaints
        );
        assert_eq!((user_data.scripts.len(), user_data.config.host_name()), (0, Some("b")));
    }
}
