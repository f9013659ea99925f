//! From a create request to a running container.
