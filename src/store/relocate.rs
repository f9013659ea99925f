//! Paths in a record that lead into the host's own folder, after the store was moved or copied.

use std::path::{Path, PathBuf};

use machine_driver::SshKey;
use serde_json::Value;

use super::{Record, Store};

/// Has every path into the host's folder lead to where that is now. The record says where it was when it was written.
pub(super) fn relocate(record: &mut Record, store: &Store) {
    let now = store.folder(&record.name);
    let before = std::mem::replace(&mut record.driver.store_path, store.root().to_owned());
    let before = before.join("machines").join(record.name.as_str());
    if let Some(ssh) = record.endpoint.as_mut().and_then(|endpoint| endpoint.ssh.as_mut()) {
        match &mut ssh.key {
            SshKey::Generated => record.driver.ssh_key_path = now.join("id_ed25519").display().to_string(),
            SshKey::File(path) => {
                if let Some(moved) = moved(path, &before, &now) {
                    record.driver.ssh_key_path = moved.display().to_string();
                    *path = moved;
                }
            }
            SshKey::Agent => {}
        }
    }
    if before.is_absolute() && before != now {
        relocate_texts(&mut record.driver.config, &before, &now);
        relocate_texts(&mut record.driver.state, &before, &now);
    }
}

fn moved(path: &Path, before: &Path, now: &Path) -> Option<PathBuf> {
    let rest = path.strip_prefix(before).ok()?;
    Some(now.join(rest))
}

fn relocate_texts(value: &mut Value, before: &Path, now: &Path) {
    match value {
        Value::String(text) => {
            if let Some(path) = moved(Path::new(text), before, now) {
                *text = path.display().to_string();
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| relocate_texts(value, before, now)),
        Value::Object(fields) => fields.values_mut().for_each(|value| relocate_texts(value, before, now)),
        _ => {}
    }
}
