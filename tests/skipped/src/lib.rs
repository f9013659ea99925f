//! What could not be tried on this machine: said, so that it is not taken for passed.
//!
//! A test that lacks something calls [`say`] and returns. `cargo xtask test` names a file in the environment variable
//! [`VARIABLE`], reads what was written there, and shows it in its summary; in CI it fails unless it knows that CI may
//! lack this.

use std::env;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

/// Names the file to which skips are appended, one a line.
pub const VARIABLE: &str = "MACHINE_SKIPPED";

/// Something that was not tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skip {
    /// A short name that does not change, such as `sudo` or `kvm`.
    pub what: String,
    /// What was missing, for a reader.
    pub why: String,
}

/// Says on stderr, and in the file that [`VARIABLE`] names, that something is not tried.
///
/// # Panics
///
/// If that file cannot be written: a skip that nobody hears of would pass for a success.
#[expect(clippy::print_stderr, reason = "tests talk to whoever runs them")]
pub fn say(what: &str, why: &str) {
    eprintln!("SKIPPED {what}: {why}");
    if let Some(file) = env::var_os(VARIABLE) {
        let written = append(Path::new(&file), what, why);
        assert!(written.is_ok(), "Could not write to `{}`: {written:?}", file.display());
    }
}

/// Adds a skip to a file, in one write, so that tests which run side by side do not mix their lines.
pub fn append(file: &Path, what: &str, why: &str) -> io::Result<()> {
    let line = format!("{}\t{}\n", plain(what), plain(why));
    File::options().append(true).create(true).open(file)?.write_all(line.as_bytes())
}

/// The skips in a file, each once; none if there is no such file.
pub fn read(file: &Path) -> io::Result<Vec<Skip>> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut skips = Vec::new();
    for line in text.lines() {
        let (what, why) = line.split_once('\t').unwrap_or((line, ""));
        let skip = Skip { what: what.to_owned(), why: why.to_owned() };
        if !skips.contains(&skip) {
            skips.push(skip);
        }
    }
    Ok(skips)
}

/// One line, without what separates.
fn plain(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_read_once() {
        let file = env::temp_dir().join(format!("skipped-{}", std::process::id()));
        assert_eq!(read(&file).unwrap(), []);
        append(&file, "sudo", "there is no `sudo`\n\there").unwrap();
        append(&file, "kvm", "no /dev/kvm").unwrap();
        append(&file, "kvm", "no /dev/kvm").unwrap();
        let read = read(&file);
        fs::remove_file(&file).unwrap();
        let skip = |what: &str, why: &str| Skip { what: what.to_owned(), why: why.to_owned() };
        assert_eq!(read.unwrap(), [skip("sudo", "there is no `sudo`  here"), skip("kvm", "no /dev/kvm")],);
    }
}
