//! `-e`, `--env-file`, `--label` and `--label-file`.

use std::env;
use std::fs::File;
use std::io::Read as _;

use serde_json::{Map, Value};

use super::super::failure::{Failure, Outcome};

/// The largest file of variables or labels.
const FILE_LIMIT: u64 = 4 << 20;

fn read(path: &str) -> Outcome<String> {
    let mut bytes = Vec::new();
    let failed = |source| Failure::ReadFile { path: path.to_owned(), source };
    File::open(path).and_then(|file| file.take(FILE_LIMIT + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(Failure::refused(format!("`{path}` is longer than {FILE_LIMIT} bytes")));
    }
    String::from_utf8(bytes)
        .map_err(|_| Failure::refused(format!("invalid env file ({path}): it is not UTF-8")))
}

/// The lines of a file of variables; one without a value takes it from our own environment, if it is there.
pub(crate) fn parse_file(
    path: &str,
    text: &str,
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<Vec<String>, String> {
    let mut variables = Vec::new();
    for line in text.trim_start_matches('\u{feff}').lines() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line.split_once('=').map_or((line, None), |(name, value)| (name, Some(value)));
        if name.contains(char::is_whitespace) {
            return Err(format!("invalid env file ({path}): variable '{name}' contains whitespaces"));
        }
        if name.is_empty() {
            return Err(format!("invalid env file ({path}): no variable name on line '{line}'"));
        }
        match value {
            Some(_) => variables.push(line.to_owned()),
            None => variables.extend(lookup(name).map(|value| format!("{name}={value}"))),
        }
    }
    Ok(variables)
}

/// All variables: those of the files first, so that those of the command line win.
pub(crate) fn variables(files: &[String], given: &[String]) -> Outcome<Vec<String>> {
    let mut all = Vec::new();
    for path in files {
        all.extend(parse_file(path, &read(path)?, |name| env::var(name).ok()).map_err(Failure::Refused)?);
    }
    for variable in given {
        if variable.is_empty() || variable.starts_with('=') {
            let message = format!(
                "invalid argument {variable:?} for \"-e, --env\" flag: invalid environment variable: {variable}"
            );
            return Err(Failure::Refused(message));
        }
        match (variable.contains('='), env::var(variable)) {
            (false, Ok(value)) => all.push(format!("{variable}={value}")),
            _ => all.push(variable.clone()),
        }
    }
    Ok(all)
}

/// `key=value` or `key` alone.
pub(crate) fn map(pairs: &[String]) -> Map<String, Value> {
    let split = |pair: &String| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key.to_owned(), Value::from(value))
    };
    pairs.iter().map(split).collect()
}

/// The labels of files and of the command line.
pub(crate) fn labels(files: &[String], given: &[String]) -> Outcome<Map<String, Value>> {
    let mut all = Map::new();
    for path in files {
        all.extend(map(&parse_file(path, &read(path)?, |name| Some(env::var(name).unwrap_or_default()))
            .map_err(Failure::Refused)?));
    }
    all.extend(map(given));
    Ok(all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn lookup(name: &str) -> Option<String> {
        (name == "SET").then(|| "from outside".to_owned())
    }

    #[test]
    fn files_have_comments_and_values_from_outside() {
        let text = "\u{feff}# comment\n\n  A=1\nB=x = y # kept\nSET\nUNSET\nC=\n";
        assert_eq!(
            parse_file("f", text, lookup).unwrap(),
            ["A=1", "B=x = y # kept", "SET=from outside", "C="]
        );
    }

    #[test]
    fn files_are_checked() {
        assert_eq!(
            parse_file("f", "A B=1", lookup).unwrap_err(),
            "invalid env file (f): variable 'A B' contains whitespaces"
        );
        assert_eq!(
            parse_file("f", "=1", lookup).unwrap_err(),
            "invalid env file (f): no variable name on line '=1'"
        );
    }

    #[test]
    fn the_command_line_wins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("env");
        std::fs::write(&path, "A=file\nB=file\n").unwrap();
        let files = [path.to_string_lossy().into_owned()];
        let all = variables(&files, &["A=line".to_owned(), "SURELY_NOT_SET_ANYWHERE".to_owned()]).unwrap();
        assert_eq!(all, ["A=file", "B=file", "A=line", "SURELY_NOT_SET_ANYWHERE"]);
        assert!(variables(&[], &["=x".to_owned()]).is_err());
        assert!(variables(&["/nowhere/at/all".to_owned()], &[]).is_err());
    }
}
