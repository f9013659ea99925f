//! All tests, in the order in which failures are cheap to find.

use std::process::Command;

use anyhow::Result;

use crate::{
    aws, build, demo,
    run::{Times, cargo, check, root, say},
    setup,
};

pub(crate) fn run(quick: bool) -> Result<()> {
    let mut times = Times::default();
    times.part("Preparing the system", setup::for_tests)?;
    times.part("Format", || check(cargo().args(["fmt", "--all", "--check"])))?;
    times.part("Dependencies: licences, sources, bans", deny)?;
    times.part("Lints", || lint(&LIGHT))?;
    times.part("Documentation", || document(&LIGHT))?;
    let docker = setup::docker_cli()?;
    times.part("Unit and integration tests", || {
        let mut command = cargo();
        command.arg("test").args(LIGHT).arg("--no-fail-fast").env("PATH", path_with(&docker));
        if !setup::is_root() {
            // The engine's tests make namespaces of their own.
            say("The tests of the engine need root: running test programs through sudo");
            command.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", "sudo -E");
        }
        check(&mut command)
    })?;
    if !quick {
        times.part("Building the engine", build::engine)?;
        times.part("Building the images", || {
            build::machineos()?;
            build::debian()
        })?;
        times.part("Building machine", || build::machine(build::Drivers::Light))?;
        times.part("End to end, on VMs", || {
            let image = demo::busybox_image(&root().join("target/demo-image"))?;
            check(
                cargo()
                    .args(["test", "--package", "machine", "--no-default-features"])
                    .args(["--test", "end_to_end", "--"])
                    .args(["--ignored", "--test-threads", "1", "--nocapture"])
                    .env("PATH", path_with(&docker))
                    .env("MACHINE_PROGRAM", build::machine_program())
                    .env("MACHINE_TEST_IMAGE", image),
            )
        })?;
        times.part("AWS: lints and documentation", || {
            lint(&aws::PACKAGES)?;
            document(&aws::PACKAGES)
        })?;
        times.part("AWS: building", aws::machine)?;
        times.part("AWS: unit tests", || check(cargo().arg("test").args(aws::PACKAGES).arg("--lib")))?;
        times.part("AWS: on the bench", || aws::test(&path_with(&docker)))?;
    }
    times.print();
    Ok(())
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
fn path_with(docker: &std::path::Path) -> std::ffi::OsString {
    let old = std::env::var_os("PATH").unwrap_or_default();
    let folders =
        docker.parent().map(std::path::Path::to_owned).into_iter().chain(std::env::split_paths(&old));
    std::env::join_paths(folders).unwrap_or(old)
}

/// `cargo deny`, installed when it is missing. Its advisories come from a database that has to be fetched; where that
/// cannot be reached, the other checks are made and the lack is said.
fn deny() -> Result<()> {
    let have = cargo().args(["deny", "--version"]).output().is_ok_and(|output| output.status.success());
    if !have {
        say("Installing cargo-deny (some minutes, once)");
        check(cargo().args(["install", "--locked", "--quiet", "cargo-deny@0.20.2"]))?;
    }
    check(cargo().args(["deny", "--offline", "check", "bans", "licenses", "sources"]))?;
    let mut fetch: Command = cargo();
    fetch.args(["deny", "fetch", "db"]);
    match fetch.output() {
        Ok(output) if output.status.success() => {
            check(cargo().args(["deny", "--offline", "check", "advisories"]))
        }
        _ => {
            say("The database of advisories is out of reach here: advisories were NOT checked");
            Ok(())
        }
    }
}
