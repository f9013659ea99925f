//! The drivers that this program has.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
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
    BuiltIn { name: "qemu", aliases: &[], open: || Arc::new(machine_driver_qemu::Qemu::new()) },
    #[cfg(feature = "aws")]
    BuiltIn { name: "aws", aliases: &["amazonec2"], open: || Arc::new(machine_driver_aws::Aws::new()) },
    BuiltIn { name: "generic", aliases: &[], open: || Arc::new(machine_driver_generic::Generic) },
    BuiltIn { name: "none", aliases: &[], open: || Arc::new(machine_driver_none::NoDriver) },
];

/// The drivers that this program has; each is opened when it is first asked for, and kept.
#[derive(Debug, Default)]
pub struct Registry {
    opened: Mutex<BTreeMap<&'static str, Arc<dyn Driver>>>,
}

impl Registry {
    /// The drivers that are compiled in.
    pub fn built_in() -> Self {
        Self::default()
    }

    /// The driver of this name or alias.
    pub fn find(&self, name: &str) -> Result<Arc<dyn Driver>, DriverError> {
        if let Some(known) =
            BUILT_IN.iter().find(|driver| driver.name == name || driver.aliases.contains(&name))
        {
            let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
            return Ok(opened.entry(known.name).or_insert_with(known.open).clone());
        }
        let error = DriverError::unsupported(format!("Driver \"{name}\" not found"));
        if LEFT_OUT.contains(&name) {
            return Err(error.with_hint(
                "This `machine` was built without it; `cargo xtask build` builds it with all drivers",
            ));
        }
        Err(error.with_hint(format!("The drivers are {}", Self::names().join(", "))))
    }

    /// The names of the drivers that are compiled in.
    pub fn names() -> Vec<&'static str> {
        BUILT_IN.iter().map(|driver| driver.name).collect()
    }
}

/// The drivers that this build leaves out.
const LEFT_OUT: &[&str] = if cfg!(feature = "aws") { &[] } else { &["aws", "amazonec2"] };

/// The driver that `create` uses when none is named.
pub const DEFAULT_DRIVER: &str = "qemu";

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
