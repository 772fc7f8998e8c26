//! Aligned text and readable numbers.

/// Rows of cells as lines, each column as wide as its widest cell; the first column to the left, all others to the
/// right.
pub fn align(rows: &[Vec<String>]) -> String {
    let n_columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..n_columns)
        .map(|c| {
            let cells = rows.iter().filter_map(|row| row.get(c));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::from("  ");
        for (c, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let space = " ".repeat(width - cell.chars().count());
            let gap = if c == 0 { "" } else { "   " };
            line += &match c {
                0 => format!("{cell}{space}"),
                _ => format!("{gap}{space}{cell}"),
            };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// Decimal units.
pub fn bytes(n: f64) -> String {
    match n {
        x if x < 1e3 => format!("{x:.0} B"),
        x if x < 1e6 => format!("{:.1} kB", x / 1e3),
        x if x < 1e9 => format!("{:.2} MB", x / 1e6),
        x => format!("{:.2} GB", x / 1e9),
    }
}

/// Seconds or milliseconds.
pub fn seconds(s: f64) -> String {
    if s < 1.0 {
        format!("{:.0} ms", s * 1e3)
    } else {
        format!("{s:.2} s")
    }
}

/// 1234567 as 1,234,567.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["a", "1"], ["bcd", "234"]].map(|r| r.map(str::to_owned).to_vec());
        assert_eq!(align(&rows), "  a       1\n  bcd   234\n");
        assert_eq!(thousands(1_000), "1,000");
        assert_eq!(
            (bytes(1.5e6), seconds(0.25)),
            ("1.50 MB".into(), "250 ms".into())
        );
    }
}
