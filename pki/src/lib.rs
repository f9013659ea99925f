//! The certificate authority of a store, and the certificates that it issues to engines and clients.

mod authority;
mod error;
mod fingerprint;
mod inspect;
mod names;
mod pem;
mod policy;
mod verify;

pub use authority::{Authority, Issued};
pub use error::PkiError;
pub use fingerprint::{Fingerprint, InvalidFingerprint};
pub use inspect::{CertificateFacts, inspect};
pub use pem::certificates;
pub use policy::{Policy, client_is_good, server_is_good};
pub use verify::{Usage, is_issued_by, verify_issued};
