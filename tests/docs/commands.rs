//! Runs every block of commands in README.md, docs/ and examples/README.md, as a user would paste it.
//!
//! `BLESS=1 cargo test --test docs` rewrites the screens that differ from the real ones; read the difference, and put
//! times in it that a reader can follow.

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use crate::desk::{Desk, Outcome};
use crate::page::{self, Block, Mark, Typed};
use crate::screen;

/// Commands whose lines may come in another order: branches of a chain run side by side.
const ANY_ORDER: &str = "batchd runs";

#[test]
fn every_block_of_commands_runs() {
    let pages = Mutex::new(crate::documents());
    let complaints = Mutex::new(Vec::new());
    let work = || {
        while let Some((path, text)) = { pages.lock().unwrap().pop() } {
            let found = run_page(&path, &text);
            complaints.lock().unwrap().extend(found);
        }
    };
    // Most of the time goes into waiting for processes.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(work);
        }
    });
    let complaints = complaints.into_inner().unwrap();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// Runs the blocks of a page in their order. What is wrong with them.
fn run_page(path: &Path, text: &str) -> Vec<String> {
    let name = path.strip_prefix(crate::root()).unwrap().display().to_string();
    let mut complaints = Vec::new();
    let mut blessed = text.to_owned();
    let mut desk: Option<Desk> = None;
    let mut longer = 0_isize;
    for block in page::blocks(&name, text).into_iter().filter(|block| !block.marks.contains(&Mark::NotRun)) {
        let place = format!("{name}:{}", block.line);
        let desk = set_up(&mut desk, &block.marks);
        if block.marks.iter().any(|mark| matches!(mark, Mark::Needs(program) if is_missing(program, &place))) {
            continue;
        }
        let body = &text[block.range.clone()];
        if !block.is_console {
            complaints.extend(run_commands(desk, &block, body).map(|complaint| format!("{place}: {complaint}")));
            continue;
        }
        let (found, shown) = run_console(desk, &block, body);
        if found.is_empty() {
            continue;
        }
        if std::env::var_os("BLESS").is_some() {
            let range = block.range.start.wrapping_add_signed(longer)..block.range.end.wrapping_add_signed(longer);
            blessed.replace_range(range, &shown);
            longer += isize::try_from(shown.len()).unwrap() - isize::try_from(body.len()).unwrap();
        } else {
            complaints.extend(found.into_iter().map(|complaint| format!("{place}: {complaint}")));
        }
    }
    if blessed != text {
        fs::write(path, blessed).unwrap();
    }
    complaints
}

/// Does what the marks of a block say.
fn set_up<'d>(desk: &'d mut Option<Desk>, marks: &[Mark]) -> &'d mut Desk {
    for mark in marks {
        match mark {
            Mark::Desk(things) => *desk = Some(Desk::new(things)),
            Mark::Before(command) => desk.get_or_insert_with(|| Desk::new(&[])).prepare(command),
            Mark::DaemonEnds => desk.get_or_insert_with(|| Desk::new(&[])).end_daemon(),
            Mark::NotRun | Mark::Needs(_) | Mark::Exit(_) => {}
        }
    }
    desk.get_or_insert_with(|| Desk::new(&[]))
}

/// Whether a block can't run here, which is said.
fn is_missing(program: &str, place: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|folder| folder.join(program).exists()) {
        return false;
    }
    assert!(std::env::var_os("BATCHD_TESTS_SKIP_NOTHING").is_none(), "{place}: install {program}");
    eprintln!("{place} is skipped: install {program}");
    true
}

fn code_of(block: &Block) -> i32 {
    let exit = |mark: &Mark| if let Mark::Exit(code) = mark { Some(*code) } else { None };
    block.marks.iter().find_map(exit).unwrap_or(0)
}

/// Runs a block of commands alone.
fn run_commands(desk: &mut Desk, block: &Block, body: &str) -> Option<String> {
    // A daemon is a line of its own; what is around it is pasted whole.
    let mut parts = vec![String::new()];
    for line in body.lines() {
        if line.starts_with("batchd daemon") {
            parts.extend([line.to_owned(), String::new()]);
        } else {
            parts.last_mut().unwrap().push_str(&format!("{line}\n"));
        }
    }
    parts.retain(|part| !part.trim().is_empty());
    let parts: Vec<String> = parts.into_iter().map(|part| strict(&part)).collect();
    let outcomes = desk.paste(&parts, false);
    outcomes.iter().enumerate().find_map(|(index, outcome)| {
        let expected = if index + 1 == outcomes.len() { code_of(block) } else { 0 };
        (outcome.code != expected).then(|| format!("exit code {}:\n{}\n{}", outcome.code, parts[index], outcome.screen))
    })
}

/// Makes each command that fails count, although the shell goes on as a terminal does.
fn strict(part: &str) -> String {
    if part.starts_with("batchd daemon") {
        return part.to_owned();
    }
    format!("failed=0; trap 'failed=$?' ERR\n{part}\n(exit $failed)")
}

/// Runs a block of commands with their screens: what is wrong, and the block as it should be.
fn run_console(desk: &mut Desk, block: &Block, body: &str) -> (Vec<String>, String) {
    let typed = page::typed(body);
    let commands: Vec<String> = typed.iter().map(|typed| typed.command.clone()).collect();
    let outcomes = desk.paste(&commands, true);
    let mut complaints = Vec::new();
    let mut shown = String::new();
    for (index, (typed, outcome)) in typed.iter().zip(&outcomes).enumerate() {
        let expected = if index + 1 == outcomes.len() { code_of(block) } else { 0 };
        if outcome.code != expected {
            complaints.push(format!("exit code {} of `{}`:\n{}", outcome.code, typed.command, outcome.screen));
        }
        complaints.extend(difference(typed, outcome));
        shown.push_str(&format!("$ {}\n", typed.command));
        if !typed.screen.is_empty() {
            shown.extend(outcome.screen.lines().map(|line| format!("{}\n", line.trim_end())));
        }
    }
    (complaints, shown)
}

/// How the page's screen differs from the real one. A page that shows none leaves it open.
fn difference(typed: &Typed, outcome: &Outcome) -> Option<String> {
    let mut page = screen::normal(typed.screen.iter().map(String::as_str));
    let mut real = screen::normal(outcome.screen.lines());
    if typed.command.starts_with(ANY_ORDER) {
        page.sort();
        real.sort();
    }
    (!page.is_empty() && page != real).then(|| {
        let (page, real) = (page.join("\n"), real.join("\n"));
        format!("`{}` shows (BLESS=1 accepts it):\n{real}\nand the page:\n{page}\n{}", typed.command, outcome.screen)
    })
}
