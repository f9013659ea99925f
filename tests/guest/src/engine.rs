//! The engine on a guest: a script that provisioning installs, starts and reloads, and TLS for it, with the certificates
//! that it has read.

use std::{
    fs,
    io::{Read as _, Write as _},
    path::Path,
    sync::Arc,
};

use rustls::{RootCertStore, ServerConfig, ServerConnection, Stream, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

use crate::inside::Connection;

/// What provisioning installs.
pub const PROGRAM: &str = include_str!("engine.sh");
/// What it says its version is.
pub const VERSION: &str = "0.1.0";
/// The port on which it can be asked.
pub const PORT: u16 = 2376;

/// Whether it runs on the guest with this root.
pub(crate) fn runs(root: &Path) -> bool {
    root.join("run/engine.pid").exists() && root.join("run/engine.tls").exists()
}

/// Answers one request by mutual TLS; `None` if it did not come to that.
pub(crate) fn answer(mut stream: Connection, root: &Path) -> Option<()> {
    if !runs(root) {
        return None;
    }
    let config = Arc::new(config(&root.join("run/engine.tls"))?);
    let mut connection = ServerConnection::new(config).ok()?;
    let mut tls = Stream::new(&mut connection, &mut stream);
    let mut request = [0; 4096];
    let mut length = 0;
    while !request[..length].windows(4).any(|end| end == b"\r\n\r\n") {
        match tls.read(&mut request[length..]) {
            Ok(0) | Err(_) => return None,
            Ok(more) => length += more,
        }
    }
    let (status, body) = if request.starts_with(b"GET /version ") {
        ("200 OK", format!(r#"{{"Version":"{VERSION}","ApiVersion":"1.51","MinAPIVersion":"1.24"}}"#))
    } else {
        ("404 Not Found", r#"{"message":"page not found"}"#.to_owned())
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    tls.write_all(format!("{head}{body}").as_bytes()).ok()?;
    tls.conn.send_close_notify();
    tls.flush().ok()
}

/// As the certificates say that the engine has read last.
fn config(folder: &Path) -> Option<ServerConfig> {
    let file = |name: &str| fs::read(folder.join(name)).ok();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&file("tlscacert")?) {
        roots.add(certificate.ok()?).ok()?;
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().ok()?;
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .ok()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(&file("tlscert")?).ok()?],
            PrivateKeyDer::from_pem_slice(&file("tlskey")?).ok()?,
        )
        .ok()
}
