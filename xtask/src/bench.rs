//! The figures of the budget, measured and printed; nothing is asserted.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{
    build::{self, Make},
    demo,
    run::{check, output, root, say},
    setup,
};

/// What users get, but for the drivers that need an SDK.
const MAKE: Make = Make::Light;

pub(crate) fn run() -> Result<()> {
    setup::for_demo()?;
    let docker = setup::docker_cli()?;
    build::engine(MAKE)?;
    build::machineos(MAKE)?;
    build::machine(MAKE)?;
    let store = root().join("target/bench");
    let _ = fs::remove_dir_all(&store);
    small_commands(&store)?;
    sizes()?;
    on_a_vm(&store, &docker)?;
    let _ = fs::remove_dir_all(&store);
    Ok(())
}

fn machine(store: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(MAKE.machine_program());
    command.arg("--storage-path").arg(store).args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Runs a command a few times and returns the median, after one run that does not count.
fn median(runs: usize, mut command: impl FnMut() -> Command) -> Result<Duration> {
    let mut times = Vec::with_capacity(runs);
    for run in 0..=runs {
        let began = Instant::now();
        check(&mut command())?;
        if run > 0 {
            times.push(began.elapsed());
        }
    }
    times.sort();
    Ok(times[times.len() / 2])
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

fn small_commands(store: &Path) -> Result<()> {
    for number in 0..100 {
        check(&mut machine(
            store,
            &["create", "-d", "none", "--url", "tcp://127.0.0.1:9", &format!("n{number}")],
        ))?;
    }
    for (target, arguments) in [
        ("≤ 3 ms", vec!["-v"]),
        ("≤ 5 ms", vec!["env", "--shell", "bash", "n1"]),
        ("≤ 5 ms", vec!["ip", "n1"]),
        ("≤ 5 ms", vec!["url", "n1"]),
        ("≤ 5 ms", vec!["config", "n1"]),
        ("≤ 20 ms", vec!["ls"]),
    ] {
        let time = median(50, || machine(store, &arguments))?;
        let of = if arguments == ["ls"] { " of 100 hosts without a driver" } else { "" };
        say(&format!("machine {}{of}: {} ({target}, median of 50)", arguments.join(" "), milliseconds(time)));
    }
    Ok(())
}

fn sizes() -> Result<()> {
    let size = |path: &Path| {
        fs::metadata(path)
            .map(|file| file.len())
            .with_context(|| format!("Could not read `{}`", path.display()))
    };
    let mib = |bytes: u64| format!("{}.{} MiB", bytes >> 20, ((bytes % (1 << 20)) * 10) >> 20);
    say(&format!(
        "engine: {}, gzip'd {} (≤ 30, ≤ 10); machine with it: {}",
        mib(size(&MAKE.engine_program())?),
        mib(size(&MAKE.engine_bundle().join("engine-x86_64.gz"))?),
        mib(size(&MAKE.machine_program())?),
    ));
    Ok(())
}

fn on_a_vm(store: &Path, docker: &Path) -> Result<()> {
    let text = output(
        Command::new(MAKE.machine_program())
            .arg("--storage-path")
            .arg(store)
            .args(["create", "--json", "-d", "qemu", "bench"])
            .stderr(Stdio::inherit()),
    )?;
    for line in text.lines().filter(|line| line.contains("\"event\":\"done\"")) {
        say(&format!("machine create, its steps: {line}"));
    }
    let environment = output(
        Command::new(MAKE.machine_program())
            .arg("--storage-path")
            .arg(store)
            .args(["env", "--shell", "bash", "bench"]),
    )?;
    let variables: Vec<(String, String)> = environment
        .lines()
        .filter_map(|line| line.strip_prefix("export ")?.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()))
        .collect();
    let client = |arguments: &[&str]| {
        let mut command = Command::new(docker);
        command.args(arguments).envs(variables.iter().cloned()).stdout(Stdio::null());
        command
    };
    let image = demo::busybox_image(&root().join("target/demo-image"))?;
    check(&mut client(&["load", "-i", &image.display().to_string()]))?;
    let time = median(20, || client(&["run", "--rm", "busybox", "true"]))?;
    say(&format!(
        "docker run --rm busybox true, on the VM in software emulation: {} (median of 20)",
        milliseconds(time)
    ));
    let memory = output(Command::new(MAKE.machine_program()).arg("--storage-path").arg(store).args([
        "ssh",
        "bench",
        "grep VmRSS /proc/$(cat /run/engine.pid)/status",
    ]))?;
    say(&format!("engine daemon, idle: {}", memory.trim()));
    let logins = output(Command::new(MAKE.machine_program()).arg("--storage-path").arg(store).args([
        "ssh",
        "bench",
        "cat /var/log/sshd.log /var/log/auth.log 2>/dev/null | grep -c 'Accepted publickey' || true",
    ]))?;
    say(&format!("SSH logins until here, these two commands among them: {}", logins.trim()));
    check(&mut machine(store, &["rm", "-f", "bench"]))
}
