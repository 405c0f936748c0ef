//! Tables and their colours, for people: [`Table`].
//!
//! On a terminal a table is fitted into its width and coloured; elsewhere nothing is cut, so that `grep` and `awk` see it
//! all. Ids and times are never cut.

use std::fmt::Write as _;

use super::escape;
use crate::model::run::Outcome;

/// Between two columns.
const GAP: &str = "  ";
/// No column is cut to less.
const COLUMN_WIDTH_MIN: usize = 8;
/// No column is cut to less while another one can be left out: a schedule of 5 fields or the name of an upstream fits.
const COLUMN_WIDTH_SPARE: usize = 16;
/// If less is left for notes, all of them are shown below their rows: a column of single words can't be read.
const NOTE_WIDTH_MIN: usize = 12;
/// Longer ids get a line of their own before a column is left out: they take a third of a usual terminal and more.
const ID_WIDTH_BESIDE: usize = 30;
/// What stands before a note, or before the rest of a row, on a line of its own.
const INDENT: &str = "    ";
/// A longer note is cut: it may be a whole message of some program. `batchd show` has all of it.
const NOTE_LINES_MAX: usize = 3;

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

/// A column's heading, and what may be done to the column where the width is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    /// It is never cut: times, single words.
    Whole(&'static str),
    /// Names or ids, which are never cut. They get a line of their own where they leave too little room for the rest.
    Id(&'static str),
    /// It is never cut, but left out if there is no other way.
    Spare(&'static str),
    /// Its texts are cut.
    Cut(&'static str),
    /// Sentences, in the last column only. One that does not fit is shown below its row.
    Note(&'static str),
}

/// Rows under headings.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

/// A column that is shown: its index, and its width.
type Shown = (usize, usize);

/// How the columns share the width of the terminal.
#[derive(Debug)]
struct Layout {
    columns: Vec<Shown>,
    /// The column of ids, if it has a line of its own above the others, where the terminal is too narrow for one line.
    above: Option<usize>,
    /// The column whose texts are shown below their rows if they don't fit.
    note: Option<usize>,
    /// Of the terminal.
    width: Option<usize>,
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

    /// The text, harmless.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The same with another text.
    pub(super) fn with_text(self, text: impl FnOnce(&str) -> String) -> Self {
        Self::styled(text(&self.text), self.style)
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

impl Column {
    fn heading(self) -> &'static str {
        match self {
            Self::Whole(text) | Self::Id(text) | Self::Spare(text) | Self::Cut(text) | Self::Note(text) => text,
        }
    }
}

impl Table {
    /// A table without rows.
    pub(super) fn new(columns: impl Into<Vec<Column>>) -> Self {
        Self { columns: columns.into(), rows: Vec::new() }
    }

    /// Adds a row of as many cells as there are columns.
    pub(super) fn row(&mut self, cells: impl Into<Vec<Cell>>) {
        let cells = cells.into();
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells);
    }

    /// The table as text, a line end behind every line; nothing at all if it has no rows.
    ///
    /// A column in which no row has a text is left out.
    pub(super) fn show(&self, look: Look) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let layout = self.layout(look.width);
        let headings: Vec<Cell> =
            self.columns.iter().map(|column| Cell::styled(column.heading(), Style::Heading)).collect();
        let mut text = String::new();
        for cells in std::iter::once(&headings).chain(&self.rows) {
            layout.push_line(&mut text, cells, look);
            if !std::ptr::eq(cells, &headings) {
                layout.push_note(&mut text, cells, look);
            }
        }
        text
    }

    /// The widest text of a column, with its heading.
    fn width(&self, column: usize) -> usize {
        let texts = self.rows.iter().map(|row| width(&row[column].text));
        texts.max().unwrap_or(0).max(width(self.columns[column].heading()))
    }

    fn layout(&self, width: Option<usize>) -> Layout {
        let is_empty = |column: &usize| self.rows.iter().all(|row| row[*column].text.is_empty());
        let shown = (0..self.columns.len()).filter(|column| !is_empty(column));
        let columns: Vec<Shown> = shown.map(|column| (column, self.width(column))).collect();
        let mut layout = Layout { columns, above: None, note: None, width };
        let Some(width) = width else { return layout };
        let last = layout.columns.last().copied();
        let note = last.filter(|(column, _)| matches!(self.columns[*column], Column::Note(_)));
        if let Some((column, natural)) = note.filter(|_| total(&layout.columns) > width) {
            layout.columns.pop();
            layout.note = Some(column);
            let room = width.saturating_sub(total(&layout.columns) + GAP.len());
            let fitting = self.rows.iter().map(|row| crate::cli::table::width(&row[column].text));
            let fitting = fitting.filter(|text| *text <= room.min(natural)).max().unwrap_or(0);
            if room >= NOTE_WIDTH_MIN && fitting > 0 {
                layout.columns.push((column, fitting.max(self.columns[column].heading().len())));
            }
        }
        (layout.above, layout.columns) = self.fit(&layout.columns, width);
        layout
    }

    /// The first way to share the width in which all fits, else the narrowest: the column above the others, and the others.
    fn fit(&self, columns: &[Shown], width: usize) -> (Option<usize>, Vec<Shown>) {
        let mut narrowest = (None, columns.to_vec());
        for (above, columns) in self.ways(columns) {
            let has_spare = columns.iter().any(|(column, _)| self.is_spare(*column));
            let least = if has_spare { COLUMN_WIDTH_SPARE } else { COLUMN_WIDTH_MIN };
            let room = if above.is_some() { width.saturating_sub(INDENT.len()) } else { width };
            let columns = self.narrowed(columns, room, least);
            let fits = total(&columns) <= room;
            narrowest = (above, columns);
            if fits {
                break;
            }
        }
        narrowest
    }

    /// The ways to share a line, the best first: spare columns are left out from the right. Short ids stay beside the others
    /// as long as that is possible; for a long one, a line of its own is better than a column less.
    fn ways(&self, columns: &[Shown]) -> Vec<(Option<usize>, Vec<Shown>)> {
        let without_spares = |mut columns: Vec<Shown>| {
            let mut fewer = vec![columns.clone()];
            while let Some(at) = columns.iter().rposition(|(column, _)| self.is_spare(*column)) {
                columns.remove(at);
                fewer.push(columns.clone());
            }
            fewer
        };
        let beside = without_spares(columns.to_vec()).into_iter().map(|columns| (None, columns));
        let Some(at) = columns.iter().position(|(column, _)| matches!(self.columns[*column], Column::Id(_))) else {
            return beside.collect();
        };
        let mut others = columns.to_vec();
        let (id, id_width) = others.remove(at);
        let below = without_spares(others).into_iter().map(|columns| (Some(id), columns));
        if id_width > ID_WIDTH_BESIDE {
            beside.zip(below).flat_map(|(beside, below)| [beside, below]).collect()
        } else {
            beside.chain(below).collect()
        }
    }

    fn is_spare(&self, column: usize) -> bool {
        matches!(self.columns[column], Column::Spare(_))
    }

    /// Cuts columns to `least` or more until all fit, if that is enough.
    fn narrowed(&self, mut columns: Vec<Shown>, width_max: usize, least: usize) -> Vec<Shown> {
        while total(&columns) > width_max {
            let cut = columns.iter_mut().filter(|(column, _)| matches!(self.columns[*column], Column::Cut(_)));
            let Some((_, width)) = cut.max_by_key(|(_, width)| *width).filter(|(_, width)| *width > least) else {
                break;
            };
            *width -= 1;
        }
        columns
    }
}

/// The width of a line of these columns.
fn total(columns: &[Shown]) -> usize {
    columns.iter().map(|(_, width)| width).sum::<usize>() + GAP.len() * columns.len().saturating_sub(1)
}

impl Layout {
    /// The cells of a row, each in its width. A note that doesn't fit is left to [`Self::push_note`].
    fn push_line(&self, text: &mut String, cells: &[Cell], look: Look) {
        let shows = |(column, _): &Shown| !cells[*column].text.is_empty();
        if let Some(column) = self.above {
            push_cell(text, &cells[column], usize::MAX, true, look);
            text.push('\n');
            if !self.columns.iter().any(shows) {
                return;
            }
            text.push_str(INDENT);
        }
        for (at, (column, width_max)) in self.columns.iter().enumerate() {
            let goes_below = self.note == Some(*column) && width(&cells[*column].text) > *width_max;
            let cell = if goes_below { &Cell::default() } else { &cells[*column] };
            push_cell(text, cell, *width_max, at + 1 == self.columns.len(), look);
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }

    fn push_note(&self, text: &mut String, cells: &[Cell], look: Look) {
        let (Some(column), Some(line)) = (self.note, self.width) else { return };
        let cell = &cells[column];
        let in_row = self.columns.iter().find(|(shown, _)| *shown == column).map_or(0, |(_, width)| *width);
        if width(&cell.text) <= in_row {
            return;
        }
        for words in wrap(&cell.text, line.saturating_sub(INDENT.len()).max(COLUMN_WIDTH_MIN)) {
            // Writing to a String never fails.
            let _ = writeln!(text, "{INDENT}{}", Cell { text: words, style: cell.style }.paint(look));
        }
    }
}

/// The text in lines of at most `width_max` columns, broken between words where that is possible.
fn wrap(text: &str, width_max: usize) -> Vec<String> {
    let mut lines = words_in_lines(text, width_max);
    let is_cut = lines.len() > NOTE_LINES_MAX;
    lines.truncate(NOTE_LINES_MAX);
    if let Some(last) = lines.last_mut().filter(|_| is_cut) {
        last.push_str(" …");
    }
    lines.iter().map(|line| cut(line, width_max)).collect()
}

/// The text in lines of at most `width_max` columns, or of one longer word.
pub(super) fn words_in_lines(text: &str, width_max: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if width(line) + 1 + width(word) <= width_max => {
                line.push(' ');
                line.push_str(word);
            }
            Some(_) | None => lines.push(word.to_owned()),
        }
    }
    lines
}

/// One cell, cut to its width, and the space up to the next column.
fn push_cell(text: &mut String, cell: &Cell, width_max: usize, is_last: bool, look: Look) {
    let cut = Cell { text: cut(&cell.text, width_max), style: cell.style };
    // Writing to a String never fails.
    let _ = write!(text, "{}", cut.paint(look));
    if !is_last {
        text.extend(std::iter::repeat_n(' ', width_max - width(&cut.text)));
        text.push_str(GAP);
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

    fn table(rows: &[[&str; 4]]) -> Table {
        let mut table =
            Table::new([Column::Id("BATCH"), Column::Cut("STARTS"), Column::Spare("TOOK"), Column::Note("WHY")]);
        rows.iter().for_each(|row| table.row(row.map(Cell::plain)));
        table
    }

    #[track_caller]
    fn check(rows: &[[&str; 4]], width: Option<usize>, expected: &str) {
        assert_eq!(table(rows).show(Look { width, ..PIPE }), expected, "{rows:?} {width:?}");
    }

    #[test]
    fn tables() {
        check(&[], None, "");
        check(&[["a", "lost", "", ""], ["load", "", "", ""]], None, "BATCH  STARTS\na      lost\nload\n");
        let long = "exit code 3 of the script";
        check(&[["a", "now", "", long]], None, "BATCH  STARTS  WHY\na      now     exit code 3 of the script\n");
        check(&[["a", "x\x1b[0m\n", "", ""]], None, "BATCH  STARTS\na      x\\x1b[0m\\n\n");
    }

    #[test]
    fn what_is_too_long_goes_below_and_ids_are_whole() {
        let long = "exit code 3 of the script";
        let rows = [["a", "now", "3s", long], ["b", "now", "", "gone"]];
        let expected = "\
BATCH  STARTS  TOOK  WHY
a      now     3s
    exit code 3 of the script
b      now           gone
";
        check(&rows, Some(34), expected);
        // Not even one word has its place beside the row.
        check(&rows[..1], Some(28), "BATCH  STARTS  TOOK\na      now     3s\n    exit code 3 of the\n    script\n");
        let id = ["a-long-batch-name.1234", "0 2 * * 1-5 and more", "3s", ""];
        let expected = "BATCH                   STARTS            TOOK\na-long-batch-name.1234  0 2 * * 1-5 and…  3s\n";
        check(&[id], Some(46), expected);
        // What can be spared goes before a text is cut to a stump.
        check(&[id], Some(45), "BATCH                   STARTS\na-long-batch-name.1234  0 2 * * 1-5 and more\n");
        check(&[id], Some(34), "BATCH                   STARTS\na-long-batch-name.1234  0 2 * * 1…\n");
        // Then the first cell gets a line of its own.
        check(
            &[id],
            Some(30),
            "BATCH\n    STARTS                TOOK\na-long-batch-name.1234\n    0 2 * * 1-5 and more  3s\n",
        );
        check(&[["a-long-batch-name", "", "", ""]; 2], Some(8), "BATCH\na-long-batch-name\na-long-batch-name\n");
        let endless = ["a", "", "", &"word ".repeat(40)];
        let shown = table(&[endless]).show(Look { width: Some(24), ..PIPE });
        assert_eq!(shown.lines().count(), 2 + NOTE_LINES_MAX, "{shown}");
        assert!(shown.lines().all(|line| width(line) <= 24) && shown.contains('…'), "{shown}");
        check(&[["a", "", "", "漢字漢字漢字漢字"]], Some(16), "BATCH\na\n    漢字漢字漢…\n");
    }

    #[test]
    fn colours_take_no_room() {
        let mut table = Table::new([Column::Whole("A"), Column::Whole("B")]);
        table.row([Cell::styled("ok", Style::Good), Cell::plain("x")]);
        let look = Look { width: Some(80), colour: true };
        assert_eq!(table.show(look), "\x1b[1mA\x1b[0m   \x1b[1mB\x1b[0m\n\x1b[32mok\x1b[0m  x\n");
    }
}
