//! Tables for people.

use super::safe;

/// Cells separated by tabs, every column but the last padded to max(5, longest + 3) characters. Cells are made safe for
/// a terminal.
pub fn aligned(lines: &[String]) -> String {
    let rows: Vec<Vec<_>> = lines.iter().map(|line| line.split('\t').map(safe::one_line).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let longest = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        (longest.unwrap_or(0) + 3).max(5)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let last = row.len() - 1;
        for (column, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if column < last {
                text.extend(std::iter::repeat_n(' ', widths[column].saturating_sub(cell.chars().count())));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_padded_but_the_last() {
        let lines = ["NAME\tERRORS".to_owned(), "a\t".to_owned(), "longname\tx".to_owned()];
        assert_eq!(aligned(&lines), "NAME       ERRORS\na          \nlongname   x\n");
    }

    #[test]
    fn a_cell_is_one_line_whatever_is_in_it() {
        assert_eq!(aligned(&["a\u{1b}[2J\nb\tc".to_owned()]), "a\u{fffd}[2J\u{fffd}b   c\n");
    }
}
