//! Registries that lie, break off, go on for ever, or ask for patience.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::servers::{Asked, Fake, Fixture, Reply, denial, digest};
use super::{CONFIGURATION, ids, layer, left_over};
use crate::harness::Engine;

/// A pull of this image fails for this reason, and leaves nothing.
#[track_caller]
fn refused(engine: &Engine, name: &str, reason: &str) {
    let output = engine.docker(["pull", name]);
    let error = output.failed();
    assert!(error.contains(reason), "`{reason}` is not in\n{error}");
    assert_eq!(ids(engine), "");
    assert_eq!(left_over(engine, "layers"), Vec::<String>::new());
    assert_eq!(left_over(engine, "configs"), Vec::<String>::new());
}

fn is_layer(asked: &Asked, fixture: &Fixture) -> bool {
    asked.path.ends_with(&fixture.layers[0])
}

#[test]
fn what_is_not_what_its_digest_says_is_thrown_away() {
    let engine = Engine::start_with(CONFIGURATION, &[]);
    let fixture = Fixture::of(&[layer("file", 300_000)]);
    let lying = fixture.clone();
    let _fake = Fake::start(&engine, "127.0.0.1:5001", move |asked| {
        let mut reply = lying.answer(asked);
        let wants = |name: &str| asked.path.starts_with(&format!("/v2/{name}/"));
        let is_manifest = asked.path.contains("/manifests/");
        if (wants("layer") && is_layer(asked, &lying))
            || (wants("config") && asked.path.ends_with(&lying.config))
        {
            reply.body[10] ^= 1;
        }
        if wants("manifest") && is_manifest {
            return reply.with("Docker-Content-Digest", digest(b"something else"));
        }
        reply
    });
    refused(&engine, "127.0.0.1:5001/layer", "filesystem layer verification failed for digest");
    assert_eq!(left_over(&engine, "downloads"), Vec::<String>::new());
    refused(&engine, "127.0.0.1:5001/config", "verification failed");
    refused(&engine, "127.0.0.1:5001/manifest", "verification failed");
    let by_digest = format!("127.0.0.1:5001/manifest@{}", digest(b"something else"));
    refused(&engine, &by_digest, "manifest unknown");
    engine.docker(["pull", "127.0.0.1:5001/honest"]).ok();
}

#[test]
fn what_breaks_off_is_taken_up_again() {
    let engine = Engine::start_with(CONFIGURATION, &[]);
    let fixture = Fixture::of(&[layer("file", 1_000_000)]);
    let (broken, times) = (fixture.clone(), AtomicUsize::new(0));
    let fake = Fake::start(&engine, "127.0.0.1:5001", move |asked| {
        let mut reply = broken.answer(asked);
        if is_layer(asked, &broken) && times.fetch_add(1, Ordering::SeqCst) < 4 {
            reply.cut = Some(reply.body.len().min(200_000));
        }
        reply
    });
    let pulled = engine.docker(["pull", "127.0.0.1:5001/broken"]).ok();
    assert!(pulled.contains("Pull complete"), "{pulled}");
    let asked = fake.asked.lock().unwrap();
    let ranges: Vec<u64> = asked
        .iter()
        .filter_map(|one| {
            one.headers.get("range")?.strip_prefix("bytes=")?.trim_end_matches('-').parse().ok()
        })
        .collect();
    assert_eq!(ranges.len(), 4, "{ranges:?}");
    assert!(ranges.is_sorted() && ranges[0] > 0, "{ranges:?}");
}

#[test]
fn a_registry_that_knows_no_ranges_is_read_from_the_beginning() {
    let engine = Engine::start_with(CONFIGURATION, &[]);
    let fixture = Fixture::of(&[layer("file", 1_000_000)]);
    let (plain, times) = (fixture.clone(), AtomicUsize::new(0));
    let _fake = Fake::start(&engine, "127.0.0.1:5001", move |asked| {
        let mut asked = asked.clone();
        asked.headers.remove("range");
        let mut reply = plain.answer(&asked);
        if is_layer(&asked, &plain) && times.fetch_add(1, Ordering::SeqCst) == 0 {
            reply.cut = Some(500_000);
        }
        reply
    });
    engine.docker(["pull", "127.0.0.1:5001/plain"]).ok();
}

#[test]
fn what_has_no_end_is_not_read_to_the_end() {
    let engine = Engine::start_with(CONFIGURATION, &[]);
    let fixture = Fixture::of(&[layer("file", 100_000)]);
    let endless = fixture.clone();
    let _fake = Fake::start(&engine, "127.0.0.1:5001", move |asked| {
        let wants = |name: &str| asked.path.starts_with(&format!("/v2/{name}/"));
        let mut reply = endless.answer(asked);
        let is_it = (wants("layer") && is_layer(asked, &endless))
            || (wants("config") && asked.path.ends_with(&endless.config))
            || (wants("manifest") && asked.path.contains("/manifests/"))
            || (wants("tags") && asked.path.contains("/tags/"));
        if is_it {
            reply = Reply::new(200, vec![b' '; 1 << 16]);
            reply.endless = true;
        }
        reply
    });
    refused(&engine, "127.0.0.1:5001/layer", "larger than the");
    refused(&engine, "127.0.0.1:5001/config", "larger than");
    refused(&engine, "127.0.0.1:5001/manifest", "larger than");
    let error = engine.docker(["pull", "--all-tags", "127.0.0.1:5001/tags"]).failed();
    assert!(error.contains("larger than"), "{error}");
}

#[test]
fn circles_are_left() {
    let engine = Engine::start_with(CONFIGURATION, &[]);
    let index_type = "application/vnd.oci.image.index.v1+json";
    let _fake = Fake::start(&engine, "127.0.0.1:5001", move |asked| match asked.path.as_str() {
        "/v2/" => Reply::new(200, "{}"),
        path if path.starts_with("/v2/round/") => Reply::new(307, "").with("Location", path),
        "/v2/nested/manifests/latest" => Reply::new(200, nest(5)).with("Content-Type", index_type),
        path if path.starts_with("/v2/nested/manifests/") => {
            let level = (0..5).find(|level| path.ends_with(&digest(&nest(*level))));
            Reply::new(200, nest(level.unwrap_or(0))).with("Content-Type", index_type)
        }
        path if path.starts_with("/v2/tags/tags/list") => Reply::new(200, r#"{"tags":[]}"#)
            .with("Link", format!("</v2/tags/tags/list?n={}>; rel=\"next\"", path.len() % 2)),
        _ => denial(404, "NAME_UNKNOWN", "unknown"),
    });
    refused(&engine, "127.0.0.1:5001/round", "Could not reach");
    refused(&engine, "127.0.0.1:5001/nested", "nested too deeply");
    // Two pages that lead to one another.
    let error = engine.docker(["pull", "--all-tags", "127.0.0.1:5001/tags"]);
    assert!(error.code == Some(0) || error.stderr.contains("does not end"), "{error:?}");
}

/// An index that leads to an index, so many times.
fn nest(level: usize) -> Vec<u8> {
    let below = if level == 0 { Vec::new() } else { nest(level - 1) };
    json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "digest": digest(&below),
            "size": below.len(),
        }],
    })
    .to_string()
    .into_bytes()
}

#[test]
fn a_registry_that_asks_for_patience_gets_it_and_no_more() {
    let engine = Engine::start_with(CONFIGURATION, &[]);
    let fixture = Fixture::of(&[layer("file", 1000)]);
    let (busy, times) = (fixture.clone(), Mutex::new(0));
    let fake = Fake::start(&engine, "127.0.0.1:5001", move |asked| {
        if asked.path.starts_with("/v2/never/") {
            return denial(429, "TOOMANYREQUESTS", "come back tomorrow").with("Retry-After", "0");
        }
        if asked.path.starts_with("/v2/broken/") {
            return Reply::new(503, "<html>");
        }
        if is_layer(asked, &busy) {
            let mut times = times.lock().unwrap();
            *times += 1;
            if *times == 1 {
                return denial(429, "TOOMANYREQUESTS", "slow down").with("Retry-After", "1");
            }
            if *times == 2 {
                return Reply::new(500, "");
            }
        }
        busy.answer(asked)
    });
    engine.docker(["pull", "127.0.0.1:5001/busy"]).ok();
    assert_eq!(fake.count("GET", &fixture.layers[0]), 3);
    engine.docker(["rmi", "127.0.0.1:5001/busy"]).ok();
    refused(&engine, "127.0.0.1:5001/never", "toomanyrequests: come back tomorrow");
    refused(&engine, "127.0.0.1:5001/broken", "503");
}

/// Manifests that make no sense, and the word of the refusal.
#[test]
fn manifests_that_make_no_sense_are_refused() {
    let engine = Engine::start_with(CONFIGURATION, &[]);
    let fixture = Fixture::of(&[layer("one", 100), layer("two", 100)]);
    let good: Value = serde_json::from_slice(&fixture.manifest).unwrap();
    let change = |change: &dyn Fn(&mut Value)| {
        let mut manifest = good.clone();
        change(&mut manifest);
        manifest.to_string().into_bytes()
    };
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("text", b"nonsense".to_vec(), "not as it should be"),
        ("schema1", br#"{"schemaVersion":1,"fsLayers":[]}"#.to_vec(), "schema 1"),
        (
            "less",
            change(&|manifest| drop(manifest["layers"].as_array_mut().unwrap().pop())),
            "names 2 layers",
        ),
        ("path", change(&|manifest| manifest["layers"][0]["digest"] = json!("sha256:../../etc")), "not"),
        ("size", change(&|manifest| manifest["layers"][0]["size"] = json!(-1)), "not as it should be"),
        ("lies", change(&|manifest| manifest["layers"][0]["size"] = json!(5)), "larger than the 5 bytes"),
        ("short", change(&|manifest| manifest["layers"][0]["size"] = json!(1_u64 << 40)), "broke off"),
        (
            "chart",
            change(&|manifest| manifest["config"]["mediaType"] = json!("application/vnd.chart")),
            "no image",
        ),
        (
            "foreign",
            change(&|manifest| {
                manifest["layers"][0]["mediaType"] =
                    json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
            }),
            "licence",
        ),
        (
            "many",
            change(&|manifest| {
                let layer = manifest["layers"][0].clone();
                manifest["layers"] = json!(vec![layer; 5000]);
            }),
            "more than 125 layers",
        ),
        ("both", change(&|manifest| manifest["manifests"] = json!([])), "in one"),
    ];
    let served: Vec<(String, Vec<u8>)> =
        cases.iter().map(|(name, bytes, _)| ((*name).to_owned(), bytes.clone())).collect();
    let _fake = Fake::start(&engine, "127.0.0.1:5001", move |asked| {
        let wanted = served.iter().find(|(name, _)| asked.path == format!("/v2/{name}/manifests/latest"));
        match wanted {
            Some((_, bytes)) => Reply::new(200, bytes.clone()),
            None => fixture.answer(asked),
        }
    });
    for (name, _, reason) in cases {
        refused(&engine, &format!("127.0.0.1:5001/{name}"), reason);
    }
}
