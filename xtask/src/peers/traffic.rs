//! What goes on while containers run: their logs, their packets, their names, their health checks, and rest.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    net::UdpSocket,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{Peer, Row, of_three, row, seconds, small, timed};
use crate::run::{check, output};

/// Of logs that are read, in bytes, and of streams that are sent.
const LOGGED: u64 = 100_000_000;
const MEGABYTES: u32 = 1000;
const ROUNDS: usize = 50;
const ASKING: Duration = Duration::from_secs(5);
/// Containers with a check every 5 seconds, and for how long: 1,000 checks.
const CHECKED: usize = 100;
const CHECKING: Duration = Duration::from_secs(50);
const REST: Duration = Duration::from_secs(20);

pub(super) fn figures(both: &[Peer; 2], rows: &mut Vec<Row>) -> Result<()> {
    logs(both, rows)?;
    packets(both, rows)?;
    checks(both, rows)
}

fn logs(both: &[Peer; 2], rows: &mut Vec<Row>) -> Result<()> {
    let script = format!(
        "yes 0123456789012345678901234567890123456789012345678901234567890123456789012345678 | head -c {LOGGED}"
    );
    for peer in both {
        // The engine would keep 30 MB of it.
        let options = ["run", "--name", "talker", "--log-opt", "max-size=1g", "busybox", "sh", "-c", &script];
        check(&mut peer.docker(&options))?;
        check(&mut peer.docker(&["run", "-d", "-i", "--name", "echo", "busybox", "cat"]))?;
    }
    let times = of_three(both, |peer| {
        timed(|| {
            let mut client = peer.docker(&["logs", "talker"]).stdout(Stdio::piped()).spawn()?;
            let bytes = io::copy(&mut client.stdout.take().context("no output")?, &mut io::sink())?;
            ensure!(bytes == LOGGED && client.wait()?.success(), "{bytes} bytes came");
            Ok(())
        })
    })?;
    row(rows, "docker logs of 100 MB (median of 3)", |time| seconds(*time), &times);
    let mut both_times = Vec::new();
    for peer in both {
        let mut writer =
            peer.docker(&["attach", "echo"]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut reader = peer.docker(&["logs", "-f", "echo"]).stdout(Stdio::piped()).spawn()?;
        let mut input = writer.stdin.take().context("no input")?;
        let mut lines = BufReader::new(reader.stdout.take().context("no output")?);
        let mut times = Vec::new();
        for round in 0..=ROUNDS {
            let time = timed(|| {
                let mut line = String::new();
                writeln!(input, "{round}")?;
                lines.read_line(&mut line)?;
                ensure!(line.trim() == round.to_string(), "`{line}` came for {round}");
                Ok(())
            })?;
            // The first one waits for both clients to be there.
            times.extend((round > 0).then_some(time));
        }
        times.sort();
        both_times.push(times);
        for client in [&mut writer, &mut reader] {
            let _ = client.kill();
            let _ = client.wait();
        }
        check(&mut peer.docker(&["rm", "-f", "echo", "talker"]))?;
    }
    let what = "a line from attach to logs -f (min / median of 50)";
    row(rows, what, |times: &Vec<Duration>| small(times), &[both_times.remove(0), both_times.remove(0)]);
    Ok(())
}

fn packets(both: &[Peer; 2], rows: &mut Vec<Row>) -> Result<()> {
    let serve = format!(
        "mkdir /w; dd if=/dev/zero of=/w/big bs=1000000 count=0 seek={MEGABYTES}; exec httpd -f -p 80 -h /w"
    );
    for peer in both {
        check(peer.docker(&["network", "create", "inner"]).stderr(Stdio::null()))?;
        let server =
            ["run", "-d", "--network", "inner", "--name", "web", "-p", "8080:80", "busybox", "sh", "-c"];
        check(&mut peer.docker(&[&server[..], &[&serve]].concat()))?;
        let other = ["run", "-d", "--network", "inner", "--name", "other", "busybox", "sleep", "10000"];
        check(&mut peer.docker(&other))?;
        std::thread::sleep(Duration::from_secs(1));
    }
    let rate = |time: &Duration| format!("{:.0} MB/s", f64::from(MEGABYTES) / time.as_secs_f64());
    let between = of_three(both, |peer| {
        timed(|| {
            check(&mut peer.docker(&["exec", "other", "wget", "-q", "-O", "/dev/null", "http://web/big"]))
        })
    })?;
    row(rows, "1 GB from container to container", rate, &between);
    let published = of_three(both, |peer| {
        timed(|| {
            let address = "http://127.0.0.1:8080/big";
            check(peer.in_network("busybox").args(["wget", "-q", "-O", "/dev/null", address]))
        })
    })?;
    row(rows, "1 GB through a published port, on loopback", rate, &published);
    let mut answers = Vec::new();
    for peer in both {
        let pid = output(peer.docker(&["inspect", "-f", "{{.State.Pid}}", "other"]).stdout(Stdio::piped()))?;
        let own = std::env::current_exe()?;
        let mut asker = std::process::Command::new("nsenter");
        asker.args(["--net", "--target", pid.trim()]).arg(own).arg("ask-names");
        answers.push(output(&mut asker)?.trim().parse::<u64>()?);
    }
    let per_second = |count: &u64| format!("{}/s", count / ASKING.as_secs());
    row(rows, "questions for names answered to one container", per_second, &[answers[0], answers[1]]);
    for peer in both {
        check(&mut peer.docker(&["rm", "-f", "web", "other"]))?;
        check(&mut peer.docker(&["network", "rm", "inner"]))?;
    }
    Ok(())
}

/// Asks 127.0.0.11 for `web` again and again, one question at a time; how often it was answered is printed.
pub(crate) fn ask_names() -> Result<()> {
    let question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03web\x00\x00\x01\x00\x01";
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect("127.0.0.11:53")?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let (began, mut count) = (Instant::now(), 0_u64);
    let mut answer = [0; 512];
    while began.elapsed() < ASKING {
        socket.send(question)?;
        let length = socket.recv(&mut answer)?;
        ensure!(length > question.len() && answer[7] == 1, "That is no answer");
        count += 1;
    }
    writeln!(io::stdout(), "{count}")?;
    Ok(())
}

/// Seconds that the machine's processors were busy since it began.
fn busy() -> Result<f64> {
    let text = fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("no line")?;
    let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|number| number.parse().ok()).collect();
    // All but those of idleness and of waiting.
    let idle: f64 = ticks.iter().skip(3).take(2).sum();
    Ok((ticks.iter().take(8).sum::<f64>() - idle) / 100.0)
}

fn checks(both: &[Peer; 2], rows: &mut Vec<Row>) -> Result<()> {
    let mut work = Vec::new();
    let mut rests = Vec::new();
    let mut memories = Vec::new();
    for peer in both {
        let names: Vec<String> = (0..CHECKED).map(|number| format!("checked{number}")).collect();
        let options = ["--health-cmd", "true", "--health-interval", "5s", "busybox", "sleep", "100000"];
        for name in &names {
            check(&mut peer.docker(&[&["run", "-d", "--name", name], &options[..]].concat()))?;
        }
        std::thread::sleep(Duration::from_secs(10));
        let before = busy()?;
        std::thread::sleep(CHECKING);
        work.push(busy()? - before);
        let all: Vec<&str> = ["rm", "-f"].into_iter().chain(names.iter().map(String::as_str)).collect();
        check(&mut peer.docker(&all))?;
        for name in &names {
            check(&mut peer.docker(&["run", "-d", "--name", name, "busybox", "sleep", "100000"]))?;
        }
        std::thread::sleep(Duration::from_secs(5));
        let before = peer.sleeps()?;
        std::thread::sleep(REST);
        // A thread that has ended counts no more.
        let slept =
            |(thread, count): (PathBuf, u64)| count - before.get(&thread).copied().unwrap_or(0).min(count);
        rests.push(peer.sleeps()?.into_iter().map(slept).sum::<u64>());
        memories.push(peer.memory()?);
        check(&mut peer.docker(&all))?;
    }
    let what = "1,000 health checks (100 containers, 5 s): processor's time";
    row(rows, what, |seconds: &f64| format!("{seconds:.1} s"), &[work[0], work[1]]);
    let what = "wake-ups of the daemon in 20 s, 100 containers at rest";
    row(rows, what, |count: &u64| count.to_string(), &[rests[0], rests[1]]);
    let all = |memory: &(u64, u64, u64)| super::mib(memory.0 + memory.1);
    row(rows, "memory with 100 containers at rest, all processes of it", all, &[memories[0], memories[1]]);
    Ok(())
}
