//! Which parameters a call reads of its query. What a newer client sends besides is passed over, as fields of bodies are, and the
//! log says so: an answer has no place for it.

use axum::http::Method;

/// Says in the log which parameters of a query nobody reads.
pub(super) fn note_unknown(method: &Method, path: &str, query: &str) {
    let Some(known) = known(method, path) else { return };
    let names = query.split('&').map(|pair| pair.split('=').next().unwrap_or_default());
    for name in names.filter(|name| !name.is_empty() && !known.contains(name)) {
        let name: String = name.chars().take(100).collect();
        tracing::warn!(%method, path, "This engine does not know the parameter `{name}` and has passed it over");
    }
}

/// What a call reads, and what Docker's library for Python always sends though dockerd reads it no more; nothing is known of calls that are not served.
fn known(method: &Method, path: &str) -> Option<&'static [&'static str]> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (first, last) = (*parts.first()?, *parts.last()?);
    Some(match (method.as_str(), first, parts.len(), last) {
        ("GET", "containers", 2, "json") => &["all", "limit", "size", "filters", "trunc_cmd"],
        ("GET", "containers", 3, "json") => &["size"],
        ("GET", "containers", 3, "logs") => {
            &["follow", "stdout", "stderr", "since", "until", "timestamps", "tail", "details"]
        }
        ("GET", "containers", 3, "stats") => &["stream", "one-shot"],
        ("GET", "containers", 3, "top") => &["ps_args"],
        ("GET" | "HEAD", "containers", 3, "archive") => &["path"],
        ("PUT", "containers", 3, "archive") => &["path", "noOverwriteDirNonDir", "copyUIDGID"],
        ("POST", "containers", 2, "create") => &["name", "platform"],
        ("POST", "containers", 3, "attach") | ("GET", "containers", 4, "ws") => {
            &["detachKeys", "logs", "stream", "stdin", "stdout", "stderr"]
        }
        ("POST", "containers", 3, "start") => &["detachKeys"],
        ("POST", "containers", 3, "stop" | "restart") => &["signal", "t"],
        ("POST", "containers", 3, "kill") => &["signal"],
        ("POST", "containers", 3, "rename") => &["name"],
        ("POST", "containers" | "exec", 3, "resize") => &["h", "w"],
        ("POST", "containers", 3, "wait") => &["condition"],
        ("DELETE", "containers", 2, _) => &["v", "force", "link"],
        ("GET", "images", 2, "json") => {
            &["all", "filters", "shared-size", "digests", "manifests", "only_ids"]
        }
        ("GET", "images", 2, "get") => &["names", "platform"],
        ("GET", "images", _, "json") => &["manifests", "platform"],
        ("GET", "images", _, "history" | "get") => &["platform"],
        ("POST", "build", 1, _) => &[
            "dockerfile",
            "t",
            "extrahosts",
            "remote",
            "q",
            "nocache",
            "cachefrom",
            "pull",
            "rm",
            "forcerm",
            "memory",
            "memswap",
            "cpushares",
            "cpusetcpus",
            "cpusetmems",
            "cpuperiod",
            "cpuquota",
            "cgroupparent",
            "buildargs",
            "shmsize",
            "squash",
            "labels",
            "networkmode",
            "platform",
            "target",
            "outputs",
            "version",
            "session",
            "securityopt",
            "ulimits",
            "isolation",
            "buildid",
        ],
        ("POST", "build", 2, "prune") => {
            &["all", "filters", "keep-storage", "reserved-space", "max-used-space", "min-free-space"]
        }
        ("POST", "commit", 1, _) => &["container", "repo", "tag", "comment", "author", "pause", "changes"],
        ("POST", "images", 2, "create") => {
            &["fromImage", "fromSrc", "repo", "tag", "message", "changes", "platform"]
        }
        ("POST", "images", _, "push") => &["tag", "platform"],
        ("GET", "images", 2, "search") => &["term", "limit", "filters"],
        ("POST", "images", 2, "load") => &["quiet", "platform"],
        ("POST", "images", _, "tag") => &["repo", "tag"],
        ("DELETE", "images", ..) => &["force", "noprune", "platforms"],
        ("GET", "networks", 2, _) => &["verbose", "scope"],
        ("GET", "system", 2, "df") => &["type", "verbose"],
        ("GET", "events", 1, _) => &["since", "until", "filters"],
        ("DELETE", "volumes", 2, _) => &["force"],
        ("GET", "networks" | "volumes", 1, _)
        | ("POST", "containers" | "images" | "networks" | "volumes", 2, "prune") => &["filters"],
        ("POST", "containers", 3, "pause" | "unpause" | "update" | "exec")
        | ("POST", "networks" | "volumes", 2, "create") => &[],
        _ => return None,
    })
}
