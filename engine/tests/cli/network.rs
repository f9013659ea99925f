//! Over TLS on the network, with certificates as `machine` makes them.

use std::fs;
use std::path::Path;
use std::process::Command;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::harness::{Engine, run};

const HOST: &str = "tcp://127.0.0.1:2376";

struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        parameters.distinguished_name.push(DnType::CommonName, name);
        let certificate = parameters.self_signed(&key).unwrap().pem();
        Self { certificate, issuer: Issuer::new(parameters, key) }
    }

    /// Writes a certificate for `name` and its key, and the certificate of `trusted`.
    fn write(&self, trusted: &Self, purpose: ExtendedKeyUsagePurpose, name: &str, folder: &Path) {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(vec![name.to_owned()]).unwrap();
        parameters.extended_key_usages = vec![purpose];
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("ca.pem"), &trusted.certificate).unwrap();
        fs::write(folder.join("cert.pem"), parameters.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
    }
}

fn serving(authority: &Authority, name: &str) -> Engine {
    let mut engine = Engine::prepare("{}", &["--host", HOST]);
    let folder = engine.path("server");
    authority.write(authority, ExtendedKeyUsagePurpose::ServerAuth, name, &folder);
    let file = |name: &str| folder.join(name).display().to_string();
    let configuration = serde_json::json!({
        "tlsverify": true, "tlscacert": file("ca.pem"), "tlscert": file("cert.pem"), "tlskey": file("key.pem"),
    });
    fs::write(engine.path("daemon.json"), configuration.to_string()).unwrap();
    engine.launch();
    engine
}

/// Our client beside the daemon, with what `machine env` sets.
fn client(engine: &Engine, certificates: &Path) -> Command {
    let mut command = engine.enter(env!("CARGO_BIN_EXE_engine"));
    for variable in crate::VARIABLES {
        command.env_remove(variable);
    }
    command.env("DOCKER_HOST", HOST).env("DOCKER_TLS_VERIFY", "1").env("DOCKER_CERT_PATH", certificates);
    command
}

#[test]
fn streams_flow_over_tls_and_end_in_halves() {
    let authority = Authority::new("ours");
    let engine = serving(&authority, "127.0.0.1");
    engine.load_busybox();
    let folder = engine.path("client");
    authority.write(&authority, ExtendedKeyUsagePurpose::ClientAuth, "client", &folder);
    let input = vec![b'y'; 3_000_000];
    let counted =
        run(client(&engine, &folder).args(["run", "--rm", "-i", "busybox", "wc", "-c"]), &input).ok();
    assert_eq!(counted.trim(), "3000000");
    let back = run(client(&engine, &folder).args(["run", "--rm", "-i", "busybox", "cat"]), &input);
    assert_eq!((back.code, back.stdout.len()), (Some(0), input.len()));
    let code = run(client(&engine, &folder).args(["run", "--rm", "busybox", "sh", "-c", "exit 4"]), b"").code;
    assert_eq!(code, Some(4));
    // The flags say the same as the variables.
    let mut flags = client(&engine, Path::new("/nowhere"));
    flags.env_remove("DOCKER_HOST").env_remove("DOCKER_TLS_VERIFY").args(["-H", HOST, "--tlsverify"]);
    for (flag, file) in [("--tlscacert", "ca.pem"), ("--tlscert", "cert.pem"), ("--tlskey", "key.pem")] {
        flags.arg(flag).arg(folder.join(file));
    }
    assert_eq!(run(flags.args(["images", "-q"]), b"").ok().trim().len(), 12);
}

#[test]
fn neither_side_takes_the_other_without_proof() {
    let (authority, other) = (Authority::new("ours"), Authority::new("other"));
    let engine = serving(&authority, "127.0.0.1");
    let wrong_client = engine.path("wrong-client");
    other.write(&authority, ExtendedKeyUsagePurpose::ClientAuth, "client", &wrong_client);
    let refused = run(client(&engine, &wrong_client).arg("ps"), b"").failed();
    assert!(refused.contains("error during connect to tcp://127.0.0.1:2376"), "{refused}");
    let wrong_server = engine.path("wrong-server");
    authority.write(&other, ExtendedKeyUsagePurpose::ClientAuth, "client", &wrong_server);
    let refused = run(client(&engine, &wrong_server).arg("ps"), b"").failed();
    assert!(refused.contains("UnknownIssuer"), "{refused}");
    let refused = run(client(&engine, Path::new("/nowhere")).arg("ps"), b"").failed();
    assert!(refused.contains("`/nowhere/ca.pem`"), "{refused}");
    // With --tls alone the daemon need not prove who it is; the client must.
    let mut unverified = client(&engine, &wrong_server);
    unverified.env_remove("DOCKER_TLS_VERIFY").args(["--tls", "version", "-f", "{{.Server.Os}}"]);
    assert_eq!(run(&mut unverified, b"").ok(), "linux\n");
    let mut nobody = client(&engine, Path::new("/nowhere"));
    nobody.env_remove("DOCKER_TLS_VERIFY").args(["--tls", "version"]);
    run(&mut nobody, b"").failed();

    let engine = serving(&authority, "10.9.8.7");
    let folder = engine.path("client");
    authority.write(&authority, ExtendedKeyUsagePurpose::ClientAuth, "client", &folder);
    let refused = run(client(&engine, &folder).arg("ps"), b"").failed();
    assert!(refused.contains("not valid for name"), "{refused}");
}
