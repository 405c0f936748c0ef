//! The journal's stand-in: it holds what the real one would, refuses what the real one would, and gives back what the real
//! one would. That it tells the truth is what the journal's own tests show of the real one.

use std::collections::{BTreeMap, BTreeSet};

use batchd::model::id::{BatchName, JournalId, RunId};
use batchd::model::record::{BatchFacts, DecidedAhead, EdgeFacts, InForce, Record, Recovered};
use batchd::model::run::{Run, State, Trigger};
use batchd::model::time::Instant;

#[derive(Default)]
pub(crate) struct FakeJournal {
    pub(crate) runs: BTreeMap<RunId, Run>,
    pub(crate) batches: BTreeMap<BatchName, BatchFacts>,
    pub(crate) in_force: BTreeMap<BatchName, InForce>,
    pub(crate) edges: BTreeMap<(BatchName, BatchName), EdgeFacts>,
    pub(crate) events: usize,
    occurrences: BTreeMap<(BatchName, Instant), RunId>,
    live: BTreeSet<RunId>,
    chains: BTreeMap<RunId, BTreeSet<RunId>>,
    position_next: u64,
}

impl FakeJournal {
    /// Commits one transaction; what the real journal would refuse is a violation.
    pub(crate) fn commit(&mut self, records: &[Record]) -> Result<(), String> {
        for record in records {
            match record {
                Record::Run(run) => self.put(run)?,
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
                Record::Event { .. } => self.events += 1,
            }
        }
        match self.runs.keys().find(|id| self.batches.get(&id.batch).is_none_or(|facts| facts.next_number <= id.number))
        {
            // Only looked for where it is cheap: after the transaction that made the run.
            Some(id) if records.iter().any(|r| matches!(r, Record::Run(run) if run.id == *id)) => {
                Err(format!("the number of {id} can come back"))
            }
            _ => Ok(()),
        }
    }

    fn put(&mut self, run: &Run) -> Result<(), String> {
        let id = &run.id;
        if let Some(old) = self.runs.get(id) {
            if old.end().is_some() && old != run {
                return Err(format!("{id} had ended, and is changed: {old:?} to {run:?}"));
            }
            let born = |run: &Run| (run.chain.clone(), run.trigger, run.attempt, run.due_at, run.queued_at);
            if born(old) != born(run) {
                return Err(format!("{id} is another run: {old:?} to {run:?}"));
            }
        } else if run.trigger == Trigger::Schedule && run.attempt == 1 {
            let key = (id.batch.clone(), run.due_at);
            if let Some(other) = self.occurrences.insert(key, id.clone()) {
                return Err(format!("{id} and {other} are the same occurrence, {}", run.due_at));
            }
        }
        self.position_next = self.position_next.max(run.queue_position + 1);
        self.chains.entry(run.chain.clone()).or_default().insert(id.clone());
        match run.state {
            State::Ended(_) => drop(self.live.remove(id)),
            State::Queued | State::Starting | State::Running => drop(self.live.insert(id.clone())),
        }
        self.runs.insert(id.clone(), run.clone());
        Ok(())
    }

    pub(crate) fn chain(&self, of: &RunId) -> Vec<Run> {
        let Some(run) = self.runs.get(of) else { return Vec::new() };
        self.chains[&run.chain].iter().map(|id| self.runs[id].clone()).collect()
    }

    pub(crate) fn live(&self) -> impl Iterator<Item = &Run> {
        self.live.iter().map(|id| &self.runs[id])
    }

    pub(crate) fn decided_after(&self, after: impl Fn(&BatchName) -> Instant) -> Vec<DecidedAhead> {
        let batches = self.batches.keys();
        let of = |name: &BatchName| {
            let from = (name.clone(), Instant::from_ms(after(name).as_ms() + 1));
            let rows = self.occurrences.range(from..=(name.clone(), Instant::MAX));
            rows.map(|((batch, to), id)| {
                let from = self.runs[id].range.as_ref().map_or(*to, |range| range.from);
                DecidedAhead { batch: batch.clone(), to: *to, from }
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
            decided_ahead: self.decided_after(|name| self.batches[name].cursor.unwrap_or(Instant::MAX)),
        }
    }
}
