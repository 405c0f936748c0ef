//! How a run, and each value in it, stands in a row: the columns, in one order, for writing and for reading.
//!
//! Knows no connection and no query.

use std::fmt::Display;
use std::str::FromStr;
use std::sync::LazyLock;

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Result, Row, Statement, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::model::id::{BatchName, DefinitionHash, RunId};
use crate::model::run::{End, Exit, Follow, Outcome, Range, Run, State, StateWord, StopRequest, Trigger};
use crate::model::time::Instant;

/// What a run is born with, and keeps: its key and the columns that most indexes are made of.
const BORN: &[&str] = &["batch", "number", "chain", "trigger", "attempt", "due_at", "queued_at"];

/// What changes while a run goes on.
const CHANGES: &[&str] = &[
    "pass",
    "follow",
    "previous",
    "state",
    "outcome",
    "reason",
    "ended_at",
    "exit_code",
    "signal",
    "stdout_bytes",
    "stdout_dropped_bytes",
    "stderr_bytes",
    "stderr_dropped_bytes",
    "cpu_user_ms",
    "cpu_system_ms",
    "memory_bytes_max",
    "left_running",
    "remarks",
    "start_at",
    "joining",
    "starting_at",
    "started_at",
    "queue_position",
    "caught_up",
    "priority",
    "pool",
    "upstreams",
    "definition",
    "boot",
    "started_by",
    "remark",
    "stop_by",
    "stop_reason",
    "stop_at",
    "given",
    "range_from",
    "range_count",
    "range_at_least",
];

/// All columns, as a statement lists them; [`run_from_row`] reads them in this order, from the first on.
pub(super) static COLUMNS: LazyLock<String> = LazyLock::new(|| [BORN, CHANGES].concat().join(", "));

/// The transactions that made, started and last wrote a row: see the schema. They stand behind [`COLUMNS`].
const WRITTEN: &[&str] = &["made_in", "started_in", "written_in"];

/// Puts a run in, or in the place of what was there.
///
/// It changes no row if the one that is there has ended, or is another run's: then what the run was born with differs.
/// What a run is born with is not written again, so the indexes over it are left alone.
pub(super) static UPSERT: LazyLock<String> = LazyLock::new(|| {
    let list = |of: &[&str], one: fn(&&str) -> String, between| of.iter().map(one).collect::<Vec<_>>().join(between);
    format!(
        "INSERT INTO run ({}, {}) VALUES ({}) ON CONFLICT (batch, number) DO UPDATE SET {}, \
            started_in = coalesce(run.started_in, excluded.started_in), written_in = excluded.written_in \
            WHERE run.state <> 'ended' AND {}",
        *COLUMNS,
        WRITTEN.join(", "),
        vec!["?"; BORN.len() + CHANGES.len() + WRITTEN.len()].join(", "),
        list(CHANGES, |column| format!("{column} = excluded.{column}"), ", "),
        list(BORN, |column| format!("run.{column} = excluded.{column}"), " AND "),
    )
});

/// Runs [`UPSERT`] in a transaction of this number; whether a row was put in or changed.
pub(super) fn upsert(statement: &mut Statement<'_>, run: &Run, transaction: Option<u64>) -> Result<bool> {
    let end = run.end();
    let exit = end.and_then(|end| end.exit.as_ref());
    let range = run.range.as_ref();
    let stop = run.stop.as_ref();
    let changed = statement.execute(params![
        run.id.batch,
        run.id.number,
        run.chain,
        run.trigger,
        run.attempt,
        run.due_at,
        run.queued_at,
        run.pass,
        run.follow,
        run.previous,
        run.state.word(),
        end.map(|end| end.outcome),
        end.map(|end| &end.reason),
        end.map(|end| end.at),
        exit.map(|exit| exit.exit_code),
        exit.map(|exit| exit.signal),
        exit.map(|exit| exit.stdout_bytes),
        exit.map(|exit| exit.stdout_dropped_bytes),
        exit.map(|exit| exit.stderr_bytes),
        exit.map(|exit| exit.stderr_dropped_bytes),
        exit.map(|exit| exit.cpu_user_ms),
        exit.map(|exit| exit.cpu_system_ms),
        exit.map(|exit| exit.memory_bytes_max),
        exit.map(|exit| exit.left_running),
        exit.map(|exit| json_unless_default(&exit.remarks)).transpose()?.flatten(),
        run.start_at,
        run.joining,
        run.starting_at,
        run.started_at,
        run.queue_position,
        run.caught_up,
        run.priority,
        run.pool,
        json_unless_default(&run.upstreams)?,
        run.definition,
        run.boot,
        run.started_by,
        run.remark,
        stop.map(|stop| &stop.by),
        stop.map(|stop| &stop.reason),
        stop.map(|stop| stop.at),
        json_unless_default(&run.given)?,
        range.map(|range| range.from),
        range.map(|range| range.count),
        range.map(|range| range.at_least),
        transaction,
        transaction.filter(|_| run.state == State::Starting),
        transaction,
    ])?;
    Ok(changed == 1)
}

/// The run of a row that was selected as [`COLUMNS`].
pub(super) fn run_from_row(row: &Row<'_>) -> Result<Run> {
    let mut next = Next { row, column: 0 };
    Ok(Run {
        id: RunId { batch: next.take()?, number: next.take()? },
        chain: next.take()?,
        trigger: next.take()?,
        attempt: next.take()?,
        due_at: next.take()?,
        queued_at: next.take()?,
        pass: next.take()?,
        follow: next.take()?,
        previous: next.take()?,
        state: state(&mut next)?,
        start_at: next.take()?,
        joining: next.take()?,
        starting_at: next.take()?,
        started_at: next.take()?,
        queue_position: next.take()?,
        caught_up: next.take()?,
        priority: next.take()?,
        pool: next.take()?,
        upstreams: next.json()?,
        definition: next.take()?,
        boot: next.take()?,
        started_by: next.take()?,
        remark: next.take()?,
        stop: match (next.take()?, next.take()?, next.take()?) {
            (Some(by), Some(reason), Some(at)) => Some(StopRequest { by, reason, at }),
            _ => None,
        },
        given: next.json()?,
        range: match (next.take()?, next.take()?, next.take()?) {
            (Some(from), Some(count), Some(at_least)) => Some(Range { from, count, at_least }),
            _ => None,
        },
    })
}

/// The columns from `state` to `remarks`.
fn state(next: &mut Next<'_>) -> Result<State> {
    let word = next.take()?;
    let outcome: Option<Outcome> = next.take()?;
    let (reason, ended_at): (_, Option<Instant>) = (next.take()?, next.take()?);
    let (exit_code, signal) = (next.take()?, next.take()?);
    let measured: [Option<u64>; 7] =
        [next.take()?, next.take()?, next.take()?, next.take()?, next.take()?, next.take()?, next.take()?];
    let left_running = next.take()?;
    let remarks = next.json()?;
    let exit = match (measured, left_running) {
        (
            [Some(out), Some(out_dropped), Some(err), Some(err_dropped), Some(user), Some(system), Some(memory)],
            Some(left),
        ) => Some(Exit {
            exit_code,
            signal,
            stdout_bytes: out,
            stdout_dropped_bytes: out_dropped,
            stderr_bytes: err,
            stderr_dropped_bytes: err_dropped,
            cpu_user_ms: user,
            cpu_system_ms: system,
            memory_bytes_max: memory,
            left_running: left,
            remarks,
        }),
        _ => None,
    };
    match (word, outcome, ended_at) {
        (StateWord::Queued, _, _) => Ok(State::Queued),
        (StateWord::Starting, _, _) => Ok(State::Starting),
        (StateWord::Running, _, _) => Ok(State::Running),
        (StateWord::Ended, Some(outcome), Some(at)) => Ok(State::Ended(End { outcome, reason, at, exit })),
        (StateWord::Ended, _, _) => Err(FromSqlError::Other("an ended run without outcome or ended_at".into()).into()),
    }
}

/// Takes one column of a row after the other.
struct Next<'row> {
    row: &'row Row<'row>,
    column: usize,
}

impl Next<'_> {
    fn take<T: FromSql>(&mut self) -> Result<T> {
        self.column += 1;
        self.row.get(self.column - 1)
    }

    /// A value that [`json_unless_default`] wrote.
    fn json<T: DeserializeOwned + Default>(&mut self) -> Result<T> {
        self.take::<Option<String>>()?.map_or_else(|| Ok(T::default()), |text| from_json(&text))
    }
}

/// `value` as JSON; none, and so no byte in the row, if it says nothing.
fn json_unless_default<T: Serialize + Default + PartialEq>(value: &T) -> Result<Option<String>> {
    if *value == T::default() { Ok(None) } else { to_json(value).map(Some) }
}

/// `value` as JSON.
pub(super) fn to_json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

/// The value that [`to_json`] wrote.
pub(super) fn from_json<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| FromSqlError::other(error).into())
}

/// The enums that a column holds as their words.
macro_rules! as_word {
    ($($name:ident),*) => {$(
        impl ToSql for $name {
            fn to_sql(&self) -> Result<ToSqlOutput<'_>> {
                Ok(self.word().into())
            }
        }

        impl FromSql for $name {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                parse(value)
            }
        }
    )*};
}

as_word!(Trigger, Follow, Outcome, StateWord);

fn parse<T: FromStr<Err: Display>>(value: ValueRef<'_>) -> FromSqlResult<T> {
    value.as_str()?.parse().map_err(|error: T::Err| FromSqlError::Other(error.to_string().into()))
}

impl ToSql for BatchName {
    fn to_sql(&self) -> Result<ToSqlOutput<'_>> {
        Ok(self.as_str().into())
    }
}

impl FromSql for BatchName {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        parse(value)
    }
}

impl ToSql for RunId {
    fn to_sql(&self) -> Result<ToSqlOutput<'_>> {
        Ok(self.to_string().into())
    }
}

impl FromSql for RunId {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        parse(value)
    }
}

impl ToSql for Instant {
    fn to_sql(&self) -> Result<ToSqlOutput<'_>> {
        Ok(self.as_ms().into())
    }
}

impl FromSql for Instant {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_i64().map(Self::from_ms)
    }
}

impl ToSql for DefinitionHash {
    fn to_sql(&self) -> Result<ToSqlOutput<'_>> {
        Ok(self.0.as_slice().into())
    }
}

impl FromSql for DefinitionHash {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        <[u8; 32]>::column_result(value).map(Self)
    }
}
