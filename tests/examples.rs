//! The scripts of `examples/`, run as they are.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");

/// A home folder, with `machine` and the example's driver on the PATH.
struct Home {
    folder: TempDir,
}

impl Home {
    fn new() -> Self {
        let home = Self { folder: tempfile::tempdir().unwrap() };
        let bin = home.path("bin");
        fs::create_dir(&bin).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_machine"), bin.join("machine")).unwrap();
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("HOME", self.folder.path())
            .env("PATH", format!("{}:{EXAMPLES}:{path}", self.path("bin").display()))
            .stdin(Stdio::null());
        command
    }

    fn script(&self, script: &str, arguments: &[&str]) -> Command {
        self.command(&Path::new(EXAMPLES).join(script), arguments)
    }

    fn machine(&self, store: &str, arguments: &[&str]) -> String {
        let program = self.path("bin/machine");
        let output =
            self.command(&program, arguments).env("MACHINE_STORAGE_PATH", self.path(store)).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn hosts(store: &Path) -> usize {
    fs::read_dir(store.join("machines")).map_or(0, Iterator::count)
}

#[test]
fn a_job_runs_on_a_host_of_its_own_and_removes_it_whatever_happens() {
    let home = Home::new();
    let store = home.path("store");
    let job = |command: &[&str]| {
        home.script("ci-job.sh", command)
            .env("MACHINE_STORAGE_PATH", &store)
            .env("MACHINE_DRIVER", "folder")
            .env("FOLDER_URL", "tcp://192.0.2.7:2375")
            .env("CI_JOB_ID", "4/7")
            .output()
            .unwrap()
    };
    let seen = job(&["sh", "-c", "echo \"$DOCKER_HOST $DOCKER_MACHINE_NAME\"; machine status ci-4-7"]);
    assert!(seen.status.success(), "{}", String::from_utf8_lossy(&seen.stderr));
    assert_eq!(stdout(&seen), "tcp://192.0.2.7:2375 ci-4-7\nRunning\n");
    assert_eq!(hosts(&store), 0);
    // The job's own exit status is the script's, and the host is gone all the same.
    assert_eq!(job(&["sh", "-c", "exit 7"]).status.code(), Some(7));
    assert_eq!(hosts(&store), 0);
    // A host of that name which somebody else made is not touched.
    let mine = ["create", "-d", "folder", "--folder-url", "tcp://192.0.2.7:2375", "ci-4-7"];
    home.machine("store", &mine);
    assert!(!job(&["true"]).status.success());
    assert_eq!(home.machine("store", &["status", "ci-4-7"]), "Running\n");
    home.machine("store", &["rm", "-y", "ci-4-7"]);
    assert_eq!(job(&["sh", "-c", "kill -TERM $PPID; sleep 1"]).status.code(), Some(143));
    assert_eq!(hosts(&store), 0);
}

#[test]
fn the_hosts_of_docker_machine_are_moved_in_a_copy() {
    let home = Home::new();
    let old = home.path("old");
    let folder = old.join("machines/web1");
    fs::create_dir_all(&folder).unwrap();
    fs::create_dir_all(old.join("cache")).unwrap();
    fs::write(old.join("cache/boot2docker.iso"), "large").unwrap();
    let record = serde_json::json!({
        "ConfigVersion": 3,
        "DriverName": "none",
        "Driver": { "IPAddress": "192.0.2.7", "MachineName": "web1", "URL": "tcp://192.0.2.7:2375" },
        "HostOptions": { "EngineOptions": { "TlsVerify": false }, "AuthOptions": {} },
        "Name": "web1",
    });
    fs::write(folder.join("config.json"), record.to_string()).unwrap();
    let bad = old.join("machines/bad");
    fs::create_dir_all(&bad).unwrap();
    fs::write(bad.join("config.json"), "{").unwrap();

    let (from, to) = (old.to_str().unwrap(), home.path("new"));
    let moved = home.script("move-from-docker-machine.sh", &[from, to.to_str().unwrap()]).output().unwrap();
    let said = stdout(&moved);
    assert!(moved.status.success(), "{said}{}", String::from_utf8_lossy(&moved.stderr));
    assert!(said.contains("web1 (none): tcp://192.0.2.7:2375"), "{said}");
    assert!(said.contains("bad: its record cannot be read"), "{said}");
    assert_eq!(home.machine("new", &["url", "web1"]), "tcp://192.0.2.7:2375\n");
    assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(!to.join("cache").exists());
    // The old store is as it was.
    assert_eq!(fs::read_to_string(folder.join("config.json")).unwrap(), record.to_string());
    // A second time nothing is overwritten.
    let again = home.script("move-from-docker-machine.sh", &[from, to.to_str().unwrap()]).output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(hosts(&to), 2);
}
