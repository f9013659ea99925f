//! What `engine/README.md` says there is.

use std::fmt::Write;

use super::*;

fn readme() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")
}

const BEGIN: &str = "<!-- fields -->\n";
const END: &str = "<!-- end of fields -->\n";

fn said_of(fate: Fate) -> String {
    // In a table, a bar would end the cell.
    let code = |example: &str| format!("`{}`", example.replace('|', "\\|"));
    match fate {
        Fate::Effect(_) => "yes".to_owned(),
        Fate::Partly(_, example) => format!("partly; not {}", code(example)),
        Fate::Refused(example) => format!("no: {}", code(example)),
        Fate::Told(why) => why.to_owned(),
    }
}

/// `INSTA_UPDATE=always` writes it anew.
#[test]
fn the_readme_has_the_table_of_fields() {
    let mut tables = String::new();
    for (call, rows) in table::ALL {
        writeln!(tables, "\n### `{call}`\n\n| field | |\n|---|---|").unwrap();
        for (field, fate) in rows {
            writeln!(tables, "| `{field}` | {} |", said_of(*fate)).unwrap();
        }
    }
    tables.push('\n');
    let text = fs::read_to_string(readme()).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (found, after) = rest.split_once(END).unwrap();
    if std::env::var_os("INSTA_UPDATE").is_some_and(|value| value == "always") {
        fs::write(readme(), format!("{before}{BEGIN}{tables}{END}{after}")).unwrap();
    } else {
        assert_eq!(found, tables, "`INSTA_UPDATE=always` writes the table anew");
    }
}

/// What follows these words in a file, each time up to the next quotation mark.
fn quoted(file: &Path, words: &str) -> Vec<String> {
    let source = fs::read_to_string(file).unwrap();
    source.split(words).skip(1).filter_map(|rest| Some(rest.split('"').next()?.to_owned())).collect()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() {
            sources(&entry.path(), found);
        } else {
            found.push(entry.path());
        }
    }
}

#[test]
fn the_readme_has_every_call_key_and_instruction() {
    let text = fs::read_to_string(readme()).unwrap();
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api"), &mut files);
    let routes: Vec<String> = files.iter().flat_map(|file| quoted(file, ".route(\"")).collect();
    assert!(routes.len() > 40, "{routes:?}");
    for route in routes {
        // Parts of `/containers/{id}` are a list of words.
        let is_told = text.contains(&format!("`{}`", route.replace("{*name}", "{name}")))
            || route
                .strip_prefix("/containers/{id}/")
                .is_some_and(|part| text.contains(&format!("`{part}`")))
            || route.contains("{*name}") && text.contains(&route.replace("{*name}", "{name}"));
        assert!(is_told, "what is `{route}`?");
    }
    let flags =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/flags.rs")).unwrap();
    let keys = flags.lines().filter_map(|line| line.trim().strip_prefix("(\"")?.split('"').next());
    let keys: Vec<&str> = keys.collect();
    assert!(keys.len() > 20, "{keys:?}");
    for key in keys {
        assert!(text.contains(&format!("`{key}`")), "what is the key `{key}`?");
    }
    let names =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("build/src/instruction.rs")).unwrap();
    let list = names.split("const NAMES").nth(1).unwrap().split("];").next().unwrap();
    let instructions: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
    assert!(instructions.contains(&"FROM") && instructions.len() > 15, "{instructions:?}");
    for instruction in instructions {
        assert!(text.contains(&format!("`{instruction}`")), "what is `{instruction}`?");
    }
}
