//! The interface of the crate `regex`, by `regex-lite`.
//!
//! What runs containers (`libcontainer`) and its types (`oci-spec`) match half a dozen short patterns of ASCII, hardly ever. The
//! automata that `regex` builds for them are half a megabyte of the engine, which travels to every host.

pub use regex_lite::*;

/// Patterns over bytes, for `tree-sitter`, whose queries nobody here asks: the tests of the driver for Hyper-V parse by it.
pub mod bytes {
    use crate::Error;

    /// A pattern that matches text in UTF-8 and nothing else.
    #[derive(Debug, Clone)]
    pub struct Regex(crate::Regex);

    impl Regex {
        pub fn new(pattern: &str) -> Result<Self, Error> {
            crate::Regex::new(pattern).map(Self)
        }

        pub fn is_match(&self, text: &[u8]) -> bool {
            std::str::from_utf8(text).is_ok_and(|text| self.0.is_match(text))
        }
    }
}
