//! Containers: records and their life.

/// Containers of this engine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Containers;
