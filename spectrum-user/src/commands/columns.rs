//! Rows of text whose columns are aligned. Wraps nothing: what may be long stands in the last column.

use std::fmt::Write as _;
use std::io::{self, Write};

/// A table of `N` columns under their titles. Columns of numbers are aligned to the right.
pub(super) struct Columns<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Columns<N> {
    pub(super) fn of(titles: [&str; N]) -> Self {
        Self { rows: vec![titles.map(str::to_owned)] }
    }

    pub(super) fn row(&mut self, cells: [&str; N]) {
        self.rows.push(cells.map(str::to_owned));
    }

    /// Writes every row behind `indent`. Without rows not even the titles.
    pub(super) fn write(&self, out: &mut dyn Write, indent: &str) -> io::Result<()> {
        let Some((titles, rows)) = self.rows.split_first() else { return Ok(()) };
        if rows.is_empty() {
            return Ok(());
        }
        let mut widths = [0; N];
        let mut numeric = [true; N];
        for row in rows {
            for (cell, numeric) in row.iter().zip(&mut numeric) {
                // What is empty goes on with the row above.
                *numeric &= cell.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
            }
        }
        for row in &self.rows {
            for (cell, width) in row.iter().zip(&mut widths) {
                *width = cell.chars().count().max(*width);
            }
        }
        for row in std::iter::once(titles).chain(rows) {
            let mut line = indent.to_owned();
            for (at, ((cell, width), numeric)) in row.iter().zip(widths).zip(numeric).enumerate() {
                if at > 0 {
                    line.push_str("  ");
                }
                // Writing to a String cannot fail.
                let _ = if numeric { write!(line, "{cell:>width$}") } else { write!(line, "{cell:width$}") };
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_numbers_to_the_right() {
        let mut columns = Columns::of(["NAME", "OPEN", "WHAT"]);
        columns.row(["a", "7", "x"]);
        columns.row(["games", "12345", "something longer"]);
        columns.row(["", "", "and more of it"]);
        let mut out = Vec::new();
        columns.write(&mut out, "  ").unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "  NAME    OPEN  WHAT\n  a          7  x\n  games  12345  something longer\n                \
             and more of it\n"
        );
    }

    #[test]
    fn titles_of_nothing_are_not_written() {
        let mut out = Vec::new();
        Columns::of(["NAME"]).write(&mut out, "").unwrap();
        assert!(out.is_empty());
    }
}
