//! What was in force when: [`History`].

use std::collections::{BTreeMap, BTreeSet};

use super::{Period, Violation};
use crate::model::id::BatchName;
use crate::model::record::InForce;
use crate::model::time::Instant;

/// All periods, by batch and in the order in which they began.
#[derive(Debug, Default)]
pub struct History {
    periods: BTreeMap<BatchName, Vec<Period>>,
    /// Who has ever named a batch in `after`.
    downstreams: BTreeMap<BatchName, BTreeSet<BatchName>>,
    /// The transactions in which anything changed.
    changes: BTreeSet<u64>,
}

impl History {
    /// Adds the period that began next.
    pub fn push(&mut self, period: Period) {
        self.changes.extend([Some(period.began_in), period.ended_in].into_iter().flatten());
        for upstream in &period.definition.after {
            self.downstreams.entry(upstream.clone()).or_default().insert(period.batch.clone());
        }
        self.periods.entry(period.batch.clone()).or_default().push(period);
    }

    /// The periods of a batch.
    pub fn of(&self, batch: &BatchName) -> &[Period] {
        self.periods.get(batch).map_or(&[], Vec::as_slice)
    }

    /// The batches that have ever named this one in `after`.
    pub fn downstreams(&self, batch: &BatchName) -> impl Iterator<Item = &BatchName> {
        self.downstreams.get(batch).into_iter().flatten()
    }

    /// Whether all that was in force stayed the same through the transactions `from` to `to`.
    pub fn unchanged(&self, from: u64, to: u64) -> bool {
        self.changes.range(from..=to).next().is_none()
    }

    /// What was in force for a batch through all of the transactions `from` to `to`; none if it changed in one of them.
    pub fn through(&self, batch: &BatchName, from: u64, to: u64) -> Option<&Period> {
        let periods = self.of(batch);
        let begun = periods.partition_point(|period| period.began_in < from);
        periods[..begun].last().filter(|period| period.ended_in.is_none_or(|ended_in| ended_in > to))
    }
}

/// The intervals that the periods of one batch have decided, each with its period: later than the first instant, up to the
/// second. `cursor` is that of the batch.
///
/// A clock that was corrected goes back behind what earlier periods have decided: what lies between comes again, perhaps
/// under another schedule, and is left out of both, the earlier periods and the later ones.
pub fn decided(periods: &[Period], cursor: Option<Instant>) -> Vec<(&Period, Instant, Instant)> {
    let mut latest = Instant::MIN;
    let mut decided: Vec<(&Period, Instant, Instant)> = Vec::new();
    let afters: Vec<Option<Instant>> = periods
        .iter()
        .map(|period| {
            latest = latest.max(period.decides_after?);
            let after = latest;
            latest = latest.max(period.decided_until.unwrap_or(Instant::MIN));
            Some(after)
        })
        .collect();
    let mut bound = Instant::MAX;
    for (period, after) in periods.iter().zip(afters).rev() {
        let until = if period.ended_in.is_none() { cursor } else { period.decided_until };
        let Some(until) = until else { continue };
        bound = bound.min(until);
        if let Some(after) = after.filter(|after| *after < bound) {
            decided.push((period, after, bound));
        }
        // A batch may have been away when the clock was corrected.
        bound = bound.min(period.decides_after.unwrap_or(bound));
    }
    decided.reverse();
    decided
}

/// `period-open`: what is in force is what the period says that has not ended. A journal that was just brought up to date,
/// and one that was rebuilt, have no periods yet.
pub fn open(history: &History, in_force: &[InForce]) -> Vec<Violation> {
    let hint = "restart the daemon, which begins a new period; occurrences in between can't be verified";
    let wrong = in_force.iter().filter_map(|batch| {
        let periods = history.of(&batch.batch);
        let open: Vec<&Period> = periods.iter().filter(|period| period.ended_in.is_none()).collect();
        let same = |period: &Period| Some(&period.definition) == batch.definition.as_ref() && period.held == batch.held;
        let what = match open.as_slice() {
            [] if history.periods.is_empty() => return None,
            [one] if same(one) => return None,
            [_] => "the open period and the batch in force have different definitions",
            [] => "the batch is in force, but has no open period",
            _ => "the batch has several open periods",
        };
        let violation = Violation::new("period-open", format!("{}: {what}", batch.batch), hint);
        Some(violation.row(format!("definition {}", batch.batch)).row(format!("period {}", batch.batch)))
    });
    wrong.collect()
}
