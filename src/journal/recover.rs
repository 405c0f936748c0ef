//! Gives a starting daemon what the last one had in memory: [`Journal::recover`].
//!
//! Costs what is alive, and nothing for the past: every query goes by an index.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Result, Row};

use super::error::QueryError;
use super::row::{COLUMNS, from_json, run_from_row};
use super::{Journal, open};
use crate::model::id::BatchName;
use crate::model::record::{BatchFacts, DecidedAhead, Disabled, EdgeFacts, InForce, Recovered, UnusedEnd, ZoneMark};
use crate::model::run::Run;
use crate::model::settings::Limits;
use crate::model::time::Instant;

/// The runs of chains that go on.
const RUNS: &str = "FROM run WHERE chain IN (SELECT chain FROM run INDEXED BY run_live WHERE state <> 'ended') \
    ORDER BY batch, number";

/// Rows that are later than the cursor of their batch.
const DECIDED_AHEAD: &str = "SELECT name, due_at, coalesce(range_from, due_at) FROM batch CROSS JOIN run INDEXED BY run_occurrence \
    ON run.batch = name AND due_at > cursor AND trigger = 'schedule' AND attempt = 1 AND due_at % 1000 = 0 \
    ORDER BY name, due_at";

impl Journal {
    /// All that a scheduler needs to go on. Everything in it is sorted by name and number.
    ///
    /// An error means that the journal is damaged: a daemon does not start over it.
    pub fn recover(&self) -> std::result::Result<Recovered, QueryError> {
        let recovered = self.connection.unchecked_transaction().and_then(|transaction| recovered(&transaction));
        recovered.map_err(|error| QueryError::new(&self.path, error))
    }
}

/// What a scheduler goes on with. All from one moment: in one transaction.
pub(super) fn recovered(transaction: &Connection) -> Result<Recovered> {
    let (journal, queue_position_next) = open::read_meta(transaction)?;
    Ok(Recovered {
        journal,
        batches: batches(transaction)?,
        in_force: in_force(transaction)?,
        runs: runs(transaction)?,
        edges: edges(transaction)?,
        queue_position_next,
        periods: periods(transaction)?,
        limits: limits(transaction)?,
        decided_ahead: decided_ahead(transaction)?,
    })
}

/// What is known of every batch.
pub(super) fn batches(connection: &Connection) -> Result<Vec<BatchFacts>> {
    let sql = "SELECT name, next_number, cursor, reboot_boot, disabled_at, disabled_until, disabled_reason, disabled_by \
        FROM batch ORDER BY name";
    connection.prepare_cached(sql)?.query_map([], batch_from_row)?.collect()
}

fn batch_from_row(row: &Row<'_>) -> Result<BatchFacts> {
    let disabled_at: Option<Instant> = row.get(4)?;
    let disabled = match disabled_at {
        Some(at) => Some(Disabled { until: row.get(5)?, reason: row.get(6)?, by: row.get(7)?, at }),
        None => None,
    };
    Ok(BatchFacts {
        name: row.get(0)?,
        next_number: row.get(1)?,
        cursor: row.get(2)?,
        reboot_boot: row.get(3)?,
        disabled,
    })
}

/// Every definition in force.
pub(super) fn in_force(connection: &Connection) -> Result<Vec<InForce>> {
    let sql = "SELECT batch, held, json FROM definition ORDER BY batch";
    connection.prepare_cached(sql)?.query_map([], in_force_from_row)?.collect()
}

/// The definition of one batch in force.
pub(super) fn in_force_of(connection: &Connection, batch: &BatchName) -> Result<Option<InForce>> {
    let sql = "SELECT batch, held, json FROM definition WHERE batch = ?";
    connection.prepare_cached(sql)?.query_row([batch], in_force_from_row).optional()
}

fn in_force_from_row(row: &Row<'_>) -> Result<InForce> {
    let json: String = row.get(2)?;
    Ok(InForce { batch: row.get(0)?, held: row.get(1)?, definition: Some(from_json(&json)?) })
}

/// Every run of each chain that has a run which has not ended.
fn runs(connection: &Connection) -> Result<Vec<Run>> {
    let sql = format!("SELECT {} {RUNS}", *COLUMNS);
    connection.prepare(&sql)?.query_map([], run_from_row)?.collect()
}

/// The zone of each period that has not ended.
fn periods(connection: &Connection) -> Result<BTreeMap<BatchName, Option<ZoneMark>>> {
    let sql = "SELECT batch, zone, zone_fingerprint FROM period INDEXED BY period_open WHERE ended_in IS NULL";
    let period = |row: &Row<'_>| {
        let name: Option<String> = row.get(1)?;
        let mark = match name {
            Some(name) => Some(ZoneMark { name, fingerprint: row.get(2)? }),
            None => None,
        };
        Ok((row.get(0)?, mark))
    };
    connection.prepare(sql)?.query_map([], period)?.collect()
}

fn limits(connection: &Connection) -> Result<Option<Limits>> {
    let sql = "SELECT json FROM limit_change ORDER BY seq DESC LIMIT 1";
    let json: Option<String> = connection.query_row(sql, [], |row| row.get(0)).optional()?;
    json.map(|json| from_json(&json)).transpose()
}

pub(super) fn edges(connection: &Connection) -> Result<Vec<EdgeFacts>> {
    let sql = "SELECT downstream, upstream, cursor, unused_number, unused_succeeded, unused_due_at FROM edge \
        ORDER BY downstream, upstream";
    connection.prepare(sql)?.query_map([], edge_from_row)?.collect()
}

fn edge_from_row(row: &Row<'_>) -> Result<EdgeFacts> {
    let unused_number: Option<u64> = row.get(3)?;
    let unused = match unused_number {
        Some(number) => Some(UnusedEnd { number, succeeded: row.get(4)?, due_at: row.get(5)? }),
        None => None,
    };
    Ok(EdgeFacts { downstream: row.get(0)?, upstream: row.get(1)?, cursor: row.get(2)?, unused })
}

/// Occurrences with a row that are later than the cursor of their batch: one look into the index for each batch.
fn decided_ahead(connection: &Connection) -> Result<Vec<DecidedAhead>> {
    connection.prepare(DECIDED_AHEAD)?.query_map([], ahead_from_row)?.collect()
}

/// Of columns batch, due_at and the first instant that the row stands for.
pub(super) fn ahead_from_row(row: &Row<'_>) -> Result<DecidedAhead> {
    Ok(DecidedAhead { batch: row.get(0)?, to: row.get(1)?, from: row.get(2)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_past_is_not_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(&folder.path().join("journal.db")).unwrap();
        for (sql, searched) in [
            (format!("SELECT seq {RUNS}"), "SEARCH run USING INDEX run_chain (chain=?)"),
            (DECIDED_AHEAD.to_owned(), "SEARCH run USING INDEX run_occurrence (batch=? AND due_at>?)"),
        ] {
            let mut statement = journal.connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let lines = statement.query_map([], |row| row.get::<_, String>(3)).unwrap();
            let plan = lines.map(Result::unwrap).collect::<Vec<_>>().join("; ");
            assert!(plan.contains(searched) && !plan.contains("SCAN run;"), "{plan}");
        }
    }
}
