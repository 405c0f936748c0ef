//! Bytes to a TOML table, with everything that can be wrong before the first key is understood.

use std::ops::Range;

use toml::de::DeTable;

use super::Diagnosis;
use super::findings::Findings;
use super::line_ends::NO_MARK;
use crate::model::diagnostic::Diagnostic;
use crate::model::id::BatchName;
use crate::model::text::{beginning, quoted, shell_path};

/// The most bytes of a `batch.toml` or `batchd.toml`: a thousand times the usual, and little enough to read at once.
pub const TEXT_BYTES_MAX: usize = 1024 * 1024;

/// The byte order mark that some editors on Windows write.
const BOM: &str = "\u{feff}";

/// How the parser's messages begin that speak of a list or a section without an end.
const MISSING_COMMA: &str = "missing comma between array elements";
const UNCLOSED: &str = "unclosed ";

/// The text of `bytes`, which are the file `file` of `batch`, without a byte order mark; and what is wrong with it as text.
/// `folder` (empty, or a path) leads to the file in a command that somebody pastes.
pub(super) fn text_of<'b>(
    batch: Option<&BatchName>,
    file: &str,
    folder: &str,
    bytes: &'b [u8],
) -> (Option<&'b str>, Option<Diagnostic>) {
    let refused = |diagnosis: Diagnosis| {
        let mut findings = Findings::new(batch.cloned(), file, "");
        findings.whole(diagnosis);
        findings.into_diagnostics().pop()
    };
    let path = if folder.is_empty() { shell_path(file) } else { shell_path(&format!("{folder}/{file}")) };
    if bytes.len() > TEXT_BYTES_MAX {
        let what = format!("the file has {} bytes, more than the {TEXT_BYTES_MAX} that are read", bytes.len());
        return (None, refused(Diagnosis::hinted(what, "move data to a separate file")));
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return (None, refused(Diagnosis::hinted("the file is UTF-16, not UTF-8", to_utf8("UTF-16", &path))));
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => return (None, Some(not_utf8(batch, file, &path, bytes, error.valid_up_to()))),
    };
    match text.strip_prefix(BOM) {
        None => (Some(text), None),
        Some(text) => {
            let hint = format!("remove it: `{NO_MARK} {path}`");
            (Some(text), refused(Diagnosis::hinted("the file begins with a byte order mark", hint)))
        }
    }
}

/// How to bring the file `path`, one word of a shell, from `encoding` to UTF-8.
pub(super) fn to_utf8(encoding: &str, path: &str) -> String {
    format!("save it as UTF-8: `iconv -f {encoding} -t UTF-8 {path} > {path}.utf8 && mv {path}.utf8 {path}`")
}

/// The complaint about the byte at `offset`, the first that is not UTF-8.
fn not_utf8(batch: Option<&BatchName>, file: &str, path: &str, bytes: &[u8], offset: usize) -> Diagnostic {
    // Only what cannot be read is replaced, so lines and columns before it stay true.
    let lossy = String::from_utf8_lossy(bytes);
    let mut findings = Findings::new(batch.cloned(), file, &lossy);
    let what = format!("byte {:#04x} is not UTF-8", bytes[offset]);
    let hint = format!("if the file is Latin-1, {}", to_utf8("LATIN1", path));
    findings.at(offset..offset + 1, Diagnosis::hinted(what, hint));
    findings.into_diagnostics().remove(0)
}

/// The table that the text of `findings` is, as far as it is one; each line that is no TOML is a complaint.
pub(super) fn table<'t>(findings: &mut Findings<'t>) -> DeTable<'t> {
    let text = findings.text();
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        // A section or a list that has no end swallows what comes behind it.
        let echoes = [MISSING_COMMA, UNCLOSED].iter().any(|message| error.message().starts_with(message));
        findings.broken(span.clone(), echoes, syntax_error(text, span, error.message()));
    }
    table.into_inner()
}

/// The parser's complaint, in words for somebody who has never read the TOML specification.
fn syntax_error(text: &str, span: Range<usize>, message: &str) -> Diagnosis {
    let start = text.floor_char_boundary(span.start);
    let marked = &text[start..text.floor_char_boundary(span.end).max(start)];
    let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let line = text[line_start..].lines().next().unwrap_or_default();
    if message.starts_with("duplicate key") {
        return Diagnosis::hinted(format!("`{}` appears twice", quoted(marked)), "remove one of them");
    }
    let what = format!("invalid TOML: {}", quoted(message));
    let in_quotes = |value: &str| format!("\"{}\"", quoted(value).replace('\\', "\\\\").replace('"', "\\\""));
    if message.starts_with(MISSING_COMMA) {
        return Diagnosis::hinted(what, "check for a missing `]` or `,` before this line");
    }
    if message.starts_with("invalid basic string") || message.starts_with("invalid literal string") {
        return Diagnosis::hinted(
            "the string has no closing quote, or has a character that must be escaped",
            "close the string with the quote that opens it; write `\\\\` for a `\\` in \"...\"",
        );
    }
    match (line.split_once('='), line.split_once(':')) {
        (Some((key, value)), _) if value.trim().is_empty() => {
            Diagnosis::hinted(format!("`{}` has no value", quoted(key.trim())), "add a value, or remove the line")
        }
        (Some((key, value)), _) if message.starts_with("string values must be quoted") && is_bare(value) => {
            let value = value.trim().trim_matches(CURLY_QUOTES);
            let hint = format!("write `{} = {}`", quoted(key.trim()), in_quotes(value));
            let what = if line.contains(CURLY_QUOTES) {
                "curly quotes are not quotes in TOML"
            } else {
                "a string must be in quotes"
            };
            Diagnosis::hinted(what, hint)
        }
        (None, Some((key, value))) if !key.contains('"') => {
            let value = value.trim();
            let is_plain =
                value.starts_with(['"', '[']) || value.parse::<f64>().is_ok() || value.parse::<bool>().is_ok();
            let value = if is_plain { value.to_owned() } else { in_quotes(value) };
            let value = beginning(&value);
            Diagnosis::hinted(what, format!("this file is TOML, not YAML; write `{} = {value}`", quoted(key.trim())))
        }
        _ => Diagnosis::new(what),
    }
}

/// Whether a value is written like a string without its quotes: `0 2 * * *`, `report`, `/srv/data`.
fn is_bare(value: &str) -> bool {
    !value.contains(['"', '\'', '[', ']', '{', '}', '#', '='])
}

/// What word processors make of `"` and `'`.
const CURLY_QUOTES: [char; 7] = ['“', '”', '„', '‟', '‘', '’', '‚'];
