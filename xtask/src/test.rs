//! All tests, in the order in which failures are cheap to find.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{
    aws, bollard,
    build::{self, Make},
    demo, deny, plugins,
    report::Report,
    run::{cargo, cargo_test, check, root, say},
    setup,
};

pub(crate) fn run(quick: bool) -> Result<()> {
    let mut report = Report::new()?;
    let docker = report.part("Preparing the system", prepare);
    let Some(path) = docker.map(|docker| path_with(&docker)) else {
        return report.finish();
    };
    // These tell different things, and are cheap beside what follows: one that fails does not hide the others.
    report.part("Format", || check(cargo().args(["fmt", "--all", "--check"])));
    report.part("Dependencies: licences, sources, bans, advisories", deny::run);
    let packages = if quick { LIGHT.as_slice() } else { ALL.as_slice() };
    report.part("Lints", || lint(packages));
    report.part("Documentation", || document(packages));
    if !quick {
        report.part("Windows: `machine`, and the crates that it is made of", windows);
    }
    report.part("Unit and integration tests", || unit_tests(packages, &path));
    if !quick && report.is_good() {
        on_machines(&mut report, &path);
    } else if !quick {
        report.not_run("All that takes VMs", "an earlier part failed");
    }
    report.finish()
}

/// What compiles for Windows, and is to go on doing so: everything but the driver `qemu`, and that for AWS, whose SDK would
/// have to be compiled once more. All in one command, so that features unify. clippy checks what the compiler does.
fn windows() -> Result<()> {
    setup::for_windows()?;
    let packages = [
        "gotemplate",
        "machine",
        "machine-driver",
        "machine-driver-generic",
        "machine-driver-hyperv",
        "machine-driver-none",
        "machine-driver-plugin",
        "machine-driver-virtualbox",
        "machine-pki",
        "private-files",
    ];
    let mut command = cargo();
    command.args(["clippy", "--target", WINDOWS_TARGET, "--no-default-features"]);
    for package in packages {
        command.args(["--package", package]);
    }
    check(command.args(["--", "-D", "warnings"]))
}

/// Clients of the engine, with what they take; answers with the stock command line.
fn prepare() -> Result<PathBuf> {
    setup::for_tests()?;
    // Without them, the tests that need them say so.
    if let Err(error) = plugins::fetch() {
        say(&format!("Could not fetch the plug-ins of the docker command line: {error:#}"));
    }
    setup::docker_sdk()?;
    setup::docker_cli()
}

/// The tests that came with clients' libraries, alone.
pub(crate) fn clients() -> Result<()> {
    let path = path_with(&prepare()?);
    bollard::build()?;
    let mut command = cargo_test();
    command.args(LIGHT).args(["--test", "clients"]).env("PATH", path);
    as_root(&mut command);
    check(&mut command)
}

fn unit_tests(packages: &[&str], path: &OsStr) -> Result<()> {
    let mut command = cargo_test();
    command.args(packages).arg("--no-fail-fast").env("PATH", path);
    as_root(&mut command);
    check(&mut command)
}

/// Has test programs run as root: the engine's make namespaces of their own.
pub(crate) fn as_root(command: &mut Command) {
    if !setup::is_root() {
        say("The tests of the engine need root: running test programs through sudo");
        command.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", "sudo -E");
    }
}

/// What takes VMs, and so the images and programs that travel.
fn on_machines(report: &mut Report, path: &OsStr) {
    let built = report.part("Building the engine", || build::engine(MAKE)).and_then(|()| {
        report.part("Building the images", || {
            build::machineos(MAKE)?;
            build::debian()
        })
    });
    if built.is_none() {
        report.not_run("All that takes VMs", "there is no engine or no image");
        return;
    }
    report.part("The qemu driver, on VMs", qemu_driver);
    if report.part("Building machine", || build::machine(MAKE)).is_some() {
        report.part("End to end, on VMs", || end_to_end(path, &[], &[]));
    } else {
        report.not_run("End to end, on VMs", "there is no machine");
    }
    report.part("AWS, on the bench", || aws::test(path));
}

/// The contract with VMs that boot, killed at a few points; with VMs that do not, at every point, it is a unit test.
fn qemu_driver() -> Result<()> {
    check(cargo_test().args(ALL).args(["--test", "machineos", "--"]).args([
        "--ignored",
        "--exact",
        "keeps_the_contract_with_real_vms",
        "--nocapture",
    ]))
}

/// Those with one of these words in their names, or all; told these variables.
pub(crate) fn end_to_end(path: &OsStr, variables: &[(&str, &str)], words: &[&str]) -> Result<()> {
    let image = demo::busybox_image(&root().join("target/demo-image"))?;
    check(
        cargo_test()
            .args(ALL)
            .args(["--test", "end_to_end", "--"])
            .args(["--ignored", "--test-threads", "1", "--nocapture"])
            .args(words)
            .envs(variables.iter().copied())
            .env("PATH", path)
            .env("MACHINE_PROGRAM", MAKE.machine_program())
            .env("MACHINE_ENGINE", MAKE.engine_program())
            .env("MACHINE_TEST_IMAGE", image),
    )
}

/// What travels is built without its last minutes of optimisation.
pub(crate) const MAKE: Make = Make::Quick;

/// Everything. Whatever a run compiles, it selects by this: the features of a dependency are those that all selected
/// packages ask for, and with another selection it would be compiled again.
const ALL: [&str; 1] = ["--workspace"];

/// Everything but the driver whose SDK takes minutes and gigabytes to compile.
pub(crate) const LIGHT: [&str; 4] =
    ["--workspace", "--exclude", "machine-driver-aws", "--no-default-features"];

/// Rust's name for Windows with the tools of GNU, which Debian has.
pub(crate) const WINDOWS_TARGET: &str = "x86_64-pc-windows-gnu";

fn lint(packages: &[&str]) -> Result<()> {
    check(cargo().arg("clippy").args(packages).args(["--all-targets", "--", "-D", "warnings"]))
}

fn document(packages: &[&str]) -> Result<()> {
    check(
        cargo()
            .arg("doc")
            .args(packages)
            .args(["--no-deps", "--document-private-items"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )
}

/// PATH with the stock docker command line in it.
pub(crate) fn path_with(docker: &Path) -> OsString {
    let old = env::var_os("PATH").unwrap_or_default();
    let folders = docker.parent().map(Path::to_owned).into_iter().chain(env::split_paths(&old));
    env::join_paths(folders).unwrap_or(old)
}
