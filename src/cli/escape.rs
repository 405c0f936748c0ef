//! Makes text from scripts harmless on a terminal. Characters that would move the cursor, change colours or reorder the
//! line are escaped. Files and pipes get every byte unchanged.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::model::text::is_active;

/// One line of text with all control characters escaped, tabs and line ends too.
pub fn line(text: &str) -> Cow<'_, str> {
    if text.contains(is_active) {
        let mut escaped = String::with_capacity(text.len() + 8);
        text.chars().for_each(|c| push(&mut escaped, c, false));
        Cow::Owned(escaped)
    } else {
        Cow::Borrowed(text)
    }
}

/// Text of several lines with all other control characters escaped.
pub fn text(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    text.chars().for_each(|c| push(&mut escaped, c, true));
    escaped
}

/// Bytes of a log as text for a terminal: line ends and tabs stay, bytes that are not UTF-8 are escaped, too.
///
/// A character that is cut off at the end is left for the next call. Returns the number of bytes used: all but at most three.
pub fn log(bytes: &[u8], escaped: &mut String) -> usize {
    let mut used = 0;
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|c| push(escaped, c, true));
        used += chunk.valid().len();
        let invalid = chunk.invalid();
        let cut_off = used + invalid.len() == bytes.len() && is_beginning(invalid);
        if cut_off {
            break;
        }
        used += invalid.len();
        push_bytes(escaped, invalid);
    }
    used
}

/// Escapes bytes as `\xff`.
pub fn push_bytes(escaped: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String never fails.
        let _ = write!(escaped, "\\x{byte:02x}");
    }
}

/// Whether these bytes are the beginning of a character.
fn is_beginning(invalid: &[u8]) -> bool {
    match std::str::from_utf8(invalid) {
        Ok(_) => false,
        Err(error) => error.error_len().is_none(),
    }
}

fn push(escaped: &mut String, c: char, keep_layout: bool) {
    match c {
        '\n' | '\t' if keep_layout => escaped.push(c),
        '\n' => escaped.push_str("\\n"),
        '\t' => escaped.push_str("\\t"),
        '\r' => escaped.push_str("\\r"),
        c if !is_active(c) => escaped.push(c),
        c if (c as u32) < 0x100 => push_bytes(escaped, &[c as u8]),
        c => {
            let _ = write!(escaped, "\\u{{{:x}}}", c as u32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let check = |text: &str, expected: &str| assert_eq!(line(text), expected, "{text:?}");
        check("ärger 漢字 plain", "ärger 漢字 plain");
        check("\x1b[31mred\x07", "\\x1b[31mred\\x07");
        check("a\nb\tc\rd", "a\\nb\\tc\\rd");
        check("\u{9b}31m\u{7f}", "\\x9b31m\\x7f");
        check("user\u{202e}gpj.exe\u{2066}", "user\\u{202e}gpj.exe\\u{2066}");
    }

    #[test]
    fn logs() {
        let check = |bytes: &[u8], expected: &str, used: usize| {
            let mut escaped = String::new();
            assert_eq!(log(bytes, &mut escaped), used, "{bytes:?}");
            assert_eq!(escaped, expected, "{bytes:?}");
        };
        check(b"a\tb\r\n\0", "a\tb\\r\n\\x00", 6);
        check(b"\xff\xfea", "\\xff\\xfea", 3);
        check("ä".as_bytes(), "ä", 2);
        check(b"a\xc3", "a", 1);
        check(b"\xe6\xbc", "", 0);
        check(b"\xe6\xbcx", "\\xe6\\xbcx", 3);
        check(b"", "", 0);
    }
}
