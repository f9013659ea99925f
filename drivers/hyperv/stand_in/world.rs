//! A machine with Hyper-V on it, as a file that all runs of one test share, and what is wrong with it.

use std::{
    fs::{self, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

const FILE: &str = "world.json";
/// Of the Hyper-V Administrators.
const ADMINISTRATORS: &str = "S-1-5-32-578";
const DEFAULT_SWITCH: &str = "C08CB7B8-9B3C-408E-8E30-5E16A3AEB444";

/// All that there is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Facts {
    pub(crate) module: bool,
    pub(crate) feature: bool,
    pub(crate) service: bool,
    pub(crate) hypervisor: bool,
    /// Security identifiers of the groups that the user is in.
    pub(crate) groups: Vec<String>,
    pub(crate) switches: Vec<Switch>,
    pub(crate) vms: Vec<Vm>,
    pub(crate) processors: i64,
    pub(crate) memory: i64,
    /// How many VMs were made so far.
    pub(crate) made: u8,
    /// How many runs there were.
    pub(crate) runs: u32,
    pub(crate) faults: Faults,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Switch {
    pub(crate) id: String,
    pub(crate) name: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Vm {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) state: String,
    pub(crate) notes: String,
    pub(crate) generation: i64,
    pub(crate) memory: i64,
    pub(crate) dynamic: bool,
    pub(crate) least: i64,
    pub(crate) processors: i64,
    pub(crate) checkpoints: String,
    pub(crate) stop_action: String,
    pub(crate) secure_boot: bool,
    pub(crate) first: String,
    pub(crate) disks: Vec<String>,
    pub(crate) discs: Vec<String>,
    pub(crate) console: String,
    pub(crate) mac: String,
    pub(crate) vlan: i64,
    pub(crate) switch: Option<String>,
    pub(crate) number: u8,
}

/// What goes wrong.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Faults {
    /// Instead of running the script: `garbage`, `huge`, `nothing` or `complaint`.
    pub(crate) says: Option<String>,
    /// Milliseconds that each run takes before anything else.
    pub(crate) slow: u64,
    /// Cmdlets of Hyper-V that are refused, as access is denied.
    pub(crate) denied: Vec<String>,
    pub(crate) disk_full: bool,
    pub(crate) no_memory: bool,
    /// A VM that is started stays in this state.
    pub(crate) starts_as: Option<String>,
    /// `told` (also if empty), `neighbours`, `ipv6`, `none`.
    pub(crate) addresses: String,
    /// How many more times a guest cannot be asked to shut down.
    pub(crate) booting: u32,
    /// How many more times a VM cannot be turned off, as it is between two states.
    pub(crate) unruly: u32,
    /// Guests never shut down.
    pub(crate) deaf: bool,
    /// Milliseconds that a guest takes to shut down.
    pub(crate) shutdown: u64,
    /// The process ends in the middle of the script after so many more changes.
    pub(crate) dies_after: Option<u32>,
    /// The network that addresses are in: 172.NETWORK.0.0.
    pub(crate) network: u8,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            module: true,
            feature: true,
            service: true,
            hypervisor: true,
            groups: vec![ADMINISTRATORS.into()],
            switches: vec![
                Switch { id: "11111111-2222-3333-4444-555555555555".into(), name: "myswitch".into() },
                Switch { id: DEFAULT_SWITCH.into(), name: "Standardswitch für Gäste".into() },
            ],
            vms: Vec::new(),
            processors: 8,
            memory: 16 << 30,
            made: 0,
            runs: 0,
            faults: Faults::default(),
        }
    }
}

/// The folder with the file.
#[derive(Debug, Clone)]
pub(crate) struct World {
    folder: PathBuf,
}

impl World {
    pub(crate) fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn facts(&self) -> Facts {
        self.change(|facts| facts.clone())
    }

    /// Changes something; one run at a time.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Facts) -> T) -> T {
        self.try_change(change)
            .unwrap_or_else(|error| panic!("the world in `{}`: {error}", self.folder.display()))
    }

    fn try_change<T>(&self, change: impl FnOnce(&mut Facts) -> T) -> io::Result<T> {
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).open(self.folder.join("lock"))?;
        lock.lock()?;
        let path = self.folder.join(FILE);
        let mut facts = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Facts::default(),
            Err(error) => return Err(error),
        };
        let result = change(&mut facts);
        let partial = self.folder.join("world.partial");
        fs::write(&partial, serde_json::to_vec_pretty(&facts)?)?;
        fs::rename(&partial, &path)?;
        Ok(result)
    }
}
