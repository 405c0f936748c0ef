//! Texts that messages are made of: numbers with their nouns, foreign text that is safe to show, words for a shell.

use std::borrow::Cow;
use std::fmt::Display;

/// The most characters of foreign text that a message quotes: more than any name, command line or cron expression that
/// somebody reads, and few enough to leave the message readable.
pub const QUOTED_CHARACTERS_MAX: usize = 160;

/// The most characters of a reason, and of a line of a message: a long paragraph. What is longer holds foreign text, such as a
/// path that was mistyped; reasons stand in the journal, and in the screens of all who list.
pub const LINE_CHARACTERS_MAX: usize = 1000;

/// A number with its noun: `1 run`, `0 runs`, `2 batches`.
pub fn counted(count: impl Display + PartialEq + From<u8>, one: &str, many: &str) -> String {
    let noun = if count == 1.into() { one } else { many };
    format!("{count} {noun}")
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

/// A message in which foreign text may be of any length: of a line above [`LINE_CHARACTERS_MAX`] the beginning and the end, where
/// it says what is wrong.
pub fn abridged(text: &str) -> Cow<'_, str> {
    if text.lines().all(|line| line.chars().nth(LINE_CHARACTERS_MAX).is_none()) {
        return Cow::Borrowed(text);
    }
    let line = |line: &str| match line.char_indices().nth(LINE_CHARACTERS_MAX) {
        None => line.to_owned(),
        Some(_) => {
            let from = line.char_indices().nth_back(QUOTED_CHARACTERS_MAX - 1).map_or(0, |(at, _)| at);
            beginning(line).into_owned() + &line[from..]
        }
    };
    let end = if text.ends_with('\n') { "\n" } else { "" };
    Cow::Owned(text.lines().map(line).collect::<Vec<_>>().join("\n") + end)
}

/// The first [`QUOTED_CHARACTERS_MAX`] characters of `text`, and `…` for the rest.
pub fn beginning(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(QUOTED_CHARACTERS_MAX) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

/// A text as a shell takes it for one word. Active characters are written out, so that they reach no terminal.
pub fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    if !text.contains(is_active) {
        return format!("'{}'", text.replace('\'', r"'\''"));
    }
    // As bash reads it.
    let mut word = String::from("$'");
    for c in text.chars() {
        match c {
            '\'' | '\\' => word.extend(['\\', c]),
            c if is_active(c) => c.to_string().bytes().for_each(|byte| word.push_str(&format!("\\x{byte:02x}"))),
            c => word.push(c),
        }
    }
    word.push('\'');
    word
}

/// A path as one word of a shell command, which the command does not take for an option whatever the file is called.
pub fn shell_path(path: &str) -> String {
    if path.starts_with('-') { shell_word(&format!("./{path}")) } else { shell_word(path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_agree_with_their_nouns() {
        let check = |count: usize, expected: &str| assert_eq!(counted(count, "batch", "batches"), expected);
        check(0, "0 batches");
        check(1, "1 batch");
        check(2, "2 batches");
    }

    #[test]
    fn foreign_text_is_cut() {
        assert_eq!(quoted("a\nb"), r"a\nb");
        assert_eq!(quoted(&"ä".repeat(QUOTED_CHARACTERS_MAX)), "ä".repeat(QUOTED_CHARACTERS_MAX));
        assert_eq!(quoted(&"ä".repeat(1_000_000)), "ä".repeat(QUOTED_CHARACTERS_MAX) + "…");
    }

    #[test]
    fn long_messages_keep_their_ends() {
        let check = |text: &str, expected: &str| assert_eq!(abridged(text), expected);
        check("", "");
        check("a\nb\n", "a\nb\n");
        check(&"ä".repeat(LINE_CHARACTERS_MAX), &"ä".repeat(LINE_CHARACTERS_MAX));
        let (long, part) = ("ä".repeat(1_000_000), "ä".repeat(QUOTED_CHARACTERS_MAX - 6));
        check(&format!("can't {long}: gone\nhint\n"), &format!("can't {part}…{part}: gone\nhint\n"));
    }

    #[test]
    fn words_of_a_shell() {
        let check = |text: &str, expected: &str| assert_eq!(shell_word(text), expected, "{text:?}");
        check("/var/lib/batchd", "/var/lib/batchd");
        check("a/b.toml", "a/b.toml");
        check("-rf", "-rf");
        check("", "''");
        check("it's $x", r"'it'\''s $x'");
        check("$(reboot); `x`", "'$(reboot); `x`'");
        check("a\nb'\\\u{9b}", r"$'a\x0ab\'\\\xc2\x9b'");
        check("a\u{202e}b", r"$'a\xe2\x80\xaeb'");
        assert_eq!(shell_path("-rf"), "./-rf");
        assert_eq!(shell_path("a b"), "'a b'");
    }
}
