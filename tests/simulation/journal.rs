//! The journal's stand-in: it holds what the real one would, refuses what the real one would, and gives back what the real
//! one would: both pass the suite of `tests/contract/journal.rs`.

use std::collections::{BTreeMap, BTreeSet};

use batchd::model::id::{BatchName, JournalId, RunId};
use batchd::model::record::{BatchFacts, DecidedAhead, EdgeFacts, InForce, Record, Recovered, ZoneMark};
use batchd::model::run::{Run, State, Trigger};
use batchd::model::settings::Limits;
use batchd::model::time::Instant;

use crate::by_id::ById;

#[derive(Default)]
pub(crate) struct FakeJournal {
    pub(crate) runs: ById<Run>,
    pub(crate) batches: BTreeMap<BatchName, BatchFacts>,
    pub(crate) in_force: BTreeMap<BatchName, InForce>,
    pub(crate) edges: BTreeMap<(BatchName, BatchName), EdgeFacts>,
    pub(crate) events: usize,
    periods: BTreeMap<BatchName, Option<ZoneMark>>,
    limits: Option<Limits>,
    /// The number of the run that stands for an instant of a batch.
    occurrences: BTreeMap<BatchName, BTreeMap<Instant, u64>>,
    live: BTreeSet<RunId>,
    chains: ById<Vec<RunId>>,
    position_next: u64,
}

impl FakeJournal {
    /// Commits one transaction, all of it or nothing.
    pub(crate) fn commit(&mut self, records: &[Record]) -> Result<(), String> {
        self.check(records)?;
        for record in records {
            match record {
                Record::Run(run) => self.put(run),
                Record::Batch(facts) => drop(self.batches.insert(facts.name.clone(), facts.clone())),
                Record::Definition(definition) if definition.definition.is_none() => {
                    self.in_force.remove(&definition.batch);
                }
                Record::Definition(definition) => {
                    self.in_force.insert(definition.batch.clone(), definition.clone());
                }
                Record::Edge(edge) => {
                    self.edges.insert((edge.downstream.clone(), edge.upstream.clone()), edge.clone());
                }
                Record::EdgeRemoved { downstream, upstream } => {
                    self.edges.remove(&(downstream.clone(), upstream.clone()));
                }
                Record::Period(change) => match &change.begins {
                    Some(start) => drop(self.periods.insert(change.batch.clone(), start.zone.clone())),
                    None => drop(self.periods.remove(&change.batch)),
                },
                Record::Limits(limits) => self.limits = Some(limits.clone()),
                Record::Event { .. } => self.events += 1,
                // Only a daemon writes it.
                Record::Zone { .. } => {}
            }
        }
        Ok(())
    }

    /// Why the real journal would refuse these.
    fn check(&self, records: &[Record]) -> Result<(), String> {
        let mut occurrences: BTreeMap<(BatchName, Instant), u64> = BTreeMap::new();
        for record in records {
            let Record::Run(run) = record else { continue };
            if let Some(old) = self.runs.get(&run.id) {
                if old.end().is_some() && old != run.as_ref() {
                    return Err(format!("{} had ended, and is changed: {old:?} to {run:?}", run.id));
                }
                if born(old) != born(run) {
                    return Err(format!("{} is another run: {old:?} to {run:?}", run.id));
                }
            } else if is_occurrence(run) {
                let batch = &run.id.batch;
                let decided = self.occurrences.get(batch).and_then(|decided| decided.get(&run.due_at)).copied();
                let other = decided.or_else(|| occurrences.insert((batch.clone(), run.due_at), run.id.number));
                if let Some(other) = other.filter(|other| *other != run.id.number) {
                    let other = batch.run(other);
                    return Err(format!("{} and {other} are the same occurrence, {}", run.id, run.due_at));
                }
            }
        }
        Ok(())
    }

    fn put(&mut self, run: &Run) {
        let id = &run.id;
        // What makes its other keys is what it is born with.
        if self.runs.insert(id, run.clone()).is_none() {
            self.chains.place(&run.chain).get_or_insert_default().push(id.clone());
            self.position_next = self.position_next.max(run.queue_position + 1);
            if is_occurrence(run) {
                self.occurrences.entry(id.batch.clone()).or_default().insert(run.due_at, id.number);
            }
        }
        match run.state {
            State::Ended(_) => drop(self.live.remove(id)),
            State::Queued | State::Starting | State::Running => drop(self.live.insert(id.clone())),
        }
    }

    pub(crate) fn chain(&self, of: &RunId) -> Vec<Run> {
        let Some(run) = self.runs.get(of) else { return Vec::new() };
        self.chains[&run.chain].iter().map(|id| self.runs[id].clone()).collect()
    }

    /// Every run of the chains that a run and its upstreams belong to.
    pub(crate) fn history(&self, of: &RunId) -> Vec<Run> {
        let upstreams = self.runs.get(of).map_or(&[][..], |run| run.upstreams.as_slice());
        let chains = [of].into_iter().chain(upstreams).filter_map(|id| self.runs.get(id)).map(|run| &run.chain);
        let chains: BTreeSet<&RunId> = chains.collect();
        chains.into_iter().flat_map(|chain| self.chain(chain)).collect()
    }

    pub(crate) fn live(&self) -> impl Iterator<Item = &Run> {
        self.live.iter().map(|id| &self.runs[id])
    }

    pub(crate) fn decided_after(&self, after: impl Fn(&BatchName) -> Instant) -> Vec<DecidedAhead> {
        let batches = self.batches.keys();
        let of = |name: &BatchName| {
            let from = Instant::from_ms(after(name).as_ms() + 1);
            let rows = self.occurrences.get(name).into_iter().flat_map(|decided| decided.range(from..=Instant::MAX));
            rows.map(|(to, number)| {
                let from = self.runs[&name.run(*number)].range.as_ref().map_or(*to, |range| range.from);
                DecidedAhead { batch: name.clone(), to: *to, from }
            })
            .collect::<Vec<_>>()
        };
        batches.flat_map(of).collect()
    }

    pub(crate) fn recover(&self) -> Recovered {
        let open: BTreeSet<&RunId> = self.live().map(|run| &run.chain).collect();
        let mut runs: Vec<Run> =
            open.iter().flat_map(|chain| &self.chains[*chain]).map(|id| self.runs[id].clone()).collect();
        runs.sort_by(|a, b| a.id.cmp(&b.id));
        Recovered {
            journal: JournalId("sim".to_owned()),
            batches: self.batches.values().cloned().collect(),
            in_force: self.in_force.values().cloned().collect(),
            runs,
            edges: self.edges.values().cloned().collect(),
            queue_position_next: self.position_next.max(1),
            periods: self.periods.clone(),
            limits: self.limits.clone(),
            decided_ahead: self.decided_after(|name| self.batches[name].cursor.unwrap_or(Instant::MAX)),
        }
    }
}

/// What a row never changes.
fn born(run: &Run) -> (&RunId, Trigger, u32, Instant, Instant) {
    (&run.chain, run.trigger, run.attempt, run.due_at, run.queued_at)
}

/// Whether no other row may stand for its batch and instant.
fn is_occurrence(run: &Run) -> bool {
    run.trigger == Trigger::Schedule && run.attempt == 1 && run.due_at.is_whole_second()
}
