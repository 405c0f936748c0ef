//! Commits records: each the whole of its row, all of one call in one transaction.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rusqlite::{Connection, Error, ErrorCode, Result, TransactionBehavior, ffi, params};

use super::error::CommitError;
use super::open::{DAEMON_ZONE, beside};
use super::private;
use super::row::{self, COLUMNS, UPSERT, run_from_row};
use super::{Journal, row::to_json};
use crate::model::id::RunId;
use crate::model::record::{BatchFacts, EdgeFacts, InForce, PeriodChange, Record};
use crate::model::run::Run;

/// The design: an ended row never changes again; and what a run is born with is what it is.
const RULE_CHANGE: &str =
    "a run that has ended never changes, and no run changes its chain, trigger, attempt, due_at or queued_at";

/// The design's invariant 5.
const RULE_OCCURRENCE: &str = "its occurrence has been decided by another run";

/// Behind the journal's name and before a number: a copy of one that was removed under its daemon.
pub(super) const SAVED: &str = ".saved-";

impl Journal {
    /// Writes `records`, in their order, all or none; when it returns they are on the disk.
    ///
    /// Each takes the place of what the journal had under the same key. To write an ended run again as it is changes
    /// nothing and is no error. What to do about an error says [`CommitError`].
    pub fn commit(&mut self, records: &[Record]) -> std::result::Result<(), CommitError> {
        self.write_all(records, Some(self.transaction + 1))
    }

    /// As [`Self::commit`], for what was found elsewhere: its rows say nothing of what was decided together.
    pub fn import(&mut self, records: &[Record]) -> std::result::Result<(), CommitError> {
        self.write_all(records, None)
    }

    /// Takes and gives back the right to write, and writes nothing. What SQLite says to it does not matter here: it answers.
    pub fn pulse(&mut self) {
        drop(self.connection.transaction_with_behavior(TransactionBehavior::Immediate));
    }

    /// Moves all that is in the `-wal` file to where it belongs, and cuts that file off. What can't be moved now (a reader
    /// needs it, or there is no room) stays where it is.
    pub fn empty_wal(&mut self) {
        let _ = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    }

    fn write_all(&mut self, records: &[Record], number: Option<u64>) -> std::result::Result<(), CommitError> {
        if records.is_empty() {
            return Ok(());
        }
        if file_at(&self.path) != Some(self.file) {
            return Err(CommitError::Gone { path: self.path.clone(), saved: self.save() });
        }
        self.transact(records, number).map_err(|failure| match failure {
            Failure::Violation { run, rule } => CommitError::Violation { run, rule },
            Failure::Sqlite(error) => CommitError::of(&error, system_error(&self.connection)),
        })
    }

    /// Saves all that it holds beside the place where it was, and says where.
    fn save(&self) -> String {
        let copy = beside(&self.path, &format!("{SAVED}{}", self.transaction));
        let saved = private::create(&copy).map_err(|error| error.to_string()).and_then(|()| {
            let written = self.connection.execute("VACUUM INTO ?", [copy.to_string_lossy()]);
            // A part of a copy would be taken for one.
            written.inspect_err(|_| drop(std::fs::remove_file(&copy))).map_err(|error| error.to_string())
        });
        match saved {
            Ok(_) => format!("its content is saved in {}: move that file to the journal's place", copy.display()),
            Err(error) => {
                format!(
                    "its content can't be saved ({error}): restore a backup with `batchd restore FILE`, or use `batchd doctor --rebuild FILE`"
                )
            }
        }
    }

    fn transact(&mut self, records: &[Record], number: Option<u64>) -> std::result::Result<(), Failure> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for record in records {
            write(&transaction, record, number)?;
        }
        let next = queue_position_after(records).max(self.queue_position_next);
        if next > self.queue_position_next {
            let sql = "UPDATE meta SET value = ? WHERE key = 'queue_position_next'";
            transaction.prepare_cached(sql)?.execute([next])?;
        }
        if !self.is_counted {
            transaction.execute("UPDATE meta SET value = value + 1 WHERE key = 'opening'", [])?;
        }
        transaction.commit()?;
        self.is_counted = true;
        (self.queue_position_next, self.transaction) = (next, number.unwrap_or(self.transaction));
        Ok(())
    }
}

/// The file at a path: its device and its number there.
pub(super) fn file_at(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Why a transaction failed.
enum Failure {
    Violation { run: RunId, rule: &'static str },
    Sqlite(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Sqlite(error)
    }
}

/// What the system said to SQLite when the last call failed that it let fail: errno(3).
pub(super) fn system_error(connection: &Connection) -> i32 {
    // SAFETY: the handle is open as long as the connection, and the call only reads a number from it.
    unsafe { ffi::sqlite3_system_errno(connection.handle()) }
}

fn write(connection: &Connection, record: &Record, number: Option<u64>) -> std::result::Result<(), Failure> {
    match record {
        Record::Run(run) => return write_run(connection, run, number),
        Record::Batch(facts) => write_batch(connection, facts)?,
        Record::Definition(in_force) => write_definition(connection, in_force)?,
        Record::Edge(edge) => write_edge(connection, edge)?,
        Record::EdgeRemoved { downstream, upstream } => {
            let sql = "DELETE FROM edge WHERE downstream = ? AND upstream = ?";
            connection.prepare_cached(sql)?.execute(params![downstream, upstream])?;
        }
        Record::Period(change) => write_period(connection, change, number)?,
        Record::Limits(limits) => {
            let sql = "INSERT INTO limit_change (began_in, json) VALUES (?, ?)";
            connection.prepare_cached(sql)?.execute(params![number, to_json(limits)?])?;
        }
        Record::Event { at, text } => {
            connection.prepare_cached("INSERT INTO event (at, text) VALUES (?, ?)")?.execute(params![at, text])?;
        }
        Record::Zone { name } => {
            let sql = "INSERT OR REPLACE INTO meta VALUES (?, ?)";
            connection.prepare_cached(sql)?.execute(params![DAEMON_ZONE, name])?;
        }
    }
    Ok(())
}

fn write_run(connection: &Connection, run: &Run, number: Option<u64>) -> std::result::Result<(), Failure> {
    let violation = |rule| Failure::Violation { run: run.id.clone(), rule };
    match row::upsert(&mut *connection.prepare_cached(&UPSERT)?, run, number) {
        Ok(true) => Ok(()),
        Ok(false) if stored(connection, run)? == *run => Ok(()),
        Ok(false) => Err(violation(RULE_CHANGE)),
        // `run_occurrence` is the only constraint that an upsert of a run with its columns filled can meet.
        Err(Error::SqliteFailure(error, _)) if error.code == ErrorCode::ConstraintViolation => {
            Err(violation(RULE_OCCURRENCE))
        }
        Err(error) => Err(error.into()),
    }
}

/// The row that is there under the key of `run`.
fn stored(connection: &Connection, run: &Run) -> Result<Run> {
    let sql = format!("SELECT {} FROM run WHERE batch = ? AND number = ?", *COLUMNS);
    connection.query_row(&sql, params![run.id.batch, run.id.number], run_from_row)
}

fn write_batch(connection: &Connection, facts: &BatchFacts) -> Result<()> {
    let disabled = facts.disabled.as_ref();
    let sql = "INSERT OR REPLACE INTO batch (name, next_number, cursor, reboot_boot, disabled_at, disabled_until, \
        disabled_reason, disabled_by) VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
    connection.prepare_cached(sql)?.execute(params![
        facts.name,
        facts.next_number,
        facts.cursor,
        facts.reboot_boot,
        disabled.map(|disabled| disabled.at),
        disabled.map(|disabled| disabled.until),
        disabled.map(|disabled| &disabled.reason),
        disabled.map(|disabled| &disabled.by),
    ])?;
    Ok(())
}

/// A batch that is removed has no row: its facts stay, its definition does not.
fn write_definition(connection: &Connection, in_force: &InForce) -> Result<()> {
    let Some(definition) = &in_force.definition else {
        connection.prepare_cached("DELETE FROM definition WHERE batch = ?")?.execute([&in_force.batch])?;
        return Ok(());
    };
    let sql = "INSERT INTO definition (batch, held, json) VALUES (?, ?, ?) \
        ON CONFLICT (batch) DO UPDATE SET held = excluded.held, json = excluded.json";
    connection.prepare_cached(sql)?.execute(params![in_force.batch, in_force.held, to_json(definition)?])?;
    Ok(())
}

/// Ends the batch's period, if it has one, and begins the next.
fn write_period(connection: &Connection, change: &PeriodChange, number: Option<u64>) -> Result<()> {
    let sql = "UPDATE period SET until = ?, ended_in = ?, decided_until = ? WHERE batch = ? AND ended_in IS NULL";
    connection.prepare_cached(sql)?.execute(params![change.at, number, change.decided_until, change.batch])?;
    let Some(start) = &change.begins else { return Ok(()) };
    let zone = start.zone.as_ref();
    let sql = "INSERT INTO period (batch, since, began_in, decides_after, zone, zone_fingerprint, held, json) \
        VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
    connection.prepare_cached(sql)?.execute(params![
        change.batch,
        change.at,
        number,
        start.decides_after,
        zone.map(|zone| &zone.name),
        zone.map(|zone| &zone.fingerprint),
        start.held,
        to_json(&start.definition)?,
    ])?;
    Ok(())
}

fn write_edge(connection: &Connection, edge: &EdgeFacts) -> Result<()> {
    let unused = edge.unused.as_ref();
    let sql = "INSERT OR REPLACE INTO edge (downstream, upstream, cursor, unused_number, unused_succeeded, \
        unused_due_at) VALUES (?, ?, ?, ?, ?, ?)";
    connection.prepare_cached(sql)?.execute(params![
        edge.downstream,
        edge.upstream,
        edge.cursor,
        unused.map(|unused| unused.number),
        unused.map(|unused| unused.succeeded),
        unused.map(|unused| unused.due_at),
    ])?;
    Ok(())
}

/// Greater than every queue position in `records`.
fn queue_position_after(records: &[Record]) -> u64 {
    let position = |record: &Record| match record {
        Record::Run(run) => run.queue_position.saturating_add(1),
        Record::Batch(_)
        | Record::Definition(_)
        | Record::Edge(_)
        | Record::EdgeRemoved { .. }
        | Record::Period(_)
        | Record::Limits(_)
        | Record::Event { .. }
        | Record::Zone { .. } => 0,
    };
    records.iter().map(position).max().unwrap_or(0)
}
