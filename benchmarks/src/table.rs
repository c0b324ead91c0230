//! Tables for the terminal, which are Markdown as well.

use std::fmt;

/// A titled table with lines of explanation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Table {
    title: String,
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    notes: Vec<String>,
}

impl Table {
    /// A table without rows. The first column is text, the others are figures.
    pub(crate) fn new<const N: usize>(title: impl Into<String>, header: [&str; N]) -> Self {
        Self {
            title: title.into(),
            header: header.map(str::to_owned).to_vec(),
            rows: vec![],
            notes: vec![],
        }
    }

    /// Adds a row; it has as many cells as the header.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().collect();
        assert_eq!(cells.len(), self.header.len(), "a row has a cell for each column");
        self.rows.push(cells);
    }

    /// Adds a paragraph below the table.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    fn widths(&self) -> Vec<usize> {
        let width = |column: usize| {
            let cells = self
                .rows
                .iter()
                .chain([&self.header])
                .map(|row| row[column].chars().count());
            cells.max().unwrap_or(0).max(3)
        };
        (0..self.header.len()).map(width).collect()
    }
}

fn write_row(f: &mut fmt::Formatter<'_>, cells: &[String], widths: &[usize]) -> fmt::Result {
    for (column, (cell, &width)) in cells.iter().zip(widths).enumerate() {
        match column {
            0 => write!(f, "| {cell:<width$} ")?,
            _ => write!(f, "| {cell:>width$} ")?,
        }
    }
    writeln!(f, "|")
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        writeln!(f, "**{}**\n", self.title)?;
        write_row(f, &self.header, &widths)?;
        for (column, width) in widths.iter().enumerate() {
            match column {
                0 => write!(f, "|{}", "-".repeat(width + 2))?,
                _ => write!(f, "|{}:", "-".repeat(width + 1))?,
            }
        }
        writeln!(f, "|")?;
        self.rows.iter().try_for_each(|row| write_row(f, row, &widths))?;
        self.notes.iter().try_for_each(|note| writeln!(f, "\n{note}"))
    }
}

/// 1,234,567 for 1234567.2; no decimals.
pub(crate) fn grouped(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number <= -0.5 { format!("-{text}") } else { text }
}

/// Whether a goal was reached, in words.
pub(crate) fn verdict(goal: &str, reached: bool) -> String {
    format!("Goal: {goal}: {}.", if reached { "reached" } else { "**missed**" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_markdown_and_lines_up() {
        let mut table = Table::new("Speed", ["network", "images/s"]);
        table.row(["lenet5".to_owned(), grouped(12_345.4)]);
        table.row(["größer".to_owned(), "± 1".to_owned()]);
        table.note("Higher is better.");
        let want = "**Speed**\n\n\
                    | network | images/s |\n\
                    |---------|---------:|\n\
                    | lenet5  |   12,345 |\n\
                    | größer  |      ± 1 |\n\
                    \nHigher is better.\n";
        assert_eq!(table.to_string(), want);
    }

    #[test]
    #[should_panic(expected = "a cell for each column")]
    fn a_row_that_is_too_short_is_refused() {
        Table::new("Speed", ["network", "images/s"]).row(["lenet5".to_owned()]);
    }

    #[test]
    fn numbers_are_grouped_by_three() {
        let numbers = [0.0, 999.0, 1_000.0, 1_234_567.2, -1_000.0].map(grouped);
        assert_eq!(numbers, ["0", "999", "1,000", "1,234,567", "-1,000"]);
    }
}
