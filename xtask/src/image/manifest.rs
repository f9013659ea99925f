//! `manifest.json`: what an image is, and by which digest each of its files is known.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::tools::digest_file;

const NAME: &str = "manifest.json";

/// Written last: an image without it is not complete.
pub(super) fn write(folder: &Path, facts: &[(&str, &str)], files: &[&str]) -> Result<()> {
    let mut lines: Vec<String> =
        facts.iter().map(|(key, value)| format!("  {}: {}", quote(key), quote(value))).collect();
    let mut digests = Vec::new();
    for file in files {
        digests.push(format!("    {}: {}", quote(file), quote(&digest_file(&folder.join(file))?)));
    }
    lines.push(format!("  \"sha256\": {{\n{}\n  }}", digests.join(",\n")));
    let path = folder.join(NAME);
    let temporary = folder.join(".manifest.json.new");
    fs::write(&temporary, format!("{{\n{}\n}}\n", lines.join(",\n")))?;
    fs::rename(&temporary, &path).with_context(|| format!("Could not write `{}`", path.display()))
}

/// Whether the folder holds the image that these inputs make.
pub(super) fn is_current(folder: &Path, inputs: &str, files: &[&str]) -> bool {
    let line = format!("  \"inputs\": {}", quote(inputs));
    let same = fs::read_to_string(folder.join(NAME))
        .is_ok_and(|text| text.lines().any(|found| found.trim_end_matches(',') == line));
    same && files.iter().all(|file| folder.join(file).is_file())
}

/// Makes sure that an interrupted build is not taken for an image.
pub(super) fn remove(folder: &Path) {
    let _ = fs::remove_file(folder.join(NAME));
}

fn quote(text: &str) -> String {
    let mut quoted = String::from('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            letter if letter.is_control() => quoted.push(' '),
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}
