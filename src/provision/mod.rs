//! Turns a reachable Linux host into an engine host, over one SSH session.
