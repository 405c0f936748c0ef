//! What an operator can ask of a daemon, and what it answers: [`Request`] and [`Reply`]. The command line, the socket and
//! the page all speak these.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::id::{BatchName, RunId};
use super::record::Disabled;
use super::run::{Follow, Given};
use super::text::LINE_CHARACTERS_MAX;
use super::time::Instant;

/// An act that an operator asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "act")]
pub enum Request {
    /// Begin a new chain with this batch.
    Start {
        /// The batch.
        batch: BatchName,
        /// What may follow.
        follow: Follow,
        /// Its arguments, variables, input.
        #[serde(default)]
        given: Given,
        /// If the batch is busy, wait for it.
        #[serde(default)]
        queue: bool,
        /// Even if the batch is disabled.
        #[serde(default)]
        force: bool,
    },
    /// End a run.
    Stop {
        /// The run.
        run: RunId,
        /// Why.
        reason: Option<String>,
    },
    /// End every run that has not ended.
    StopAll {
        /// Why.
        reason: Option<String>,
    },
    /// Run a batch again in the chain of `run`, with the inputs of `run`.
    Rerun {
        /// The run to repeat.
        run: RunId,
        /// What is decided again after it.
        mode: RerunMode,
        /// Even if the batch is disabled.
        #[serde(default)]
        force: bool,
    },
    /// Take back a `disable`.
    Enable {
        /// The batch.
        batch: BatchName,
    },
    /// Let nothing start a batch.
    Disable {
        /// The batch.
        batch: BatchName,
        /// For how long.
        until: Option<Instant>,
        /// Why.
        reason: Option<String>,
    },
}

impl Request {
    /// What is wrong with the reason that is given, if it is too long.
    pub fn reason_too_long(&self) -> Option<String> {
        let reason = match self {
            Self::Stop { reason, .. } | Self::StopAll { reason } | Self::Disable { reason, .. } => reason.as_ref()?,
            Self::Start { .. } | Self::Rerun { .. } | Self::Enable { .. } => return None,
        };
        let characters = reason.chars().count();
        (characters > LINE_CHARACTERS_MAX)
            .then(|| format!("the reason has {characters} characters, more than the {LINE_CHARACTERS_MAX} allowed"))
    }
}

/// As the command line has it, for a log: without arguments and variables, which may be secrets.
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start { batch, .. } => write!(f, "start {batch}"),
            Self::Stop { run, .. } => write!(f, "stop {run}"),
            Self::StopAll { .. } => write!(f, "stop all"),
            Self::Rerun { run, .. } => write!(f, "rerun {run}"),
            Self::Enable { batch } => write!(f, "enable {batch}"),
            Self::Disable { batch, until: None, .. } => write!(f, "disable {batch}"),
            Self::Disable { batch, until: Some(until), .. } => write!(f, "disable {batch} until {until}"),
        }
    }
}

/// What a rerun decides again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RerunMode {
    /// What follows the batch and has not succeeded in this chain.
    Unsucceeded,
    /// Nothing.
    Only,
    /// Everything after it, also what had succeeded, and joins across chains.
    Downstream,
    /// The run is marked as succeeded without running the script; then as [`RerunMode::Unsucceeded`].
    #[serde(alias = "only_downstream")]
    MarkSucceeded,
}

/// What a daemon answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reply")]
pub enum Reply {
    /// A run was made.
    Queued {
        /// It.
        run: RunId,
        /// It waits because its batch is busy.
        waits: bool,
        /// What comes after it.
        #[serde(flatten)]
        prospects: Prospects,
    },
    /// A run was made, and skipped at once: too many of its batch wait already.
    Skipped {
        /// It.
        run: RunId,
        /// Why.
        reason: String,
    },
    /// These runs were asked to end, or have been taken out of the queue.
    Stopping {
        /// They.
        runs: Vec<RunId>,
    },
    /// A batch is disabled from now on.
    Disabled {
        /// It.
        batch: BatchName,
        /// Until when, why, by whom.
        disabled: Box<Disabled>,
        /// The `disable` that was in force until now, and that this one replaces.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replaces: Option<Box<Disabled>>,
        /// Its runs that have not ended: nothing of this touches them.
        goes_on: Vec<RunId>,
    },
    /// An operator's `disable` of a batch is taken back, if there was one.
    Enabled {
        /// It.
        batch: BatchName,
        /// Whether its `batch.toml` lets it be enabled.
        enabled: bool,
        /// The `disable` that held, or had held, until now.
        was_disabled: Option<Disabled>,
    },
    /// It was not done.
    Refused {
        /// What kind of refusal: programs branch on it.
        refusal: Refusal,
        /// What is wrong: one sentence.
        what: String,
        /// What to do.
        hint: Option<String>,
    },
}

/// What comes after a run that was made, if all succeeds: each in the order in which it can start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Prospects {
    /// What will follow.
    pub follows: Vec<BatchName>,
    /// What will follow once each of these batches, which are in other chains, has ended anew, too.
    pub follows_once: Vec<(BatchName, Vec<BatchName>)>,
    /// What comes after it in the graph but will not run, with the reason.
    pub does_not_follow: Vec<(BatchName, String)>,
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// There is no such batch or run.
    Unknown,
    /// The batch is busy.
    Busy,
    /// The batch is disabled.
    Disabled,
    /// The batch has a definition that does not fit the graph.
    Held,
    /// The run has ended already, or has not ended yet.
    State,
    /// The request itself does not make sense, such as an input that is missing.
    Invalid,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Programs that were written for earlier versions say `only_downstream`.
    #[test]
    fn the_old_name_of_a_mode_is_understood() {
        for name in ["mark_succeeded", "only_downstream"] {
            assert_eq!(serde_json::from_str::<RerunMode>(&format!("\"{name}\"")).unwrap(), RerunMode::MarkSucceeded);
        }
        assert_eq!(serde_json::to_string(&RerunMode::MarkSucceeded).unwrap(), "\"mark_succeeded\"");
    }
}
