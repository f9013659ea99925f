//! Contexts and files that the engine fetches for clients of BuildKit.

use crate::repositories::{self, ADDRESS, Repository, Server};
use crate::web::{Fake, Reply};
use crate::{assert_nothing_left, build, engine, write};

#[test]
fn contexts_may_lie_elsewhere() {
    let Some(engine) = engine(&[("Dockerfile", "FROM busybox\nCOPY --from=more file /\n")]) else { return };
    let archive = |dockerfile: &str| {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, content) in [("Dockerfile", dockerfile), ("file", "of the archive\n")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        archive.into_inner().unwrap()
    };
    let context = archive("FROM busybox\nCOPY file /\n");
    let _server = Fake::start(&engine, "127.0.0.1:8000", move |asked| match asked.path.as_str() {
        "/context.tar" => Reply::new(200, context.clone()),
        "/Dockerfile" => Reply::new(200, "FROM busybox\nADD http://127.0.0.1:8000/added /file\n"),
        "/added" => Reply::new(200, "added\n"),
        _ => Reply::new(404, "no"),
    });
    let url = "http://127.0.0.1:8000";
    let file = || engine.docker(["run", "--rm", "result", "cat", "/file"]).ok();
    let of = |more: &[&str], address: &str| {
        let mut arguments = vec!["build", "--progress", "plain", "-t", "result"];
        arguments.extend_from_slice(more);
        arguments.push(address);
        engine.docker(arguments)
    };
    let archive = format!("{url}/context.tar");
    of(&[], &archive).ok();
    assert_eq!(file(), "of the archive\n");
    of(&[], &format!("{url}/Dockerfile")).ok();
    assert_eq!(file(), "added\n");
    // A Dockerfile of one's own for files of others.
    let own = engine.docker_with_input(
        ["build", "-t", "result", "-f", "-", &archive],
        b"FROM busybox\nCOPY file /file\nRUN echo own >> /file\n",
    );
    own.ok();
    assert_eq!(file(), "of the archive\nown\n");
    build(&engine, &["-t", "result", "--build-context", &format!("more={archive}")]).ok();
    assert_eq!(file(), "of the archive\n");
    let error = of(&[], &format!("{url}/none")).failed();
    assert!(
        error.contains("failed to GET http://127.0.0.1:8000/none with status 404 Not Found: no"),
        "{error}"
    );
    if repositories::is_there() {
        let repository = Repository::new(&engine, "app");
        let text = "FROM busybox\nCOPY . /x\nRUN ls -A /x > /file\n";
        repository.commit("sub/Dockerfile", text);
        let commit = repository.commit("Dockerfile", text);
        repository.commit("more", "");
        let _server = Server::start(&engine);
        of(&[], &format!("{ADDRESS}/app#main:sub")).ok();
        assert_eq!(file(), "Dockerfile\n");
        of(&["--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1"], &format!("{ADDRESS}/app#{commit}")).ok();
        assert_eq!(file(), ".git\nDockerfile\nsub\n");
        write(
            &engine,
            "Dockerfile",
            &format!("FROM busybox\nADD {ADDRESS}/app#main /x\nRUN ls -A /x > /file\n"),
        );
        build(&engine, &["-t", "result"]).ok();
        assert_eq!(file(), "Dockerfile\nmore\nsub\n");
        let error = of(&[], &format!("{ADDRESS}/app#-x")).failed();
        assert!(error.contains("`-x` is no branch, tag or commit"), "{error}");
    }
    assert_nothing_left(&engine);
}
