//! The shape of the driver's source: modules use those below them, and none is too long to be read.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

const LONGEST: usize = 600;

/// Each module's name and source.
fn modules() -> BTreeMap<String, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files
        .map(|path| {
            (path.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(path).unwrap())
        })
        .filter(|(name, _)| name != "lib")
        .collect()
}

/// The modules that a text names as `crate::NAME` or inside `use crate::{…}`.
fn used(text: &str, all: &BTreeSet<&str>) -> BTreeSet<String> {
    let mut words = Vec::new();
    for rest in text.split("crate::").skip(1) {
        let end = if rest.starts_with('{') {
            rest.find("};").unwrap_or(rest.len())
        } else {
            rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
        };
        let mut depth = 0;
        let mut word = String::new();
        for c in rest[..end].chars().chain([',']) {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                c if c.is_alphanumeric() || c == '_' => word.push(c),
                _ => {
                    if depth <= 1 {
                        words.push(std::mem::take(&mut word));
                    }
                    word.clear();
                }
            }
        }
    }
    words.into_iter().filter(|word| all.contains(word.as_str())).collect()
}

#[test]
fn no_module_uses_one_that_uses_it() {
    let modules = modules();
    let names: BTreeSet<&str> = modules.keys().map(String::as_str).collect();
    let mut uses: BTreeMap<String, BTreeSet<String>> = modules
        .iter()
        .map(|(name, text)| {
            // A comment may point up at who uses what it is about.
            let code: String = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .collect::<Vec<_>>()
                .join("\n");
            let mut used = used(&code, &names);
            used.remove(name);
            (name.clone(), used)
        })
        .collect();
    assert!(uses["driver"].contains("regions") && uses["ingress"].contains("rules"), "{uses:?}");
    // Those that use nothing that is left are taken away, until none is left.
    loop {
        let free: Vec<String> =
            uses.iter().filter(|(_, used)| used.is_empty()).map(|(name, _)| name.clone()).collect();
        if free.is_empty() {
            break;
        }
        for name in &free {
            uses.remove(name);
            for used in uses.values_mut() {
                used.remove(name);
            }
        }
    }
    assert!(uses.is_empty(), "these use one another, or what does: {uses:?}");
}

#[test]
fn no_module_is_too_long() {
    for (name, text) in modules() {
        assert!(text.lines().count() <= LONGEST, "{name} has {} lines", text.lines().count());
    }
}
