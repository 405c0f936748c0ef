//! The daemon's socket: HTTP and JSON, both ends.
//!
//! [`server`] turns requests into [`Act`]s for the daemon's loop and waits for its answers; [`client`] is what the command
//! line uses. Neither knows what an act does. Who may knock is decided by the folder of the socket ([`socket`]); who does is
//! told by the kernel. All paths begin with the version of the protocol:
//!
//! | request | answer |
//! |---|---|
//! | `POST /v1/acts` with a [`Request`] | a [`Reply`]; what is refused is a [`Problem`] |
//! | `POST /v1/inputs` with the bytes of an input | a [`StoredInput`], for a `start` that follows on the same connection |
//! | `POST /v1/reload` | [`Reloaded`], once what is on the disk now is decided |
//! | `GET /v1/runs/{id}/end` | the [`RunView`] of its last attempt once that has ended; 204 if that takes longer than [`WAIT_MAX`] |

pub mod client;
pub mod inputs;
pub mod server;
pub mod socket;
mod view;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

#[cfg(test)]
pub(crate) use self::view::tests as view_tests;
pub use self::view::{GivenView, RunView};
use crate::model::diagnostic::Diagnostic;
use crate::model::id::RunId;
use crate::model::input::InputId;
use crate::model::request::{Refusal, Reply, Request};
use crate::model::run::Run;

/// How long one request for a run's end is kept waiting before it is answered with 204 and asked again: each answer is
/// proof that both ends are still there.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// A request on its way to the daemon's loop, and where the answer goes.
#[derive(Debug)]
pub enum Act {
    /// Decide this.
    Operate {
        /// What is asked for.
        request: Request,
        /// By whom: `uid 1000`.
        by: String,
        /// Takes the answer. Dropped without one: the daemon is ending.
        reply: oneshot::Sender<Reply>,
    },
    /// Somebody wants to send an input.
    AdmitInput {
        /// Its name.
        input: InputId,
        /// Takes the answer: whether there is room for it.
        reply: oneshot::Sender<bool>,
    },
    /// No start follows any more to an input that was admitted.
    GiveUpInput {
        /// Its name.
        input: InputId,
    },
    /// Remove the stored inputs that nobody needs any more.
    TidyInputs,
    /// Decide what is on the disk now.
    Reload {
        /// By whom.
        by: String,
        /// Takes the answer, when all is decided.
        reply: oneshot::Sender<Reloaded>,
    },
}

/// What the handlers need of the daemon.
#[derive(Clone)]
pub struct ApiHandle {
    /// Into the loop.
    pub acts: mpsc::Sender<Act>,
    /// Changed after every commit to the journal; the value means nothing.
    pub changes: watch::Receiver<u64>,
    /// The journal as others see it.
    pub runs: Arc<dyn Runs>,
    /// The state folder, for inputs that are sent.
    pub state: PathBuf,
}

/// Where runs are read: the journal.
pub trait Runs: Send + Sync {
    /// The last attempt so far that began with this run: itself, or the retry behind it, or the one behind that.
    fn last_attempt(&self, id: &RunId) -> anyhow::Result<Option<Run>>;
}

/// The answer to an input that was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredInput {
    /// Names it in a `start`.
    pub input: InputId,
}

/// The answer to a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// All that is wrong with what is on the disk now.
    pub diagnostics: Vec<Diagnostic>,
}

/// Every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What went wrong and what to do about it.
    pub error: ProblemText,
}

/// What is wrong, in words and, for a refusal, as a word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemText {
    /// What is wrong: one sentence.
    pub what: String,
    /// What to do.
    pub hint: Option<String>,
    /// What kind of refusal, if the daemon refused an act.
    #[serde(default)]
    pub refusal: Option<Refusal>,
}

impl Problem {
    /// A problem that is no refusal.
    fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { error: ProblemText { what: what.into(), hint: Some(hint.into()), refusal: None } }
    }
}
