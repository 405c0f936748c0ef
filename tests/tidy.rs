//! The rules of the house, as a test: what each module may use, what is pure, what is not called, what is not written.
//!
//! A ratchet is a list of exceptions that are there today. It may only become shorter: what is better than its line, or in
//! no need of it, fails too, so that the line is taken out with it.

#[path = "tidy/source.rs"]
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use source::{Source, contains_word, root, sources};

/// Which of our own modules a module may name: each entry is the beginning of a path below the crate. What deviates from
/// the design's table (4.3) stands in ARCHITECTURE.md with its reason.
const MAY_USE: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("scheduler", &["model"]),
    ("load", &["model"]),
    ("zones", &["model"]),
    ("os", &[]),
    ("store", &["model", "os"]),
    // The facts that it hands to who checks it.
    ("journal", &["model", "doctor", "os"]),
    ("doctor", &["model", "rundir::records", "rundir::ASIDE"]),
    ("checkup", &["model", "doctor", "journal", "os", "rundir", "store", "zones"]),
    ("rundir", &["model", "os"]),
    ("clock", &["model::time"]),
    ("watcher", &[]),
    ("paths", &[]),
    ("folders", &["model", "load", "store", "zones"]),
    ("shim", &["model", "os", "rundir", "store"]),
    ("supervisor", &["model", "rundir", "shim"]),
    ("api", &["model", "journal::query", "os", "rundir"]),
    ("cli", &CLI_MAY_USE),
    ("daemon", &DAEMON_MAY_USE),
];

const CLI_MAY_USE: [&str; 17] = [
    "model",
    "load",
    "store",
    "zones",
    "folders",
    "paths",
    "rundir",
    "journal::query",
    "doctor",
    "checkup",
    // Asked why a run waits, so that its rules are written once.
    "scheduler::Scheduler",
    "journal::backup",
    // How a journal that can't be opened becomes an exit code and a hint.
    "journal::OpenError",
    "api::client",
    // What the client gives back.
    "api::RunView",
    "api::Reloaded",
    "api::Problem",
];

const DAEMON_MAY_USE: [&str; 17] = [
    "model",
    "os",
    "scheduler",
    "load",
    "zones",
    "store",
    "journal",
    "rundir",
    "supervisor",
    "watcher",
    "clock",
    "paths",
    "folders",
    "api",
    // What `batchd daemon` was given.
    "cli::DaemonArgs",
    "cli::LogFormat",
    "shim",
];

/// Modules that compute, and touch nothing.
const PURE: [&str; 4] = ["model", "scheduler", "load", "doctor"];

/// What a pure module does not name. Hash maps iterate in an order that changes from run to run.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "std::env",
    "std::os",
    "std::io",
    "SystemTime",
    "Instant::now",
    "Utc::now",
    "Local::now",
    "HashMap",
    "HashSet",
    "rand",
    "tokio",
    "rustix",
    "libc",
    "tracing",
    "rusqlite",
    "notify",
];

/// Ways to read a clock.
const CLOCKS: &[&str] = &["SystemTime", "Instant::now", "Utc::now", "Local::now", "clock_gettime", ".elapsed()"];

/// Files that may read a clock.
const CLOCKS_ARE_READ_IN: &[(&str, &str)] = &[
    ("src/clock.rs", "the clock"),
    ("src/shim/clock.rs", "the shim's: it has no async runtime, and is no part of the daemon"),
    ("src/api/client.rs", "a deadline on the clock of the command line's own runtime"),
    ("src/daemon/begin.rs", "a deadline on the runtime's clock"),
    ("src/daemon/mod.rs", "a deadline on the runtime's clock"),
    ("src/daemon/stop.rs", "a deadline on the runtime's clock"),
    ("src/supervisor/serve.rs", "a deadline on the runtime's clock"),
];

/// What is not called, why, and where it is all the same.
const BANNED: &[(&str, &str, &[&str])] = &[
    ("println!", "it panics when nobody reads; write to a `Write` and give the error back", &[]),
    ("print!", "it panics when nobody reads; write to a `Write` and give the error back", &[]),
    ("eprintln!", "the daemon logs by tracing, verbs give errors back", &[]),
    ("process::exit", "destructors do not run; give an exit code back", &[]),
    (
        "thread::sleep",
        "wait for what is to happen",
        &["src/daemon/begin.rs", "src/daemon/writer.rs", "src/shim/mod.rs"],
    ),
    ("Command::new", "scripts run below a shim", &["src/supervisor/link.rs", "src/store/unpack.rs"]),
    ("set_var", "other threads may read the environment", &[]),
    ("remove_var", "other threads may read the environment", &[]),
    ("mem::forget", "it leaks what should be closed", &[]),
    ("transmute", "there is a cast, or a safe way", &[]),
    ("static mut", "there are atomics and locks", &[]),
    (".extract(", "`zip`'s own extract writes where the archive says", &[]),
    ("set_parent_process_death_signal", "the end of a socket ends the launcher (design 4.2)", &[]),
    ("dbg!", "it is left over", &[]),
    ("todo!", "a stub is not done", &[]),
    ("unimplemented!", "a stub is not done", &[]),
];

/// Files with `unsafe` in them: each block says why it is sound, which clippy checks.
const UNSAFE_IN: &[&str] = &[
    "src/clock.rs",
    "src/daemon/memory.rs",
    "src/journal/write.rs",
    "src/rundir/mod.rs",
    "src/shim/sys.rs",
    "src/shim/user.rs",
    "src/store/users.rs",
    "src/store/writers.rs",
    "src/supervisor/mod.rs",
];

/// Ratchet: calls that end the process or the thread, outside tests. Each `expect` says why it can't happen.
const MAY_PANIC: &[(&str, usize)] = &[
    ("src/cli/mod.rs", 1),
    ("src/model/graph.rs", 6),
    ("src/model/time.rs", 1),
    ("src/model/zone.rs", 2),
    ("src/rundir/records.rs", 1),
    ("src/zones/tzif.rs", 1),
];

const PANICS: &[&str] = &[".unwrap()", ".expect(", "panic!", "unreachable!"];

/// A function is one thought on one screen.
const FUNCTION_LINES_MAX: usize = 70;
/// Ratchet: functions that are longer.
const LONG_FUNCTIONS: &[(&str, &str, usize)] = &[];

/// A file is one subject.
const FILE_LINES_MAX: usize = 500;
/// Ratchet: files that are longer.
const LONG_FILES: &[(&str, usize)] = &[];

/// Words that mean something else here, or have a word of their own (design, chapter 2).
const BANNED_WORDS: &[(&str, &str)] = &[
    ("job", "batch, or run"),
    ("jobs", "batches, or runs"),
    ("cronjob", "batch"),
    ("workflow", "chain"),
    ("pipeline", "chain"),
    ("dag", "graph"),
    ("misfire", "missed"),
    ("todo", "an issue"),
    ("fixme", "an issue"),
    ("xxx", "an issue"),
];

/// Where a banned word stands for what others mean by it.
const BANNED_WORDS_IN: &[(&str, &str)] = &[
    ("src/load/words.rs", "what people bring from other schedulers"),
    ("src/cli/mistakes.rs", "commands of other schedulers"),
];

#[test]
fn modules_use_what_the_table_allows() {
    let table: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let mut complaints = Vec::new();
    for source in sources(&["src"]) {
        let Some(module) = source.module() else { continue };
        let Some(allowed) = table.get(module) else {
            complaints.push(format!("{}: `{module}` is not in the table", source.path));
            continue;
        };
        for (line, path) in source.own_paths() {
            let is_allowed = |prefix: &&str| path == **prefix || path.starts_with(&format!("{prefix}::"));
            if path.split("::").next() != Some(module) && !allowed.iter().any(is_allowed) {
                complaints.push(format!("{}:{line}: `{module}` may not use `crate::{path}`", source.path));
            }
        }
        // A file that is a module's root would reach past the table by `super`.
        let is_root = source.path.matches('/').count() == 1 || source.path.ends_with(&format!("src/{module}/mod.rs"));
        if is_root {
            complaints
                .extend(source.lines_with("super::").map(|(line, text)| format!("{}:{line}: {text}", source.path)));
        }
    }
    none(&complaints, "change the code, or the table here and in ARCHITECTURE.md, with the reason");
}

#[test]
fn pure_modules_touch_nothing() {
    let sources = sources(&["src"]);
    let pure = sources.iter().filter(|source| source.module().is_some_and(|module| PURE.contains(&module)));
    let complaints: Vec<String> = pure.flat_map(|source| found(source, IMPURE)).collect();
    none(&complaints, "pure modules compute: take what is needed as an argument");
}

#[test]
fn clocks_are_read_in_one_place() {
    let allowed: Vec<&str> = CLOCKS_ARE_READ_IN.iter().map(|(path, _)| *path).collect();
    let mut complaints = Vec::new();
    for source in sources(&["src"]) {
        let readings = found(&source, CLOCKS);
        match (allowed.contains(&source.path.as_str()), readings.is_empty()) {
            (true, true) => complaints.push(format!("{} reads no clock any more", source.path)),
            (true, false) | (false, true) => {}
            (false, false) => complaints.extend(readings),
        }
    }
    none(&complaints, "the daemon's clock is src/clock.rs, the shim's src/shim/clock.rs");
}

#[test]
fn banned_calls_are_not_made() {
    let sources = sources(&["src"]);
    for (call, instead, except) in BANNED {
        let others = sources.iter().filter(|source| !except.contains(&source.path.as_str()));
        none(&others.flat_map(|source| found(source, &[call])).collect::<Vec<_>>(), instead);
        for path in *except {
            let is_needed = sources.iter().any(|source| source.path == *path && !found(source, &[call]).is_empty());
            assert!(is_needed, "{path} makes no use of its exception for `{call}`: take it out");
        }
    }
    let with_unsafe = sources.iter().filter(|source| source.lines_with("unsafe").next().is_some());
    let with_unsafe: Vec<&str> = with_unsafe.map(|source| source.path.as_str()).collect();
    assert_eq!(with_unsafe, UNSAFE_IN, "files with `unsafe`");
}

#[test]
fn panics_become_fewer() {
    let count = |source: &Source| -> usize {
        let of = |call: &&str| source.code.lines().map(|line| line.matches(*call).count()).sum::<usize>();
        PANICS.iter().map(of).sum()
    };
    let now = sources(&["src"]).into_iter().map(|source| (source.path.clone(), count(&source)));
    let now: BTreeMap<String, usize> = now.filter(|(_, count)| *count > 0).collect();
    let then = MAY_PANIC.iter().map(|(path, count)| ((*path).to_owned(), *count)).collect();
    ratchet(&now, &then, "operating errors are values; prove what is impossible, or lower the line");
}

#[test]
fn functions_and_files_are_short() {
    let sources = sources(&["src", "tests", "fuzz", "benches", "examples"]);
    let mut functions = BTreeMap::new();
    for source in &sources {
        for function in source.functions().into_iter().filter(|function| function.lines > FUNCTION_LINES_MAX) {
            functions.insert(format!("{} {}", source.path, function.name), function.lines);
        }
    }
    let then = LONG_FUNCTIONS.iter().map(|(path, name, lines)| (format!("{path} {name}"), *lines)).collect();
    ratchet(&functions, &then, "the parent branches, the leaf computes");
    let files = sources.iter().map(|source| (source.path.clone(), source.text.lines().count()));
    let files: BTreeMap<String, usize> = files.filter(|(_, lines)| *lines > FILE_LINES_MAX).collect();
    let then = LONG_FILES.iter().map(|(path, lines)| ((*path).to_owned(), *lines)).collect();
    ratchet(&files, &then, "a file has one subject");
}

#[test]
fn every_file_says_what_it_does() {
    let sources = sources(&["src", "tests", "fuzz", "benches", "examples"]);
    let silent: Vec<&str> =
        sources.iter().filter(|source| !source.text.starts_with("//! ")).map(|source| source.path.as_str()).collect();
    assert!(silent.is_empty(), "without `//!` in the first line: {silent:#?}");
}

#[test]
fn lints_are_lifted_with_a_reason() {
    let mut complaints = Vec::new();
    for source in sources(&["src", "tests", "fuzz", "benches", "examples"]) {
        for word in ["allow(", "expect("] {
            for attribute in ["#[", "#!["].map(|open| format!("{open}{word}")) {
                for (index, _) in source.bare.match_indices(&attribute) {
                    let end = source.bare[index..].find(")]").map_or(source.bare.len(), |end| index + end);
                    if !source.bare[index..end].contains("reason =") {
                        complaints.push(format!("{}: {}", source.path, &source.bare[index..end]));
                    }
                }
            }
        }
    }
    none(&complaints, "say why: `reason = \"...\"`");
}

#[test]
fn words_mean_one_thing() {
    let allowed: Vec<&str> = BANNED_WORDS_IN.iter().map(|(path, _)| *path).collect();
    let mut complaints = Vec::new();
    for source in sources(&["src"]).iter().filter(|source| !allowed.contains(&source.path.as_str())) {
        for (index, line) in source.text.lines().enumerate() {
            // A name is several words: `job_name`.
            let line = line.replace('_', " ").to_lowercase();
            let found = BANNED_WORDS.iter().filter(|(word, _)| contains_word(&line, word));
            let place = format!("{}:{}", source.path, index + 1);
            complaints.extend(found.map(|(word, instead)| format!("{place}: `{word}` is {instead} here")));
        }
    }
    none(&complaints, "one word per concept (design, chapter 2)");
}

#[test]
fn every_crash_point_is_passed_by_in_one_place() {
    let sources = sources(&["src"]);
    let elsewhere = || sources.iter().filter(|source| source.path != "src/rundir/crash.rs");
    for point in batchd::rundir::crash::CrashPoint::ALL {
        let call = format!("crash_point(CrashPoint::{point:?})");
        let count: usize = elsewhere().map(|source| source.code.matches(&call).count()).sum();
        assert_eq!(count, 1, "{call}");
    }
}

#[test]
fn the_map_is_whole() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    assert!(map.lines().count() <= 200, "ARCHITECTURE.md is a map: at most 200 lines");
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let modules = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let headings: BTreeSet<&str> = map.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    for module in modules {
        let heading = headings.iter().any(|heading| heading.contains(&format!("`{module}`")));
        assert!(heading, "ARCHITECTURE.md has no heading `### ` for the module `{module}`");
    }
    let sections = map.split("\n### ").skip(1);
    for section in sections.map(|section| section.split("\n## ").next().unwrap_or(section)) {
        assert!(section.contains("*Invariant"), "no *Invariant* in: {}", section.lines().next().unwrap_or_default());
    }
    for dependency in dependencies() {
        assert!(map.contains(&format!("- `{dependency}`: ")), "ARCHITECTURE.md has no reason for `{dependency}`");
    }
}

/// What `[dependencies]` and `[dev-dependencies]` of Cargo.toml name.
fn dependencies() -> Vec<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = toml::from_str(&manifest).unwrap();
    let names = |section: &str| manifest[section].as_table().unwrap().keys().cloned().collect::<Vec<_>>();
    [names("dependencies"), names("dev-dependencies")].concat()
}

#[test]
fn the_shipped_batches_have_no_diagnostic() {
    let check = Command::new(env!("CARGO_BIN_EXE_batchd"))
        .args(["check", "batches.d", "--insecure-permissions"])
        .current_dir(root())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&check.stdout).into_owned() + &String::from_utf8_lossy(&check.stderr);
    assert!(check.status.success(), "{said}");
}

/// Each place in a source's code that names one of these.
fn found(source: &Source, what: &[&str]) -> Vec<String> {
    let of = |what: &&'_ str| {
        let lines = source.lines_with(what);
        lines.map(|(line, text)| format!("{}:{line}: {text}", source.path)).collect::<Vec<_>>()
    };
    what.iter().flat_map(of).collect()
}

fn none(complaints: &[String], instead: &str) {
    assert!(complaints.is_empty(), "{instead}:\n{}", complaints.join("\n"));
}

/// What is above its line, or was not there, is new; what is below it is better, and takes its line along.
fn ratchet(now: &BTreeMap<String, usize>, then: &BTreeMap<String, usize>, instead: &str) {
    let all: BTreeSet<&String> = now.keys().chain(then.keys()).collect();
    let count = |of: &BTreeMap<String, usize>, what: &String| of.get(what).copied().unwrap_or(0);
    let moved = all.into_iter().filter(|what| count(now, what) != count(then, what));
    let moved = moved.map(|what| format!("{what}: {}, was {}", count(now, what), count(then, what)));
    none(&moved.collect::<Vec<_>>(), instead);
}
