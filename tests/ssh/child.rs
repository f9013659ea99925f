//! Parts of a test that need a process of their own: for its environment, its standard streams or its terminal.
//!
//! The test program is started again to run nothing but the test below, which finds its task in the environment.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use machine::ssh::{HostKeyPolicy, Key, Passphrase, Session, Target, Timeouts};
use machine::terminal;
use serde_json::{Value, json};

use crate::server::wait;

const VARIABLE: &str = "MACHINE_TEST_TASK";
/// Names a file at whose appearance the child panics.
pub(crate) const PANIC: &str = "MACHINE_TEST_PANIC";
/// What the test program itself prints ends here.
pub(crate) const MARKER: &[u8] = b"=== task ===\n";

/// What the child does.
pub(crate) enum Task {
    /// Logs in and says whether that worked.
    Connect { target: Target },
    /// Runs a command on its own standard streams.
    Run { target: Target, command: Option<&'static str>, terminal: bool },
}

impl Task {
    fn encode(&self) -> String {
        let (Self::Connect { target } | Self::Run { target, .. }) = self;
        let HostKeyPolicy::Pinned(lines) = &target.host_key else { panic!("a closure cannot travel") };
        let key = match &target.key {
            Key::File(path) => Some(path),
            Key::Agent => None,
        };
        let run = match self {
            Self::Connect { .. } => Value::Null,
            Self::Run { command, terminal, .. } => json!({ "command": command, "terminal": terminal }),
        };
        json!({
            "host": target.host, "port": target.port, "user": target.user, "lines": lines, "key": key, "run": run,
        })
        .to_string()
    }

    /// The command that does it.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "child::the_child", "--nocapture"]).env(VARIABLE, self.encode());
        command
    }
}

/// Runs the task without any input; its exit code and what it wrote.
pub(crate) fn child(task: &Task, environment: &[(&str, &str)]) -> (i32, String) {
    let mut command = task.command();
    command.envs(environment.iter().copied()).stdin(Stdio::null());
    let output = command.output().unwrap();
    let written = after_marker(&output.stdout);
    (output.status.code().unwrap(), String::from_utf8(written.to_vec()).unwrap())
}

pub(crate) fn after_marker(output: &[u8]) -> &[u8] {
    let start = output.windows(MARKER.len()).position(|window| window == MARKER);
    &output[start.expect("the child has begun") + MARKER.len()..]
}

#[test]
#[allow(clippy::exit)]
fn the_child() {
    let Ok(task) = std::env::var(VARIABLE) else { return };
    let task: Value = serde_json::from_str(&task).unwrap();
    let text = |name: &str| task[name].as_str().unwrap().to_owned();
    let target = Target {
        host: text("host"),
        port: task["port"].as_u64().unwrap().try_into().unwrap(),
        user: text("user"),
        key: task["key"].as_str().map_or(Key::Agent, |path| Key::File(PathBuf::from(path))),
        passphrase: Passphrase::from(|path| {
            terminal::ask_hidden(&format!("Passphrase for `{}`: ", path.display()))
        }),
        host_key: HostKeyPolicy::Pinned(serde_json::from_value(task["lines"].clone()).unwrap()),
    };
    if let Some(file) = std::env::var_os(PANIC) {
        std::thread::spawn(move || {
            while !std::fs::exists(&file).unwrap() {
                std::thread::sleep(Duration::from_millis(20));
            }
            panic!("as ordered");
        });
    }
    std::io::stdout().write_all(MARKER).unwrap();
    std::io::stdout().flush().unwrap();
    let code = wait(async {
        let session = match Session::connect(&target, &Timeouts::default()).await {
            Ok(session) => session,
            Err(error) => {
                std::io::stdout().write_all(error.to_string().as_bytes()).unwrap();
                return 1;
            }
        };
        if task["run"].is_null() {
            std::io::stdout().write_all(b"connected").unwrap();
            return 0;
        }
        let terminal = task["run"]["terminal"].as_bool().unwrap();
        match session.run(task["run"]["command"].as_str(), terminal).await {
            Ok(status) => status.code().into(),
            Err(error) => {
                std::io::stdout().write_all(error.to_string().as_bytes()).unwrap();
                1
            }
        }
    });
    std::process::exit(code);
}
