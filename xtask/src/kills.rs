//! `machine` is killed at every one of its writes, with VMs: `cargo xtask test` does it at three of them.

use anyhow::Result;
use clap::ValueEnum;

use crate::{
    aws, build, setup,
    test::{MAKE, end_to_end, path_with},
};

/// Has the tests try all points. They read it as well.
const POINTS: (&str, &str) = ("MACHINE_TEST_KILLS", "all");

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Which {
    Qemu,
    Aws,
}

/// On one of them, or on both.
pub(crate) fn run(which: Option<Which>) -> Result<()> {
    setup::for_build()?;
    setup::for_tests()?;
    let path = path_with(&setup::docker_cli()?);
    build::engine(MAKE)?;
    build::machineos(MAKE)?;
    if which != Some(Which::Aws) {
        build::machine(MAKE)?;
        end_to_end(&path, &[POINTS], &["killed_at_a_write"])?;
    }
    if which != Some(Which::Qemu) {
        aws::kills(&path, &[POINTS])?;
    }
    Ok(())
}
