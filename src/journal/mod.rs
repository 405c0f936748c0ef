//! The journal: the SQLite database of runs. [`Journal`] is its one writer, [`query::Reader`] reads it beside the writer
//! or without one.
//!
//! Durable by itself: WAL with `synchronous=FULL`, so a commit that has returned survives a power cut. It decides nothing:
//! what a record means, and what follows from it, is the scheduler's. Nothing here reads a clock. That there is one writer
//! is the daemon's care (`daemon.lock`); a second one would only find the journal busy.

pub mod audit;
pub mod backup;
mod error;
mod migrate;
mod open;
pub mod private;
pub mod query;
mod recover;
mod row;
mod schema;
pub mod streak;
#[cfg(test)]
mod tests;
mod write;

use std::path::PathBuf;

use rusqlite::Connection;

pub use error::{CommitError, OpenError, QueryError};

use crate::model::id::JournalId;

/// The journal, open for writing.
///
/// [`Journal::open`] makes or opens it, [`Journal::recover`] gives back what it holds, [`Journal::commit`] adds to it.
#[derive(Debug)]
pub struct Journal {
    connection: Connection,
    path: PathBuf,
    /// The file that was opened: device and number.
    file: (u64, u64),
    id: JournalId,
    /// As in the table `meta`: greater than every queue position in the journal.
    queue_position_next: u64,
    /// The number of the last transaction: greater than that of every earlier one.
    transaction: u64,
    /// This opening is counted in the journal: with the first commit, so that none is counted for which there was no room.
    is_counted: bool,
}

/// The transactions of one opening of a journal have numbers of their own: so their number is not written with each of
/// them, and a daemon would have to commit a thousand times a second for 49 days to reach those of the next one.
const TRANSACTIONS_OF_OPENING: u64 = 1 << 32;

impl Journal {
    /// The journal's own name: random, made with it, never changed.
    pub fn id(&self) -> &JournalId {
        &self.id
    }
}
