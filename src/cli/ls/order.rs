//! The order of names in a list: as people count.

use std::cmp::Ordering;

/// Case-insensitive, with numbers by their value: m9 before m10.
pub(super) fn natural(one: &str, other: &str) -> Ordering {
    let pieces = |text: &str| {
        let mut pieces: Vec<(bool, String)> = Vec::new();
        for character in text.to_lowercase().chars() {
            let digit = character.is_ascii_digit();
            match pieces.last_mut() {
                Some((kind, piece)) if *kind == digit => piece.push(character),
                _ => pieces.push((digit, character.to_string())),
            }
        }
        pieces
    };
    let (left, right) = (pieces(one), pieces(other));
    for ((left_digit, left), (right_digit, right)) in left.iter().zip(&right) {
        let order = if *left_digit && *right_digit {
            let (left, right) = (left.trim_start_matches('0'), right.trim_start_matches('0'));
            left.len().cmp(&right.len()).then_with(|| left.cmp(right))
        } else {
            left.cmp(right)
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    left.len().cmp(&right.len()).then_with(|| one.cmp(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_sort_by_value() {
        let mut names = ["m10", "M9", "m1", "a", "m01"];
        names.sort_by(|one, other| natural(one, other));
        assert_eq!(names, ["a", "m01", "m1", "M9", "m10"]);
    }
}
