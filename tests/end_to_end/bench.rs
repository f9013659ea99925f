//! A store of its own for each test, the programs that are tested, and what must be left of it all: nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

/// A store with its hosts. Dropped, it removes what is left, so that a failed test leaves no VM behind.
pub(crate) struct Bench {
    folder: tempfile::TempDir,
    /// What `machine` is told besides.
    environment: Vec<(String, String)>,
}

pub(crate) fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("`{name}` is not set: run `cargo xtask test`"))
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(Vec::new())
    }

    /// A store whose hosts are made where these variables lead.
    pub(crate) fn with(environment: Vec<(String, String)>) -> Self {
        Self { folder: tempfile::Builder::new().prefix("machine-e2e-").tempdir().unwrap(), environment }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    pub(crate) fn host_folder(&self, name: &str) -> PathBuf {
        self.store().join("machines").join(name)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(variable("MACHINE_PROGRAM"));
        command
            .args(arguments)
            .env("MACHINE_STORAGE_PATH", self.store())
            .env_remove("DOCKER_HOST")
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null());
        command
    }

    /// Runs `machine` and returns whatever comes of it.
    pub(crate) fn try_machine(&self, arguments: &[&str]) -> Output {
        eprintln!("$ machine {}", arguments.join(" "));
        let output = self.command(arguments).output().unwrap();
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// Runs `machine`, which must succeed, and returns what it printed.
    pub(crate) fn machine(&self, arguments: &[&str]) -> String {
        let output = self.try_machine(arguments);
        assert!(output.status.success(), "machine {}: {}", arguments.join(" "), show(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs `machine`, which must fail with this status, and returns its errors.
    pub(crate) fn machine_fails(&self, status: i32, arguments: &[&str]) -> String {
        let output = self.try_machine(arguments);
        assert_eq!(output.status.code(), Some(status), "machine {}: {}", arguments.join(" "), show(&output));
        String::from_utf8(output.stderr).unwrap()
    }

    /// The stock docker CLI, pointed at a host by what `machine env` prints to a real shell.
    pub(crate) fn try_docker(&self, host: &str, arguments: &[&str]) -> Output {
        eprintln!("$ docker {}", arguments.join(" "));
        let script = "eval \"$(\"$MACHINE_PROGRAM\" env --shell bash \"$HOST\")\" && exec docker \"$@\"";
        Command::new("bash")
            .args(["-c", script, "bash"])
            .args(arguments)
            .env("HOST", host)
            .env("MACHINE_STORAGE_PATH", self.store())
            .env("DOCKER_CONFIG", self.folder.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    pub(crate) fn docker(&self, host: &str, arguments: &[&str]) -> String {
        let output = self.try_docker(host, arguments);
        assert!(output.status.success(), "docker {}: {}", arguments.join(" "), show(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Loads the busybox image into a host's engine.
    pub(crate) fn load_image(&self, host: &str) {
        let said = self.docker(host, &["load", "-i", &variable("MACHINE_TEST_IMAGE")]);
        assert_eq!(said, "Loaded image: busybox:latest\n");
    }

    /// The processes that name this store on their command line.
    pub(crate) fn processes(&self) -> Vec<String> {
        let needle = self.folder.path().display().to_string();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(&needle) {
                found.push(format!("{}: {line}", entry.file_name().display()));
            }
        }
        found
    }

    /// After the last host is gone, neither processes nor files of hosts are left.
    pub(crate) fn assert_nothing_left(&self) {
        until("the processes end", Duration::from_secs(20), || self.processes().is_empty().then_some(()));
        for folder in ["machines", "locks"] {
            let left: Vec<_> = fs::read_dir(self.store().join(folder)).unwrap().flatten().collect();
            assert!(left.is_empty(), "left in {folder}: {left:?}");
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for entry in fs::read_dir(self.store().join("machines")).into_iter().flatten().flatten() {
                let console = fs::read_to_string(entry.path().join("console.log")).unwrap_or_default();
                let lines: Vec<&str> = console.lines().collect();
                eprintln!("-- the console of {}:", entry.file_name().display());
                eprintln!("{}", lines[lines.len().saturating_sub(30)..].join("\n"));
            }
        }
        let names = self.command(&["ls", "-q"]).output().map(|output| output.stdout).unwrap_or_default();
        for name in String::from_utf8_lossy(&names).lines() {
            let _ = self.command(&["rm", "-f", name]).output();
        }
    }
}

/// Waits, within a bound, until `condition` gives something.
pub(crate) fn until<T>(what: &str, bound: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + bound;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {} s until {what}", bound.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn show(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
