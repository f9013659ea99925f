//! Whom a host's provider is to let in: what `machine` itself needs of it.

use machine_driver::{Endpoint, Protocol, Rule, Source};

/// SSH and the engine's port, for whoever runs `machine`, wherever that is now. Told to the driver as a whole; what the
/// host's own options let in is the driver's to add.
pub(super) fn rules(endpoint: &Endpoint) -> Vec<Rule> {
    let ssh = endpoint.ssh.as_ref().map(|ssh| ssh.port);
    let for_caller = |port| Rule { protocol: Protocol::Tcp, ports: (port, port), from: Source::Caller };
    ssh.into_iter().chain([endpoint.engine_port]).map(for_caller).collect()
}
