//! Tables for people.

/// Cells separated by tabs, every column but the last padded to max(5, longest + 3) characters.
pub fn aligned(lines: &[String]) -> String {
    let rows: Vec<Vec<&str>> = lines.iter().map(|line| line.split('\t').collect()).collect();
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
