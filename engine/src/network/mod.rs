//! Networks of containers.

/// Networks of this engine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Network;
