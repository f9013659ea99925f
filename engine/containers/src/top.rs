//! The processes of a container in the columns that `ps` has: the answer to `GET /containers/{id}/top`.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use engine_kernel::cgroup;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::stats::total_memory;
use super::{Container, ContainerError, Containers};

/// Longer command lines are cut.
const LONGEST_COMMAND: usize = 4096;
/// Clock ticks a second, as `/proc` counts them on every architecture.
const TICKS: u64 = 100;
/// Columns that anyone wants to see at once.
const MOST_COLUMNS: usize = 64;

/// One column: its name for `-o`, what stands above it, and how a process is shown in it.
type Column = (&'static str, &'static str, fn(&Process) -> String);

const COLUMNS: [Column; 53] = [
    ("%cpu", "%CPU", Process::processor_share),
    ("%mem", "%MEM", Process::memory_share),
    ("args", "COMMAND", Process::command_line),
    ("c", "C", |process| process.processor_share().split('.').next().unwrap_or_default().to_owned()),
    ("cmd", "CMD", Process::command_line),
    ("comm", "COMMAND", |process| process.name.clone()),
    ("command", "COMMAND", Process::command_line),
    ("cputime", "TIME", |process| clock(process.processor_seconds())),
    ("egid", "EGID", |process| process.status_word("Gid:", 1)),
    ("egroup", "EGROUP", |process| name_of(&process.status_word("Gid:", 1))),
    ("etime", "ELAPSED", |process| elapsed(process.age())),
    ("etimes", "ELAPSED", |process| process.age().to_string()),
    ("euid", "EUID", |process| process.status_word("Uid:", 1)),
    ("euser", "EUSER", Process::user),
    ("f", "F", |process| (process.number(6) >> 6 & 7).to_string()),
    ("gid", "GID", |process| process.status_word("Gid:", 1)),
    ("group", "GROUP", |process| name_of(&process.status_word("Gid:", 1))),
    ("lstart", "STARTED", |process| process.started("%a %b %e %H:%M:%S %Y")),
    ("lwp", "LWP", |process| process.pid.to_string()),
    ("ni", "NI", |process| process.text(16)),
    ("nice", "NI", |process| process.text(16)),
    ("nlwp", "NLWP", |process| process.text(17)),
    ("pcpu", "%CPU", Process::processor_share),
    ("pgid", "PGID", |process| process.text(2)),
    ("pgrp", "PGRP", |process| process.text(2)),
    ("pid", "PID", |process| process.pid.to_string()),
    ("pmem", "%MEM", Process::memory_share),
    ("ppid", "PPID", |process| process.text(1)),
    ("pri", "PRI", |process| (39 - process.text(15).parse::<i64>().unwrap_or(0)).to_string()),
    ("psr", "PSR", |process| process.text(36)),
    ("rss", "RSS", |process| process.resident().to_string()),
    ("rssize", "RSS", |process| process.resident().to_string()),
    ("rsz", "RSZ", |process| process.resident().to_string()),
    ("ruid", "RUID", |process| process.status_word("Uid:", 0)),
    ("ruser", "RUSER", |process| name_of(&process.status_word("Uid:", 0))),
    ("s", "S", |process| process.text(0)),
    ("sess", "SESS", |process| process.text(3)),
    ("sid", "SID", |process| process.text(3)),
    ("start", "STARTED", |process| process.started("%H:%M:%S")),
    ("stat", "STAT", Process::state),
    ("state", "S", |process| process.text(0)),
    ("stime", "STIME", |process| process.started("%H:%M")),
    ("thcount", "THCNT", |process| process.text(17)),
    ("time", "TIME", |process| clock(process.processor_seconds())),
    ("tname", "TTY", Process::terminal),
    ("tt", "TT", Process::terminal),
    ("tty", "TT", Process::terminal),
    ("ucmd", "CMD", |process| process.name.clone()),
    ("uid", "UID", |process| process.status_word("Uid:", 1)),
    ("uname", "USER", Process::user),
    ("user", "USER", Process::user),
    ("vsize", "VSZ", |process| (process.number(20) / 1024).to_string()),
    ("vsz", "VSZ", |process| (process.number(20) / 1024).to_string()),
];

/// What stands above a column, and the column.
type Shown = (String, fn(&Process) -> String);

impl Containers {
    /// The processes of a running container in the columns that `arguments`, those of `ps`, ask for.
    pub async fn top(&self, container: &Arc<Container>, arguments: &str) -> Result<Value, ContainerError> {
        let columns = columns(arguments).map_err(ContainerError::Invalid)?;
        let target = Arc::clone(container);
        self.blocking(move |_| {
            if !target.status().is_alive() {
                return Err(target.ended());
            }
            let mut pids = target.in_cgroup(cgroup::processes)?;
            pids.sort_unstable();
            let titles: Vec<&str> = columns.iter().map(|(title, _)| title.as_str()).collect();
            let rows: Vec<Vec<String>> = pids
                .into_iter()
                .filter_map(Process::read)
                .map(|process| columns.iter().map(|(_, show)| show(&process)).collect())
                .collect();
            Ok(json!({ "Titles": titles, "Processes": rows }))
        })
        .await
    }
}

/// Understands the arguments of `ps`. Which processes are shown is given: those of the container; so what selects all of them
/// is taken, and what selects some is refused.
fn columns(arguments: &str) -> Result<Vec<Shown>, String> {
    let refused =
        |what: &str| format!("ps option {what:?} is not supported by this engine; columns are chosen by -o");
    let mut shown = Vec::new();
    let mut words = arguments.split_ascii_whitespace();
    while let Some(word) = words.next() {
        if let Some(long) = word.strip_prefix("--") {
            let (name, value) =
                long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
            match name {
                "format" => {
                    let list = value.or_else(|| words.next()).ok_or_else(|| refused(word))?;
                    add(&mut shown, list)?;
                }
                _ => return Err(refused(word)),
            }
            continue;
        }
        let is_dashed = word.starts_with('-');
        let letters = word.strip_prefix('-').unwrap_or(word);
        for (at, letter) in letters.char_indices() {
            match (letter, is_dashed) {
                ('o', _) => {
                    let rest = &letters[at + 1..];
                    let list =
                        if rest.is_empty() { words.next().ok_or_else(|| refused(word))? } else { rest };
                    add(&mut shown, list)?;
                    break;
                }
                // Everything, wide, and without colours.
                ('e' | 'A' | 'a' | 'd' | 'w', true) | ('a' | 'x' | 'w' | 'g', false) => {}
                ('f', true) => add(&mut shown, "user=UID,pid,ppid,c,stime,tname=TTY,time,cmd")?,
                ('F', true) => {
                    add(&mut shown, "user=UID,pid,ppid,c,vsz=SZ,rss,psr,stime,tname=TTY,time,cmd")?;
                }
                ('l', true) => add(&mut shown, "f,s,uid,pid,ppid,c,pri,ni,vsz=SZ,tname=TTY,time,ucmd")?,
                ('j', true) => add(&mut shown, "pid,pgid,sid,tname=TTY,time,ucmd")?,
                ('u', false) => {
                    add(&mut shown, "user,pid,%cpu,%mem,vsz,rss,tname=TTY,stat,stime=START,time,command")?;
                }
                ('j', false) => add(&mut shown, "ppid,pid,pgid,sid,tname=TTY,stat,uid,time,command")?,
                ('l', false) => add(&mut shown, "f,uid,pid,ppid,pri,ni,vsz,rss,stat,tname=TTY,time,command")?,
                _ => return Err(refused(word)),
            }
        }
    }
    if shown.is_empty() {
        let is_bsd = arguments.split_ascii_whitespace().any(|word| !word.starts_with('-'));
        add(
            &mut shown,
            if is_bsd { "pid,tname=TTY,stat,time,command" } else { "pid,tname=TTY,time,ucmd=CMD" },
        )?;
    }
    Ok(shown)
}

/// Adds the columns of a list such as `pid,comm`; the last may have a title of its own, and the titles written here as well.
fn add(shown: &mut Vec<Shown>, list: &str) -> Result<(), String> {
    for wish in list.split(',').filter(|wish| !wish.is_empty()) {
        let (name, title) = wish.split_once('=').map_or((wish, None), |(name, title)| (name, Some(title)));
        // Columns are as wide as what is in them, whatever width is asked for.
        let name = name
            .split_once(':')
            .filter(|(_, width)| width.parse::<u16>().is_ok())
            .map_or(name, |(name, _)| name);
        let Some((_, usual, show)) = COLUMNS.iter().find(|(known, ..)| *known == name) else {
            return Err(format!("unknown user-defined format specifier {name:?}"));
        };
        if shown.len() == MOST_COLUMNS {
            return Err(format!("more than {MOST_COLUMNS} columns"));
        }
        shown.push((title.unwrap_or(usual).to_owned(), *show));
    }
    Ok(())
}

/// What `/proc` says of one process.
struct Process {
    pid: i32,
    name: String,
    /// Of `stat`, what follows the name.
    fields: Vec<String>,
    status: String,
    command: String,
}

impl Process {
    /// `None` if it has ended meanwhile.
    fn read(pid: i32) -> Option<Self> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let stat = fs::read_to_string(folder.join("stat")).ok()?;
        // The name stands in parentheses and may hold anything, parentheses included.
        let (before, after) = stat.rsplit_once(')')?;
        let status = fs::read_to_string(folder.join("status")).ok()?;
        let mut command = fs::read(folder.join("cmdline")).ok()?;
        command.truncate(LONGEST_COMMAND);
        Some(Self {
            pid,
            name: before.split_once('(')?.1.to_owned(),
            fields: after.split_whitespace().map(str::to_owned).collect(),
            status,
            command: String::from_utf8_lossy(&command).replace('\0', " ").trim_end().to_owned(),
        })
    }

    fn text(&self, field: usize) -> String {
        self.fields.get(field).cloned().unwrap_or_default()
    }

    fn number(&self, field: usize) -> u64 {
        self.fields.get(field).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// A word of a line of `status`.
    fn status_word(&self, line: &str, word: usize) -> String {
        let line = self.status.lines().find_map(|text| text.strip_prefix(line)).unwrap_or_default();
        line.split_whitespace().nth(word).unwrap_or_default().to_owned()
    }

    /// Kibibytes in memory.
    fn resident(&self) -> u64 {
        self.status_word("VmRSS:", 0).parse().unwrap_or(0)
    }

    fn user(&self) -> String {
        name_of(&self.status_word("Uid:", 1))
    }

    fn command_line(&self) -> String {
        if self.command.is_empty() { format!("[{}]", self.name) } else { self.command.clone() }
    }

    fn terminal(&self) -> String {
        match self.number(4) {
            0 => "?".to_owned(),
            number => format!("pts/{}", number & 0xff | number >> 12 & 0xfff00),
        }
    }

    /// With the letters that `ps` adds.
    fn state(&self) -> String {
        let mut state = self.text(0);
        match self.text(16).parse().unwrap_or(0) {
            ..0 => state.push('<'),
            1.. => state.push('N'),
            0 => {}
        }
        if self.text(3) == self.pid.to_string() {
            state.push('s');
        }
        if self.number(17) > 1 {
            state.push('l');
        }
        if self.text(2) == self.text(5) {
            state.push('+');
        }
        state
    }

    fn processor_seconds(&self) -> u64 {
        (self.number(11) + self.number(12)) / TICKS
    }

    /// Seconds since it was started.
    fn age(&self) -> u64 {
        let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
        let seconds: u64 = uptime.split('.').next().and_then(|text| text.parse().ok()).unwrap_or(0);
        seconds.saturating_sub(self.number(19) / TICKS)
    }

    fn processor_share(&self) -> String {
        let used = (self.number(11) + self.number(12)) * 1000 / TICKS;
        tenths(used / self.age().max(1))
    }

    fn memory_share(&self) -> String {
        tenths(self.resident() * 1024 * 1000 / total_memory().max(1))
    }

    fn started(&self, format: &str) -> String {
        let content = fs::read_to_string("/proc/stat").unwrap_or_default();
        let boot: Option<i64> =
            content.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok());
        let seconds = i64::try_from(self.number(19) / TICKS).unwrap_or(0);
        match boot.and_then(|boot| Timestamp::from_second(boot + seconds).ok()) {
            Some(time) => time.strftime(format).to_string(),
            None => "?".to_owned(),
        }
    }
}

fn tenths(number: u64) -> String {
    format!("{}.{}", number / 10, number % 10)
}

/// Names of the host mean nothing in a container, except root's.
fn name_of(number: &str) -> String {
    if number == "0" { "root".to_owned() } else { number.to_owned() }
}

fn clock(seconds: u64) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// `01:02`, `03:01:02`, `4-03:01:02`.
fn elapsed(seconds: u64) -> String {
    let (days, hours, rest) =
        (seconds / 86_400, seconds / 3600 % 24, format!("{:02}:{:02}", seconds / 60 % 60, seconds % 60));
    match (days, hours) {
        (0, 0) => rest,
        (0, _) => format!("{hours:02}:{rest}"),
        _ => format!("{days}-{hours:02}:{rest}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn titles(arguments: &str) -> Vec<String> {
        columns(arguments).unwrap().into_iter().map(|(title, _)| title).collect()
    }

    #[test]
    fn columns_are_chosen_as_ps_has_it() {
        assert_eq!(titles("-ef"), ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]);
        assert_eq!(titles("-eo pid,comm"), ["PID", "COMMAND"]);
        assert_eq!(titles("-opid -o ppid=UP --format=args"), ["PID", "UP", "COMMAND"]);
        assert_eq!(titles("axo pid,user:20"), ["PID", "USER"]);
        assert_eq!(titles("-e"), ["PID", "TTY", "TIME", "CMD"]);
        assert_eq!(titles("ax"), ["PID", "TTY", "STAT", "TIME", "COMMAND"]);
        for wrong in ["-o", "-o odd", "-p 1", "--sort=pid", "1", "-C sh", "--format"] {
            assert!(columns(wrong).is_err(), "{wrong}");
        }
        assert!(columns(&"-o pid ".repeat(MOST_COLUMNS + 1)).is_err());
    }

    #[test]
    fn every_column_shows_something_of_this_process() {
        let process = Process::read(i32::try_from(std::process::id()).unwrap()).unwrap();
        for (name, _, show) in COLUMNS {
            assert!(!show(&process).is_empty(), "{name}");
        }
        assert_eq!(
            (elapsed(62), elapsed(10_862), elapsed(86_400)),
            ("01:02".into(), "03:01:02".into(), "1-00:00:00".into())
        );
    }
}
