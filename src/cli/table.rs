//! Tables and their colours, for people: [`Table`].
//!
//! On a terminal a table is cut to its width and coloured; elsewhere nothing is cut, so that `grep` and `awk` see it all.

use std::fmt::Write as _;

use super::escape;
use crate::model::run::Outcome;

/// Between two columns.
const GAP: &str = "  ";
/// No column is cut to less.
const COLUMN_WIDTH_MIN: usize = 8;

/// How a cell looks where there are colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Style {
    /// As the terminal has it.
    #[default]
    Plain,
    /// It went well.
    Good,
    /// It went wrong.
    Bad,
    /// Worth a look.
    Warning,
    /// It is under way.
    Active,
    /// Of less weight.
    Dim,
    /// A heading.
    Heading,
}

/// A text and how it looks. Made harmless for terminals when it is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cell {
    text: String,
    style: Style,
}

/// Rows under headings.
#[derive(Debug)]
pub(super) struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

/// Where a text is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// The columns of the terminal; none where nothing needs to be cut.
    pub width: Option<usize>,
    /// Whether to use colours.
    pub colour: bool,
}

impl Cell {
    /// A cell without a style.
    pub(super) fn plain(text: impl AsRef<str>) -> Self {
        Self::styled(text, Style::Plain)
    }

    /// A cell with a style.
    pub(super) fn styled(text: impl AsRef<str>, style: Style) -> Self {
        Self { text: escape::line(text.as_ref()).into_owned(), style }
    }

    /// The text, harmless, with its colour around it.
    pub(super) fn paint(&self, look: Look) -> String {
        let code = match self.style {
            Style::Plain => "",
            Style::Good => "32",
            Style::Bad => "31",
            Style::Warning => "33",
            Style::Active => "36",
            Style::Dim => "2",
            Style::Heading => "1",
        };
        if look.colour && !code.is_empty() { format!("\x1b[{code}m{}\x1b[0m", self.text) } else { self.text.clone() }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::plain(text)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::plain(text)
    }
}

impl Style {
    /// The colour of an outcome.
    pub(super) fn of(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Succeeded => Self::Good,
            Outcome::Failed | Outcome::TimedOut | Outcome::Lost => Self::Bad,
            Outcome::Cancelled | Outcome::Aborted => Self::Warning,
            Outcome::Skipped | Outcome::Missed => Self::Dim,
        }
    }
}

impl Table {
    /// A table without rows.
    pub(super) fn new(headings: impl Into<Vec<&'static str>>) -> Self {
        Self { headings: headings.into(), rows: Vec::new() }
    }

    /// Adds a row of as many cells as there are headings.
    pub(super) fn row(&mut self, cells: impl Into<Vec<Cell>>) {
        let cells = cells.into();
        debug_assert_eq!(cells.len(), self.headings.len());
        self.rows.push(cells);
    }

    /// The table as text, a line end behind every line; nothing at all if it has no rows.
    ///
    /// A column in which no row has a text is left out. Where the width is short, the widest columns are cut first.
    pub(super) fn show(&self, look: Look) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let shown: Vec<usize> = (0..self.headings.len())
            .filter(|column| self.rows.iter().any(|row| !row[*column].text.is_empty()))
            .collect();
        let headings: Vec<Cell> = self.headings.iter().map(|text| Cell::styled(text, Style::Heading)).collect();
        let lines = || std::iter::once(&headings).chain(&self.rows);
        let widths = shown.iter().map(|column| lines().map(|cells| width(&cells[*column].text)).max().unwrap_or(0));
        let mut widths: Vec<usize> = widths.collect();
        if let Some(width) = look.width {
            fit(&mut widths, width.saturating_sub(GAP.len() * shown.len().saturating_sub(1)));
        }
        let mut text = String::new();
        for cells in lines() {
            for (at, (column, width)) in shown.iter().zip(&widths).enumerate() {
                let is_last = at + 1 == shown.len();
                push_cell(&mut text, &cells[*column], *width, is_last, look);
            }
            text.truncate(text.trim_end_matches(' ').len());
            text.push('\n');
        }
        text
    }
}

/// One cell, cut to its width, and the space up to the next column.
fn push_cell(text: &mut String, cell: &Cell, width_max: usize, is_last: bool, look: Look) {
    let cut = Cell { text: cut(&cell.text, width_max), style: cell.style };
    let missing = width_max - width(&cut.text);
    // Writing to a String never fails.
    let _ = write!(text, "{}", cut.paint(look));
    if !is_last {
        text.extend(std::iter::repeat_n(' ', missing));
        text.push_str(GAP);
    }
}

/// Makes the widest columns narrower until all fit, none below the least width.
fn fit(widths: &mut [usize], available: usize) {
    let mut over = widths.iter().sum::<usize>().saturating_sub(available);
    while over > 0 {
        let Some(widest) = widths.iter_mut().max().filter(|width| **width > COLUMN_WIDTH_MIN) else { return };
        *widest -= 1;
        over -= 1;
    }
}

/// The text in at most `width_max` columns, with `…` for what is cut.
fn cut(text: &str, width_max: usize) -> String {
    if width(text) <= width_max {
        return text.to_owned();
    }
    let mut shown = String::new();
    let mut columns = 0;
    for c in text.chars() {
        columns += columns_of(c);
        if columns + 1 > width_max {
            break;
        }
        shown.push(c);
    }
    shown.push('…');
    shown
}

/// How many columns a text takes on a terminal.
pub(super) fn width(text: &str) -> usize {
    text.chars().map(columns_of).sum()
}

/// How many columns a character takes: the large blocks of Unicode's East Asian Width (UAX 11) and of combining marks. A
/// rare character beyond them shifts the rest of its line, no more.
fn columns_of(c: char) -> usize {
    match c as u32 {
        0x300..=0x36f | 0x200b..=0x200d | 0x20d0..=0x20ff | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff | 0xfe30..=0xfe6f => 2,
        0xff00..=0xff60 | 0xffe0..=0xffe6 | 0x1f300..=0x1faff | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIPE: Look = Look { width: None, colour: false };

    fn table(rows: &[[&str; 3]]) -> Table {
        let mut table = Table::new(["BATCH", "OUTCOME", "WHY"]);
        rows.iter().for_each(|row| table.row(row.map(Cell::plain)));
        table
    }

    #[test]
    fn tables() {
        let check = |rows: &[[&str; 3]], width: Option<usize>, expected: &str| {
            assert_eq!(table(rows).show(Look { width, ..PIPE }), expected, "{rows:?} {width:?}");
        };
        check(&[], None, "");
        check(&[["a", "lost", ""], ["load", "", ""]], None, "BATCH  OUTCOME\na      lost\nload\n");
        let long = "exit code 3 of the script";
        check(&[["a", "failed", long]], None, "BATCH  OUTCOME  WHY\na      failed   exit code 3 of the script\n");
        check(&[["a", "failed", long]], Some(28), "BATCH  OUTCOME  WHY\na      failed   exit code 3…\n");
        check(&[["a", "failed", "漢字漢字漢字漢字"]], Some(28), "BATCH  OUTCOME  WHY\na      failed   漢字漢字漢…\n");
        check(&[["a", "x\x1b[0m\n", ""]], None, "BATCH  OUTCOME\na      x\\x1b[0m\\n\n");
        check(&[["a", "failed", long]], Some(3), "BATCH  OUTCOME  WHY\na      failed   exit co…\n");
    }

    #[test]
    fn colours_take_no_room() {
        let mut table = Table::new(["A", "B"]);
        table.row([Cell::styled("ok", Style::Good), Cell::plain("x")]);
        let look = Look { width: Some(80), colour: true };
        assert_eq!(table.show(look), "\x1b[1mA\x1b[0m   \x1b[1mB\x1b[0m\n\x1b[32mok\x1b[0m  x\n");
    }
}
