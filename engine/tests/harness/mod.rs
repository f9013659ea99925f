//! Runs the engine in namespaces of its own, with the stock docker command line as its client.
//!
//! ```text
//! holder process: mount and network namespace, lo up, empty /run; lives until the test ends
//!   └─ engine daemon: enters them, so that it can be stopped, killed and started again in the same place
//! ```

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::print_stderr)]

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Waits are for slow machines; nothing takes so long when it works.
const PATIENCE: Duration = Duration::from_mins(1);

/// What a command did.
#[derive(Clone, Debug)]
pub struct Output {
    pub command: String,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Its standard output, if it succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(
            self.code,
            Some(0),
            "`{}` failed\nstdout: {}\nstderr: {}",
            self.command,
            self.stdout,
            self.stderr
        );
        self.stdout
    }

    /// Its standard error, if it failed.
    #[track_caller]
    pub fn failed(self) -> String {
        assert_ne!(self.code, Some(0), "`{}` did not fail\nstdout: {}", self.command, self.stdout);
        self.stderr
    }
}

/// Runs a command to its end.
pub fn run(command: &mut Command, input: &[u8]) -> Output {
    let text = format!("{command:?}");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap_or_else(|error| {
            panic!("Could not run `{text}`: {error}. The stock docker CLI has to be in PATH, and util-linux and iproute2")
        });
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // A command that does not read its input closes the pipe.
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    Output {
        command: text,
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Waits for something to become true.
#[track_caller]
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "Waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// An answer of the API.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A running engine. Dropping it removes everything that it made.
pub struct Engine {
    directory: tempfile::TempDir,
    holder: Child,
    daemon: Option<Child>,
    exec_root: String,
    flags: Vec<String>,
    /// Variables of the daemon, when it starts the next time.
    pub variables: Vec<(String, String)>,
    /// The engine's binary, when it starts the next time.
    pub program: PathBuf,
}

impl Engine {
    /// Starts one with nothing in its configuration but that it does not clean: this machine's disk may be full.
    pub fn start() -> Self {
        Self::start_with(r#"{"prune": {"enabled": false}}"#, &[])
    }

    /// Starts one with this `daemon.json` and these flags besides those for its directories.
    pub fn start_with(configuration: &str, flags: &[&str]) -> Self {
        let mut engine = Self::prepare(configuration, flags);
        engine.launch();
        engine
    }

    /// Makes everything ready but does not start the daemon.
    pub fn prepare(configuration: &str, flags: &[&str]) -> Self {
        // On a disk, since overlayfs on overlayfs is not what hosts have.
        let directory =
            tempfile::Builder::new().prefix("engine-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        // Nothing is cleaned away unless a test wants it, however full this machine's disk is.
        let mut configuration: Value = serde_json::from_str(configuration).unwrap();
        if configuration["prune"].is_null() {
            configuration["prune"] = json!({ "enabled": false });
        }
        fs::write(directory.path().join("daemon.json"), configuration.to_string()).unwrap();
        fs::create_dir(directory.path().join("docker-config")).unwrap();
        let set_up = "ip link set lo up && mount -t tmpfs tmpfs /run && echo ready && exec cat";
        let mut holder = Command::new("unshare")
            .args(["--mount", "--net", "--propagation", "private", "sh", "-c", set_up])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("Could not run `unshare` of util-linux: {error}"));
        let mut ready = [0; 6];
        let said = holder.stdout.as_mut().unwrap().read_exact(&mut ready);
        assert!(said.is_ok(), "These tests need root and `ip` of iproute2");
        let name = directory.path().file_name().unwrap().to_str().unwrap();
        let exec_root = format!("/run/{name}");
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let program = env!("CARGO_BIN_EXE_engine").into();
        Self { directory, holder, daemon: None, exec_root, flags, variables: Vec::new(), program }
    }

    /// Starts the daemon, after `prepare`, `stop` or `kill`, and waits until it answers.
    pub fn launch(&mut self) {
        self.spawn();
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.daemon.as_mut().unwrap().try_wait().unwrap() {
                panic!("The engine ended ({status}):\n{}", self.log());
            }
            if self.try_http("GET", "/_ping", b"").is_some_and(|answer| answer.status == 200) {
                return;
            }
            assert!(Instant::now() < end, "The engine does not answer:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Starts the daemon and does not wait.
    pub fn spawn(&mut self) {
        let log = File::options().append(true).create(true).open(self.path("engine.log")).unwrap();
        let mut command = self.enter(self.program.to_str().unwrap());
        command.args(["daemon", "--config-file"]).arg(self.path("daemon.json"));
        command.arg("--data-root").arg(self.path("data")).args(["--exec-root", &self.exec_root]);
        command.arg("--pidfile").arg(self.path("engine.pid"));
        if !self.flags.iter().any(|flag| flag.starts_with("unix://")) {
            command.arg("--host").arg(format!("unix://{}", self.socket().display()));
        }
        command.args(&self.flags).envs(self.variables.iter().cloned());
        self.daemon =
            Some(command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    }

    /// Waits for a daemon that ends by itself.
    pub fn wait(&mut self) -> Option<i32> {
        let mut daemon = self.daemon.take().unwrap();
        let mut code = None;
        wait_for("the end of the daemon", || {
            let status = daemon.try_wait().unwrap();
            code = status.and_then(|status| status.code());
            status.is_some()
        });
        code
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&mut self) -> Option<i32> {
        self.signal("TERM");
        self.wait()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
    }

    pub fn signal(&self, name: &str) {
        run(Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]), b"").ok();
    }

    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().unwrap().id()
    }

    /// A path in the test's own directory.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn data_root(&self) -> PathBuf {
        self.path("data")
    }

    /// Inside the namespaces only.
    pub fn exec_root(&self) -> &str {
        &self.exec_root
    }

    /// The control group below which its containers lie unless it is told otherwise, from the root of each hierarchy.
    pub fn control_group(&self) -> PathBuf {
        let digest = format!("{:x}", Sha256::digest(self.exec_root.as_bytes()));
        Path::new("/").join(format!("engine-{}", &digest[..12]))
    }

    /// A path inside the namespaces, as it is reached from outside of them.
    pub fn within(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref().strip_prefix("/").unwrap();
        Path::new(&format!("/proc/{}/root", self.holder.id())).join(path)
    }

    pub fn socket(&self) -> PathBuf {
        self.path("engine.sock")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("engine.log")).unwrap_or_default()
    }

    /// The stock docker command line, as a user outside of the namespaces runs it.
    pub fn docker<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Output {
        self.docker_with_input(arguments, b"")
    }

    pub fn docker_with_input<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
        input: &[u8],
    ) -> Output {
        run(&mut self.docker_command(arguments), input)
    }

    /// The same, to be started by the caller.
    pub fn docker_command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new("docker");
        command.args(arguments);
        self.environment(&mut command);
        command
    }

    fn environment(&self, command: &mut Command) {
        command.env("DOCKER_HOST", format!("unix://{}", self.socket().display()));
        command.env("DOCKER_CONFIG", self.path("docker-config"));
        for variable in ["DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_CONTEXT", "DOCKER_API_VERSION"] {
            command.env_remove(variable);
        }
    }

    /// A command inside the engine's mount and network namespaces.
    pub fn inside<S: AsRef<OsStr>>(&self, program: &str, arguments: impl IntoIterator<Item = S>) -> Output {
        let mut command = self.enter(program);
        command.args(arguments);
        self.environment(&mut command);
        run(&mut command, b"")
    }

    /// The same, to be started by the caller.
    pub fn enter(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.holder.id().to_string()).args(["--mount", "--net", "--", program]);
        command
    }

    /// A request over the unix socket, without any client library.
    #[track_caller]
    pub fn http(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        self.try_http(method, path, body)
            .unwrap_or_else(|| panic!("No answer to {method} {path}:\n{}", self.log()))
    }

    fn try_http(&self, method: &str, path: &str, body: &[u8]) -> Option<Answer> {
        let mut stream = UnixStream::connect(self.socket()).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: engine\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(body).ok()?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).ok()?;
        parse_answer(&bytes)
    }

    /// Lets the docker command line find its plug-ins buildx and compose. False if they are not here.
    pub fn with_plugins(&self) -> bool {
        let Some(plugins) = plugins() else { return false };
        std::os::unix::fs::symlink(plugins, self.path("docker-config/cli-plugins")).unwrap();
        true
    }

    /// Loads the image `busybox:latest`.
    pub fn load_busybox(&self) {
        let output = self.docker_with_input(["load"], &busybox_image()).ok();
        assert!(output.contains("Loaded image: busybox:latest"), "{output}");
    }

    /// Kills whatever the engine left running: shims, which are in its network namespace, and all below them.
    fn kill_remainders(&self) {
        let own = fs::metadata(format!("/proc/{}/ns/net", self.holder.id())).map(|metadata| metadata.ino());
        let Ok(own) = own else { return };
        for _ in 0..50 {
            let mut parents: BTreeMap<u32, u32> = BTreeMap::new();
            let mut doomed: HashSet<u32> = HashSet::new();
            for process in fs::read_dir("/proc").unwrap().flatten() {
                let Some(id) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
                    continue;
                };
                if fs::metadata(process.path().join("ns/net")).is_ok_and(|metadata| metadata.ino() == own) {
                    doomed.insert(id);
                }
                let status = fs::read_to_string(process.path().join("status")).unwrap_or_default();
                let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok());
                parents.insert(id, parent.unwrap_or(0));
            }
            doomed.remove(&self.holder.id());
            let mut grew = true;
            while grew {
                let more: Vec<u32> = parents
                    .iter()
                    .filter(|(id, parent)| doomed.contains(parent) && !doomed.contains(id))
                    .map(|(id, _)| *id)
                    .collect();
                grew = !more.is_empty();
                doomed.extend(more);
            }
            doomed.remove(&self.holder.id());
            if doomed.is_empty() {
                return;
            }
            for id in doomed {
                // It may have ended already.
                let _ = Command::new("kill").args(["-KILL", &id.to_string()]).stderr(Stdio::null()).status();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The engine keeps its control groups for the next container; a test's are of no use later.
    fn remove_control_groups(&self) {
        let group = self.control_group();
        let name = group.strip_prefix("/").unwrap();
        let mut places = vec![Path::new("/sys/fs/cgroup").join(name)];
        for controller in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            places.push(controller.path().join(name));
        }
        // What was killed takes a moment to leave its group.
        for _ in 0..100 {
            places.retain(|place| place.exists());
            if places.is_empty() {
                return;
            }
            for place in &places {
                remove_control_group(place);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn remove_control_group(place: &Path) {
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_control_group(&entry.path());
        }
    }
    for process in fs::read_to_string(place.join("cgroup.procs")).unwrap_or_default().lines() {
        let _ = Command::new("kill").args(["-KILL", process]).stderr(Stdio::null()).status();
    }
    // It may not exist, or not be empty yet.
    let _ = fs::remove_dir(place);
}

impl Drop for Engine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("The engine's log:\n{}", self.log());
        }
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        self.kill_remainders();
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        self.remove_control_groups();
    }
}

pub fn parse_answer(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut body = bytes[end + 4..].to_vec();
    if headers.get("transfer-encoding").is_some_and(|encoding| encoding == "chunked") {
        body = without_chunks(&body)?;
    }
    Some(Answer { status, headers, body })
}

fn without_chunks(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|window| window == b"\r\n")?;
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..line]).ok()?.trim(), 16).ok()?;
        if length == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(line + 2..line + 2 + length)?);
        rest = rest.get(line + 4 + length..)?;
    }
}

/// The folder of the plug-ins that `cargo xtask test` has fetched (`xtask/src/setup.rs`).
pub fn plugins() -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_TARGET_TMPDIR")).parent()?.join("tools/docker-plugins");
    let folder = own.join("usr/libexec/docker/cli-plugins");
    folder.join("docker-buildx").exists().then_some(folder)
}

/// An image of the machine's static busybox, as `docker save` would write it, named `busybox:latest`.
pub fn busybox_image() -> Vec<u8> {
    busybox_image_named("busybox:latest")
}

pub fn busybox_image_named(name: &str) -> Vec<u8> {
    let busybox = fs::read("/bin/busybox").expect("These tests need the package busybox-static");
    let applets = run(Command::new("/bin/busybox").arg("--list"), b"").ok();
    let mut layer = tar::Builder::new(Vec::new());
    let mut entry = |kind: tar::EntryType, path: &str, link: &str, mode: u32, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        if link.is_empty() {
            layer.append_data(&mut header, path, content).unwrap();
        } else {
            layer.append_link(&mut header, path, link).unwrap();
        }
    };
    for directory in ["bin", "dev", "etc", "home", "proc", "root", "sys", "tmp", "usr", "var"] {
        let mode = if directory == "tmp" { 0o1777 } else { 0o755 };
        entry(tar::EntryType::Directory, directory, "", mode, b"");
    }
    entry(tar::EntryType::Regular, "bin/busybox", "", 0o755, &busybox);
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        entry(tar::EntryType::Symlink, &format!("bin/{applet}"), "busybox", 0o777, b"");
    }
    let passwd = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n";
    entry(tar::EntryType::Regular, "etc/passwd", "", 0o644, passwd);
    entry(tar::EntryType::Regular, "etc/group", "", 0o644, b"root:x:0:\nnogroup:x:65534:\n");
    let layer = layer.into_inner().unwrap();
    image(name, &[layer], &json!({"Cmd": ["sh"], "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}))
}

/// An image of uncompressed layers, as `docker save` would write it.
pub fn image(name: &str, layers: &[Vec<u8>], config: &Value) -> Vec<u8> {
    let diff_ids: Vec<String> =
        layers.iter().map(|layer| format!("sha256:{:x}", Sha256::digest(layer))).collect();
    let configuration = json!({
        "architecture": match std::env::consts::ARCH { "x86_64" => "amd64", "aarch64" => "arm64", other => other },
        "os": "linux",
        "created": "2024-01-02T03:04:05Z",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": layers.iter().map(|_| json!({"created": "2024-01-02T03:04:05Z", "created_by": "test"})).collect::<Vec<_>>(),
    });
    let names: Vec<String> = (0..layers.len()).map(|number| format!("{number}/layer.tar")).collect();
    let manifest = json!([{"Config": "config.json", "RepoTags": [name], "Layers": names}]);
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |path: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, path, content).unwrap();
    };
    add("config.json", configuration.to_string().as_bytes());
    for (path, layer) in names.iter().zip(layers) {
        add(path, layer);
    }
    add("manifest.json", manifest.to_string().as_bytes());
    archive.into_inner().unwrap()
}
