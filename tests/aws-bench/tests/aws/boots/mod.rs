//! Tests whose instances are VMs.

mod bad_days;
mod crashes;
mod life;
mod user_data;
