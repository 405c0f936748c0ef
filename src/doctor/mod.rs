//! What has to hold of a journal, its run folders and its state: facts go in, [`Violation`]s come out.
//!
//! Pure, and bounded: whoever gathers the facts hands over one row, one chain, one folder after the other, and nothing here
//! keeps more than what is under way at one time. Each invariant has one function and one short name, which stays:
//! [`INVARIANTS`] lists them. A check reports what is proven to be wrong; where the journal records too little it is silent.

pub mod chains;
pub mod folders;
pub mod limits;
pub mod occurrences;
pub mod periods;
pub mod rows;
pub mod scan;
pub mod state;

use std::sync::Arc;

use serde::Serialize;

use crate::model::definition::Definition;
use crate::model::id::{BatchName, RunId};
use crate::model::record::ZoneMark;
use crate::model::run::Run;
use crate::model::time::Instant;

/// The names of all invariants, each with what it says, in the order in which they are checked.
pub const INVARIANTS: &[(&str, &str)] = &[
    ("journal-sound", "SQLite's own checks pass, and the tables have the version of this batchd"),
    ("journal-guarded", "the indexes and triggers that protect the history exist"),
    ("period-open", "each definition in force has exactly one open period, with the same definition"),
    ("number-not-reused", "the next number of a batch is greater than all numbers of its runs"),
    ("number-gap", "each number that was used has a row"),
    ("cursor-behind", "no occurrence later than its batch's cursor has a row, unless the clock was corrected"),
    ("row-whole", "a row has all values that its state requires"),
    ("reason-given", "each run that did not succeed has a reason"),
    ("lost-without-code", "a lost run has no exit code, because its end is unknown"),
    ("decided-before-due", "no occurrence is decided, and no run started, before it is due"),
    ("never-started", "no script ran for an aborted, skipped or missed run"),
    ("occurrence-missing", "each occurrence has a row"),
    ("occurrence-extra", "each row with trigger `schedule` belongs to an occurrence"),
    ("occurrence-twice", "no instant has two rows"),
    ("occurrence-count", "a row for many occurrences has the right count"),
    ("chain-head", "each chain has the run that gives it its name"),
    ("attempts", "attempts are numbered from 1, and each was created by the end of the previous one"),
    ("upstream-exists", "the upstream runs of a run exist, and had ended"),
    ("downstream-missing", "each end has rows for the downstreams that were in force"),
    ("error-branch-missing", "each failure has rows for the `on_error` targets that were in force"),
    ("edge-cursor", "a join across chains uses no end twice"),
    ("max-running", "there were never more runs at once than `max_running`"),
    ("pool-limit", "there were never more runs of a pool at once than its limit"),
    ("overlap", "two runs of a batch never overlapped, unless `overlap` allows it"),
    ("folder-unknown", "each folder in `runs` belongs to a run that was started"),
    ("run-record", "run.json agrees with the row"),
    ("exit-record", "exit.json agrees with the row"),
    ("log-size", "the logs have the lengths that were recorded"),
    ("token", "the files in a run folder have the run's token"),
    ("started-twice", "the script of a run was started at most once"),
    ("leftover", "the folder of an ended run has no files that only a live run needs"),
    ("stray-file", "`runs` and `state` have only batchd's own files"),
    ("definition-missing", "each definition that a row or the graph refers to is stored"),
    ("definition-damaged", "the content of each stored definition matches its name"),
    ("state-mode", "owners and modes in the state folder are correct"),
];

/// Something that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The invariant's name, one of [`INVARIANTS`].
    pub invariant: &'static str,
    /// The run that it is about.
    pub run: Option<RunId>,
    /// The rows that show it: the ids of runs, or the table and key of others.
    pub rows: Vec<String>,
    /// The files that show it.
    pub files: Vec<String>,
    /// What is wrong: one sentence.
    pub what: String,
    /// What to do.
    pub hint: String,
}

impl Violation {
    /// A violation without a place.
    pub fn new(invariant: &'static str, what: impl Into<String>, hint: impl Into<String>) -> Self {
        let (what, hint) = (what.into(), hint.into());
        Self { invariant, run: None, rows: Vec::new(), files: Vec::new(), what, hint }
    }

    /// About this run, and shown by its row.
    #[must_use]
    pub fn of(mut self, run: &RunId) -> Self {
        self.run = Some(run.clone());
        self.rows.push(run.to_string());
        self
    }

    /// Shown by this row, too.
    #[must_use]
    pub fn row(mut self, row: impl Into<String>) -> Self {
        self.rows.push(row.into());
        self
    }

    /// Shown by this file.
    #[must_use]
    pub fn file(mut self, file: impl Into<String>) -> Self {
        self.files.push(file.into());
        self
    }
}

/// The row of a run, with the transactions that made it, started it, and wrote it last.
#[derive(Clone, Debug)]
pub struct Row {
    /// The run.
    pub run: Run,
    /// None before journals recorded it, and in one that was rebuilt.
    pub made_in: Option<u64>,
    /// None if it never became `starting`.
    pub started_in: Option<u64>,
    /// As `made_in`.
    pub written_in: Option<u64>,
}

/// What was in force for a batch.
#[derive(Clone, Debug)]
pub struct Period {
    /// The batch.
    pub batch: BatchName,
    /// The transaction in which it began.
    pub began_in: u64,
    /// The one in which it ended.
    pub ended_in: Option<u64>,
    /// What is later than this was decided by its schedule.
    pub decides_after: Option<Instant>,
    /// Up to here; none while it has not ended.
    pub decided_until: Option<Instant>,
    /// The zone of its schedule.
    pub zone: Option<ZoneMark>,
    /// It started nothing.
    pub held: bool,
    /// The definition.
    pub definition: Arc<Definition>,
}

/// What to do where only a copy of what was helps.
const RESTORE: &str = "restore the journal from a backup, or find out who changed it; the past can't be repaired";
