//! The rules of the design as stories in virtual time: events in, effects out, against the real scheduler.
//!
//! Each `.txt` file beside this one holds the stories of one topic. A story begins with `##` and the sentence that it shows;
//! its lines are steps, and below each step stands what the scheduler wants done for it:
//!
//! ```text
//! ## A downstream is queued at once when its upstream has succeeded
//! batch load: cron = "0 2 * * *"
//! batch report: after = "load"
//! at 2026-03-10 00:00
//! begins
//! at 02:00
//!   -> start load.1 by schedule
//! ends load.1 succeeded
//!   -> load.1 succeeded
//!   -> start report.1 by upstream after load.1 in load.1
//! ```
//!
//! | step | what happens |
//! |---|---|
//! | `batch NAME: KEY = VALUE, ...`; `remove NAME`; `settings: ...` | an edit on the disk, which nobody has seen yet |
//! | `begins`; `begins after a boot` | a daemon starts; the first one has a new journal |
//! | `dies` | the daemon is killed; scripts go on |
//! | `at INSTANT` | time passes until then: a daemon is woken whenever it wants to be |
//! | `clock jumps to INSTANT` | the clock is set, or the host was asleep; `unseen`: the next event comes before the wake-up |
//! | `reload` | what is on the disk comes into force, by the rules of `batchd::load` |
//! | `runs RUN`; `waits RUN`; `ends RUN OUTCOME` | the place where the run lives reports it; a later daemon is told if there is none |
//! | `start stop rerun enable disable` | an operator's verb, with its flags |
//! | `next` | what is due next is told |
//!
//! All times are UTC; `02:00` is the next time that clocks show it, `+10m` is later by that. `[02:00]` before an effect says
//! that it came on the way to the step's instant. Of effects, those that only tidy (`Settle`) are not shown, and neither are
//! facts of batches; many rows that say the same are one line. `BLESS=1 cargo test --test scenarios` writes the effects anew:
//! read every line of the difference against the design.

#[path = "../simulation/by_id.rs"]
mod by_id;
#[path = "../simulation/journal.rs"]
mod journal;
mod telling;
mod world;

use std::fs;
use std::path::{Path, PathBuf};

use world::World;

/// The topics: a file that is not here is not run, and that is noticed.
macro_rules! topics {
    ($($topic:ident),* $(,)?) => {
        const TOPICS: &[&str] = &[$(stringify!($topic)),*];
        $(#[test]
        fn $topic() {
            check(stringify!($topic));
        })*
    };
}

topics!(across, busy, catch_up, chains, clock, edits, errors, nights, past, reruns, slots);

/// Cases of the catalogue of faults, each with stories whose titles begin with its number: `## C1, C2: ...`.
macro_rules! cases {
    ($($case:ident),* $(,)?) => {
        const CASES: &[&str] = &[$(stringify!($case)),*];
        $(#[test]
        fn $case() {
            check_case(&stringify!($case).to_uppercase());
        })*
    };
}

cases!(
    c1, c2, c3, c4, c5, c6, c11, c12, c13, c14, c15, c16, c17, c18, c19, c23, c24, d4, d6, d21, h1, h2, h3, h4, h5, h6,
    h8, h9, h10,
);

/// Lives the stories of a case.
fn check_case(case: &str) {
    let mut lived = 0;
    for topic in TOPICS {
        let text = fs::read_to_string(folder().join(format!("{topic}.txt"))).unwrap();
        for story in text.split_inclusive("\n\n").filter(|story| cases_of(story).any(|of| of == case)) {
            assert_eq!(tell(topic, story), story, "{topic}.txt");
            lived += 1;
        }
    }
    assert!(lived > 0, "no story shows {case}");
}

/// The numbers with which the title of a story begins.
fn cases_of(story: &str) -> impl Iterator<Item = &str> {
    let title = story.strip_prefix("## ").and_then(|title| title.split_once(": ")).map_or("", |(numbers, _)| numbers);
    let is_number = |text: &&str| text.len() >= 2 && text[1..].bytes().all(|byte| byte.is_ascii_digit());
    title.split(", ").filter(is_number)
}

#[test]
fn every_case_in_a_title_is_a_test() {
    for topic in TOPICS {
        let text = fs::read_to_string(folder().join(format!("{topic}.txt"))).unwrap();
        for case in text.split("\n\n").flat_map(cases_of) {
            assert!(CASES.contains(&case.to_lowercase().as_str()), "{topic}.txt: {case}");
        }
    }
}

#[test]
fn every_file_is_a_topic() {
    let files = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let mut stories: Vec<String> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    stories.sort();
    assert_eq!(stories, TOPICS);
}

/// Lives the stories of a topic, and compares what is told with what stands there.
fn check(topic: &str) {
    let path = folder().join(format!("{topic}.txt"));
    let expected = fs::read_to_string(&path).unwrap();
    let told = tell(topic, &expected);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, told).unwrap();
    } else if told != expected {
        let line = told.lines().zip(expected.lines()).take_while(|(told, expected)| told == expected).count();
        let title = expected.lines().take(line + 1).filter(|line| line.starts_with("##")).last().unwrap_or_default();
        let from = |text: &str| text.lines().skip(line.saturating_sub(3)).take(8).collect::<Vec<_>>().join("\n");
        panic!(
            "{topic}.txt:{}: {title}\nthe story says\n{}\nand it happened that\n{}",
            line + 1,
            from(&expected),
            from(&told)
        );
    }
}

/// The text with the effects that its steps have now.
fn tell(topic: &str, text: &str) -> String {
    let mut told = String::new();
    let mut world = World::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("->") {
            continue;
        }
        told.push_str(line);
        told.push('\n');
        if line.starts_with("##") {
            world = World::new();
        } else if !line.is_empty() && !line.starts_with('#') {
            let effects = world.step(line).unwrap_or_else(|problem| panic!("{topic}.txt:{}: {problem}", index + 1));
            effects.iter().for_each(|effect| told.push_str(&format!("  -> {effect}\n")));
        }
    }
    told
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios")
}
