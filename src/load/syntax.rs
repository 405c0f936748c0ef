//! Bytes to a TOML table, with everything that can be wrong before the first key is understood.

use std::ops::Range;

use toml::de::DeTable;

use super::Diagnosis;
use super::findings::Findings;
use crate::model::diagnostic::Diagnostic;
use crate::model::id::BatchName;

/// The most bytes of a `batch.toml` or `batchd.toml`: a thousand times the usual, and little enough to read at once.
pub const TEXT_BYTES_MAX: usize = 1024 * 1024;

/// The byte order mark that some editors on Windows write.
const BOM: &str = "\u{feff}";

/// The text of `bytes`, which are the file `file` of `batch`, without a byte order mark; and what is wrong with it as text.
pub(super) fn text_of<'b>(
    batch: Option<&BatchName>,
    file: &str,
    bytes: &'b [u8],
) -> (Option<&'b str>, Option<Diagnostic>) {
    let refused = |diagnosis: Diagnosis| {
        let mut findings = Findings::new(batch.cloned(), file, "");
        findings.whole(diagnosis);
        findings.into_diagnostics().pop()
    };
    if bytes.len() > TEXT_BYTES_MAX {
        let what = format!("the file has {} bytes, and at most {TEXT_BYTES_MAX} are read", bytes.len());
        return (None, refused(Diagnosis::hinted(what, "data belongs into a file of its own beside it")));
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        let hint = format!("save it as UTF-8: `iconv -f UTF-16 -t UTF-8 {file}`");
        return (None, refused(Diagnosis::hinted("the file is UTF-16, not UTF-8", hint)));
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => return (None, Some(not_utf8(batch, file, bytes, error.valid_up_to()))),
    };
    match text.strip_prefix(BOM) {
        None => (Some(text), None),
        Some(text) => {
            let hint = format!("take it out: `sed -i '1s/^\\xEF\\xBB\\xBF//' {file}`");
            (Some(text), refused(Diagnosis::hinted("the file begins with a byte order mark", hint)))
        }
    }
}

/// The complaint about the byte at `offset`, the first that is not UTF-8.
fn not_utf8(batch: Option<&BatchName>, file: &str, bytes: &[u8], offset: usize) -> Diagnostic {
    // Only what cannot be read is replaced, so lines and columns before it stay true.
    let lossy = String::from_utf8_lossy(bytes);
    let mut findings = Findings::new(batch.cloned(), file, &lossy);
    let what = format!("byte {:#04x} is not UTF-8", bytes[offset]);
    let hint = format!("if it is Latin-1: `iconv -f LATIN1 -t UTF-8 {file}`");
    findings.at(offset..offset + 1, Diagnosis::hinted(what, hint));
    findings.into_diagnostics().remove(0)
}

/// The table that the text of `findings` is, as far as it is one; each line that is no TOML is a complaint.
pub(super) fn table<'t>(findings: &mut Findings<'t>) -> DeTable<'t> {
    let text = findings.text();
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        findings.broken(span.clone(), syntax_error(text, span, error.message()));
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
        return Diagnosis::hinted(format!("`{marked}` is there twice"), "keep one of them");
    }
    let assigned = line.split_once('=').map(|(key, value)| (key.trim(), value.trim()));
    match assigned {
        Some((key, "")) => Diagnosis::hinted(format!("`{key}` has no value"), "give it one, or take the line out"),
        Some((key, value)) if bare_string(value) => {
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            Diagnosis::hinted(format!("not TOML: {message}"), format!("a string is in quotes: `{key} = \"{quoted}\"`"))
        }
        None if line.contains(':') && !line.contains('"') => {
            let (key, value) = line.split_once(':').unwrap_or_default();
            let (key, value) = (key.trim(), value.trim());
            Diagnosis::hinted(format!("not TOML: {message}"), format!("this is TOML, not YAML: `{key} = \"{value}\"`"))
        }
        Some(_) | None => Diagnosis::new(format!("not TOML: {message}")),
    }
}

/// Whether a value is written like a string without its quotes: `0 2 * * *`, `report`, `/srv/data`.
fn bare_string(value: &str) -> bool {
    !value.contains(['"', '\'', '[', ']', '{', '}', '#', '='])
}
