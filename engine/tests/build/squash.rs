//! One layer instead of several.

use serde_json::Value;

use crate::harness::Engine;
use crate::{assert_nothing_left, build, write};

const DOCKERFILE: &str = "FROM busybox AS base\nRUN mkdir -p /d/old /e /gone && echo base > /d/old/file && touch /gone/x /e/kept && ln -s x /link\n\
    FROM base\nRUN dd if=/dev/zero of=/large bs=1000 count=3000 && echo first > /d/new && mkdir /f && ln /d/new /f/hard && ln /d/new /f/twice\n\
    RUN rm -r /large /gone /d/old && mkdir /d/old && echo second > /d/old/other && chmod 700 /e && rm /link && mkdir /link\n\
    RUN rm -r /d && mkdir /d && chown 7:8 /f && touch -d '2020-01-02 03:04:05' /f /d && echo end > /d/end\nENV A=b\nLABEL l=m\n";

fn inspect(engine: &Engine, name: &str) -> Value {
    let shown = engine.docker(["image", "inspect", name]).ok();
    serde_json::from_str::<Value>(&shown).unwrap()[0].clone()
}

fn layers(engine: &Engine, name: &str) -> Vec<Value> {
    inspect(engine, name)["RootFS"]["Layers"].as_array().unwrap().clone()
}

/// Everything in an image, with its looks.
fn files(engine: &Engine, name: &str) -> String {
    let look = "cd /; find d e f gone large link w -exec stat -c '%n %F %a %u:%g %Y' {} + 2>/dev/null | sort; cat d/end f/hard";
    engine.docker(["run", "--rm", name, "sh", "-c", look]).ok()
}

#[test]
fn layers_above_the_base_become_one() {
    let engine = Engine::start_with(r#"{"experimental": true}"#, &[]);
    engine.load_busybox();
    write(&engine, "Dockerfile", DOCKERFILE);
    build(&engine, &["-t", "plain"]).ok();
    build(&engine, &["-t", "base", "--target", "base"]).ok();
    // The stock client offers it only where the daemon is told to be experimental.
    let squashed = build(&engine, &["--squash", "-t", "squashed", "-t", "again:2"]).ok();
    let short = squashed.split("Successfully built ").nth(1).unwrap()[..12].to_owned();
    assert_eq!(engine.docker(["images", "-q", "squashed"]).ok().trim(), short);
    assert_eq!(files(&engine, "squashed"), files(&engine, "plain"));
    assert!(files(&engine, "squashed").ends_with("\nend\nfirst\n"), "{}", files(&engine, "squashed"));
    // Two names of one file are so still; the third has gone.
    let links = ["run", "--rm", "squashed", "stat", "-c", "%h", "/f/hard"];
    assert_eq!(engine.docker(links).ok(), "2\n");
    let (base, all) = (layers(&engine, "base"), layers(&engine, "squashed"));
    assert_eq!((all.len(), &all[..base.len()]), (base.len() + 1, &base[..]));
    let (one, other) = (inspect(&engine, "plain"), inspect(&engine, "squashed"));
    assert_eq!(one["Config"], other["Config"]);
    // The large file has gone, and of what is hidden there are marks only.
    let size = |shown: &Value| shown["Size"].as_u64().unwrap();
    assert!(size(&one) > size(&inspect(&engine, "base")) + 3_000_000, "{one}");
    assert_eq!(size(&other), size(&inspect(&engine, "base")) + "first\nend\n".len() as u64);
    // The history is that of the image, with what was done at its end.
    let history = |name: &str| {
        let path = format!("/images/{name}/history");
        engine.http("GET", &path, b"").json().as_array().unwrap().clone()
    };
    let (of_one, of_other) = (history("plain"), history("squashed"));
    assert_eq!(of_other.len(), of_one.len() + 1);
    let (ours, base) = (one["Id"].as_str().unwrap(), inspect(&engine, "base"));
    assert_eq!(of_other[0]["Comment"], format!("merge {ours} to {}", base["Id"].as_str().unwrap()));
    assert_eq!(of_other[0]["Size"].as_u64().unwrap(), "first\nend\n".len() as u64);
    for (one, other) in of_one.iter().zip(&of_other[1..]) {
        assert_eq!(one["CreatedBy"], other["CreatedBy"]);
    }
    assert!(of_other[1..6].iter().all(|entry| entry["Size"] == 0), "{of_other:?}");
    // What was built is there as well, and is what is found the next time.
    assert_eq!(engine.docker(["images", "-q", "--no-trunc", "plain"]).ok().trim(), ours);
    let again = build(&engine, &["-q", "--squash"]).ok();
    assert_eq!(layers(&engine, again.trim()), all);
    let archive = engine.path("saved.tar");
    engine.docker(["save", "-o", archive.to_str().unwrap(), "squashed"]).ok();
    engine.docker(["load", "-i", archive.to_str().unwrap()]).ok();
    // Without a base all is one layer; and what makes no layer adds none.
    write(&engine, "Dockerfile", "FROM scratch\nCOPY --from=busybox /bin /bin\nCOPY Dockerfile /w/\n");
    build(&engine, &["--squash", "-t", "alone"]).ok();
    assert_eq!(layers(&engine, "alone").len(), 1);
    let comment = history("alone")[0]["Comment"].as_str().unwrap().to_owned();
    assert!(comment.starts_with("create new from sha256:"), "{comment}");
    let dangling = engine.docker(["images", "-q", "--no-trunc", "--filter", "dangling=true"]).ok();
    assert!(dangling.contains(comment.trim_start_matches("create new from ")), "{dangling}");
    write(&engine, "Dockerfile", "FROM busybox\nENV A=b\n");
    build(&engine, &["--squash", "-t", "same"]).ok();
    assert_eq!(layers(&engine, "same"), layers(&engine, "busybox"));
    assert_eq!(
        engine.http("GET", "/version", b"").json()["Components"][0]["Details"]["Experimental"],
        "true"
    );
    assert_nothing_left(&engine);
}
