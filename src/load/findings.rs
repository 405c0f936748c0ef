//! The diagnostics of one text, each with its place: [`Findings`].

use std::collections::BTreeSet;
use std::ops::Range;

use super::Diagnosis;
use crate::model::diagnostic::{Diagnostic, Place, Severity};
use crate::model::id::BatchName;
use crate::model::text::counted;

/// The most diagnostics of one file that are shown: more is a file of another kind, and nobody reads on.
pub const DIAGNOSTICS_PER_FILE_MAX: usize = 50;

/// One text and what is wrong with it.
pub(super) struct Findings<'t> {
    batch: Option<BatchName>,
    file: String,
    text: &'t str,
    /// Where each line begins: places are found without reading the text again.
    line_starts: Vec<usize>,
    /// Lines that are no TOML. What seems wrong beside them may be their echo, so it is not told.
    broken_lines: BTreeSet<u32>,
    diagnostics: Vec<Diagnostic>,
    untold: usize,
}

impl<'t> Findings<'t> {
    /// No complaint yet about `text`, which is the file `file` of `batch`.
    pub(super) fn new(batch: Option<BatchName>, file: impl Into<String>, text: &'t str) -> Self {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let (broken_lines, diagnostics) = (BTreeSet::new(), Vec::new());
        Self { batch, file: file.into(), text, line_starts, broken_lines, diagnostics, untold: 0 }
    }

    /// The text.
    pub(super) fn text(&self) -> &'t str {
        self.text
    }

    /// Whether there is an error.
    pub(super) fn has_errors(&self) -> bool {
        self.untold > 0 || self.diagnostics.iter().any(Diagnostic::is_error)
    }

    /// Complains about the bytes `span`.
    pub(super) fn at(&mut self, span: Range<usize>, diagnosis: Diagnosis) {
        self.at_place(self.place(span), diagnosis);
    }

    /// Remarks on the bytes `span`: what is there can be used.
    pub(super) fn remark(&mut self, span: Range<usize>, diagnosis: Diagnosis) {
        let place = self.place(span);
        if !self.broken_lines.contains(&place.line) {
            self.add(Some(place), diagnosis, Severity::Remark);
        }
    }

    /// Remarks on the text as a whole.
    pub(super) fn remark_on_whole(&mut self, diagnosis: Diagnosis) {
        if self.broken_lines.is_empty() {
            self.add(None, diagnosis, Severity::Remark);
        }
    }

    /// Complains about a place in the text.
    pub(super) fn at_place(&mut self, place: Place, diagnosis: Diagnosis) {
        if self.broken_lines.contains(&place.line) {
            self.untold += 1;
        } else {
            self.add(Some(place), diagnosis, Severity::Error);
        }
    }

    /// Complains about a line that is no TOML, once a line; `echoes` if it throws off the lines below it too, up to the
    /// next that begins a section.
    pub(super) fn broken(&mut self, span: Range<usize>, echoes: bool, diagnosis: Diagnosis) {
        let place = self.place(span);
        if !self.broken_lines.insert(place.line) {
            return;
        }
        if echoes {
            let below = self.text.lines().zip(1..).skip(place.line as usize);
            let affected = below.take_while(|(line, _)| !line.trim_start().starts_with('['));
            self.broken_lines.extend(affected.map(|(_, number)| number));
        }
        self.add(Some(place), diagnosis, Severity::Error);
    }

    /// Complains about the text as a whole.
    pub(super) fn whole(&mut self, diagnosis: Diagnosis) {
        if self.broken_lines.is_empty() {
            self.add(None, diagnosis, Severity::Error);
        } else {
            self.untold += 1;
        }
    }

    fn add(&mut self, place: Option<Place>, diagnosis: Diagnosis, severity: Severity) {
        let Diagnosis { what, hint } = diagnosis;
        let (batch, file) = (self.batch.clone(), self.file.clone());
        self.diagnostics.push(Diagnostic { batch, file, place, severity, what, hint });
    }

    /// The place of the bytes `span`: of its first line, if it has several.
    pub(super) fn place(&self, span: Range<usize>) -> Place {
        let start = self.text.floor_char_boundary(span.start);
        let line = self.line_starts.partition_point(|line_start| *line_start <= start) - 1;
        let line_start = self.line_starts[line];
        let rest = &self.text[line_start..];
        let whole_line = rest.split('\n').next().unwrap_or_default();
        let whole_line = whole_line.strip_suffix('\r').unwrap_or(whole_line);
        let end = self.text.floor_char_boundary(span.end).min(line_start + whole_line.len()).max(start);
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let characters = |to: usize| self.text[line_start..to].chars().count();
        Place::in_line(number(line + 1), whole_line, characters(start)..characters(end))
    }

    /// All complaints in the order of the text, at most [`DIAGNOSTICS_PER_FILE_MAX`].
    pub(super) fn into_diagnostics(mut self) -> Vec<Diagnostic> {
        let position = |diagnostic: &Diagnostic| diagnostic.place.as_ref().map(|place| (place.line, place.column));
        self.diagnostics.sort_by_key(position);
        if let Some(more) = self.diagnostics.len().checked_sub(DIAGNOSTICS_PER_FILE_MAX).filter(|more| *more > 0) {
            let dropped = self.diagnostics.split_off(DIAGNOSTICS_PER_FILE_MAX);
            let is_error = dropped.iter().any(Diagnostic::is_error);
            let severity = if is_error { Severity::Error } else { Severity::Remark };
            let what = format!("{} not shown", counted(more, "more diagnostic is", "more diagnostics are"));
            self.add(None, Diagnosis::new(what), severity);
        }
        self.diagnostics
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::text::QUOTED_CHARACTERS_MAX;

    #[test]
    fn places() {
        let check = |text: &str, span: Range<usize>, line: u32, column: u32, excerpt: &str, marked: u32| {
            let place = Findings::new(None, "f", text).place(span);
            let excerpt = excerpt.to_owned();
            let expected = Place { line, column, excerpt, skipped_characters: 0, marked_characters: marked };
            assert_eq!(place, expected, "{text:?}");
        };
        check("ab\ncd", 3..5, 2, 1, "cd", 2);
        check("ä = 1\r\n", 5..6, 1, 5, "ä = 1", 1);
        check("a\nb", 0..3, 1, 1, "a", 1);
        check("", 0..0, 1, 1, "", 1);
        check("a\n", 2..2, 2, 1, "", 1);
        check("a", 7..9, 1, 2, "a", 1);
        check("é", 1..2, 1, 1, "é", 1);
    }

    #[test]
    fn long_lines_and_long_lists_are_cut() {
        let line = "x".repeat(5000);
        let mut findings = Findings::new(None, "f", &line);
        for at in 0..DIAGNOSTICS_PER_FILE_MAX + 7 {
            findings.at(at..at + 1, Diagnosis::new("wrong"));
        }
        let diagnostics = findings.into_diagnostics();
        assert_eq!(diagnostics.len(), DIAGNOSTICS_PER_FILE_MAX + 1);
        assert_eq!(diagnostics[0].place.as_ref().unwrap().excerpt.chars().count(), QUOTED_CHARACTERS_MAX + 1);
        assert_eq!(diagnostics.last().unwrap().what, "7 more diagnostics are not shown");
    }
}
