//! A network as a folder: who is on it, and the way to its switch.
//!
//! | file | what |
//! |---|---|
//! | `switch.sock` | the switch's socket, which takes frames from the VMs' |
//! | `NAME.sock` | the socket of a VM, which QEMU binds |
//! | `NAME.json` | the settings of its port |
//! | `lock` | held by the switch as long as it runs, with its number in it |
//! | `starting` | held, shared, by whoever starts a VM: meanwhile the switch does not end |
//! | `log` | what was dropped first, and why |

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::{
        fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
        net::UnixDatagram,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use crate::{SWITCH_WORD, Settings};

pub(crate) const SOCKET: &str = "switch.sock";
pub(crate) const LOCK: &str = "lock";
pub(crate) const STARTING: &str = "starting";
pub(crate) const LOG: &str = "log";
const SETTINGS_END: &str = ".json";
const SOCKET_END: &str = ".sock";
/// The settings of a port with many rules.
const LARGEST_SETTINGS: u64 = 256 * 1024;
/// What the switch says on its standard output once it works.
pub(crate) const READY: &str = "ready";
/// A switch is there within a moment; a machine that is very busy gets more.
const LAUNCH: Duration = Duration::from_secs(15);

/// Why a network cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("Could not make the network's folder `{}`", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("The network's folder `{}` belongs to another user", path.display())]
    Foreign { path: PathBuf },
    #[error("`{}` is no name of a port", name.escape_debug())]
    Name { name: String },
    #[error("Could not write `{}`", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("Could not read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("Could not start the switch `{}`", program.display())]
    Launch { program: PathBuf, source: io::Error },
    #[error("The switch `{}` did not come up", program.display())]
    Silent { program: PathBuf },
}

/// A network of VMs.
#[derive(Debug, Clone)]
pub struct Network {
    folder: PathBuf,
}

/// As long as it is held, the switch does not end for want of VMs.
#[derive(Debug)]
pub struct Starting {
    _file: File,
}

impl Network {
    /// The network in a folder, which is made if need be and belongs to its user alone.
    pub fn open(folder: &Path) -> Result<Self, NetworkError> {
        let failed = |source| NetworkError::Folder { path: folder.to_owned(), source };
        if let Some(parent) = folder.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => return Err(failed(source)),
            _ => {}
        }
        let metadata = fs::metadata(folder).map_err(failed)?;
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(NetworkError::Foreign { path: folder.to_owned() });
        }
        if metadata.mode() & 0o777 != 0o700 {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        }
        Ok(Self { folder: folder.to_owned() })
    }

    /// The same, which is left alone if it is not there.
    pub fn existing(folder: &Path) -> Option<Self> {
        folder.is_dir().then(|| Self { folder: folder.to_owned() })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The name of the socket that a VM has to bind, in the folder; it sends to [`Network::switch_socket`].
    pub fn port_socket(name: &str) -> String {
        format!("{name}{SOCKET_END}")
    }

    /// The name of the switch's socket in the folder.
    pub fn switch_socket() -> &'static str {
        SOCKET
    }

    /// Keeps the switch from ending while a VM is started.
    pub fn starting(&self) -> Result<Starting, NetworkError> {
        let path = self.folder.join(STARTING);
        let failed = |source| NetworkError::Write { path: path.clone(), source };
        let file = lock_file(&path).map_err(failed)?;
        file.lock_shared().map_err(failed)?;
        Ok(Starting { _file: file })
    }

    /// Writes the settings of a port; a running switch takes them up at once.
    pub fn plug(&self, name: &str, settings: &Settings) -> Result<(), NetworkError> {
        let path = self.settings_path(name)?;
        let failed = |source| NetworkError::Write { path: path.clone(), source };
        let text = serde_json::to_vec(settings).map_err(|error| failed(error.into()))?;
        if fs::read(&path).is_ok_and(|present| present == text) {
            return Ok(());
        }
        // A name that no reader takes for a port's.
        let partial = self.folder.join(format!("{name}.partial"));
        let write = || -> io::Result<()> {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
            file.write_all(&text)?;
            fs::rename(&partial, &path)
        };
        write().map_err(failed)?;
        self.poke();
        Ok(())
    }

    /// Takes a port away, with the socket of its VM.
    pub fn unplug(&self, name: &str) -> Result<(), NetworkError> {
        let settings = self.settings_path(name)?;
        let others = [format!("{name}.partial"), Self::port_socket(name)].map(|file| self.folder.join(file));
        for path in [settings].into_iter().chain(others) {
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(NetworkError::Write { path, source });
                }
                _ => {}
            }
        }
        self.poke();
        Ok(())
    }

    /// Has a running switch look at what there is: it ends where no VM is left.
    pub fn poke(&self) {
        if let Ok(socket) = UnixDatagram::unbound()
            && socket.set_nonblocking(true).is_ok()
        {
            let _ = connect(&socket, &self.folder, SOCKET).and_then(|()| socket.send(&[]));
        }
    }

    /// Whether the switch runs.
    pub fn is_served(&self) -> bool {
        answers(&self.folder, SOCKET)
    }

    /// Runs the switch unless it runs, and returns when it does. `program` calls [`crate::switch_main`] when its first
    /// argument is [`SWITCH_WORD`].
    pub fn serve(&self, program: &Path) -> Result<(), NetworkError> {
        if self.is_served() {
            return Ok(());
        }
        let launch = |source| NetworkError::Launch { program: program.to_owned(), source };
        let mut child = Command::new(program)
            .arg(SWITCH_WORD)
            // For those who wonder whose it is.
            .arg(&self.folder)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(launch)?;
        let output = child.stdout.take();
        let (told, hears) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            if let Some(output) = output {
                let _ = BufReader::new(output.take(64)).read_line(&mut line);
            }
            let _ = told.send(line.trim() == READY);
            // Whoever runs for long does not gather the dead.
            let _ = child.wait();
        });
        match hears.recv_timeout(LAUNCH) {
            Ok(true) => Ok(()),
            _ => Err(NetworkError::Silent { program: program.to_owned() }),
        }
    }

    /// The settings of a port. `None`: there is no such port.
    pub(crate) fn settings(&self, name: &str) -> Result<Option<Settings>, NetworkError> {
        let path = self.settings_path(name)?;
        let failed = |source| NetworkError::Read { path: path.clone(), source };
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(failed)?,
        };
        let mut text = Vec::new();
        file.take(LARGEST_SETTINGS).read_to_end(&mut text).map_err(failed)?;
        serde_json::from_slice(&text).map(Some).map_err(|error| failed(error.into()))
    }

    /// The names of the ports that have settings.
    pub(crate) fn ports(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let file = entry?.file_name();
            let name = file.to_str().and_then(|file| file.strip_suffix(SETTINGS_END));
            names.extend(name.filter(|name| is_port_name(name)).map(str::to_owned));
        }
        Ok(names)
    }

    /// Whether a VM is on the port.
    pub(crate) fn is_used(&self, name: &str) -> bool {
        answers(&self.folder, &Self::port_socket(name))
    }

    fn settings_path(&self, name: &str) -> Result<PathBuf, NetworkError> {
        if is_port_name(name) {
            Ok(self.folder.join(format!("{name}{SETTINGS_END}")))
        } else {
            Err(NetworkError::Name { name: name.to_owned() })
        }
    }
}

/// One path component, short enough for the address of a socket, and never the switch's own.
pub(crate) fn is_port_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text != "switch"
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// The port whose socket that is.
pub(crate) fn port_of_socket(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()?.strip_suffix(SOCKET_END).filter(|name| is_port_name(name))
}

pub(crate) fn lock_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(path)
}

/// Whether somebody has a socket open.
fn answers(folder: &Path, socket: &str) -> bool {
    UnixDatagram::unbound().is_ok_and(|probe| connect(&probe, folder, socket).is_ok())
}

/// The path of the folder may be longer than a socket's address can be.
#[cfg(target_os = "linux")]
fn connect(from: &UnixDatagram, folder: &Path, socket: &str) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let folder = File::open(folder)?;
    from.connect(format!("/proc/self/fd/{}/{socket}", folder.as_raw_fd()))
}

#[cfg(not(target_os = "linux"))]
fn connect(from: &UnixDatagram, folder: &Path, socket: &str) -> io::Result<()> {
    from.connect(folder.join(socket))
}
