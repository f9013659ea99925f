//! dockerd is asked what the tests ask the engine, so that they can compare the answers.

use anyhow::Result;

use super::{
    peer::{Kind, Peer},
    tree,
};
use crate::{
    run::{cargo_test, check, root},
    setup,
    test::{LIGHT, as_root, path_with},
};

/// Compares what a dockerd answers with what it has answered before, and with the engine's answers; or records it for the tests
/// that CI runs, and compares that.
pub(crate) fn ask(record: bool) -> Result<()> {
    setup::for_peers()?;
    setup::for_tests()?;
    let docker = setup::docker_cli()?;
    let folder = root().join("target/peers");
    let tree = tree(&folder)?;
    let dockerd = Peer::start(Kind::Dockerd, &folder.join("asked"), &tree, &docker)?;
    let mut command = cargo_test();
    command
        .args(LIGHT)
        .args(["--test", "clients", "--", "--ignored", "--exact", "--nocapture"])
        .arg("dockerd::a_dockerd_that_runs_is_asked")
        .env("PATH", path_with(&docker))
        .env("ENGINE_TEST_DOCKERD", dockerd.socket());
    if record {
        command.env("ENGINE_TEST_RECORD", "yes");
    }
    as_root(&mut command);
    check(&mut command)
}
