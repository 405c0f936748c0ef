//! Reads a whole journal for one who checks it: [`Audit`]. All from one moment, row after row, never more at once.
//!
//! While it reads, the writer goes on; only its WAL can't be cut short.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Result, Row as SqlRow};

use super::backup::PROVEN_FROM;
use super::error::{OpenError, QueryError};
use super::query::Reader;
use super::row::{COLUMNS, from_json, run_from_row};
use super::schema::{RULES, TRIGGERS};
use super::{open, recover};
use crate::doctor::limits::Step;
use crate::doctor::occurrences::Occurrence;
use crate::doctor::{Period, Row};
use crate::model::id::{BatchName, JournalId, RunId};
use crate::model::record::{BatchFacts, EdgeFacts, InForce, ZoneMark};
use crate::model::run::Range;
use crate::model::settings::Limits;

/// A journal from one moment, open for reading only.
pub struct Audit {
    reader: Reader,
    /// The transactions before this one say nothing: the journal was restored from a backup.
    proven_from: u64,
}

impl Audit {
    /// Opens the journal at `path`, and holds on to this moment of it.
    pub fn open(path: &Path) -> std::result::Result<Self, OpenError> {
        let reader = Reader::open(path)?;
        let error = |error| OpenError::of(path, &error);
        reader.connection().execute_batch("BEGIN").map_err(error)?;
        let sql = "SELECT coalesce((SELECT value FROM meta WHERE key = ?), 0)";
        let proven_from = reader.connection().query_row(sql, [PROVEN_FROM], |row| row.get(0)).map_err(error)?;
        Ok(Self { reader, proven_from })
    }

    /// What SQLite's own checks say, and which guards are missing.
    pub fn soundness(&self) -> std::result::Result<(Vec<String>, Vec<String>), QueryError> {
        self.ask(|connection| {
            let mut said: Vec<String> = connection
                .prepare("PRAGMA integrity_check(20)")?
                .query_map([], |row| row.get(0))?
                .collect::<Result<_>>()?;
            said.retain(|line| line != "ok");
            let keys =
                connection.prepare("PRAGMA foreign_key_check")?.query_map([], |row| row.get::<_, String>(0))?.count();
            said.extend((keys > 0).then(|| format!("{keys} foreign keys refer to missing rows")));
            let mut there = connection.prepare("SELECT 1 FROM sqlite_schema WHERE name = ?")?;
            let mut missing = Vec::new();
            for name in TRIGGERS.iter().chain(RULES) {
                if !there.exists([name])? {
                    missing.push((*name).to_owned());
                }
            }
            Ok((said, missing))
        })
    }

    /// The journal's own name.
    pub fn id(&self) -> std::result::Result<JournalId, QueryError> {
        self.ask(|connection| open::read_meta(connection).map(|(id, _)| id))
    }

    /// What is known of every batch.
    pub fn batches(&self) -> std::result::Result<Vec<BatchFacts>, QueryError> {
        self.ask(recover::batches)
    }

    /// Every definition in force.
    pub fn in_force(&self) -> std::result::Result<Vec<InForce>, QueryError> {
        self.ask(recover::in_force)
    }

    /// Every edge of a join across chains.
    pub fn edges(&self) -> std::result::Result<Vec<EdgeFacts>, QueryError> {
        self.ask(recover::edges)
    }

    /// All periods, in the order in which they began.
    pub fn periods(&self, each: impl FnMut(Period)) -> std::result::Result<(), QueryError> {
        let sql = "SELECT batch, began_in, ended_in, decides_after, decided_until, zone, zone_fingerprint, held, json \
            FROM period ORDER BY seq";
        self.each(sql, period, each)
    }

    /// All limits, with the transaction from which on they were in force.
    pub fn limits(&self) -> std::result::Result<Vec<(u64, Limits)>, QueryError> {
        let mut all = Vec::new();
        let change = |row: &SqlRow<'_>| Ok((row.get(0)?, from_json(&row.get::<_, String>(1)?)?));
        self.each("SELECT began_in, json FROM limit_change ORDER BY seq", change, |change| all.push(change))?;
        Ok(all)
    }

    /// Every row of a run, by batch and number.
    pub fn rows(&self, each: impl FnMut(Row)) -> std::result::Result<(), QueryError> {
        let sql = format!("SELECT {}, made_in, started_in, written_in FROM run ORDER BY batch, number", *COLUMNS);
        self.each(&sql, |row| self.row_of(row), each)
    }

    /// Every row of a run, those of a chain together and in the order in which they were made.
    pub fn rows_by_chain(&self, each: impl FnMut(Row)) -> std::result::Result<(), QueryError> {
        let sql = format!("SELECT {}, made_in, started_in, written_in FROM run ORDER BY chain, seq", *COLUMNS);
        self.each(&sql, |row| self.row_of(row), each)
    }

    /// The rows that stand for what the schedule of a batch has yielded, by `due_at`.
    pub fn occurrences(
        &self,
        batch: &BatchName,
        with: &mut dyn FnMut(&mut dyn Iterator<Item = Occurrence>),
    ) -> std::result::Result<(), QueryError> {
        self.ask(|connection| {
            let sql = "SELECT batch, number, due_at, range_from, range_count, range_at_least \
                FROM run \
                WHERE batch = ? AND trigger = 'schedule' AND attempt = 1 AND due_at % 1000 = 0 ORDER BY due_at";
            let mut statement = connection.prepare_cached(sql)?;
            let mut failed = None;
            let mut rows = statement
                .query_map([batch], occurrence)?
                .map_while(|row| row.map_err(|error| failed = Some(error)).ok());
            with(&mut rows);
            drop(rows);
            failed.map_or(Ok(()), Err)
        })
    }

    /// Every start and every end, in the order of their transactions, ends first.
    pub fn steps(&self, mut each: impl FnMut(Step)) -> std::result::Result<(), QueryError> {
        let sql = "SELECT started_in AS at, 0 AS ends, batch, number, pool FROM run \
            WHERE started_in IS NOT NULL AND (state <> 'ended' OR started_in < written_in) \
            UNION ALL SELECT written_in, 1, batch, number, pool FROM run \
            WHERE state = 'ended' AND started_in < written_in \
            ORDER BY at, ends DESC";
        let step = |row: &SqlRow<'_>| {
            let run = RunId { batch: row.get(2)?, number: row.get(3)? };
            Ok(Step { transaction: row.get(0)?, ends: row.get(1)?, run, pool: row.get(4)? })
        };
        self.each(sql, step, |step: Step| {
            if step.transaction >= self.proven_from {
                each(step)
            }
        })
    }

    /// The row of this run.
    pub fn row(&self, id: &RunId) -> std::result::Result<Option<Row>, QueryError> {
        // What people may have called a folder may be a number that no column can hold.
        let Ok(number) = i64::try_from(id.number) else { return Ok(None) };
        let sql =
            format!("SELECT {}, made_in, started_in, written_in FROM run WHERE batch = ? AND number = ?", *COLUMNS);
        self.ask(|connection| {
            connection
                .prepare_cached(&sql)?
                .query_row(rusqlite::params![id.batch, number], |row| self.row_of(row))
                .optional()
        })
    }

    /// Whether there is a row of this run, and whether it has ended.
    pub fn ended(&self, id: &RunId) -> Option<bool> {
        let number = i64::try_from(id.number).ok()?;
        let sql = "SELECT state = 'ended' FROM run WHERE batch = ? AND number = ?";
        let mut statement = self.reader.connection().prepare_cached(sql).ok()?;
        statement.query_row(rusqlite::params![id.batch, number], |row| row.get(0)).optional().ok()?
    }

    fn row_of(&self, row: &SqlRow<'_>) -> Result<Row> {
        let run = run_from_row(row)?;
        let proven = |column: &str| -> Result<Option<u64>> {
            let transaction: Option<u64> = row.get(column)?;
            Ok(transaction.filter(|transaction| *transaction >= self.proven_from))
        };
        Ok(Row {
            run,
            made_in: proven("made_in")?,
            started_in: proven("started_in")?,
            written_in: proven("written_in")?,
        })
    }

    fn each<T>(
        &self,
        sql: &str,
        read: impl Fn(&SqlRow<'_>) -> Result<T>,
        mut each: impl FnMut(T),
    ) -> std::result::Result<(), QueryError> {
        self.ask(|connection| {
            let mut statement = connection.prepare(sql)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                each(read(row)?);
            }
            Ok(())
        })
    }

    fn ask<T>(&self, question: impl FnOnce(&Connection) -> Result<T>) -> std::result::Result<T, QueryError> {
        question(self.reader.connection()).map_err(|error| QueryError::new(self.reader.path(), error))
    }
}

fn occurrence(row: &SqlRow<'_>) -> Result<Occurrence> {
    let from: Option<crate::model::time::Instant> = row.get(3)?;
    let range = match from {
        Some(from) => Some(Range { from, count: row.get(4)?, at_least: row.get(5)? }),
        None => None,
    };
    Ok(Occurrence { run: RunId { batch: row.get(0)?, number: row.get(1)? }, due_at: row.get(2)?, range })
}

fn period(row: &SqlRow<'_>) -> Result<Period> {
    let name: Option<String> = row.get(5)?;
    let zone = match name {
        Some(name) => Some(ZoneMark { name, fingerprint: row.get(6)? }),
        None => None,
    };
    Ok(Period {
        batch: row.get(0)?,
        began_in: row.get(1)?,
        ended_in: row.get(2)?,
        decides_after: row.get(3)?,
        decided_until: row.get(4)?,
        zone,
        held: row.get(7)?,
        definition: from_json(&row.get::<_, String>(8)?)?,
    })
}
