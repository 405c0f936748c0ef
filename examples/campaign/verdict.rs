//! What has to hold when all has come to rest: `doctor` is content, and the witness and the journal say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Instant;

use anyhow::Result;

use crate::load::{MEANT_TO_FAIL, own_lines};
use crate::world::{LOOK, PATIENCE, World};

/// What a campaign has come to.
pub(crate) struct Verdict {
    pub(crate) summary: String,
    pub(crate) violations: Vec<String>,
}

/// A row of the journal, as far as it is compared.
struct Row {
    id: String,
    outcome: String,
    exit_code: Option<i64>,
    started: bool,
}

/// How often a run has said that it begins, and that it ends.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
struct Said {
    starts: u32,
    ends: u32,
}

/// Waits for rest, and compares. `kills_of_shims`: so many runs may be lost.
pub(crate) fn reach(world: &mut World, kills_of_shims: u32) -> Result<Verdict> {
    let reload = world.batchd(&["reload"])?;
    if !reload.status.success() {
        world.violations.push(format!("mended definitions: {}", String::from_utf8_lossy(&reload.stdout)));
    }
    rest(world)?;
    verbs(world)?;
    world.end_daemon()?;
    gone(world);
    let doctor = world.batchd(&["doctor"])?;
    if !doctor.status.success() {
        world.violations.push(format!("doctor ({}):\n{}", doctor.status, String::from_utf8_lossy(&doctor.stdout)));
    }
    let rows = rows(world)?;
    let witness = witness(world)?;
    let mut violations = std::mem::take(&mut world.violations);
    for row in &rows {
        violations.extend(compare(world, row, witness.get(&row.id).copied().unwrap_or_default()));
    }
    let known: BTreeSet<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    let unknown = witness.keys().filter(|id| !known.contains(id.as_str()));
    violations.extend(unknown.map(|id| format!("{id} ran, and the journal does not know it")));
    violations.extend(twice(world)?);
    let mut outcomes: BTreeMap<&str, u32> = BTreeMap::new();
    rows.iter().for_each(|row| *outcomes.entry(&row.outcome).or_default() += 1);
    let lost = outcomes.get("lost").copied().unwrap_or_default();
    if lost > kills_of_shims {
        violations.push(format!("{lost} runs are lost, and only {kills_of_shims} shims were killed"));
    }
    let each: Vec<String> = outcomes.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
    let summary = format!(
        "{} rows: {}; {} scripts told the witness; {} starts of the daemon",
        rows.len(),
        each.join(", "),
        witness.len(),
        world.starts
    );
    Ok(Verdict { summary, violations })
}

/// Waits until nothing runs and nothing waits.
fn rest(world: &mut World) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        world.keep_daemon()?;
        let journal = world.journal()?;
        let mut live = journal.prepare("SELECT id || ' ' || state FROM runs WHERE state <> 'ended'")?;
        let live: Vec<String> = live.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        if live.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            world.violations.push(format!("after {PATIENCE:?} these have not come to rest: {}", live.join(", ")));
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
}

/// Waits for what operators have begun.
fn verbs(world: &mut World) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !world.see_verbs()? {
        if Instant::now() > deadline {
            world.violations.push("an operator still waits for the answer of a daemon".to_owned());
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
    rest(world)
}

/// Without a daemon, and with nothing that runs, no process is left.
fn gone(world: &mut World) {
    let deadline = Instant::now() + PATIENCE;
    while !world.processes().is_empty() {
        if Instant::now() > deadline {
            let left: Vec<String> = world.processes().iter().map(ToString::to_string).collect();
            world.violations.push(format!("processes of runs that have ended still live: {}", left.join(" ")));
            return;
        }
        std::thread::sleep(LOOK);
    }
}

fn rows(world: &World) -> Result<Vec<Row>> {
    let journal = world.journal()?;
    let mut rows =
        journal.prepare("SELECT id, coalesce(outcome, state), exit_code, started_at IS NOT NULL FROM runs")?;
    let rows = rows.query_map([], |row| {
        Ok(Row { id: row.get(0)?, outcome: row.get(1)?, exit_code: row.get(2)?, started: row.get(3)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn witness(world: &World) -> Result<BTreeMap<String, Said>> {
    let mut said: BTreeMap<String, Said> = BTreeMap::new();
    for line in fs::read_to_string(world.root().join("witness"))?.lines() {
        let mut words = line.split(' ');
        let (verb, run) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let counts = said.entry(run.to_owned()).or_default();
        match verb {
            "start" => counts.starts += 1,
            _ => counts.ends += 1,
        }
    }
    Ok(said)
}

/// Of each occurrence of a schedule the witness knows one first attempt, whatever the journal says.
fn twice(world: &World) -> Result<Vec<String>> {
    let mut seen: BTreeMap<(String, String), String> = BTreeMap::new();
    let mut violations = Vec::new();
    for line in fs::read_to_string(world.root().join("witness"))?.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let ["start", run, "schedule", "1", due_at] = words[..] else { continue };
        let batch = run.split('.').next().unwrap_or_default();
        if let Some(other) = seen.insert((batch.to_owned(), due_at.to_owned()), run.to_owned()) {
            violations.push(format!("{run} and {other} are the same occurrence, {due_at}"));
        }
    }
    Ok(violations)
}

/// What is wrong between a row and what its script said.
fn compare(world: &World, row: &Row, said: Said) -> Option<String> {
    let (id, exit_code) = (&row.id, row.exit_code);
    let whole = Said { starts: 1, ends: 1 };
    let fits = match (row.outcome.as_str(), exit_code) {
        ("succeeded", None) => said == Said::default(),
        ("succeeded", Some(_)) | ("failed", Some(MEANT_TO_FAIL)) => said == whole,
        // A signal may have met it before its first line, and after its last.
        ("failed" | "timed_out" | "cancelled" | "lost", _) => {
            said.starts <= 1
                && said.ends <= said.starts
                && (row.started || said == Said::default() || row.outcome == "lost")
        }
        ("aborted" | "skipped" | "missed", _) => said == Said::default(),
        (_, _) => false,
    };
    if !fits {
        return Some(format!("{id} is {} with exit code {exit_code:?}, and its script said {said:?}", row.outcome));
    }
    if said == whole && row.outcome == "succeeded" {
        return output(world, id);
    }
    None
}

/// The output of a run that has succeeded ends with its own lines, each of them.
fn output(world: &World, run: &str) -> Option<String> {
    match fs::read_to_string(world.run_folder(run).join("stdout.log")) {
        Ok(text) if text.ends_with(&own_lines(run)) => None,
        Ok(text) => Some(format!("{run} has succeeded, and its output lacks lines; it has {} bytes", text.len())),
        Err(error) => Some(format!("the output of {run}: {error}")),
    }
}
