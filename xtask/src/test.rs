//! All tests, in the order in which failures are cheap to find.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::Path,
};

use anyhow::Result;

use crate::{
    aws, build, demo, deny,
    report::Report,
    run::{cargo, check, root, say},
    setup,
};

pub(crate) fn run(quick: bool) -> Result<()> {
    let mut report = Report::new()?;
    let docker = report.part("Preparing the system", || {
        setup::for_tests()?;
        setup::docker_cli()
    });
    let Some(path) = docker.map(|docker| path_with(&docker)) else {
        return report.finish();
    };
    // These tell different things, and are cheap beside what follows: one that fails does not hide the others.
    report.part("Format", || check(cargo().args(["fmt", "--all", "--check"])));
    report.part("Dependencies: licences, sources, bans, advisories", deny::run);
    report.part("Lints", || lint(&LIGHT));
    report.part("Documentation", || document(&LIGHT));
    report.part("Unit and integration tests", || unit_tests(&path));
    if !quick && report.is_good() {
        on_machines(&mut report, &path);
    } else if !quick {
        report.not_run("All that takes VMs", "an earlier part failed");
    }
    report.finish()
}

fn unit_tests(path: &OsStr) -> Result<()> {
    let mut command = cargo();
    command.arg("test").args(LIGHT).arg("--no-fail-fast").env("PATH", path);
    if !setup::is_root() {
        // The engine's tests make namespaces of their own.
        say("The tests of the engine need root: running test programs through sudo");
        command.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", "sudo -E");
    }
    check(&mut command)
}

/// What takes VMs, and so the images and programs that travel.
fn on_machines(report: &mut Report, path: &OsStr) {
    let built = report.part("Building the engine", build::engine).and_then(|()| {
        report.part("Building the images", || {
            build::machineos()?;
            build::debian()
        })
    });
    if built.is_none() {
        report.not_run("All that takes VMs", "there is no engine or no image");
        return;
    }
    report.part("The qemu driver, on VMs", qemu_driver);
    if report.part("Building machine", || build::machine(build::Drivers::Light)).is_some() {
        report.part("End to end, on VMs", || end_to_end(path));
    } else {
        report.not_run("End to end, on VMs", "there is no machine");
    }
    report.part("AWS: lints and documentation", || {
        lint(&aws::PACKAGES)?;
        document(&aws::PACKAGES)
    });
    if report.part("AWS: building", aws::machine).is_some() {
        report.part("AWS: unit tests", || check(cargo().arg("test").args(aws::PACKAGES).arg("--lib")));
        report.part("AWS: on the bench", || aws::test(path));
    } else {
        report.not_run("AWS: on the bench", "there is no machine with the driver");
    }
}

/// The contract with VMs that boot, killed at a few points; with VMs that do not, at every point, it is a unit test.
fn qemu_driver() -> Result<()> {
    check(cargo().args(["test", "--package", "machine-driver-qemu", "--test", "machineos", "--"]).args([
        "--ignored",
        "--exact",
        "keeps_the_contract_with_real_vms",
        "--nocapture",
    ]))
}

fn end_to_end(path: &OsStr) -> Result<()> {
    let image = demo::busybox_image(&root().join("target/demo-image"))?;
    check(
        cargo()
            .args(["test", "--package", "machine", "--no-default-features", "--test", "end_to_end", "--"])
            .args(["--ignored", "--test-threads", "1", "--nocapture"])
            .env("PATH", path)
            .env("MACHINE_PROGRAM", build::machine_program())
            .env("MACHINE_ENGINE", build::engine_program())
            .env("MACHINE_TEST_IMAGE", image),
    )
}

/// Everything but the driver whose SDK takes minutes and gigabytes to compile.
const LIGHT: [&str; 4] = ["--workspace", "--exclude", "machine-driver-aws", "--no-default-features"];

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
fn path_with(docker: &Path) -> OsString {
    let old = env::var_os("PATH").unwrap_or_default();
    let folders = docker.parent().map(Path::to_owned).into_iter().chain(env::split_paths(&old));
    env::join_paths(folders).unwrap_or(old)
}
