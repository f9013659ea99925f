//! The driver for AWS: built with its SDK, and proven on a bench that plays AWS with real VMs.

use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build::{self, Make},
    demo, python,
    run::{cargo, cargo_test, check, root, say},
    setup,
};

/// The engine of its hosts: `machine` is built for tests here, and gets it at run time.
const MAKE: Make = Make::Quick;

/// The emulator of AWS' API that the bench stands on.
const MOTO: &str = "moto[server,ec2,ssm,iam]==5.2.5\n";

/// `machine` with all drivers, and the bench: as cargo builds them for their tests, because a plain build gives the
/// dependencies other features and would compile the SDK again.
fn programs() -> Result<()> {
    check(cargo().args(["test", "--no-run", "--workspace", "--test", "cli", "--test", "self"]))
}

fn machine_program() -> PathBuf {
    root().join("target/debug/machine")
}

fn bench_program() -> PathBuf {
    root().join("target/debug/aws-bench")
}

/// Everything that the bench needs, but the images and the engine.
fn prepare() -> Result<PathBuf> {
    setup::for_aws_bench()?;
    let moto = python::programs("moto", MOTO)?.join("moto_server");
    programs()?;
    Ok(moto)
}

/// The tests that need an AWS. The images and the engine are built already. Those whose instances do not boot run side by
/// side: they wait for one another's calls, and for AWS' time, more than for the processor.
pub(crate) fn test(path: &OsStr) -> Result<()> {
    let moto = prepare()?;
    tests(path, &moto, &[], &["--test-threads", "4", "--skip", BOOTS[0], "--skip", BOOTS[1]])?;
    tests(path, &moto, &[], &["--test-threads", "2", "--nocapture", BOOTS[0], BOOTS[1]])
}

/// Those in which commands are killed: at every write with guests, and then with VMs.
pub(crate) fn kills(path: &OsStr, variables: &[(&str, &str)]) -> Result<()> {
    let moto = prepare()?;
    tests(path, &moto, variables, &["--test-threads", "1", "--nocapture", "crashes::"])
}

fn tests(path: &OsStr, moto: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> Result<()> {
    let image = demo::busybox_image(&root().join("target/demo-image"))?;
    check(
        cargo_test()
            .args(["--workspace", "--test", "aws", "--test", "aws_contract", "--test", "self"])
            .args(["--", "--ignored"])
            .args(arguments)
            .envs(variables.iter().copied())
            .env("PATH", path)
            .env("MOTO_SERVER", moto)
            .env("MACHINE_PROGRAM", machine_program())
            .env("MACHINE_ENGINE_BUNDLE", MAKE.engine_bundle())
            .env("MACHINE_TEST_IMAGE", &image)
            .env("AWS_BENCH_PROGRAM", bench_program())
            .env("AWS_BENCH_IMAGES", root().join("target/images"))
            // Good there and nowhere else.
            .env("AWS_ACCESS_KEY_ID", "AKIABENCH")
            .env("AWS_SECRET_ACCESS_KEY", "bench")
            .env("AWS_EC2_METADATA_DISABLED", "true"),
    )
}

/// What the names of tests have in them whose instances are VMs.
const BOOTS: [&str; 2] = ["boots::", "an_instance_is_a_vm"];

/// The figures of the driver, printed by a program of the bench.
pub(crate) fn figures() -> Result<()> {
    setup::for_build()?;
    let moto = prepare()?;
    build::engine(MAKE)?;
    build::machineos(MAKE)?;
    check(
        cargo()
            .args(["run", "--quiet", "--package", "aws-bench", "--example", "figures"])
            .env("MOTO_SERVER", moto)
            .env("MACHINE_PROGRAM", machine_program())
            .env("MACHINE_ENGINE_BUNDLE", MAKE.engine_bundle())
            .env("AWS_BENCH_PROGRAM", bench_program())
            .env("AWS_BENCH_IMAGES", root().join("target/images")),
    )
}

/// Plays AWS until Ctrl-C, and says how `machine` is led there.
pub(crate) fn play() -> Result<()> {
    setup::for_build()?;
    let moto = prepare()?;
    build::engine(MAKE)?;
    build::machineos(MAKE)?;
    let image = demo::busybox_image(&root().join("target/demo-image"))?;
    let mut bench = Command::new(bench_program())
        .arg("--images")
        .arg(root().join("target/images"))
        .arg("--moto")
        .arg(moto)
        .stdout(Stdio::piped())
        .spawn()
        .context("Could not start the bench")?;
    let mut line = String::new();
    let stdout = bench.stdout.take().context("The bench has no output")?;
    BufReader::new(stdout).read_line(&mut line)?;
    let endpoint = line
        .split('"')
        .find(|word| word.starts_with("http://"))
        .context("The bench did not start; what it said is above")?;
    std::fs::write(environment_file(), environment(endpoint))?;
    say(&format!(
        "\nAWS is played at {endpoint}, until Ctrl-C. In another terminal:\n  . {}\n  machine create -d aws mc1\n  eval \"$(machine env mc1)\"\n  docker load -i {}\n  docker run --rm busybox echo hello\n",
        environment_file().display(),
        image.display(),
    ));
    let status = bench.wait()?;
    if !status.success() {
        bail!("The bench ended: {status}");
    }
    Ok(())
}

/// What leads `machine` to the bench: credentials that are good there and nowhere else, and a store of its own.
fn environment(endpoint: &str) -> String {
    let folder = machine_program().parent().map(PathBuf::from).unwrap_or_default();
    format!(
        "export PATH=\"{}:$PATH\"\n\
         export MACHINE_STORAGE_PATH=\"{}\"\n\
         export AWS_ENDPOINT={endpoint} AWS_ENDPOINT_URL={endpoint} AWS_CHECKIP_URL={endpoint}/_bench/checkip AWS_REGION=eu-west-1\n\
         export AWS_ACCESS_KEY_ID=AKIABENCH AWS_SECRET_ACCESS_KEY=bench AWS_EC2_METADATA_DISABLED=true\n\
         export MACHINE_ENGINE_BUNDLE=\"{}\"\n\
         unset AWS_PROFILE AWS_SESSION_TOKEN\n",
        folder.display(),
        root().join("target/aws-store").display(),
        MAKE.engine_bundle().display(),
    )
}

/// Where the variables that lead to the bench are written.
fn environment_file() -> PathBuf {
    root().join("target/aws-bench.env")
}
