//! `/images/…`

use axum::Router;

use crate::daemon::App;

pub fn routes() -> Router<App> {
    Router::new()
}
