//! Parsers and hostile inputs: in a run of all tests a few thousand for each target, here a million.

use anyhow::Result;

use crate::{
    run::{cargo, check},
    test::LIGHT,
};

/// One target, or all.
pub(crate) fn run(target: Option<&str>, inputs: u64, seed: u64) -> Result<()> {
    let name = format!("fuzz::{}", target.unwrap_or_default());
    check(
        cargo()
            .arg("test")
            .args(LIGHT)
            .args(["--lib", "--bin", "engine", "--", &name, "--nocapture"])
            .env(fuzz::INPUTS, inputs.to_string())
            .env(fuzz::SEED, seed.to_string()),
    )
}
