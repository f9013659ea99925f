//! The Docker Engine API over HTTP: versions, routes and the shape of errors.

use axum::Router;

use crate::daemon::App;

pub mod error;
pub mod images;
pub mod system;

pub use error::ApiError;
