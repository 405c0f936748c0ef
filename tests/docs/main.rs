//! Checks the documents as far as a program can: commands run as pasted, screens match, examples load, links lead
//! somewhere, queries run, tables name every key, and lines are short enough to read.

mod commands;
mod container;
mod desk;
mod form;
mod page;
mod screen;
#[path = "../world/mod.rs"]
mod world;

use std::fs;
use std::path::PathBuf;

use batchd::load::{self, Context, Input};
use batchd::model::files::{FileContent, Files};
use world::World;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every document: its path and its text.
fn documents() -> Vec<(PathBuf, String)> {
    let names = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "examples/README.md"];
    let mut paths: Vec<PathBuf> = names.map(|name| root().join(name)).into();
    paths.extend(fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// The blocks of code in a language.
fn blocks<'t>(text: &'t str, language: &str) -> Vec<&'t str> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

/// What is wrong with a `batchd.toml`.
fn settings_complaints(text: &str) -> Vec<String> {
    let (_, diagnostics) = load::settings("batchd.toml", text.as_bytes(), &|_| Ok(()));
    diagnostics.iter().map(ToString::to_string).collect()
}

/// What is wrong with a `batch.toml`, whose names of other batches and of pools all exist.
fn batch_complaints(text: &str) -> Vec<String> {
    let (settings, _) = load::settings("batchd.toml", b"[pools]\ndatabase = 1\n", &|_| Ok(()));
    let context = Context { settings: &settings, host: "host", batches: "batches.d", zone_known: &|_| Ok(()) };
    let script = FileContent { mode: 0o755, bytes: b"exit 0\n".to_vec() };
    let files = Files([("script.sh".to_owned(), script)].into());
    let name = load::batch_name("batches.d", "example").unwrap();
    let input = Input { name: &name, toml: Some(text.as_bytes()), files: &files, zip: None, missing_includes: &[] };
    load::definition(&input, &context).diagnostics.iter().map(ToString::to_string).collect()
}

#[test]
fn every_toml_block_loads() {
    let mut count = 0;
    for (path, text) in documents() {
        let is_settings = path.ends_with("docs/settings.md");
        for block in blocks(&text, "toml") {
            let complaints = if is_settings { settings_complaints(block) } else { batch_complaints(block) };
            assert!(complaints.is_empty(), "{}:\n{block}\n{}", path.display(), complaints.join("\n"));
            count += 1;
        }
    }
    assert!(count >= 5, "{count} blocks");
}

/// The heading that a fragment of a link means, as GitHub makes it.
fn fragment(heading: &str) -> String {
    let kept = heading.trim_start_matches(['#', ' ']).chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn every_link_leads_somewhere() {
    for (path, text) in documents() {
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if link.contains("://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link}", path.display());
            let has = |text: String| text.lines().any(|line| line.starts_with('#') && fragment(line) == anchor);
            assert!(anchor.is_empty() || has(fs::read_to_string(target).unwrap()), "{}: {link}", path.display());
        }
    }
}

/// The keys that the loader names when it is asked for one that it does not know.
fn known_keys(complaints: &[String]) -> Vec<String> {
    let hint = complaints.iter().find_map(|text| text.split_once("the known keys are ")).expect("a list of keys").1;
    let names = hint.lines().next().unwrap().split('`').skip(1).step_by(2);
    names.map(str::to_owned).collect()
}

#[test]
fn every_key_is_explained() {
    let unknown = "qqqqqqqqqqqq = 1\n";
    for (page, keys) in [
        ("docs/batch-toml.md", known_keys(&batch_complaints(unknown))),
        ("docs/settings.md", known_keys(&settings_complaints(unknown))),
    ] {
        let text = fs::read_to_string(root().join(page)).unwrap();
        assert!(keys.len() >= 8, "{keys:?}");
        for key in keys {
            let row = text
                .lines()
                .any(|line| line.starts_with(&format!("| `{key}`")) || line.starts_with(&format!("| `[{key}]`")));
            assert!(row, "{page} has no row for `{key}`");
        }
    }
}

#[test]
fn every_query_runs() {
    let mut world = World::new();
    world.batch("one", "", "echo one\n");
    world.batch("report", "after = 'one'\n", "exit 1\n");
    world.start();
    world.end(world.batchd(&["start", "one"]).expect(0).line());
    world.rest();
    let journal = rusqlite::Connection::open(world.path("state/journal.db")).unwrap();
    let text = fs::read_to_string(root().join("docs/journal.md")).unwrap();
    let mut rows = Vec::new();
    for query in blocks(&text, "sql").concat().split_inclusive(';').filter(|query| query.contains("SELECT")) {
        let mut statement = journal.prepare(query).unwrap_or_else(|error| panic!("{error}:\n{query}"));
        rows.push(statement.query_map([], |_| Ok(())).unwrap().count());
    }
    // What went wrong; two batches; nothing late; one chain; nothing disabled; one upstream; two runs; one of them was well.
    assert_eq!(rows, [1, 2, 0, 1, 0, 1, 2, 1]);
}
