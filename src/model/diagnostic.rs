//! An error in a definition or the settings, or a remark on it: [`Diagnostic`].

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::id::{BATCH_NAME_CHARACTERS_MAX, BatchName};
use super::text::{QUOTED_CHARACTERS_MAX, is_active, shell_path, shown};

/// What a diagnostic means for the batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The definition can't be used.
    #[default]
    Error,
    /// The definition is used, and probably does not do what its author expects.
    Remark,
}

/// One error or remark, with its place and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Diagnostic {
    /// The batch concerned; none for the settings and for what is no batch at all.
    pub batch: Option<BatchName>,
    /// The file, as its path below the `batches.d` folder (`report/batch.toml`), or the settings' path.
    pub file: String,
    /// Where in the file, if it has a place there.
    pub place: Option<Place>,
    /// Whether it keeps the definition out of force.
    #[serde(default)]
    pub severity: Severity,
    /// What is wrong: one sentence without a full stop.
    pub what: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// A place in a text file, with the line's text to show it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// From 1.
    pub line: u32,
    /// In characters, from 1.
    pub column: u32,
    /// The line, without its end; of a long one what is around the place, with `…` for what is not shown.
    pub excerpt: String,
    /// How many characters of the line stand before the excerpt; an excerpt behind some begins with `…`.
    #[serde(default)]
    pub skipped_characters: u32,
    /// How many characters the marker under the excerpt spans, at least 1.
    pub marked_characters: u32,
}

/// Of a place that is far behind in its line, so many characters before it are shown.
const CHARACTERS_BEFORE_MARK: usize = 40;

impl Place {
    /// The characters `marked` of a line, the first of which is 0.
    pub fn in_line(line: u32, text: &str, marked: Range<usize>) -> Self {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        // Characters that can't be seen would move the marker or the terminal.
        let shown = |c: char| if (is_active(c) && c != '\t') || c == '\u{feff}' { '\u{fffd}' } else { c };
        let is_in_front = marked.start + CHARACTERS_BEFORE_MARK <= QUOTED_CHARACTERS_MAX;
        let skipped = if is_in_front { 0 } else { marked.start - CHARACTERS_BEFORE_MARK };
        let mut rest = text.chars().skip(skipped).map(shown);
        let mut excerpt = String::from(if skipped > 0 { "…" } else { "" });
        excerpt.extend(rest.by_ref().take(QUOTED_CHARACTERS_MAX));
        if rest.next().is_some() {
            excerpt.push('…');
        }
        let in_excerpt = QUOTED_CHARACTERS_MAX - (marked.start - skipped).min(QUOTED_CHARACTERS_MAX - 1);
        Self {
            line,
            column: number(marked.start + 1),
            excerpt,
            skipped_characters: number(skipped),
            marked_characters: number(marked.len().clamp(1, in_excerpt)),
        }
    }

    /// The marker that stands under the excerpt. A tab before it is kept: it is as wide as the one above it.
    pub fn marker(&self) -> String {
        let ellipsis = u32::from(self.skipped_characters > 0);
        let before = (self.column + ellipsis).saturating_sub(self.skipped_characters + 1);
        let before = self.excerpt.chars().chain(std::iter::repeat(' ')).take(before as usize);
        let indent: String = before.map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        indent + &"^".repeat(self.marked_characters.max(1) as usize)
    }
}

impl Diagnostic {
    /// An error in a file as a whole, without a place in it.
    pub fn of_file(batch: Option<BatchName>, file: impl Into<String>, what: impl Into<String>) -> Self {
        Self { batch, file: file.into(), place: None, severity: Severity::Error, what: what.into(), hint: None }
    }

    /// The same as a remark.
    pub fn as_remark(self) -> Self {
        Self { severity: Severity::Remark, ..self }
    }

    /// Whether it keeps the definition out of force.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// The same with a hint.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// `file:line:column: what`, in one line.
    pub fn headline(&self) -> String {
        let severity = if self.is_error() { "" } else { "remark: " };
        match &self.place {
            Some(place) => format!("{}:{}:{}: {severity}{}", self.file, place.line, place.column, self.what),
            None => format!("{}: {severity}{}", self.file, self.what),
        }
    }
}

/// How many of them are errors.
pub fn errors(diagnostics: &[Diagnostic]) -> usize {
    diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).count()
}

/// The error about a folder in `batches.d` whose name no batch can have. `batches` is the path of `batches.d` for a command
/// that somebody pastes.
pub fn not_a_batch_name(batches: &str, folder: &str) -> Diagnostic {
    let at = |name: &str| shell_path(&format!("{batches}/{name}"));
    let what = format!(
        "the folder's name is not a batch name; a batch name begins with a-z or 0-9, continues with a-z, 0-9, `_` or `-`, \
         and has at most {BATCH_NAME_CHARACTERS_MAX} characters"
    );
    let hint = match BatchName::suggestion(folder) {
        Some(better) => {
            format!(
                "rename it: `mv -T {} {}`; if it is not a batch, put `_` before its name",
                at(folder),
                at(better.as_str())
            )
        }
        None => "rename it; if it is not a batch, put `_` before its name".to_owned(),
    };
    Diagnostic::of_file(None, shown(folder), what).with_hint(hint)
}

/// The headline, the excerpt with a marker, and the hint, without a line end behind the last.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.headline())?;
        if let Some(place) = &self.place {
            let number = place.line.to_string();
            let gutter = " ".repeat(number.len());
            let marker = place.marker();
            write!(f, "\n  {gutter} |\n  {number} | {}\n  {gutter} | {marker}", place.excerpt)?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_place_and_hint() {
        let place = Place::in_line(12, "\tcrn = 1", 1..4);
        let diagnostic = Diagnostic {
            place: Some(place),
            ..Diagnostic::of_file(None, "report/batch.toml", "unknown key `crn`").with_hint("did you mean `cron`?")
        };
        let expected = "report/batch.toml:12:2: unknown key `crn`\n     |\n  12 | \tcrn = 1\n     | \t^^^\n  hint: did you mean `cron`?";
        assert_eq!(diagnostic.to_string(), expected);
    }
    #[test]
    fn long_lines_are_cut_around_the_place() {
        let line = format!("{}key = {}", "a".repeat(5000), "b".repeat(5000));
        let check = |marked: Range<usize>, begin: &str, under: &str| {
            let place = Place::in_line(1, &line, marked.clone());
            assert_eq!(place.column as usize, marked.start + 1);
            assert!(place.excerpt.starts_with(begin) && place.excerpt.ends_with('…'), "{}", place.excerpt);
            assert!(place.excerpt.chars().count() <= QUOTED_CHARACTERS_MAX + 2);
            let marker = place.marker();
            let marked = place.excerpt.chars().zip(marker.chars()).filter(|(_, mark)| *mark == '^');
            assert_eq!(marked.map(|(c, _)| c).collect::<String>(), under);
        };
        check(0..3, "aaa", "aaa");
        check(119..121, "aaa", "aa");
        check(0..9000, "aaa", &"a".repeat(QUOTED_CHARACTERS_MAX));
        check(5000..5003, "…aaa", "key");
        check(5000..9000, "…aaa", &line[5000..5120]);
        let end = Place::in_line(1, &line, 10_006..10_007);
        assert_eq!((end.excerpt.chars().count(), end.marker().chars().count()), (41, 42));
    }
}
