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
                #[cfg(feature = "aws")]
                Box::new(machine_driver_aws::Aws::new()),
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
                let error = DriverError::unsupported(format!("Driver \"{name}\" not found"));
                if LEFT_OUT.contains(&name) {
                    return error.with_hint(
                        "This `machine` was built without it; `cargo xtask build` builds it with all drivers",
                    );
                }
                error.with_hint(format!("The drivers are {}", self.names().join(", ")))
            })
    }

    pub fn names(&self) -> Vec<&'static str> {
        self.drivers.iter().map(|driver| driver.info().name).collect()
    }

    pub fn iter(&self) -> impl Iterator<Item = &dyn Driver> {
        self.drivers.iter().map(AsRef::as_ref)
    }
}

/// The drivers that this build leaves out.
const LEFT_OUT: &[&str] = if cfg!(feature = "aws") { &[] } else { &["aws", "amazonec2"] };

/// The driver that `create` uses when none is named.
pub const DEFAULT_DRIVER: &str = "qemu";
