//! An error in a definition or the settings, or a remark on it: [`Diagnostic`].

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::id::{BATCH_NAME_CHARACTERS_MAX, BatchName};

/// The most characters of foreign text that a message quotes: more than any name, command line or cron expression that
/// somebody reads, and few enough to leave the message readable.
pub const QUOTED_CHARACTERS_MAX: usize = 160;

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

/// `1 batch`, `2 batches`: a number and its noun.
pub fn counted(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Whether a character acts instead of being seen: control characters (C0, DEL, C1), those that change the direction of text
/// (Unicode, UAX 9), and Unicode's own line ends.
pub fn is_active(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || c.is_control()
}

/// A name, or one line of text, for a message: one with characters that would move the cursor is written out.
pub fn shown(text: &str) -> String {
    if text.contains(is_active) { text.escape_debug().to_string() } else { text.to_owned() }
}

/// Foreign text for a message: at most [`QUOTED_CHARACTERS_MAX`] characters of it, in one line.
pub fn quoted(text: &str) -> String {
    shown(&beginning(text))
}

/// The first [`QUOTED_CHARACTERS_MAX`] characters of `text`, and `…` for the rest.
pub fn beginning(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(QUOTED_CHARACTERS_MAX) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

/// The error about a folder in `batches.d` whose name no batch can have. `batches` is the path of `batches.d` for a command
/// that somebody pastes.
pub fn not_a_batch_name(batches: &str, folder: &str) -> Diagnostic {
    let at = |name: &str| shell_path(&format!("{batches}/{name}"));
    let what = format!(
        "this folder's name is not a batch name; a batch name begins with a-z or 0-9, continues with a-z, 0-9, `_` or `-`, \
         and has at most {BATCH_NAME_CHARACTERS_MAX} characters"
    );
    let hint = match BatchName::suggestion(folder) {
        Some(better) => {
            format!(
                "rename it: `mv {} {}`; if it is not a batch, put `_` before its name",
                at(folder),
                at(better.as_str())
            )
        }
        None => "rename it; if it is not a batch, put `_` before its name".to_owned(),
    };
    Diagnostic::of_file(None, shown(folder), what).with_hint(hint)
}

/// `path` as one word of a command that a hint shows: what people paste into a shell stays one word, and no option,
/// whatever a file is called.
pub fn shell_path(path: &str) -> String {
    let path = if path.starts_with('-') { format!("./{path}") } else { path.to_owned() };
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%".contains(c);
    if !path.is_empty() && path.chars().all(plain) {
        return path;
    }
    if !path.contains(char::is_control) {
        return format!("'{}'", path.replace('\'', r"'\''"));
    }
    // As bash reads it; control characters are written out, so that they reach no terminal.
    let mut word = String::from("$'");
    for c in path.chars() {
        match c {
            '\'' | '\\' => word.extend(['\\', c]),
            c if c.is_control() => c.to_string().bytes().for_each(|byte| word.push_str(&format!("\\x{byte:02x}"))),
            c => word.push(c),
        }
    }
    word.push('\'');
    word
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
    fn paths_for_a_shell() {
        let check = |path: &str, expected: &str| assert_eq!(shell_path(path), expected, "{path:?}");
        check("a/b.toml", "a/b.toml");
        check("-rf", "./-rf");
        check("", "''");
        check("it's", r"'it'\''s'");
        check("$(reboot); `x`", "'$(reboot); `x`'");
        check("a\nb'\\\u{9b}", r"$'a\x0ab\'\\\xc2\x9b'");
    }

    #[test]
    fn foreign_text_is_cut() {
        assert_eq!(quoted("a\nb"), r"a\nb");
        assert_eq!(quoted(&"ä".repeat(QUOTED_CHARACTERS_MAX)), "ä".repeat(QUOTED_CHARACTERS_MAX));
        assert_eq!(quoted(&"ä".repeat(1_000_000)), "ä".repeat(QUOTED_CHARACTERS_MAX) + "…");
    }

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
