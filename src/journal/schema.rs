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
pub(super) const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, sql: VERSION_1 },
    Migration { version: 2, sql: VERSION_2 },
    Migration { version: 3, sql: VERSION_3 },
    Migration { version: 4, sql: VERSION_4 },
];

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

/// What makes the journal prove itself (`batchd doctor` reads it):
///
/// - `made_in`, `started_in`, `written_in` of a run: the transaction that made its row, the one in which it became
///   `starting`, and the last one that wrote it. What is decided together is committed together, so these say what led to
///   what, whatever the host's clock did. None in rows from before, and in those of a rebuilt journal.
/// - `period`: what was in force for a batch, from which transaction to which, and which occurrences it has decided.
/// - `limit_change`: the limits in force, from which transaction on.
/// - the triggers: a row that has ended never changes, none is born again, and none goes.
const VERSION_2: &str = "
INSERT INTO meta VALUES ('opening', 0);

ALTER TABLE run ADD COLUMN made_in INTEGER;
ALTER TABLE run ADD COLUMN started_in INTEGER;
ALTER TABLE run ADD COLUMN written_in INTEGER;

CREATE TABLE period (
    seq INTEGER PRIMARY KEY,
    batch TEXT NOT NULL,
    since INTEGER NOT NULL,
    until INTEGER,
    began_in INTEGER NOT NULL,
    ended_in INTEGER,
    decides_after INTEGER,
    decided_until INTEGER,
    zone TEXT,
    zone_fingerprint TEXT,
    held INTEGER NOT NULL,
    json TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX period_open ON period (batch) WHERE ended_in IS NULL;

CREATE TABLE limit_change (
    seq INTEGER PRIMARY KEY,
    began_in INTEGER NOT NULL,
    json TEXT NOT NULL
) STRICT;

CREATE TRIGGER run_ended_stays BEFORE UPDATE ON run WHEN old.state = 'ended'
BEGIN SELECT raise(ABORT, 'a run that has ended never changes'); END;
CREATE TRIGGER run_born_stays BEFORE UPDATE OF batch, number, chain, trigger, attempt, due_at, queued_at ON run
WHEN (old.batch, old.number, old.chain, old.trigger, old.attempt, old.due_at, old.queued_at)
  <> (new.batch, new.number, new.chain, new.trigger, new.attempt, new.due_at, new.queued_at)
BEGIN SELECT raise(ABORT, 'no run changes what it was born with'); END;
CREATE TRIGGER run_row_stays BEFORE DELETE ON run
BEGIN SELECT raise(ABORT, 'the row of a run stays'); END;
";

/// A boot of the host is due at no whole second, and is decided once by `reboot_boot`: what it shares with other rows of its
/// batch, on a host whose clock begins at the same instant with each boot, is no second decision.
const VERSION_3: &str = "
DROP INDEX run_occurrence;
CREATE UNIQUE INDEX run_occurrence ON run (batch, due_at)
WHERE trigger = 'schedule' AND attempt = 1 AND due_at % 1000 = 0;
";

/// Who started a run by hand, and the remarks of its shim.
const VERSION_4: &str = "
ALTER TABLE run ADD COLUMN started_by TEXT;
ALTER TABLE run ADD COLUMN remarks TEXT;

DROP VIEW runs;
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
    boot, caught_up, priority, pool, started_by, remark, coalesce(remarks, '[]') AS remarks, stop_by, stop_reason,
    strftime('%Y-%m-%dT%H:%M:%fZ', stop_at / 1000.0, 'unixepoch') AS stop_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', range_from / 1000.0, 'unixepoch') AS range_from,
    range_count, range_at_least,
    due_at AS due_at_ms,
    queued_at AS queued_at_ms
FROM run;
";

/// The triggers of [`VERSION_2`]: a hand that wants to change history has to drop one of them.
pub(super) const TRIGGERS: &[&str] = &["run_born_stays", "run_ended_stays", "run_row_stays"];

/// The indexes that are rules, and not only fast.
pub(super) const RULES: &[&str] = &["period_open", "run_occurrence"];
