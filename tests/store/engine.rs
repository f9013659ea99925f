//! A host with an engine: the stand-in for a host that provisioning is tested on, and a TLS server with the certificates
//! that lie on it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use machine_pki::Fingerprint;
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::json;

use crate::{
    home::Home,
    host::{Host, Kind},
};

/// A host of the driver `generic` whose engine answers by the certificates that lie on it.
pub(crate) struct Engine {
    host: Host,
}

impl Engine {
    pub(crate) fn new() -> Self {
        let host = Host::new(Kind::MachineOs);
        host.wait_for_ssh();
        let listener = TcpListener::bind(("127.0.0.1", host.engine_port)).unwrap();
        let tls = host.path("/etc/engine/tls");
        // It ends with the process of the tests.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let tls = tls.clone();
                thread::spawn(move || answer(stream.ok()?, &tls));
            }
        });
        Self { host }
    }

    /// Where it and its SSH are reached, as a driver says it.
    pub(crate) fn endpoint(&self) -> serde_json::Value {
        let (port, key, _) = self.host.login();
        json!({
            "address": "127.0.0.1", "engine_port": self.host.engine_port, "url": null,
            "ssh": { "host": "127.0.0.1", "port": port, "user": "root", "key": { "file": key } },
        })
    }

    pub(crate) fn host_key(&self) -> String {
        self.host.login().2.to_owned()
    }

    /// Records it in a store as finished, pinned to an authority; its certificates are made by the next command.
    pub(crate) fn record(&self, home: &Home, name: &str, authority: Fingerprint) {
        let (port, key, _) = self.host.login();
        home.write_record(
            name,
            &json!({
                "ConfigVersion": 4, "Name": name, "Id": "7f1c0e2e-8f0e-4a54-9c64-1f6f8f1f8f1f",
                "Created": "2026-01-01T00:00:00Z", "Phase": "Ready", "DriverName": "generic", "State": "Running",
                "Transport": { "MutualTls": { "Authority": authority } },
                "Driver": { "IPAddress": "127.0.0.1", "Config": {
                    "address": "127.0.0.1", "user": "root", "port": port, "engine_port": self.host.engine_port, "key": key,
                } },
                "Endpoint": self.endpoint(),
                "SSHHostKeys": [self.host_key()],
                "HostOptions": {},
            }),
        );
    }

    /// The authorities whose clients it lets in.
    pub(crate) fn trusted(&self) -> Vec<Fingerprint> {
        let text = self.host.read("/etc/engine/tls/ca.pem");
        let certificates = machine_pki::certificates(&text).unwrap();
        certificates.iter().map(|certificate| Fingerprint::of(certificate).unwrap()).collect()
    }

    pub(crate) fn server_pem(&self) -> String {
        self.host.read("/etc/engine/tls/server.pem")
    }
}

/// Answers one request; `None` if it did not come to that.
fn answer(mut stream: TcpStream, tls: &Path) -> Option<()> {
    let file = |name: &str| fs::read(tls.join(name)).ok();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&file("ca.pem")?) {
        roots.add(certificate.ok()?).ok()?;
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().ok()?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .ok()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(&file("server.pem")?).ok()?],
            PrivateKeyDer::from_pem_slice(&file("server-key.pem")?).ok()?,
        )
        .ok()?;
    let mut connection = rustls::ServerConnection::new(Arc::new(config)).ok()?;
    let mut tls = rustls::Stream::new(&mut connection, &mut stream);
    let mut request = [0; 4096];
    let mut length = 0;
    while !request[..length].windows(4).any(|end| end == b"\r\n\r\n") {
        match tls.read(&mut request[length..]) {
            Ok(0) | Err(_) => return None,
            Ok(more) => length += more,
        }
    }
    let body = r#"{"Version":"9.9.9","ApiVersion":"1.51","MinAPIVersion":"1.24"}"#;
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    tls.write_all(format!("{head}{body}").as_bytes()).ok()?;
    tls.conn.send_close_notify();
    tls.flush().ok()
}

/// An authority of the user's own, as files.
pub(crate) struct Corporate {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) fingerprint: Fingerprint,
}

impl Corporate {
    pub(crate) fn new(home: &Home) -> Self {
        let authority = machine_pki::Authority::generate("corporate").unwrap();
        let (certificate, key) = (home.path().join("corp.pem"), home.path().join("corp-key.pem"));
        fs::write(&certificate, authority.certificate_pem()).unwrap();
        fs::write(&key, authority.key_pem()).unwrap();
        let fingerprint = Fingerprint::of(authority.certificate_pem()).unwrap();
        Self { certificate, key, fingerprint }
    }

    /// The options that name it, before a command.
    pub(crate) fn named<'a>(&'a self, command: &[&'a str]) -> Vec<&'a str> {
        let (certificate, key) = (self.certificate.to_str().unwrap(), self.key.to_str().unwrap());
        [&["--tls-ca-cert", certificate, "--tls-ca-key", key], command].concat()
    }
}
