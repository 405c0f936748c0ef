//! The journal with real files: what goes in comes out, and nothing else happens to it.

mod faults;
mod random;
mod reading;

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Journal;
use super::query::Reader;
use crate::model::id::{BatchName, RunId};
use crate::model::record::{DecidedAhead, InForce, Record, Recovered};
use crate::model::run::{End, Follow, Given, Outcome, Run, State, Trigger};
use crate::model::time::Instant;
use random::Random;

/// A folder with a journal in it, and its path.
fn new_journal() -> (tempfile::TempDir, PathBuf, Journal) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    let journal = Journal::open(&path).unwrap();
    (folder, path, journal)
}

fn name(text: &str) -> BatchName {
    BatchName::new(text).unwrap()
}

fn at(ms: i64) -> Instant {
    Instant::from_ms(ms)
}

/// A queued run of no particular kind, which begins its own chain.
fn run(id: &str) -> Run {
    let id: RunId = id.parse().unwrap();
    Run {
        chain: id.clone(),
        pass: 1,
        follow: Follow::Everything,
        trigger: Trigger::Schedule,
        attempt: 1,
        previous: None,
        state: State::Queued,
        due_at: at(1_000_000 + 1000 * id.number as i64),
        start_at: None,
        queued_at: at(2_000_000 + id.number as i64),
        queue_position: id.number,
        joining: false,
        caught_up: false,
        priority: 0,
        pool: None,
        upstreams: Vec::new(),
        definition: None,
        boot: None,
        starting_at: None,
        started_at: None,
        started_by: None,
        remark: None,
        stop: None,
        given: Given::default(),
        range: None,
        id,
    }
}

fn ended(run: &Run, outcome: Outcome) -> Run {
    let end = End { outcome, reason: None, at: at(3_000_000), exit: None };
    Run { state: State::Ended(end), ..run.clone() }
}

fn record(run: &Run) -> Record {
    Record::Run(Box::new(run.clone()))
}

/// What the journal should give back: a map for each kind of row, and nothing clever.
#[derive(Default)]
struct Expected {
    runs: BTreeMap<RunId, Run>,
    batches: BTreeMap<BatchName, Record>,
    in_force: BTreeMap<BatchName, Record>,
    edges: BTreeMap<(BatchName, BatchName), Record>,
}

impl Expected {
    fn take(&mut self, record: &Record) {
        match record.clone() {
            Record::Run(run) => drop(self.runs.insert(run.id.clone(), *run)),
            Record::Batch(facts) => drop(self.batches.insert(facts.name.clone(), record.clone())),
            Record::Definition(InForce { batch, definition: None, .. }) => drop(self.in_force.remove(&batch)),
            Record::Definition(in_force) => drop(self.in_force.insert(in_force.batch, record.clone())),
            Record::Edge(edge) => drop(self.edges.insert((edge.downstream, edge.upstream), record.clone())),
            Record::EdgeRemoved { downstream, upstream } => drop(self.edges.remove(&(downstream, upstream))),
            Record::Period(_) | Record::Limits(_) | Record::Event { .. } | Record::Zone { .. } => {}
        }
    }

    fn check(&self, recovered: Recovered) {
        let live = |chain: &RunId| self.runs.values().any(|run| run.chain == *chain && run.end().is_none());
        let runs: Vec<Run> = self.runs.values().filter(|run| live(&run.chain)).cloned().collect();
        assert_eq!(recovered.runs, runs);
        let batches: Vec<Record> = recovered.batches.iter().cloned().map(Record::Batch).collect();
        assert_eq!(batches, self.batches.values().cloned().collect::<Vec<_>>());
        let in_force: Vec<Record> = recovered.in_force.into_iter().map(Record::Definition).collect();
        assert_eq!(in_force, self.in_force.values().cloned().collect::<Vec<_>>());
        let edges: Vec<Record> = recovered.edges.into_iter().map(Record::Edge).collect();
        assert_eq!(edges, self.edges.values().cloned().collect::<Vec<_>>());
        let position = self.runs.values().map(|run| run.queue_position + 1).max().unwrap_or(1);
        assert_eq!(recovered.queue_position_next, position);
        let cursors = recovered.batches.iter().filter_map(|facts| Some((&facts.name, facts.cursor?)));
        let cursors: BTreeMap<&BatchName, Instant> = cursors.collect();
        let ahead = |run: &&Run| {
            let first = run.trigger == Trigger::Schedule && run.attempt == 1 && run.due_at.is_whole_second();
            first && cursors.get(&run.id.batch).is_some_and(|cursor| run.due_at > *cursor)
        };
        let row = |run: &Run| {
            let from = run.range.as_ref().map_or(run.due_at, |range| range.from);
            DecidedAhead { batch: run.id.batch.clone(), to: run.due_at, from }
        };
        let mut ahead: Vec<DecidedAhead> = self.runs.values().filter(ahead).map(row).collect();
        ahead.sort();
        assert_eq!(recovered.decided_ahead, ahead);
    }
}

#[test]
fn what_goes_in_comes_out() {
    for seed in 0..40 {
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let (_folder, path, mut journal) = new_journal();
        let mut expected = Expected::default();
        for _ in 0..random.below(30) {
            let records: Vec<Record> = (0..random.below(12)).map(|_| random.record(&expected.runs)).collect();
            // Two records of a run in one commit may contradict each other: the second was made before the first counted.
            let mut seen = Vec::new();
            let fresh = |record: &Record| match record {
                Record::Run(run) if seen.contains(&run.id) => false,
                Record::Run(run) => {
                    seen.push(run.id.clone());
                    true
                }
                _ => true,
            };
            let records: Vec<Record> = records.into_iter().filter(fresh).collect();
            journal.commit(&records).unwrap();
            records.iter().for_each(|record| expected.take(record));
            if random.chance(4) {
                drop(journal);
                journal = Journal::open(&path).unwrap();
            }
        }
        expected.check(journal.recover().unwrap());
        let reader = Reader::open(&path).unwrap();
        for run in expected.runs.values() {
            assert_eq!(reader.run(&run.id).unwrap().as_ref(), Some(run));
        }
    }
}

#[test]
fn a_new_journal_is_empty_and_keeps_its_name() {
    let (_folder, path, journal) = new_journal();
    let id = journal.id().clone();
    assert_eq!(id.0.len(), 32);
    assert_eq!(journal.recover().unwrap(), Recovered::empty(id.clone()));
    drop(journal);
    assert_eq!(*Journal::open(&path).unwrap().id(), id);
    assert_ne!(*new_journal().2.id(), id);
}

#[test]
fn an_ended_run_never_changes() {
    let (_folder, _path, mut journal) = new_journal();
    let queued = run("a.1");
    let ended = ended(&queued, Outcome::Succeeded);
    journal.commit(&[record(&queued)]).unwrap();
    journal.commit(&[record(&ended)]).unwrap();
    journal.commit(&[record(&ended)]).unwrap();
    let failed = super::tests::ended(&queued, Outcome::Failed);
    for late in [queued, failed] {
        let other = run("b.1");
        let error = journal.commit(&[record(&other), record(&late)]).unwrap_err().to_string();
        assert!(error.contains("a record of a.1"), "{error}");
        assert_eq!(journal.recover().unwrap().runs, [], "all or nothing");
    }
}

#[test]
fn what_a_run_is_born_with_stays() {
    let (_folder, _path, mut journal) = new_journal();
    let born = run("a.1");
    journal.commit(&[record(&born)]).unwrap();
    let changes = [
        Run { chain: "b.1".parse().unwrap(), ..born.clone() },
        Run { trigger: Trigger::Manual, ..born.clone() },
        Run { attempt: 2, ..born.clone() },
        Run { due_at: at(1), ..born.clone() },
        Run { queued_at: at(1), ..born.clone() },
    ];
    for changed in changes {
        assert!(journal.commit(&[record(&changed)]).unwrap_err().to_string().contains("a.1"));
    }
}

#[test]
fn an_occurrence_is_decided_once() {
    let (_folder, _path, mut journal) = new_journal();
    let first = run("a.1");
    journal.commit(&[record(&first)]).unwrap();
    let second = Run { due_at: first.due_at, ..run("a.2") };
    let error = journal.commit(&[record(&second)]).unwrap_err().to_string();
    assert!(error.contains("a.2") && error.contains("occurrence"), "{error}");
    // The same instant of another batch, by hand, or of a later attempt is something else.
    let retry = Run { trigger: Trigger::Retry, attempt: 2, ..second.clone() };
    let manual = Run { trigger: Trigger::Manual, id: "a.3".parse().unwrap(), ..second.clone() };
    let other = Run { id: "b.1".parse().unwrap(), ..second };
    journal.commit(&[record(&retry), record(&manual), record(&other)]).unwrap();
}
