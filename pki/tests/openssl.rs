//! OpenSSL as the outside judge of what is issued here, and as the maker of what is brought along.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use jiff::Timestamp;
use machine_pki::{Authority, Issued, PkiError, Usage, inspect, verify_issued};
use tempfile::TempDir;

/// A folder in which `openssl` runs.
struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn run(&self, arguments: &str) -> Output {
        let mut command = Command::new("openssl");
        command.args(arguments.split_whitespace()).current_dir(self.path());
        command.output().expect("these tests need the program `openssl`")
    }

    /// Runs what must succeed.
    fn ok(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path().join(name)).unwrap()
    }

    fn put(&self, name: &str, issued: &Issued) {
        self.write(&format!("{name}.pem"), &issued.certificate_pem);
        self.write(&format!("{name}-key.pem"), &issued.key_pem);
    }

    fn verifies(&self, arguments: &str) -> bool {
        self.run(&format!("verify -x509_strict -CAfile ca.pem {arguments}")).status.success()
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn servers_verify_for_their_names_and_purpose_only() {
    let bench = Bench::new();
    let authority = Authority::generate("tester").unwrap();
    bench.write("ca.pem", authority.certificate_pem());
    let wanted = names(&["localhost", "mc1.example.com", "127.0.0.1", "2001:db8::7"]);
    let server = authority.issue_server("tester.mc1", &wanted).unwrap();
    bench.put("server", &server);

    assert!(bench.verifies("-purpose sslserver server.pem"));
    assert!(bench.verifies("-purpose sslserver -verify_ip 127.0.0.1 server.pem"));
    assert!(bench.verifies("-purpose sslserver -verify_ip 2001:db8::7 server.pem"));
    assert!(bench.verifies("-purpose sslserver -verify_hostname mc1.example.com server.pem"));
    assert!(!bench.verifies("-purpose sslserver -verify_ip 127.0.0.2 server.pem"));
    assert!(!bench.verifies("-purpose sslserver -verify_hostname tester.mc1 server.pem"));
    assert!(!bench.verifies("-purpose sslclient server.pem"));

    let text = bench.ok("x509 -in server.pem -noout -text");
    for expected in [
        "TLS Web Server Authentication",
        "Digital Signature",
        "CA:FALSE",
        "X509v3 Authority Key Identifier",
        "prime256v1",
        "ecdsa-with-SHA256",
        "Subject: O = tester.mc1\n",
        "Issuer: O = tester\n",
    ] {
        assert!(text.contains(expected), "{expected} is not in {text}");
    }
    assert!(!text.contains("TLS Web Client Authentication"));
    assert!(server.key_pem.starts_with("-----BEGIN PRIVATE KEY-----\n"));
    assert_eq!(bench.ok("pkey -in server-key.pem -pubout"), bench.ok("x509 -in server.pem -noout -pubkey"));

    let facts = inspect(&server.certificate_pem).unwrap();
    assert_eq!(facts.names, wanted);
    assert_eq!(facts.organization, "tester.mc1");
    assert!(!facts.is_authority);
    let now = Timestamp::now();
    let back_dated = now.as_second() - facts.not_before.as_second();
    assert!((299..=330).contains(&back_dated), "{back_dated} s back");
    assert_eq!(facts.not_after.as_second() - facts.not_before.as_second(), 1080 * 24 * 3600);
}

#[test]
fn clients_verify_as_clients_only() {
    let bench = Bench::new();
    let authority = Authority::generate("tester").unwrap();
    bench.write("ca.pem", authority.certificate_pem());
    bench.put("client", &authority.issue_client("tester.<bootstrap>").unwrap());
    assert!(bench.verifies("-purpose sslclient client.pem"));
    assert!(!bench.verifies("-purpose sslserver client.pem"));
    assert!(inspect(&bench.read("client.pem")).unwrap().names.is_empty());
}

#[test]
fn our_authority_is_one() {
    let bench = Bench::new();
    let authority = Authority::generate("tester").unwrap();
    bench.write("ca.pem", authority.certificate_pem());
    let text = bench.ok("x509 -in ca.pem -noout -text");
    for expected in ["CA:TRUE, pathlen:0", "Certificate Sign, CRL Sign", "X509v3 Basic Constraints: critical"]
    {
        assert!(text.contains(expected), "{expected} is not in {text}");
    }
    let facts = inspect(authority.certificate_pem()).unwrap();
    assert!(facts.is_authority);
    let days = (facts.not_after.as_second() - facts.not_before.as_second()) / (24 * 3600);
    assert_eq!(days, 3652);
    let again = Authority::load(authority.certificate_pem(), authority.key_pem()).unwrap();
    bench.put("server", &again.issue_server("x", &names(&["localhost"])).unwrap());
    assert!(bench.verifies("-purpose sslserver -verify_hostname localhost server.pem"));
}

const AUTHORITY: &str = "-addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign";

#[test]
fn authorities_of_others_sign() {
    for (kind, make_key, convert) in [
        ("RSA, PKCS#1", "genrsa -out made.pem 2048", "rsa -in made.pem -traditional -out key.pem"),
        ("RSA, PKCS#8", "genrsa -out made.pem 2048", "pkcs8 -topk8 -nocrypt -in made.pem -out key.pem"),
        ("EC, SEC1 with parameters", "ecparam -name prime256v1 -genkey -out made.pem", "version"),
        ("EC, PKCS#8", "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out key.pem", "version"),
        ("Ed25519", "genpkey -algorithm ED25519 -out key.pem", "version"),
    ] {
        let bench = Bench::new();
        bench.ok(make_key);
        bench.ok(convert);
        if !bench.path().join("key.pem").exists() {
            fs::copy(bench.path().join("made.pem"), bench.path().join("key.pem")).unwrap();
        }
        bench.ok(&format!(
            "req -x509 -key key.pem -out ca.pem -days 30 -subj /C=DE/O=Old/CN=Old_CA {AUTHORITY}"
        ));
        let key = bench.read("key.pem");
        let authority =
            Authority::load(&bench.read("ca.pem"), &key).unwrap_or_else(|error| panic!("{kind}: {error}"));
        let server = authority.issue_server("tester.mc1", &names(&["10.0.0.1"])).unwrap();
        bench.put("server", &server);
        assert!(bench.verifies("-purpose sslserver -verify_ip 10.0.0.1 server.pem"), "{kind}");
        let now = Timestamp::now();
        let ca = authority.certificate_pem();
        verify_issued(ca, &server.certificate_pem, &server.key_pem, Usage::Server, now)
            .unwrap_or_else(|error| panic!("{kind}: {error}"));
    }
}

#[test]
fn unfit_authorities_are_refused() {
    let bench = Bench::new();
    for name in ["a", "b"] {
        bench.ok(&format!("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {name}.key"));
    }
    let make = |options: &str| {
        bench.ok(&format!("req -x509 -key a.key -out cert.pem -days 30 -subj {options}"));
        bench.read("cert.pem")
    };
    let (key, other_key) = (bench.read("a.key"), bench.read("b.key"));
    let good = make(&format!("/O=good {AUTHORITY}"));
    Authority::load(&good, &key).unwrap();

    let error = Authority::load(&good, &other_key).unwrap_err();
    assert!(matches!(error, PkiError::KeyMismatch { .. }), "{error}");
    assert!(error.hint().is_some());

    let leaf = make("/O=leaf -addext basicConstraints=critical,CA:FALSE");
    let error = Authority::load(&leaf, &key).unwrap_err();
    assert!(matches!(error, PkiError::NotAuthority { .. }), "{error}");

    let silent = make(
        "/O=silent -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,digitalSignature,cRLSign",
    );
    let error = Authority::load(&silent, &key).unwrap_err();
    assert!(matches!(error, PkiError::MayNotSign { .. }), "{error}");

    let twofold = make(&format!("/O=two/OU=one/OU=two {AUTHORITY}"));
    let error = Authority::load(&twofold, &key).unwrap_err();
    assert!(matches!(error, PkiError::UnusualName { .. }), "{error}");
}

#[test]
fn keys_that_cannot_be_used_say_why() {
    let bench = Bench::new();
    let authority = Authority::generate("tester").unwrap();
    let load = |key: &str| Authority::load(authority.certificate_pem(), key).unwrap_err();

    bench.ok(
        "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -aes256 -pass pass:secret -out pkcs8.pem",
    );
    assert!(matches!(load(&bench.read("pkcs8.pem")), PkiError::KeyEncrypted));
    bench.ok("ecparam -name prime256v1 -genkey -noout -out plain.pem");
    bench.ok("ec -in plain.pem -aes128 -passout pass:secret -out traditional.pem");
    assert!(matches!(load(&bench.read("traditional.pem")), PkiError::KeyEncrypted));
    bench.ok("genrsa -out small.pem 1024");
    bench.ok("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-521 -out large.pem");
    for text in [
        "",
        "no PEM",
        authority.certificate_pem(),
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        "-----BEGIN PRIVATE KEY-----\nAAAA\n",
        &bench.read("small.pem"),
        &bench.read("large.pem"),
        &" ".repeat(300_000),
    ] {
        let error = load(text);
        assert!(matches!(error, PkiError::Key { .. }), "{error}");
    }
}

#[test]
fn texts_that_are_no_certificate_say_so() {
    let authority = Authority::generate("tester").unwrap();
    let pem = authority.certificate_pem();
    for text in ["", "hello", authority.key_pem()] {
        assert!(matches!(inspect(text), Err(PkiError::NoCertificate)), "{text}");
    }
    let cut: String = pem.lines().take(3).chain(["-----END CERTIFICATE-----"]).collect::<Vec<_>>().join("\n");
    for text in [&cut, &pem[..pem.len() / 2], &"x".repeat(300_000)] {
        assert!(matches!(inspect(text), Err(PkiError::Certificate { .. })), "{text}");
    }
}

#[test]
fn what_should_be_issued_again_is_noticed() {
    let authority = Authority::generate("tester").unwrap();
    // An authority of the same name, so that only the signature tells them apart.
    let other = Authority::generate("tester").unwrap();
    let server = authority.issue_server("x", &names(&["localhost"])).unwrap();
    let client = authority.issue_client("x").unwrap();
    let now = Timestamp::now();
    let verify = |ca: &Authority, leaf: &Issued, key: &str, usage, now| {
        verify_issued(ca.certificate_pem(), &leaf.certificate_pem, key, usage, now)
    };
    verify(&authority, &server, &server.key_pem, Usage::Server, now).unwrap();
    verify(&authority, &client, &client.key_pem, Usage::Client, now).unwrap();

    let error = verify(&other, &server, &server.key_pem, Usage::Server, now).unwrap_err();
    assert!(matches!(error, PkiError::NotIssuedBy { .. }), "{error}");
    let error = verify(&authority, &server, &client.key_pem, Usage::Server, now).unwrap_err();
    assert!(matches!(error, PkiError::KeyMismatch { .. }), "{error}");
    let error = verify(&authority, &server, &server.key_pem, Usage::Client, now).unwrap_err();
    assert!(matches!(error, PkiError::WrongUsage { usage: "client", .. }), "{error}");
    let day = Duration::from_hours(24);
    let error = verify(&authority, &server, &server.key_pem, Usage::Server, now + day * 1081).unwrap_err();
    assert!(matches!(error, PkiError::Expired { .. }), "{error}");
    let error = verify(&authority, &server, &server.key_pem, Usage::Server, now - day).unwrap_err();
    assert!(matches!(error, PkiError::NotYetValid { .. }), "{error}");
}

#[test]
fn servers_need_proper_names() {
    let authority = Authority::generate("tester").unwrap();
    assert!(matches!(authority.issue_server("x", &[]), Err(PkiError::NoNames)));
    let error = authority.issue_server("x", &names(&["ok", "not ok"])).unwrap_err();
    assert_eq!(error.to_string(), "`not ok` is neither a DNS name nor an IP address");
}
