//! What makes a document readable, as far as a program can measure it.

use crate::{documents, root};

/// The length of a line, in characters.
const LINE_CHARACTERS_MAX: usize = 120;
/// The words of a table's row: a table holds values, not paragraphs.
const ROW_WORDS_MAX: usize = 25;

/// The words of the design's table, each of which the glossary explains.
const WORDS: [&str; 25] = [
    "batch",
    "definition",
    "graph",
    "upstream",
    "downstream",
    "schedule",
    "occurrence",
    "due",
    "trigger",
    "run",
    "chain",
    "source",
    "state",
    "outcome",
    "overlap",
    "catch-up",
    "scheduler",
    "workspace",
    "shim",
    "adopt",
    "journal",
    "settings",
    "diagnostic",
    "join",
    "attempt",
];

#[test]
fn lines_and_rows_are_short() {
    let mut complaints = Vec::new();
    for (path, text) in documents().into_iter().filter(|(path, _)| !path.ends_with("ARCHITECTURE.md")) {
        let name = path.strip_prefix(root()).unwrap().display();
        for (index, line) in text.lines().enumerate() {
            let characters = line.chars().count();
            if characters > LINE_CHARACTERS_MAX {
                complaints.push(format!("{name}:{}: {characters} characters", index + 1));
            }
            let words = line.split_whitespace().filter(|word| word.contains(char::is_alphanumeric)).count();
            if line.starts_with('|') && words > ROW_WORDS_MAX {
                complaints.push(format!("{name}:{}: a row of {words} words", index + 1));
            }
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn the_glossary_has_every_word() {
    let text = std::fs::read_to_string(root().join("docs/glossary.md")).unwrap();
    for word in WORDS {
        assert!(text.contains(&format!("| **{word}**")), "docs/glossary.md has no row for {word}");
    }
}
