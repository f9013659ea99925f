//! The suite that any driver can be run through: it holds the driver to the contract of [`crate::Driver`].
