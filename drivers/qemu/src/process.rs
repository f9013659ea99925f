//! Processes that are known by more than their number, so that neither a recycled one nor one of a copied store is ever
//! taken for ours.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path, thread, time::Duration};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// A VM's command line has some four kilobytes.
const LONGEST_COMMAND_LINE: usize = 64 * 1024;
/// The kernel frees a killed VM's memory before the process is gone.
const DEATH: Duration = Duration::from_secs(20);

/// A process: its number, and when it began in clock ticks since the machine did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) started: u64,
}

/// What only our process has.
#[derive(Debug, Clone)]
pub(crate) struct Marker {
    /// Two arguments in a row, such as `-uuid` and the host's id.
    words: [String; 2],
    /// The device and the number of the folder that it runs in, which stay the same when the folder is moved. `None`:
    /// the folder is not there, and so nothing is ours.
    folder: Option<(u64, u64)>,
}

impl Process {
    /// The process of that number, if it carries the marker.
    pub(crate) fn with_pid(pid: i32, marker: &Marker) -> Option<Self> {
        // The start time is read before and after: a number that was recycled in between does not pass.
        let started = start_time(pid)?;
        (marker.is_on(pid) && start_time(pid) == Some(started)).then_some(Self { pid, started })
    }

    /// All processes that carry the marker.
    pub(crate) fn all(marker: &Marker) -> Vec<Self> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter_map(|pid| Self::with_pid(pid, marker))
            .collect()
    }

    pub(crate) fn is_alive(self, marker: &Marker) -> bool {
        Self::with_pid(self.pid, marker) == Some(self)
    }

    /// Kills it and waits until it is gone.
    pub(crate) fn kill(self, marker: &Marker) -> io::Result<()> {
        let pid = Pid::from_raw(self.pid).ok_or(io::ErrorKind::InvalidInput)?;
        // The descriptor keeps meaning the process that the number means now; only then is it looked at.
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(descriptor) => {
                if !self.is_alive(marker) {
                    return Ok(());
                }
                pidfd_send_signal(&descriptor, Signal::KILL)?;
            }
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let pause = Duration::from_millis(5);
        for _ in 0..DEATH.as_millis() / pause.as_millis() {
            if !self.is_alive(marker) {
                return Ok(());
            }
            thread::sleep(pause);
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("Process {} does not die", self.pid)))
    }

    /// Kills every process that carries the marker, also those that one of them starts meanwhile.
    pub(crate) fn kill_all(marker: &Marker) -> io::Result<()> {
        loop {
            let found = Self::all(marker);
            if found.is_empty() {
                return Ok(());
            }
            for process in found {
                process.kill(marker)?;
            }
        }
    }

    /// As the journal names it.
    pub(crate) fn id(self) -> String {
        format!("{}.{}", self.pid, self.started)
    }
}

impl Marker {
    /// The mark of a process that runs in this folder.
    pub(crate) fn new(words: [String; 2], folder: &Path) -> Self {
        Self { words, folder: identity(folder) }
    }

    fn is_on(&self, pid: i32) -> bool {
        if self.folder.is_none() || identity(Path::new(&format!("/proc/{pid}/cwd"))) != self.folder {
            return false;
        }
        let [first, second] = &self.words;
        let line = command_line(pid);
        let arguments: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        arguments.windows(2).any(|pair| pair[0] == first.as_bytes() && pair[1] == second.as_bytes())
    }
}

fn identity(folder: &Path) -> Option<(u64, u64)> {
    fs::metadata(folder).ok().map(|folder| (folder.dev(), folder.ino()))
}

/// Empty for zombies and what belongs to the kernel.
fn command_line(pid: i32) -> Vec<u8> {
    for _ in 0..20 {
        let mut line = Vec::new();
        let read = fs::File::open(format!("/proc/{pid}/cmdline")).and_then(|file| {
            io::Read::read_to_end(&mut io::Read::take(file, LONGEST_COMMAND_LINE as u64), &mut line)
        });
        if read.is_err() || !line.is_empty() || fs::read_link(format!("/proc/{pid}/exe")).is_err() {
            return line;
        }
        // A program that is just being started has no arguments for a moment.
        thread::sleep(Duration::from_millis(1));
    }
    Vec::new()
}

/// Field 22 of `/proc/PID/stat`; the name in field 2 may hold anything, so counting begins after its bracket.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn sleeper(word: &str, folder: &Path) -> (Child, Marker) {
        let child = Command::new("sh")
            .args(["-c", "read -r line", "--", "-uuid", word])
            .current_dir(folder)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        (child, Marker::new(["-uuid".into(), word.into()], folder))
    }

    #[test]
    fn only_the_one_with_the_marker_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let (mut mine, marker) = sleeper("1c9a7a1e-mine", folder.path());
        let (mut other, other_marker) = sleeper("1c9a7a1e-other", folder.path());
        let found = Process::all(&marker);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].pid, i32::try_from(mine.id()).unwrap());
        Process::kill_all(&marker).unwrap();
        assert!(Process::all(&marker).is_empty());
        mine.wait().unwrap();
        assert_eq!(Process::all(&other_marker).len(), 1);
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn a_recycled_number_is_not_taken_for_ours() {
        let folder = tempfile::tempdir().unwrap();
        let (mut child, marker) = sleeper("1c9a7a1e-recycled", folder.path());
        let pid = i32::try_from(child.id()).unwrap();
        let now = Process::with_pid(pid, &marker).unwrap();
        let earlier = Process { started: now.started - 1, ..now };
        let renamed = Marker::new(["-uuid".into(), "another".into()], folder.path());
        assert!(now.is_alive(&marker) && !earlier.is_alive(&marker) && !now.is_alive(&renamed));
        earlier.kill(&marker).unwrap();
        now.kill(&renamed).unwrap();
        assert!(now.is_alive(&marker), "the wrong process was killed");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!now.is_alive(&marker));
    }

    #[test]
    fn a_store_that_was_copied_does_not_touch_the_vms_of_the_first_and_one_that_was_moved_has_its_own() {
        let root = tempfile::tempdir().unwrap();
        let (first, copy, moved) =
            (root.path().join("first"), root.path().join("copy"), root.path().join("moved"));
        fs::create_dir(&first).unwrap();
        fs::create_dir(&copy).unwrap();
        let (mut child, _) = sleeper("1c9a7a1e-copied", &first);
        let words = ["-uuid".to_owned(), "1c9a7a1e-copied".to_owned()];
        Process::kill_all(&Marker::new(words.clone(), &copy)).unwrap();
        Process::kill_all(&Marker::new(words.clone(), &root.path().join("nowhere"))).unwrap();
        assert_eq!(Process::all(&Marker::new(words.clone(), &first)).len(), 1);
        fs::rename(&first, &moved).unwrap();
        Process::kill_all(&Marker::new(words, &moved)).unwrap();
        child.wait().unwrap();
    }
}
