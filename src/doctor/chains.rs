//! What has to hold of one chain: its rows, what led to them, and what had to follow.
//!
//! What followed an end was decided in the transaction of that end, by what was in force in it: that is what the journal
//! records, and so what is proven here. An end in whose very transaction the graph changed is not judged.

use std::collections::{BTreeMap, BTreeSet};

use super::periods::History;
use super::{RESTORE, Row, Violation};
use crate::model::definition::Definition;
use crate::model::id::{BatchName, RunId};
use crate::model::record::EdgeFacts;
use crate::model::run::{Follow, Outcome, Run, Trigger};

/// What is known beside the chain.
pub struct Around<'a> {
    /// What was in force when.
    pub history: &'a History,
    /// The cursors of joins across chains, by downstream and upstream.
    pub edges: &'a [EdgeFacts],
    /// The row of a run of any chain: whether there is one, and whether it has ended.
    pub ended: &'a dyn Fn(&RunId) -> Option<bool>,
}

/// Checks all rows of one chain.
pub fn check(rows: &[Row], around: &Around<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    let chain = Chain::new(rows);
    let Some(first) = rows.first() else { return violations };
    // What was found in folders names runs of which nothing is left.
    if rows.iter().all(|row| row.made_in.is_some()) && !chain.by_id.contains_key(&first.run.chain) {
        let what = format!("the chain {} has rows, but no run with this id", first.run.chain);
        violations.push(Violation::new("chain-head", what, RESTORE).of(&first.run.id));
    }
    for row in rows {
        violations.extend(attempt(&chain, row));
        violations.extend(upstreams(row, around));
        violations.extend(edge(row, around));
        if chain.retries_of(&row.run.id).is_empty() {
            violations.extend(downstreams(&chain, row, around));
            violations.extend(error_branches(&chain, row, around));
        }
    }
    violations
}

/// The rows of one chain, and where in them is what. A chain may have thousands, so none is looked for among all.
struct Chain<'a> {
    by_id: BTreeMap<&'a RunId, &'a Row>,
    by_pass: BTreeMap<u32, BTreeMap<&'a BatchName, Vec<&'a Row>>>,
    /// The retries of each run.
    retries: BTreeMap<&'a RunId, Vec<&'a Row>>,
    /// The targets of `on_error` that each run has started.
    errors: BTreeSet<(&'a RunId, &'a BatchName)>,
    /// The transaction that made its first row; none if one of its rows says nothing of that.
    made_in: Option<u64>,
}

impl<'a> Chain<'a> {
    fn new(rows: &'a [Row]) -> Self {
        let made_in = rows.iter().map(|row| row.made_in).min().flatten();
        let (by_id, by_pass, retries, errors) = Default::default();
        let mut chain = Self { by_id, by_pass, retries, errors, made_in };
        for row in rows {
            let run = &row.run;
            chain.by_id.insert(&run.id, row);
            chain.by_pass.entry(run.pass).or_default().entry(&run.id.batch).or_default().push(row);
            if let (Trigger::Retry, Some(previous)) = (run.trigger, &run.previous) {
                chain.retries.entry(previous).or_default().push(row);
            }
            if let (Trigger::Error, [failed]) = (run.trigger, run.upstreams.as_slice()) {
                chain.errors.insert((failed, &run.id.batch));
            }
        }
        chain
    }

    fn retries_of(&self, id: &RunId) -> &[&'a Row] {
        self.retries.get(id).map_or(&[], Vec::as_slice)
    }

    fn in_pass(&self, pass: u32, batch: &BatchName) -> &[&'a Row] {
        self.by_pass.get(&pass).and_then(|batches| batches.get(batch)).map_or(&[], Vec::as_slice)
    }
}

/// `attempts`
fn attempt(chain: &Chain<'_>, row: &Row) -> Option<Violation> {
    let run = &row.run;
    let wrong = |what: String| Violation::new("attempts", format!("{}: {what}", run.id), RESTORE).of(&run.id);
    if let [_, second, ..] = chain.retries_of(&run.id) {
        return Some(wrong("two attempts follow it".to_owned()).row(second.run.id.to_string()));
    }
    if run.trigger != Trigger::Retry {
        return (run.attempt != 1).then(|| wrong(format!("the run is attempt {}, but not a retry", run.attempt)));
    }
    if row.made_in.is_none() && run.previous.is_none() {
        return None;
    }
    let Some(before) = run.previous.as_ref().and_then(|previous| chain.by_id.get(previous)) else {
        return Some(wrong("the run is a retry, but the previous attempt has no row in its chain".to_owned()));
    };
    let wrong = |what: &str| Some(wrong(what.to_owned()).row(before.run.id.to_string()));
    // A run that met another journal's folder goes on under the next number, and is not charged.
    if run.attempt != before.run.attempt + 1 && !(run.attempt == before.run.attempt && took_next_number(&before.run)) {
        return wrong("the number of the attempt does not follow the previous one");
    }
    let made_by_its_end = match (row.made_in, before.written_in) {
        (Some(made_in), Some(written_in)) => made_in == written_in,
        _ => true,
    };
    if before.run.end().is_none() || !made_by_its_end {
        return wrong("the run was not created by the end of the previous attempt");
    }
    None
}

/// Its folder belonged to another journal.
pub(super) fn took_next_number(run: &Run) -> bool {
    let reason = run.end().and_then(|end| end.reason.as_deref()).unwrap_or_default();
    run.outcome() == Some(Outcome::Failed) && reason.contains("belongs to another journal")
}

/// `upstream-exists`
fn upstreams(row: &Row, around: &Around<'_>) -> Option<Violation> {
    let run = &row.run;
    let wrong = run.upstreams.iter().find_map(|upstream| match (around.ended)(upstream) {
        Some(true) => None,
        Some(false) => Some((upstream, "has not ended")),
        None if row.made_in.is_none() => None,
        None => Some((upstream, "has no row")),
    });
    let (upstream, what) = wrong?;
    let what = format!("{}: its upstream {upstream} {what}", run.id);
    Some(Violation::new("upstream-exists", what, RESTORE).of(&run.id).row(upstream.to_string()))
}

/// `edge-cursor`: what a join across chains has used lies behind the cursors of its edges.
fn edge(row: &Row, around: &Around<'_>) -> Option<Violation> {
    let run = &row.run;
    if run.trigger != Trigger::Upstream || run.chain != run.id {
        return None;
    }
    let used = run.upstreams.iter().find_map(|upstream| {
        let of = |edge: &EdgeFacts| (&edge.downstream, &edge.upstream).cmp(&(&run.id.batch, &upstream.batch));
        let edge = &around.edges[around.edges.binary_search_by(of).ok()?];
        (edge.cursor < upstream.number).then_some(edge)
    })?;
    let (downstream, upstream) = (&used.downstream, &used.upstream);
    let what = format!(
        "{}: the run used an end of {upstream} that its edge counts as unused; another run would use this end again",
        run.id
    );
    Some(Violation::new("edge-cursor", what, RESTORE).of(&run.id).row(format!("edge {downstream} {upstream}")))
}

/// The transaction in which an end was decided, if something may have followed it.
fn decided(run: &Run, row: &Row) -> Option<u64> {
    let outcome = run.outcome()?;
    let began = run.trigger == Trigger::Schedule && run.chain == run.id && run.pass == 1;
    let nothing = run.follow == Follow::Nothing
        || (began && matches!(outcome, Outcome::Skipped | Outcome::Missed))
        || took_next_number(run);
    row.written_in.filter(|_| !nothing)
}

/// `downstream-missing`: each batch that named this one in `after` when it ended has its row in the same pass, once all its
/// upstreams have one.
fn downstreams(chain: &Chain<'_>, row: &Row, around: &Around<'_>) -> Vec<Violation> {
    let run = &row.run;
    let Some(transaction) = decided(run, row) else { return Vec::new() };
    if around.history.through(&run.id.batch, transaction, transaction).is_none() {
        return Vec::new();
    }
    let missing = around.history.downstreams(&run.id.batch).filter(|name| {
        let Some(definition) = named_in(chain, run, name, transaction, around) else { return false };
        let all_here = definition.after.iter().all(|upstream| !chain.in_pass(run.pass, upstream).is_empty());
        all_here && chain.in_pass(run.pass, name).is_empty() && !succeeded_before(chain, run, name)
    });
    let violation = |name: &BatchName| {
        let what = format!(
            "{}: the run ended, but its downstream {name} has no row in chain {} (pass {})",
            run.id, run.chain, run.pass
        );
        let hint = format!("`batchd rerun --mark-succeeded {}` continues the chain from there", run.id);
        Violation::new("downstream-missing", what, hint).of(&run.id).row(format!("period {name}"))
    };
    missing.map(violation).collect()
}

/// The definition of `name` that was in force from the first of its upstreams' rows in this pass to the last one's end.
fn named_in<'h>(
    chain: &Chain<'_>,
    run: &Run,
    name: &BatchName,
    transaction: u64,
    around: &'h Around<'_>,
) -> Option<&'h Definition> {
    let at_end = around.history.through(name, transaction, transaction)?;
    let upstreams = || at_end.definition.after.iter().flat_map(|upstream| chain.in_pass(run.pass, upstream));
    let from = upstreams().map(|row| row.made_in).min().flatten()?;
    let to = upstreams().map(|row| row.written_in).max().flatten()?;
    let period = around.history.through(name, from.min(transaction), to.max(transaction))?;
    // Whether a join is one within its chain, other batches' edges decide, too.
    if period.definition.after.len() > 1 && !around.history.unchanged(chain.made_in?, to.max(transaction)) {
        return None;
    }
    (!period.held && period.definition.after.contains(&run.id.batch)).then_some(&*period.definition)
}

/// A pass over what has not succeeded leaves out what has, in an earlier pass.
fn succeeded_before(chain: &Chain<'_>, run: &Run, name: &BatchName) -> bool {
    let of_batch = chain.by_id.range::<RunId, _>(name.run(0)..=name.run(u64::MAX)).rev();
    let latest = of_batch.map(|(_, row)| &row.run).find(|before| before.pass < run.pass);
    run.follow == Follow::Unsucceeded && latest.is_some_and(Run::succeeded)
}

/// `error-branch-missing`
fn error_branches(chain: &Chain<'_>, row: &Row, around: &Around<'_>) -> Vec<Violation> {
    let run = &row.run;
    let failed = matches!(run.outcome(), Some(Outcome::Failed | Outcome::TimedOut | Outcome::Lost));
    let Some(transaction) = decided(run, row).filter(|_| failed) else { return Vec::new() };
    let through = |name: &BatchName| around.history.through(name, transaction, transaction);
    let Some(period) = through(&run.id.batch).filter(|period| !period.held) else { return Vec::new() };
    let has_row = |target: &BatchName| chain.errors.contains(&(&run.id, target));
    let missing = period.definition.on_error.iter().filter(|target| through(target).is_some() && !has_row(target));
    let violation = |target: &BatchName| {
        let what = format!("{}: the run failed, but its on_error target {target} has no row for this failure", run.id);
        let hint = format!("`batchd start {target}` starts {target} now");
        Violation::new("error-branch-missing", what, hint).of(&run.id).row(format!("period {target}"))
    };
    missing.map(violation).collect()
}
