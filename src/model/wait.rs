//! What keeps a run from beginning, or from ending: [`WaitsFor`].

use serde::{Deserialize, Serialize};

use super::id::{BatchName, RunId};
use super::time::Instant;

/// What a run waits for. Of several things the first that keeps it from starting is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "what")]
pub enum WaitsFor {
    /// Its time: a jitter's offset, or a retry's delay.
    Time {
        /// Until then.
        until: Instant,
    },
    /// A join: the ends of upstreams in its chain.
    Upstreams {
        /// Those that have not ended, in the order of `after`.
        batches: Vec<BatchName>,
        /// What still goes on of the chain before it.
        runs: Vec<RunId>,
    },
    /// Its batch is busy.
    Batch {
        /// With this run.
        run: RunId,
    },
    /// Its batch is held: its definition does not fit the others.
    Held,
    /// Its batch is no longer in force.
    Removed,
    /// Its pool is full.
    Pool {
        /// The pool.
        pool: String,
        /// Who has its slots.
        #[serde(flatten)]
        slots: Slots,
    },
    /// As many runs that are caught up are under way as may be at once.
    CatchUp(Slots),
    /// `max_running` is reached.
    MaxRunning(Slots),
    /// Its start was tried, and is tried again.
    Start {
        /// Why it could not be started yet.
        reason: String,
    },
    /// Its script has begun, and it, or its end, waits for something on its host.
    End {
        /// Who waits for what, as a sentence.
        reason: String,
    },
    /// Nothing but a daemon that starts it.
    Daemon,
}

/// Slots of which none is free.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots {
    /// How many there are.
    pub limit: u32,
    /// Who has them, by batch and number.
    pub runs: Vec<RunId>,
    /// How many runs that wait for them go before it, by their priority or because they came before it.
    pub ahead: u64,
}
