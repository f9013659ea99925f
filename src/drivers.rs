//! The drivers that this program has.

use machine_driver::{Driver, DriverError};

/// All drivers, in the order in which the help lists them.
#[derive(Debug)]
pub struct Registry {
    drivers: Vec<Box<dyn Driver>>,
}

impl Registry {
    /// The drivers that are compiled in.
    pub fn built_in() -> Self {
        Self {
            drivers: vec![
                Box::new(machine_driver_qemu::Qemu::new()),
                Box::new(machine_driver_generic::Generic),
                Box::new(machine_driver_none::NoDriver),
            ],
        }
    }

    /// The driver of this name or alias.
    pub fn find(&self, name: &str) -> Result<&dyn Driver, DriverError> {
        self.drivers
            .iter()
            .map(AsRef::as_ref)
            .find(|driver| driver.info().name == name || driver.info().aliases.contains(&name))
            .ok_or_else(|| {
                DriverError::unsupported(format!("Driver \"{name}\" not found"))
                    .with_hint(format!("The drivers are {}", self.names().join(", ")))
            })
    }

    pub fn names(&self) -> Vec<&'static str> {
        self.drivers.iter().map(|driver| driver.info().name).collect()
    }

    pub fn iter(&self) -> impl Iterator<Item = &dyn Driver> {
        self.drivers.iter().map(AsRef::as_ref)
    }
}

/// The driver that `create` uses when none is named.
pub const DEFAULT_DRIVER: &str = "qemu";
