//! Rules about the engine's sources that the compiler does not know.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Every source file of a crate, by the path of its module: `api::images` for `api/images.rs`; the root is empty.
fn modules(source: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![source.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(source).unwrap().with_extension("");
                let mut parts: Vec<&str> = name.iter().map(|part| part.to_str().unwrap()).collect();
                if matches!(parts.last(), Some(&("mod" | "lib" | "main"))) {
                    parts.pop();
                }
                found.insert(parts.join("::"), fs::read_to_string(&path).unwrap());
            }
        }
    }
    found
}

/// Paths that a source names from `crate` or `super` on, as `use` lines or in the code, each from the crate's root.
/// Tests at the end of a file may use what they like.
fn named(module: &str, text: &str) -> BTreeSet<String> {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let mut paths = BTreeSet::new();
    for start in ["crate::", "super::"] {
        for (place, _) in text.match_indices(start) {
            if text[..place].ends_with(|before: char| before.is_alphanumeric() || matches!(before, '_' | ':'))
            {
                continue;
            }
            let line = text[..place].rsplit('\n').next().unwrap();
            if line.contains("//") || line.contains("pub(in") {
                continue;
            }
            let mut rest = &text[place..];
            let mut base: Vec<&str> = module.split("::").filter(|part| !part.is_empty()).collect();
            if let Some(after) = rest.strip_prefix("crate::") {
                (base, rest) = (Vec::new(), after);
            }
            while let Some(after) = rest.strip_prefix("super::") {
                base.pop();
                rest = after;
            }
            for path in tree(rest) {
                paths.insert(base.iter().copied().chain(path.split("::")).collect::<Vec<_>>().join("::"));
            }
        }
    }
    paths
}

/// `a::{b, c::{d, self}}` as `a::b`, `a::c::d` and `a::c::self`.
fn tree(text: &str) -> Vec<String> {
    let end =
        text.find(|one: char| !(one.is_alphanumeric() || matches!(one, '_' | ':'))).unwrap_or(text.len());
    let (head, rest) = text.split_at(end);
    if !rest.starts_with('{') || !(head.is_empty() || head.ends_with("::")) {
        return vec![head.trim_end_matches(':').to_owned()];
    }
    let (mut depth, mut parts, mut part) = (0, Vec::new(), String::new());
    for one in rest.chars() {
        match one {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 || (depth == 1 && one == ',') {
            parts.push(std::mem::take(&mut part));
        } else if !(one.is_whitespace() || depth == 1 && one == '{') {
            part.push(one);
        }
        if depth == 0 {
            break;
        }
    }
    let inner = parts.iter().filter(|part| !part.is_empty()).flat_map(|part| tree(part));
    inner.map(|path| format!("{head}{path}")).collect()
}

/// Which top-level modules of a crate use which: what lies in a folder counts as its folder's.
fn uses(source: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let modules = modules(source);
    let top = |path: &str| path.split("::").next().unwrap().to_owned();
    let known: BTreeSet<String> = modules.keys().map(|module| top(module)).collect();
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (module, text) in &modules {
        if module.is_empty() || module.split("::").any(|part| part == "tests") {
            continue;
        }
        let from = top(module);
        let targets = named(module, text).into_iter().map(|path| top(&path));
        let targets =
            targets.filter(|target| *target != from && !target.is_empty() && known.contains(target));
        uses.entry(from.clone()).or_default().extend(targets);
    }
    uses
}

/// A way from a module back to itself.
fn circle(uses: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn walk(
        at: &str,
        way: &mut Vec<String>,
        done: &mut BTreeSet<String>,
        uses: &BTreeMap<String, BTreeSet<String>>,
    ) -> Option<Vec<String>> {
        if let Some(place) = way.iter().position(|one| one == at) {
            return Some(way[place..].to_vec());
        }
        if !done.insert(at.to_owned()) {
            return None;
        }
        way.push(at.to_owned());
        let found = uses.get(at).into_iter().flatten().find_map(|next| walk(next, way, done, uses));
        way.pop();
        found
    }
    let mut done = BTreeSet::new();
    uses.keys().find_map(|module| walk(module, &mut Vec::new(), &mut done, uses))
}

fn engine() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn circles_are_found() {
    let source = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = source.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("lib.rs", "mod a; mod b; mod c;");
    write("a.rs", "use crate::b::{self, Thing,\n    deeper::{One, Two}};\n// crate::c is no use");
    write("b/mod.rs", "#[cfg(test)]\nmod tests {\n    use crate::a;\n}");
    write("b/deeper.rs", "use super::Thing;\npub(super) struct One;");
    write("c.rs", "use super::{a, b};");
    let found = uses(source.path());
    assert_eq!(found["a"].iter().collect::<Vec<_>>(), ["b"]);
    assert_eq!(found["c"].iter().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(circle(&found), None);
    write("b/deeper.rs", "fn f() { super::super::c::call(); }");
    assert_eq!(circle(&uses(source.path())), Some(vec!["a".into(), "b".into(), "c".into()]));
}

#[test]
fn no_crate_has_a_circle() {
    for name in [
        "",
        "build",
        "buildkit",
        "cli",
        "containers",
        "images",
        "kernel",
        "model",
        "network",
        "registry",
        "shim",
        "store",
    ] {
        let name = Path::new(name).join("src");
        let name = name.display();
        let found = uses(&engine().join(name.to_string()));
        assert!(!found.is_empty(), "{name} has no modules");
        assert_eq!(circle(&found), None, "in {name}: {found:#?}");
    }
}

#[test]
fn only_the_api_knows_http() {
    for name in ["build", "containers", "images", "kernel", "model", "network", "registry", "shim", "store"] {
        let manifest = fs::read_to_string(engine().join(name).join("Cargo.toml")).unwrap();
        for web in ["axum", "hyper", "http"] {
            assert!(!manifest.lines().any(|line| line.starts_with(web)), "engine/{name} depends on {web}");
        }
    }
    for (module, text) in modules(&engine().join("src")) {
        let serves = module.starts_with("api") || module.starts_with("daemon::");
        assert!(serves || !text.contains("axum") && !text.contains("StatusCode"), "{module} knows HTTP");
    }
}

#[test]
fn siblings_do_not_know_one_another() {
    let siblings = ["engine-build", "engine-containers", "engine-images", "engine-network", "engine-cli"];
    for name in siblings {
        let folder = name.trim_start_matches("engine-");
        let manifest = fs::read_to_string(engine().join(folder).join("Cargo.toml")).unwrap();
        let known = siblings.iter().filter(|other| **other != name).find(|other| manifest.contains(**other));
        assert_eq!(known, None, "{name} depends on it");
    }
}

#[test]
fn no_file_is_longer_than_can_be_read() {
    for name in [
        "src",
        "build",
        "cli",
        "containers",
        "images",
        "kernel",
        "model",
        "network",
        "registry",
        "shim",
        "store",
    ] {
        for (module, text) in modules(&engine().join(name)) {
            let lines = text.lines().count();
            assert!(lines <= 600, "{name}: {module} has {lines} lines");
        }
    }
}
