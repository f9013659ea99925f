//! Names for containers whose maker gave none, and the rule for those that were given.

use engine_model::id::{self, random_id};

const ADJECTIVES: [&str; 48] = [
    "able", "agile", "amber", "apt", "brave", "bright", "brisk", "calm", "candid", "clever", "crisp",
    "curious", "daring", "deft", "eager", "earnest", "fair", "fluent", "fond", "gentle", "glad", "honest",
    "humble", "keen", "kind", "lively", "lucid", "mellow", "merry", "mild", "modest", "neat", "noble",
    "patient", "plucky", "polite", "prudent", "quick", "quiet", "serene", "sober", "steady", "subtle",
    "sunny", "tidy", "vivid", "witty", "zealous",
];

/// People who worked on machines, languages and the mathematics under them.
const SURNAMES: [&str; 48] = [
    "allen",
    "babbage",
    "backus",
    "bartik",
    "boole",
    "booth",
    "cerf",
    "church",
    "codd",
    "dijkstra",
    "easley",
    "eckert",
    "engelbart",
    "floyd",
    "galois",
    "godel",
    "goldberg",
    "goldstine",
    "hamilton",
    "hamming",
    "hoare",
    "holberton",
    "hopper",
    "huffman",
    "iverson",
    "jacquard",
    "karp",
    "kleene",
    "knuth",
    "lamport",
    "liskov",
    "lovelace",
    "mcnulty",
    "meltzer",
    "minsky",
    "naur",
    "neumann",
    "noether",
    "perlis",
    "ritchie",
    "shannon",
    "snyder",
    "spence",
    "tarjan",
    "turing",
    "wirth",
    "yao",
    "zuse",
];

/// A name such as `brave_hopper`; from the second attempt on with a digit behind it.
pub(crate) fn random_name(attempt: usize) -> String {
    let mut bytes = [0; 3];
    id::random(&mut bytes);
    let [adjective, surname, digit] = bytes.map(usize::from);
    let mut name =
        format!("{}_{}", ADJECTIVES[adjective % ADJECTIVES.len()], SURNAMES[surname % SURNAMES.len()]);
    if attempt > 0 {
        name.push_str(&(digit % 10).to_string());
    }
    if attempt > 20 {
        name.push_str(&random_id()[..8]);
    }
    name
}

/// Letters, digits, `_`, `.` and `-`, at least two of them, a letter or digit first.
pub(crate) fn is_valid(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && name.len() >= 2
        && name.len() <= 255
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_well_formed() {
        assert!((0..30).all(|attempt| is_valid(&random_name(attempt))));
        assert!(!is_valid("a") && !is_valid("") && !is_valid("-ab") && !is_valid("a/b") && !is_valid("../x"));
        assert!(is_valid("a.b-c_9"));
    }
}
