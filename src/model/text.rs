//! Words that messages are made of.

use std::fmt::Display;

/// A number with its noun: `1 run`, `0 runs`, `2 batches`.
pub fn counted(count: impl Display + PartialEq + From<u8>, noun: &str) -> String {
    let ending = match count == 1.into() {
        true => "",
        false if noun.ends_with("ch") => "es",
        false => "s",
    };
    format!("{count} {noun}{ending}")
}

/// A text as a shell takes it for one word.
pub fn shell_word(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+,:@%".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_agree_with_their_nouns() {
        assert_eq!([0_usize, 1, 2].map(|count| counted(count, "run")), ["0 runs", "1 run", "2 runs"]);
        assert_eq!([1_u64, 2].map(|count| counted(count, "batch")), ["1 batch", "2 batches"]);
    }

    #[test]
    fn words_of_a_shell() {
        assert_eq!(shell_word("/var/lib/batchd"), "/var/lib/batchd");
        assert_eq!(shell_word("it's $x"), "'it'\\''s $x'");
        assert_eq!(shell_word(""), "''");
    }
}
