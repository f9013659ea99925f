//! A store of its own, and the real program on it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use machine_pki::{Authority, Usage, verify_issued};

pub(crate) struct Home {
    folder: tempfile::TempDir,
    store: PathBuf,
}

impl Home {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        Self { folder, store }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn store(&self) -> &Path {
        &self.store
    }

    pub(crate) fn host(&self, name: &str) -> PathBuf {
        self.store.join("machines").join(name)
    }

    /// The store at another place from here on.
    pub(crate) fn moved(mut self, to: &str) -> Self {
        let to = self.path().join(to);
        fs::rename(&self.store, &to).unwrap();
        self.store = to;
        self
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_machine"));
        command
            .args(arguments)
            .env_clear()
            .env("HOME", self.path())
            .env("PATH", "/usr/bin:/bin")
            .env("USER", "tester")
            .env("SHELL", "/bin/bash")
            .env("MACHINE_STORAGE_PATH", &self.store)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn machine(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// What a command that must succeed prints.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.machine(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", show(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a command that must fail says.
    pub(crate) fn refused(&self, arguments: &[&str]) -> String {
        let output = self.machine(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", show(&output));
        String::from_utf8(output.stderr).unwrap()
    }

    pub(crate) fn create_none(&self, name: &str) -> Command {
        self.command(&["create", "-d", "none", "--url", "tcp://192.0.2.7:2376", name])
    }

    /// A record as docker-machine wrote it, without certificates.
    pub(crate) fn write_record(&self, name: &str, record: &serde_json::Value) {
        fs::create_dir_all(self.host(name)).unwrap();
        fs::write(self.host(name).join("config.json"), record.to_string()).unwrap();
    }

    /// A host that docker-machine made on somebody's server, with the copies of the store's certificates.
    pub(crate) fn write_tls_host(&self, name: &str, address: &str, port: u16) {
        let created = self.create_none("warm").output().unwrap();
        assert!(created.status.success() || self.host("warm").exists(), "{}", show(&created));
        let store = self.store.display().to_string();
        self.write_record(
            name,
            &serde_json::json!({
                "ConfigVersion": 3, "DriverName": "generic", "Name": name,
                "Driver": {
                    "IPAddress": address, "MachineName": name, "SSHUser": "root", "SSHPort": 22,
                    "SSHKeyPath": format!("{store}/machines/{name}/id_rsa"), "StorePath": store, "EnginePort": port,
                },
                "HostOptions": {
                    "EngineOptions": { "TlsVerify": true },
                    "AuthOptions": {
                        "CertDir": format!("{store}/certs"), "CaCertPath": format!("{store}/certs/ca.pem"),
                        "StorePath": format!("{store}/machines/{name}"),
                    },
                },
            }),
        );
        for file in ["ca.pem", "cert.pem", "key.pem"] {
            fs::copy(self.store.join("certs").join(file), self.host(name).join(file)).unwrap();
        }
    }

    /// The store's authority can sign, its client is its own, and nothing is left of how they were made.
    pub(crate) fn assert_one_authority(&self) {
        let read = |name: &str| fs::read_to_string(self.store.join("certs").join(name)).unwrap();
        let (ca, key) = (read("ca.pem"), read("ca-key.pem"));
        Authority::load(&ca, &key).expect("the authority's certificate and key belong together");
        verify_issued(&ca, &read("cert.pem"), &read("key.pem"), Usage::Client, jiff::Timestamp::now())
            .expect("the client is of this authority");
        let mut names: Vec<_> = fs::read_dir(self.store.join("certs"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with(".new-") && !name.starts_with(".tmp-"))
            .collect();
        names.sort();
        assert_eq!(names, ["ca-key.pem", "ca.pem", "cert.pem", "key.pem"]);
    }
}

pub(crate) fn show(output: &Output) -> String {
    format!(
        "exit: {:?}\n----- stdout\n{}----- stderr\n{}",
        output.status.code(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
