//! An error in a definition or the settings, or a remark on it: [`Diagnostic`].

use std::fmt;

use serde::{Deserialize, Serialize};

use super::id::{BATCH_NAME_CHARACTERS_MAX, BatchName};
use super::text::{shell_path, shown};

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
    /// The whole line, without its end.
    pub excerpt: String,
    /// How many characters the marker under the excerpt spans, at least 1.
    pub marked_characters: u32,
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
            // A tab before the mark is kept, so that the marker stands under it whatever the tab's width.
            let before = place.excerpt.chars().take(place.column.saturating_sub(1) as usize);
            let indent: String = before.map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            let marker = "^".repeat(place.marked_characters.max(1) as usize);
            write!(f, "\n  {gutter} |\n  {number} | {}\n  {gutter} | {indent}{marker}", place.excerpt)?;
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
        let place = Place { line: 12, column: 2, excerpt: "\tcrn = 1".to_owned(), marked_characters: 3 };
        let diagnostic = Diagnostic {
            place: Some(place),
            ..Diagnostic::of_file(None, "report/batch.toml", "unknown key `crn`").with_hint("did you mean `cron`?")
        };
        let expected = "report/batch.toml:12:2: unknown key `crn`\n     |\n  12 | \tcrn = 1\n     | \t^^^\n  hint: did you mean `cron`?";
        assert_eq!(diagnostic.to_string(), expected);
    }
}
