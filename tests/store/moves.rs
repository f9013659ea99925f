//! Who signed for a host is pinned, and moving it is a decision: on a real SSH server, with an engine that is stood in for.

use std::{fs, process::Command};

use machine_pki::Fingerprint;

use crate::{
    engine::{Corporate, Engine},
    home::{Home, show},
};

fn own_authority(home: &Home) -> Fingerprint {
    Fingerprint::of(&fs::read_to_string(home.store().join("certs/ca.pem")).unwrap()).unwrap()
}

fn record(home: &Home, name: &str) -> serde_json::Value {
    serde_json::from_str(&home.ok(&["inspect", name])).unwrap()
}

fn transport(home: &Home, name: &str) -> (String, Option<String>) {
    let record = record(home, name);
    let tls = &record["Transport"]["MutualTls"];
    (tls["Authority"].as_str().unwrap().to_owned(), tls["AlsoTrusted"].as_str().map(str::to_owned))
}

/// A store of one authority, and a host in it with certificates of that authority.
fn begun(engine: &Engine) -> (Home, Fingerprint) {
    let home = Home::new();
    assert!(home.create_none("warm").output().unwrap().status.success());
    let own = own_authority(&home);
    engine.record(&home, "srv", own);
    home.ok(&["regenerate-certs", "-f", "srv"]);
    assert_eq!(engine.trusted(), [own]);
    assert_answers(&home);
    (home, own)
}

fn assert_answers(home: &Home) {
    assert_eq!(home.ok(&["version", "srv"]), "9.9.9\n");
    assert!(home.ok(&["env", "srv"]).contains("DOCKER_TLS_VERIFY=\"1\""));
}

#[test]
fn a_host_stays_with_its_authority_until_it_is_moved_and_trusts_both_meanwhile() {
    let engine = Engine::new();
    let (home, own) = begun(&engine);
    let corporate = Corporate::new(&home);
    // Naming another one is no move.
    home.ok(&corporate.named(&["regenerate-certs", "-f", "srv"]));
    assert_eq!((transport(&home, "srv"), engine.trusted()), ((own.to_string(), None), vec![own]));

    // Another host, which is not reached, stays with the first.
    let copy = fs::read_to_string(home.host("srv").join("config.json")).unwrap();
    fs::create_dir(home.host("other")).unwrap();
    fs::write(home.host("other").join("config.json"), copy).unwrap();
    let old = home.path().join("old");
    assert!(Command::new("cp").arg("-a").arg(home.host("srv")).arg(&old).status().unwrap().success());

    let said = home.ok(&corporate.named(&["regenerate-certs", "-f", "--authority", "srv"]));
    assert!(said.contains("Trusts both authorities until these have been moved: other"), "{said}");
    assert_eq!(engine.trusted(), [corporate.fingerprint, own]);
    let pinned = (corporate.fingerprint.to_string(), Some(own.to_string()));
    assert_eq!(transport(&home, "srv"), pinned);
    assert_answers(&home);
    // From here on without naming it, as `stop` and `start` would.
    let refused = home.refused(&["regenerate-certs", "-f", "srv"]);
    assert!(refused.contains("its authority") && refused.contains("--tls-ca-cert"), "{refused}");
    assert_eq!((transport(&home, "srv"), engine.trusted()), (pinned, vec![corporate.fingerprint, own]));
    assert_answers(&home);
    // Clients that have the certificates of before are let in.
    let before = |file: &str| fs::read_to_string(old.join(file)).unwrap();
    for file in ["cert.pem", "key.pem"] {
        fs::write(home.host("srv").join(file), before(file)).unwrap();
    }
    assert_answers(&home);

    home.ok(&["rm", "-y", "other"]);
    home.ok(&corporate.named(&["regenerate-certs", "-f", "--authority", "srv"]));
    let said = home.ok(&corporate.named(&["regenerate-certs", "-f", "--authority", "srv"]));
    assert!(said.contains("trust no other"), "{said}");
    assert_eq!(engine.trusted(), [corporate.fingerprint]);
    assert_eq!(transport(&home, "srv"), (corporate.fingerprint.to_string(), None));
}

#[test]
fn the_client_certificate_is_renewed_for_hosts_of_its_authority_only() {
    let engine = Engine::new();
    let (home, own) = begun(&engine);
    let corporate = Corporate::new(&home);
    home.ok(&corporate.named(&["regenerate-certs", "-f", "--authority", "srv"]));
    home.ok(&["regenerate-certs", "-f", "--authority", "warm"]);
    home.write_tls_host("mine", "192.0.2.9", 2376);
    let client = |name: &str| fs::read(home.host(name).join("cert.pem")).unwrap();
    let (before_srv, before_mine) = (client("srv"), client("mine"));
    let own_before = fs::read(home.store().join("certs/cert.pem")).unwrap();
    // `warm` has no TLS: the command about it fails, after the client was renewed.
    let output = home.machine(&["regenerate-certs", "-f", "--client-certs", "warm"]);
    let said = show(&output);
    assert!(said.contains("(srv) keeps its client certificate: it is of another authority"), "{said}");
    assert!(said.contains("(warm) keeps its client certificate: it is reached without TLS"), "{said}");
    assert_ne!(fs::read(home.store().join("certs/cert.pem")).unwrap(), own_before);
    assert_eq!(client("srv"), before_srv, "of another authority");
    assert_ne!(client("mine"), before_mine);
    assert_eq!(own_authority(&home), own);
    assert_answers(&home);

    // A host that somebody works on is left alone.
    let lock = fs::File::create(home.store().join("locks/mine")).unwrap();
    lock.lock().unwrap();
    let now = client("mine");
    let said = show(&home.machine(&["regenerate-certs", "-f", "--client-certs", "warm"]));
    assert!(said.contains("(mine) keeps its client certificate: `mine` is in use by"), "{said}");
    assert_eq!(client("mine"), now);
}

#[test]
fn an_authority_that_has_expired_has_a_way_out() {
    let engine = Engine::new();
    let (home, before) = begun(&engine);
    // The same authority, as it is after its time: docker-machine's lasted three years.
    let certs = home.store().join("certs");
    let key = rcgen::KeyPair::from_pem(&fs::read_to_string(certs.join("ca-key.pem")).unwrap()).unwrap();
    let mut parameters = rcgen::CertificateParams::default();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    parameters.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    parameters.not_before = rcgen::date_time_ymd(2018, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let expired = parameters.self_signed(&key).unwrap().pem();
    fs::write(certs.join("ca.pem"), &expired).unwrap();
    fs::write(home.host("srv").join("ca.pem"), &expired).unwrap();
    let old = Fingerprint::of(&expired).unwrap();
    let text = fs::read_to_string(home.host("srv").join("config.json")).unwrap();
    fs::write(home.host("srv").join("config.json"), text.replace(&before.to_string(), &old.to_string()))
        .unwrap();

    for command in [
        &["create", "-d", "none", "--url", "tcp://h:1", "mc2"][..],
        &["regenerate-certs", "-f", "srv"],
        &["regenerate-certs", "-f", "--client-certs", "srv"],
    ] {
        let said = home.refused(command);
        assert!(
            said.contains("expired at 2021") && said.contains("regenerate-certs --authority"),
            "{command:?}: {said}"
        );
    }
    // It says what it will do before it does anything.
    let asked = home.machine(&["regenerate-certs", "--authority"]);
    let said = show(&asked);
    assert!(
        said.contains("a new authority is made") && said.contains("srv") && said.contains("both"),
        "{said}"
    );
    assert!(!asked.status.success());
    assert_eq!(fs::read_to_string(certs.join("ca.pem")).unwrap(), expired);

    home.ok(&["regenerate-certs", "-f", "--authority"]);
    let new = own_authority(&home);
    assert!(new != old);
    assert_eq!((transport(&home, "srv"), engine.trusted()), ((new.to_string(), None), vec![new]));
    assert_answers(&home);
    let kept = fs::read_to_string(certs.join(old.digits()).join("ca.pem")).unwrap();
    assert_eq!(kept, expired, "the one before is kept");
    assert!(home.create_none("mc2").output().unwrap().status.success());
}
