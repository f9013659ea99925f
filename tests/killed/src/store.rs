//! What has to hold of a store in which somebody was killed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

/// Files that belong together, in a folder: a certificate and its key, of an authority in the same folder.
const CLIENT: (&str, &str) = ("cert.pem", "key.pem");
const SERVER: (&str, &str) = ("server.pem", "server-key.pem");

/// A store, seen from outside.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// What has a name that nobody looks for, anywhere in the store.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let (mut found, mut folders) = (Vec::new(), vec![self.root.clone()]);
        while let Some(folder) = folders.pop() {
            // Killed early, there is no store yet.
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.starts_with(".new-") || name.starts_with(".tmp-") || name == ".commit" {
                    found.push(entry.path());
                } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(entry.path());
                }
            }
        }
        found
    }

    /// Makes leftovers so old that no living process can still be about to use them.
    pub fn age(&self) {
        let long_ago = SystemTime::now() - Duration::from_hours(1);
        for path in self.leftovers() {
            fs::File::open(&path)
                .and_then(|file| file.set_modified(long_ago))
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }

    /// Neither hosts nor locks are left, nor anything that was about to get its name.
    pub fn assert_nothing_left(&self, when: &str) {
        for folder in ["machines", "locks"] {
            let entries = fs::read_dir(self.root.join(folder)).into_iter().flatten().flatten();
            let left: Vec<_> = entries.map(|entry| entry.file_name()).collect();
            assert!(left.is_empty(), "{when}: left in {folder}: {left:?}");
        }
        // What has been committed is no leftover: whoever uses the authority next finishes it.
        let left =
            self.leftovers().into_iter().filter(|path| !path.starts_with(self.root.join("certs/.commit")));
        assert_eq!(left.collect::<Vec<_>>(), Vec::<PathBuf>::new(), "{when}");
    }

    /// The store's authority and its client belong together, as openssl sees it.
    pub fn assert_one_authority(&self, when: &str) {
        let certs = self.root.join("certs");
        same_key(&certs, ("ca.pem", "ca-key.pem"), when);
        same_key(&certs, CLIENT, when);
        verify(&certs, CLIENT.0, "sslclient", when);
    }

    /// The engine at a URL (`tcp://…`) and the client in a host's folder trust each other, as a Docker client finds out that
    /// knows nothing but these files.
    pub fn assert_engine_trusts(&self, name: &str, url: &str, when: &str) {
        let url = format!("{}/version", url.trim().replace("tcp://", "https://"));
        let output = Command::new("curl")
            .args(["-sS", "-m", "20", "--noproxy", "*"])
            .args(["--cacert", "ca.pem", "--cert", "cert.pem", "--key", "key.pem", &url])
            .current_dir(self.root.join("machines").join(name))
            .output()
            .expect("curl can be run");
        let answer = String::from_utf8_lossy(&output.stdout);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && answer.contains("\"Version\""), "{when}: {url}: {answer}{said}");
    }

    /// A host's copies belong together: its clients' certificate and its server's are of an authority that they trust.
    pub fn assert_copies(&self, name: &str, when: &str) {
        let folder = self.root.join("machines").join(name);
        for (pair, purpose) in [(CLIENT, "sslclient"), (SERVER, "sslserver")] {
            same_key(&folder, pair, when);
            verify(&folder, pair.0, purpose, when);
        }
    }
}

fn openssl(folder: &Path, arguments: &[&str], when: &str) -> Vec<u8> {
    let output = Command::new("openssl").args(arguments).current_dir(folder).stdin(Stdio::null()).output();
    let output = output.expect("openssl can be run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{when}: openssl {} in {}: {said}",
        arguments.join(" "),
        folder.display()
    );
    output.stdout
}

fn same_key(folder: &Path, (certificate, key): (&str, &str), when: &str) {
    let of_certificate = openssl(folder, &["x509", "-noout", "-pubkey", "-in", certificate], when);
    let of_key = openssl(folder, &["pkey", "-pubout", "-in", key], when);
    assert!(of_certificate == of_key, "{when}: {certificate} and {key} in {} do not match", folder.display());
}

fn verify(folder: &Path, certificate: &str, purpose: &str, when: &str) {
    openssl(folder, &["verify", "-purpose", purpose, "-CAfile", "ca.pem", certificate], when);
}
