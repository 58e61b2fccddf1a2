//! Rows as they come: a table for a person or JSON lines for a program. Judges nothing: rows know their goals.

use xtask::style::Style;

use super::row::Row;
use super::statistics::Spread;

/// The form of rows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Format {
    /// One JSON object a line.
    Json,
    /// A table for each benchmark.
    Table,
}

/// The collector of what benchmarks find out. A row is shown at once: some take minutes.
#[derive(Debug)]
pub(super) struct Report {
    format: Format,
    style: Style,
    bench: &'static str,
    rows: usize,
}

impl Report {
    /// One without rows.
    pub(super) fn new(format: Format) -> Self {
        Self { format, style: Style::of_stdout(), bench: "", rows: 0 }
    }

    /// Begins the benchmark `bench`, which measures `about`.
    pub(super) fn open(&mut self, bench: &'static str, about: &str) {
        (self.bench, self.rows) = (bench, 0);
        if self.format == Format::Table {
            let head = format!(
                "  {:<20} {:<15} {:>9} {:<5} {:>6} {:<13} {:<9}",
                "case", "subject", "median", "unit", "ratio", "middle half", "to"
            );
            println!("\n{}: {about}\n{}", self.style.title(bench), self.style.faint(head.trim_end()));
        }
    }

    /// True if the benchmark has no row yet.
    pub(super) fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Shows `row`.
    pub(super) fn add(&mut self, row: &Row) {
        self.rows += 1;
        match self.format {
            Format::Json => println!("{}", row.to_json(self.bench)),
            Format::Table => println!("{}", self.line(row)),
        }
    }

    fn line(&self, row: &Row) -> String {
        let (ratio, spread, peer) = row.peer.as_ref().map_or_else(Default::default, |peer| {
            let Spread { low, median, high } = peer.ratio;
            (format!("{median:.3}"), format!("{low:.3}-{high:.3}"), peer.name.clone())
        });
        let goal = match (row.met(), row.goal_in_words()) {
            (Some(true), Some(goal)) => self.style.good(&format!("met: {goal}")),
            (Some(false), Some(goal)) => self.style.bad(&format!("missed: {goal}")),
            _ => String::new(),
        };
        let Row { case, subject, value, unit, .. } = row;
        let line = format!(
            "  {case:<20} {subject:<15} {:>9} {unit:<5} {ratio:>6} {spread:<13} {peer:<9} {goal}",
            figures(*value)
        );
        line.trim_end().to_owned()
    }
}

/// Three digits at least: some values are thousands, others thousandths.
fn figures(value: f64) -> String {
    let decimals = match value.abs() {
        100.0.. => 1,
        1.0.. => 2,
        _ => 4,
    };
    format!("{value:.decimals$}")
}
