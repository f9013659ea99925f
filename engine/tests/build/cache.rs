//! What is done again, and what is not.

use serde_json::json;

use crate::{build, engine, steps, write};

/// For each step whether it was found.
fn found(output: &str) -> Vec<bool> {
    let steps = steps(output);
    let starts: Vec<usize> = (0..steps.len()).filter(|&index| steps[index].starts_with("Step ")).collect();
    starts.iter().map(|&start| steps.get(start + 1).is_some_and(|line| line == " ---> Using cache")).collect()
}

#[test]
fn a_change_is_done_again_from_its_step_on() {
    let mut engine = engine(&[
        (
            "Dockerfile",
            "FROM busybox\nARG V=1\nRUN echo first\nCOPY one /\nCOPY sub /sub\nRUN echo $V\nENV A=b\n",
        ),
        ("one", "1"),
        ("sub/two", "2"),
        ("ignored", "x"),
    ]);
    let first = build(&engine, &["-t", "a"]).ok();
    assert_eq!(found(&first), [false; 7]);
    let again = build(&engine, &["-t", "b"]).ok();
    assert_eq!(found(&again), [false, true, true, true, true, true, true]);
    let id = |name: &str| engine.docker(["images", "-q", "--no-trunc", name]).ok();
    assert_eq!(id("a"), id("b"));
    // It outlives the daemon, and times are no change.
    assert_eq!(engine.stop(), Some(0));
    engine.launch();
    write(&engine, "one", "1");
    write(&engine, "ignored", "y");
    assert_eq!(found(&build(&engine, &[]).ok())[1..], [true; 6]);
    write(&engine, "sub/two", "3");
    assert_eq!(found(&build(&engine, &[]).ok())[1..], [true, true, true, false, false, false]);
    let with = |value: &str| found(&build(&engine, &["--build-arg", value]).ok());
    // The declaration is the same; the command that sees it is not.
    assert_eq!(with("V=2")[1..], [true, false, false, false, false, false]);
    assert_eq!(with("V=2")[1..], [true; 6]);
    assert_eq!(found(&build(&engine, &["--no-cache"]).ok()), [false; 7]);
    // Who removes the result loses that step alone.
    engine.docker(["rmi", "-f", "a", "b"]).ok();
    assert_eq!(engine.docker(["run", "--rm", "busybox", "echo", "fine"]).ok(), "fine\n");
}

/// What a command can tell makes it another one.
#[test]
fn mounts_and_networks_count() {
    let engine = engine(&[]);
    let is_found = |mount: &str, more: &[&str]| {
        write(&engine, "Dockerfile", &format!("FROM busybox\nRUN --mount={mount} ip a; mount\n"));
        found(&build(&engine, more).ok())[1]
    };
    let mounts =
        ["type=tmpfs,target=/x,size=1m", "type=tmpfs,target=/x,size=2m", "target=/x", "target=/x,rw"];
    assert_eq!(mounts.map(|mount| is_found(mount, &[])), [false; 4]);
    assert_eq!(mounts.map(|mount| is_found(mount, &[])), [true; 4]);
    let networks: [&[&str]; 2] = [&["--network", "none"], &["--network", "host"]];
    assert_eq!(networks.map(|network| is_found("target=/x", network)), [false; 2]);
    assert_eq!(networks.map(|network| is_found("target=/x", network)), [true; 2]);
    assert!(is_found("target=/x", &["--network", "default"]));
}

#[test]
fn what_is_kept_is_shown_and_pruned() {
    let engine = engine(&[(
        "Dockerfile",
        "FROM busybox AS one\nRUN --mount=type=cache,target=/cache dd if=/dev/zero of=/big bs=1024 count=3000 && \
         dd if=/dev/zero of=/cache/big bs=1024 count=500\nFROM busybox\nCOPY --from=one /big /copied\nENV A=b\n",
    )]);
    build(&engine, &["-t", "result"]).ok();
    let usage = |kind: &str| engine.http("GET", &format!("/system/df?type={kind}"), b"").json();
    let steps = usage("build-cache")["BuildCache"].clone();
    let of = |text: &str| {
        let found = steps
            .as_array()
            .unwrap()
            .iter()
            .find(|step| step["Description"].as_str().unwrap().contains(text));
        found.unwrap_or_else(|| panic!("{text}: {steps}")).clone()
    };
    assert_eq!(
        (of("of=/big")["Size"].clone(), of("of=/big")["Shared"].clone()),
        (json!(3_072_000), json!(false))
    );
    assert_eq!(of("COPY")["Shared"], true);
    assert!(of("caches of")["Size"].as_u64().unwrap() >= 512_000);
    let table = engine.docker(["system", "df"]).ok();
    assert!(table.lines().last().unwrap().starts_with("Build Cache"), "{table}");
    let pruned = engine.docker(["builder", "prune", "-f"]).ok();
    assert!(pruned.contains("3.072MB"), "{pruned}");
    let left = usage("build-cache")["BuildCache"].clone();
    assert!(
        left.as_array()
            .unwrap()
            .iter()
            .all(|step| step["Shared"] == true || step["Type"] == "exec.cachemount"),
        "{left}"
    );
    assert_eq!(engine.docker(["run", "--rm", "result", "stat", "-c", "%s", "/copied"]).ok(), "3072000\n");
    engine.docker(["builder", "prune", "-af"]).ok();
    assert_eq!(usage("build-cache")["BuildCache"], json!([]));
    assert_eq!(engine.docker(["run", "--rm", "result", "stat", "-c", "%s", "/copied"]).ok(), "3072000\n");
    let error = engine.http("POST", "/build/prune?max-used-space=5", b"");
    assert_eq!(error.status, 501, "{}", error.text());
}

#[test]
fn caches_of_commands_are_kept_and_part_of_no_image() {
    let engine = engine(&[(
        "Dockerfile",
        "FROM busybox\nARG N\nRUN --mount=type=cache,id=own,target=/deep/cache --mount=type=tmpfs,target=/scratch \
         echo $N >> /deep/cache/seen; touch /scratch/gone; cat /deep/cache/seen > /result\nCMD [\"sh\", \"-c\", \"cat /result; ls -d /deep /scratch\"]\n",
    )]);
    build(&engine, &["-t", "result", "--build-arg", "N=1"]).ok();
    build(&engine, &["-t", "result", "--build-arg", "N=2"]).ok();
    let output = engine.docker(["run", "--rm", "result"]);
    assert_eq!(output.stdout, "1\n2\n", "{output:?}");
}

/// As images come from elsewhere: without what this engine knows of the steps that made them.
fn only_by_history(engine: &crate::harness::Engine, name: &str) {
    let archive = engine.path("saved.tar");
    engine.docker(["save", "-o", archive.to_str().unwrap(), name]).ok();
    engine.docker(["rmi", "-f", name]).ok();
    engine.docker(["builder", "prune", "-af"]).ok();
    engine.docker(["load", "-i", archive.to_str().unwrap()]).ok();
}

#[test]
fn histories_of_named_images_tell_of_steps() {
    let engine = engine(&[("one", "1"), ("two", "2"), ("three", "3")]);
    let dockerfile = "FROM busybox\nARG V=1\nENV A=b\nCOPY one /\nRUN cat /proc/sys/kernel/random/uuid > /made\nWORKDIR /w\n\
                      COPY --chmod=600 two /\nRUN --mount=type=tmpfs,target=/t true\nCOPY three /\n";
    write(&engine, "Dockerfile", dockerfile);
    build(&engine, &["-t", "source"]).ok();
    let id = |name: &str| engine.docker(["images", "-q", "--no-trunc", name]).ok();
    let source = id("source");
    only_by_history(&engine, "source");
    assert_eq!(id("source"), source);
    let with = |more: &[&str]| {
        found(&build(&engine, &[&["--cache-from", "source", "-t", "result"], more].concat()).ok())
    };
    // A history tells neither of modes nor of mounts, and all that follows is another parent's.
    let until = [false, true, true, true, true, true, false, false, false];
    assert_eq!(with(&[]), until);
    let made = |name: &str| engine.docker(["run", "--rm", name, "cat", "/made"]).ok();
    assert_eq!(made("result"), made("source"));
    // What was found is known from there on.
    assert_eq!(found(&build(&engine, &[]).ok())[1..], [true; 8]);
    // Nothing of it counts where anything is another one.
    only_by_history(&engine, "source");
    assert_eq!(with(&["--build-arg", "V=2"]), [false, true, true, true, false, false, false, false, false]);
    only_by_history(&engine, "source");
    assert_eq!(with(&["--no-cache"]), [false; 9]);
    only_by_history(&engine, "source");
    write(&engine, "one", "other");
    assert_eq!(with(&[])[..5], [false, true, true, false, false]);
    // All of it may be there: then it is that image.
    let plain = "FROM busybox\nCOPY two /\nRUN cat /proc/sys/kernel/random/uuid > /made\n";
    write(&engine, "Dockerfile", plain);
    build(&engine, &["-t", "source"]).ok();
    let source = id("source");
    only_by_history(&engine, "source");
    let cached = build(&engine, &["--cache-from", "none:1", "--cache-from", "source", "-t", "result"]).ok();
    assert!(cached.contains("[Warning] No steps are taken from none:1: No such image: none:1"), "{cached}");
    assert_eq!((found(&cached), id("result")), (vec![false, true, true], source));
}
