//! The engine beside dockerd, in one run: figures printed, nothing asserted.

mod answers;
mod images;
mod peer;
mod traffic;

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{
    build::{self, Make},
    demo, plugins,
    run::{check, output, root, say},
    setup,
};
pub(crate) use answers::ask;
use peer::{Kind, Peer};
pub(crate) use traffic::ask_names;

/// As users get it.
const MAKE: Make = Make::Light;
/// How often a small thing is done; the two take turns.
const TURNS: usize = 25;
/// What runs at once, and what there is in all.
const RUNNING: usize = 100;
const CONTAINERS: usize = 1000;

/// What both did, in the same order.
struct Row {
    what: &'static str,
    ours: String,
    theirs: String,
}

/// Figures that are taken together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// Starts, execs and their like, one at a time
    Small,
    /// Many containers, much output, a large image
    Much,
    /// Builds, pulls and pushes
    Images,
    /// Logs, networks and names
    Traffic,
    /// A thousand containers, health checks, rest
    Many,
    /// The programs
    Sizes,
}

/// All figures, or those of some parts.
pub(crate) fn run(parts: &[Part]) -> Result<()> {
    let wants = |part: Part| parts.is_empty() || parts.contains(&part);
    setup::for_peers()?;
    let docker = setup::docker_cli()?;
    plugins::fetch()?;
    build::engine(MAKE)?;
    let folder = root().join("target/peers");
    let tree = tree(&folder)?;
    let image = demo::busybox_image(&root().join("target/demo-image"))?;
    let large = large_image(&folder.join("large"))?;
    let mut both = [
        Peer::start(Kind::Engine, &folder.join("engine"), &MAKE.engine_program(), &docker)?,
        Peer::start(Kind::Dockerd, &folder.join("dockerd"), &tree, &docker)?,
    ];
    for peer in &both {
        check(&mut peer.docker(&["load", "-i", &image.display().to_string()]))?;
    }
    let mut rows = Vec::new();
    if wants(Part::Small) {
        small_things(&both, &mut rows)?;
    }
    if wants(Part::Much) {
        much_at_once(&both, &large, &mut rows)?;
    }
    if wants(Part::Images) {
        images::figures(&both, &folder, &mut rows)?;
    }
    if wants(Part::Traffic) {
        traffic::figures(&both, &mut rows)?;
    }
    if wants(Part::Many) {
        many(&mut both, &mut rows)?;
    }
    if wants(Part::Sizes) {
        sizes(&tree, &mut rows)?;
    }
    for peer in &both {
        let version =
            output(peer.docker(&["version", "--format", "{{.Server.Version}}"]).stdout(Stdio::piped()))?;
        say(&format!("{} {}", peer.name(), version.trim()));
    }
    say(&format!("{:<58} {:>18} {:>18}", "", "engine", "dockerd, runc"));
    for row in &rows {
        say(&format!("{:<58} {:>18} {:>18}", row.what, row.ours, row.theirs));
    }
    Ok(())
}

/// Debian's unstable with dockerd in it, made once.
fn tree(folder: &Path) -> Result<PathBuf> {
    let tree = folder.join("tree");
    // dockerd runs `ps` for `docker top`.
    if ["usr/sbin/dockerd", "usr/bin/ps"].iter().all(|program| tree.join(program).exists()) {
        return Ok(tree);
    }
    say("Putting a Debian with dockerd together");
    // Under another name until it is whole.
    let half = folder.join("half");
    for old in [&half, &tree] {
        let _ = fs::remove_dir_all(old);
    }
    fs::create_dir_all(folder)?;
    check(
        Command::new("mmdebstrap")
            .args(["--quiet", "--mode=root", "--variant=minbase", "--components=main", "--format=directory"])
            .args([
                "--include=docker.io,iproute2,procps,ca-certificates",
                "--aptopt=APT::Install-Recommends \"false\"",
            ])
            .args(["--aptopt=Acquire::Check-Valid-Until \"false\"", "sid"])
            .arg(&half),
    )?;
    fs::rename(half, &tree)?;
    Ok(tree)
}

/// An image of 300 MB that no compression makes smaller, in 3,000 files.
fn large_image(folder: &Path) -> Result<PathBuf> {
    let archive = folder.join("large.tar");
    if archive.exists() {
        return Ok(archive);
    }
    let _ = fs::remove_dir_all(folder);
    let files = folder.join("files");
    fs::create_dir_all(&files)?;
    let mut random = fs::File::open("/dev/urandom")?;
    let mut content = vec![0; 100_000];
    for number in 0..3000 {
        random.read_exact(&mut content)?;
        fs::write(files.join(number.to_string()), &content)?;
    }
    demo::image_of(&files, folder, "large-new")?;
    fs::remove_dir_all(files)?;
    fs::rename(folder.join("large-new.tar"), &archive)?;
    Ok(archive)
}

/// The same thing by turns, so that what else the machine does falls on both.
fn turns(
    both: &[Peer; 2],
    mut one: impl FnMut(&Peer, usize) -> Result<Duration>,
) -> Result<[Vec<Duration>; 2]> {
    let mut times = [Vec::new(), Vec::new()];
    for turn in 0..TURNS {
        for (peer, times) in both.iter().zip(&mut times) {
            times.push(one(peer, turn)?);
        }
    }
    for times in &mut times {
        times.sort();
    }
    Ok(times)
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let began = Instant::now();
    work()?;
    Ok(began.elapsed())
}

/// Smallest and middle.
fn small(times: &[Duration]) -> String {
    let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
    format!("{:.1} / {:.1} ms", milliseconds(times[0]), milliseconds(times[times.len() / 2]))
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

fn mib(bytes: u64) -> String {
    format!("{}.{} MiB", bytes >> 20, ((bytes % (1 << 20)) * 10) >> 20)
}

fn row<T>(rows: &mut Vec<Row>, what: &'static str, show: impl Fn(&T) -> String, both: &[T; 2]) {
    let [ours, theirs] = both;
    rows.push(Row { what, ours: show(ours), theirs: show(theirs) });
    say(&format!("{what}: {} against {}", show(ours), show(theirs)));
}

fn small_things(both: &[Peer; 2], rows: &mut Vec<Row>) -> Result<()> {
    let show = |times: &Vec<Duration>| small(times);
    for (network, what) in [
        ("none", "start by the API, no network (min / median of 25)"),
        ("bridge", "start by the API, bridge network"),
    ] {
        let times = turns(both, |peer, turn| {
            let name = format!("{network}{turn}");
            let body = format!(
                r#"{{"Image":"busybox","Cmd":["sleep","1000"],"HostConfig":{{"NetworkMode":"{network}"}}}}"#
            );
            peer.request("POST", &format!("/containers/create?name={name}"), &body)?;
            let time = timed(|| peer.request("POST", &format!("/containers/{name}/start"), ""))?;
            peer.request("DELETE", &format!("/containers/{name}?force=true"), "")?;
            Ok(time)
        })?;
        row(rows, what, show, &times);
    }
    let times =
        turns(both, |peer, _| timed(|| check(&mut peer.docker(&["run", "--rm", "busybox", "true"]))))?;
    row(rows, "docker run --rm busybox true", show, &times);
    for peer in both {
        check(&mut peer.docker(&["run", "-d", "--name", "here", "busybox", "sleep", "1000"]))?;
    }
    let times = turns(both, |peer, _| timed(|| check(&mut peer.docker(&["exec", "here", "true"]))))?;
    row(rows, "docker exec", show, &times);
    for peer in both {
        check(&mut peer.docker(&["rm", "-f", "here"]))?;
    }
    Ok(())
}

/// Does something three times for each and takes the middle.
fn of_three(both: &[Peer; 2], mut one: impl FnMut(&Peer) -> Result<Duration>) -> Result<[Duration; 2]> {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..3 {
        for (peer, times) in both.iter().zip(&mut times) {
            times.push(one(peer)?);
        }
    }
    Ok(times.map(|mut times| {
        times.sort();
        times[1]
    }))
}

fn much_at_once(both: &[Peer; 2], large: &Path, rows: &mut Vec<Row>) -> Result<()> {
    let script = "yes 0123456789012345678901234567890123456789012345678901234567890123456789012345678 | head -c 100000000";
    let times = of_three(both, |peer| {
        timed(|| {
            let mut client = peer
                .docker(&["run", "--rm", "busybox", "sh", "-c", script])
                .stdout(Stdio::piped())
                .spawn()?;
            let mut stream = client.stdout.take().context("no output")?;
            let bytes = std::io::copy(&mut stream, &mut std::io::sink())?;
            anyhow::ensure!(bytes == 100_000_000 && client.wait()?.success(), "{bytes} bytes came");
            Ok(())
        })
    })?;
    row(rows, "100 MB of output through docker run, logged (median of 3)", |time| seconds(*time), &times);
    let large = large.display().to_string();
    let times = of_three(both, |peer| {
        let time = timed(|| check(&mut peer.docker(&["load", "-i", &large])))?;
        check(&mut peer.docker(&["rmi", "large-new"]))?;
        Ok(time)
    })?;
    row(rows, "docker load of an image of 300 MB (median of 3)", |time| seconds(*time), &times);
    Ok(())
}

fn many(both: &mut [Peer; 2], rows: &mut Vec<Row>) -> Result<()> {
    let mut memory = Vec::new();
    for peer in &*both {
        memory.push(peer.memory()?.0);
    }
    row(rows, "memory of the daemon (and containerd), idle", |bytes| mib(*bytes), &[memory[0], memory[1]]);
    let names: Vec<String> = (0..RUNNING).map(|number| format!("run{number}")).collect();
    let mut times = Vec::new();
    for peer in &*both {
        times.push(timed(|| {
            names.iter().try_for_each(|name| {
                check(&mut peer.docker(&["run", "-d", "--name", name, "busybox", "sleep", "100000"]))
            })
        })?);
    }
    row(rows, "docker run -d, 100 times", |time| seconds(*time), &[times[0], times[1]]);
    let mut memory = Vec::new();
    for peer in &*both {
        memory.push(peer.memory()?);
    }
    row(rows, "memory of the daemon with 100 running", |memory| mib(memory.0), &[memory[0], memory[1]]);
    let each = |memory: &(u64, u64, u64)| mib(memory.1 / memory.2.max(1));
    row(rows, "memory of each supervisor (shim)", each, &[memory[0], memory[1]]);
    for number in RUNNING..CONTAINERS {
        for peer in &*both {
            let body = r#"{"Image":"busybox","Cmd":["true"]}"#;
            peer.request("POST", &format!("/containers/create?name=idle{number}"), body)?;
        }
    }
    let times = of_three(both, |peer| timed(|| check(&mut peer.docker(&["ps", "-a"]))))?;
    row(rows, "docker ps -a with 1,000 containers (median of 3)", |time| small(&[*time]), &times);
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..3 {
        for (peer, times) in both.iter_mut().zip(&mut times) {
            peer.stop()?;
            times.push(peer.launch()?);
        }
    }
    let times = times.map(|mut times| {
        times.sort();
        times[1]
    });
    row(
        rows,
        "restart of the daemon: 1,000 containers, 100 run (median of 3)",
        |time| seconds(*time),
        &times,
    );
    let mut times = Vec::new();
    for peer in &*both {
        let arguments: Vec<&str> = ["rm", "-f"].into_iter().chain(names.iter().map(String::as_str)).collect();
        times.push(timed(|| check(&mut peer.docker(&arguments)))?);
    }
    row(rows, "docker rm -f of 100 that run, one command", |time| seconds(*time), &[times[0], times[1]]);
    Ok(())
}

fn sizes(tree: &Path, rows: &mut Vec<Row>) -> Result<()> {
    let size = |path: &Path| {
        fs::metadata(path)
            .map(|file| file.len())
            .with_context(|| format!("Could not read `{}`", path.display()))
    };
    let mut theirs = 0;
    for program in ["sbin/dockerd", "bin/containerd", "bin/containerd-shim-runc-v2", "sbin/runc"] {
        theirs += size(&tree.join("usr").join(program))?;
    }
    row(rows, "size of the programs", |bytes| mib(*bytes), &[size(&MAKE.engine_program())?, theirs]);
    Ok(())
}
