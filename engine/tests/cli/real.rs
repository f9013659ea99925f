//! Against a real daemon.

use crate::harness::{Engine, Output, run};
use crate::{ours, split};

fn ours_against(engine: &Engine, arguments: &[&str]) -> Output {
    run(&mut ours(&format!("unix://{}", engine.socket().display()), arguments), b"")
}

#[test]
fn both_clients_show_a_real_daemon_alike() {
    let engine = Engine::start();
    engine.load_busybox();
    let script = "echo out; echo err >&2; exec sleep 1000";
    let made = ours_against(
        &engine,
        &["run", "-d", "--name", "web", "-l", "a=b", "-p", "127.0.0.1::80", "busybox", "sh", "-c", script],
    );
    assert_eq!(made.ok().trim().len(), 64);
    engine.docker(["create", "--name", "other", "-m", "64m", "busybox", "true"]).ok();
    for line in [
        "ps -a --no-trunc --format '{{.ID}} {{.Image}} {{.Command}} {{.Ports}} {{.Names}} {{.State}} {{.Labels}} {{.Networks}}'",
        "ps -a --format 'table {{.ID}}\\t{{.Image}}\\t{{.Names}}\\t{{.Label \"a\"}}'",
        "ps -aq",
        "ps -q -f name=web",
        "ps -q -f status=exited",
        "ps -lq",
        "images --no-trunc",
        "images -q",
        "images --format '{{.Repository}}:{{.Tag}} {{.ID}} {{.Size}}'",
        "inspect web",
        "inspect busybox",
        "inspect -f '{{.Id}} {{.State.Status}} {{.HostConfig.Memory}} {{.Config.Hostname}} {{.RestartCount}}' web other",
        "inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.Gateway}}{{end}}' web",
        "inspect -f '{{json .Config.Labels}} {{index .Config.Labels \"a\"}}' web",
        "inspect -f '{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}' web",
        "port web",
        "port web 80",
        "logs web",
        "logs --tail 1 web",
        "history busybox",
        "network ls",
        "network inspect bridge",
        "version -f '{{.Server.Version}} {{.Server.APIVersion}} {{.Server.MinAPIVersion}} {{.Server.Os}} {{.Server.Arch}}'",
        "info -f '{{.Containers}} {{.ContainersRunning}} {{.Images}} {{.Driver}} {{.ServerVersion}}'",
        "inspect nope",
        "logs nope",
        "start nope",
        "rm nope",
        "rmi nope",
        "stop nope",
        "exec nope true",
        "exec other true",
        "attach other",
        "network inspect nope",
        "run --name web busybox",
        "run busybox nope",
        "run busybox /etc/passwd",
        "run --rm busybox sh -c 'exit 42'",
        "run --rm busybox sh -c 'kill -9 $$'",
        "run --rm busybox echo hello",
        "exec web sh -c 'echo here; exit 3'",
        "exec web nope",
        "swarm init",
        "swarm join-token worker",
        "image inspect nope",
        "container inspect nope",
        "history nope",
        "save nope",
        "kill other",
        "kill -s FOO web",
        "rm web",
        "top web -o pid",
        "update -m 100m other",
        "run --rm -w /tmp -e A=1 -u 5:6 busybox sh -c 'pwd; echo $A; id -u; id -g'",
        "run --rm --network nope busybox true",
        "run --rm -p 99999:1 busybox true",
        "images --filter dangling=true",
        "ps --filter foo=bar",
        "network ls -q",
        "info -f '{{.OSType}}'",
    ] {
        let words = split(line);
        let theirs = engine.docker(&words);
        let mine = ours_against(&engine, &words);
        // Each `run` that fails to start makes a container with a new identifier; the texts have none.
        assert_eq!(
            (mine.code, &mine.stdout, &mine.stderr),
            (theirs.code, &theirs.stdout, &theirs.stderr),
            "{line}"
        );
    }
    for (line, printed) in [
        ("tag busybox again:1", ""),
        ("rmi again:1", "Untagged: again:1\n"),
        ("rename other third", ""),
        ("rename third other", ""),
        ("pause web", "web\n"),
        ("unpause web", "web\n"),
        ("restart -t 0 web", "web\n"),
        ("kill web", "web\n"),
        ("wait web", "137\n"),
        ("start web", "web\n"),
        ("stop -t 0 web", "web\n"),
    ] {
        assert_eq!(ours_against(&engine, &split(line)).ok(), printed, "{line}");
    }
    let removed = ours_against(&engine, &["rm", "-f", "web", "other"]).ok();
    assert_eq!(removed, "web\nother\n");
}

#[test]
fn input_flows_through_a_real_container() {
    let engine = Engine::start();
    engine.load_busybox();
    let host = format!("unix://{}", engine.socket().display());
    let input = vec![b'x'; 5_000_000];
    let output = run(&mut ours(&host, &["run", "--rm", "-i", "busybox", "wc", "-c"]), &input).ok();
    assert_eq!(output.trim(), "5000000");
    engine.docker(["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).ok();
    let output = run(&mut ours(&host, &["exec", "-i", "box", "wc", "-c"]), &input).ok();
    assert_eq!(output.trim(), "5000000");
    let output = run(&mut ours(&host, &["run", "--rm", "-i", "busybox", "cat"]), &input);
    assert_eq!(output.stdout.len(), input.len());
}

#[test]
fn containers_and_archives_become_images() {
    let engine = Engine::start();
    engine.load_busybox();
    let host = format!("unix://{}", engine.socket().display());
    let ours = |arguments: &[&str], input: &[u8]| run(&mut ours(&host, arguments), input);
    engine.docker(["run", "--name", "work", "busybox", "sh", "-c", "echo hello > /new"]).ok();
    let words =
        ["commit", "-a", "Me", "-m", "note", "-c", "CMD [\"cat\", \"/new\"]", "--pause=false", "work", "own"];
    let id = ours(&words, b"").ok();
    let format = "{{.Id}} {{.Author}} {{.Comment}}";
    let shown = engine.docker(["image", "inspect", "-f", format, "own:latest"]).ok();
    assert_eq!(shown, format!("{} Me note\n", id.trim()));
    assert_eq!(engine.docker(["run", "--rm", "own"]).ok(), "hello\n");
    let archive = engine.path("root.tar");
    let path = archive.to_str().unwrap();
    ours(&["export", "-o", path, "work"], b"").ok();
    for (number, (source, input)) in
        [(path, Vec::new()), ("-", std::fs::read(&archive).unwrap())].into_iter().enumerate()
    {
        let name = format!("imported:{number}");
        let words = ["import", "-c", "ENTRYPOINT [\"cat\"]", "-m", "from a file", source, &name];
        let said = ours(&words, &input).ok();
        let shown = engine.docker(["image", "inspect", "-f", "{{.Id}} {{.Comment}}", &name]).ok();
        assert_eq!(shown, format!("{} from a file\n", said.trim()));
        assert_eq!(engine.docker(["run", "--rm", &name, "/new"]).ok(), "hello\n");
    }
    for (words, message) in [
        (&["commit", "nope"][..], "No such container: nope"),
        (&["export", "nope"], "No such container: nope"),
        (&["import", "https://example.test/x"], "fromSrc=https://example.test/x"),
        (&["import", "/nowhere/at/all"], "/nowhere/at/all"),
    ] {
        let error = ours(words, b"").failed();
        assert!(error.contains(message), "{words:?}: {error}");
    }
}
