//! Questions to servers that are right, and to servers that are wrong in one way each.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use machine_pki::Authority;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType, date_time_ymd};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

const VERSION: &str = "{\"Version\":\"0.1.0\",\"ApiVersion\":\"1.51\",\"MinAPIVersion\":\"1.24\",\"Os\":\"linux\",\"Arch\":\"amd64\",\
                       \"KernelVersion\":\"6.1\",\"Components\":[]}";

/// For servers that will never say anything.
const IMPATIENT: Limits = Limits {
    connect: Duration::from_secs(10),
    handshake: Duration::from_millis(300),
    answer: Duration::from_millis(300),
};

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nApi-Version: 1.51\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Certificates of one authority for a server and a client.
struct Certificates {
    authority: Authority,
    server: (String, String),
    client: (String, String),
}

impl Certificates {
    fn for_names(names: &[&str]) -> Self {
        let authority = Authority::generate("test").unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let server = authority.issue_server("test", &names).unwrap();
        let client = authority.issue_client("test").unwrap();
        Self {
            authority,
            server: (server.certificate_pem.clone(), server.key_pem.clone()),
            client: (client.certificate_pem.clone(), client.key_pem.clone()),
        }
    }

    fn client(&self, port: u16) -> EngineClient {
        let url = format!("tcp://127.0.0.1:{port}");
        EngineClient::new(&url, self.authority.certificate_pem(), &self.client.0, &self.client.1).unwrap()
    }

    /// A server that lets in clients of `clients`, and answers everything with `answer`.
    async fn serve(&self, clients: &Authority, answer: String) -> u16 {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(clients.certificate_pem().as_bytes()).unwrap()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let chain = vec![CertificateDer::from_pem_slice(self.server.0.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(self.server.1.as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(chain, key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, answer) = (acceptor.clone(), answer.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        respond(stream, &answer).await;
                    }
                });
            }
        });
        port
    }
}

/// Answers one request.
async fn respond(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &str) {
    let mut request = Vec::new();
    let mut part = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut part).await {
            Ok(0) | Err(_) => return,
            Ok(count) => request.extend_from_slice(&part[..count]),
        }
    }
    let _ = stream.write_all(answer.as_bytes()).await;
    if answer.is_empty() {
        tokio::time::sleep(Duration::from_secs(30)).await;
    }
    let _ = stream.shutdown().await;
}

/// A server without TLS.
async fn serve_plain(answer: String) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            tokio::spawn(async move { respond(stream, &answer).await });
        }
    });
    port
}

#[tokio::test]
async fn an_engine_answers() {
    let certificates = Certificates::for_names(&["127.0.0.1"]);
    let port = certificates.serve(&certificates.authority, ok(VERSION)).await;
    let client = certificates.client(port);
    let version = client.version().await.unwrap();
    assert_eq!((version.version.as_str(), version.api_version.as_str()), ("0.1.0", "1.51"));
    assert_eq!(version.min_api_version, "1.24");

    let port = serve_plain(ok(VERSION)).await;
    let plain = EngineClient::plain(&format!("tcp://127.0.0.1:{port}")).unwrap();
    assert_eq!(plain.version().await.unwrap().version, "0.1.0");
}

#[cfg(unix)]
#[tokio::test]
async fn an_engine_answers_at_a_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("docker.sock");
    let client = EngineClient::plain(&format!("unix://{}", path.display())).unwrap();
    let error = client.version().await.unwrap_err();
    assert_eq!(error.to_string(), format!("Could not connect to the socket `{}`", path.display()));
    assert!(error.hint().is_some() && !error.is_final());
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        respond(stream, &ok(VERSION)).await;
    });
    assert_eq!(client.version().await.unwrap().version, "0.1.0");
}

#[tokio::test]
async fn certificates_are_judged() {
    let certificates = Certificates::for_names(&["192.0.2.1", "mc1"]);
    let port = certificates.serve(&certificates.authority, ok(VERSION)).await;
    let error = certificates.client(port).version().await.unwrap_err();
    assert!(matches!(error, EngineError::WrongName { .. }), "{error:?}");
    assert!(
        error.to_string().starts_with("The certificate of the engine is not valid for `127.0.0.1`"),
        "{error}"
    );
    assert!(error.to_string().contains("192.0.2.1"), "{error}");
    assert!(error.hint().unwrap().contains("machine regenerate-certs"));
    assert!(error.is_final());

    let ours = Certificates::for_names(&["127.0.0.1"]);
    let others = Certificates::for_names(&["127.0.0.1"]);
    let port = others.serve(&ours.authority, ok(VERSION)).await;
    let error = ours.client(port).version().await.unwrap_err();
    assert!(matches!(error, EngineError::UnknownIssuer { .. }), "{error:?}");

    // The server looks at our certificate after we have accepted its own.
    let port = ours.serve(&others.authority, ok(VERSION)).await;
    let client = ours.client(port);
    let error = client.version().await.unwrap_err();
    assert!(matches!(error, EngineError::ClientRefused { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("--client-certs"));
}

#[tokio::test]
async fn old_and_future_certificates_are_told_apart() {
    let mut certificates = Certificates::for_names(&["127.0.0.1"]);
    let key = KeyPair::from_pem(certificates.authority.key_pem()).unwrap();
    for (from, until, layer) in [(2001, 2002, "expired"), (2090, 2091, "future")] {
        let issuer = Issuer::from_ca_cert_pem(certificates.authority.certificate_pem(), &key).unwrap();
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.subject_alt_names = vec![SanType::IpAddress("127.0.0.1".parse().unwrap())];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        (parameters.not_before, parameters.not_after) =
            (date_time_ymd(from, 1, 1), date_time_ymd(until, 1, 1));
        let leaf_key = KeyPair::generate().unwrap();
        let leaf = parameters.signed_by(&leaf_key, &issuer).unwrap();
        certificates.server = (leaf.pem(), leaf_key.serialize_pem());
        let port = certificates.serve(&certificates.authority, ok(VERSION)).await;
        let error = certificates.client(port).version().await.unwrap_err();
        match layer {
            "expired" => assert!(matches!(error, EngineError::Expired { .. }), "{error:?}"),
            _ => assert!(matches!(error, EngineError::NotYetValid { .. }), "{error:?}"),
        }
        assert!(error.hint().is_some());
    }
}

#[tokio::test]
async fn ports_are_told_apart() {
    let certificates = Certificates::for_names(&["127.0.0.1"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // Nobody accepts, but the kernel does: the handshake never comes to an end.
    let error = certificates.client(port).with_limits(IMPATIENT).version().await.unwrap_err();
    assert!(matches!(error, EngineError::HandshakeTimeout { .. }), "{error:?}");
    // Bound and not listened to: nobody else can take the port meanwhile.
    let closed = tokio::net::TcpSocket::new_v4().unwrap();
    closed.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let error = certificates.client(closed.local_addr().unwrap().port()).version().await.unwrap_err();
    assert!(matches!(error, EngineError::Connect { .. }), "{error:?}");
    assert!(!error.is_final());
    assert!(error.hint().unwrap().contains("does not run"));

    let url = "tcp://no-such-host.invalid:2376";
    let (certificate, key) = &certificates.client;
    let client = EngineClient::new(url, certificates.authority.certificate_pem(), certificate, key).unwrap();
    let error = client.version().await.unwrap_err();
    assert!(matches!(error, EngineError::Address { .. }), "{error:?}");

    // SSH speaks first, HTTP answers a handshake with a complaint, and neither is TLS.
    for greeting in ["SSH-2.0-OpenSSH_9.2\r\n", "HTTP/1.0 400 Bad Request\r\n\r\n"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(greeting.as_bytes()).await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            tokio::time::sleep(Duration::from_secs(5)).await;
        });
        let error = certificates.client(port).version().await.unwrap_err();
        assert!(matches!(error, EngineError::NotTls { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn answers_are_judged() {
    let ask = async |answer: &str| {
        let port = serve_plain(answer.to_owned()).await;
        let client = EngineClient::plain(&format!("tcp://127.0.0.1:{port}")).unwrap();
        // Only a server that says nothing is waited for in vain.
        let client = if answer.is_empty() { client.with_limits(IMPATIENT) } else { client };
        client.version().await.unwrap_err()
    };
    let error =
        ask("HTTP/1.1 400 Bad Request\r\nContent-Length: 34\r\n\r\n{\"message\":\"client is too old\\n\"}  ")
            .await;
    assert!(
        matches!(&error, EngineError::Status { status: 400, message, .. } if message == "client is too old "),
        "{error:?}"
    );
    assert!(error.is_final());
    let error = ask("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy").await;
    assert!(
        matches!(&error, EngineError::Status { status: 503, message, .. } if message == "busy"),
        "{error:?}"
    );
    assert!(!error.is_final());
    assert!(matches!(ask(&ok("<html>")).await, EngineError::Answer { .. }));
    assert!(matches!(ask(&ok(&"x".repeat(2 * 1024 * 1024))).await, EngineError::TooLong { .. }));
    assert!(matches!(ask("SSH-2.0-OpenSSH_9.2\r\n").await, EngineError::NotHttp { .. }));
    assert!(matches!(
        ask("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await,
        EngineError::Broken { .. }
    ));
    assert!(matches!(ask("").await, EngineError::AnswerTimeout { .. }));
}

#[tokio::test]
async fn what_an_engine_says_of_itself_is_short_and_printable() {
    let ask = async |answer: &str| {
        let port = serve_plain(ok(answer)).await;
        let client = EngineClient::plain(&format!("tcp://127.0.0.1:{port}")).unwrap();
        client.version().await
    };
    let long = "9".repeat(100_000);
    let hostile = serde_json::json!({
        "Version": "1.0\u{1b}[2J\r\n\u{9b}31m\u{202e}x", "ApiVersion": long, "Os": "\u{7}linux\u{0}", "Arch": " a b ",
    });
    let version = ask(&hostile.to_string()).await.unwrap();
    assert_eq!(version.version, "1.0[2J31mx");
    assert_eq!(version.api_version, "9".repeat(80));
    assert_eq!((version.os.as_str(), version.arch.as_str()), ("linux", "a b"));
    for nothing in ["{}", "{\"Version\":\"\"}", "{\"Version\":\"\\u001b\"}", "{\"Version\":null}", "[]"] {
        let error = ask(nothing).await.unwrap_err();
        assert!(matches!(error, EngineError::Answer { .. }), "{nothing}: {error:?}");
    }
}

#[test]
fn damaged_files_are_named() {
    let certificates = Certificates::for_names(&["127.0.0.1"]);
    let (certificate, key) = &certificates.client;
    let authority = certificates.authority.certificate_pem();
    let reason = |authority: &str, certificate: &str, key: &str| {
        EngineClient::new("tcp://127.0.0.1:2376", authority, certificate, key).unwrap_err().to_string()
    };
    assert!(reason("", certificate, key).contains("the authority's certificate"));
    assert!(reason(authority, "", key).contains("the client's certificate"));
    assert!(reason(authority, certificate, "").contains("the client's key"));
    let other = Certificates::for_names(&["127.0.0.1"]);
    assert_eq!(reason(authority, certificate, &other.client.1), "Could not use the client's certificate");
}
