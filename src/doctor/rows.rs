//! What has to hold of each row by itself, and of the numbers of a batch.

use super::{RESTORE, Row, Violation};
use crate::model::id::BatchName;
use crate::model::record::BatchFacts;
use crate::model::run::{Outcome, Run, State, Trigger};

/// What a row violates, if it does: the invariant and what is wrong.
type Check = fn(&Run) -> Option<String>;

/// The invariants of a row.
const CHECKS: &[(&str, Check)] = &[
    ("row-whole", whole),
    ("reason-given", reason_given),
    ("lost-without-code", lost_without_code),
    ("decided-before-due", decided_before_due),
    ("never-started", never_started),
];

/// Checks one row.
pub fn check(run: &Run) -> Vec<Violation> {
    let found = CHECKS.iter().filter_map(|(name, check)| Some((*name, check(run)?)));
    found.map(|(name, what)| Violation::new(name, format!("{}: {what}", run.id), RESTORE).of(&run.id)).collect()
}

fn whole(run: &Run) -> Option<String> {
    let started = run.definition.is_some() && run.boot.is_some() && run.starting_at.is_some();
    let without = match run.state {
        State::Queued => return None,
        State::Starting if started => return None,
        State::Running if started && run.started_at.is_some() => return None,
        State::Starting | State::Running => "a definition, a boot or the time of its start",
        State::Ended(ref end) => {
            let measured = end.exit.is_some();
            let says_how = |exit: &crate::model::run::Exit| exit.exit_code.is_some() != exit.signal.is_some();
            match end.outcome {
                _ if end.exit.as_ref().is_some_and(|exit| !says_how(exit)) => "either an exit code or a signal",
                Outcome::TimedOut if !measured => "the measurements of its script",
                Outcome::Succeeded if !measured && run.trigger != Trigger::Rerun => "the measurements of its script",
                _ if measured && !(started && run.started_at.is_some()) => "the instant of its start",
                _ => return None,
            }
        }
    };
    Some(format!("the run is {} without {without}", run.state.word()))
}

fn reason_given(run: &Run) -> Option<String> {
    let end = run.end()?;
    let silent = end.reason.as_ref().is_none_or(|reason| reason.is_empty());
    (end.outcome != Outcome::Succeeded && silent).then(|| format!("the run is {} without a reason", end.outcome))
}

fn lost_without_code(run: &Run) -> Option<String> {
    let end = run.end()?;
    (end.outcome == Outcome::Lost && end.exit.is_some()).then(|| "the run is lost, but has an exit code".to_owned())
}

/// By the clock that decided: a row is made by whoever decides. (The instants of a start come from later readings of the
/// clock, which may have been set back a little in between, and are compared with `exit.json` instead.)
fn decided_before_due(run: &Run) -> Option<String> {
    (run.trigger == Trigger::Schedule && run.queued_at < run.due_at)
        .then(|| format!("the run was due at {}, but its row was created at {}", run.due_at, run.queued_at))
}

fn never_started(run: &Run) -> Option<String> {
    let outcome = run.outcome()?;
    let started = run.started_at.is_some() || run.end().is_some_and(|end| end.exit.is_some());
    (matches!(outcome, Outcome::Aborted | Outcome::Skipped | Outcome::Missed) && started)
        .then(|| format!("the run is {outcome}, but its script ran"))
}

/// The numbers of one batch, row by row in their order.
#[derive(Debug, Default)]
pub struct Numbers {
    batch: Option<BatchName>,
    last: u64,
    /// The last row was made by a journal that records transactions.
    provable: bool,
}

impl Numbers {
    /// Takes the next row, in the order of batch and number.
    pub fn take(&mut self, row: &Row, violations: &mut Vec<Violation>) {
        let id = &row.run.id;
        if self.batch.as_ref() != Some(&id.batch) {
            (self.batch, self.last, self.provable) = (Some(id.batch.clone()), 0, false);
        }
        // Rows from before may have been removed, or come from folders.
        if self.provable && row.made_in.is_some() && id.number > self.last + 1 {
            violations.push(gap(&id.batch, self.last + 1, id.number - 1).row(id.to_string()));
        }
        (self.last, self.provable) = (id.number, row.made_in.is_some());
    }
}

/// What has to hold between a batch's facts and its rows: `last` is the number of its last row, and whether that one was
/// made by a journal that records transactions.
pub fn facts(facts: &BatchFacts, last: Option<(u64, bool)>) -> Vec<Violation> {
    let Some((last, provable)) = last else { return Vec::new() };
    let row = format!("batch {}", facts.name);
    if facts.next_number <= last {
        let what = format!("{}: the next number is {}, but {last} is already used", facts.name, facts.next_number);
        return vec![Violation::new("number-not-reused", what, RESTORE).row(row).row(facts.name.run(last).to_string())];
    }
    if provable && facts.next_number > last + 1 {
        return vec![gap(&facts.name, last + 1, facts.next_number - 1).row(row)];
    }
    Vec::new()
}

fn gap(batch: &BatchName, from: u64, to: u64) -> Violation {
    let which = if from == to { batch.run(from).to_string() } else { format!("{} to {to}", batch.run(from)) };
    Violation::new("number-gap", format!("{which}: the number was used, but there is no row"), RESTORE)
}
