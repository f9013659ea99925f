//! Where files come from, and how they look when they are there.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::harness::run;
use crate::{build, engine, result_of, write};

#[test]
fn files_are_copied_as_docker_copies_them() {
    let engine =
        engine(&[("a.txt", "a"), ("b.txt", "b"), ("dir/inner/c", "c"), ("dir/d", "d"), ("Dockerfile", "")]);
    symlink("a.txt", engine.path("context/link")).unwrap();
    symlink("d", engine.path("context/dir/link")).unwrap();
    let dockerfile = "FROM busybox\nRUN mkdir /there && touch /there/kept && ln -s /there /way && echo web:x:77: >> /etc/group && \
                      echo web:x:55:1::/:/bin/sh >> /etc/passwd\nCOPY a.txt /renamed\nCOPY *.txt /many/\nCOPY dir /there\nCOPY dir/ /way/deep/\n\
                      COPY link /linked\nCOPY --chown=web:web --chmod=0750 a.txt /owned\nCOPY --chown=9 dir /numbered\n\
                      WORKDIR /work\nCOPY a.txt .\nCOPY [\"b.txt\", \"sub/\"]\nCOPY --exclude=inner dir /partly/\nCOPY --link a.txt /x/y/z\n\
                      COPY --parents dir/inner/c /parents/\nCOPY . /all\n";
    let look = "cd /; cat renamed many/a.txt many/b.txt there/d there/kept there/inner/c way/deep/inner/c linked; echo; \
                stat -c '%u:%g %a' owned numbered numbered/d; ls work work/sub partly x/y; readlink there/link; \
                cat parents/dir/inner/c; ls all/dir";
    let seen = result_of(&engine, dockerfile, &["sh", "-c", look]);
    let expected = "aabdcca\n55:77 750\n9:9 755\n9:9 644\npartly:\nd\nlink\n\nwork:\na.txt\nsub\n\nwork/sub:\nb.txt\n\nx/y:\nz\nd\n\
                    cd\ninner\nlink\n";
    assert_eq!(seen, expected);
}

#[test]
fn what_is_ignored_is_not_there() {
    let engine = engine(&[
        (".dockerignore", "**/*.md\n!keep/README.md\nsecret\n"),
        ("a.md", "x"),
        ("keep/README.md", "x"),
        ("keep/other.md", "x"),
        ("secret/key", "x"),
        ("file", "x"),
    ]);
    let dockerfile = "FROM busybox\nCOPY . /all\n";
    let list = &["sh", "-c", "cd /all && find . -type f | sort"];
    assert_eq!(
        result_of(&engine, dockerfile, list),
        "./.dockerignore\n./Dockerfile\n./file\n./keep/README.md\n"
    );
    // The client leaves them out; who sends everything all the same gets the same.
    let archive = run(
        Command::new("tar")
            .arg("-C")
            .arg(engine.path("context"))
            .args(["-cf", "-", "."])
            .stdout(std::process::Stdio::piped()),
        b"",
    );
    drop(archive);
    let path = engine.path("context.tar");
    run(Command::new("tar").arg("-C").arg(engine.path("context")).arg("-cf").arg(&path).arg("."), b"").ok();
    let context = fs::read(&path).unwrap();
    let answer = engine.http("POST", "/build?t=result&nocache=1", &context);
    assert!(answer.text().contains("Successfully tagged"), "{}", answer.text());
    let seen = engine.docker(["run", "--rm", "result", "sh", "-c", "cd /all && find . -type f | sort"]).ok();
    assert_eq!(seen, "./.dockerignore\n./Dockerfile\n./file\n./keep/README.md\n");
    // One of the Dockerfile's own counts before it.
    write(&engine, "Dockerfile.dockerignore", "file\n");
    write(&engine, ".dockerignore", "");
    assert!(!result_of(&engine, dockerfile, list).contains("./file\n"));
    write(&engine, "Dockerfile", "FROM busybox\nCOPY file /\n");
    let error = build(&engine, &[]).failed();
    let message = "COPY failed: file not found in build context or excluded by .dockerignore: stat file: file does not exist";
    assert!(error.contains(message), "{error}");
}

#[test]
fn archives_are_unpacked_by_add_alone() {
    let engine = engine(&[("Dockerfile", "")]);
    let tree = engine.path("tree");
    fs::create_dir_all(tree.join("in")).unwrap();
    fs::write(tree.join("in/file"), "content").unwrap();
    for (flag, name) in [("-cf", "plain.tar"), ("-czf", "packed.tar.gz")] {
        let target = engine.path("context").join(name);
        run(
            Command::new("tar")
                .arg("-C")
                .arg(&tree)
                .args(["--owner=5", "--group=6", flag])
                .arg(target)
                .arg("in"),
            b"",
        )
        .ok();
    }
    let dockerfile = "FROM busybox\nADD plain.tar /plain\nADD packed.tar.gz /packed/\nCOPY plain.tar /copied\nADD --unpack=false plain.tar /added\n";
    let look = "cat /plain/in/file /packed/in/file; stat -c ' %u:%g' /packed/in/file; [ -f /copied ] && [ -f /added ] && echo files";
    assert_eq!(result_of(&engine, dockerfile, &["sh", "-c", look]), "contentcontent 5:6\nfiles\n");
}

#[test]
fn here_documents_and_mounts_are_there_for_a_command() {
    let engine = engine(&[("tools/tool.sh", "echo tool"), ("Dockerfile", "")]);
    let dockerfile = "FROM busybox AS tools\nRUN echo staged > /staged\nFROM busybox\nARG NAME=you\nRUN <<EOF\nset -e\necho one > /one\n\
                      echo \"two $NAME\" >> /one\nEOF\nRUN <<-'END'\n\t#!/bin/sh\n\techo \"script $0\" > /script\n\tEND\n\
                      RUN cat <<A - > /both <<B\nfirst\nA\nsecond\nB\nCOPY <<one.conf <<\"two.conf\" /etc/own/\nhello \"$NAME\"\none.conf\nhello $NAME\ntwo.conf\n\
                      RUN --mount=target=/context sh /context/tools/tool.sh > /tool\n\
                      RUN --mount=from=tools,source=/staged,target=/from/stage cat /from/stage > /copied\n\
                      RUN --mount=type=bind,source=tools,target=/t,rw echo changed > /t/tool.sh && cat /t/tool.sh > /changed\n\
                      RUN --mount=type=secret,id=none,target=/run/secrets/x [ ! -e /run/secrets/x ]\n\
                      SHELL [\"/bin/sh\", \"-e\", \"-c\"]\nRUN echo $0 $- > /shell\n";
    let look = "cat /one /script /both /etc/own/one.conf /etc/own/two.conf /tool /copied /changed; ls -d /context /from /t";
    let seen = {
        write(&engine, "Dockerfile", dockerfile);
        build(&engine, &["-q", "-t", "result"]).ok();
        engine.docker(["run", "--rm", "result", "sh", "-c", look]).stdout
    };
    assert_eq!(
        seen,
        "one\ntwo you\nscript /dev/pipes/END\nsecond\nhello \"you\"\nhello $NAME\ntool\nstaged\nchanged\n"
    );
    assert_eq!(fs::read_to_string(engine.path("context/tools/tool.sh")).unwrap(), "echo tool");
    write(&engine, "Dockerfile", "FROM busybox\nRUN --mount=type=secret,id=x,required true\n");
    let error = build(&engine, &[]).failed();
    assert!(error.contains("RUN --mount=type=secret,required"), "{error}");
}

#[test]
fn what_a_command_puts_into_a_volume_stays() {
    let engine = engine(&[]);
    let dockerfile = "FROM busybox\nVOLUME /data\nRUN mkdir /data && echo kept > /data/file\nCMD [\"cat\", \"/data/file\"]\n";
    assert_eq!(result_of(&engine, dockerfile, &[]), "kept\n");
    let volumes = engine.docker(["image", "inspect", "-f", "{{json .Config.Volumes}}", "result"]).ok();
    assert_eq!(volumes, "{\"/data\":{}}\n");
}
