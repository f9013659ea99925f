//! Images from Dockerfiles, with the stock client and without its plugin for BuildKit.

#![allow(clippy::unwrap_used)]

use std::fs;

mod context;
mod harness;
mod repositories;
mod web;

#[path = "build/cache.rs"]
mod cache;
#[path = "build/failures.rs"]
mod failures;
#[path = "build/fetched.rs"]
mod fetched;
#[path = "build/files.rs"]
mod files;
#[path = "build/squash.rs"]
mod squash;

use context::write;
use harness::{Engine, Output};

/// An engine with `busybox` and a context of these files.
fn engine(files: &[(&str, &str)]) -> Engine {
    let engine = Engine::start();
    engine.load_busybox();
    for (name, content) in files {
        write(&engine, name, content);
    }
    engine
}

/// Builds the context.
fn build(engine: &Engine, more: &[&str]) -> Output {
    let context = engine.path("context");
    let mut arguments = vec!["build"];
    arguments.extend_from_slice(more);
    arguments.push(context.to_str().unwrap());
    engine.docker(arguments)
}

/// Builds this Dockerfile and runs the result.
fn result_of(engine: &Engine, dockerfile: &str, command: &[&str]) -> String {
    write(engine, "Dockerfile", dockerfile);
    build(engine, &["-q", "-t", "result"]).ok();
    let mut arguments = vec!["run", "--rm", "result"];
    arguments.extend_from_slice(command);
    engine.docker(arguments).ok()
}

/// Without ids and the client's own lines.
fn steps(output: &str) -> Vec<String> {
    let lines = output.lines().map(str::trim_end).skip_while(|line| !line.starts_with("Step"));
    let is_id = |word: &str| word.len() == 12 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let without = |line: &str| {
        line.split(' ').map(|word| if is_id(word) { "ID" } else { word }).collect::<Vec<_>>().join(" ")
    };
    lines.map(without).collect()
}

fn containers(engine: &Engine) -> usize {
    engine.docker(["ps", "-aq"]).ok().lines().count()
}

/// What a build leaves on disk besides images: nothing.
#[track_caller]
fn assert_nothing_left(engine: &Engine) {
    let is_empty = |path: &str| fs::read_dir(engine.data_root().join(path)).unwrap().count() == 0;
    // What is large is removed beside what goes on.
    harness::wait_for("the end of what the build has left", || {
        is_empty("build/tmp") && is_empty("images/tmp")
    });
}

#[test]
fn a_dockerfile_becomes_an_image() {
    let engine = engine(&[
        ("app/main.sh", "echo \"$NAME serves on $PORT\"\n"),
        (
            "Dockerfile",
            "# A comment\nFROM busybox\nLABEL maintainer=\"Me <me@example.test>\" \\\n      version=1\nWORKDIR /app\n\
             COPY app/ /app\nRUN echo built > built && echo said && echo wrong >&2\nEXPOSE 80\nENV NAME=World PORT=80\n\
             HEALTHCHECK --interval=5s CMD true\nSTOPSIGNAL SIGINT\nUSER 7\nCMD [\"sh\", \"main.sh\"]\n",
        ),
    ]);
    let built = build(&engine, &["-t", "friendlyhello", "-t", "team/app:2", "--label", "own=1 $HOME"]).ok();
    assert_eq!(
        steps(&built),
        [
            "Step 1/12 : FROM busybox",
            " ---> ID",
            "Step 2/12 : LABEL maintainer=\"Me <me@example.test>\"       version=1",
            " ---> ID",
            "Step 3/12 : WORKDIR /app",
            " ---> ID",
            "Step 4/12 : COPY app/ /app",
            " ---> ID",
            "Step 5/12 : RUN echo built > built && echo said && echo wrong >&2",
            " ---> Running in ID",
            "said",
            "\u{1b}[91mwrong",
            "\u{1b}[0m ---> Removed intermediate container ID",
            " ---> ID",
            "Step 6/12 : EXPOSE 80",
            " ---> ID",
            "Step 7/12 : ENV NAME=World PORT=80",
            " ---> ID",
            "Step 8/12 : HEALTHCHECK --interval=5s CMD true",
            " ---> ID",
            "Step 9/12 : STOPSIGNAL SIGINT",
            " ---> ID",
            "Step 10/12 : USER 7",
            " ---> ID",
            "Step 11/12 : CMD [\"sh\", \"main.sh\"]",
            " ---> ID",
            "Step 12/12 : LABEL \"own\"=\"1 \\$HOME\"",
            " ---> ID",
            "Successfully built ID",
            "Successfully tagged friendlyhello:latest",
            "Successfully tagged team/app:2",
        ]
    );
    assert_eq!(engine.docker(["run", "--rm", "team/app:2"]).ok(), "World serves on 80\n");
    let look = "stat -c '%u %g %a' main.sh; cat built; id -u; pwd";
    assert_eq!(
        engine.docker(["run", "--rm", "friendlyhello", "sh", "-c", look]).ok(),
        "0 0 644\nbuilt\n7\n/app\n"
    );
    let format = "{{json .Config.Labels}} {{json .Config.ExposedPorts}} {{.Config.StopSignal}} {{json .Config.Healthcheck}} \
                  {{len .RootFS.Layers}}";
    let shown = engine.docker(["image", "inspect", "-f", format, "friendlyhello"]).ok();
    assert_eq!(
        shown,
        "{\"maintainer\":\"Me <me@example.test>\",\"own\":\"1 $HOME\",\"version\":\"1\"} {\"80/tcp\":{}} SIGINT \
         {\"Test\":[\"CMD-SHELL\",\"true\"],\"Interval\":5000000000} 4\n"
    );
    let history =
        engine.docker(["history", "--no-trunc", "--format", "{{.CreatedBy}}", "friendlyhello"]).ok();
    let history: Vec<&str> = history.lines().map(str::trim_end).collect();
    assert_eq!(history[1], "/bin/sh -c #(nop)  CMD [\"sh\" \"main.sh\"]");
    assert_eq!(history[7], "/bin/sh -c echo built > built && echo said && echo wrong >&2");
    assert!(history[8].starts_with("/bin/sh -c #(nop) COPY dir:"), "{history:?}");
    // Only what was asked for is shown, and nothing is left over.
    let shown = engine.docker(["images", "--format", "{{.Repository}}"]).ok();
    let mut shown: Vec<&str> = shown.lines().collect();
    shown.sort_unstable();
    assert_eq!(shown, ["busybox", "friendlyhello", "team/app"]);
    assert!(engine.docker(["images", "-aq"]).ok().lines().count() > 8);
    assert_eq!(containers(&engine), 0);
    assert_nothing_left(&engine);
}

#[test]
fn only_needed_stages_are_built_and_take_from_each_other() {
    let engine = engine(&[(
        "Dockerfile",
        "ARG BASE=nothing\nFROM ${BASE} AS base\nRUN echo base > /base\nFROM busybox AS unneeded\nRUN exit 3\n\
         FROM base AS one\nRUN echo one > /one\nFROM busybox AS two\nRUN echo two > /two\n\
         FROM scratch AS last\nCOPY --from=one /base /one /\nCOPY --from=3 /two /\nCOPY --from=busybox /bin /bin\n\
         CMD [\"cat\", \"/base\", \"/one\", \"/two\"]\n",
    )]);
    let built = build(&engine, &["-t", "result", "--build-arg", "BASE=busybox"]).ok();
    let built = steps(&built);
    let titles: Vec<&str> =
        built.iter().filter_map(|line| line.strip_prefix("Step ")?.split(" : ").nth(1)).collect();
    // In the order of the Dockerfile, though they are built side by side.
    assert_eq!(
        titles,
        [
            "ARG BASE=nothing",
            "FROM ${BASE} AS base",
            "RUN echo base > /base",
            "FROM base AS one",
            "RUN echo one > /one",
            "FROM busybox AS two",
            "RUN echo two > /two",
            "FROM scratch AS last",
            "COPY --from=one /base /one /",
            "COPY --from=3 /two /",
            "COPY --from=busybox /bin /bin",
            "CMD [\"cat\", \"/base\", \"/one\", \"/two\"]",
        ]
    );
    assert_eq!(engine.docker(["run", "--rm", "result"]).ok(), "base\none\ntwo\n");
    let target = build(&engine, &["--target", "ONE", "--build-arg", "BASE=busybox"]).ok();
    assert_eq!(steps(&target).iter().filter(|line| line.starts_with("Step")).count(), 5);
    let error = build(&engine, &["--target", "three"]).failed();
    assert!(error.contains("failed to reach build target three in Dockerfile"), "{error}");
    assert_nothing_left(&engine);
}

/// A stage that nothing but a trigger names is built, and one that is found out too late is no reason to wait for ever.
#[test]
fn triggers_name_stages() {
    let engine = engine(&[(
        "Dockerfile",
        "FROM busybox AS b\nRUN echo of b > /b\nFROM busybox AS a\nONBUILD COPY --from=b /b /copied\nFROM a\n",
    )]);
    build(&engine, &["-t", "result"]).ok();
    assert_eq!(engine.docker(["run", "--rm", "result", "cat", "/copied"]).ok(), "of b\n");
    build(&engine, &["-t", "triggering", "--target", "a"]).ok();
    write(&engine, "Dockerfile", "FROM busybox AS b\nRUN echo of b > /b\nFROM triggering\n");
    build(&engine, &["-t", "result"]).ok();
    assert_eq!(engine.docker(["run", "--rm", "result", "cat", "/copied"]).ok(), "of b\n");
    write(
        &engine,
        "Dockerfile",
        "FROM busybox AS b\nFROM busybox\nARG S=b\nRUN --mount=from=$S,target=/x true\n",
    );
    let error = build(&engine, &[]).failed();
    assert!(error.contains("line 4: 'from' doesn't support variable expansion"), "{error}");
    assert_nothing_left(&engine);
}

#[test]
fn parameters_of_builds_are_followed() {
    let engine = engine(&[("other/File", "FROM busybox\nRUN sleep 1000\n")]);
    let context = engine.path("context");
    let mut client = engine
        .docker_command(["build", "-f", context.join("other/File").to_str().unwrap()])
        .args(["--memory", "64m", "--memory-swap", "96m", "--cpu-shares", "77", "--cpuset-cpus", "0"])
        .args(["--cpu-period", "50000", "--cpu-quota", "20000", "--network", "none", "--rm=false"])
        .args(["--cache-from", "elsewhere:1", context.to_str().unwrap()])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut id = String::new();
    harness::wait_for("the command", || {
        id = engine.docker(["ps", "-q"]).ok();
        !id.is_empty()
    });
    let format = "{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.CpuShares}} {{.HostConfig.CpusetCpus}} \
                  {{.HostConfig.CpuPeriod}} {{.HostConfig.CpuQuota}} {{.HostConfig.NetworkMode}}";
    let shown = engine.docker(["inspect", "-f", format, id.trim()]).ok();
    assert_eq!(shown, "67108864 100663296 77 0 50000 20000 none\n");
    engine.docker(["kill", id.trim()]).ok();
    assert!(!client.wait().unwrap().success());
    let mut said = String::new();
    std::io::Read::read_to_string(client.stdout.as_mut().unwrap(), &mut said).unwrap();
    assert!(
        said.contains("[Warning] No steps are taken from elsewhere:1: No such image: elsewhere:1"),
        "{said}"
    );
    assert_eq!(containers(&engine), 1);
    engine.docker(["rm", "-f", id.trim()]).ok();
    write(
        &engine,
        "Dockerfile",
        "FROM busybox\nRUN dd if=/dev/zero of=/one bs=1000 count=1000\nRUN dd if=/dev/zero of=/two bs=1000 count=2000\nENV A=b\n",
    );
    build(&engine, &["-t", "kept", "--rm=false"]).ok();
    assert_eq!(containers(&engine), 2, "nobody wanted them removed");
    let ids = engine.docker(["ps", "-aq"]).ok();
    for id in ids.lines() {
        engine.docker(["rm", id]).ok();
    }
    let error = build(&engine, &["--pull"]).failed();
    assert!(error.contains("Could not reach"), "{error}");
    // Of what nothing shown is made of, the last used may stay.
    engine.docker(["rmi", "kept"]).ok();
    let prune = |query: &str| engine.http("POST", &format!("/build/prune?{query}"), b"").json();
    assert_eq!(prune("filters=%7B%22until%22:[%221h%22]%7D")["CachesDeleted"], serde_json::Value::Null);
    assert_eq!(prune("reserved-space=3500000")["CachesDeleted"], serde_json::Value::Null);
    assert_eq!(prune("reserved-space=2500000")["SpaceReclaimed"], 2_000_000);
    assert_eq!(prune("all=1")["SpaceReclaimed"], 1_000_000);
}

/// Two stages that wait for each other's sign can only end if they run at the same time.
#[test]
fn independent_stages_run_side_by_side() {
    let engine = engine(&[(
        "Dockerfile",
        "FROM busybox AS one\nRUN --mount=type=cache,target=/signs touch /signs/one; until [ -e /signs/two ]; do sleep 0.1; done\n\
         FROM busybox AS two\nRUN --mount=type=cache,target=/signs touch /signs/two; until [ -e /signs/one ]; do sleep 0.1; done; \
         seq 1 3000\nFROM busybox\nCOPY --from=one /etc /one\nCOPY --from=two /etc /two\n",
    )]);
    let built = steps(&build(&engine, &[]).ok());
    assert_eq!(built.last().unwrap(), "Successfully built ID");
    let lines = |text: &str| built.iter().position(|line| line == text).unwrap();
    assert!(lines("3000") < lines("Step 5/7 : FROM busybox"));
}

#[test]
fn arguments_environment_and_limits_reach_commands() {
    let engine = engine(&[]);
    write(
        &engine,
        "Dockerfile",
        "ARG VERSION=1\nARG TARGETARCH\nFROM busybox\nARG VERSION\nARG OTHER=${VERSION}b\nENV KEPT=${OTHER:-none}${MISSING:+x}\n\
         RUN echo \"$VERSION $OTHER $KEPT $http_proxy $TARGETARCH.\" > /seen; cat /proc/sys/kernel/hostname > /dev/null; \
         grep fixed.test /etc/hosts | cut -f1 >> /seen; df -k /dev/shm | tail -1 | awk '{print $2}' >> /seen\n\
         ONBUILD RUN echo triggered >> /seen\nCMD [\"cat\", \"/seen\"]\n",
    );
    let built = build(
        &engine,
        &[
            "-t",
            "base",
            "--build-arg",
            "VERSION=2",
            "--build-arg",
            "http_proxy=http://p",
            "--build-arg",
            "NOBODY=1",
            "--add-host",
            "fixed.test:10.1.2.3",
            "--shm-size",
            "8m",
            "--memory",
            "100m",
            "--network",
            "none",
        ],
    );
    let built = built.ok();
    assert!(built.contains("[Warning] One or more build-args [NOBODY] were not consumed"), "{built}");
    assert_eq!(engine.docker(["run", "--rm", "base"]).ok(), "2 2b 2b http://p .\n10.1.2.3\n8192\n");
    let history = engine.docker(["history", "--no-trunc", "--format", "{{.CreatedBy}}", "base"]).ok();
    assert!(
        history.contains("|2 OTHER=2b VERSION=2 /bin/sh -c echo") && !history.contains("http://p"),
        "{history}"
    );
    write(&engine, "Dockerfile", "FROM base\nENV A=b\n");
    let built = build(&engine, &["-t", "child"]).ok();
    assert!(built.contains("# Executing 1 build trigger\n"), "{built}");
    assert!(engine.docker(["run", "--rm", "child"]).ok().ends_with("8192\ntriggered\n"));
    assert_eq!(engine.docker(["image", "inspect", "-f", "{{.Config.OnBuild}}", "child"]).ok(), "[]\n");
}
