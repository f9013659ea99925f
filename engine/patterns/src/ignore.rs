//! `.dockerignore`: which files of a context do not belong to it.

use std::path::{Component, Path};

use crate::glob::{BadPattern, Pattern};

const MOST_PATTERNS: usize = 10_000;

/// The patterns of a file, in their order; the last one that fits decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ignored {
    patterns: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    pattern: Pattern,
    /// `!` brings back what another has taken out.
    is_exception: bool,
}

/// What is wrong with such a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreError {
    #[error("failed parsing .dockerignore: invalid pattern `{0}`: {BadPattern}")]
    Pattern(String),
    #[error("failed parsing .dockerignore: illegal exclusion pattern: \"!\"")]
    Exclamation,
    #[error("failed parsing .dockerignore: more than {MOST_PATTERNS} patterns")]
    TooMany,
}

impl Ignored {
    pub fn parse(text: &str) -> Result<Self, IgnoreError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut patterns = Vec::new();
        for line in text.lines() {
            if line.starts_with('#') {
                continue;
            }
            let line = line.trim();
            let (is_exception, line) =
                line.strip_prefix('!').map_or((false, line), |rest| (true, rest.trim()));
            if line.is_empty() {
                if is_exception {
                    return Err(IgnoreError::Exclamation);
                }
                continue;
            }
            if patterns.len() == MOST_PATTERNS {
                return Err(IgnoreError::TooMany);
            }
            let cleaned = clean(line);
            // The context itself is never out.
            if cleaned.is_empty() {
                continue;
            }
            let bad = |_| IgnoreError::Pattern(line.to_owned());
            let pattern = Pattern::of_trees(&cleaned).map_err(bad)?;
            patterns.push(Rule { pattern, is_exception });
        }
        Ok(Self { patterns })
    }

    /// Patterns without a file.
    pub fn of(patterns: &[String]) -> Result<Self, IgnoreError> {
        Self::parse(&patterns.join("\n"))
    }

    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether a file or directory is out. What lies in a directory that is out is out, unless an exception names it.
    pub fn fits(&self, path: &str) -> bool {
        let parts: Vec<&str> = path.split('/').collect();
        let mut is_out = false;
        for rule in &self.patterns {
            // A rule that would change nothing need not be looked at.
            if rule.is_exception != is_out {
                continue;
            }
            let fits = rule.pattern.fits(path)
                || (1..parts.len()).any(|end| rule.pattern.fits(&parts[..end].join("/")));
            if fits {
                is_out = !rule.is_exception;
            }
        }
        is_out
    }

    /// Whether an exception may bring back something below a directory that is out.
    pub fn may_return(&self) -> bool {
        self.patterns.iter().any(|rule| rule.is_exception)
    }
}

/// Without `.`, `..` and slashes too many.
fn clean(pattern: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// A path as patterns see it: from the context's root, with slashes.
pub fn shown(path: &Path) -> String {
    let parts = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_string_lossy()),
        _ => None,
    });
    parts.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn out(text: &str, path: &str) -> bool {
        Ignored::parse(text).unwrap().fits(path)
    }

    #[test]
    fn the_last_pattern_that_fits_decides() {
        let text = "# no pattern\n*.md\n!README*.md\nREADME-secret.md\n/build/\n./tmp/../cache\n**/*.log\n";
        for (path, expected) in [
            ("a.md", true),
            ("docs/a.md", false),
            ("README.md", false),
            ("README-secret.md", true),
            ("build", true),
            ("build/x/y", true),
            ("cache/x", true),
            ("a/b/c.log", true),
            ("src/main.c", false),
        ] {
            assert_eq!(out(text, path), expected, "{path}");
        }
        assert!(out("*\n!keep/this", "keep/that") && !out("*\n!keep/this", "keep/this/too"));
        assert!(!out("", "a") && !out("/\n.\n", "a"));
        assert_eq!(Ignored::parse("!").unwrap_err(), IgnoreError::Exclamation);
        assert!(Ignored::parse("a[").is_err());
    }
}
