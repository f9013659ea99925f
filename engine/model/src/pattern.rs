//! Values of a filter by name or id: regular expressions, as dockerd reads them.

use regex_lite::{Regex, RegexBuilder};

/// Real patterns take some kilobytes; a client cannot have more compiled than this.
const LARGEST: usize = 256 * 1024;

/// The values of one filter. Without any, everything fits.
#[derive(Clone, Debug, Default)]
pub struct Patterns {
    literal: Vec<String>,
    compiled: Vec<Regex>,
}

impl Patterns {
    /// One that is no regular expression fits what is written just so, and nothing else.
    pub fn new(values: &[String]) -> Self {
        let compile = |value: &String| RegexBuilder::new(value).size_limit(LARGEST).build().ok();
        Self { literal: values.to_vec(), compiled: values.iter().filter_map(compile).collect() }
    }

    /// Whether one of them is found somewhere in a text.
    pub fn fit(&self, text: &str) -> bool {
        self.literal.is_empty()
            || self.literal.iter().any(|literal| literal == text)
            || self.compiled.iter().any(|pattern| pattern.is_match(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_found_in_names() {
        let fit = |pattern: &str, text: &str| Patterns::new(&[pattern.to_owned()]).fit(text);
        assert!(fit("we", "web1") && fit("^/web", "/web1") && !fit("^eb", "web1"));
        assert!(fit("1$", "web1") && !fit("^web$", "web1"));
        assert!(fit("^(a1|a2)$", "a2") && !fit("^(a1|a2)$", "a3"));
        assert!(fit("a[0-9]", "xa7y") && fit("(?i)WEB", "web") && !fit("a[0-9]", "ab"));
        assert!(!fit("a[", "a") && fit("a[", "a["), "no expression, only a text");
        assert!(!fit("(((a{500}){500}){500})", "a"), "too large to be compiled");
        assert!(Patterns::new(&[]).fit("anything"));
    }
}
