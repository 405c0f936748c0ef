//! Reads the journal, beside a daemon or without one: [`Reader`].
//!
//! Every query goes by an index, and none holds a transaction longer than itself, so that the writer's WAL can be
//! written back. Knows nothing of what is on its way to the journal: it sees what has been committed.

mod page;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Result, params};
use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;

pub use self::page::{Filter, Page, PageMark};
use super::error::OpenError;
pub use super::error::QueryError;
use super::open::{DAEMON_ZONE, beside, read_meta, set_up_any, version_of};
use super::recover;
use super::row::{COLUMNS, run_from_row};
use super::schema::VERSION;
use crate::model::id::{BatchName, JournalId, RunId};
use crate::model::launch::UpstreamEnd;
use crate::model::record::{BatchFacts, DecidedAhead, InForce, Recovered};
use crate::model::run::{Outcome, Run, Trigger};
use crate::model::time::Instant;

/// The most runs on one page, and the most events at once: what a person or a program asks for in one go.
pub const PAGE_SIZE_MAX: u32 = 1000;

/// A run that was begun: its script ran, or could not be run.
const BEGUN: &str = "AND (starting_at IS NOT NULL OR started_at IS NOT NULL)";

/// A run that says how its batch is: it was begun, or an operator marked it as succeeded.
const TELLING: &str = "AND (starting_at IS NOT NULL OR started_at IS NOT NULL OR outcome = 'succeeded')";

/// The most rows that are counted since a batch's last run: more than that is "at least".
pub const COUNTED_MAX: u32 = 10_000;

/// By batch, since the index begins with it: one look into it for each, whatever the past holds.
const DECIDED_AFTER: &str = "SELECT name, due_at, coalesce(range_from, due_at) FROM batch CROSS JOIN run INDEXED BY run_occurrence \
    ON run.batch = name AND due_at > ? AND trigger = 'schedule' AND attempt = 1 AND due_at % 1000 = 0 \
    ORDER BY name, due_at";

/// The journal, open for reading only.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
    path: PathBuf,
    /// It is read without any locks: see [`Reader::open`].
    immutable: bool,
}

/// What the journal knows of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchRow {
    /// Its numbers, its cursor, and whether an operator has disabled it.
    pub facts: BatchFacts,
    /// Its definition in force, and whether it is held; none if it was removed.
    pub in_force: Option<InForce>,
    /// The run with the highest number.
    pub latest: Option<Run>,
    /// The last run that was begun, or marked as succeeded, and has ended.
    pub last_ended: Option<Run>,
    /// How many occurrences have ended since the last run that was begun without beginning, by outcome. Of at most
    /// [`COUNTED_MAX`] rows.
    pub since: BTreeMap<Outcome, u64>,
}

/// Something that happened beside the runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRow {
    /// When.
    pub at: Instant,
    /// One sentence.
    pub text: String,
}

impl Reader {
    /// Opens the journal at `path` for reading; makes none.
    ///
    /// While a daemon lives, or after a killed one where the user may write beside the journal, SQLite reads it with its
    /// WAL. A journal at rest has no WAL; where the user may not write beside it, and so not make the files by which
    /// SQLite agrees with a writer, it is opened as `immutable`. That is right as long as no daemon starts and writes:
    /// so a reader that lives long is opened beside a daemon, and one that was opened before lives briefly.
    pub fn open(path: &Path) -> std::result::Result<Self, OpenError> {
        if is_forbidden(path) {
            return Err(OpenError::Forbidden { path: path.to_owned() });
        }
        if !path.try_exists().map_err(|error| OpenError::io(path, "look for it", &error))? {
            return Err(OpenError::Absent { path: path.to_owned() });
        }
        let (connection, immutable) = match open_as(path, "mode=ro") {
            Ok(connection) => (connection, false),
            // Which of the two it is depends on what SQLite may not do first: make a file beside the journal, or write in it.
            Err(error) if matches!(error.sqlite_error_code(), Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly)) => {
                if let Some(path) =
                    ["-wal", "-shm"].map(|end| beside(path, end)).into_iter().find(|path| is_forbidden(path))
                {
                    return Err(OpenError::Forbidden { path });
                }
                if beside(path, "-wal").exists() {
                    return Err(OpenError::NeedsRecovery { path: path.to_owned() });
                }
                (open_as(path, "mode=ro&immutable=1").map_err(|error| OpenError::of(path, &error))?, true)
            }
            Err(error) => return Err(OpenError::of(path, &error)),
        };
        let found = version_of(&connection, path)?;
        let path = path.to_owned();
        match found.cmp(&VERSION) {
            std::cmp::Ordering::Less => Err(OpenError::Older { path, found, known: VERSION }),
            std::cmp::Ordering::Greater => Err(OpenError::Newer { path, found, known: VERSION }),
            std::cmp::Ordering::Equal => Ok(Self { connection, path, immutable }),
        }
    }

    /// The journal's own name.
    pub fn journal_id(&self) -> std::result::Result<JournalId, QueryError> {
        self.ask(|connection| read_meta(connection).map(|(id, _)| id))
    }

    /// The time zone of the daemon that wrote here last, in which batches without a `timezone` are scheduled.
    ///
    /// An IANA name, or `localtime` if the daemon's `/etc/localtime` is a copy without a known name. `None`: no daemon of
    /// this version has written here yet.
    pub fn daemon_zone(&self) -> std::result::Result<Option<String>, QueryError> {
        self.ask(|connection| {
            let sql = "SELECT value FROM meta WHERE key = ?";
            connection.query_row(sql, [DAEMON_ZONE], |row| row.get(0)).optional()
        })
    }

    /// The run of this id.
    pub fn run(&self, id: &RunId) -> std::result::Result<Option<Run>, QueryError> {
        self.ask(|connection| run(connection, id))
    }

    /// A page of the runs that `filter` lets through: the first, or the one that begins at `from`, of at most `size` runs
    /// (and at most [`PAGE_SIZE_MAX`]).
    pub fn runs(&self, filter: &Filter, from: Option<&PageMark>, size: u32) -> std::result::Result<Page, QueryError> {
        self.ask(|connection| page::page(connection, filter, from, size.clamp(1, PAGE_SIZE_MAX)))
    }

    /// All runs of the chain that `run` belongs to, oldest first; none if there is no such run.
    pub fn chain(&self, run: &RunId) -> std::result::Result<Vec<Run>, QueryError> {
        self.ask(|connection| chain(connection, run))
    }

    /// The run of a batch with the highest number.
    pub fn latest(&self, batch: &BatchName) -> std::result::Result<Option<Run>, QueryError> {
        self.ask(|connection| latest(connection, batch, ""))
    }

    /// The run of a batch with the highest number that was begun: its script runs or ran, or could not be run.
    pub fn latest_begun(&self, batch: &BatchName) -> std::result::Result<Option<Run>, QueryError> {
        self.ask(|connection| latest(connection, batch, BEGUN))
    }

    /// The run of a batch with the highest number that has logs, or will have them in a moment.
    pub fn latest_with_logs(&self, batch: &BatchName) -> std::result::Result<Option<Run>, QueryError> {
        self.ask(|connection| latest(connection, batch, "AND (started_at IS NOT NULL OR state = 'starting')"))
    }

    /// The newest runs of a batch with numbers above `number`, newest first, at most `most`.
    pub fn runs_after(&self, batch: &BatchName, number: u64, most: u32) -> std::result::Result<Vec<Run>, QueryError> {
        let sql = format!("SELECT {} FROM run WHERE batch = ? AND number > ? ORDER BY number DESC LIMIT ?", *COLUMNS);
        self.ask(|connection| select(connection, &sql, params![batch, number, most]))
    }

    /// Every batch that the journal knows, removed ones too, by name.
    pub fn batches(&self) -> std::result::Result<Vec<BatchRow>, QueryError> {
        self.ask(batches)
    }

    /// The definition of a batch in force.
    pub fn in_force(&self, batch: &BatchName) -> std::result::Result<Option<InForce>, QueryError> {
        self.ask(|connection| recover::in_force_of(connection, batch))
    }

    /// Every run that has not ended, by batch and number.
    pub fn live(&self) -> std::result::Result<Vec<Run>, QueryError> {
        let sql =
            format!("SELECT {} FROM run INDEXED BY run_live WHERE state <> 'ended' ORDER BY batch, number", *COLUMNS);
        self.ask(|connection| select(connection, &sql, []))
    }

    /// What a daemon that starts now would go on with.
    pub fn recovered(&self) -> std::result::Result<Recovered, QueryError> {
        self.ask(recover::recovered)
    }

    /// The last attempt that `run` led to: itself, or the retry of its retry, and so on.
    pub fn last_attempt(&self, run: &RunId) -> std::result::Result<Option<Run>, QueryError> {
        self.ask(|connection| last_attempt(connection, run))
    }

    /// The occurrences later than `after` that have a row of their own: what was decided before the clock was set back.
    pub fn decided_after(&self, after: Instant) -> std::result::Result<Vec<DecidedAhead>, QueryError> {
        self.ask(|connection| {
            connection.prepare_cached(DECIDED_AFTER)?.query_map([after], recover::ahead_from_row)?.collect()
        })
    }

    /// The first [`PAGE_SIZE_MAX`] events at `since` or later, oldest first.
    pub fn events(&self, since: Instant) -> std::result::Result<Vec<EventRow>, QueryError> {
        self.ask(|connection| {
            let sql = "SELECT at, text FROM event WHERE at >= ? ORDER BY at, seq LIMIT ?";
            let event = |row: &rusqlite::Row<'_>| Ok(EventRow { at: row.get(0)?, text: row.get(1)? });
            connection.prepare_cached(sql)?.query_map(params![since, PAGE_SIZE_MAX], event)?.collect()
        })
    }

    /// How `run` ended, and whose folder has its output; none while it has not ended, or if there is no such run.
    ///
    /// A rerun that counts as succeeded without having run (`rerun --mark-succeeded`) stands for the run before it.
    pub fn upstream_end(&self, run: &RunId) -> std::result::Result<Option<UpstreamEnd>, QueryError> {
        self.ask(|connection| upstream_end(connection, run))
    }

    /// Whether a daemon that starts now would not be noticed.
    pub(super) fn is_immutable(&self) -> bool {
        self.immutable
    }

    /// For one who checks the whole of it.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn ask<T>(&self, question: impl FnOnce(&Connection) -> Result<T>) -> std::result::Result<T, QueryError> {
        // One transaction: all parts of an answer are from the same moment.
        let answer = self.connection.unchecked_transaction().and_then(|transaction| question(&transaction));
        answer.map_err(|error| QueryError::new(&self.path, error))
    }
}

/// True if a file is there, or may be, that this user may not read. Asked without opening it: closing a file gives up all
/// locks that SQLite holds on it in this process.
fn is_forbidden(path: &Path) -> bool {
    matches!(accessat(CWD, path, Access::READ_OK, AtFlags::EACCESS), Err(Errno::ACCESS))
}

/// Opens `path` with these parameters of SQLite's URI, and reads from it: only then SQLite looks at the file.
pub(super) fn open_as(path: &Path, parameters: &str) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(uri(path, parameters), flags)?;
    set_up_any(&connection)?;
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(connection)
}

/// The URI of a file: bytes that mean something in a URI are written as `%xx`.
fn uri(path: &Path, parameters: &str) -> String {
    use std::os::unix::ffi::OsStrExt;
    let mut text = "file:".to_owned();
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte) {
            text.push(byte.into());
        } else {
            text.push_str(&format!("%{byte:02x}"));
        }
    }
    format!("{text}?{parameters}")
}

fn select(connection: &Connection, sql: &str, params: impl rusqlite::Params) -> Result<Vec<Run>> {
    connection.prepare_cached(sql)?.query_map(params, run_from_row)?.collect()
}

fn run(connection: &Connection, id: &RunId) -> Result<Option<Run>> {
    // An id that people type may have a number that no column can hold.
    let Ok(number) = i64::try_from(id.number) else { return Ok(None) };
    let sql = format!("SELECT {} FROM run WHERE batch = ? AND number = ?", *COLUMNS);
    connection.prepare_cached(&sql)?.query_row(params![id.batch, number], run_from_row).optional()
}

/// The run of a batch with the highest number, of those for which `and` holds.
fn latest(connection: &Connection, batch: &BatchName, and: &str) -> Result<Option<Run>> {
    let sql = format!("SELECT {} FROM run WHERE batch = ? {and} ORDER BY number DESC LIMIT 1", *COLUMNS);
    connection.prepare_cached(&sql)?.query_row([batch], run_from_row).optional()
}

fn chain(connection: &Connection, id: &RunId) -> Result<Vec<Run>> {
    let Some(run) = run(connection, id)? else { return Ok(Vec::new()) };
    let sql = format!("SELECT {} FROM run WHERE chain = ? ORDER BY seq", *COLUMNS);
    select(connection, &sql, [run.chain])
}

fn last_attempt(connection: &Connection, id: &RunId) -> Result<Option<Run>> {
    let runs = chain(connection, id)?;
    let mut last = runs.iter().find(|run| run.id == *id);
    while let Some(retry) = last.and_then(|of| runs.iter().find(|run| is_retry_of(run, of))) {
        last = Some(retry);
    }
    Ok(last.cloned())
}

/// A retry has a greater number than what it follows, so that following them comes to an end whatever the journal holds.
fn is_retry_of(run: &Run, of: &Run) -> bool {
    run.trigger == Trigger::Retry && run.previous.as_ref() == Some(&of.id) && run.id.number > of.id.number
}

fn upstream_end(connection: &Connection, id: &RunId) -> Result<Option<UpstreamEnd>> {
    let Some(first) = run(connection, id)? else { return Ok(None) };
    let Some(outcome) = first.outcome() else { return Ok(None) };
    let mut output_of = first;
    while let Some(previous) = stands_for(&output_of) {
        // A run that is no longer in the journal: then this is as far as it goes.
        let Some(previous) = run(connection, previous)? else { break };
        output_of = previous;
    }
    let exit = output_of.end().and_then(|end| end.exit.clone());
    Ok(Some(UpstreamEnd { run: id.clone(), output_of: output_of.id, outcome, exit }))
}

/// The run before `run`, if that one's output is meant. Its number is smaller, so that following them comes to an end.
fn stands_for(run: &Run) -> Option<&RunId> {
    let counts_without_running = run.trigger == Trigger::Rerun && run.succeeded() && run.started_at.is_none();
    run.previous.as_ref().filter(|previous| counts_without_running && previous.number < run.id.number)
}

fn batches(connection: &Connection) -> Result<Vec<BatchRow>> {
    let facts = recover::batches(connection)?.into_iter().map(|facts| (facts.name.clone(), facts));
    let mut facts: BTreeMap<BatchName, BatchFacts> = facts.collect();
    let in_force = recover::in_force(connection)?.into_iter().map(|in_force| (in_force.batch.clone(), in_force));
    let mut in_force: BTreeMap<BatchName, InForce> = in_force.collect();
    for name in in_force.keys().filter(|name| !facts.contains_key(*name)).cloned().collect::<Vec<_>>() {
        let new = BatchFacts { name: name.clone(), next_number: 1, cursor: None, reboot_boot: None, disabled: None };
        facts.insert(name, new);
    }
    let row = |(name, facts): (BatchName, BatchFacts)| {
        let begun = latest(connection, &name, TELLING)?;
        let has_ended = begun.as_ref().is_none_or(|run| run.end().is_some());
        let last_ended = match has_ended {
            true => begun.clone(),
            false => latest(connection, &name, &format!("{TELLING} AND state = 'ended'"))?,
        };
        Ok(BatchRow {
            facts,
            in_force: in_force.remove(&name),
            latest: latest(connection, &name, "")?,
            last_ended,
            since: since(connection, &name, begun.map_or(0, |run| run.id.number))?,
        })
    };
    facts.into_iter().map(row).collect()
}

/// What ended without beginning, of the runs of a batch with numbers above `number`.
fn since(connection: &Connection, batch: &BatchName, number: u64) -> Result<BTreeMap<Outcome, u64>> {
    let sql = "SELECT outcome, sum(coalesce(range_count, 1)) FROM \
        (SELECT outcome, range_count FROM run WHERE batch = ? AND number > ? AND state = 'ended' LIMIT ?) \
        GROUP BY outcome";
    let count = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
    connection.prepare_cached(sql)?.query_map(params![batch, number, COUNTED_MAX], count)?.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Journal;

    #[test]
    fn a_corrected_clock_costs_no_look_at_the_past() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(&folder.path().join("journal.db")).unwrap();
        let mut statement = journal.connection.prepare(&format!("EXPLAIN QUERY PLAN {DECIDED_AFTER}")).unwrap();
        let lines = statement.query_map([0], |row| row.get::<_, String>(3)).unwrap();
        let plan = lines.map(Result::unwrap).collect::<Vec<_>>().join("; ");
        assert!(plan.contains("SEARCH run USING INDEX run_occurrence (batch=? AND due_at>?)"), "{plan}");
    }

    #[test]
    fn a_uri_says_the_path_exactly() {
        assert_eq!(uri(Path::new("/a b/ä?#%.db"), "mode=ro"), "file:/a%20b/%c3%a4%3f%23%25.db?mode=ro");
    }
}
