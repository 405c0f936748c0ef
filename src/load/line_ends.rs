//! Remarks on line ends and byte order marks in the files beside the script. In the script itself they are errors
//! ([`super::script`]).

use super::Diagnosis;
use super::definition::Input;
use super::findings::{DIAGNOSTICS_PER_FILE_MAX, Findings};
use super::script::is_shell_line;
use crate::model::diagnostic::Diagnostic;
use crate::model::text::{counted, shell_path};

/// The byte order mark in UTF-8.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// The remarks on all files but the script that begin with `#!` or end in `.sh`.
pub(super) fn remarks(input: &Input<'_>, script: &str, batches: &str) -> Vec<Diagnostic> {
    // Which file is the script is an error already.
    if script.is_empty() {
        return Vec::new();
    }
    let others = input.files.0.iter().filter(|(path, _)| *path != script);
    let mut remarks = others.filter_map(|(path, file)| remark(input, path, &file.bytes, batches));
    let mut shown: Vec<Diagnostic> = remarks.by_ref().take(DIAGNOSTICS_PER_FILE_MAX).collect();
    let more = remarks.count();
    if more > 0 {
        let what = counted(more, "more file has such line ends", "more files have such line ends");
        shown.push(Diagnostic::of_file(Some(input.name.clone()), input.name.as_str(), what).as_remark());
    }
    shown
}

fn remark(input: &Input<'_>, path: &str, bytes: &[u8], batches: &str) -> Option<Diagnostic> {
    let (has_mark, text) = bytes.strip_prefix(BOM).map_or((false, bytes), |text| (true, text));
    let is_shell = path.ends_with(".sh") || is_shell_line(text);
    if !is_shell && !text.starts_with(b"#!") {
        return None;
    }
    let first_line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let has_returns = match is_shell {
        true => text.windows(2).any(|pair| pair == b"\r\n"),
        // Other interpreters mind only the `#!` line.
        false => first_line.ends_with(b"\r"),
    };
    let returns = match is_shell {
        true => "the file has Windows line ends (CRLF); shells read the carriage return as text",
        false => "the `#!` line has a Windows line end (CRLF), so the system can't find the program",
    };
    let (what, command) = match (has_mark, has_returns) {
        (false, false) => return None,
        (true, false) => ("the file begins with a byte order mark, so the system doesn't see its `#!` line", NO_MARK),
        (false, true) => (returns, NO_RETURNS),
        (true, true) => ("this file has a byte order mark and carriage returns, which shells read as text", NEITHER),
    };
    let folder = input.name.as_str();
    // What is included is not the batch's own: one remark, however many include it.
    let (batch, file, zip) = match (path.starts_with('_'), input.zip) {
        (true, _) if path.contains('/') => (None, path.to_owned(), None),
        (_, Some(zip)) => (Some(input.name.clone()), format!("{folder}/{zip}/{path}"), Some(zip)),
        (_, None) => (Some(input.name.clone()), format!("{folder}/{path}"), None),
    };
    let hint = match zip {
        Some(zip) => format!("save the file as UTF-8 with Unix line ends, and make `{zip}` again"),
        None => format!("run `{command} {}`", shell_path(&format!("{batches}/{file}"))),
    };
    let mut findings = Findings::new(batch, file, "");
    findings.remark_on_whole(Diagnosis::hinted(what, hint));
    findings.into_diagnostics().pop()
}

/// The command that removes a byte order mark, before the file's name.
pub(super) const NO_MARK: &str = r"sed -i '1s/^\xEF\xBB\xBF//'";
/// The command that removes carriage returns.
pub(super) const NO_RETURNS: &str = r"sed -i 's/\r$//'";
const NEITHER: &str = r"sed -i -e '1s/^\xEF\xBB\xBF//' -e 's/\r$//'";
