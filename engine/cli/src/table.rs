//! Aligned columns: what Go's tabwriter makes of cells between tabs.

/// Aligns the cells of `text`, which end with tabs. A column is as wide as its widest cell plus `padding`, at least
/// `minimum`; the last cell of a line is not a column. Columns end where a line has no such cell, as in Go.
pub(crate) fn align(text: &str, minimum: usize, padding: usize) -> String {
    let lines: Vec<Vec<&str>> = text.split('\n').map(|line| line.split('\t').collect()).collect();
    let columns = lines.iter().map(|cells| cells.len() - 1).max().unwrap_or(0);
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|cells| vec![0; cells.len() - 1]).collect();
    for column in 0..columns {
        let mut start = 0;
        while start < lines.len() {
            let end = lines[start..]
                .iter()
                .position(|cells| cells.len() <= column + 1)
                .map_or(lines.len(), |length| start + length);
            let block = &lines[start..end];
            let widest = block.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0);
            // A column of nothing but empty cells takes no room.
            let width = if widest == 0 && minimum == 0 { 0 } else { (widest + padding).max(minimum) };
            for line in &mut widths[start..end] {
                line[column] = width;
            }
            start = end + 1;
        }
    }
    let mut out = String::with_capacity(text.len() * 2);
    for (index, (cells, widths)) in lines.iter().zip(&widths).enumerate() {
        if index > 0 {
            out.push('\n');
        }
        for (cell, width) in cells.iter().zip(widths) {
            out.push_str(cell);
            out.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
        }
        out.push_str(cells.last().copied().unwrap_or_default());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::align;

    #[test]
    fn columns_are_at_least_ten_wide_and_three_apart() {
        assert_eq!(
            align("NAME\tDRIVER\tSCOPE\na-very-long-name\tx\ty\n", 10, 3),
            "NAME               DRIVER    SCOPE\na-very-long-name   x         y\n"
        );
    }

    #[test]
    fn a_line_without_the_cell_ends_the_column() {
        assert_eq!(align("aaaaaaaaaaaa\tb\nplain\nc\td\n", 4, 1), "aaaaaaaaaaaa b\nplain\nc   d\n");
    }

    #[test]
    fn an_empty_last_cell_leaves_no_padding() {
        assert_eq!(align("A\tB\n1\t\n", 3, 1), "A  B\n1  \n");
    }
}
