//! `regenerate-certs` is killed: clients and the engine trust one another at any time, and the same command again ends
//! well.

use std::fs;

use killed::{Watch, each, rehearse};

use crate::bench::{Bench, Kind};

/// A command that renews something, and one that brings back what was before, if anything has to be.
struct Renewal {
    words: Vec<String>,
    back: Option<Vec<String>>,
}

impl Bench {
    /// What is written under temporary names is killed with one of these commands, and not again with the others.
    fn watch_renewal(&self, renewal: &Renewal) -> Watch {
        if renewal.words.len() == 3 { self.watch() } else { Watch::named(&self.root()) }
    }
}

impl Renewal {
    fn of(words: &[&str]) -> Self {
        let words = [&["regenerate-certs", "-f"], words].concat();
        Self { words: words.into_iter().map(str::to_owned).collect(), back: None }
    }

    /// To an authority of the user's own, and to the store's.
    fn to_another_authority(bench: &Bench) -> Self {
        let (certificate, key) = (bench.path("corp.pem"), bench.path("corp-key.pem"));
        if !certificate.exists() {
            let authority = machine_pki::Authority::generate("corporate").unwrap();
            fs::write(&certificate, authority.certificate_pem()).unwrap();
            fs::write(&key, authority.key_pem()).unwrap();
        }
        let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
        let named = ["--tls-ca-cert", &certificate, "--tls-ca-key", &key].map(str::to_owned).to_vec();
        let there = Self::of(&["--authority"]).words;
        Self { words: [named, there.clone()].concat(), back: Some(there) }
    }
}

fn goes_on(title: &str, kind: Kind, at_least: usize, renewal: fn(&Bench) -> Renewal) {
    if kind.is_lacking() {
        return;
    }
    let back = |bench: &Bench| {
        if let Some(words) = renewal(bench).back {
            bench.ok(&words);
        }
    };
    let bench = Bench::new(kind);
    bench.finish("rehearsal");
    // Once before: some of it is done only once.
    bench.ok(&renewal(&bench).words);
    back(&bench);
    let again = renewal(&bench);
    let points = rehearse(&mut bench.command(&again.words), &bench.watch_renewal(&again));
    bench.remove("after the rehearsal");
    let prepare = || {
        let bench = Bench::new(kind);
        bench.finish("to be renewed");
        bench.ok(&renewal(&bench).words);
        back(&bench);
        bench
    };
    each(title, &points, at_least, prepare, |bench, point| {
        let before = fs::read(bench.host().join("server.pem")).unwrap();
        let renewal = renewal(bench);
        let run = killed::at(&mut bench.command(&renewal.words), &bench.watch_renewal(&renewal), point);
        let when = point.to_string();
        assert!(run.killed, "{when}: it came to its end: {}\n{}", run.status, run.said);
        bench.store().age();
        bench.assert_usable(&when);
        bench.ok(&renewal.words);
        bench.assert_whole(&when);
        assert_ne!(fs::read(bench.host().join("server.pem")).unwrap(), before, "{when}: nothing was renewed");
        back(bench);
    });
}

fn server(_: &Bench) -> Renewal {
    Renewal::of(&["mc1"])
}

fn client(_: &Bench) -> Renewal {
    Renewal::of(&["--client-certs", "mc1"])
}

#[test]
fn a_server_certificate() {
    goes_on("`regenerate-certs`", Kind::Generic, 15, server);
}

#[test]
fn a_server_certificate_of_a_vm() {
    goes_on("`regenerate-certs` of a VM", Kind::Qemu, 13, server);
}

#[test]
fn a_client_certificate() {
    goes_on("`regenerate-certs --client-certs`", Kind::Generic, 20, client);
}

#[test]
fn another_authority() {
    goes_on("`regenerate-certs --authority`", Kind::Generic, 20, Renewal::to_another_authority);
}
