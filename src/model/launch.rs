//! What a place where runs live is told, and what it tells back: [`Launch`] and [`Report`].
//!
//! Neither says "my child" or "my host": the local place is the first of several.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::definition::Definition;
use super::id::{RunId, Token};
use super::run::{Exit, Outcome, Run};
use super::time::Instant;

/// All that it takes to launch a run. Its row is in the journal as `starting`.
#[derive(Clone, Debug)]
pub struct Launch {
    /// What every file of the run carries.
    pub token: Token,
    /// The row.
    pub run: Run,
    /// What it runs: `run.definition` is its hash. None: nobody knows it any more. Such a run can be found, stopped and
    /// collected, for which the place needs the row and the token alone; it can't be begun.
    pub definition: Option<Arc<Definition>>,
    /// `run.due_at` in the batch's zone, RFC 3339: the script's `BATCHD_DUE_AT`.
    pub due_at_local: String,
    /// What the journal records of `run.upstreams`, in the same order.
    pub upstreams: Vec<UpstreamEnd>,
    /// The run whose stdout `run.given.input` asks for, as the journal records it.
    pub given_input: Option<UpstreamEnd>,
    /// How the batch of the first upstream has been doing, if that upstream failed: for an alert.
    pub alert: Option<Alert>,
}

/// How a batch has been doing up to a run of it that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// Its failures since the last success, this one included; attempts of one run count once.
    pub failures_in_a_row: u64,
    /// When it succeeded last, RFC 3339 in the zone of the batch that is told; none: never.
    pub last_success_at: Option<String>,
}

/// What the journal records of an upstream's run that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamEnd {
    /// It.
    pub run: RunId,
    /// The run whose folder has its output: itself, or the one that it counts for (`rerun --mark-succeeded`).
    pub output_of: RunId,
    /// How it ended.
    pub outcome: Outcome,
    /// What was measured: the lengths that its output must have. None if no script of it ended under our eyes.
    pub exit: Option<Exit>,
}

/// What became of a run, as the place where it lives tells it.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// Its script was let go. Of a script that has ended before anybody looked, [`Report::Exited`] alone tells.
    Started {
        /// When.
        at: Instant,
    },
    /// It can't start yet; it is tried again.
    Waiting {
        /// Why, and what to do.
        reason: String,
    },
    /// Its script ran and ended.
    Exited {
        /// When its script was let go.
        started_at: Instant,
        /// When all of it was gone.
        ended_at: Instant,
        /// What was measured.
        exit: Exit,
        /// The exit code is one that means success.
        success: bool,
        /// What made it end.
        cause: ExitCause,
    },
    /// Its script could not be run, and will not be the next time either: no interpreter, no such user.
    CouldNotRun {
        /// When.
        at: Instant,
        /// Why, and what to do.
        reason: String,
    },
    /// Its input was not what the journal says of it; its script was not run.
    InputIncomplete {
        /// When.
        at: Instant,
        /// Which input, and what is wrong with it.
        reason: String,
    },
    /// Nobody can say how it ended. Nothing of it is alive.
    Lost {
        /// When that was found.
        at: Instant,
        /// Why.
        reason: String,
    },
    /// A folder with its id holds a run of another journal: it has to take the next free number.
    FolderTaken,
    /// It was stopped before anything of it had begun, and will not begin.
    StoppedBeforeStart {
        /// When.
        at: Instant,
    },
}

impl Report {
    /// Whether nothing more is to be told of the run.
    pub fn is_end(&self) -> bool {
        match self {
            Self::Started { .. } | Self::Waiting { .. } => false,
            Self::Exited { .. }
            | Self::CouldNotRun { .. }
            | Self::InputIncomplete { .. }
            | Self::Lost { .. }
            | Self::FolderTaken
            | Self::StoppedBeforeStart { .. } => true,
        }
    }
}

/// What made a script end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitCause {
    /// Itself, or somebody who is not batchd.
    Itself,
    /// Its `timeout`.
    Timeout,
    /// The shim was asked to stop it: by batchd, or by the host's shutdown.
    Stop,
}
