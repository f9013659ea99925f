//! What is registered: VMs by the files that their settings are in, and media.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    play::{ACCESS_DENIED, FILE_ERROR, Failure, IN_USE, INVALID_STATE, NOT_FOUND, failure},
    vm,
};

/// What is in a `.vbox` file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) name: String,
    pub(crate) id: String,
    #[serde(skip)]
    pub(crate) path: PathBuf,
    pub(crate) values: BTreeMap<String, String>,
    pub(crate) rules: BTreeMap<String, String>,
    /// By port of the controller.
    pub(crate) media: BTreeMap<String, String>,
}

impl Settings {
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(path)?;
        Ok(Self { path: path.to_owned(), ..serde_json::from_str(&text).map_err(io::Error::other)? })
    }

    /// The file or the address of a serial port.
    pub(crate) fn serial(&self, port: &str) -> Option<PathBuf> {
        self.values.get(port)?.split_once(',').map(|(_, path)| path.into())
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Content {
    vms: BTreeMap<String, PathBuf>,
    media: BTreeSet<String>,
    /// Of differencing disks.
    parents: BTreeMap<String, String>,
}

fn is_disc(medium: &str) -> bool {
    Path::new(medium).extension().is_some_and(|end| end == "iso")
}

/// The registry, which nobody else changes meanwhile.
pub(crate) struct Registry {
    home: PathBuf,
    content: Content,
    _lock: File,
}

impl Registry {
    pub(crate) fn open(home: &Path) -> io::Result<Self> {
        fs::create_dir_all(home)?;
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).open(home.join("stand-in.lock"))?;
        lock.lock()?;
        let content = match fs::read_to_string(home.join("stand-in.json")) {
            Ok(text) => serde_json::from_str(&text).map_err(io::Error::other)?,
            Err(_) => Content::default(),
        };
        Ok(Self { home: home.to_owned(), content, _lock: lock })
    }

    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    pub(crate) fn save(&self) -> io::Result<()> {
        let partial = self.home.join("stand-in.partial");
        fs::write(&partial, serde_json::to_string(&self.content).map_err(io::Error::other)?)?;
        fs::rename(partial, self.home.join("stand-in.json"))
    }

    /// The VM that is called so.
    pub(crate) fn id_of(&self, name: &str) -> Option<String> {
        let mut vms = self.content.vms.iter();
        vms.find(|(_, path)| Settings::read(path).is_ok_and(|vm| vm.name == name)).map(|(id, _)| id.clone())
    }

    /// The settings of a registered VM.
    pub(crate) fn vm(&self, id: &str) -> Result<Settings, Failure> {
        let Some(path) = self.content.vms.get(id) else {
            return Err(failure(
                &format!("Could not find a registered machine with UUID {{{id}}}"),
                NOT_FOUND,
            ));
        };
        Settings::read(path).map_err(|_| failure("The object functionality is limited", ACCESS_DENIED))
    }

    pub(crate) fn vm_to_change(&self, id: &str) -> Result<Settings, Failure> {
        let settings = self.vm(id)?;
        if self.runs(id) {
            return Err(failure(
                "The machine is already locked for a session (or being unlocked)",
                INVALID_STATE,
            ));
        }
        Ok(settings)
    }

    pub(crate) fn runs(&self, id: &str) -> bool {
        matches!(vm::state(&self.home, id).as_str(), "running" | "paused")
    }

    pub(crate) fn write(settings: &Settings) -> Result<String, Failure> {
        let text = serde_json::to_string(settings).map_err(|error| error.to_string())?;
        let partial = settings.path.with_extension("vbox-tmp");
        fs::write(&partial, text)
            .and_then(|()| fs::rename(&partial, &settings.path))
            .map_err(|error| failure(&error.to_string(), FILE_ERROR))?;
        Ok(String::new())
    }

    pub(crate) fn register(&mut self, path: &Path) -> Result<String, Failure> {
        let settings = Settings::read(path).map_err(|error| failure(&error.to_string(), FILE_ERROR))?;
        if self.content.vms.contains_key(&settings.id) {
            let text = format!(
                "Trying to register a machine with UUID {{{}}} that is registered already",
                settings.id
            );
            return Err(failure(&text, INVALID_STATE));
        }
        self.content.vms.insert(settings.id, path.to_owned());
        Ok(String::new())
    }

    pub(crate) fn unregister(&mut self, id: &str, delete: bool) -> Result<String, Failure> {
        let settings = match self.vm(id) {
            Ok(settings) => settings,
            // Without its settings there is nothing to delete.
            Err(_) if self.content.vms.contains_key(id) && !delete => {
                self.content.vms.remove(id);
                return Ok(String::new());
            }
            Err(error) => return Err(error),
        };
        if self.runs(id) {
            return Err(failure("Cannot unregister the machine while it is locked", INVALID_STATE));
        }
        self.content.vms.remove(id);
        if delete {
            for medium in settings.media.values().filter(|medium| !is_disc(medium)) {
                self.content.media.remove(medium);
                self.content.parents.remove(medium);
                let _ = fs::remove_file(medium);
            }
            let _ = fs::remove_file(&settings.path);
            let folder = settings.path.parent().unwrap_or(&settings.path);
            let _ = fs::remove_dir_all(folder.join("Logs"));
            let _ = fs::remove_dir(folder);
        }
        vm::forget(&self.home, id);
        Ok(String::new())
    }

    pub(crate) fn open_medium(&mut self, path: &str) -> Result<(), Failure> {
        if !Path::new(path).is_file() {
            let text = format!("Could not find file for the medium '{path}' (VERR_FILE_NOT_FOUND)");
            return Err(failure(&text, FILE_ERROR));
        }
        self.content.media.insert(path.to_owned());
        Ok(())
    }

    pub(crate) fn create_disk(&mut self, path: &str, parent: Option<&str>) -> Result<String, Failure> {
        let created = OpenOptions::new().write(true).create_new(true).open(path);
        if let Err(error) = created {
            let code = match error.kind() {
                io::ErrorKind::AlreadyExists => "VERR_ALREADY_EXISTS",
                io::ErrorKind::StorageFull => "VERR_DISK_FULL",
                _ => "VERR_PATH_NOT_FOUND",
            };
            return Err(failure(&format!("VDI: cannot create image '{path}' ({code})"), FILE_ERROR));
        }
        self.content.media.insert(path.to_owned());
        if let Some(parent) = parent {
            self.content.parents.insert(path.to_owned(), parent.to_owned());
        }
        Ok(String::new())
    }

    pub(crate) fn close_medium(&mut self, path: &str) -> Result<String, Failure> {
        self.open_medium(path)?;
        let mut vms = self.content.vms.keys().filter_map(|id| self.vm(id).ok());
        let is_attached = vms.any(|vm| vm.media.values().any(|medium| medium == path));
        if is_attached || self.content.parents.values().any(|parent| parent == path) {
            let text = format!("Cannot close medium '{path}' because it is in use");
            return Err(failure(&text, IN_USE));
        }
        self.content.media.remove(path);
        self.content.parents.remove(path);
        Ok(String::new())
    }

    pub(crate) fn disks(&self) -> String {
        let disks = self.content.media.iter().filter(|medium| !is_disc(medium));
        disks.map(|disk| format!("State:          created\nLocation:       {disk}\n\n")).collect()
    }

    pub(crate) fn show(&self, id: &str) -> Result<String, Failure> {
        let settings = self.vm(id)?;
        let escaped = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
        let mut answer = format!("name=\"{}\"\ngroups=\"/\"\n", settings.name);
        let _ = writeln!(answer, "UUID=\"{}\"", settings.id);
        let _ = writeln!(answer, "CfgFile=\"{}\"", escaped(&settings.path.display().to_string()));
        let _ = writeln!(answer, "VMState=\"{}\"", vm::state(&self.home, id));
        for (port, medium) in &settings.media {
            let _ = writeln!(answer, "\"SATA-{port}-0\"=\"{}\"", escaped(medium));
        }
        for (index, rule) in settings.rules.values().enumerate() {
            let _ = writeln!(answer, "Forwarding({index})=\"{rule}\"");
        }
        // Not escaped there, either.
        for (key, value) in settings.values.iter().filter(|(key, _)| key.starts_with("uart")) {
            let _ = writeln!(answer, "{key}=\"{value}\"");
        }
        answer.push_str(" rec_screen0\nGuestMemoryBalloon=0\n");
        Ok(answer)
    }
}
