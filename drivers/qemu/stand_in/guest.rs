//! The program that plays the guest, if the environment names one: what is forwarded leads to it, and it ends with us.
//!
//! Its disk is a folder among others, named by what is written at the end of the VM's own disk, so that a VM which is made
//! anew has a new guest, and one that is started again the same.

use std::{
    env,
    fs::{self, OpenOptions},
    io::{self, BufRead as _, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::SystemTime,
};

use crate::Failure;

/// Names the program.
const PROGRAM: &str = "MACHINE_STAND_IN_GUEST";
/// Names the folder in which guests have their disks.
const DISKS: &str = "MACHINE_STAND_IN_GUEST_DISKS";
/// Who logs in.
const USER: &str = "docker";
/// The ports that lead in.
const PORTS: [&str; 2] = ["22", "2376"];
/// What goes before the name of a guest's folder at the end of a disk, and the whole length of both.
const MARK: &str = "guest-";
const MARK_LENGTH: usize = MARK.len() + 32;

pub(crate) struct Guest {
    program: PathBuf,
    disk: PathBuf,
}

impl Guest {
    /// The guest on a VM's disk; `None` if there is to be none.
    pub(crate) fn of(disk: Option<&String>, seed: Option<&String>) -> Result<Option<Self>, Failure> {
        let (Some(program), Some(disks)) = (env::var_os(PROGRAM), env::var_os(DISKS)) else {
            return Ok(None);
        };
        let (disk, seed) = (disk.ok_or("A guest needs a disk")?, seed.ok_or("A guest needs a seed")?);
        let disk = PathBuf::from(disks).join(name(Path::new(disk))?);
        fs::create_dir_all(&disk)?;
        fs::copy(seed, disk.join("user-data"))?;
        Ok(Some(Self { program: program.into(), disk }))
    }

    pub(crate) fn boot(&self) -> Result<(), Failure> {
        let mut command = Command::new(&self.program);
        command.arg(&self.disk).arg(USER);
        for port in PORTS {
            command.arg(format!("{port}={}", self.socket(port).display()));
        }
        // Its standard input ends with this process, however that ends, and it with that.
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).current_dir("/").spawn()?;
        let mut said = String::new();
        BufReader::new(child.stdout.take().ok_or("A guest has no output")?).read_line(&mut said)?;
        if said.trim() != "ready" {
            return Err(format!("The guest did not start: {}", child.wait()?).into());
        }
        // It is held for as long as the process lives.
        std::mem::forget(child);
        Ok(())
    }

    fn socket(&self, port: &str) -> PathBuf {
        self.disk.join(format!("port-{port}"))
    }

    /// Has whatever comes to a listener lead to a port of the guest. As with QEMU, a connection is taken first, and closed
    /// if nobody listens in there.
    pub(crate) fn lead_in(&self, port: &str, listener: TcpListener) {
        let socket = self.socket(port);
        thread::spawn(move || {
            for outside in listener.incoming().flatten() {
                let Ok(inside) = UnixStream::connect(&socket) else { continue };
                let (Ok(outside_again), Ok(inside_again)) = (outside.try_clone(), inside.try_clone()) else {
                    continue;
                };
                thread::spawn(move || pass(outside, inside));
                thread::spawn(move || pass(inside_again, outside_again));
            }
        });
    }
}

/// What is written at the end of a disk, now if it was not yet.
fn name(disk: &Path) -> io::Result<String> {
    let content = fs::read(disk)?;
    let end = String::from_utf8_lossy(&content[content.len().saturating_sub(MARK_LENGTH)..]).into_owned();
    if end.len() == MARK_LENGTH && end.starts_with(MARK) {
        return Ok(end);
    }
    let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_nanos());
    let name = format!("{MARK}{:032x}", now ^ (u128::from(std::process::id()) << 96));
    OpenOptions::new().append(true).open(disk)?.write_all(name.as_bytes())?;
    Ok(name)
}

trait Half: Read + Write {
    fn no_more(&self);
}

impl Half for TcpStream {
    fn no_more(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

impl Half for UnixStream {
    fn no_more(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

fn pass(mut from: impl Half, mut to: impl Half) {
    let _ = io::copy(&mut from, &mut to);
    to.no_more();
}
