//! Files of contexts that tests build.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::harness::Engine;

/// Writes a file of the context, whatever the mask of this process.
pub fn write(engine: &Engine, name: &str, content: &str) {
    let path = engine.path("context").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
}
