//! The program itself, with a store of its own and a host in it that docker-machine recorded: a login, and no host key.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::server::{Server, user};

pub(crate) struct Store {
    folder: tempfile::TempDir,
}

impl Store {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// One with the host `web1`, which is that server.
    pub(crate) fn with(server: &Server) -> Self {
        let store = Self::new();
        let record = json!({
            "ConfigVersion": 3,
            "Driver": {
                "IPAddress": server.host, "MachineName": "web1", "SSHUser": user(), "SSHPort": server.port,
                "SSHKeyPath": server.path("key"),
            },
            "DriverName": "generic",
            "HostOptions": { "EngineOptions": { "TlsVerify": true }, "AuthOptions": {} },
            "Name": "web1",
        });
        fs::create_dir_all(store.host()).unwrap();
        fs::write(store.host().join("config.json"), record.to_string()).unwrap();
        store
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    pub(crate) fn host(&self) -> PathBuf {
        self.root().join("machines/web1")
    }

    pub(crate) fn record(&self) -> Value {
        serde_json::from_slice(&fs::read(self.host().join("config.json")).unwrap()).unwrap()
    }

    /// The host keys that are recorded.
    pub(crate) fn pinned(&self) -> Vec<String> {
        serde_json::from_value(self.record()["SSHHostKeys"].clone()).unwrap_or_default()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_machine"));
        command
            .args(arguments)
            .env("HOME", self.folder.path())
            .env("MACHINE_STORAGE_PATH", self.root())
            .env_remove("SSH_AUTH_SOCK")
            .stdin(Stdio::null());
        command
    }

    /// Runs it without a terminal.
    pub(crate) fn machine(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// The arguments that make the server a host.
    pub(crate) fn create(server: &Server, more: &[&str]) -> Vec<String> {
        let words = ["create", "-d", "generic", "--generic-ip-address", &server.host, "--generic-ssh-user"];
        let port = server.port.to_string();
        let key = server.path("key").display().to_string();
        let login = [&user(), "--generic-ssh-port", &port, "--generic-ssh-key", &key];
        words.iter().chain(&login).chain(more).map(|word| (*word).to_owned()).collect()
    }
}

pub(crate) fn said(output: &Output) -> String {
    format!(
        "exit: {:?}\n{}{}",
        output.status.code(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
