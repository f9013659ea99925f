//! Patterns of file names, as Dockerfiles and `.dockerignore` have them.

pub mod glob;
pub mod ignore;
