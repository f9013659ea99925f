//! The driver for AWS: built with its SDK, and proven on a bench that plays AWS with real VMs.

use std::{ffi::OsStr, path::PathBuf, process::Command};

use anyhow::Result;

use crate::{
    build, demo,
    run::{cargo, check, root, say},
    setup,
};

/// What is compiled with the SDK. Always named together, so that it is compiled once.
pub(crate) const PACKAGES: [&str; 4] = ["--package", "machine", "--package", "machine-driver-aws"];

/// The emulator of AWS' API that the bench stands on.
const MOTO: &str = "moto[server,ec2,ssm,iam]==5.2.5";

/// `machine` with all drivers, for tests: compiled in minutes, where a release takes many.
pub(crate) fn machine() -> Result<()> {
    check(cargo().arg("build").args(PACKAGES))
}

fn machine_program() -> PathBuf {
    root().join("target/debug/machine")
}

fn bench_program() -> PathBuf {
    root().join("target/debug/aws-bench")
}

/// moto in a virtual environment of its own.
fn moto() -> Result<PathBuf> {
    let folder = root().join("target/tools/moto");
    let program = folder.join("bin/moto_server");
    let mark = folder.join(".installed");
    if std::fs::read_to_string(&mark).is_ok_and(|text| text == MOTO) {
        return Ok(program);
    }
    say(&format!("Installing {MOTO} into a virtual environment"));
    check(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    check(Command::new(folder.join("bin/pip")).args([
        "install",
        "--quiet",
        "--disable-pip-version-check",
        MOTO,
    ]))?;
    std::fs::write(&mark, MOTO)?;
    Ok(program)
}

/// Everything that the bench needs, but the images and the engine.
fn prepare() -> Result<PathBuf> {
    setup::for_aws_bench()?;
    let moto = moto()?;
    check(cargo().args(["build", "--package", "aws-bench"]))?;
    Ok(moto)
}

/// The tests that need an AWS. The images and the engine are built already.
pub(crate) fn test(path: &OsStr) -> Result<()> {
    let moto = prepare()?;
    let image = demo::busybox_image(&root().join("target/demo-image"))?;
    check(
        cargo()
            .args([
                "test",
                "--package",
                "aws-bench",
                "--",
                "--include-ignored",
                "--test-threads",
                "1",
                "--nocapture",
            ])
            .env("PATH", path)
            .env("MOTO_SERVER", moto)
            .env("MACHINE_PROGRAM", machine_program())
            .env("MACHINE_TEST_IMAGE", image)
            .env("AWS_BENCH_IMAGES", root().join("target/images")),
    )
}

/// Plays AWS until Ctrl-C, and says how `machine` is led there.
pub(crate) fn play() -> Result<()> {
    setup::for_build()?;
    let moto = prepare()?;
    build::engine()?;
    build::machineos()?;
    machine()?;
    let image = demo::busybox_image(&root().join("target/demo-image"))?;
    say(&format!(
        "\nIn another terminal:\n  export PATH=\"{}:$PATH\"\n  eval \"$(cat {})\"\n  machine create -d aws mc1\n  eval \"$(machine env mc1)\"\n  docker load -i {}\n",
        machine_program().parent().unwrap_or(&root()).display(),
        environment_file().display(),
        image.display(),
    ));
    check(
        Command::new(bench_program())
            .args(["--port", "4599", "--images"])
            .arg(root().join("target/images"))
            .arg("--environment")
            .arg(environment_file())
            .arg("--moto")
            .arg(moto),
    )
}

/// Where the bench writes the variables that lead to it.
fn environment_file() -> PathBuf {
    root().join("target/aws-bench.env")
}
