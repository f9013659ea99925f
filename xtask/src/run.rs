//! Running programs: said beforehand, checked afterwards, timed.

use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// Says something to whoever runs the chore.
#[expect(clippy::print_stderr, reason = "the one place where chores talk")]
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Runs a program to its end; a status other than 0 is an error that shows the command line.
pub(crate) fn check(command: &mut Command) -> Result<()> {
    let line = line(command);
    let status = command.status().with_context(|| format!("Could not run `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// As [`check`], and returns what the program printed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = line(command);
    let output = command.output().with_context(|| format!("Could not run `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` failed: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Cargo, as this chore was run by it, in the root of the workspace.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).env(skipped::VARIABLE, skipped_file());
    if std::env::var_os("CI").is_some_and(|value| value == "true") {
        // What is built there is built once: nothing is kept for the next time, and failures say their lines without tables.
        command.env("CARGO_INCREMENTAL", "0").env("CARGO_PROFILE_DEV_DEBUG", "0");
    }
    command
}

/// Cargo's tests, without what is set for the person who runs them: they see the same here as in CI.
pub(crate) fn cargo_test() -> Command {
    let mut command = cargo();
    command.arg("test");
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_personal(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command
}

/// Whether a variable says how somebody likes `machine`, `docker`, a cloud or a shell to be.
fn is_personal(name: &str) -> bool {
    ["AWS_", "AZURE_", "DOCKER_", "MACHINE_"].iter().any(|prefix| name.starts_with(prefix))
        || ["SHELL", "SSH_AUTH_SOCK"].contains(&name)
}

/// Where tests write what they could not try.
pub(crate) fn skipped_file() -> PathBuf {
    root().join("target/skipped")
}

/// Says that something is not tried here, as tests do.
pub(crate) fn skip(what: &str, why: &str) -> Result<()> {
    say(&format!("SKIPPED {what}: {why}"));
    let file = skipped_file();
    skipped::append(&file, what, why).with_context(|| format!("Could not write to `{}`", file.display()))
}

/// The parts of a chore with the time that each took.
#[derive(Debug, Default)]
pub(crate) struct Times(Vec<(String, Duration)>);

impl Times {
    /// Says what begins, does it, and keeps its time.
    pub(crate) fn part<T>(&mut self, title: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        say(&format!("── {title}"));
        let began = Instant::now();
        let done = work().with_context(|| format!("{title}: failed"))?;
        self.0.push((title.to_owned(), began.elapsed()));
        Ok(done)
    }

    /// Prints all parts and their sum.
    pub(crate) fn print(&self) {
        say("");
        for (title, time) in &self.0 {
            say(&format!("{:>8.1} s  {title}", time.as_secs_f64()));
        }
        let sum: Duration = self.0.iter().map(|(_, time)| *time).sum();
        say(&format!("{:>8.1} s  in all", sum.as_secs_f64()));
    }
}
