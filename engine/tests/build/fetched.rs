//! What is fetched: `ADD` of files and repositories, and contexts that lie elsewhere.

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::harness::{Answer, Engine, wait_for};
use crate::repositories::{self, ADDRESS, Repository, Server};
use crate::web::{Fake, Reply};
use crate::{assert_nothing_left, build, engine, steps, write};

const MODIFIED: &str = "Wed, 21 Oct 2015 07:28:00 GMT";

/// A packed archive of one file.
fn archive(name: &str, content: &str) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, name, content.as_bytes()).unwrap();
    archive.into_inner().unwrap()
}

fn built(engine: &Engine, dockerfile: &str) -> String {
    write(engine, "Dockerfile", dockerfile);
    build(engine, &["-t", "result"]).ok()
}

fn looked(engine: &Engine, command: &str) -> String {
    engine.docker(["run", "--rm", "result", "sh", "-c", command]).ok()
}

#[track_caller]
fn refused(engine: &Engine, dockerfile: &str, message: &str) {
    write(engine, "Dockerfile", dockerfile);
    let output = build(engine, &[]);
    assert!(output.code == Some(1) && output.stderr.contains(message), "{dockerfile}: {output:?}");
}

#[test]
fn files_of_servers_are_added_and_asked_for_again() {
    let engine = engine(&[("own", "of the context")]);
    let content = Arc::new(Mutex::new("first"));
    let shown = Arc::clone(&content);
    let server = Fake::start(&engine, "127.0.0.1:8000", move |asked| {
        let content = *shown.lock().unwrap();
        match asked.path.as_str() {
            "/file?signed=1" | "/tagged" => {
                let tag = format!("\"{content}\"");
                if asked.headers.get("if-none-match") == Some(&tag) {
                    return Reply::new(304, "");
                }
                Reply::new(200, content).with("ETag", tag).with("Last-Modified", MODIFIED)
            }
            "/a.tar" => Reply::new(200, archive("inner", "of the archive")),
            "/moved/" => Reply::new(302, "").with("Location", "/named/"),
            "/named/" => Reply::new(200, "x").with("Content-Disposition", "attachment; filename=\"given\""),
            _ => Reply::new(404, "there is no such thing"),
        }
    });
    let url = "http://127.0.0.1:8000";
    built(
        &engine,
        &format!(
            "FROM busybox\nARG S={url}\nADD $S/file?signed=1 /file\nADD {url}/a.tar own {url}/moved/ /d/\n\
             ADD --chown=7:8 --chmod=640 {url}/file?signed=1 /e/\nADD --unpack=true {url}/a.tar /u/\n"
        ),
    );
    let look = "stat -c '%u:%g %a %Y %n' /file /d/* /e/*; cat /file /d/own /u/inner";
    let epoch = 1_445_412_480;
    let shown = looked(&engine, look);
    let own = fs::metadata(engine.path("context/own")).unwrap().modified().unwrap();
    let own = own.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(
        shown,
        format!(
            "0:0 600 {epoch} /file\n0:0 600 0 /d/a.tar\n0:0 600 0 /d/given\n0:0 644 {own} /d/own\n7:8 640 {epoch} /e/file\n\
             firstof the contextof the archive"
        )
    );
    // What has not changed is not sent again, and what is the same is not done again.
    let dockerfile = format!("FROM busybox\nADD {url}/tagged /\nRUN cat /tagged\n");
    let is_found = || {
        let said = steps(&built(&engine, &dockerfile));
        said.iter().filter(|line| *line == " ---> Using cache").count()
    };
    assert_eq!((is_found(), is_found()), (0, 2));
    let asked = server.asked.lock().unwrap().clone();
    assert_eq!(asked.last().unwrap().headers["if-none-match"], "\"first\"");
    *content.lock().unwrap() = "second";
    assert_eq!((is_found(), is_found()), (0, 2));
    assert_eq!(looked(&engine, "cat /tagged"), "second");
    // Its server says it is the same, and the step has gone.
    engine.docker(["rmi", "-f", "result"]).ok();
    engine.docker(["builder", "prune", "-af"]).ok();
    assert_eq!(is_found(), 0);
    assert_eq!(looked(&engine, "cat /tagged"), "second");
    let digest = format!("sha256:{:x}", Sha256::digest("second"));
    built(&engine, &format!("FROM busybox\nARG D={digest}\nADD --checksum=$D {url}/tagged /\n"));
    let before = server.asked.lock().unwrap().len();
    built(&engine, &format!("FROM busybox\nARG D={digest}\nADD --checksum=${{D}} {url}/tagged /\n"));
    assert_eq!(server.asked.lock().unwrap().len(), before, "what it has to be is here");
    *content.lock().unwrap() = "third";
    refused(
        &engine,
        &format!("FROM busybox\nRUN true\nADD --checksum={digest} {url}/tagged /\n"),
        &format!("ADD failed: digest mismatch sha256:{:x}: {digest}", Sha256::digest("third")),
    );
    for (add, message) in [
        (
            format!("ADD {url}/none /"),
            "ADD failed: failed to GET http://127.0.0.1:8000/none with status 404 Not Found: there is no",
        ),
        (format!("ADD {url}/ /d/"), "with status 404"),
        ("ADD http://127.0.0.1:1/x /".to_owned(), "ADD failed: Could not reach http://127.0.0.1:1/x"),
        (format!("ADD {url}/tagged own /x"), "the destination must be a directory and end with a /"),
        (format!("ADD --checksum=md5:1 {url}/tagged /"), "invalid checksum digest format: md5:1"),
        (format!("ADD --checksum={digest} own /"), "checksum can't be specified for non-HTTP(S) sources"),
        (
            format!("ADD --checksum={digest} {url}/tagged own /"),
            "checksum can't be specified for multiple sources",
        ),
        (format!("ADD --keep-git-dir {url}/tagged /"), "keep-git-dir can't be specified for"),
        (format!("COPY {url}/tagged /"), "COPY failed: file not found in build context"),
    ] {
        refused(&engine, &format!("FROM busybox\n{add}\n"), message);
    }
    assert_nothing_left(&engine);
}

#[test]
fn servers_may_be_hostile_and_clients_may_go() {
    let engine = engine(&[]);
    let _server = Fake::start(&engine, "127.0.0.1:8000", |asked| match asked.path.as_str() {
        "/circle" => Reply::new(302, "").with("Location", "/circle"),
        "/away" => Reply::new(302, "").with("Location", "file:///etc/passwd"),
        "/cut" => Reply { cut: Some(1000), ..Reply::new(200, vec![0; 5000]) },
        "/large" => Reply { endless: true, ..Reply::new(200, "x") }.with("Content-Length", "99999999999999"),
        "/endless" => {
            Reply { endless: true, pace: Duration::from_millis(1), ..Reply::new(200, vec![0; 1000]) }
        }
        _ => Reply::new(200, "x"),
    });
    let url = "http://127.0.0.1:8000";
    for (source, message) in [
        ("circle", "redirects too often"),
        ("away", "ADD failed: failed to GET http://127.0.0.1:8000/away with status 302 Found"),
        ("cut", "/cut broke off after 1000 of 5000 bytes"),
        ("large", "ADD failed: the file `large` has more than"),
        ("%2e%2e", "ADD failed: cannot determine filename for source"),
    ] {
        refused(&engine, &format!("FROM busybox\nADD {url}/{source} /d/\n"), message);
        if source != "%2e%2e" {
            let answer = remote(&engine, &format!("{url}/{source}"), "");
            let message = message.trim_start_matches("ADD failed: ");
            assert!(answer.text().contains(message), "{source}: {}", answer.text());
        }
    }
    write(&engine, "Dockerfile", &format!("FROM busybox\nADD {url}/endless /d/\n"));
    let path = engine.path("context");
    let mut client = engine.docker_command(["build", path.to_str().unwrap()]).spawn().unwrap();
    let temporary = engine.data_root().join("build/tmp");
    let has_content = || {
        let builds = fs::read_dir(&temporary).unwrap().flatten();
        let folders = builds.filter_map(|build| fs::read_dir(build.path()).ok()).flatten().flatten();
        folders.map(|folder| folder.path().join("content")).any(|path| path.exists())
    };
    wait_for("the first bytes", has_content);
    client.kill().unwrap();
    client.wait().unwrap();
    wait_for("the end of the build", || fs::read_dir(&temporary).unwrap().count() == 0);
}

#[test]
fn repositories_are_added_by_commit() {
    if !repositories::is_there() {
        return;
    }
    let engine = engine(&[("own", "x")]);
    let (inner, repository) = (Repository::new(&engine, "inner"), Repository::new(&engine, "app.git"));
    inner.commit("of", "a submodule");
    repository.commit("sub/dir/file", "tagged");
    repository.git(&["tag", "-a", "-m", "x", "v1"]);
    std::os::unix::fs::symlink("/etc", repository.path("out")).unwrap();
    std::os::unix::fs::symlink("sub/../sub/dir", repository.path("in")).unwrap();
    let first = repository.commit("sub/dir/file", "of main");
    let _server = Server::start(&engine);
    let url = format!("{ADDRESS}/app.git");
    built(
        &engine,
        &format!(
            "FROM busybox\nADD {url} /main\nADD {url}#v1:sub /tag/\nADD --keep-git-dir=true {url}#{first} /kept\n\
             ADD --exclude=*/file --chown=7:8 {url}#main:/sub/../sub /part\nADD --checksum={first} {url}#{}:in /in/\nADD own /in/\n",
            &first[..9]
        ),
    );
    let look = "cd /; cat main/sub/dir/file tag/dir/file kept/sub/dir/file in/file in/own; ls -A main kept part part/dir; \
                cat kept/.git/HEAD; stat -c '%u:%g' part/dir";
    assert_eq!(
        looked(&engine, look),
        format!(
            "of maintaggedof mainof mainxkept:\n.git\nin\nout\nsub\n\nmain:\nin\nout\nsub\n\npart:\ndir\n\npart/dir:\n{first}\n7:8\n"
        )
    );
    let dockerfile = format!("FROM busybox\nADD {url} /main\n");
    let is_found = || steps(&built(&engine, &dockerfile)).contains(&" ---> Using cache".to_owned());
    assert!(is_found(), "nothing has changed");
    repository.git(&[
        "-c",
        "protocol.file.allow=always",
        "submodule",
        "add",
        "-q",
        "../inner",
        "modules/one",
    ]);
    repository.git(&["config", "-f", ".gitmodules", "submodule.modules/one.url", "../inner"]);
    repository.commit_all();
    assert!(!is_found(), "there is a commit more");
    assert_eq!(looked(&engine, "cd /main; cat modules/one/of; ls -A modules/one"), "a submoduleof\n");
    for (source, message) in [
        (
            "#none",
            "ADD failed: failed to fetch git://127.0.0.1:9418/app.git: repository does not contain ref none",
        ),
        ("#--upload-pack=touch${IFS}/tmp/x", "is no branch, tag or commit"),
        ("#-x:sub", "`-x` is no branch, tag or commit"),
        ("#main:none", "ADD failed: the folder `none` of"),
        ("#main:out", "ADD failed: the folder `out` of"),
        ("#main:in/file", "ADD failed: the folder `in/file` of"),
    ] {
        refused(&engine, &format!("FROM busybox\nADD {url}{source} /x\n"), message);
    }
    refused(
        &engine,
        "FROM busybox\nADD git://127.0.0.1:1/x /x\n",
        "ADD failed: failed to fetch git://127.0.0.1:1/x: fatal: unable to connect",
    );
    refused(
        &engine,
        "FROM busybox\nADD git@127.0.0.1:x /x\n",
        "ADD failed: failed to fetch git@127.0.0.1:x: ",
    );
    // What climbs comes no higher than the repository.
    built(&engine, &format!("FROM busybox\nADD {url}#main:../../../sub /x\n"));
    assert_eq!(looked(&engine, "cat /x/dir/file"), "of main");
    assert_nothing_left(&engine);
    let hide = "IFS=:; for folder in $PATH; do [ ! -e $folder/git ] || mount --bind /dev/null $folder/git || exit; done";
    engine.inside("sh", ["-c", hide]).ok();
    refused(
        &engine,
        &format!("FROM busybox\nADD {url} /x\n"),
        "there is no program `git` on the engine's host",
    );
}

/// By http, where there is nothing but files.
#[test]
fn repositories_of_files_are_added() {
    if !repositories::is_there() {
        return;
    }
    let engine = engine(&[]);
    let repository = Repository::new(&engine, "app");
    let commit = repository.commit("file", "content");
    repository.git(&["update-server-info"]);
    let files = repository.path(".git");
    let _server = Fake::start(&engine, "127.0.0.1:8000", move |asked| {
        let path =
            asked.path.split('?').next().unwrap().strip_prefix("/app.git/").map(|path| files.join(path));
        path.and_then(|path| fs::read(path).ok())
            .map_or_else(|| Reply::new(404, ""), |body| Reply::new(200, body))
    });
    for reference in ["main", commit.as_str()] {
        built(
            &engine,
            &format!(
                "FROM busybox\nADD --keep-git-dir http://me:word@127.0.0.1:8000/app.git#{reference} /x\n"
            ),
        );
        assert_eq!(looked(&engine, "cat /x/file; grep -r word /x || true"), "content");
    }
    let history = engine.docker(["history", "--no-trunc", "result"]).ok();
    assert!(!history.contains("word"), "{history}");
    assert_nothing_left(&engine);
}

fn remote(engine: &Engine, address: &str, more: &str) -> Answer {
    let address = address.replace('#', "%23").replace('?', "%3f");
    engine.http("POST", &format!("/build?remote={address}&t=result{more}"), b"")
}

#[test]
fn contexts_may_lie_elsewhere() {
    let engine = engine(&[]);
    let dockerfile = "FROM busybox\nCOPY file /\n";
    let mut context = tar::Builder::new(Vec::new());
    for (name, content) in [("Dockerfile", dockerfile), ("file", "of the archive")] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        context.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    let context = context.into_inner().unwrap();
    let _server = Fake::start(&engine, "127.0.0.1:8000", move |asked| match asked.path.as_str() {
        "/context.tar" => Reply::new(200, context.clone()),
        "/Dockerfile" => Reply::new(200, "FROM busybox\nRUN echo alone > /file\n"),
        "/picture" => Reply::new(200, vec![0xff, 0xd8, 0]),
        _ => Reply::new(404, ""),
    });
    let url = "http://127.0.0.1:8000";
    let file = || looked(&engine, "cat /file");
    let answer = remote(&engine, &format!("{url}/context.tar"), "");
    assert!(answer.text().contains("Successfully tagged result:latest"), "{}", answer.text());
    assert_eq!(file(), "of the archive");
    remote(&engine, &format!("{url}/Dockerfile"), "&dockerfile=other");
    assert_eq!(file(), "alone\n");
    // The stock client fetches files itself.
    let error = engine.docker(["build", &format!("{url}/context.tar")]).failed();
    assert!(error.contains("connection refused"), "{error}");
    for (address, message) in [
        (format!("{url}/none"), "failed to GET http://127.0.0.1:8000/none with status 404 Not Found"),
        (format!("{url}/picture"), "neither an archive nor a Dockerfile"),
        ("somewhere".to_owned(), "remoteURL (somewhere) could not be recognized as URL"),
        ("client-session".to_owned(), "could not be recognized as URL"),
        ("git://127.0.0.1/x#-y".to_owned(), "`-y` is no branch, tag or commit"),
    ] {
        let answer = remote(&engine, &address, "");
        assert!(answer.text().contains(message), "{address}: {}", answer.text());
    }
    if repositories::is_there() {
        let repository = Repository::new(&engine, "app");
        repository.commit("sub/Dockerfile", "FROM busybox\nCOPY . /x\nRUN ls -A /x > /file\n");
        let commit = repository.commit("sub/.dockerignore", "ignored\n");
        repository.commit("sub/ignored", "x");
        let _server = Server::start(&engine);
        let answer = remote(&engine, &format!("{ADDRESS}/app#main:sub"), "");
        assert!(answer.text().contains("Successfully built"), "{}", answer.text());
        assert_eq!(file(), ".dockerignore\nDockerfile\n");
        let answer = remote(&engine, &format!("{ADDRESS}/app#{commit}:none"), "");
        assert!(
            answer.text().contains("error setting git context, not a directory: none"),
            "{}",
            answer.text()
        );
        let answer = remote(&engine, &format!("{ADDRESS}/app"), "&dockerfile=sub/Dockerfile");
        assert!(answer.text().contains("Successfully built"), "{}", answer.text());
        assert_eq!(file(), "sub\n");
    }
    assert_nothing_left(&engine);
}
