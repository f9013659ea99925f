//! What a process may do until it is ready: more than it is left with.

use libcontainer::oci_spec::runtime::LinuxCapabilities;
use serde_json::{Value, json};

use super::protocol::ShimConfig;

/// Loading a filter takes capabilities that the process may not be meant to have. It gets them until then; the answer
/// is what it has to be brought down to right after.
pub(crate) fn keep_for_filter(
    config: &ShimConfig,
    process: &mut Value,
) -> serde_json::Result<Option<LinuxCapabilities>> {
    if config.seccomp.is_none() || process["noNewPrivileges"] == json!(true) {
        return Ok(None);
    }
    let wanted = serde_json::from_value(process["capabilities"].clone())?;
    add(process, &["CAP_SYS_ADMIN", "CAP_SETPCAP"]);
    Ok(Some(wanted))
}

/// Gives a process more than it is to have in the end.
pub(crate) fn add(process: &mut Value, more: &[&str]) {
    for set in ["bounding", "effective", "permitted"] {
        let names = process["capabilities"][set].as_array().cloned().unwrap_or_default();
        let more = more.iter().map(|&name| Value::from(name));
        let missing: Vec<_> = more.filter(|name| !names.contains(name)).collect();
        process["capabilities"][set] = names.into_iter().chain(missing).collect();
    }
}
