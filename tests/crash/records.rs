//! The three records, and what each has to say about every run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use batchd::model::time::Instant;
use rustix::process::Signal;
use serde_json::Value;

use crate::load::{self, CHAIN, FLAKY};
use crate::world::World;

/// What was compared: for the test to say that it saw enough.
#[derive(Debug)]
pub(crate) struct Compared {
    pub(crate) chains: usize,
    pub(crate) lost: usize,
}

/// Lets no more chains begin, waits until all is done and every process gone, and compares.
#[track_caller]
pub(crate) fn compare_at_rest(world: &mut World) -> Compared {
    world.start();
    load::tick(world, false);
    world.batchd(&["reload"]).expect(0);
    world.rest();
    assert_eq!(world.end_daemon(Signal::TERM), 0);
    world.all_gone();
    compare(world)
}

/// Compares the records of a world that has come to rest.
#[track_caller]
pub(crate) fn compare(world: &World) -> Compared {
    // The doctor sees what these three records do not say: rules, and what lies about.
    world.batchd(&["doctor"]).expect(0);
    let runs = world.runs();
    let witness = witness(world);
    let folders = folders(world);
    let known: BTreeSet<&str> = runs.iter().map(|run| text(run, "id")).collect();
    assert_eq!(known.len(), runs.len(), "a run has two rows");
    for run in &runs {
        compare_run(world, run, &witness, &folders);
    }
    for id in witness.keys().chain(&folders) {
        assert!(known.contains(id.as_str()), "{id} ran, and the journal does not know it");
    }
    let chains = chains(&runs);
    chains.values().for_each(check_chain);
    check_occurrences(&runs);
    let lost = runs.iter().filter(|run| run["outcome"] == "lost").count();
    Compared { chains: chains.len(), lost }
}

/// How often each run has begun and ended, as its script says.
fn witness(world: &World) -> BTreeMap<String, (u32, u32)> {
    let mut said: BTreeMap<String, (u32, u32)> = BTreeMap::new();
    for line in world.read("witness").lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let counts = said.entry(words[1].to_owned()).or_default();
        match words[0] {
            "start" => counts.0 += 1,
            "end" => counts.1 += 1,
            other => panic!("{other}"),
        }
    }
    said
}

fn folders(world: &World) -> BTreeSet<String> {
    let entries = fs::read_dir(world.path("runs")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn compare_run(world: &World, run: &Value, witness: &BTreeMap<String, (u32, u32)>, folders: &BTreeSet<String>) {
    let id = text(run, "id");
    let said = witness.get(id).copied().unwrap_or_default();
    match text(run, "outcome") {
        outcome @ ("succeeded" | "failed") => {
            assert_eq!(said, (1, 1), "how often {id} began and ended; it {outcome}");
            assert!(folders.contains(id), "{id} has no folder");
            let expected = format!("complaint of {id}\n");
            assert_eq!(world.read(world.run_file(id, "stderr.log")), expected, "{id}");
            let stdout = world.stdout(id);
            assert!(stdout.ends_with(&format!(" {id}\n")), "{id}: {stdout:?}");
            check_settled(world, id, run);
        }
        "lost" => assert!(said.0 <= 1 && said.1 <= said.0, "{id} is lost, and began and ended {said:?} times"),
        outcome => {
            assert_eq!(said, (0, 0), "{id} is {outcome}, and ran");
            assert!(!folders.contains(id), "{id} is {outcome}, and has a folder");
        }
    }
}

/// In the folder of a run that is over lies what people copy, and nothing that only a living run needs.
fn check_settled(world: &World, id: &str, run: &Value) {
    let entries = fs::read_dir(world.path("runs").join(id)).unwrap();
    let names: BTreeSet<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    for needed in ["run.json", "exit.json", "stdout.log", "stderr.log"] {
        assert!(names.contains(needed), "{id} has no {needed}: {names:?}");
    }
    for left in ["lock", "claim", "started.json"] {
        assert!(!names.contains(left), "{id} still has its {left}: {names:?}");
    }
    let exit: Value = serde_json::from_str(&world.read(world.run_file(id, "exit.json"))).unwrap();
    assert!(exit.to_string().contains(id), "{exit}");
    assert_eq!(run["exit"]["stdout_bytes"].as_u64().unwrap(), world.stdout(id).len() as u64, "{id}");
}

/// The runs of each chain.
fn chains(runs: &[Value]) -> BTreeMap<&str, Vec<&Value>> {
    let mut chains: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    runs.iter().for_each(|run| chains.entry(text(run, "chain")).or_default().push(run));
    chains
}

/// Every batch has run in this chain, once, or is aborted because one before it was lost.
fn check_chain(chain: &Vec<&Value>) {
    let mut succeeded: BTreeSet<&str> = BTreeSet::new();
    for (batch, after) in CHAIN {
        let mut rows: Vec<&Value> = chain.iter().copied().filter(|run| run["batch"] == batch).collect();
        rows.sort_by_key(|run| run["number"].as_u64());
        let outcomes: Vec<&str> = rows.iter().map(|run| text(run, "outcome")).collect();
        let expected: &[&[&str]] = match (after.iter().all(|upstream| succeeded.contains(upstream)), batch) {
            (false, _) => &[&["aborted"]],
            (true, FLAKY) => &[&["failed", "succeeded"], &["failed", "lost"], &["lost"]],
            (true, _) => &[&["succeeded"], &["lost"]],
        };
        assert!(expected.contains(&outcomes.as_slice()), "{batch} in {:?}: {outcomes:?}", chain[0]["chain"]);
        if outcomes.last() == Some(&"succeeded") {
            succeeded.insert(batch);
        }
    }
}

/// From the first occurrence that was due to the last one, every second has its one run.
fn check_occurrences(runs: &[Value]) {
    let due = |run: &Value| Instant::parse(text(run, "due_at")).unwrap();
    let mut seconds: Vec<Instant> = runs.iter().filter(|run| run["trigger"] == "schedule").map(due).collect();
    seconds.sort_unstable();
    for pair in seconds.windows(2) {
        assert_eq!(pair[1].since(pair[0]).as_millis(), 1000, "between {} and {}", pair[0], pair[1]);
    }
}

fn text<'v>(run: &'v Value, key: &str) -> &'v str {
    run[key].as_str().unwrap_or_else(|| panic!("no {key} in {run}"))
}
