//! Slots and overlap: a sweep over the transactions in which runs became `starting` and in which they ended.
//!
//! By transactions, not by instants: they are in the order in which all was decided, whatever the clock did. Ends of a
//! transaction are taken before its starts; each start left no more than the limit, and what ended behind it left less.

use std::collections::{BTreeMap, BTreeSet};

use super::periods::History;
use super::{RESTORE, Violation};
use crate::model::definition::Overlap;
use crate::model::id::{BatchName, RunId};
use crate::model::settings::Limits;

/// A run became `starting`, or ended.
#[derive(Clone, Debug)]
pub struct Step {
    /// The transaction.
    pub transaction: u64,
    /// It ended.
    pub ends: bool,
    /// The run.
    pub run: RunId,
    /// The pool that it takes a slot of.
    pub pool: Option<String>,
}

/// What is under way. Holds as much as ever was at one time.
pub struct Sweep<'a> {
    history: &'a History,
    /// The transaction from which on, and the limits.
    limits: &'a [(u64, Limits)],
    under_way: BTreeSet<RunId>,
    pools: BTreeMap<String, u32>,
    /// What became `starting` in the transaction at hand.
    started: Vec<Step>,
}

impl<'a> Sweep<'a> {
    /// Nothing is under way.
    pub fn new(history: &'a History, limits: &'a [(u64, Limits)]) -> Self {
        let (under_way, pools) = (BTreeSet::new(), BTreeMap::new());
        Self { history, limits, under_way, pools, started: Vec::new() }
    }

    /// Takes the next step: by transaction, ends before starts.
    pub fn take(&mut self, step: Step, violations: &mut Vec<Violation>) {
        if self.started.first().is_some_and(|first| first.transaction != step.transaction) {
            self.close(violations);
        }
        if step.ends {
            self.under_way.remove(&step.run);
            if let Some(count) = step.pool.as_ref().and_then(|pool| self.pools.get_mut(pool)) {
                *count -= 1;
            }
        } else {
            self.under_way.insert(step.run.clone());
            if let Some(pool) = &step.pool {
                *self.pools.entry(pool.clone()).or_default() += 1;
            }
            self.started.push(step);
        }
    }

    /// Judges the transaction at hand: call it once more at the end.
    pub fn close(&mut self, violations: &mut Vec<Violation>) {
        let started = std::mem::take(&mut self.started);
        let Some(transaction) = started.first().map(|step| step.transaction) else { return };
        violations.extend(started.iter().filter_map(|step| self.overlap(step)));
        // In the transaction of a change some starts may have been decided before it.
        let begun = self.limits.partition_point(|(began_in, _)| *began_in <= transaction);
        let Some((_, limits)) = self.limits[..begun].last().filter(|(began_in, _)| *began_in < transaction) else {
            return;
        };
        if let Some(last) = started.last().filter(|_| self.under_way.len() > limits.max_running as usize) {
            let what = format!(
                "{}: {} runs were under way at its start, but max_running was {}",
                last.run,
                self.under_way.len(),
                limits.max_running
            );
            let violation = Violation::new("max-running", what, RESTORE).of(&last.run);
            violations.push(
                self.under_way
                    .iter()
                    .filter(|run| **run != last.run)
                    .fold(violation, |violation, run| violation.row(run.to_string())),
            );
        }
        for step in &started {
            let Some(pool) = &step.pool else { continue };
            let (count, most) = (self.pools.get(pool).copied().unwrap_or(0), limits.pools.get(pool).copied());
            if most.is_some_and(|most| count > most) {
                let what = format!(
                    "{}: {count} runs of pool {pool} were under way at its start, but the limit was {}",
                    step.run,
                    most.unwrap_or(0)
                );
                violations.push(Violation::new("pool-limit", what, RESTORE).of(&step.run));
            }
        }
    }

    fn overlap(&self, step: &Step) -> Option<Violation> {
        let period = self.history.through(&step.run.batch, step.transaction, step.transaction)?;
        let beside = self.beside(&step.run.batch).find(|other| **other != step.run)?;
        (period.definition.overlap != Overlap::Allow).then(|| {
            let what =
                format!("{} was started while {beside} was under way, but its overlap does not allow that", step.run);
            Violation::new("overlap", what, RESTORE).of(&step.run).row(beside.to_string())
        })
    }

    fn beside<'s>(&'s self, batch: &BatchName) -> impl Iterator<Item = &'s RunId> + use<'s> {
        self.under_way.range(batch.run(0)..=batch.run(u64::MAX))
    }
}
