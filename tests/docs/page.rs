//! The blocks of a page, with the marks that stand before them.
//!
//! A mark is an HTML comment on a line of its own before a block, which readers do not see:
//!
//! | mark | meaning |
//! |---|---|
//! | `<!-- not run: REASON -->` | the block is not run |
//! | `<!-- needs: PROGRAM -->` | skipped where there is no such program |
//! | `<!-- desk: THINGS -->` | a new desk; `THINGS` are of `daemon`, `shipped` and `examples`, or nothing |
//! | `<!-- before: COMMAND -->` | a command that prepares the desk; `batch NAME TOML SCRIPT` writes a batch |
//! | `<!-- daemon ends -->` | the daemon is stopped, as by Ctrl-C |
//! | `<!-- exit: N -->` | the exit code of the last command, if it is not 0 |

use std::ops::Range;

/// A mark before a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mark {
    NotRun,
    Needs(String),
    Desk(Vec<String>),
    Before(String),
    DaemonEnds,
    Exit(i32),
}

/// A block of commands.
#[derive(Debug)]
pub(crate) struct Block {
    /// The number of its first line.
    pub(crate) line: usize,
    pub(crate) marks: Vec<Mark>,
    /// Whether it is `console`: commands behind `$ `, each with the output below it. Otherwise `sh`: commands alone.
    pub(crate) is_console: bool,
    /// Where its text stands in the page.
    pub(crate) range: Range<usize>,
}

/// A command of a `console` block, and the lines that the page shows as its output.
#[derive(Debug)]
pub(crate) struct Typed {
    pub(crate) command: String,
    pub(crate) screen: Vec<String>,
}

/// The blocks of commands on a page, in order.
pub(crate) fn blocks(name: &str, text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut marks = Vec::new();
    let mut open: Option<(&str, usize, usize)> = None;
    let mut start = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let (end, line) = (start + line.len(), line.trim_end());
        match (open, line.strip_prefix("```")) {
            (None, Some(language)) => open = Some((language, index + 2, end)),
            (Some((language, first, from)), Some("")) => {
                if matches!(language, "sh" | "console") {
                    let marks = std::mem::take(&mut marks);
                    blocks.push(Block { line: first, marks, is_console: language == "console", range: from..start });
                }
                open = None;
            }
            (None, None) if line.starts_with("<!-- ") => {
                marks.push(mark(line).unwrap_or_else(|| panic!("{name}:{}: unknown mark {line}", index + 1)));
            }
            _ => {}
        }
        start = end;
    }
    assert!(open.is_none() && marks.is_empty(), "{name}: a block without end, or a mark without block: {marks:?}");
    blocks
}

fn mark(line: &str) -> Option<Mark> {
    let text = line.strip_prefix("<!-- ")?.strip_suffix(" -->")?;
    Some(match text.split_once(": ").unwrap_or((text, "")) {
        ("not run", reason) if !reason.is_empty() => Mark::NotRun,
        ("needs", program) if !program.is_empty() => Mark::Needs(program.to_owned()),
        ("desk", things) => Mark::Desk(things.split(", ").map(str::to_owned).collect()),
        ("before", command) => Mark::Before(command.to_owned()),
        ("daemon ends", "") => Mark::DaemonEnds,
        ("exit", code) => Mark::Exit(code.parse().ok()?),
        _ => return None,
    })
}

/// The commands of a `console` block.
pub(crate) fn typed(text: &str) -> Vec<Typed> {
    let mut all: Vec<Typed> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("$ "), all.last_mut()) {
            (Some(command), _) => all.push(Typed { command: command.to_owned(), screen: Vec::new() }),
            (None, Some(last)) => last.screen.push(line.to_owned()),
            (None, None) => panic!("a `console` block begins with `$ `: {line}"),
        }
    }
    all
}
