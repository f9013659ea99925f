//! What a user can ask of an engine that cannot be.

use super::VALUE_AT_MOST;
use crate::provision::render::RenderError;

/// The user asked for something that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("The engine option `{key}` is set by `machine` itself")]
    Managed { key: String },
    #[error("The engine option `{key}` takes `NAME=VALUE`, not `{value}`")]
    NoPair { key: String, value: String },
    #[error("The engine option `{key}` takes {expected}, not `{value}`")]
    Value { key: String, value: String, expected: &'static str },
    #[error("`{key}` is no name of an engine option")]
    OptionName { key: String },
    #[error("`{name}` is no name of an environment variable")]
    VariableName { name: String },
    #[error("The value of `{name}` has control characters or is longer than {VALUE_AT_MOST} bytes")]
    Unprintable { name: String },
    #[error("The installer's address `{url}` is neither `https://…` nor `http://…`")]
    InstallUrl { url: String },
    #[error("The installer at `{url}` would be run as root, and anybody on the way could replace it")]
    InstallUnprotected { url: String },
    #[error("`{digest}` is no SHA-256 digest in hexadecimal")]
    InstallDigest { digest: String },
    #[error("A digest is given, and no installer that it is of")]
    DigestOfNothing,
    #[error("`/etc/docker/daemon.json` on the host is not a JSON object")]
    Existing { source: Option<serde_json::Error> },
    #[error(transparent)]
    Render(#[from] RenderError),
    #[error("`{template}` did not render to a JSON object")]
    Rendered { template: &'static str, source: Option<serde_json::Error> },
}

impl SettingsError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Managed { .. } => "Certificates are renewed with `machine regenerate-certs`",
            Self::NoPair { .. } | Self::Value { .. } | Self::OptionName { .. } => {
                "Engine options are given as `--engine-opt KEY=VALUE`"
            }
            Self::VariableName { .. } | Self::Unprintable { .. } => {
                "The environment is given as `--engine-env NAME=VALUE`; a value may have blanks, quotes and line ends"
            }
            Self::InstallUrl { .. } => {
                "Give the address of an install script, such as `https://get.docker.com`"
            }
            Self::InstallUnprotected { .. } => {
                "Give an address that begins with `https://`, or say with `--engine-install-sha256` what `sha256sum` says of \
                 the script that you mean"
            }
            Self::InstallDigest { .. } => "Give the 64 digits that `sha256sum` prints",
            Self::DigestOfNothing => "Give its address with `--engine-install-url`",
            Self::Existing { .. } => "Correct that file or remove it, and run the same command again",
            Self::Render(_) | Self::Rendered { .. } => return None,
        };
        Some(text.to_owned())
    }
}
