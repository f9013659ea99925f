//! What a client lends to commands: secrets and its SSH agent.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use super::{assert_nothing_left, build, engine, harness, write};

struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn secrets_are_files_and_variables_and_stay_out_of_images() {
    let Some(engine) = engine(&[(
        "Dockerfile",
        "FROM busybox\n\
         RUN --mount=type=secret,id=one cat /run/secrets/one > /seen && stat -c '%a %u' /run/secrets/one >> /seen\n\
         RUN --mount=type=secret,id=one,target=/etc/own,mode=0440,uid=7 stat -c '%a %u' /etc/own >> /seen\n\
         RUN --mount=type=secret,id=two,env=TWO echo \"$TWO\" >> /seen; ls /run/secrets >> /seen || true\n\
         RUN --mount=type=secret,id=none [ ! -e /run/secrets/none ]\n",
    )]) else {
        return;
    };
    let secret = engine.path("secret");
    std::fs::write(&secret, "of the file\n").unwrap();
    let one = format!("id=one,src={}", secret.display());
    let mut command =
        engine.docker_command(["build", "-t", "result", "--secret", &one, "--secret", "id=two,env=OF_ENV"]);
    command.env("OF_ENV", "of the environment").arg(engine.path("context"));
    harness::run(&mut command, b"").ok();
    let seen = engine.docker(["run", "--rm", "result", "cat", "/seen"]).ok();
    assert_eq!(seen, "of the file\n400 0\n440 7\nof the environment\n");
    let history = engine.docker(["history", "--no-trunc", "result"]).ok();
    let inspected = engine.docker(["image", "inspect", "result"]).ok();
    assert!(!history.contains("of the environment") && !inspected.contains("of the environment"));
    let left =
        engine.docker(["run", "--rm", "result", "sh", "-c", "cat /etc/own /run/secrets/* 2>/dev/null"]);
    assert_eq!(left.stdout, "", "what a secret was mounted on is empty");
    write(&engine, "Dockerfile", "FROM busybox\nRUN --mount=type=secret,id=needed,required true\n");
    let error = build(&engine, &[]).failed();
    assert!(error.contains("secret needed: not found"), "{error}");
    assert_nothing_left(&engine);
}

/// The agent answers at the socket, and its socket is gone with the command.
#[test]
fn an_agent_is_reached_by_commands() {
    let Some(engine) = engine(&[(
        "Dockerfile",
        "FROM busybox\nRUN --mount=type=ssh,mode=0666 [ -S \"$SSH_AUTH_SOCK\" ] && echo $SSH_AUTH_SOCK && sleep 1000\n",
    )]) else {
        return;
    };
    let socket = engine.path("agent");
    let agent =
        Command::new("ssh-agent").args(["-D", "-a"]).arg(&socket).stdout(Stdio::null()).spawn().unwrap();
    let _agent = Agent(agent);
    harness::wait_for("the agent", || socket.exists());
    let ssh = format!("default={}", socket.display());
    let mut client = engine.docker_command(["build", "--ssh", &ssh]);
    let mut client = client.arg(engine.path("context")).stderr(Stdio::null()).spawn().unwrap();
    let lent = engine.within(format!("{}/lent", engine.exec_root()));
    let mut found = None;
    harness::wait_for("the command", || {
        let entries = std::fs::read_dir(&lent).unwrap().flatten();
        found = entries.map(|entry| entry.path().join("agent")).find(|path| path.exists());
        found.is_some() && !engine.docker(["ps", "-q"]).ok().is_empty()
    });
    let mut talk = UnixStream::connect(found.unwrap()).unwrap();
    // Which identities are there? None.
    talk.write_all(&[0, 0, 0, 1, 11]).unwrap();
    let mut answer = [0; 9];
    talk.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [0, 0, 0, 5, 12, 0, 0, 0, 0]);
    let container = engine.docker(["ps", "-q"]).ok();
    engine.docker(["kill", container.trim()]).ok();
    assert!(!client.wait().unwrap().success());
    let mut rest = Vec::new();
    talk.read_to_end(&mut rest).unwrap();
    assert_nothing_left(&engine);
    write(&engine, "Dockerfile", "FROM busybox\nRUN --mount=type=ssh,required true\n");
    let error = build(&engine, &[]).failed();
    assert!(error.contains("--ssh default"), "{error}");
}
