//! The certificate authority of a store, and the certificates that it issues to engines and clients.

mod authority;
mod error;
mod inspect;
mod names;
mod pem;
mod verify;

pub use authority::{Authority, Issued};
pub use error::PkiError;
pub use inspect::{CertificateFacts, inspect};
pub use verify::{Usage, verify_issued};
