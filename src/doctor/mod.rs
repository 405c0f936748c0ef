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
    ("journal-sound", "SQLite's own checks find nothing, and the tables are of the version of this batchd"),
    ("journal-guarded", "the indexes and triggers that keep history as it is are there"),
    ("period-open", "each definition in force has one period that has not ended, and it says the same"),
    ("number-not-reused", "the next number of a batch is greater than all that were given"),
    ("number-gap", "each number that was given has its row"),
    ("cursor-behind", "no occurrence later than its batch's cursor has a row, unless the clock was corrected"),
    ("row-whole", "a row has what its state says it has"),
    ("reason-given", "each run that did not succeed says why"),
    ("lost-without-code", "a lost run has no exit code: nobody knows how it ended"),
    ("decided-before-due", "no occurrence is decided, and no run started, before it is due"),
    ("never-started", "a run that was aborted, skipped or missed has run no script"),
    ("occurrence-missing", "each instant that fell due has its row"),
    ("occurrence-extra", "each row of trigger `schedule` stands for an instant that fell due"),
    ("occurrence-twice", "no instant has two rows"),
    ("occurrence-count", "a row for many occurrences counts them right"),
    ("chain-head", "a chain is named by a run that exists"),
    ("attempts", "attempts count 1 to n, each made when the one before had ended, and by its end"),
    ("upstream-exists", "the runs that led to a run exist, and had ended"),
    ("downstream-missing", "an end whose downstreams were in force has their rows"),
    ("error-branch-missing", "a failure whose `on_error` was in force has its targets' rows"),
    ("edge-cursor", "a join across chains uses no end twice"),
    ("max-running", "never more runs at once than `max_running`"),
    ("pool-limit", "never more runs of a pool at once than its limit"),
    ("overlap", "no two runs of a batch at once, unless its overlap allows it"),
    ("folder-unknown", "each folder in `runs` is that of a run that was started"),
    ("run-record", "run.json says what the row says"),
    ("exit-record", "exit.json says what the row says"),
    ("log-size", "the logs have the lengths that were recorded"),
    ("token", "what lies in a run folder carries the run's token"),
    ("started-twice", "the script of a run was let go once at most"),
    ("leftover", "in the folder of a run that is over lies nothing that only a living run needs"),
    ("stray-file", "nothing lies in `runs` or `state` that batchd did not put there"),
    ("definition-missing", "each definition that a row or the graph names is stored"),
    ("definition-damaged", "each stored definition has the content that its name says"),
    ("state-mode", "owners and modes in the state folder are as they have to be"),
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
