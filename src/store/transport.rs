//! How a host's engine is reached and whom it trusts, as its record says.
//!
//! Records that were written before they said so are completed when they are read, by these rules:
//!
//! - A host that `machine` or docker-machine provisioned (any driver but `none`) is reached by mutual TLS.
//! - docker-machine spoke TLS to every host, one of the driver `none` included. Such a one is plain only where that was
//!   never so: its URL is a socket's or names another protocol (`unix`, `npipe`, `http`, `ssh`), its port is 2375, by
//!   convention the one without TLS, or its record says `"TlsVerify": false`.
//! - `machine` itself gave hosts of the driver `none` no certificates (format 4). Such a one is plain, unless its folder
//!   has a client's files, which the user must have put there.
//! - The authority is the one whose certificate is in the host's own folder, where provisioning puts it. Without that
//!   it is the store's own, if the record names the `certs/ca.pem` of the store that it was written in. Otherwise it is
//!   not known, and nothing is signed or trusted in its place.

use std::path::Path;

use machine_driver::HostName;
use machine_pki::Fingerprint;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Store, together};

/// How an engine is reached, and whom both sides trust.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Transport {
    /// Both sides show a certificate.
    #[serde(rename_all = "PascalCase")]
    MutualTls {
        /// Whose certificates both show. `None`: an older record, of which nobody can say.
        authority: Option<Fingerprint>,
        /// Another authority that both trust besides, while hosts are moved from one to the other.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        also_trusted: Option<Fingerprint>,
    },
    /// As its URL says, without certificates of ours.
    Plain,
}

impl Transport {
    /// Mutual TLS with certificates of one authority.
    pub fn trusting(authority: Fingerprint) -> Self {
        Self::MutualTls { authority: Some(authority), also_trusted: None }
    }

    /// The authority that the host is pinned to, where it is known.
    pub fn authority(&self) -> Option<Fingerprint> {
        match self {
            Self::MutualTls { authority, .. } => *authority,
            Self::Plain => None,
        }
    }
}

/// Writes the transport into a record that does not say it.
pub(super) fn complete(value: &mut Value, name: &HostName, store: &Store, version: u64) {
    let transport = match value.get("Transport") {
        // Also that nobody can say which authority it is: what was not known once is never guessed later.
        Some(said) if !said.is_null() => return,
        _ if is_plain(value, name, store, version) => Transport::Plain,
        _ => Transport::MutualTls { authority: authority_of(value, name, store), also_trusted: None },
    };
    if let (Ok(transport), Some(fields)) = (serde_json::to_value(transport), value.as_object_mut()) {
        fields.insert("Transport".into(), transport);
    }
}

fn is_plain(value: &Value, name: &HostName, store: &Store, version: u64) -> bool {
    if value.get("DriverName").and_then(Value::as_str) != Some("none") {
        return false;
    }
    if version >= 4 {
        let folder = store.folder(name);
        return ["ca.pem", "cert.pem", "key.pem"]
            .iter()
            .all(|file| matches!(together::read([&folder.join(file)]), Ok([None])));
    }
    if value.pointer("/HostOptions/EngineOptions/TlsVerify") == Some(&Value::Bool(false)) {
        return true;
    }
    let url = value.pointer("/Driver/URL").and_then(Value::as_str).unwrap_or_default();
    match url.split_once("://") {
        Some(("tcp" | "https", rest)) => rest.trim_end_matches('/').ends_with(":2375"),
        Some(("unix" | "npipe" | "http" | "ssh", _)) => true,
        _ => false,
    }
}

fn authority_of(value: &Value, name: &HostName, store: &Store) -> Option<Fingerprint> {
    let of = |path: &Path| {
        let [text] = together::read([path]).ok()?;
        Fingerprint::of(&text?).ok()
    };
    let own_copy = store.folder(name).join("ca.pem");
    match together::read([&own_copy]) {
        // One that is there and cannot be read is not replaced by another.
        Ok([Some(_)]) | Err(_) => return of(&own_copy),
        Ok([None]) => {}
    }
    let named =
        value.pointer("/HostOptions/AuthOptions/CaCertPath").and_then(Value::as_str).unwrap_or_default();
    let home = value.pointer("/Driver/StorePath").and_then(Value::as_str).unwrap_or_default();
    let certificate = store.certificates().own_authority().certificate;
    let is_own = named.is_empty()
        || Path::new(named) == certificate
        || (!home.is_empty() && Path::new(named) == Path::new(home).join("certs/ca.pem"));
    if is_own { of(&certificate) } else { None }
}
