//! What the workspace's programs print: tables for terminals and Markdown, readable numbers, and an error with its causes.
//!
//! It stands in this crate because all programs may use it, and it needs the standard library alone.

use std::error::Error;
use std::fmt::Write as _;

/// Rows of cells for a terminal: the first column to the left, all others to the right.
#[derive(Clone, Debug, Default)]
pub struct Table {
    least: Vec<usize>,
    gap: usize,
    indent: usize,
    rows: Vec<(Vec<String>, String)>,
}

impl Table {
    /// A table whose column `c` has at least `least[c]` characters, the space before it included. Columns without such a number
    /// are as wide as their widest cell.
    #[must_use]
    pub fn new(least: &[usize]) -> Self {
        Self {
            least: least.to_vec(),
            gap: 1,
            ..Self::default()
        }
    }

    /// The same with at least so many spaces between columns and before each line.
    #[must_use]
    pub const fn spaced(mut self, gap: usize, indent: usize) -> Self {
        (self.gap, self.indent) = (gap, indent);
        self
    }

    /// Adds a row. `remark` follows the last column as it is.
    pub fn row(
        &mut self,
        cells: impl IntoIterator<Item = impl Into<String>>,
        remark: impl Into<String>,
    ) {
        let cells = cells.into_iter().map(Into::into).collect();
        self.rows.push((cells, remark.into()));
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().filter_map(|(row, _)| row.get(column));
        let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        let gap = if column == 0 { 0 } else { self.gap };
        let least = self.least.get(column).copied().unwrap_or(0);
        least.max(widest + gap)
    }
}

impl std::fmt::Display for Table {
    /// Lines, each with its end.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let n_columns = self.rows.iter().map(|(row, _)| row.len()).max();
        let widths: Vec<usize> = (0..n_columns.unwrap_or(0)).map(|c| self.width(c)).collect();
        for (row, remark) in &self.rows {
            let mut line = " ".repeat(self.indent);
            for (c, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                match c {
                    0 => write!(line, "{cell:width$}")?,
                    _ => write!(line, "{cell:>width$}")?,
                }
            }
            line += remark;
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Rows as indented lines, each column as wide as its widest cell.
#[must_use]
pub fn columns(rows: &[Vec<String>]) -> String {
    let mut table = Table::default().spaced(3, 2);
    for row in rows {
        table.row(row, "");
    }
    table.to_string()
}

/// A table in Markdown, with an empty line after it.
#[must_use]
pub fn markdown(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut text = format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(head.len()));
    for row in rows {
        text += &format!("| {} |\n", row.join(" | "));
    }
    text + "\n"
}

/// Decimal units, three or four digits: 1,500,000 is 1.50 MB.
#[must_use]
pub fn bytes(n: f64) -> String {
    match n {
        n if n < 1e3 => format!("{n:.0} B"),
        n if n < 1e6 => format!("{:.1} kB", n / 1e3),
        n if n < 1e9 => format!("{:.2} MB", n / 1e6),
        n => format!("{:.2} GB", n / 1e9),
    }
}

/// 1234567 as 1,234,567.
#[must_use]
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

/// Text of another party as a terminal may see it: what could move the cursor, end a line or turn the direction of writing is escaped.
#[must_use]
pub fn shown(text: &str) -> String {
    let acts = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match acts(c) {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

/// An error, and those of its causes that its own text leaves out.
#[must_use]
pub fn explain(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        match text.contains(&cause) {
            true => text,
            false => format!("{text}: {cause}"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["a", "1"], ["bcd", "234"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(columns(&rows), "  a       1\n  bcd   234\n");
        let mut least = Table::new(&[4, 6]);
        least.row(["name", "up"], "   for each");
        least.row(["a", "1,234,567"], "");
        assert_eq!(
            least.to_string(),
            "name        up   for each\na    1,234,567\n"
        );
        let rows = [vec!["1".to_owned(), "2".to_owned()]];
        assert_eq!(
            markdown(&["a", "b"], &rows),
            "| a | b |\n|---|---|\n| 1 | 2 |\n\n"
        );
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!([thousands(12), thousands(1_000)], ["12", "1,000"]);
        assert_eq!(bytes(999.0), "999 B");
        assert_eq!([bytes(1.5e6), bytes(2e9)], ["1.50 MB", "2.00 GB"]);
    }

    #[test]
    fn what_acts_on_a_terminal_is_escaped_and_the_rest_stays() {
        assert_eq!(shown("Katze 猫 é \u{1f408}"), "Katze 猫 é \u{1f408}");
        let text = "\u{1b}]0;title\u{7}a\r\n\u{9b}2K\u{202e}b\u{2028}";
        assert_eq!(
            shown(text),
            "\\u{1b}]0;title\\u{7}a\\r\\n\\u{9b}2K\\u{202e}b\\u{2028}"
        );
    }

    #[test]
    fn an_error_tells_each_cause_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("{0}")]
        struct Layer(&'static str, #[source] Option<Box<Layer>>);
        let cause = Layer("no space", None);
        let again = Layer("cannot write: no space", Some(Box::new(cause)));
        let error = Layer("the report", Some(Box::new(again)));
        assert_eq!(explain(&error), "the report: cannot write: no space");
    }
}
