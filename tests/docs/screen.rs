//! Compares what a page shows with what a command printed: times, durations and sizes differ from day to day, so only
//! their kind counts, and so does the width of columns.

/// Units behind a number, written with or without a space.
const UNITS: [&str; 14] = ["ms", "s", "m", "h", "d", "min", "B", "kB", "KiB", "MB", "MiB", "GB", "GiB", "%"];

/// The lines in a form in which equal screens are equal.
pub(crate) fn normal<'l>(lines: impl IntoIterator<Item = &'l str>) -> Vec<String> {
    let lines = lines.into_iter().map(|line| line_of(line.trim_end()));
    let mut lines: Vec<String> = lines.collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines
}

fn line_of(line: &str) -> String {
    let indent = line.len() - line.trim_start().len();
    let mut words: Vec<String> = Vec::new();
    for word in line.split_whitespace() {
        let kind = kind(word, words.last().map(String::as_str));
        match (kind, words.last_mut()) {
            // A date and its time, a number and its unit, are one.
            (Some(kind), Some(last)) if last == kind => {}
            (Some("AMOUNT"), Some(last)) if is_number(last) => *last = "AMOUNT".to_owned(),
            (Some(kind), _) => words.push(kind.to_owned()),
            (None, _) => words.push(word.to_owned()),
        }
    }
    format!("{}{}", " ".repeat(indent), words.join(" "))
}

/// What a word stands for, if it is one that changes from day to day.
fn kind(word: &str, before: Option<&str>) -> Option<&'static str> {
    let is_day = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"].contains(&word);
    if is_day || is_time(word) || (word == "UTC" && before == Some("TIME")) {
        return Some("TIME");
    }
    let is_unit_alone = UNITS.contains(&word) && before.is_some_and(is_number);
    if is_unit_alone || is_amount(word.trim_matches(['(', ')', ',', ';', ':'])) {
        return Some("AMOUNT");
    }
    let is_hash = word.len() >= 12 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash.then_some("HASH")
}

/// `2026-11-28`, `03:21:49`, `03:21`, `2026-11-28T03:21:49.400+00:00`, `+01:00`.
fn is_time(word: &str) -> bool {
    let shape: String = word.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
    let begins = ["9999-99-99", "99:99", "+99:99", "-99:99"];
    begins.iter().any(|begin| shape.starts_with(begin)) && shape.chars().all(|c| "9:-+.TZ,;".contains(c))
}

fn is_number(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|c| c.is_ascii_digit() || c == '.') && !word.starts_with('.')
}

/// `4ms`, `33d23h`, `1.2s`, `8MiB`.
fn is_amount(word: &str) -> bool {
    let mut rest = word;
    while !rest.is_empty() {
        let digits = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let unit_end = digits.find(|c: char| !c.is_alphabetic() && c != '%').unwrap_or(digits.len());
        if digits.len() == rest.len() || !UNITS.contains(&&digits[..unit_end]) {
            return false;
        }
        rest = &digits[unit_end..];
    }
    !word.is_empty()
}

#[test]
fn times_and_amounts_are_alike_and_all_else_is_not() {
    let check = |one: &str, other: &str, alike: bool| {
        assert_eq!(normal([one]) == normal([other]), alike, "{one:?} and {other:?}");
    };
    check("extract.1  succeeded  2026-11-28 03:21:49  3ms", "extract.1  succeeded   03:21:50   1.2s", true);
    check("  Fri 2027-01-01 03:00:00 +00:00  33d23h", "  Sat 2028-02-29 03:00:00 +01:00  4h", true);
    check("memory  11.2 MiB", "memory    980 KiB", true);
    check("extract.1  succeeded", "extract.2  succeeded", false);
    check("exit code 3", "exit code 4", false);
    check("  a", "a", false);
    check("3ms ago", "3 ms ago", true);
    check("definition  275ef37df638", "definition  9d1504d6c446", true);
}
