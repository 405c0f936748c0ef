//! The doctor in a simulated world: what the scheduler has decided in months, with clocks that were set, is without
//! violation. Its own false alarms show here, and faults that only the whole history shows.

use std::collections::BTreeMap;

use batchd::doctor::limits::{Step, Sweep};
use batchd::doctor::occurrences::{self, Many, Occurrence, Span};
use batchd::doctor::periods::History;
use batchd::doctor::{Period, Row, Violation, chains, periods, rows};
use batchd::model::id::RunId;
use batchd::model::record::{EdgeFacts, PeriodChange, Record};
use batchd::model::run::{State, Trigger};
use batchd::model::settings::Limits;

use crate::graphs::offset_s;
use crate::journal::FakeJournal;

/// What the real journal records beside the rows.
#[derive(Default)]
pub(crate) struct Proof {
    transaction: u64,
    /// The transactions that made, started, and last wrote a run's row.
    written: BTreeMap<RunId, (u64, Option<u64>, u64)>,
    periods: Vec<Period>,
    limits: Vec<(u64, Limits)>,
}

impl Proof {
    /// Takes what was committed.
    pub(crate) fn commit(&mut self, records: &[Record]) {
        self.transaction += 1;
        let at = self.transaction;
        for record in records {
            match record {
                Record::Run(run) => {
                    let (_, started, last) = self.written.entry(run.id.clone()).or_insert((at, None, at));
                    *last = at;
                    if run.state == State::Starting {
                        started.get_or_insert(at);
                    }
                }
                Record::Period(change) => self.period(change),
                Record::Limits(limits) => self.limits.push((at, limits.clone())),
                Record::Batch(_)
                | Record::Definition(_)
                | Record::Edge(_)
                | Record::EdgeRemoved { .. }
                | Record::Event { .. }
                | Record::Zone { .. } => {}
            }
        }
    }

    fn period(&mut self, change: &PeriodChange) {
        let at = self.transaction;
        let open = |period: &&mut Period| period.batch == change.batch && period.ended_in.is_none();
        if let Some(open) = self.periods.iter_mut().find(open) {
            (open.ended_in, open.decided_until) = (Some(at), change.decided_until);
        }
        self.periods.extend(change.begins.as_ref().map(|start| Period {
            batch: change.batch.clone(),
            began_in: at,
            ended_in: None,
            decides_after: start.decides_after,
            decided_until: None,
            zone: start.zone.clone(),
            held: start.held,
            definition: start.definition.clone(),
        }));
    }
}

/// The first things that the doctor finds in a journal.
pub(crate) fn check(journal: &FakeJournal, proof: &Proof) -> Result<(), String> {
    let mut history = History::default();
    proof.periods.iter().cloned().for_each(|period| history.push(period));
    let all: Vec<Row> = journal.runs.values().map(|run| row(proof, run)).collect();
    let mut found: Vec<Violation> = all.iter().flat_map(|row| rows::check(&row.run)).collect();
    found.extend(all.iter().filter_map(|row| occurrences::boot(row, &history)));
    let mut numbers = rows::Numbers::default();
    all.iter().for_each(|row| numbers.take(row, &mut found));
    let edges: Vec<EdgeFacts> = journal.edges.values().cloned().collect();
    let ended = |id: &RunId| journal.runs.get(id).map(|run| run.end().is_some());
    let around = chains::Around { history: &history, edges: &edges, ended: &ended };
    let mut by_chain: BTreeMap<&RunId, Vec<Row>> = BTreeMap::new();
    all.iter().for_each(|row| by_chain.entry(&row.run.chain).or_default().push(row.clone()));
    by_chain.values().for_each(|chain| found.extend(chains::check(chain, &around)));
    sweep(proof, &history, &all, &mut found);
    for facts in journal.batches.values() {
        let mut of_batch: Vec<Occurrence> = occurrences_of(journal, &facts.name);
        let mut many = Many::new(of_batch.iter().cloned());
        of_batch.sort_by_key(|row| row.due_at);
        let mut of_batch = of_batch.into_iter().peekable();
        for (period, after, until) in periods::decided(history.of(&facts.name), facts.cursor) {
            if let Some(zone) = &period.zone {
                let offset_s = |at| offset_s(&zone.name, at);
                let span = Span { cron: &period.definition.cron, offset_s: &offset_s, after, until };
                occurrences::check(facts.name.as_str(), &span, &mut many, &mut of_batch, &mut found);
            }
        }
        found.extend(occurrences::ahead(facts.cursor, history.of(&facts.name), &mut of_batch));
    }
    found.truncate(5);
    if found.is_empty() { Ok(()) } else { Err(format!("the doctor finds {found:#?}")) }
}

fn row(proof: &Proof, run: &batchd::model::run::Run) -> Row {
    let (made, started, last) = proof.written[&run.id];
    Row { run: run.clone(), made_in: Some(made), started_in: started, written_in: Some(last) }
}

fn sweep(proof: &Proof, history: &History, all: &[Row], found: &mut Vec<Violation>) {
    let mut steps: Vec<Step> = Vec::new();
    for row in all.iter().filter(|row| row.started_in.is_some()) {
        let step = |transaction, ends| Step { transaction, ends, run: row.run.id.clone(), pool: row.run.pool.clone() };
        steps.extend(row.started_in.map(|at| step(at, false)));
        steps.extend(row.written_in.filter(|_| row.run.end().is_some()).map(|at| step(at, true)));
    }
    steps.sort_by_key(|step| (step.transaction, !step.ends));
    let mut sweep = Sweep::new(history, &proof.limits);
    steps.into_iter().for_each(|step| sweep.take(step, found));
    sweep.close(found);
}

fn occurrences_of(journal: &FakeJournal, batch: &batchd::model::id::BatchName) -> Vec<Occurrence> {
    let runs = journal.runs.from(batch, 0);
    let first = runs.filter(|run| run.trigger == Trigger::Schedule && run.attempt == 1 && run.due_at.is_whole_second());
    let occurrence = |run: &batchd::model::run::Run| Occurrence {
        run: run.id.clone(),
        due_at: run.due_at,
        range: run.range.clone(),
    };
    first.map(occurrence).collect()
}
