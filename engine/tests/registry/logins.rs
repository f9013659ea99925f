//! Who the caller is: passwords, tokens, certificates.

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};

use super::servers::{Fake, Fixture, Registry, Reply, denial};
use super::{CONFIGURATION, layer};
use crate::harness::Engine;

/// `me:word`, as htpasswd writes it (bcrypt).
pub(crate) fn passwords(engine: &Engine) -> Value {
    let path = engine.path("passwords");
    fs::write(&path, "me:$2y$05$8yJeOVBc5s.2uOAmW43Lp.CLufcOOuB1TXewiOUpmEdU7mirpTlJG\n").unwrap();
    json!({"auth": {"htpasswd": {"realm": "test", "path": path}}})
}

#[test]
fn a_password_is_asked_for_and_shown() {
    let engine = Engine::start();
    let _registry = Registry::start(&engine, "registry", "127.0.0.1:5000", &passwords(&engine));
    engine.load_busybox();
    engine.docker(["tag", "busybox", "localhost:5000/app"]).ok();
    let error = engine.docker(["push", "localhost:5000/app"]).failed();
    assert!(error.contains("no basic auth credentials") || error.contains("unauthorized"), "{error}");
    let error = engine.docker(["pull", "localhost:5000/app"]).failed();
    assert!(error.contains("pull access denied for localhost:5000/app"), "{error}");
    let login = |password: &str| {
        engine.docker_with_input(
            ["login", "-u", "me", "--password-stdin", "localhost:5000"],
            password.as_bytes(),
        )
    };
    let error = login("wrong").failed();
    assert!(error.contains("unauthorized: incorrect username or password"), "{error}");
    let said = login("word").ok();
    assert!(said.contains("Login Succeeded"), "{said}");
    engine.docker(["push", "localhost:5000/app"]).ok();
    engine.docker(["rmi", "busybox", "localhost:5000/app"]).ok();
    engine.docker(["pull", "localhost:5000/app"]).ok();
    engine.docker(["logout", "localhost:5000"]).ok();
    engine.docker(["rmi", "localhost:5000/app"]).ok();
    let error = engine.docker(["pull", "localhost:5000/app"]).failed();
    assert!(error.contains("docker login"), "{error}");
    assert!(!engine.log().contains("word"), "a password is in the log");
}

/// Tokens in place of passwords, from a service that is another server.
#[test]
fn tokens_are_fetched_for_what_is_to_be_done() {
    let engine = Engine::start_with(CONFIGURATION, &[]);
    let fixture = Fixture::of(&[layer("file", 1000)]);
    let served = fixture.clone();
    let valid = Arc::new(Mutex::new(1));
    let (current, issued) = (Arc::clone(&valid), Arc::clone(&valid));
    let service = Fake::start(&engine, "127.0.0.1:5002", move |asked| {
        let basic = "Basic bWU6d29yZA==";
        let by_password = asked.headers.get("authorization").is_some_and(|value| value == basic);
        let anonymous = !asked.headers.contains_key("authorization") && asked.path.contains("public");
        if !by_password && !anonymous && asked.method == "GET" {
            return Reply::new(401, json!({"details": "incorrect username or password"}).to_string());
        }
        let number = *issued.lock().unwrap();
        let mut token = json!({"token": format!("t{number}"), "expires_in": 300});
        if asked.path.contains("offline_token=true") {
            token["refresh_token"] = json!("kept");
        }
        Reply::new(200, token.to_string())
    });
    let registry = Fake::start(&engine, "127.0.0.1:5001", move |asked| {
        let number = *current.lock().unwrap();
        let shown = asked.headers.get("authorization").cloned().unwrap_or_default();
        if shown != format!("Bearer t{number}") {
            return denial(401, "UNAUTHORIZED", "authentication required").with(
                "WWW-Authenticate",
                "Bearer realm=\"http://127.0.0.1:5002/token\",service=\"test\",scope=\"repository:x:pull\"",
            );
        }
        // A token that ends while it is used.
        if asked.path.contains("/blobs/") && number == 1 {
            *current.lock().unwrap() = 2;
            return denial(401, "UNAUTHORIZED", "authentication required")
                .with("WWW-Authenticate", "Bearer realm=\"http://127.0.0.1:5002/token\",service=\"test\"");
        }
        served.answer(asked)
    });
    engine.docker(["pull", "127.0.0.1:5001/public"]).ok();
    assert_eq!(*valid.lock().unwrap(), 2);
    let scoped = |needle: &str| {
        service
            .asked
            .lock()
            .unwrap()
            .iter()
            .any(|one| one.path.contains(needle) && one.path.contains("service=test"))
    };
    assert!(scoped("scope=repository%3Apublic%3Apull"), "{:?}", service.asked.lock().unwrap());
    let error = engine.docker(["pull", "127.0.0.1:5001/private"]).failed();
    assert!(error.contains("unauthorized: incorrect username or password"), "{error}");
    let login = ["login", "-u", "me", "--password-stdin", "127.0.0.1:5001"];
    engine.docker_with_input(login, b"no").failed();
    engine.docker_with_input(login, b"word").ok();
    let kept = fs::read_to_string(engine.path("docker-config/config.json")).unwrap();
    assert!(kept.contains("identitytoken") && kept.contains("kept"), "{kept}");
    engine.docker(["pull", "127.0.0.1:5001/private"]).ok();
    let posted = service.asked.lock().unwrap().iter().any(|one| one.method == "POST" && one.path == "/token");
    assert!(posted, "the kept token was not exchanged");
    assert!(registry.count("GET", "/manifests/latest") >= 2);
}

/// What says who the caller is goes to the registry and to nobody that it leads to.
#[test]
fn a_redirect_to_another_host_sees_no_password() {
    let engine = Engine::start_with(CONFIGURATION, &[]);
    let fixture = Fixture::of(&[layer("file", 1000)]);
    let (served, stored) = (fixture.clone(), fixture.clone());
    let storage = Fake::start(&engine, "127.0.0.2:5003", move |asked| stored.answer(asked));
    let _registry = Fake::start(&engine, "127.0.0.1:5001", move |asked| {
        if asked.headers.get("authorization").is_none_or(|shown| shown != "Basic bWU6d29yZA==") {
            return denial(401, "UNAUTHORIZED", "no").with("WWW-Authenticate", "Basic realm=\"x\"");
        }
        if asked.path.contains("/blobs/") {
            return Reply::new(307, "")
                .with("Location", format!("http://127.0.0.2:5003{}?signed=1", asked.path));
        }
        served.answer(asked)
    });
    engine.docker_with_input(["login", "-u", "me", "--password-stdin", "127.0.0.1:5001"], b"word").ok();
    engine.docker(["pull", "127.0.0.1:5001/app"]).ok();
    let asked = storage.asked.lock().unwrap();
    assert!(!asked.is_empty());
    assert!(asked.iter().all(|one| !one.headers.contains_key("authorization")), "{asked:?}");
}

/// A registry elsewhere: certificates are checked, unless the administrator says that they are not.
#[test]
fn certificates_are_checked() {
    let mut engine = Engine::start_with(CONFIGURATION, &[]);
    // An address of this namespace that is no loopback address to anybody.
    engine.inside("ip", ["address", "add", "198.51.100.7/32", "dev", "lo"]).ok();
    engine.inside("mkdir", ["-p", "/run/certs"]).ok();
    engine.inside("sh", ["-c", "mkdir -p /etc/engine && mount -t tmpfs tmpfs /etc/engine"]).ok();
    let authority = {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap()
    };
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["198.51.100.7".to_owned()]).unwrap();
    let certificate = certificate.signed_by(&key, &authority).unwrap();
    fs::write(engine.path("registry.pem"), certificate.pem()).unwrap();
    fs::write(engine.path("registry.key"), key.serialize_pem()).unwrap();
    fs::write(engine.path("ca.crt"), authority.pem()).unwrap();
    let tls = json!({"http": {"tls": {
        "certificate": engine.path("registry.pem"), "key": engine.path("registry.key"),
    }}});
    let _registry = Registry::start(&engine, "registry", "198.51.100.7:5000", &tls);
    let _plain = Registry::start(&engine, "plain", "198.51.100.7:5001", &json!({}));
    engine.load_busybox();
    for port in [5000, 5001] {
        engine.docker(["tag", "busybox", &format!("198.51.100.7:{port}/app")]).ok();
    }
    let error = engine.docker(["push", "198.51.100.7:5000/app"]).failed();
    assert!(error.contains("certificate") || error.contains("UnknownIssuer"), "{error}");
    let error = engine.docker(["push", "198.51.100.7:5001/app"]).failed();
    assert!(error.contains("server gave HTTP response to HTTPS client"), "{error}");
    assert!(error.contains("insecure-registries"), "{error}");
    // The registry's own folder.
    let folder = "/etc/engine/certs.d/198.51.100.7:5000";
    engine.inside("mkdir", ["-p", folder]).ok();
    let authority = engine.path("ca.crt");
    engine.inside("cp", [authority.to_str().unwrap(), &format!("{folder}/ca.crt")]).ok();
    engine.signal("HUP");
    crate::harness::wait_for("the certificates", || {
        engine.docker(["push", "198.51.100.7:5000/app"]).code == Some(0)
    });
    // What the administrator names is believed.
    engine.inside("rm", ["-r", folder]).ok();
    let trusting = json!({"insecure-registries": ["198.51.100.0/24"], "prune": {"enabled": false}});
    fs::write(engine.path("daemon.json"), trusting.to_string()).unwrap();
    assert_eq!(engine.stop(), Some(0));
    engine.launch();
    engine.docker(["push", "198.51.100.7:5000/app"]).ok();
    engine.docker(["push", "198.51.100.7:5001/app"]).ok();
    // Whatever the server shows: a certificate of version 1 for another name, with a short key.
    let file = |name: &str| engine.path(name).display().to_string();
    let (key, request, old) = (file("old.key"), file("old.csr"), file("old.pem"));
    let make =
        ["req", "-newkey", "rsa:1024", "-nodes", "-subj", "/CN=other", "-keyout", &key, "-out", &request];
    engine.inside("openssl", make).ok();
    engine.inside("openssl", ["x509", "-req", "-in", &request, "-signkey", &key, "-out", &old]).ok();
    let tls = json!({"http": {"tls": { "certificate": old, "key": key }}});
    let _old = Registry::start(&engine, "old", "198.51.100.7:5003", &tls);
    engine.docker(["tag", "busybox", "198.51.100.7:5003/app"]).ok();
    engine.docker(["push", "198.51.100.7:5003/app"]).ok();
}

/// As registries of one's own are begun: a certificate that nobody has signed but itself, and that is an authority's by
/// openssl's defaults. Who has it in the registry's folder believes the server that shows it, by that name and in that time.
#[test]
fn a_certificate_of_ones_own_is_believed() {
    let engine = Engine::start_with(CONFIGURATION, &[]);
    engine.inside("ip", ["address", "add", "198.51.100.7/32", "dev", "lo"]).ok();
    engine.inside("ip", ["address", "add", "198.51.100.8/32", "dev", "lo"]).ok();
    engine.inside("sh", ["-c", "mkdir -p /etc/engine && mount -t tmpfs tmpfs /etc/engine"]).ok();
    let file = |name: &str| engine.path(name).display().to_string();
    let tls = |name: &str| {
        let (certificate, key) = (file(&format!("{name}.crt")), file(&format!("{name}.key")));
        json!({"http": {"tls": { "certificate": certificate, "key": key }}})
    };
    for name in ["good", "other"] {
        let request = "req -newkey rsa:2048 -nodes -sha256 -x509 -days 365 -subj /CN=registry \
                       -addext subjectAltName=IP:198.51.100.7";
        let (certificate, key) = (file(&format!("{name}.crt")), file(&format!("{name}.key")));
        engine.inside("openssl", request.split(' ').chain(["-keyout", &key, "-out", &certificate])).ok();
    }
    let key = KeyPair::generate().unwrap();
    let mut late = CertificateParams::new(vec!["198.51.100.7".to_owned()]).unwrap();
    late.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (late.not_before, late.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1));
    fs::write(file("late.crt"), late.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(file("late.key"), key.serialize_pem()).unwrap();
    let _good = Registry::start(&engine, "good", "0.0.0.0:5000", &tls("good"));
    let _late = Registry::start(&engine, "late", "0.0.0.0:5001", &tls("late"));
    let _other = Registry::start(&engine, "other", "0.0.0.0:5002", &tls("other"));
    engine.load_busybox();
    let push = |registry: &str, own: &str| {
        let folder = format!("/etc/engine/certs.d/{registry}");
        engine.inside("mkdir", ["-p", &folder]).ok();
        engine.inside("cp", [&file(&format!("{own}.crt")), &format!("{folder}/ca.crt")]).ok();
        engine.signal("HUP");
        std::thread::sleep(Duration::from_millis(300));
        engine.docker(["tag", "busybox", &format!("{registry}/app")]).ok();
        engine.docker(["push", &format!("{registry}/app")])
    };
    push("198.51.100.7:5000", "good").ok();
    let refused = |output: crate::harness::Output, why: &str| {
        let error = output.failed();
        assert!(error.contains("certificate") && error.contains(why), "{error}");
    };
    refused(push("198.51.100.8:5000", "good"), "198.51.100.8");
    refused(push("198.51.100.7:5001", "late"), "expired");
    // Another's certificate, and another's key.
    refused(push("198.51.100.7:5002", "good"), "certificate");
}

/// Nor does whoever a redirect leads to say where a password is to be shown.
#[test]
fn another_host_does_not_say_where_a_password_is_to_be_shown() {
    let engine = Engine::start_with(CONFIGURATION, &[]);
    let served = Fixture::of(&[layer("file", 1000)]);
    let thief = Fake::start(&engine, "127.0.0.3:5004", |_| Reply::new(200, r#"{"token":"t"}"#));
    let storage = Fake::start(&engine, "127.0.0.2:5003", |_| {
        Reply::new(401, "").with("WWW-Authenticate", "Bearer realm=\"http://127.0.0.3:5004/token\"")
    });
    let _registry = Fake::start(&engine, "127.0.0.1:5001", move |asked| {
        if asked.headers.get("authorization").is_none_or(|shown| shown != "Basic bWU6d29yZA==") {
            return denial(401, "UNAUTHORIZED", "no").with("WWW-Authenticate", "Basic realm=\"x\"");
        }
        if asked.path.contains("/blobs/") {
            return Reply::new(307, "").with("Location", format!("http://127.0.0.2:5003{}", asked.path));
        }
        served.answer(asked)
    });
    engine.docker_with_input(["login", "-u", "me", "--password-stdin", "127.0.0.1:5001"], b"word").ok();
    engine.docker(["pull", "127.0.0.1:5001/app"]).failed();
    assert!(!storage.asked.lock().unwrap().is_empty());
    assert_eq!(thief.asked.lock().unwrap().len(), 0, "{:?}", thief.asked.lock().unwrap());
}
