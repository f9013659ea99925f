//! Rules that the compiler does not know: what reads the environment, what prints, and errors that repeat their cause.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Every source of the crate and of those whose errors it prints, without their tests.
fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders: Vec<PathBuf> =
        ["src", "drivers", "pki/src", "gotemplate/src"].map(|name| root.join(name)).into();
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if !path.ends_with("tests") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(root).unwrap().to_owned(), text));
            }
        }
    }
    assert!(found.len() > 100, "{found:?}");
    found
}

#[test]
fn no_error_repeats_its_cause() {
    let mut repeated = Vec::new();
    for (path, text) in sources() {
        for (place, _) in text.match_indices("#[error(") {
            // The attribute with its variant, up to the next one.
            let rest = &text[place + 1..];
            let variant = &rest[..rest.find("#[error(").unwrap_or(rest.len()).min(600)];
            let end = variant.find(")]").unwrap_or(variant.len());
            let (attribute, fields) = variant.split_at(end);
            let fields =
                &fields[..fields.find("\n    }").or_else(|| fields.find(",\n")).unwrap_or(fields.len())];
            let whole =
                attribute.contains("{0}") && (fields.contains("#[from]") || fields.contains("#[source]"));
            let named = attribute.contains("{source}") && fields.contains("source:");
            if whole || named {
                repeated.push(format!("{}: {attribute}", path.display()));
            }
        }
    }
    assert!(
        repeated.is_empty(),
        "printers walk the chain, so that a cause would be read twice: {repeated:#?}"
    );
}

#[test]
fn settings_alone_read_the_environment() {
    // Where the environment is about something else than what a command is to do.
    const OTHERS: [(&str, &str); 6] = [
        ("src/main.rs", "the command line itself"),
        ("src/ssh/agent/windows.rs", "the agent, whose variable russh reads elsewhere"),
        ("src/ssh/interactive.rs", "TERM tells the host which terminal is here"),
        ("src/ssh/key.rs", "the keys in ~/.ssh, which OpenSSH tries as well"),
        ("src/store/lock.rs", "who holds the lock is told by its command line"),
        ("src/lifecycle/trust.rs", "USER, the name in a certificate"),
    ];
    for (path, text) in sources() {
        let path = path.to_str().unwrap().to_owned();
        if !path.starts_with("src/")
            || path == "src/cli/settings.rs"
            || OTHERS.iter().any(|(other, _)| *other == path)
        {
            continue;
        }
        for call in ["env::var", "env::home_dir", "env::args", "env::temp_dir", "env::current_dir"] {
            assert!(!text.contains(call), "{path} has `{call}`; settings are read in src/cli/settings.rs");
        }
    }
}

#[test]
fn files_are_short_and_begin_with_their_reason() {
    for (path, text) in sources().into_iter().filter(|(path, _)| path.starts_with("src")) {
        assert!(text.starts_with("//! "), "{} does not say what it is for", path.display());
        assert!(text.lines().count() < 600, "{} is too long", path.display());
    }
}
