//! Repositories of git, and their server on loopback in an engine's network namespace.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::harness::{Engine, run, wait_for};

/// Where `git daemon` answers.
pub const ADDRESS: &str = "git://127.0.0.1:9418";

/// Whether there is a git with a server here; said, if there is none.
pub fn is_there() -> bool {
    let folder = Command::new("git").arg("--exec-path").output().map(|output| output.stdout);
    let folder = folder.map(|folder| PathBuf::from(String::from_utf8_lossy(&folder).trim()));
    if folder.is_ok_and(|folder| folder.join("git-daemon").exists()) {
        return true;
    }
    skipped::say("git", "there is no `git` with `git daemon` here");
    false
}

/// A repository, in the folder `repositories` of the test.
pub struct Repository {
    folder: PathBuf,
}

impl Repository {
    pub fn new(engine: &Engine, name: &str) -> Self {
        let repository = Self { folder: engine.path("repositories").join(name) };
        fs::create_dir_all(&repository.folder).unwrap();
        repository.git(&["init", "-q", "-b", "main"]);
        repository
    }

    pub fn git(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("git");
        let identity =
            ["-c", "user.name=Me", "-c", "user.email=me@example.test", "-c", "protocol.file.allow=always"];
        command.args(identity).args(arguments).current_dir(&self.folder);
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        run(&mut command, b"").ok().trim().to_owned()
    }

    /// Writes a file and commits everything; returns the commit.
    pub fn commit(&self, name: &str, content: &str) -> String {
        let path = self.folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self.commit_all()
    }

    pub fn commit_all(&self) -> String {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", "a change"]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// Where its files are.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// Answers for all repositories of a test.
pub struct Server(Child);

impl Server {
    pub fn start(engine: &Engine) -> Self {
        let mut command = engine.enter("git");
        command.args(["daemon", "--listen=127.0.0.1", "--port=9418", "--export-all", "--reuseaddr"]);
        command.arg(format!("--base-path={}", engine.path("repositories").display()));
        // The repositories belong to whoever runs this test, as whom it answers.
        command
            .env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", "safe.directory")
            .env("GIT_CONFIG_VALUE_0", "*");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let listens = || engine.inside("cat", ["/proc/net/tcp"]).stdout.contains(":24CA 00000000:0000 0A");
        wait_for("git's server", listens);
        Self(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
