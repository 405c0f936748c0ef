//! Sources as `tidy` looks at them: without comments, without what stands in strings, and without tests.
//!
//! Not a parser. It knows where comments, strings and braces begin and end; every byte that it takes out becomes a space,
//! so that lines and columns stay.

use std::fs;
use std::path::{Path, PathBuf};

/// One file of Rust.
pub(crate) struct Source {
    /// Its path in the repository.
    pub(crate) path: String,
    /// All of it.
    pub(crate) text: String,
    /// Without comments and the content of strings.
    pub(crate) bare: String,
    /// As `bare`, without tests.
    pub(crate) code: String,
}

/// A function that a source defines.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) lines: usize,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let bare = without_comments_and_strings(text);
        let code = if is_test_file(path) { String::new() } else { without_tests(&bare) };
        Self { path: path.to_owned(), text: text.to_owned(), bare, code }
    }

    /// The module directly below the crate that this file belongs to: `src/load/fit.rs` to `load`.
    pub(crate) fn module(&self) -> Option<&str> {
        let below = self.path.strip_prefix("src/")?;
        let first = below.split('/').next()?;
        let name = first.strip_suffix(".rs").unwrap_or(first);
        (!["lib", "main"].contains(&name)).then_some(name)
    }

    /// Lines of `code` that contain `what` as a whole path or word, with their numbers.
    pub(crate) fn lines_with<'s>(&'s self, what: &'s str) -> impl Iterator<Item = (usize, &'s str)> {
        let lines = self.code.lines().enumerate().filter(move |(_, line)| contains_word(line, what));
        lines.map(|(index, line)| (index + 1, line.trim()))
    }

    /// The paths below the crate that the code names, with their line: `crate::model::id::RunId` gives `model::id::RunId`,
    /// `crate::api::{Act, server}` gives `api::Act` and `api::server`.
    pub(crate) fn own_paths(&self) -> Vec<(usize, String)> {
        let mut paths = Vec::new();
        for (index, _) in self.code.match_indices("crate::") {
            let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
            let rest = &self.code[index + "crate::".len()..];
            let path = &rest[..rest.find(|c| !is_path(c)).unwrap_or(rest.len())];
            let group = rest[path.len()..].strip_prefix('{').map(|group| group.split('}').next().unwrap_or(group));
            let line = self.line_of(index);
            match group {
                Some(group) => {
                    let names = group.split(',').map(str::trim).filter(|name| !name.is_empty() && *name != "self");
                    paths.extend(names.map(|name| (line, format!("{path}{name}"))));
                }
                None => paths.push((line, path.to_owned())),
            }
        }
        paths
    }

    /// The functions with a body, tests included.
    pub(crate) fn functions(&self) -> Vec<Function> {
        let mut functions = Vec::new();
        for (index, _) in self.bare.match_indices("fn ") {
            let before = self.bare[..index].chars().next_back();
            let is_name = |c: &char| c.is_alphanumeric() || *c == '_';
            let name: String = self.bare[index + 3..].chars().take_while(is_name).collect();
            if name.is_empty() || before.is_some_and(|c| is_name(&c)) {
                continue;
            }
            if let Some(end) = end_of_item(&self.bare, index) {
                let lines = self.line_of(end) - self.line_of(index) + 1;
                functions.push(Function { name, lines });
            }
        }
        functions
    }

    fn line_of(&self, index: usize) -> usize {
        self.bare[..index].bytes().filter(|byte| *byte == b'\n').count() + 1
    }
}

/// All Rust below these folders of the repository.
pub(crate) fn sources(folders: &[&str]) -> Vec<Source> {
    let mut sources = Vec::new();
    for folder in folders {
        let mut paths = Vec::new();
        walk(&root().join(folder), &mut paths);
        paths.sort();
        for path in paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs")) {
            let text = fs::read_to_string(path).unwrap();
            let name = path.strip_prefix(root()).unwrap().to_str().unwrap();
            sources.push(Source::new(name, &text));
        }
    }
    sources
}

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whether `word` stands in `line` and is no part of a longer word; where `word` itself ends in no letter, anything follows.
pub(crate) fn contains_word(line: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(index, _)| {
        let open_before = !word.starts_with(is_name) || !line[..index].ends_with(is_name);
        open_before && (!word.ends_with(is_name) || !line[index + word.len()..].starts_with(is_name))
    })
}

fn walk(folder: &Path, paths: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true if entry.file_name() == "target" => {}
            true => walk(&entry.path(), paths),
            false => paths.push(entry.path()),
        }
    }
}

fn is_test_file(path: &str) -> bool {
    path.starts_with("tests/") || path.ends_with("/tests.rs") || path.contains("/tests/")
}

/// Where the item that begins at `start` ends: at its closing brace; none if it has no body.
fn end_of_item(bare: &str, start: usize) -> Option<usize> {
    let mut depth = 0_usize;
    let mut nested = 0_usize;
    for (offset, byte) in bare.as_bytes()[start..].iter().enumerate() {
        match byte {
            b'(' | b'[' => nested += 1,
            b')' | b']' => nested = nested.saturating_sub(1),
            b';' if depth == 0 && nested == 0 => return None,
            b'{' => depth += 1,
            b'}' if depth == 1 => return Some(start + offset),
            b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

/// Blanks every item that is compiled for tests only.
fn without_tests(bare: &str) -> String {
    let mut code = bare.as_bytes().to_vec();
    for (start, attribute) in bare.match_indices("#[cfg(test)]") {
        let item = start + attribute.len();
        let end = end_of_item(bare, item).or_else(|| bare[item..].find(';').map(|offset| item + offset));
        blank(&mut code, start, end.map_or(bare.len(), |end| end + 1));
    }
    String::from_utf8(code).expect("whole items were blanked, and items end between characters")
}

fn blank(code: &mut [u8], from: usize, to: usize) {
    code[from..to].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
}

fn without_comments_and_strings(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut bare = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text.as_bytes()[at..];
        let in_name = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        // What is blanked: the whole of a comment, the inside of a string.
        let (inside, end) = match rest {
            [b'/', b'/', ..] => (at, at + find(rest, b"\n", rest.len())),
            [b'/', b'*', ..] => (at, at + end_of_block_comment(rest)),
            [b'"', ..] => (at + 1, at + 1 + end_of_quoted(&rest[1..], b'"')),
            [b'r', b'"' | b'#', ..] if !in_name || bytes[at - 1] == b'b' => match end_of_raw(rest) {
                Some((inside, end)) => (at + inside, at + end),
                None => (at + 1, at + 1),
            },
            [b'\'', b'\\', ..] => (at + 1, at + 1 + end_of_quoted(&rest[1..], b'\'')),
            // A character, not a lifetime: it is closed behind one character.
            [b'\'', ..] => match text[at + 1..].chars().next().map(char::len_utf8) {
                Some(size) if rest.get(1 + size) == Some(&b'\'') => (at + 1, at + 2 + size),
                _ => (at + 1, at + 1),
            },
            _ => (at + 1, at + 1),
        };
        blank(&mut bare, inside, end);
        at = end.max(at + 1);
    }
    String::from_utf8(bare).expect("comments, strings and characters were blanked whole")
}

/// Where `what` begins, else `or`.
fn find(bytes: &[u8], what: &[u8], or: usize) -> usize {
    bytes.windows(what.len()).position(|window| window == what).unwrap_or(or)
}

fn end_of_block_comment(rest: &[u8]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] if depth == 1 => return at + 2,
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    at
}

/// Behind the quote that closes; a backslash hides what follows it.
fn end_of_quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 0;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Where the inside of a raw string begins, and where it ends; none if this is a raw identifier.
fn end_of_raw(rest: &[u8]) -> Option<(usize, usize)> {
    let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
    let inside = hashes + 2;
    (rest.get(inside - 1) == Some(&b'"')).then(|| {
        let close = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
        let end = inside + find(&rest[inside..], &close, rest.len()) + close.len();
        (inside, end.min(rest.len()))
    })
}

#[test]
fn comments_and_strings_are_taken_out() {
    let check = |text: &str, expected: &str| assert_eq!(without_comments_and_strings(text), expected, "{text}");
    check("a // b\nc", "a     \nc");
    check("a /* b /* c */ */ d", "a                 d");
    check(r#"f("x\"{", 'y', '\'', b'{')"#, r#"f("     , '  , '   , b'  )"#);
    check("r#\"a\"b\"#; r#type", "r#\"     ; r#type");
    check("&'a str", "&'a str");
    check("\"ä\" // ö\nü", "\"         \nü");
}

#[test]
fn tests_and_functions_are_found() {
    let text =
        "fn a(b: [u8; 2]) {\n  {}\n}\n#[cfg(test)]\nmod tests {\n  fn c() {}\n}\nfn d();\nuse crate::x::{Y, z::W};\n";
    let source = Source::new("src/load/fit.rs", text);
    assert_eq!(source.module(), Some("load"));
    let expected = [("a", 3), ("c", 1)].map(|(name, lines)| Function { name: name.to_owned(), lines });
    assert_eq!(source.functions(), expected);
    assert!(!source.code.contains("fn c"));
    assert_eq!(source.own_paths(), [(9, "x::Y".to_owned()), (9, "x::z::W".to_owned())]);
    assert!(contains_word("a.unwrap() b", ".unwrap()") && !contains_word("std::fsync", "std::fs"));
}
