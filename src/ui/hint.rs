//! The errors of ours that can become a [`super::Failure`]: each says what its user can do about it.
//!
//! An error that holds another one passes the question on in its own `hint`, by a `match` without `_` where it can, so
//! that a new cause is not forgotten. An error that is not listed here cannot be printed, and does not compile.

use std::error::Error;

use crate::{
    bundle::BundleError,
    engine_api::EngineError,
    lifecycle::{
        BringUpError, ClientError, CreateError, LeftoversError, LoginError, PowerError, RefreshError,
        RemoveError, TrustError,
    },
    provision::ProvisionError,
    ssh::{CopyError, SshError},
    store::StoreError,
};

/// An error whose user can be told what to do next.
pub trait Hint: Error + 'static {
    /// What the user can do about it, here or in what caused it.
    fn hint(&self) -> Option<String>;
}

macro_rules! hints_of_their_own {
    ($($error:ty),* $(,)?) => {
        $(impl Hint for $error {
            fn hint(&self) -> Option<String> {
                // The method of the type itself, which goes before the trait's.
                <$error>::hint(self)
            }
        })*
    };
}

hints_of_their_own!(
    BringUpError,
    BundleError,
    ClientError,
    CopyError,
    CreateError,
    EngineError,
    LeftoversError,
    LoginError,
    PowerError,
    ProvisionError,
    RefreshError,
    RemoveError,
    SshError,
    StoreError,
    TrustError,
    machine_pki::PkiError,
);

impl Hint for machine_driver::DriverError {
    fn hint(&self) -> Option<String> {
        self.hint().map(str::to_owned)
    }
}
