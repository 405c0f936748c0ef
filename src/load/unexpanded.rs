//! Values that look as if a shell would expand them: nothing does, and a `$` may be meant, so these are
//! remarks.

use std::ops::Range;

use toml::de::DeValue;

use super::Diagnosis;
use super::findings::Findings;
use super::reader::{At, Reader, Wrong};
use crate::model::text::quoted;

/// The part of `value` that a shell would expand: `~/`, `$NAME`, `${NAME}` or `$(...)`.
fn expansion(value: &str) -> Option<&str> {
    if value == "~" || value.starts_with("~/") || value.contains(":~/") {
        return Some("~");
    }
    let begins_name = |c: char| c.is_ascii_alphabetic() || c == '_';
    for (at, _) in value.match_indices('$') {
        let rest = &value[at + 1..];
        let length = |text: &str| text.find(|c: char| !begins_name(c) && !c.is_ascii_digit()).unwrap_or(text.len());
        if rest.starts_with(begins_name) {
            return Some(&value[at..at + 1 + length(rest)]);
        }
        if rest.strip_prefix('{').is_some_and(|name| name.starts_with(begins_name)) {
            let end = rest.find('}').map_or(value.len(), |end| at + 2 + end);
            return Some(&value[at..end]);
        }
        if rest.starts_with('(') {
            return Some("$(");
        }
    }
    None
}

/// Variables that everybody knows: a value with another `$` in it may be a secret, and is not repeated.
const KNOWN: [&str; 8] = ["~", "$HOME", "${HOME}", "$PATH", "${PATH}", "$USER", "${USER}", "$PWD"];

/// Remarks on the variable `name` if a shell would expand its value.
pub(super) fn variable(findings: &mut Findings<'_>, name: &str, value: &str, span: Range<usize>) {
    let Some(part) = expansion(value) else { return };
    if !KNOWN.contains(&part) {
        let hint = "if the `$` is meant, ignore this; else write the value out, or set the variable in the script";
        findings.remark(span, Diagnosis::hinted(format!("a `$` in `env.{name}` is not expanded"), hint));
        return;
    }
    let is_short = quoted(value) == value && !value.contains(['"', '`', '\\']);
    let hint = match is_short {
        true => format!("write the value out, or set the variable in the script: `export {name}=\"{}\"`", home(value)),
        false => "write the value out, or set the variable in the script".to_owned(),
    };
    findings.remark(span, Diagnosis::hinted(format!("`{part}` in `env.{name}` is not expanded"), hint));
}

/// `~` is not expanded within quotes, `$HOME` is.
fn home(value: &str) -> String {
    let value = value.replace(":~/", ":$HOME/");
    match value.strip_prefix('~') {
        Some(rest) => format!("$HOME{rest}"),
        None => value,
    }
}

/// Reads the path `key`, with a remark if it has a variable in it.
pub(super) fn path(
    reader: &mut Reader<'_, '_>,
    key: &'static str,
    convert: impl Fn(&str, &DeValue<'_>) -> Result<String, Wrong>,
) -> Option<String> {
    let value = reader.value(key, convert)?;
    if let Some(part) = expansion(value.get_ref()) {
        let what = format!("`{}` in `{key}` is not expanded", quoted(part));
        reader.findings.remark(value.span(), Diagnosis::hinted(what, "write the path out"));
    }
    Some(At::into_inner(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expansions() {
        let check = |value: &str, expected: Option<&str>| assert_eq!(expansion(value), expected, "{value}");
        check("$HOME/bin:$PATH", Some("$HOME"));
        check("a${B}c", Some("${B}"));
        check("a$(date)", Some("$("));
        check("~/bin", Some("~"));
        check("/bin:~/bin", Some("~"));
        check("~", Some("~"));
        check("^foo$", None);
        check("5$ or $1", None);
        check("a~b", None);
        check("pa$$word", Some("$word"));
    }
}
