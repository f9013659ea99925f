//! Figures of the AWS driver on the bench, measured and printed; nothing is asserted. `cargo xtask bench` runs it.
//!
//! `aws-bench`, `machine`, the emulator and the images are named in the environment, as for the tests.

#![allow(clippy::print_stdout, reason = "the figures are printed")]

use std::{
    collections::BTreeMap,
    error::Error,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use aws_bench::Bench;
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Steps in which `machine` waits for the provider and for the instance to boot.
const WAITING: [&str; 2] = ["Waiting for the instance to run", "Waiting for SSH to be available"];

struct Figures {
    bench: Bench,
    store: tempfile::TempDir,
}

fn variable(name: &str) -> Result<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).ok_or_else(|| format!("`{name}` is not set").into())
}

fn main() -> Result<()> {
    let bench = Bench::start(
        &variable("AWS_BENCH_PROGRAM")?,
        &variable("AWS_BENCH_IMAGES")?,
        ["--boots-at-once", "10"],
    )?;
    let figures = Figures { bench, store: tempfile::tempdir()? };
    figures.one_host()?;
    figures.ten_hosts()?;
    figures.without_boots()?;
    Ok(())
}

fn line(what: &str, figure: impl std::fmt::Display) {
    println!("{what:<58} {figure}");
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

impl Figures {
    fn machine(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(variable("MACHINE_PROGRAM")?);
        command
            .args(arguments)
            .envs(self.bench.environment())
            .env("MACHINE_STORAGE_PATH", self.store.path())
            .env("AWS_ENDPOINT", self.bench.endpoint())
            .env("AWS_ENDPOINT_URL", self.bench.endpoint())
            .env("AWS_CHECKIP_URL", self.bench.checkip())
            .env("AWS_REGION", "eu-west-1");
        Ok(command)
    }

    fn run(&self, arguments: &[&str]) -> Result<(Duration, String)> {
        let began = Instant::now();
        let output = self.machine(arguments)?.output()?;
        let took = began.elapsed();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
        }
        Ok((took, String::from_utf8(output.stdout)?))
    }

    fn calls(&self) -> Result<(usize, BTreeMap<String, usize>)> {
        let mut counts = BTreeMap::new();
        let actions = self.bench.actions()?;
        for action in &actions {
            *counts.entry(action.clone()).or_default() += 1;
        }
        self.bench.clear_calls()?;
        Ok((actions.len(), counts))
    }

    fn one_host(&self) -> Result<()> {
        let (whole, events) = self.run(&["--json", "create", "-d", "aws", "one"])?;
        let waited = waited(&events);
        line("create: all of it", seconds(whole));
        line("create: waiting for the instance to run and to boot", seconds(waited));
        line("create: our own share", seconds(whole.saturating_sub(waited)));
        let (count, counts) = self.calls()?;
        line("create: calls of the API", format!("{count}  {counts:?}"));
        let (log, _) = self.logins("one")?;
        line("create: SSH logins", log);
        line("stop", seconds(self.run(&["stop", "one"])?.0));
        line("start, at another address", seconds(self.run(&["start", "one"])?.0));
        self.bench.clear_calls()?;
        line("rm", seconds(self.run(&["rm", "-y", "one"])?.0));
        let (count, counts) = self.calls()?;
        line("rm: calls of the API", format!("{count}  {counts:?}"));
        Ok(())
    }

    /// How often somebody was let in by the SSH server of a host, before this question itself.
    fn logins(&self, name: &str) -> Result<(usize, String)> {
        let (_, log) = self.run(&["ssh", name, "sudo cat /var/log/sshd.log"])?;
        Ok((log.lines().filter(|line| line.contains("Accepted publickey")).count().saturating_sub(1), log))
    }

    fn ten_hosts(&self) -> Result<()> {
        let names: Vec<String> = (1..=10).map(|number| format!("p{number}")).collect();
        let mut arguments = vec!["create", "-d", "aws"];
        arguments.extend(names.iter().map(String::as_str));
        let (ten, _) = self.run(&arguments)?;
        line("create of 10 hosts, booting on the cores of this machine", seconds(ten));
        let mut arguments = vec!["rm", "-y"];
        arguments.extend(names.iter().map(String::as_str));
        line("rm of 10 hosts", seconds(self.run(&arguments)?.0));
        self.bench.clear_calls()?;
        Ok(())
    }

    /// What the boots of emulated VMs would hide: hosts that only have to be made, not to boot.
    fn without_boots(&self) -> Result<()> {
        self.bench.settings(json!({ "vms": false }))?;
        let one = self.made(1, "a")?;
        let ten = self.made(10, "b")?;
        line("made without booting: 1 host", seconds(one));
        line(
            "made without booting: 10 hosts",
            format!("{} ({:.2} times one)", seconds(ten), ten.as_secs_f64() / one.as_secs_f64()),
        );
        self.bench.clear_calls()?;
        self.made(89, "c")?;
        self.bench.clear_calls()?;
        let (took, rows) = self.run(&["ls", "-f", "{{.Name}} {{.State}}"])?;
        let (count, counts) = self.calls()?;
        line(
            &format!("ls of {} hosts", rows.lines().count()),
            format!("{:.0} ms, {count} call of the API {counts:?}", took.as_secs_f64() * 1000.0),
        );
        Ok(())
    }

    /// Until all of `count` instances run.
    fn made(&self, count: usize, prefix: &str) -> Result<Duration> {
        let before = self.running()?;
        let names: Vec<String> = (0..count).map(|number| format!("{prefix}{number}")).collect();
        let began = Instant::now();
        // As many as are worked on at once: these never boot, and would hold up the next ones.
        for names in names.chunks(50) {
            let before = self.running()?;
            let mut arguments = vec!["create", "-d", "aws"];
            arguments.extend(names.iter().map(String::as_str));
            let mut child = self.machine(&arguments)?.stdout(std::process::Stdio::null()).spawn()?;
            while self.running()? < before + names.len() {
                std::thread::sleep(Duration::from_millis(50));
            }
            child.kill()?;
            child.wait()?;
        }
        let took = began.elapsed();
        assert_eq!(self.running()?, before + count);
        Ok(took)
    }

    fn running(&self) -> Result<usize> {
        let all: Vec<Value> = self.bench.instances()?;
        Ok(all.iter().filter(|one| one["state"] == "running").count())
    }
}

/// The time between the beginnings of the steps that wait and of the steps after them.
fn waited(events: &str) -> Duration {
    let mut waited = Duration::ZERO;
    let mut since: Option<jiff::Timestamp> = None;
    for event in events.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let Some(time) = event["time"].as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok()) else {
            continue;
        };
        if let Some(since) = since.take() {
            waited += Duration::try_from(time.duration_since(since)).unwrap_or_default();
        }
        let text = event["text"].as_str().unwrap_or_default();
        if WAITING.iter().any(|step| text.starts_with(step)) {
            since = Some(time);
        }
    }
    waited
}
