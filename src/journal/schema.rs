//! The tables, the indexes and the views of the journal, version by version: [`MIGRATIONS`].
//!
//! Tables are named in the singular and belong to batchd. Views are named in the plural and belong to people: what they
//! are called and which columns they have stays as `docs/journal.md` says. A table holds an instant as milliseconds since
//! 1970, a view shows it in RFC 3339, UTC.

/// Says in the file's header that it is a journal of batchd: the letters `batJ`.
pub(super) const APPLICATION_ID: i32 = 0x6261_744a;

/// What makes a journal of one version out of one of the version before.
pub(super) struct Migration {
    /// The version that it leads to: `user_version` in the file's header.
    pub(super) version: u32,
    /// What is done, in one transaction.
    pub(super) sql: &'static str,
}

/// All migrations in their order; the first makes a journal out of an empty file. One that was released never changes.
pub(super) const MIGRATIONS: &[Migration] = &[Migration { version: 1, sql: VERSION_1 }];

/// The version that this batchd writes.
pub(super) const VERSION: u32 = MIGRATIONS[MIGRATIONS.len() - 1].version;

/// Why each index is there:
///
/// - `run_occurrence`: the design's invariant 5, each occurrence is decided once; and what was decided ahead of a cursor
/// - `run_chain`: all runs of a chain
/// - `run_live`: what a daemon takes up again when it starts, without a look at the past
/// - `run_queued`, `run_batch_queued`: newest first, between two instants, of all batches or of one
/// - `run_unsuccessful`, `run_unusual`: rare outcomes and rare triggers among many ordinary runs
const VERSION_1: &str = "
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value ANY NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE batch (
    name TEXT PRIMARY KEY,
    next_number INTEGER NOT NULL,
    cursor INTEGER,
    reboot_boot TEXT,
    disabled_at INTEGER,
    disabled_until INTEGER,
    disabled_reason TEXT,
    disabled_by TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE definition (
    batch TEXT PRIMARY KEY,
    held INTEGER NOT NULL,
    json TEXT NOT NULL
) STRICT;

CREATE TABLE edge (
    downstream TEXT NOT NULL,
    upstream TEXT NOT NULL,
    cursor INTEGER NOT NULL,
    unused_number INTEGER,
    unused_succeeded INTEGER,
    unused_due_at INTEGER,
    PRIMARY KEY (downstream, upstream)
) STRICT, WITHOUT ROWID;

CREATE TABLE event (
    seq INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    text TEXT NOT NULL
) STRICT;
CREATE INDEX event_at ON event (at);

CREATE TABLE run (
    seq INTEGER PRIMARY KEY,
    batch TEXT NOT NULL,
    number INTEGER NOT NULL,
    chain TEXT NOT NULL,
    trigger TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    due_at INTEGER NOT NULL,
    queued_at INTEGER NOT NULL,
    pass INTEGER NOT NULL,
    follow TEXT NOT NULL,
    previous TEXT,
    state TEXT NOT NULL,
    outcome TEXT,
    reason TEXT,
    ended_at INTEGER,
    exit_code INTEGER,
    signal INTEGER,
    stdout_bytes INTEGER,
    stdout_dropped_bytes INTEGER,
    stderr_bytes INTEGER,
    stderr_dropped_bytes INTEGER,
    cpu_user_ms INTEGER,
    cpu_system_ms INTEGER,
    memory_bytes_max INTEGER,
    left_running INTEGER,
    start_at INTEGER,
    joining INTEGER NOT NULL,
    starting_at INTEGER,
    started_at INTEGER,
    queue_position INTEGER NOT NULL,
    caught_up INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    pool TEXT,
    upstreams TEXT,
    definition BLOB,
    boot TEXT,
    remark TEXT,
    stop_by TEXT,
    stop_reason TEXT,
    stop_at INTEGER,
    given TEXT,
    range_from INTEGER,
    range_count INTEGER,
    range_at_least INTEGER,
    UNIQUE (batch, number)
) STRICT;
CREATE UNIQUE INDEX run_occurrence ON run (batch, due_at) WHERE trigger = 'schedule' AND attempt = 1;
CREATE INDEX run_chain ON run (chain);
CREATE INDEX run_live ON run (chain) WHERE state <> 'ended';
CREATE INDEX run_queued ON run (queued_at);
CREATE INDEX run_batch_queued ON run (batch, queued_at);
CREATE INDEX run_unsuccessful ON run (outcome, queued_at) WHERE outcome <> 'succeeded';
CREATE INDEX run_unusual ON run (trigger, queued_at) WHERE trigger NOT IN ('schedule', 'upstream');

CREATE VIEW runs AS SELECT
    batch || '.' || number AS id,
    batch, number, chain, pass, trigger, attempt, previous, state, outcome, reason,
    strftime('%Y-%m-%dT%H:%M:%fZ', due_at / 1000.0, 'unixepoch') AS due_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', queued_at / 1000.0, 'unixepoch') AS queued_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', start_at / 1000.0, 'unixepoch') AS start_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', starting_at / 1000.0, 'unixepoch') AS starting_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', started_at / 1000.0, 'unixepoch') AS started_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', ended_at / 1000.0, 'unixepoch') AS ended_at,
    ended_at - started_at AS duration_ms,
    started_at - due_at AS late_ms,
    exit_code, signal, stdout_bytes, stdout_dropped_bytes, stderr_bytes, stderr_dropped_bytes,
    cpu_user_ms, cpu_system_ms, memory_bytes_max, left_running,
    coalesce(upstreams, '[]') AS upstreams,
    lower(hex(definition)) AS definition,
    boot, caught_up, priority, pool, remark, stop_by, stop_reason,
    strftime('%Y-%m-%dT%H:%M:%fZ', stop_at / 1000.0, 'unixepoch') AS stop_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', range_from / 1000.0, 'unixepoch') AS range_from,
    range_count, range_at_least,
    due_at AS due_at_ms,
    queued_at AS queued_at_ms
FROM run;

CREATE VIEW batches AS SELECT
    name AS batch,
    next_number,
    strftime('%Y-%m-%dT%H:%M:%fZ', cursor / 1000.0, 'unixepoch') AS decided_until,
    definition.batch IS NOT NULL AS in_force,
    coalesce(definition.held, 0) AS held,
    definition.json ->> '$.hash' AS definition,
    strftime('%Y-%m-%dT%H:%M:%fZ', disabled_at / 1000.0, 'unixepoch') AS disabled_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', disabled_until / 1000.0, 'unixepoch') AS disabled_until,
    disabled_reason, disabled_by
FROM batch LEFT JOIN definition ON definition.batch = batch.name;

CREATE VIEW definitions AS SELECT batch, held, json FROM definition;

CREATE VIEW edges AS SELECT
    downstream, upstream, cursor, unused_number, unused_succeeded,
    strftime('%Y-%m-%dT%H:%M:%fZ', unused_due_at / 1000.0, 'unixepoch') AS unused_due_at
FROM edge;

CREATE VIEW events AS SELECT
    strftime('%Y-%m-%dT%H:%M:%fZ', at / 1000.0, 'unixepoch') AS at,
    text,
    at AS at_ms
FROM event;
";
