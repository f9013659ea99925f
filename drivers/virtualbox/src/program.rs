//! VBoxManage: where it is, and running it with bounds.

use std::{
    env,
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use machine_driver::DriverError;
use tokio::{
    process::Command,
    time::{Instant, sleep, timeout},
};

use crate::failure::{CallError, Refusal};

/// The first with everything that is needed.
const OLDEST: (u32, u32) = (6, 1);
/// Most calls are answered in a tenth of a second; the first one starts a service.
const ANSWER: Duration = Duration::from_mins(1);
/// Starting a VM, and copying a disk.
const LONG: Duration = Duration::from_mins(15);
/// How long other calls of the same user may keep one waiting.
const TURN: Duration = Duration::from_mins(5);
/// What is in between two states is asked again so often, with a pause in between.
const ATTEMPTS: u32 = 60;
const PAUSE: Duration = Duration::from_millis(200);
/// No answer that is asked for has nearly as many bytes.
const LONGEST_ANSWER: usize = 4 << 20;
const LOCK: &str = "machine.lock";
const INSTALL_HINT: &str = "Install VirtualBox 6.1 or later (https://www.virtualbox.org), or put the folder of its VBoxManage on the PATH";
const MODULE_HINT: &str = "Install its kernel modules (`sudo apt-get install virtualbox-dkms`, or `sudo /sbin/vboxconfig`), \
                           and load them: `sudo modprobe vboxdrv`";

/// Where VBoxManage is looked for, and whose VirtualBox it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    /// This program and no other.
    pub(crate) program: Option<PathBuf>,
    /// The folder of VirtualBox's own settings (`VBOX_USER_HOME`).
    pub(crate) home: Option<PathBuf>,
}

/// A VBoxManage that runs.
#[derive(Debug, Clone)]
pub(crate) struct VBoxManage {
    pub(crate) path: PathBuf,
    pub(crate) version: (u32, u32),
    /// Its kernel module is there.
    has_module: bool,
    home: Option<PathBuf>,
}

impl VBoxManage {
    /// Finds it, for questions that every version answers.
    pub(crate) fn located(settings: &Settings) -> Result<Self, DriverError> {
        let path = locate(settings.program.as_deref())?;
        Ok(Self { path, version: (0, 0), has_module: true, home: settings.home.clone() })
    }

    /// Finds it and asks what it is.
    pub(crate) async fn find(settings: &Settings) -> Result<Self, DriverError> {
        let unknown = Self::located(settings)?;
        let path = unknown.path.clone();
        let refused = |reason: &str| {
            DriverError::refused(format!("`{}` is no usable VBoxManage: {reason}", path.display()))
                .with_hint(INSTALL_HINT)
        };
        let answer = unknown
            .patiently(&words(&["--version"]), ANSWER, Turns::Ignored)
            .await
            .map_err(|error| refused("it does not say its version").with_source(error))?;
        let (text, version) = version(&answer).ok_or_else(|| refused("it does not say its version"))?;
        if version < OLDEST {
            let (major, minor) = OLDEST;
            return Err(refused(&format!("version {text} is too old, {major}.{minor} is needed")));
        }
        // Its wrapper says so before each answer.
        let has_module = !(answer.contains("WARNING") && answer.contains("vboxdrv"));
        Ok(Self { version, has_module, ..unknown })
    }

    /// Refuses a VirtualBox that could not start a VM.
    pub(crate) fn has_to_start(&self) -> Result<(), DriverError> {
        if self.has_module {
            return Ok(());
        }
        Err(DriverError::refused("VirtualBox cannot start a VM: its kernel module `vboxdrv` is not loaded")
            .with_hint(MODULE_HINT))
    }

    /// Asks or changes something, one call of this user after the other: VirtualBox's service does not keep apart what two
    /// calls do to its registry of media, and two that only look at one VM fail each other.
    pub(crate) async fn call<S: AsRef<str>>(&self, arguments: &[S]) -> Result<String, CallError> {
        self.patiently(&words(arguments), ANSWER, Turns::Taken).await
    }

    /// Does something that takes its time, and that VirtualBox keeps apart from other calls by itself.
    pub(crate) async fn take_time<S: AsRef<str>>(&self, arguments: &[S]) -> Result<String, CallError> {
        self.patiently(&words(arguments), LONG, Turns::Ignored).await
    }

    /// What is not ready, or between two states, is asked again for a while, and others have their turn meanwhile.
    async fn patiently(
        &self,
        arguments: &[String],
        limit: Duration,
        turns: Turns,
    ) -> Result<String, CallError> {
        let mut attempt = 1;
        loop {
            let turn = match turns {
                Turns::Taken => Some(self.turn().await?),
                Turns::Ignored => None,
            };
            let answer = self.once(arguments, limit).await;
            drop(turn);
            match answer {
                Err(CallError::Refused(refusal)) if attempt < ATTEMPTS && refusal.is_passing() => {}
                answer => return answer,
            }
            attempt += 1;
            sleep(PAUSE).await;
        }
    }

    async fn once(&self, arguments: &[String], limit: Duration) -> Result<String, CallError> {
        let mut command = Command::new(&self.path);
        command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        if let Some(home) = &self.home {
            command.env("VBOX_USER_HOME", home);
        }
        // What it says is understood by its codes, and by a few words where several things have one code.
        command.env("LANGUAGE", "C").env("LC_MESSAGES", "C");
        // Its service is started by the first call, and Ctrl-C is not meant for that.
        #[cfg(unix)]
        command.process_group(0);
        let answer = timeout(limit, command.output()).await;
        let named = || arguments.first().cloned().unwrap_or_default();
        let output = match answer {
            Ok(Ok(output)) => output,
            Ok(Err(source)) => return Err(CallError::Run { program: self.path.clone(), source }),
            Err(_) => return Err(CallError::Silent { command: named(), seconds: limit.as_secs() }),
        };
        understand(&named(), output)
    }

    async fn turn(&self) -> Result<File, CallError> {
        let failed = |source| CallError::Lock { source };
        let folder =
            self.home.clone().or_else(usual_home).ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        fs::create_dir_all(&folder).map_err(failed)?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(folder.join(LOCK))
            .map_err(failed)?;
        let deadline = Instant::now() + TURN;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(fs::TryLockError::WouldBlock) if Instant::now() < deadline => {
                    sleep(Duration::from_millis(10)).await;
                }
                Err(fs::TryLockError::WouldBlock) => return Err(failed(io::ErrorKind::TimedOut.into())),
                Err(fs::TryLockError::Error(source)) => return Err(failed(source)),
            }
        }
    }
}

/// Whether a call waits for others of the same user.
#[derive(Debug, Clone, Copy)]
enum Turns {
    Taken,
    Ignored,
}

fn words<S: AsRef<str>>(arguments: &[S]) -> Vec<String> {
    arguments.iter().map(|word| word.as_ref().to_owned()).collect()
}

/// Success is what ends with status 0; older versions do so after some errors, too, and say `error:`.
fn understand(command: &str, output: Output) -> Result<String, CallError> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST_ANSWER)]).into_owned();
    let complaint = text(&output.stderr);
    if output.status.success() && !complaint.lines().any(|line| line.starts_with("VBoxManage: error:")) {
        return Ok(text(&output.stdout));
    }
    Err(CallError::Refused(Refusal::parse(command, &complaint)))
}

/// The version in what `--version` prints, and its first two numbers: `7.2.22_Debianr175245`, `6.1.50r161033`.
fn version(answer: &str) -> Option<(String, (u32, u32))> {
    let line = answer.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    let mut numbers = line.split('.').map(|part| part.parse::<u32>().ok());
    let version = (numbers.next()??, numbers.next()??);
    let plain = line.chars().filter(|c| !c.is_control()).take(100).collect();
    Some((plain, version))
}

/// Finds the program.
fn locate(named: Option<&Path>) -> Result<PathBuf, DriverError> {
    let missing = || DriverError::refused("There is no VBoxManage on this machine").with_hint(INSTALL_HINT);
    if let Some(path) = named {
        return if path.is_file() {
            Ok(path.to_owned())
        } else {
            Err(DriverError::refused(format!("There is no `{}`", path.display())).with_hint(INSTALL_HINT))
        };
    }
    candidates(env::consts::OS, |name| env::var_os(name))
        .into_iter()
        .find(|path| path.is_file())
        .ok_or_else(missing)
}

/// Where the program may be on a system, best first.
fn candidates(system: &str, variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = Vec::new();
    let program = if system == "windows" { "VBoxManage.exe" } else { "VBoxManage" };
    let path = variable("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).filter(|folder| folder.is_absolute());
    match system {
        "windows" => {
            // Its installer does not put it on the PATH.
            folders.extend(
                ["VBOX_INSTALL_PATH", "VBOX_MSI_INSTALL_PATH"]
                    .iter()
                    .filter_map(|name| variable(name))
                    .map(PathBuf::from),
            );
            folders.extend(
                ["ProgramFiles", "ProgramW6432"]
                    .iter()
                    .filter_map(|name| variable(name))
                    .map(|folder| PathBuf::from(folder).join("Oracle").join("VirtualBox")),
            );
            folders.extend(on_path);
        }
        "macos" => {
            folders.extend(on_path);
            folders.push("/Applications/VirtualBox.app/Contents/MacOS".into());
        }
        _ => {
            folders.extend(on_path);
            folders.push("/usr/lib/virtualbox".into());
        }
    }
    folders.into_iter().map(|folder| folder.join(program)).collect()
}

/// The folder in which VirtualBox keeps the settings of this user.
fn usual_home() -> Option<PathBuf> {
    if let Some(home) = env::var_os("VBOX_USER_HOME").filter(|home| !home.is_empty()) {
        return Some(home.into());
    }
    let home = env::home_dir()?;
    Some(match env::consts::OS {
        "windows" => home.join(".VirtualBox"),
        "macos" => home.join("Library/VirtualBox"),
        _ => env::var_os("XDG_CONFIG_HOME")
            .map_or_else(|| home.join(".config"), PathBuf::from)
            .join("VirtualBox"),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn versions_are_read_as_all_builds_write_them() {
        let number = |text| version(text).map(|(_, number)| number);
        assert_eq!(number("7.2.22_Debianr175245\n"), Some((7, 2)));
        assert_eq!(number("6.1.50r161033\r\n"), Some((6, 1)));
        let warned = "WARNING: The character device /dev/vboxdrv does not exist.\n\t Please install\n\n7.0.20r163906\n";
        assert_eq!(number(warned), Some((7, 0)));
        for text in ["", "hello", "7", "7.x", "VBoxManage: error: no"] {
            assert_eq!(number(text), None, "{text}");
        }
    }

    #[test]
    fn each_system_has_its_places() {
        let variables = |name: &str| match name {
            "PATH" if cfg!(windows) => Some(OsString::from("C:\\bin")),
            "PATH" => Some("/usr/bin:relative".into()),
            "VBOX_MSI_INSTALL_PATH" => Some("C:\\VBox\\".into()),
            _ => None,
        };
        let found = candidates("windows", variables);
        assert!(found[0].to_string_lossy().starts_with("C:\\VBox"), "{found:?}");
        assert!(found.iter().all(|path| path.to_string_lossy().ends_with("VBoxManage.exe")));
        #[cfg(unix)]
        {
            assert_eq!(candidates("linux", variables)[0], Path::new("/usr/bin/VBoxManage"));
            assert!(
                candidates("macos", variables)
                    .contains(&"/Applications/VirtualBox.app/Contents/MacOS/VBoxManage".into())
            );
        }
    }

    #[test]
    fn what_is_not_there_is_said_with_what_to_do() {
        let error = locate(Some(Path::new("/nonexistent/VBoxManage"))).unwrap_err();
        assert_eq!(error.to_string(), "There is no `/nonexistent/VBoxManage`");
        assert!(error.hint().unwrap().contains("Install VirtualBox"));
    }
}
