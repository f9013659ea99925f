//! `Version, info, events, disk usage.`

use axum::Router;

use crate::daemon::App;

pub fn routes() -> Router<App> {
    Router::new()
}
