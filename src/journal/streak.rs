//! How a batch has been doing lately: for alerts.

use rusqlite::{Connection, Result, params};

use super::error::QueryError;
use super::query::Reader;
use crate::model::id::RunId;
use crate::model::time::Instant;

/// So many rows of a batch are looked at: a batch that fails each minute comes to them within a week, and each alert reads
/// them again.
const ROWS_MAX: u32 = 10_000;

/// Failures without a success between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Streak {
    /// How many; attempts of one run count once.
    pub failures: u64,
    /// When the last success before them ended.
    pub last_success: Option<Instant>,
}

impl Reader {
    /// The failures of a batch in a row, up to `run` and with it, among its newest 10 000 rows up to there.
    pub fn streak(&self, run: &RunId) -> std::result::Result<Streak, QueryError> {
        streak(self.connection(), run).map_err(|error| QueryError::new(self.path(), error))
    }
}

fn streak(connection: &Connection, run: &RunId) -> Result<Streak> {
    let sql = "SELECT outcome = 'succeeded', attempt = 1 AND outcome IN ('failed', 'timed_out', 'lost'), ended_at \
        FROM run WHERE batch = ? AND number <= ? AND state = 'ended' ORDER BY number DESC LIMIT ?";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![run.batch, run.number, ROWS_MAX])?;
    let mut streak = Streak::default();
    while let Some(row) = rows.next()? {
        if row.get(0)? {
            streak.last_success = row.get(2)?;
            break;
        }
        streak.failures += u64::from(row.get::<_, bool>(1)?);
    }
    Ok(streak)
}
