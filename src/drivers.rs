//! The drivers that this program has: those that are compiled in, and programs on the PATH.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use machine_driver::{Driver, DriverError};

/// How a driver that is compiled in is opened: its name, its aliases, and what makes it.
struct BuiltIn {
    name: &'static str,
    aliases: &'static [&'static str],
    open: fn() -> Arc<dyn Driver>,
}

/// All drivers that are compiled in, in the order in which the help lists them.
const BUILT_IN: &[BuiltIn] = &[
    #[cfg(unix)]
    BuiltIn { name: "qemu", aliases: &[], open: || Arc::new(machine_driver_qemu::Qemu::new()) },
    BuiltIn {
        name: "virtualbox",
        aliases: &[],
        open: || Arc::new(machine_driver_virtualbox::VirtualBox::new()),
    },
    #[cfg(feature = "aws")]
    BuiltIn {
        name: "aws",
        aliases: &["amazonec2"],
        open: || Arc::new(machine_driver_aws::Aws::paced(machine_driver_aws::Pace::from_environment())),
    },
    BuiltIn { name: "hyperv", aliases: &[], open: || Arc::new(machine_driver_hyperv::Hyperv::new()) },
    BuiltIn { name: "generic", aliases: &[], open: || Arc::new(machine_driver_generic::Generic) },
    BuiltIn { name: "none", aliases: &[], open: || Arc::new(machine_driver_none::NoDriver) },
];

/// What became of a driver that was asked for.
type Opened = Result<Arc<dyn Driver>, DriverError>;

/// The drivers that were asked for so far, by name: one of each for the whole process, because opening a program starts
/// it. Whoever waits for one program does not keep others from theirs.
static OPENED: Mutex<BTreeMap<String, Arc<OnceLock<Opened>>>> = Mutex::new(BTreeMap::new());

fn open_once(name: &str, open: impl FnOnce() -> Opened) -> Opened {
    let cell =
        OPENED.lock().unwrap_or_else(PoisonError::into_inner).entry(name.to_owned()).or_default().clone();
    cell.get_or_init(open).clone()
}

/// The drivers that this program has; each is opened when it is first asked for, and kept.
#[derive(Debug, Clone, Copy, Default)]
pub struct Registry;

impl Registry {
    /// The drivers that are compiled in.
    pub fn built_in() -> Self {
        Self
    }

    /// The driver of this name or alias: one that is compiled in, or else the program `machine-driver-NAME` of the PATH.
    /// Waits for such a program to say who it is, within a bound, and blocks its thread meanwhile.
    #[allow(clippy::unused_self, reason = "the opened drivers are kept for the whole program")]
    pub fn find(self, name: &str) -> Result<Arc<dyn Driver>, DriverError> {
        if let Some(known) =
            BUILT_IN.iter().find(|driver| driver.name == name || driver.aliases.contains(&name))
        {
            return open_once(known.name, || Ok((known.open)()));
        }
        if let Some(program) = machine_driver_plugin::find(name) {
            return open_once(name, || open_program(name, &program));
        }
        let error = DriverError::unsupported(format!("Driver \"{name}\" not found"));
        if let Some((_, why)) = LEFT_OUT.iter().find(|(left_out, _)| *left_out == name) {
            return Err(error.with_hint(*why));
        }
        Err(error.with_hint(format!(
            "The drivers are {}; others are programs on the PATH called `machine-driver-NAME`",
            Self::names().join(", ")
        )))
    }

    /// The names of the drivers that are compiled in, then those of programs on the PATH.
    pub fn names() -> Vec<String> {
        let mut names: Vec<String> = Self::built_in_names().map(str::to_owned).collect();
        let programs = machine_driver_plugin::installed();
        names.extend(programs.into_iter().filter(|name| !is_built_in(name)));
        names
    }

    /// The names of the drivers that are compiled in.
    pub fn built_in_names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|driver| driver.name)
    }
}

fn is_built_in(name: &str) -> bool {
    BUILT_IN.iter().any(|driver| driver.name == name || driver.aliases.contains(&name))
}

/// Asks a program who it is. Whoever looks for a driver may be in the middle of asynchronous work or not: the question
/// has a thread and a runtime of its own.
fn open_program(name: &str, program: &Path) -> Result<Arc<dyn Driver>, DriverError> {
    let failed = |error: std::io::Error| {
        DriverError::failed(format!("Could not ask the driver {name} who it is")).with_source(error)
    };
    let opened = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
            runtime.block_on(machine_driver_plugin::PlugIn::open(name, program))
        });
        asking.join()
    });
    match opened {
        Ok(driver) => Ok(Arc::new(driver?)),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// The drivers that this build leaves out, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    #[cfg(not(feature = "aws"))]
    ("aws", BUILT_WITHOUT),
    #[cfg(not(feature = "aws"))]
    ("amazonec2", BUILT_WITHOUT),
    #[cfg(not(unix))]
    ("qemu", "It makes VMs on Linux only; `-d hyperv` makes them on Windows"),
];

#[cfg(not(feature = "aws"))]
const BUILT_WITHOUT: &str =
    "This `machine` was built without it; `cargo xtask build` builds it with all drivers";

/// The driver that `create` uses when none is named.
pub const DEFAULT_DRIVER: &str = if cfg!(unix) { "qemu" } else { "generic" };

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_driver_calls_itself_as_the_list_does() {
        for driver in BUILT_IN {
            let info = (driver.open)().info();
            assert_eq!(info.name, driver.name);
            assert_eq!(info.aliases, driver.aliases);
        }
    }
}
