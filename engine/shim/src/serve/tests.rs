use std::process::{Command, Stdio};

use super::*;

/// A number may be another's by the time that a signal is sent.
#[test]
fn a_signal_reaches_the_process_and_never_its_number() {
    let folder = tempfile::tempdir().unwrap();
    let config: ShimConfig = serde_json::from_value(serde_json::json!({
        "id": "x", "task": { "Exec": { "container_directory": "/", "init_pid": 0, "process": {}, "seccomp": null } },
        "terminal": false, "console_size": null, "open_stdin": false, "stdin_once": false, "log": null,
        "exit_file": "/", "user": "", "groups": [], "cgroup": "/",
    }))
    .unwrap();
    let sleeper = || Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
    let (mut gone, mut other) = (sleeper(), sleeper());
    let number = |child: &std::process::Child| i32::try_from(child.id()).unwrap();
    let handle = rustix::process::pidfd_open(
        Pid::from_raw(number(&gone)).unwrap(),
        rustix::process::PidfdFlags::empty(),
    )
    .unwrap();
    gone.kill().unwrap();
    gone.wait().unwrap();
    let (_ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut server = Server::new(
        &config,
        UnixListener::bind(folder.path().join("socket")).unwrap(),
        Peer::new(theirs).unwrap(),
        None,
        Box::new(|| Ok(None)),
    )
    .unwrap();
    // As if the number had been given to another process since.
    server.process = Some(Process {
        pid: number(&other),
        handle,
        streams: Streams { stdin: None, terminal: None, stdout: None, stderr: None },
        input: Vec::new(),
        input_ends: false,
        started: true,
    });
    assert!(matches!(server.kill(libc::SIGKILL), Reply::Failed { .. }));
    assert!(other.try_wait().unwrap().is_none());
    other.kill().unwrap();
    other.wait().unwrap();
}
